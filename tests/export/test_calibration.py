"""Which images are calibrated with, and what they do to the ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("ai_edge_litert", reason="extra tflite is not installed")

from rsseg_tf.export import TrainedModel, write_tflite
from rsseg_tf.export.tflite import typical_images
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size
from tests.fixtures.checkpoints import pixels


def model(function: object, *, size: int | None = 4) -> bytes:
    signature = [tf.TensorSpec((1, size, size, 1), tf.float32)]
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    content: bytes = tf.lite.TFLiteConverter.from_concrete_functions([concrete], concrete).convert()
    return content


def image(value: float, size: int = 4) -> np.ndarray:
    return np.full((1, size, size, 1), value, np.float32)


def test_images_with_activations_far_beyond_the_others_are_left_out() -> None:
    exponential = model(tf.exp)
    values = [0.0, 0.5, 4.0, 1.0, 0.7, 3.0, -5.0]  # the middle one is exp(0.7); 8 times as much is exp(2.8)
    assert typical_images(exponential, [image(value) for value in values]) == [0, 1, 3, 4, 6]
    mild = [0.0, 0.5, 2.7, 1.0]
    assert typical_images(exponential, [image(value) for value in mild]) == [0, 1, 2, 3]


def test_one_activation_of_many_does_not_make_an_image_unlike_the_others() -> None:
    many = model(lambda x: {"a": tf.exp(x), "b": tf.sin(x), "c": tf.cos(x), "d": tf.sigmoid(x), "e": tf.tanh(x)})
    values = [1.0, 1.1, 0.9, 5.0]
    assert typical_images(many, [image(value) for value in values]) == [0, 1, 2, 3]


def test_at_least_half_of_the_images_stay() -> None:
    both = model(lambda x: {"up": tf.exp(x), "down": tf.exp(-x)})
    assert typical_images(both, [image(value) for value in (-5.0, -5.0, 0.0, 5.0, 5.0)]) == [0, 1, 2]
    assert typical_images(both, [image(9.0)]) == [0]


def test_activations_that_are_zero_for_the_middle_image_say_nothing() -> None:
    silent = model(lambda x: tf.nn.relu(x) * 1.0)
    assert typical_images(silent, [image(value) for value in (-1.0, -2.0, 100.0)]) == [0, 1, 2]


def test_images_may_have_any_sizes() -> None:
    exponential = model(tf.exp, size=None)
    images = [image(0.0, 4), image(0.1, 8), image(6.0, 4), image(0.2, 6)]
    assert typical_images(exponential, images) == [0, 1, 3]


def test_one_image_is_taken_without_a_look(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsseg_tf.export.tflite.typical_images", lambda *_: pytest.fail("it looks for the typical"))
    written = write_tflite(trained, tmp_path, "int8", tile=Size(32, 32), calibration=list(pixels(32, 32)[:1]))
    assert open_predictor(tmp_path / written.path).predict(pixels(32, 32)).shape == (2, 32, 32, 2)


def test_int8_covers_the_range_of_the_images_that_stay(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rsseg_tf.export.tflite.typical_images", lambda content, images: [0, 2])
    grey = [np.full((32, 32, 3), 100, np.uint8), pixels(32, 32)[0], np.full((32, 32, 3), 101, np.uint8)]
    told: list[str] = []
    (tmp_path / "few").mkdir()
    few = write_tflite(trained, tmp_path / "few", "int8", tile=Size(32, 32), calibration=grey, notify=told.append)
    assert len(told) == 1 and told[0].startswith("tflite int8: 1 of 3 images are left out of the calibration")
    monkeypatch.setattr("rsseg_tf.export.tflite.typical_images", lambda content, images: [0, 1, 2])
    every = write_tflite(trained, tmp_path, "int8", tile=Size(32, 32), calibration=grey, notify=told.append)
    assert len(told) == 1
    scales = [next(out.scale for out in one.outputs if out.name == "logits") for one in (few, every)]
    assert 0 < scales[0] < scales[1]
    assert open_predictor(tmp_path / "few" / few.path).predict(pixels(32, 32)).shape == (2, 32, 32, 2)
