from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.layers import conv_bn
from rsseg_tf.layers.conv import DilatedConv2D


@pytest.mark.parametrize("size", [(20, 17), (3, 5)])
@pytest.mark.parametrize("dilation", [2, 4, 12])
@pytest.mark.parametrize("use_bias", [False, True])
def test_a_dilated_convolution_equals_that_of_keras(size: tuple[int, int], dilation: int, use_bias: bool) -> None:
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype("float32")
    options = {"dilation_rate": dilation, "padding": "same", "use_bias": use_bias, "bias_initializer": "ones"}
    ours, theirs = DilatedConv2D(4, 3, **options), keras.layers.Conv2D(4, 3, **options)
    ours.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(ours(x, training=False), theirs(x), atol=1e-5)
    np.testing.assert_array_equal(ours(x, training=True), theirs(x))


def test_in_inference_it_is_one_operation_for_any_size() -> None:
    image = keras.Input((None, None, 3))
    model = keras.Model(image, conv_bn(image, 4, 3, dilation=2, name="x"))
    spec = tf.TensorSpec((None, None, None, 3), tf.float32)
    for training, moves in ((False, False), (True, True)):
        call = tf.function(lambda x, training=training: model(x, training=training))
        kinds = {operation.type for operation in call.get_concrete_function(spec).graph.get_operations()}
        assert ("SpaceToBatchND" in kinds) is moves


def test_it_is_saved_and_learns(tmp_path: Path) -> None:
    image = keras.Input((None, None, 3))
    model = keras.Model(image, conv_bn(image, 4, 3, dilation=2, use_bias=True, name="x"))
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert type(loaded.get_layer("x")) is DilatedConv2D
    x = np.random.default_rng(0).normal(size=(2, 9, 9, 3)).astype("float32")
    np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(x, training=True) ** 3)
    gradient = tape.gradient(loss, model.get_layer("x").kernel.value)
    assert np.abs(gradient).max() > 0
