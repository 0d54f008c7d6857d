"""`rsseg-tf convert`, and training from converted and released weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import rsseg_tf
from rsseg_tf.build import build_model
from rsseg_tf.checkpoint import read_weights
from rsseg_tf.cli import main
from rsseg_tf.config import load_config
from rsseg_tf.errors import ConfigError
from rsseg_tf.weights import fcn_names, resnet_vd_names
from tests.fixtures.configs import tiny_config, use_tiny_backbone, write_dataset
from tests.fixtures.weight_files import released, write_pdparams


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A config of a few thousand weights, and a released file for it."""
    use_tiny_backbone(monkeypatch)
    config = tiny_config(tmp_path)
    model = build_model(config)
    paths = [variable.path for variable in model.weights]
    names = fcn_names(paths, resnet_vd_names(paths))
    tensors = released(model, names)
    return {
        "config": tmp_path / "tiny.yml",
        "tensors": tensors,
        "names": names,
        "file": write_pdparams(tmp_path / "model.pdparams", tensors),
    }


def test_a_released_model_becomes_a_checkpoint(tiny: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "converted"
    result = run("convert", tiny["file"], "--config", tiny["config"], "-o", out, "--verify")
    assert result.exit_code == 0, result.output
    count = sum(array.size for array in tiny["tensors"].values())
    assert f"source:   {tiny['file']} (paddle)" in result.output
    assert f"model: {len(tiny['tensors'])} tensors, {count} values assigned" in result.output
    assert f"Wrote {out}" in result.output and "verified: the logits differ" in result.output
    assert sorted(path.name for path in out.iterdir()) == ["config.yml", "state.json", "verify.json", "weights.npz"]
    arrays, _ = read_weights(out)
    for name, path in tiny["names"].items():
        expected = tiny["tensors"][name]
        np.testing.assert_array_equal(arrays[path], expected.transpose(2, 3, 1, 0) if expected.ndim == 4 else expected)

    evaluated = run("eval", "--model_path", out)
    assert evaluated.exit_code == 0, evaluated.output
    predicted = run(
        "predict", "--model_path", out, "--image_path", tmp_path / "data" / "val_0.png", "--save_dir", tmp_path / "r"
    )
    assert predicted.exit_code == 0, predicted.output


def test_verify_compares_with_what_was_converted_before(tiny: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "converted"
    arguments = ("--config", tiny["config"], "-o", out)
    assert run("convert", tiny["file"], *arguments).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    same = run("convert", tiny["file"], *arguments, "--verify")
    assert (same.exit_code, "verified" in same.output) == (0, True), same.output
    changed = {**tiny["tensors"], "head.cls.weight": tiny["tensors"]["head.cls.weight"] * 1.1}
    other = run("convert", write_pdparams(tmp_path / "other", changed), *arguments, "--verify")
    assert other.exit_code == 1 and "The logits differ from those in" in other.output
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "verify.json").write_text("{", "utf-8")
    assert run("convert", tiny["file"], *arguments, "--verify").exit_code == 2


def test_the_function_does_what_the_command_does(tiny: dict[str, Any], tmp_path: Path) -> None:
    by_command, lines = tmp_path / "command", list[str]()
    assert run("convert", tiny["file"], "--config", tiny["config"], "-o", by_command).exit_code == 0
    made = rsseg_tf.convert(str(tiny["file"]), tiny["config"], tmp_path / "made", verify=True, notify=lines.append)
    for path in by_command.iterdir():
        assert (made.checkpoint / path.name).read_bytes() == path.read_bytes(), path.name
    assert made.passed and made.difference == 0.0 and lines[-1].startswith("verified: the logits differ")
    assert [report.tensors for report in made.reports] == [len(tiny["tensors"])]
    assert rsseg_tf.load_model(made.checkpoint).kind == "checkpoint"

    changed = {**tiny["tensors"], "head.cls.weight": tiny["tensors"]["head.cls.weight"] * 1.1}
    other = rsseg_tf.convert(write_pdparams(tmp_path / "o", changed), tiny["config"], by_command, verify=True)
    assert not other.passed and other.difference is not None and 0.01 < other.difference < 1
    wrong: tuple[tuple[dict[str, Any], str], ...] = (({}, "exists"), ({"part": "head"}, "config"))
    for options, code in wrong:
        with pytest.raises(ConfigError) as caught:
            rsseg_tf.convert(tiny["file"], tiny["config"], by_command, **options)
        assert caught.value.code == code


def test_a_backbone_becomes_a_start_for_training(tiny: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "backbone"
    inner = {name.removeprefix("backbone."): array for name, array in tiny["tensors"].items() if "backbone." in name}
    file = write_pdparams(tmp_path / "b", {**inner, "fc.weight": np.zeros((2, 2), np.float32)})
    result = run("convert", file, "--config", tiny["config"], "-o", out, "--part", "backbone")
    assert result.exit_code == 0, result.output
    assert "not used: 1 tensors of the file (fc.weight)" in result.output
    trained = run(
        "train", "--config", tiny["config"], "--save_dir", tmp_path / "run", "--iters", 1,
        "--set", f"model.backbone.pretrained={out}", "train.save_interval=1", "lr_schedule.learning_rate=1.0e-12",
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    assert f"model.backbone: {len(inner)} tensors from {out} (checkpoint)" in trained.output
    arrays, _ = read_weights(tmp_path / "run" / "iter_1")
    kernel = inner["conv1_1._conv.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(arrays["stem_conv1/kernel"], kernel, atol=1e-6)


def test_what_is_wrong_is_said_and_nothing_is_written(tiny: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "converted"
    arguments = ("--config", tiny["config"], "-o", out)
    truncated = tmp_path / "truncated"
    truncated.write_bytes(tiny["file"].read_bytes()[:-100])
    hostile = tmp_path / "hostile"
    hostile.write_bytes(b"\x80\x02cos\nsystem\n(X\x04\x00\x00\x00exittR.")
    classes = write_pdparams(
        tmp_path / "classes", {**tiny["tensors"], "head.cls.weight": np.zeros((16, 8, 1, 1), np.float32)}
    )
    for source, message in (
        (truncated, "is damaged or no file of weights"),
        (hostile, "names os.system, which no file of weights needs"),
        (classes, "1 shapes that differ: head.cls.weight (16, 8, 1, 1)"),
        (tmp_path / "nowhere", "nowhere do not exist. Allowed: a file"),
    ):
        result = run("convert", source, *arguments)
        assert result.exit_code == 2, source
        assert message in result.output and "Traceback" not in result.output
        assert not out.exists()
    assert run("convert", tiny["file"], *arguments).exit_code == 0
    again = run("convert", tiny["file"], *arguments)
    assert again.exit_code == 2 and "replace it with --overwrite, or compare: --verify" in again.output
    assert run("convert", tiny["file"], *arguments, "--overwrite").exit_code == 0


def test_training_says_when_weights_cannot_be_had(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSSEG_TF_CACHE", str(tmp_path / "cache"))
    result = run(
        "train", "--config", tiny["config"], "--save_dir", tmp_path / "run", "--offline",
        "--set", "model.backbone.pretrained=https://example.org/resnet50.pdparams",
    )  # fmt: skip
    assert result.exit_code == 2 and "is not in the cache and the network is off" in result.output
    assert not list((tmp_path / "run").glob("iter_*"))


# === C2FNet ===

C2FNET = """\
base: BASE
dataset: {small_classes: [bright]}
model:
  name: c2fnet
  backbone: {name: resnet18_vd, output_stride: 16}
  channels: 8
  window_size: 16
  training_stride: 8
  windows_per_image: 4
  coarse: {name: fcn, backbone: {name: resnet18_vd, output_stride: 16}, channels: 8}
loss: {fine: {name: cross_entropy}}
"""


@pytest.mark.slow
def test_c2fnet_from_coarse_training_to_prediction(tiny: dict[str, Any], tmp_path: Path) -> None:
    coarse, fine = tmp_path / "coarse", tmp_path / "fine"
    base = tmp_path / "base.yml"
    text = tiny["config"].read_text("utf-8")
    base.write_text("".join(line + "\n" for line in text.splitlines() if not line.startswith("model")), "utf-8")
    config = tmp_path / "c2fnet.yml"
    config.write_text(C2FNET.replace("BASE", str(base)), "utf-8")

    without = run("train", "--config", config, "--save_dir", fine)
    assert without.exit_code == 2 and "Name them with --coarse_model" in without.output
    trained = run("train", "--config", tiny["config"], "--save_dir", coarse, "--iters", 3)
    assert trained.exit_code == 0, trained.output
    result = run(
        "train", "--config", config, "--save_dir", fine, "--coarse_model", coarse / "iter_3", "--iters", 3,
        "--do_eval", "--save_interval", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"model.coarse: {len(tiny['tensors'])} tensors from {coarse / 'iter_3'} (checkpoint)" in result.output
    arrays, _ = read_weights(fine / "best_model")
    before, _ = read_weights(coarse / "iter_3")
    assert {name for name in arrays if name.startswith("coarse/")} == {f"coarse/{name}" for name in before}
    assert all(np.array_equal(arrays[f"coarse/{name}"], array) for name, array in before.items())
    assert load_config(fine / "best_model" / "config.yml").model.name == "c2fnet"

    evaluated = run("eval", "--model_path", fine / "best_model", "--aug_eval", "--flip_horizontal", "--is_slide",
                    "--crop_size", 24, 24, "--stride", 16, 16)  # fmt: skip
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads((fine / "best_model" / "eval.json").read_text("utf-8"))["macro"]["miou"] > 0
    odd = write_dataset(tmp_path / "odd", size=37) / "val_0.png"
    predicted = run("predict", "--model_path", fine / "best_model", "--image_path", odd, "--save_dir", tmp_path / "r")
    assert predicted.exit_code == 0, predicted.output
    resumed = run("train", "--config", config, "--save_dir", fine, "--resume_model", fine / "iter_3", "--iters", 4)
    assert resumed.exit_code == 0, resumed.output
