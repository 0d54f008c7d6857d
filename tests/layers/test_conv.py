from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.layers import DilatedConv2D, DilatedDepthwiseConv2D, conv_bn, converting, separable_conv_bn_relu


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


@pytest.mark.parametrize(
    ("kind", "of_keras", "sizes"),
    [(DilatedConv2D, keras.layers.Conv2D, (4, 3)), (DilatedDepthwiseConv2D, keras.layers.DepthwiseConv2D, (3,))],
)
def test_training_keeps_no_pixels_moved_apart(kind: Any, of_keras: Any, sizes: tuple[int, ...]) -> None:
    """The backward pass moves them again; results and gradients are Keras's to the bit."""
    ours, theirs = (one(*sizes, dilation_rate=6, padding="same", bias_initializer="ones") for one in (kind, of_keras))
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 20, 17, 3)), tf.float32)
    for layer in (ours, theirs):
        layer.build(x.shape)
    theirs.set_weights(ours.get_weights())

    def passes(layer: keras.layers.Layer) -> Any:
        variables = [variable.value for variable in layer.trainable_variables]

        @tf.function(autograph=False)
        def both(x: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True) if layer is ours else layer(x)
                loss = tf.reduce_sum(y**2)
            return y, tape.gradient(loss, [x, *variables])

        return both.get_concrete_function(x)

    graphs = [passes(layer) for layer in (ours, theirs)]
    for mine, others in zip(*(tf.nest.flatten(graph(x)) for graph in graphs), strict=True):
        np.testing.assert_array_equal(mine, others)
    moved = [next(one for one in graph.graph.get_operations() if one.type == "SpaceToBatchND") for graph in graphs]
    readers = [{one.type for one in operation.outputs[0].consumers()} for operation in moved]
    assert len(readers[0]) == 1 and "BackpropFilter" in " ".join(readers[1])


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


def test_a_dilated_depthwise_convolution_equals_that_of_keras(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 20, 17, 3)).astype("float32")
    options = {"dilation_rate": 4, "padding": "same", "depth_multiplier": 2, "bias_initializer": "ones"}
    ours, theirs = DilatedDepthwiseConv2D(3, **options), keras.layers.DepthwiseConv2D(3, **options)
    ours.build(x.shape)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_array_equal(ours(x), theirs(x))


def test_it_is_one_operation_for_converters_only() -> None:
    image = keras.Input((None, None, 3))
    model = keras.Model(image, separable_conv_bn_relu(image, 4, 3, dilation=2, name="x"))
    spec = tf.TensorSpec((None, None, None, 3), tf.float32)

    def graph() -> dict[str, tf.Operation]:
        concrete = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
        return {operation.type: operation for operation in concrete.graph.get_operations()}

    with converting():
        found = graph()
    assert "SpaceToBatchND" not in found
    depthwise = found["DepthwiseConv2dNative"]
    assert depthwise.get_attr("dilations") == [1, 2, 2, 1] and depthwise.get_attr("padding") == b"SAME"
    assert "SpaceToBatchND" in graph(), "TensorFlow without oneDNN cannot run the one operation"


def test_what_converters_are_given_computes_the_same() -> None:
    layer = DilatedDepthwiseConv2D(3, dilation_rate=3, padding="same", bias_initializer="ones")
    x = np.random.default_rng(0).normal(size=(1, 12, 11, 4)).astype("float32")
    expected = layer(x)
    kernel = np.transpose(layer.kernel.numpy(), (0, 1, 3, 2)) * np.eye(4)[None, None]  # (3, 3, 4, 4), zero off-diagonal
    np.testing.assert_allclose(tf.nn.conv2d(x, kernel, 1, "SAME", dilations=3) + 1.0, expected, atol=1e-5)
