"""Attention in files of 8 bits takes other steps to the same values, because a softmax over many is all zeros there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.layers import (
    AttendRegions,
    ChannelAttention,
    GatherRegions,
    MultiHeadAttention,
    PositionAttention,
    converting,
)

_CHANNELS = 8
# Each kind, and how it attends in one map (B, H, W, 8): what comes from somewhere else is made of the map.
LAYERS: dict[str, tuple[Callable[[], keras.layers.Layer], Callable[[keras.layers.Layer, Any], Any]]] = {
    "PositionAttention": (PositionAttention, lambda layer, x: layer(x, x, x, x)),
    "ChannelAttention": (ChannelAttention, lambda layer, x: layer(x)),
    "GatherRegions": (GatherRegions, lambda layer, x: layer(x, x[..., :3])),
    "AttendRegions": (AttendRegions, lambda layer, x: layer(x, x[:, :3, :1], x[:, -3:, -1:])),
    "MultiHeadAttention": (lambda: MultiHeadAttention(2), lambda layer, x: layer(x, x, x)),
}
_ADDED = ("PositionAttention", "ChannelAttention")  # to the map itself, in which an error would hide


def _built(name: str) -> Callable[[Any], Any]:
    make, mix = LAYERS[name]
    layer = make()
    mix(layer, tf.zeros((1, 3, 3, _CHANNELS)))
    for variable in layer.weights:  # of DANet's mixtures, 0 at first
        variable.assign([1.0])
    return lambda x: mix(layer, x)


def _maps(height: int, width: int, count: int = 1, scale: float = 1.0) -> np.ndarray:
    """Returns maps with objects in them, so that means of different pixels differ."""
    rng = np.random.default_rng(3)
    coarse = rng.normal(size=(count, -(-height // 8), -(-width // 8), _CHANNELS))
    smooth = np.kron(coarse, np.ones((1, 8, 8, 1)))[:, :height, :width]
    return (scale * (smooth + rng.normal(scale=0.1, size=smooth.shape))).astype(np.float32)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("size", [(3, 1), (7, 5), (16, 24)], ids=str)
@pytest.mark.parametrize("scale", [0.1, 5.0])
def test_the_steps_for_8_bits_give_the_same(name: str, size: tuple[int, int], scale: float) -> None:
    mix, image = _built(name), _maps(*size, count=2, scale=scale)
    expected = np.asarray(mix(image))
    with converting():
        np.testing.assert_array_equal(mix(image), expected)
    with converting(eight_bits=True):
        np.testing.assert_allclose(mix(image), expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-5)


def test_regions_of_one_pixel() -> None:
    mix, image = _built("GatherRegions"), _maps(1, 1)
    with converting(eight_bits=True):
        np.testing.assert_allclose(mix(image), np.broadcast_to(image, (1, 3, 1, _CHANNELS)), rtol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_a_file_of_8_bits_keeps_what_many_pixels_give(name: str) -> None:
    litert = pytest.importorskip("ai_edge_litert.interpreter", reason="the extra tflite is not installed")
    mix, images = _built(name), _maps(40, 48, count=4, scale=0.5)
    with converting(eight_bits=True):
        function = tf.function(mix).get_concrete_function(tf.TensorSpec((1, *images.shape[1:]), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([image[None]] for image in images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = litert.Interpreter(model_content=bytes(converter.convert()), num_threads=1)
    interpreter.allocate_tensors()
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
        interpreter.invoke()
        found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        expected = np.asarray(mix(image[None]))
        mixture = expected - image if name in _ADDED else expected
        assert np.abs(found - expected).mean() < 0.1 * mixture.std()
