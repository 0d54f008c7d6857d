"""Export through the command line, and everything exported as a model for eval and predict."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from rsseg_tf.cli import main
from rsseg_tf.cli.export import accuracy_tables
from rsseg_tf.export import TrainedModel, publish
from rsseg_tf.export.accuracy import Accuracy, AccuracyLimit, measure_accuracy
from rsseg_tf.manifest import FORMATS, QUANTIZATIONS
from rsseg_tf.metrics import SegmentationScores
from rsseg_tf.predictors import Predictor
from rsseg_tf.rasters.images import read_label
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import use_tiny_backbone


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def run(*arguments: str | Path, code: int = 0) -> str:
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.output


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    write_checkpoint(folder)
    return folder


@pytest.fixture(autouse=True)
def tiny_backbone() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        yield


@pytest.fixture(scope="module")
def exported(project: Path) -> Path:
    for module in ("tf2onnx", "ai_edge_litert"):
        pytest.importorskip(module, reason="extras onnx and tflite are not installed")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        output = run(
            *("export", project / "best_model", "-o", project / "out", "--format", "savedmodel,tflite", "onnx"),
            *("--quantize", "float32,int8", "--tile", "24", "32", "--calibration-count", "3", "--seed", "1"),
            *("--eval", project / "data" / "val.txt", "--max_miou_drop", "100"),
        )
    assert f"Published: {project / 'out' / '1'}" in output
    assert "mIoU" in output and "drop" in output and "bright" in output
    told = " ".join(output.split())
    assert "by windows of 32x24 pixels, unlike the checkpoint (onnx, tflite float32, tflite int8)." in told
    return project / "out" / "1"


def test_a_version_holds_what_was_asked_for(exported: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == [
        "accuracy.json", "assets", "assets.extra", "config.yml", "fingerprint.pb", "manifest.json", "model.onnx",
        "model_float32.tflite", "model_int8.tflite", "reference.npz", "saved_model.pb", "stac", "variables",
    ]  # fmt: skip
    with np.load(exported / "reference.npz") as reference:
        assert reference["pixels"].shape == (4, 24, 32, 3) and reference["made_up"] == 2, "both images of --eval"
    report = json.loads((exported / "accuracy.json").read_text("utf-8"))
    assert list(report["scores"]) == ["checkpoint", "savedmodel", "onnx", "tflite float32", "tflite int8"]
    assert report["windows"] == {name: [24, 32] for name in ("onnx", "tflite float32", "tflite int8")}


@pytest.mark.parametrize("name", [".", "..", "model.onnx", "model_float32.tflite", "model_int8.tflite"])
def test_eval_and_predict_take_it(project: Path, exported: Path, tmp_path: Path, name: str) -> None:
    model = exported / name
    output = run("eval", "--model_path", model, "--save_dir", tmp_path)
    assert "[EVAL] #Images: 2 mIoU: " in output
    report = json.loads((tmp_path / "eval.json").read_text("utf-8"))
    measured = json.loads((exported / "accuracy.json").read_text("utf-8"))["scores"]
    key = {"model.onnx": "onnx", "model_float32.tflite": "tflite float32", "model_int8.tflite": "tflite int8"}
    assert report["macro"]["miou"] == pytest.approx(measured[key.get(name, "savedmodel")]["macro"]["miou"])
    fixed = name.startswith("model")
    assert report["inference"]["fixed_tile"] is fixed and report["inference"]["is_slide"] is False
    assert report["inference"]["tile"] == ([32, 24] if fixed else [32, 32])

    cv2.imwrite(str(tmp_path / "small.png"), np.full((10, 50, 3), 200, np.uint8))
    run("predict", "--model_path", model, "--image_path", tmp_path / "small.png", "--save_dir", tmp_path / "result")
    labels = read_label(tmp_path / "result" / "pseudo_color_prediction" / "small.png")
    assert labels.shape == (10, 50) and labels.max() <= 1
    output = run(
        *("predict", "--model_path", model, "--image_path", project / "data" / "val.txt", "--save_dir"),
        *(tmp_path / "more", "--aug_pred", "--scales", "0.75", "1.5", "--flip_horizontal"),
    )
    assert "2 of 2 images predicted" in output


def test_files_of_one_size_are_timed_in_that_size(exported: Path, tmp_path: Path) -> None:
    output = run("benchmark", exported.parent, "--runs", "1", "--threads", "1", "--json", tmp_path / "times.json")
    assert "24x32 pixels" in output
    assert json.loads((tmp_path / "times.json").read_text("utf-8"))["size"] == [24, 32]


def test_the_engine_is_named_or_chosen(project: Path, exported: Path, tmp_path: Path) -> None:
    image = ("--image_path", project / "data" / "val_0.png", "--save_dir", tmp_path / "result")
    output = run("eval", "--model_path", exported.parent, "--engine", "auto", "--save_dir", tmp_path)
    assert re.search(r"Engine: .* ms per 40x40 image, .* points of mIoU lost\. Others: ", output), output
    report = json.loads((tmp_path / "eval.json").read_text("utf-8"))
    scores = json.loads((exported / "accuracy.json").read_text("utf-8"))["scores"]
    assert f"Engine: {report['engine']}," in output
    assert report["macro"]["miou"] == pytest.approx(scores[report["engine"]]["macro"]["miou"])
    assert re.search(r"Engine: .* ms per", run("predict", "--model_path", exported, "--engine", "auto", *image))
    run("eval", "--model_path", exported, "--engine", "onnx", "--save_dir", tmp_path)
    report = json.loads((tmp_path / "eval.json").read_text("utf-8"))
    assert report["engine"] == "onnx" and report["inference"]["fixed_tile"] is True
    output = run("predict", "--model_path", project / "best_model", "--engine", "auto", *image)
    assert re.search("Engine: keras.* Others: keras", output), output
    for arguments, message in (
        (("--engine", "keras"), "holds nothing that keras runs; it offers savedmodel, onnx, tflite"),
        (("--engine", "openvino"), "Export it for openvino too"),
        (("--engine", "tflite"), "holds 2 files for tflite"),
        (("--tolerance", "1"), "--tolerance has an effect with --engine auto only"),
        (("--engine", "onnx", "--tolerance", "1"), "--tolerance has an effect with --engine auto only"),
        (("--engine", "auto", "--precision", "fp32"), "--precision has no effect with --engine auto"),
    ):
        assert message in run("predict", "--model_path", exported, *image, *arguments, code=2)


def test_eval_of_a_file_that_was_moved_needs_a_config(project: Path, exported: Path, tmp_path: Path) -> None:
    moved = tmp_path / "phone.tflite"
    moved.write_bytes((exported / "model_float32.tflite").read_bytes())
    message = "its config.yml is not beside it, so the labelled images are unknown"
    assert message in run("eval", "--model_path", moved, code=2)
    output = run("eval", "--model_path", moved, "--config", project / "tiny.yml")
    assert f"Written: {tmp_path / 'eval.json'}" in output
    other = "dataset.classes=[dark, light]"
    output = run("eval", "--model_path", moved, "--config", project / "tiny.yml", "--set", other, code=2)
    assert "has the classes dark, bright; the dataset 'data' of the config has dark, light" in output


def test_what_has_no_effect_on_an_exported_model_is_refused(project: Path, exported: Path, tmp_path: Path) -> None:
    common: tuple[str | Path, ...] = (
        "predict",
        "--model_path",
        exported,
        "--image_path",
        project / "data" / "val_0.png",
    )
    common += ("--save_dir", tmp_path / "result")
    assert "--config and --set have no effect" in run(*common, "--config", project / "tiny.yml", code=2)
    assert "precision bf16 is for checkpoints and OpenVINO" in run(*common, "--precision", "bf16", code=2)
    assert not (tmp_path / "result").exists()


def test_several_files_without_a_savedmodel_must_be_told_apart(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes((exported / "manifest.json").read_bytes())
    output = run("eval", "--model_path", tmp_path, code=2)
    assert f"{tmp_path} holds 4 exported files" in output and "Name one of them" in output
    (tmp_path / "notes.txt").write_text("", "utf-8")
    assert "notes.txt is no model" in run("eval", "--model_path", tmp_path / "notes.txt", code=2)


def test_a_worse_model_is_not_published(
    project: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del exported  # skips with it
    monkeypatch.setattr(publish, "measure_accuracy", spoiled(measure_accuracy))
    output = run(
        *("export", project / "best_model", "-o", tmp_path / "out", "--format", "tflite"),
        *("--eval", project / "data" / "val.txt", "--max_miou_drop", "1"),
        code=1,
    )
    report = tmp_path / "out" / "refused.json"
    assert f"Not published: tflite float32 loses more than 1 points of mIoU. The scores are in {report}." in output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["refused.json"]
    assert json.loads(report.read_text("utf-8"))["refused"] == ["tflite float32"]


def spoiled(measure: Callable[..., Any]) -> Callable[..., Any]:
    """Measures a checkpoint that is right about nearly all pixels, and artifacts that see class 1 everywhere."""

    def right(pixels: np.ndarray) -> np.ndarray:
        is_bright = pixels.mean(-1) > 100
        return np.stack([~is_bright, is_bright], -1).astype(np.float32)

    def wrong(pixels: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array([0, 1], np.float32), (*pixels.shape[:3], 2)).copy()

    def measure_others(trained: TrainedModel, artifacts: dict[str, Predictor], limit: AccuracyLimit) -> Any:
        vars(trained)["predict"] = right
        changed = {name: dataclasses.replace(one, predict=wrong) for name, one in artifacts.items()}
        return measure(trained, changed, limit)

    return measure_others


def test_the_choices_are_those_of_the_package() -> None:
    from rsseg_tf.cli import engine, export
    from rsseg_tf.engines import ENGINES
    from rsseg_tf.library.opening import Engine

    assert export._FORMATS == FORMATS and export._QUANTIZATIONS == QUANTIZATIONS
    assert engine._ENGINES == get_args(Engine) == ("auto", *ENGINES)


BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no checkpoint": (("NOWHERE", "-o", "OUT"), "NOWHERE is not a checkpoint: it does not exist"),
    "a format": (("CKPT", "-o", "OUT", "--format", "savedmodl"), "Did you mean 'savedmodel'?"),
    "a quantization": (
        ("CKPT", "-o", "OUT", "--format", "tflite", "--quantize", "int7"),
        "'int7' is not one of float32",
    ),
    "a quantization of no TFLite": (("CKPT", "-o", "OUT", "--quantize", "int8"), "add tflite to --format"),
    "calibration of no int8": (
        ("CKPT", "-o", "OUT", "--format", "tflite", "--calibration", "x.txt"),
        "--calibration has an effect with --quantize int8 or int16x8 only",
    ),
    "a seed of no draw": (("CKPT", "-o", "OUT", "--seed", "1"), "--seed has an effect with --quantize int8"),
    "a missing list": (
        ("CKPT", "-o", "OUT", "--format", "tflite", "--quantize", "int8", "--calibration", "NOWHERE"),
        "NOWHERE does not exist; a text file with an image per line is needed",
    ),
    "tiles of nothing": (
        ("CKPT", "-o", "OUT", "--real_tiles", "2"),
        "--real_tiles takes tiles of the images of --eval",
    ),
    "a drop of nothing": (("CKPT", "-o", "OUT", "--max_miou_drop", "1"), "--max_miou_drop has an effect with --eval"),
    "a missing evaluation list": (("CKPT", "-o", "OUT", "--eval", "NOWHERE"), "NOWHERE does not exist"),
    "an output of something else": (("CKPT", "-o", "DATA"), "only versions of one exported model may lie there"),
    "an output that is a file": (("CKPT", "-o", "FILE"), "is a file; a folder for the versions"),
    "another config": (("CKPT", "-o", "OUT", "--set", "model.channels=5"), "does not fit the model 'fcn'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(project: Path, tmp_path: Path, case: str) -> None:
    arguments, message = BAD[case]
    names = {
        "CKPT": project / "best_model",
        "OUT": tmp_path / "out",
        "NOWHERE": tmp_path / "NOWHERE",
        "DATA": project / "data",
        "FILE": project / "tiny.yml",
    }
    output = run("export", *(names.get(word, word) for word in arguments), code=2)
    assert message in output and not (tmp_path / "out").exists()


def test_an_existing_version_is_found_before_anything_is_loaded(project: Path, exported: Path) -> None:
    output = run("export", project / "best_model", "-o", exported.parent, "--version", "1", code=2)
    assert f"{exported} exists, and a published version is never overwritten" in output


@pytest.mark.parametrize(
    ("format", "module", "extra"),
    [("tflite", "ai_edge_litert", "tflite"), ("onnx", "tf2onnx", "onnx"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_extra(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, module: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    output = run("export", project / "best_model", "-o", tmp_path / "out", "--format", format, code=2)
    assert f'pip install ".[{extra}]"' in output and not (tmp_path / "out").exists()


def test_verify_and_benchmark_need_something_exported(project: Path) -> None:
    for command in ("verify", "benchmark"):
        output = run(command, project / "best_model", code=2)
        assert "has no readable manifest.json" in output and "rsseg-tf export" in output


def test_every_number_and_class_is_seen_in_80_columns() -> None:
    """Artifacts that do not fit beside one another go into a second table."""
    classes = ("impervious_surface", "a_class_with_a_name_of_more_than_a_line")
    names = ["checkpoint", "savedmodel", *(f"tflite {kind}" for kind in ("float32", "float16", "dynamic", "int8"))]
    names += ["onnx", "openvino", "web int8"]
    scores = {
        name: SegmentationScores(np.array([[90 - number, number], [3, 40 + number]]), classes)
        for number, name in enumerate(names, 1)
    }
    console = Console(width=80, record=True, file=io.StringIO())
    tables = accuracy_tables(Accuracy(scores, 1.0, 4, {}), console.width)
    console.print(*tables, sep="\n")
    text = console.export_text()
    assert len(tables) == 2
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    assert text.count("impervious_surface") == 2
    for one in scores.values():
        assert all(f"{100 * value:.2f}" in text for value in (*one.class_iou, one.miou))
