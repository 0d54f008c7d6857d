"""Windows for networks of one size, and their features put together again."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["JoinWindows", "SplitWindows"]


@keras.saving.register_keras_serializable(package="rsseg_tf")
class SplitWindows(keras.layers.Layer):
    """Cuts images into square windows that lie side by side; what is missing at the bottom and right is zeros.

    Args:
        size: Side of a window in pixels, >= 1.
        name: Name of the layer.
        trainable: Has no effect; part of every Keras layer's config.
        dtype: Name of a dtype or a `keras.DTypePolicy`.
    """

    def __init__(self, size: int, *, name: str | None = None, trainable: bool = True, dtype: Any = None) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        if size < 1:
            raise ValueError(f"size must be at least 1; got {size}.")
        self.size = size

    def call(self, image: Any) -> Any:
        """Cuts (B, H, W, C) into (B * rows * columns, size, size, C), row by row."""
        _, height, width, channels = ops.shape(image)
        rows, columns = _windows(height, self.size), _windows(width, self.size)
        padding = [[0, 0], [0, rows * self.size - height], [0, columns * self.size - width], [0, 0]]
        x = ops.reshape(ops.pad(image, padding), (-1, rows, self.size, columns, self.size, channels))
        return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, self.size, self.size, channels))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (number of windows, size, size, C)."""
        return (None, self.size, self.size, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="rsseg_tf")
class JoinWindows(keras.layers.Layer):
    """Puts the features of windows side by side again, and cuts off those of the padding.

    Args:
        size: Side of a window in pixels, as in `SplitWindows`.
        stride: Pixels of the image to one of the features; it divides `size`.
        name: Name of the layer.
        trainable: Has no effect; part of every Keras layer's config.
        dtype: Name of a dtype or a `keras.DTypePolicy`.
    """

    def __init__(
        self, size: int, stride: int, *, name: str | None = None, trainable: bool = True, dtype: Any = None
    ) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        if stride < 1 or size % stride:
            raise ValueError(f"stride must be at least 1 and divide size; got {stride} and {size}.")
        self.size, self.stride = size, stride

    def call(self, x: Any, image: Any) -> Any:
        """Joins (B * rows * columns, s, s, C), where s is `size / stride`, beside the image (B, H, W, any).

        Returns (B, ceil(H / stride), ceil(W / stride), C).
        """
        _, height, width, _ = ops.shape(image)
        rows, columns = _windows(height, self.size), _windows(width, self.size)
        side, channels = self.size // self.stride, x.shape[-1]
        x = ops.transpose(ops.reshape(x, (-1, rows, columns, side, side, channels)), (0, 1, 3, 2, 4, 5))
        x = ops.reshape(x, (-1, rows * side, columns * side, channels))
        return x[:, : (height + self.stride - 1) // self.stride, : (width + self.stride - 1) // self.stride]

    def compute_output_shape(self, x_shape: Any, image_shape: Any) -> tuple[Any, ...]:
        """Returns (B, ceil(H / stride), ceil(W / stride), C)."""
        sides = (None if side is None else -(-side // self.stride) for side in image_shape[1:3])
        return (image_shape[0], *sides, x_shape[3])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "size": self.size, "stride": self.stride}


def _windows(side: Any, size: int) -> Any:
    return (side + size - 1) // size
