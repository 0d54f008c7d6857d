"""Projectors and predictors: two or three fully connected layers, for vectors and, cell by cell, for feature maps."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rsseg_tf.layers import BatchNorm

__all__ = ["l2_normalise", "linear", "mlp", "pool"]

_LEAST = 1e-24  # squared length below which a vector is taken for zero


def linear(x: Any, units: int, *, name: str, use_bias: bool = True) -> Any:
    """A fully connected layer over the last axis; on a map that is a 1x1 convolution.

    The weights start as in torch's `Linear`, which all six official codes were tuned with: uniform within one over the
    square root of the input's channels.
    """
    initializer = keras.initializers.VarianceScaling(scale=1.0 / 3.0, mode="fan_in", distribution="uniform")
    return keras.layers.Dense(units, use_bias=use_bias, kernel_initializer=initializer, name=name)(x)


def mlp(x: Any, hidden: int, units: int, *, name: str, batch_norm: bool) -> Any:
    """Two fully connected layers: `name_fc1`, perhaps batch normalisation, ReLU, `name_fc2`.

    Args:
        x: (B, C) or (B, H, W, C).
        hidden: Channels in between.
        units: Channels of the result.
        name: Prefix of the layers.
        batch_norm: Whether the hidden channels are normalised.
    """
    x = linear(x, hidden, name=f"{name}_fc1")
    if batch_norm:
        x = BatchNorm(name=f"{name}_fc1_bn")(x)
    x = keras.layers.ReLU(name=f"{name}_fc1_relu")(x)
    return linear(x, units, name=f"{name}_fc2")


def pool(x: Any, *, name: str = "global_pool") -> Any:
    """Mean over the pixels, (B, H, W, C) to (B, C)."""
    return keras.layers.GlobalAveragePooling2D(name=name)(x)


def l2_normalise(x: Any) -> Any:
    """Divides the vectors along the last axis by their length; float32 at least. Zero stays zero."""
    if keras.backend.standardize_dtype(x.dtype) in ("float16", "bfloat16"):
        x = ops.cast(x, "float32")
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    # The maximum lies inside of the root, whose gradient at 0 would not be finite.
    return x * ops.rsqrt(ops.maximum(square, _LEAST))
