"""Models whose pixels are not bytes: five bands of sixteen bits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.export import TrainedModel, load_trained, write_deepness, write_onnx, write_savedmodel, write_tflite
from rsseg_tf.export.tiles import random_tiles
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import use_tiny_backbone


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    folder = tmp_path_factory.mktemp("deep")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        checkpoint, config = write_checkpoint(
            folder, "dataset.bands=5", "dataset.max_value=10000.0", "dataset.gsd=3.0",
            "augment={saturation_range: 0.0, hue_range: 0.0}",
        )  # fmt: skip
        return load_trained(checkpoint, config)


def test_a_savedmodel_takes_float32(deep: TrainedModel, tmp_path: Path) -> None:
    artifact = write_savedmodel(deep, tmp_path / "1")
    assert artifact.input.dtype == "float32" and artifact.input.shape == (None, None, None, 5)
    image = random_tiles(deep.spec, Size(32, 40), 2, dtype="uint16")
    expected = deep.predict(image)
    np.testing.assert_allclose(open_predictor(tmp_path).predict(image), expected, atol=1e-5)


def test_onnx_and_tflite_take_float32(deep: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
    pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")
    image = random_tiles(deep.spec, Size(32, 40), 2, dtype="uint16")
    expected = deep.predict(image)
    for artifact in (write_onnx(deep, tmp_path), write_tflite(deep, tmp_path)):
        predictor = open_predictor(tmp_path / artifact.path)
        assert artifact.input.dtype == "float32" and predictor.spec.gsd == 3.0
        np.testing.assert_allclose(predictor.predict(image), expected, atol=1e-5)


def test_a_file_for_deepness_takes_any_pixels_divided_by_255(deep: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("tf2onnx", reason="extra onnx is not installed")
    import onnx
    import onnxruntime

    artifact = write_deepness(deep, tmp_path, tile=Size(32, 32))
    assert artifact.input.shape == (None, 5, 32, 32) and artifact.outputs[0].shape == (None, 2, 32, 32)
    image = random_tiles(deep.spec, Size(32, 32), 2, dtype="uint16")
    scaled = (image * 1.0 / 255.0).astype(np.float32).transpose(0, 3, 1, 2)
    (found,) = onnxruntime.InferenceSession(str(tmp_path / artifact.path)).run(None, {"pixels": scaled})
    expected = deep.predict(image).argmax(-1)
    np.testing.assert_array_equal(found.argmax(1), expected)
    np.testing.assert_array_equal(open_predictor(tmp_path / artifact.path).predict(image).argmax(-1), expected)
    properties = {entry.key: entry.value for entry in onnx.load(str(tmp_path / artifact.path)).metadata_props}
    assert json.loads(properties["resolution"]) == 300, "centimetres"
    assert json.loads(properties["standardization_std"]) == [1.0] * 5


def test_an_integer_file_still_takes_float32(deep: TrainedModel, tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")
    calibration = list(random_tiles(deep.spec, Size(32, 40), 3, dtype="uint16", seed=1))
    artifact = write_tflite(deep, tmp_path, "int8", tile=Size(32, 40), calibration=calibration)
    assert artifact.input.dtype == "float32"
    assert {tensor.name: tensor.dtype for tensor in artifact.outputs} == {"class_map": "uint8", "logits": "float32"}
    image = random_tiles(deep.spec, Size(32, 40), 2, dtype="uint16")
    agreement = open_predictor(tmp_path / artifact.path).predict(image).argmax(-1) == deep.predict(image).argmax(-1)
    assert agreement.mean() > 0.8
