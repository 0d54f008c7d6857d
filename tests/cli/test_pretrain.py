"""Pre-training through the command line, on tiny images: pretrain, resume, fine-tune, probe; and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import rsseg_tf
from rsseg_tf.cli import main
from rsseg_tf.config import load_pretrain_config
from rsseg_tf.errors import ConfigError, OldKeyWarning
from rsseg_tf.library.samples import checked_images
from tests.fixtures.configs import write_config, write_dataset
from tests.fixtures.pretraining import tiny_pretraining, use_tiny_resnet


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_resnet(monkeypatch)
    tiny_pretraining(tmp_path, "moco_v2")
    tiny_pretraining(tmp_path, "simsiam")
    write_config(tmp_path / "tiny.yml", write_dataset(tmp_path / "data"))
    return tmp_path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*arguments: str | Path) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_pretrain_resume_fine_tune_and_probe(project: Path) -> None:
    out = project / "pre"
    common = ("pretrain", "--config", project / "moco_v2.yml", "--save_dir", out)
    output = run(*common, "--iters", "3")
    assert "[TRAIN] epoch: 1, iter: 2/3, loss: " in output and "batch_cost: " in output and "| ETA " in output
    assert "[MONITOR] epoch: 1, spread: " in output and "queue_mean: " in output and "gap: " in output
    assert f"the last checkpoint is {out / 'iter_3'}" in output
    output = run(*common, "--epochs", "2", "--resume_model", out / "iter_3")
    assert "iter: 4/6" in output and "iter: 3/6" not in output
    assert sorted(path.name for path in out.iterdir()) == ["iter_3", "iter_6", "tensorboard"]

    source = out / "iter_6"
    model = "model.backbone={name: resnet18}"
    settings = ("--set", model, f"model.backbone.pretrained={source}")
    output = run(
        *("train", "--config", project / "tiny.yml", *settings, "--iters", "1", "--batch_size", "2"),
        *("--save_dir", project / "fine"),
    )
    assert f"model.backbone: 25 tensors from {source} (checkpoint)" in output

    output = run(
        *("probe", "--config", project / "tiny.yml", "--set", model, "--backbone", source, project / "fine" / "iter_1"),
        *("--patch_size", "10", "--labels", "12", "--seeds", "2", "--json", project / "probe.json"),
    )
    assert "colour statistics" in output and "random, calibrated" in output
    assert "linear" in output and "12 labels" in output and "pre/iter_6" in output and "fine/iter_1" in output
    report = json.loads((project / "probe.json").read_text("utf-8"))
    assert "c5" in output and "c3 to c5" in output
    networks = ("random, calibrated", str(source), str(project / "fine" / "iter_1"))
    assert [(row["features"], row["levels"]) for row in report["rows"]] == [
        ("colour statistics", ""), *((name, levels) for name in networks for levels in ("c5", "c3 to c5")),
    ]  # fmt: skip
    assert all(len(score["accuracy"]) == 2 for row in report["rows"] for score in row["scores"])


def test_the_old_option_counts_images_over_all_devices(project: Path) -> None:
    with pytest.warns(OldKeyWarning, match="--set train.batch_size=64: .* write train.total_batch_size: 64"):
        result = invoke("pretrain", "--config", project / "simsiam.yml", "--batch_size", "64")
    assert result.exit_code == 2 and "train.total_batch_size is 64, but there are 12 images" in result.output


def test_a_collapsed_run_ends_with_an_error_and_keeps_its_weights(project: Path) -> None:
    result = invoke(
        *("pretrain", "--config", project / "simsiam.yml", "--save_dir", project / "out"),
        *("--set", "train.collapse_spread=1.0", "train.stop_after_collapsed=1"),
    )
    assert result.exit_code == 2
    assert "[WARNING] epoch 1 looks collapsed: the spread of the projections is 0." in result.output
    assert "Error: The run collapsed: train.stop_after_collapsed=1 epochs in a row" in result.output
    assert [path.name for path in (project / "out").glob("iter_*")] != []


def spoil(project: Path) -> None:
    (project / "images" / "a" / "03.png").write_bytes(b"no image")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--total_batch_size", "6", "--set", "method.key_bn=ema_stats"),
            "queue_size is 8, which a batch of 6 samples",
        ),
        (("--total_batch_size", "64"), "train.total_batch_size is 64, but there are 12 images"),
        (("--set", "dataset.root=nowhere"), "The folder of images nowhere does not exist"),
        (("--set", "dataset.train_list=train.txt"), "train.txt does not exist"),
        (("--set", "dataset.bands=4"), "12 of 12 images cannot be used. The first: "),
        (("--epochs", "2", "--iters", "3"), "--epochs and --iters both set the length of the run"),
        (("--config", "ssl/upernet_simsiam_imgnet_resnet50_isaid_512x512.yml"), "is a config of `rsseg-tf train`"),
        (("--resume_model", "nothing"), "nothing is not a checkpoint"),
    ],
)
def test_bad_input(project: Path, arguments: tuple[str, ...], message: str) -> None:
    result = invoke("pretrain", "--config", project / "moco_v2.yml", "--save_dir", project / "out", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.output and "Traceback" not in result.output
    assert not list(project.glob("out/*iter_*"))


def test_unreadable_images_are_counted_before_the_first_step(project: Path) -> None:
    spoil(project)
    result = invoke("pretrain", "--config", project / "moco_v2.yml", "--save_dir", project / "out")
    assert result.exit_code == 2
    assert "1 of 12 images cannot be used. The first: " in result.output and "03.png" in result.output


def test_a_prepared_folder_is_read_by_its_list(project: Path) -> None:
    """Its labels are images too."""
    images = project / "images"
    (images / "dataset.json").write_text("{}", "utf-8")
    result = invoke("pretrain", "--config", project / "simsiam.yml", "--save_dir", project / "out")
    assert result.exit_code == 2 and "set dataset.train_list=train.txt" in result.output
    (images / "train.txt").write_text("".join(f"a/{i:02d}.png\n" for i in range(8)), "utf-8")
    config = load_pretrain_config(project / "simsiam.yml", ["dataset.train_list=train.txt"])
    assert [sample.image.name for sample in checked_images(config)] == [f"{i:02d}.png" for i in range(8)]


def test_train_refuses_a_config_of_pretrain(project: Path) -> None:
    result = invoke("train", "--config", project / "moco_v2.yml")
    assert result.exit_code == 2 and "is a config of `rsseg-tf pretrain`" in result.output


def test_config_shows_and_checks_configs_of_pretrain(project: Path) -> None:
    shown = run("config", "show", "ssl/pretrain/swav_resnet50_dota.yml", "--set", "train.epochs=3")
    assert "small_views: 6" in shown and "epochs: 3" in shown
    assert "moco_v2.yml: ok" in run("config", "check", project / "moco_v2.yml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--patch_size", "64"), "Choose a smaller --patch_size"),
        (("--patch_size", "10", "--labels", "5000"), "--labels asks for 5000 labelled patches"),
        (("--patch_size", "10", "--backbone", "nowhere.pth"), "The weights nowhere.pth do not exist"),
    ],
)
def test_bad_input_of_probe(project: Path, arguments: tuple[str, ...], message: str) -> None:
    model = ("--set", "model.backbone={name: resnet18}")
    result = invoke("probe", "--config", project / "tiny.yml", *model, *arguments, "--seeds", "1")
    assert result.exit_code == 2 and message in result.output


def test_probe_as_a_function(project: Path) -> None:
    config, small = project / "tiny.yml", {"model.backbone": {"name": "resnet18"}}
    for wrong, message in (
        ({"patch_size": 4}, "--patch_size must be at least 8; got 4"),
        ({"patch_size": 10, "normalisation": "mine"}, "--normalisation is 'mine'. Allowed: auto, dataset, imagenet"),
        ({"patch_size": 10, "labels": [1]}, "--labels must be at least 2; got 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            rsseg_tf.probe(config, overrides=small, **wrong)
    result = rsseg_tf.probe(config, patch_size=10, labels=[12], seeds=1, overrides=small)
    assert [row.features for row in result.rows] == ["colour statistics", "random, calibrated", "random, calibrated"]
    assert [score.labels for score in result.rows[0].scores] == [12, result.train_patches, result.train_patches]
