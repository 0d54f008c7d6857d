"""A temperature goes from the checkpoint to whatever is made of it, and changes confidence alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

from rsseg_tf.checkpoint import read_temperature, write_calibration
from rsseg_tf.errors import ExportError, WeightsError
from rsseg_tf.export import ExportOptions, export_model, load_trained
from rsseg_tf.manifest import Inference, read_manifest
from rsseg_tf.predictors import open_predictor
from tests.fixtures.checkpoints import pixels, write_checkpoint
from tests.fixtures.configs import use_tiny_backbone

TEMPERATURE = 2.5


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_backbone(monkeypatch)
    return write_checkpoint(tmp_path)[0]


def test_a_checkpoint_that_was_never_calibrated_has_1_and_its_files_do_not_mention_it(checkpoint: Path) -> None:
    assert read_temperature(checkpoint) == open_predictor(checkpoint).options.temperature == 1.0
    trained = load_trained(checkpoint)
    assert "temperature" not in trained.manifest.to_json()
    assert "temperature" not in open_predictor(checkpoint).options.to_json()
    assert Inference.model_validate_json("{}").temperature == 1.0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"temperature": 0}', '{"temperature": "1"}', '{"temperature": NaN}'])
def test_a_damaged_calibration_is_named(checkpoint: Path, text: str) -> None:
    (checkpoint / "calibration.json").write_text(text)
    with pytest.raises(WeightsError, match=r"calibration\.json is damaged: .*eval --calibrate\), or remove it"):
        read_temperature(checkpoint)


def test_an_export_takes_it_along(checkpoint: Path, tmp_path: Path) -> None:
    write_calibration(checkpoint, TEMPERATURE, {"pixels": 7})
    assert json.loads((checkpoint / "calibration.json").read_text()) == {"temperature": TEMPERATURE, "pixels": 7}
    assert open_predictor(checkpoint).options.temperature == TEMPERATURE
    trained = load_trained(checkpoint)
    version = export_model(trained, tmp_path / "export", ExportOptions(formats=("savedmodel", "onnx"))).folder
    assert version is not None
    assert read_manifest(version).inference.temperature == TEMPERATURE
    images = pixels(20, 30)
    logits = open_predictor(checkpoint).predict(images).astype(np.float64)
    heated = np.exp(logits / TEMPERATURE)
    probabilities = heated / heated.sum(axis=-1, keepdims=True)
    module = tf.saved_model.load(str(version))
    answers = [{name: value.numpy() for name, value in module.signatures["serving_default"](pixels=images).items()}]
    session = onnxruntime.InferenceSession(str(version / "model.onnx"), providers=["CPUExecutionProvider"])
    answers.append(
        dict(
            zip(["class_map", "confidence"], session.run(["class_map", "confidence"], {"pixels": images}), strict=True)
        )
    )
    for answer in answers:
        np.testing.assert_array_equal(answer["class_map"], logits.argmax(axis=-1))
        np.testing.assert_allclose(answer["confidence"], probabilities.max(axis=-1), atol=1e-4)
    found = module.signatures["probabilities"](pixels=images)["probabilities"].numpy()
    np.testing.assert_allclose(found, probabilities, atol=1e-4)
    assert not np.allclose(probabilities.max(axis=-1), open_predictor(version).predict(images).max(axis=-1), atol=1e-2)
    with pytest.raises(ExportError, match="assets is a part of a SavedModel; name the SavedModel itself"):
        open_predictor(version / "assets")
    for path in (version, version / "model.onnx"):
        predictor = open_predictor(path)
        assert predictor.options.temperature == TEMPERATURE
        np.testing.assert_allclose(predictor.predict(images), logits, atol=1e-4)  # logits are as they were
