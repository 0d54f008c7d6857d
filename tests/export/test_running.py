"""What exported files refuse when they are run: values that are not finite, files that are not what was exported."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf import manifest as manifests
from rsseg_tf.checkpoint import read_state, save_checkpoint
from rsseg_tf.config import Config
from rsseg_tf.errors import ExportError, NotFiniteError
from rsseg_tf.export import ExportOptions, TrainedModel, export_model, load_trained
from rsseg_tf.export.savedmodel import write_savedmodel
from rsseg_tf.manifest import MANIFEST_FILE
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels, write_checkpoint
from tests.fixtures.configs import use_tiny_backbone

TILE = Size(32, 48)
EXTRAS = {"tflite": "ai_edge_litert", "onnx": "tf2onnx", "openvino": "openvino"}
INSTALLED: list[Any] = [kind for kind, module in EXTRAS.items() if importlib.util.find_spec(module) is not None]
FILES = {"tflite": "model_float32.tflite", "onnx": "model.onnx", "openvino": "model_openvino.xml"}


def spoil(trained: TrainedModel) -> TrainedModel:
    """Makes one weight of the classifier NaN, as a training that ran away leaves them."""
    weight = next(weight for weight in reversed(trained.model.weights) if weight.name == "kernel")
    values = keras.ops.convert_to_numpy(weight).copy()
    values.flat[0] = np.nan
    weight.assign(values)
    return trained


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        checkpoint, _ = write_checkpoint(tmp_path_factory.mktemp("broken"))
        return spoil(load_trained(checkpoint))


def require_extra(kind: str) -> None:
    if kind in EXTRAS and kind not in INSTALLED:
        pytest.skip(f"the extra {kind} is not installed")


def written(trained: TrainedModel, kind: str, folder: Path) -> Path:
    """Writes an artifact by itself, as a copy without its manifest is."""
    require_extra(kind)
    if kind == "savedmodel":
        write_savedmodel(trained, folder)
        return folder
    folder.mkdir(exist_ok=True)
    if kind == "openvino":
        onnx = importlib.import_module("rsseg_tf.export.onnx")
        onnx.write_openvino(trained, folder, folder / onnx.write_onnx(trained, folder, tile=TILE).path, tile=TILE)
    else:
        module = importlib.import_module(f"rsseg_tf.export.{kind}")
        getattr(module, f"write_{kind}")(trained, folder, tile=TILE)
    return folder / FILES[kind]


@pytest.mark.parametrize("kind", ["savedmodel", "tflite", "onnx", "openvino"])
def test_every_engine_refuses_values_that_are_not_finite(broken: TrainedModel, tmp_path: Path, kind: str) -> None:
    path = written(broken, kind, tmp_path / "1")
    # Of another size than the tile, too, which is predicted by windows.
    for size in (TILE, (40, 70)):
        with pytest.raises(NotFiniteError, match=f"{path} gives values that are not finite.*use an earlier checkpoint"):
            open_predictor(path).predict(pixels(*size))


def test_so_does_a_checkpoint_and_its_export_is_refused(broken: TrainedModel, tmp_path: Path, checkpoint: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "best_model")
    assert broken.config is not None
    save_checkpoint(folder, broken.model, None, read_state(folder), broken.config)
    with pytest.raises(NotFiniteError, match=f"the checkpoint {folder} gives values that are not finite"):
        open_predictor(folder).predict(pixels(16, 16))
    with pytest.raises(NotFiniteError, match=r"the checkpoint .*best_model gives values that are not finite"):
        export_model(load_trained(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_precision_that_overflows_is_refused(checkpoint_and_config: tuple[Path, Config], tmp_path: Path) -> None:
    checkpoint, config = checkpoint_and_config
    trained = load_trained(checkpoint)
    weight = next(weight for weight in reversed(trained.model.weights) if weight.name == "kernel")
    weight.assign(weight * 1e6)
    folder = shutil.copytree(checkpoint, tmp_path / "best_model")
    save_checkpoint(folder, trained.model, None, read_state(folder), config)
    assert np.isfinite(open_predictor(folder).predict(pixels(16, 16))).all()
    with pytest.raises(NotFiniteError, match="with --precision fp16, which overflows above 65504, use bf16 or fp32"):
        open_predictor(folder, precision="fp16").predict(pixels(16, 16))


def test_what_gives_labels_alone_fails_inside_of_the_graph(broken: TrainedModel, tmp_path: Path) -> None:
    signatures = tf.saved_model.load(str(written(broken, "savedmodel", tmp_path / "1"))).signatures
    image = tf.constant(pixels(16, 16))
    for name in ("serving_default", "probabilities"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="the model gives values that are not finite"):
            signatures[name](pixels=image)
    png = tf.stack([tf.io.encode_png(image[0])])
    with pytest.raises(tf.errors.InvalidArgumentError, match="the model gives values that are not finite"):
        signatures["predict_bytes"](image_bytes=png)
    assert np.isnan(signatures["logits"](pixels=image)["logits"]).any()


# === Files that are not what was exported ===


@pytest.fixture(scope="module")
def version(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("changed") / "out"
    folder = export_model(trained, out, ExportOptions(("savedmodel", *INSTALLED), tile=TILE)).folder
    assert folder is not None
    return folder


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("savedmodel", "saved_model.pb"),
        ("savedmodel", "variables/variables.data-00000-of-00001"),
        ("savedmodel", "assets/manifest.json"),
        ("tflite", FILES["tflite"]),
        ("onnx", FILES["onnx"]),
        ("openvino", FILES["openvino"]),
        ("openvino", "model_openvino.bin"),
    ],
)
def test_one_changed_byte_is_told_before_the_model_runs(version: Path, tmp_path: Path, kind: str, changed: str) -> None:
    require_extra(kind)
    opened = FILES.get(kind, ".")
    folder = shutil.copytree(version, tmp_path / "1")
    open_predictor(folder / opened)
    content = bytearray((folder / changed).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / changed).write_bytes(content)
    with pytest.raises(ExportError, match=rf"{changed} is missing or is not what was exported \(SHA-256\)"):
        open_predictor(folder / opened)
    (folder / changed).unlink()
    if changed not in (opened, "saved_model.pb"):  # these are how the model is found
        with pytest.raises(ExportError, match="is missing or is not what was exported"):
            open_predictor(folder / opened)


def test_checksums_are_computed_once(version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_extra("onnx")
    folder = shutil.copytree(version, tmp_path / "1")
    read: list[str] = []
    original: Callable[[Path], str] = manifests.file_sha256
    monkeypatch.setattr(manifests, "file_sha256", lambda path: read.append(path.name) or original(path))
    for _ in range(2):
        open_predictor(folder / FILES["onnx"])
    assert read == [FILES["onnx"]]
    os.utime(folder / FILES["onnx"], (1, 1))
    open_predictor(folder / FILES["onnx"])
    assert read == [FILES["onnx"]] * 2


def test_a_file_without_its_manifest_or_beside_another_has_nothing_to_be_compared_with(
    version: Path, tmp_path: Path
) -> None:
    require_extra("onnx")
    path = Path(shutil.copy(version / FILES["onnx"], tmp_path / "other.onnx"))
    open_predictor(path)
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({"short_name": "a web page", "start_url": "/"}))
    open_predictor(path)
    shutil.copy(version / MANIFEST_FILE, tmp_path / MANIFEST_FILE)
    open_predictor(path)
    (tmp_path / MANIFEST_FILE).write_bytes((version / MANIFEST_FILE).read_bytes()[:-20])
    with pytest.raises(ExportError, match=r"The manifest of .*manifest\.json cannot be used"):
        open_predictor(path)


@pytest.mark.parametrize("kind", ["tflite", "onnx", "openvino"])
def test_whatever_a_reader_raises_for_damage_is_one_error(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    require_extra(kind)
    path = Path(shutil.copy(version / FILES[kind], tmp_path))  # OpenVINO misses its weights
    if kind == "openvino":
        with pytest.raises(ExportError, match=r"is damaged, or no OpenVINO model .*Export the model again"):
            open_predictor(path)
        return
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ExportError, match=r"is damaged, or no (TFLite|ONNX) file .*Export the model again"):
        open_predictor(path)

    def fail(*args: object, **kwargs: object) -> None:
        raise BufferError("of a library")

    whole = Path(shutil.copy(version / FILES[kind], tmp_path))
    names = {"tflite": ("ai_edge_litert.interpreter", "Interpreter"), "onnx": ("onnxruntime", "InferenceSession")}
    monkeypatch.setattr(importlib.import_module(names[kind][0]), names[kind][1], fail)
    with pytest.raises(ExportError, match="BufferError: of a library"):
        open_predictor(whole)
