"""Each kind of bad input ends with one clear line, exit code 2, and nothing half-written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from rsseg_tf.cli import main
from rsseg_tf.errors import ConfigError
from rsseg_tf.library.folders import check_file_place, check_save_dir
from tests.fixtures.configs import use_tiny_backbone, write_config, write_dataset


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_backbone(monkeypatch)
    write_config(tmp_path / "tiny.yml", write_dataset(tmp_path / "data"))
    return tmp_path


def train(project: Path, *more: str) -> Result:
    arguments = ["train", "--config", str(project / "tiny.yml"), "--save_dir", str(project / "out"), *more]
    return CliRunner().invoke(main, arguments)


def assert_refused(result: Result, message: str, project: Path) -> None:
    assert result.exit_code == 2, result.output
    errors = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and message in errors[0], result.output
    assert "Traceback" not in result.output
    out = project / "out"
    assert not out.exists() or not list(out.glob("*iter_*")), "nothing may be half-written"


def spoil_list(project: Path, text: str) -> None:
    (project / "data" / "train.txt").write_text(text, "utf-8")


def spoil_label(project: Path, label: np.ndarray) -> None:
    cv2.imwrite(str(project / "data" / "train_1_label.png"), label)


def truncate(project: Path, name: str) -> None:
    path = project / "data" / name
    path.write_bytes(path.read_bytes()[:-20])


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file in a list": (lambda p: (p / "data" / "train_2.png").unlink(), "train_2.png"),
    "missing label": (lambda p: (p / "data" / "train_2_label.png").unlink(), "train_2_label.png"),
    "missing list": (lambda p: (p / "data" / "train.txt").unlink(), "train.txt"),
    "empty list": (lambda p: spoil_list(p, "\n# nothing\n"), "train.txt"),
    "a list of images alone": (lambda p: spoil_list(p, "train_0.png\n"), "train.txt"),
    "sizes differ": (lambda p: spoil_label(p, np.zeros((40, 41), np.uint8)), "train_1_label.png is 41x40"),
    "RGB mask": (lambda p: spoil_label(p, np.zeros((40, 40, 3), np.uint8)), "train_1_label.png"),
    "id out of range": (lambda p: spoil_label(p, np.full((40, 40), 2, np.uint8)), "holds the ids 2"),
    "truncated label": (lambda p: truncate(p, "train_1_label.png"), "train_1_label.png"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_data(project: Path, case: str) -> None:
    spoil, message = CASES[case]
    spoil(project)
    assert_refused(train(project), message, project)


def test_an_image_that_is_cut_short_costs_no_trained_step(project: Path) -> None:
    truncate(project, "train_1.png")  # its header is whole, so that only decoding finds it
    result = train(project)
    assert result.exit_code == 2
    assert "train_1.png is a damaged PNG file: it is cut short" in result.output
    kept = sorted((project / "out").glob("iter_*"))
    assert ("go on with --resume_model" in result.output) == bool(kept)


def test_a_bad_validation_set_is_found_before_the_first_step(project: Path) -> None:
    cv2.imwrite(str(project / "data" / "val_1_label.png"), np.full((40, 40), 9, np.uint8))
    result = train(project, "--do_eval")
    assert_refused(result, "val_1_label.png holds the ids 9", project)
    assert "`rsseg-tf check-data` with this config lists everything that is wrong." in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "train.itters=5"), "unknown key 'train.itters'. Did you mean 'iters'?"),
        (("--set", "train.iters=five"), "train.iters must be a valid integer; got 'five'"),
        (("--set", "model.num_classes=7"), "model.num_classes is 7, but the dataset 'data' has 2 classes"),
        (("--early_stop_intervals", "3"), "--early_stop_intervals counts evaluations; add --do_eval"),
        (("--device", "gpu"), "A GPU was asked for, but TensorFlow sees none"),
        (("--device", "cpu", "--gpus", "0"), "--gpus goes with --device gpu or auto"),
        (("--resume_model", "nowhere/iter_1"), "nowhere/iter_1 is not a checkpoint: it does not exist"),
        (("--set", "dataset.bands=4", "augment.saturation_range=0.0", "augment.hue_range=0.0"), "has 3 bands, but the"),
        (("--set", "loss.edge={name: cross_entropy}"), "loss names the heads edge, but fcn has the heads main"),
    ],
)
def test_bad_options(project: Path, arguments: tuple[str, ...], message: str) -> None:
    assert_refused(train(project, *arguments), message, project)


def test_a_duplicate_key(project: Path) -> None:
    path = project / "tiny.yml"
    path.write_text(path.read_text("utf-8") + "data: {workers: 1}\n", "utf-8")
    assert_refused(train(project), "the key 'data' was already written on line 4; remove one of them", project)


def test_an_unwritable_save_dir(project: Path) -> None:
    (project / "out").write_text("a file where the folder should be", "utf-8")
    result = train(project)
    assert_refused(result, "cannot be written", project)
    assert (project / "out").read_text("utf-8") == "a file where the folder should be"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_save_dir_without_permission(project: Path) -> None:
    (project / "out").mkdir(mode=0o500)
    assert_refused(train(project), "Permission denied", project)


def test_a_checkpoint_of_another_architecture_and_of_other_classes(project: Path) -> None:
    assert train(project, "--iters", "1").exit_code == 0
    checkpoint = str(project / "out" / "iter_1")
    config = ["--config", str(project / "tiny.yml")]
    for command in (["eval"], ["predict", "--image_path", str(project / "data" / "val_0.png")]):
        for change, message in (
            ("model.channels=9", "differ in shape"),
            ("model={name: deeplabv3plus, backbone: {name: resnet18_vd}}", "variables are missing"),
            ("dataset.classes=[a, b, c]", "does not fit the model 'fcn'"),
        ):
            result = CliRunner().invoke(
                main, [*command, "--model_path", checkpoint, *config, "--set", change, "--save_dir", str(project / "r")]
            )
            assert result.exit_code == 2 and message in result.output, result.output
    assert not (project / "r").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scales", "0.5"), "--scales has an effect with --aug_eval only"),
        (("--flip_vertical",), "--flip_vertical has an effect with --aug_eval only"),
        (("--crop_size", "8", "8"), "have an effect with --is_slide only"),
        (("--is_slide", "--crop_size", "8", "8"), "is_slide needs crop_size and stride"),
        (("--is_slide", "--crop_size", "8", "8", "--stride", "9", "8"), "stride must be at most crop_size"),
        (("--model_path", "MISSING"), "is not a checkpoint"),
        (("--gpus", "0", "1"), "A GPU was asked for, but TensorFlow sees none"),
        (("--batch_size", "0"), "Invalid value for '--batch-size'"),
        (("--num_workers", "-1"), "Invalid value for '--num-workers'"),
    ],
)
def test_bad_evaluation_options(project: Path, arguments: tuple[str, ...], message: str) -> None:
    assert train(project, "--iters", "1").exit_code == 0
    result = CliRunner().invoke(main, ["eval", "--model_path", str(project / "out" / "iter_1"), *arguments])
    assert result.exit_code == 2 and message in result.output, result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("synthetic", "somewhere", "-o", "OUT"), "Leave the source out"),
        (("dubai", "-o", "OUT"), "needs the downloaded folder or zip file"),
        (("dubai", "EMPTY", "-o", "OUT"), ""),
        (("dubai", "NOWHERE", "-o", "OUT"), "NOWHERE"),
        (("synthetic", "-o", "OUT", "--overlap", "3"), "has no option overlap"),
        (("isiad", "x", "-o", "OUT"), "Did you mean 'isaid'?"),
        (("wrong", "x", "-o", "OUT"), "is not one of"),
        (("isaid", "NOWHERE", "-o", "OUT"), "NOWHERE does not exist"),
        (("isaid", "EMPTY", "-o", "OUT"), "holds no scene of iSAID"),
        (("potsdam", "EMPTY", "-o", "OUT", "--overlap", "3"), "choose cutting 'overlap'"),
        (("vaihingen", "EMPTY", "-o", "OUT", "--labels", "none"), "is not one of"),
        (("loveda", "EMPTY", "-o", "OUT", "--cutting", "benchmark"), "has no option cutting"),
        (("million_aid", "EMPTY", "-o", "OUT"), "holds no PNG, JPEG or TIFF images"),
        (("images", "EMPTY", "-o", "OUT", "--labels", "full"), "has no option labels"),
    ],
)
def test_bad_preparations(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "empty").mkdir()
    names = {"OUT": tmp_path / "out", "EMPTY": tmp_path / "empty", "NOWHERE": tmp_path / "NOWHERE"}
    result = CliRunner().invoke(main, ["prepare", *(str(names.get(word, word)) for word in arguments)])
    assert result.exit_code == 2 and message in result.output, result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_a_place_for_results_is_looked_at_before_the_work(tmp_path: Path) -> None:
    check_save_dir(tmp_path)
    check_save_dir(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--save_dir .*file cannot be written: it is a file"):
        check_save_dir(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"--save_dir .*below cannot be written: .*file is a file"):
        check_save_dir(tmp_path / "file" / "below")
    check_file_place(tmp_path / "not" / "yet.json")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(ConfigError, match=r"yet cannot be written: it is a folder\. Choose another place"):
        (tmp_path / "yet").mkdir()
        check_file_place(tmp_path / "yet")
    with pytest.raises(ConfigError, match=r"a\.json cannot be written: .*file is a file"):
        check_file_place(tmp_path / "file" / "a.json")


REPORTS = (
    ("eval", "--model-path", "MODEL", "--report", "PLACE/a.html"),
    ("check-data", "DATA", "--sheet", "PLACE/a.html"),
    ("check-data", "DATA", "-o", "PLACE/a.json"),
    ("verify", "MODEL", "-o", "PLACE/a.json"),
    ("benchmark", "MODEL", "-o", "PLACE/a.json"),
    ("benchmark", "train", "--config", "CONFIG", "-o", "PLACE/a.json"),
    ("probe", "--config", "CONFIG", "-o", "PLACE/a.json"),
)


@pytest.mark.parametrize("arguments", REPORTS, ids=" ".join)
def test_a_report_that_cannot_be_written_is_told_before_the_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    place = project / "closed"
    place.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place)
    names = {"MODEL": str(project / "model"), "DATA": str(project / "data"), "CONFIG": str(project / "tiny.yml")}
    (project / "model").mkdir()
    words = [names.get(word, word.replace("PLACE", str(place))) for word in arguments]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    last = Path(words[-1])
    assert f"{last} cannot be written: nothing may be written in {place}. Choose another place." in result.output
    assert list(place.iterdir()) == []
    beside = CliRunner().invoke(main, ["eval", "--model-path", str(place)])
    assert beside.exit_code == 2
    assert f"--save_dir {place} cannot be written: nothing may be written in {place}. Choose another" in beside.output
