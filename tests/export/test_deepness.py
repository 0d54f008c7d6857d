"""ONNX files for Deepness: what they say and answer by themselves, and in the plugin's own classes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
import onnx
import onnxruntime

from rsseg_tf.engines import find_candidates
from rsseg_tf.errors import ExportError
from rsseg_tf.export import ExportOptions, TrainedModel, export_model, verify, write_deepness
from rsseg_tf.manifest import MANIFEST_PROPERTY, Manifest
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels
from tests.fixtures.deepness import segmentor

TILE = Size(32, 32)


@pytest.fixture(scope="module")
def file(trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepness")
    return folder / write_deepness(trained, folder, tile=TILE).path


def properties(file: Path) -> dict[str, Any]:
    found = {entry.key: entry.value for entry in onnx.load(str(file)).metadata_props}
    assert Manifest.from_json(found.pop(MANIFEST_PROPERTY), "inside").artifacts[0].format == "deepness"
    return {name: json.loads(value) for name, value in found.items()}


def as_the_plugin(images: np.ndarray) -> np.ndarray:
    return (images * 1.0 / 255.0).astype(np.float32).transpose(0, 3, 1, 2)


def assert_same_labels(found: np.ndarray, logits: np.ndarray) -> None:
    """Rounding may decide where two classes are all but equally likely, and nowhere else."""
    second, first = np.moveaxis(np.sort(logits, -1)[..., -2:], -1, 0)
    decided = first - second > 1e-5
    assert decided.mean() > 0.95 and 0 < found.mean() < 1
    np.testing.assert_array_equal(found[decided], logits.argmax(-1)[decided])


def test_the_file_says_what_the_plugin_reads(trained: TrainedModel, file: Path) -> None:
    assert properties(file) == {
        "model_type": "Segmentor",
        "class_names": {"0": "dark", "1": "bright"},
        "tile_size": 32,
        "tiles_size": 32,
        "tiles_overlap": 25,
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
        "standardization_mean": [0.0, 0.0, 0.0],
        "standardization_std": [1.0, 1.0, 1.0],
    }, "resolution is missing: the dataset states none"
    graph = onnx.load(str(file)).graph
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert shapes == {"pixels": ["batch", 3, 32, 32], "probabilities": ["batch", 2, 32, 32]}


def test_probabilities_are_those_of_the_keras_model(trained: TrainedModel, file: Path) -> None:
    image = pixels(*TILE)
    (found,) = onnxruntime.InferenceSession(str(file)).run(None, {"pixels": as_the_plugin(image)})
    logits = trained.predict(image)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), powers / powers.sum(-1, keepdims=True), atol=1e-5)
    assert_same_labels(found.argmax(1), logits)


def test_probabilities_have_the_temperature(trained: TrainedModel, tmp_path: Path) -> None:
    inference = trained.manifest.inference.model_copy(update={"temperature": 2.5})
    manifest = trained.manifest.model_copy(update={"inference": inference})
    calibrated = dataclasses.replace(trained, manifest=manifest)
    path = tmp_path / write_deepness(calibrated, tmp_path, tile=TILE).path
    image = pixels(*TILE)
    (found,) = onnxruntime.InferenceSession(str(path)).run(None, {"pixels": as_the_plugin(image)})
    logits = trained.predict(image)
    powers = np.exp((logits - logits.max(-1, keepdims=True)) / 2.5)
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), powers / powers.sum(-1, keepdims=True), atol=1e-5)
    # What is opened gives logits, which prediction divides by the temperature itself.
    opened = open_predictor(path)
    assert opened.options.temperature == 2.5
    difference = opened.predict(image) - logits
    np.testing.assert_allclose(difference, difference[..., :1].repeat(2, -1), atol=1e-4)


def test_it_is_verified_and_opened_like_the_others(trained: TrainedModel, tmp_path: Path) -> None:
    exported = export_model(trained, tmp_path / "out", ExportOptions(("deepness",), tile=TILE))
    assert exported.folder is not None
    (comparison,) = verify(exported.folder)
    assert comparison.name == "deepness" and comparison.passed
    predictor = open_predictor(exported.folder)
    assert predictor.kind == "onnx" and predictor.tile == TILE
    image = pixels(40, 61)
    part = image[:, :32, :32]
    assert_same_labels(predictor.predict(part).argmax(-1), trained.predict(part))
    assert predictor.predict(image).shape == (2, 40, 61, 2)
    assert [one.engine for one in find_candidates(tmp_path / "out")[1]] == ["onnx"]
    both = export_model(trained, tmp_path / "out", ExportOptions(("onnx", "deepness"), tile=TILE))
    assert both.folder is not None
    assert [one.name for one in find_candidates(both.folder)[1]] == ["onnx"], "one file for one engine"


@pytest.mark.parametrize(("tile", "whose"), [(Size(32, 48), "--tile is 48x32"), (None, "images in training is 40x32")])
def test_only_squares(trained: TrainedModel, tmp_path: Path, tile: Size | None, whose: str) -> None:
    manifest = trained.manifest.model_copy(update={"crop_size": Size(32, 40)})
    with pytest.raises(ExportError, match=f"{whose}.* --tile (48 48|40 40)"):
        write_deepness(dataclasses.replace(trained, manifest=manifest), tmp_path, tile=tile)


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning")
def test_labels_of_the_plugin(trained: TrainedModel, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = segmentor(file, monkeypatch)
    assert opened.get_metadata_model_type() == "Segmentor"
    assert opened.outputs_names == [["dark", "bright"]] and opened.get_number_of_output_channels() == [2]
    assert opened.get_input_shape()[1:] == [3, 32, 32] and opened.get_model_batch_size() is None
    assert opened.get_metadata_tile_size() == 32 and opened.get_metadata_tiles_overlap() == 25
    assert opened.get_metadata_segmentation_threshold() == 0 == opened.get_metadata_segmentation_small_segment()
    assert opened.get_metadata_resolution() is None
    image = pixels(*TILE)
    (found,) = opened.process(image)
    found[found < opened.get_metadata_segmentation_threshold()] = 0  # as MapProcessorSegmentation
    assert_same_labels(found.argmax(1), trained.predict(image))
