"""Pooling that treats borders as PaddleSeg does, and takes sizes that are known only at run time."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["AdaptiveAveragePooling", "HalvingMaxPool", "average_pool_ceil", "max_pool_3x3"]


def average_pool_ceil(x: Any, *, name: str) -> Any:
    """Mean of 2x2 windows with stride 2; windows over the border take the mean of the pixels inside.

    Equals paddle's `AvgPool2D(2, 2, padding=0, ceil_mode=True)` (`exclusive=True`): TensorFlow's SAME padding of
    such a window is one row at the bottom and one column at the right, left out of the mean.

    Args:
        x: (B, H, W, C) floating point.
        name: Name of the layer.

    Returns:
        (B, ceil(H / 2), ceil(W / 2), C).
    """
    return keras.layers.AveragePooling2D(2, strides=2, padding="same", name=name)(x)


@keras.saving.register_keras_serializable(package="rsseg_tf")
class HalvingMaxPool(keras.layers.Layer):
    """Maximum of 2x2 windows with stride 2; a last row or column without a partner is left out, but for the only one.

    Equals paddle's `MaxPool2D(2, 2)`, which takes no image of one pixel.

    Args:
        name: Name of the layer.
        trainable: Has no effect; part of every Keras layer's config.
        dtype: Name of a dtype or a `keras.DTypePolicy`.
    """

    def __init__(self, *, name: str | None = None, trainable: bool = True, dtype: Any = None) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)

    def call(self, x: Any) -> Any:
        """Returns (B, max(H // 2, 1), max(W // 2, 1), C) of (B, H, W, C)."""
        _, height, width, _ = ops.shape(x)
        pooled = ops.max_pool(x, 2, strides=2, padding="same", data_format="channels_last")
        return pooled[:, : self._half(height), : self._half(width)]

    def _half(self, side: Any) -> Any:
        return max(side // 2, 1) if isinstance(side, int) else ops.maximum(side // 2, 1)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (B, max(H // 2, 1), max(W // 2, 1), C)."""
        sides = (None if side is None else self._half(side) for side in input_shape[1:3])
        return (input_shape[0], *sides, input_shape[3])


def max_pool_3x3(x: Any, *, name: str) -> Any:
    """Maximum of 3x3 windows with stride 2 and one pixel of padding on every side.

    The padding is zeros, which equals PaddleSeg's minus infinity only after a ReLU.

    Args:
        x: (B, H, W, C), values >= 0.
        name: Name of the pooling; the padding is called `name_pad`.

    Returns:
        (B, ceil(H / 2), ceil(W / 2), C).
    """
    x = keras.layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, strides=2, name=name)(x)


@keras.saving.register_keras_serializable(package="rsseg_tf")
class AdaptiveAveragePooling(keras.layers.Layer):
    """Averages the pixels of bins x bins regions that cover an image of any size.

    Region i of n along an axis of length s reaches from floor(i*s/n) to ceil((i+1)*s/n), so that neighbours overlap
    where n does not divide s (the definition of paddle and PyTorch). `keras.layers.AdaptiveAveragePooling2D` refuses
    sizes that are unknown when the graph is built; two products with 0/1 matrices do not, and they convert to every
    exported format.

    Args:
        bins: Number of regions per axis, >= 1.
        name: Name of the layer.
        trainable: Has no effect; part of every Keras layer's config.
        dtype: Name of a dtype or a `keras.DTypePolicy`. The means are computed in float32.
    """

    def __init__(self, bins: int, *, name: str | None = None, trainable: bool = True, dtype: Any = None) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        if bins < 1:
            raise ValueError(f"bins must be at least 1; got {bins}.")
        self.bins = bins

    def call(self, inputs: Any) -> Any:
        """Pools (B, H, W, C) to (B, bins, bins, C) of the same dtype."""
        x = ops.cast(inputs, "float32")
        if self.bins == 1:
            return ops.cast(ops.mean(x, axis=(1, 2), keepdims=True), inputs.dtype)
        _, height, width, _ = ops.shape(x)
        x = ops.einsum("oh,bhwc->bowc", _region_weights(height, self.bins), x)
        x = ops.einsum("ow,bhwc->bhoc", _region_weights(width, self.bins), x)
        return ops.cast(x, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (B, bins, bins, C)."""
        return (input_shape[0], self.bins, self.bins, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "bins": self.bins}


def _region_weights(size: Any, bins: int) -> Any:
    """(bins, size) float32: 1 / length inside a region and 0 outside, so that rows sum to 1."""
    index = ops.arange(bins, dtype="int32")
    start = index * size // bins
    # Not -((-a) // b): ONNX divides negative integers towards zero.
    stop = ((index + 1) * size + bins - 1) // bins
    pixel = ops.arange(size, dtype="int32")[None, :]
    inside = ops.logical_and(pixel >= start[:, None], pixel < stop[:, None])
    return ops.cast(inside, "float32") / ops.cast(stop - start, "float32")[:, None]
