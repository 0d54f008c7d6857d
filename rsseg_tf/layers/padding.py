"""Padding to sizes that a network can take, and cutting its features back."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["CropToStride", "PadToMultiple"]


@keras.saving.register_keras_serializable(package="rsseg_tf")
class PadToMultiple(keras.layers.Layer):
    """Adds zeros at the bottom and at the right until height and width are multiples of a number.

    Args:
        multiple: Of what height and width become multiples, >= 1.
        at_least: The least height and width, a multiple of `multiple`; by default that number itself.
        name: Name of the layer.
        trainable: Has no effect; part of every Keras layer's config.
        dtype: Name of a dtype or a `keras.DTypePolicy`.
    """

    def __init__(
        self,
        multiple: int,
        *,
        at_least: int | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        at_least = multiple if at_least is None else at_least
        if multiple < 1 or at_least < multiple or at_least % multiple:
            raise ValueError(f"multiple must be at least 1 and divide at_least; got {multiple} and {at_least}.")
        self.multiple, self.at_least = multiple, at_least

    def call(self, x: Any) -> Any:
        """Pads (B, H, W, C) to (B, H', W', C)."""
        _, height, width, _ = ops.shape(x)
        return ops.pad(x, [[0, 0], [0, self._missing(height)], [0, self._missing(width)], [0, 0]])

    def _missing(self, side: Any) -> Any:
        if isinstance(side, int):
            return max(side + -side % self.multiple, self.at_least) - side
        return ops.maximum((side + self.multiple - 1) // self.multiple * self.multiple, self.at_least) - side

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """Returns (B, H', W', C)."""
        sides = (None if side is None else side + self._missing(side) for side in input_shape[1:3])
        return (input_shape[0], *sides, input_shape[3])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "multiple": self.multiple, "at_least": self.at_least}


@keras.saving.register_keras_serializable(package="rsseg_tf")
class CropToStride(keras.layers.Layer):
    """Cuts features of a padded image to what belongs to the image: its sides by the stride, rounded up.

    Args:
        stride: Pixels of the image to one of the features, >= 1.
        name: Name of the layer.
        trainable: Has no effect; part of every Keras layer's config.
        dtype: Name of a dtype or a `keras.DTypePolicy`.
    """

    def __init__(self, stride: int, *, name: str | None = None, trainable: bool = True, dtype: Any = None) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        if stride < 1:
            raise ValueError(f"stride must be at least 1; got {stride}.")
        self.stride = stride

    def call(self, x: Any, image: Any) -> Any:
        """Cuts (B, h, w, C) to (B, ceil(H / stride), ceil(W / stride), C) for an image (B, H, W, any)."""
        _, height, width, _ = ops.shape(image)
        return x[:, : (height + self.stride - 1) // self.stride, : (width + self.stride - 1) // self.stride]

    def compute_output_shape(self, x_shape: Any, image_shape: Any) -> tuple[Any, ...]:
        """Returns (B, ceil(H / stride), ceil(W / stride), C)."""
        sides = (None if side is None else -(-side // self.stride) for side in image_shape[1:3])
        return (x_shape[0], *sides, x_shape[3])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "stride": self.stride}
