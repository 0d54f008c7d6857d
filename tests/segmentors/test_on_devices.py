"""Segmentors for phones become TFLite files of the operators that phones are fast at."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.layers import converting
from rsseg_tf.segmentors import deeplabv3plus, lraspp
from tests.fixtures.backbones import narrow_mobilenet_v3

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="the extra tflite is not installed")


def _lraspp() -> keras.Model:
    return lraspp(narrow_mobilenet_v3(), num_classes=3, channels=8)


def _deeplabv3plus() -> keras.Model:
    return deeplabv3plus(narrow_mobilenet_v3(), num_classes=3, aspp_rates=(1, 2), aspp_channels=8, decoder_channels=8)


def convert(model: keras.Model, size: tuple[int | None, int | None], quantise: bool) -> bytes:
    """Returns a TFLite file of a fixed or of any size, with whole numbers as weights or not."""
    holder = tf.Module()
    holder.variables_of_model = [variable.value for variable in model.variables]
    with converting():
        function = tf.function(lambda image: model(image, training=False)["main"]).get_concrete_function(
            tf.TensorSpec((1, *size, 3), tf.float32)
        )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if quantise:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bytes(converter.convert())


@pytest.mark.parametrize(
    ("build", "size", "quantise"),
    [
        (_lraspp, (64, 64), True),
        (_lraspp, (None, None), False),
        (_deeplabv3plus, (64, 64), False),
        (_deeplabv3plus, (None, None), True),
    ],
)
def test_operators(build: Callable[[], keras.Model], size: tuple[int | None, int | None], quantise: bool) -> None:
    model = build()
    for variable in model.weights:
        if variable.name == "kernel":
            variable.assign(keras.random.normal(variable.shape, stddev=np.prod(variable.shape[:3]) ** -0.5, seed=1))
    interpreter = litert.Interpreter(model_content=convert(model, size, quantise), num_threads=1)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, image.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(index, image)
    interpreter.invoke()
    logits = np.asarray(model(image, training=False)["main"])
    difference = np.abs(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]) - logits).max()
    assert difference < (0.2 if quantise else 1e-5) * logits.std()

    operators = Counter(operator["op_name"] for operator in interpreter._get_ops_details())
    layers = Counter(type(layer).__name__.removeprefix("Dilated") for layer in model.layers)
    # One operator for each convolution: normalisations are in their weights, dilation in their options.
    assert operators["DEPTHWISE_CONV_2D"] == layers["DepthwiseConv2D"]
    assert operators["CONV_2D"] == layers["Conv2D"]
    assert operators["HARD_SWISH"] == sum(layer.name.endswith("_hard_silu") for layer in model.layers)
    assert operators["MEAN"] == layers["AdaptiveAveragePooling"]
    assert operators["RESIZE_BILINEAR"] == layers["ResizeLike"]
    assert not {name for name in operators if name.startswith("Flex") or "BATCH" in name or name == "RSQRT"}
