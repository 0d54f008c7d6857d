"""Resizing to the size of another tensor."""

from __future__ import annotations

from typing import Any, Literal

import keras
from keras import ops

__all__ = ["ResizeLike"]

Interpolation = Literal["bilinear", "nearest"]


@keras.saving.register_keras_serializable(package="rsseg_tf")
class ResizeLike(keras.layers.Layer):
    """Resizes images, without antialiasing, to the height and width of a reference.

    `keras.ops.image.resize` and `keras.layers.UpSampling2D` refuse sizes that are unknown when the graph is built.

    Args:
        align_corners: False puts pixel centres at half-integers (paddle's `align_corners=False, align_mode=0`);
            True makes the centres of the corner pixels coincide.
        half_pixel_centers: False puts pixel centres at integers instead, so that the upper left corners coincide
            (paddle's `align_mode=1`). It has no effect with `align_corners`.
        factor: Whole number by which both sides are multiplied in a step of its own before they are brought to the
            reference's; that differs from one step only where the product is not the reference's size.
        interpolation: `"bilinear"`, or `"nearest"` for the pixel at floor(i * h / H), as torch takes it; the other
            arguments then have no effect.
        name: Name of the layer.
        trainable: Has no effect; part of every Keras layer's config.
        dtype: Name of a dtype or a `keras.DTypePolicy`. The interpolation is computed in float32; the result has the
            dtype that the policy computes in, so `dtype="float32"` gives float32 under mixed precision.
    """

    def __init__(
        self,
        *,
        align_corners: bool = False,
        half_pixel_centers: bool = True,
        factor: int = 1,
        interpolation: Interpolation = "bilinear",
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.align_corners = align_corners
        self.half_pixel_centers = half_pixel_centers
        if factor < 1:
            raise ValueError(f"factor must be at least 1; got {factor}.")
        if interpolation not in ("bilinear", "nearest"):
            raise ValueError(f"interpolation must be bilinear or nearest; got {interpolation!r}.")
        self.factor, self.interpolation = factor, interpolation

    def call(self, x: Any, reference: Any) -> Any:
        """Resizes x (B, h, w, C) to (B, H, W, C) for a reference of shape (B, H, W, any)."""
        _, height, width, _ = ops.shape(reference)
        if self.interpolation == "nearest":
            return _resize_nearest(x, height, width)
        resized = ops.cast(x, "float32")
        if self.factor > 1:
            _, rows, columns, _ = ops.shape(x)
            between = rows * self.factor, columns * self.factor
            resized = self._to(resized, *between)
            if all(isinstance(size, int) for size in (*between, height, width)) and between == (height, width):
                return ops.cast(resized, x.dtype)
        return ops.cast(self._to(resized, height, width), x.dtype)

    def _to(self, x: Any, height: Any, width: Any) -> Any:
        half_pixel = self.half_pixel_centers and not self.align_corners
        return _resize_bilinear(x, height, width, align_corners=self.align_corners, half_pixel=half_pixel)

    def compute_output_shape(self, x_shape: Any, reference_shape: Any) -> tuple[Any, ...]:
        """Returns (B, H, W, C)."""
        return (x_shape[0], reference_shape[1], reference_shape[2], x_shape[3])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "align_corners": self.align_corners,
            "half_pixel_centers": self.half_pixel_centers,
            "factor": self.factor,
            "interpolation": self.interpolation,
        }


def _resize_nearest(x: Any, height: Any, width: Any) -> Any:
    """(B, h, w, C) -> (B, height, width, C) of the same dtype."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.ResizeNearestNeighbor(
            images=x, size=tf.stack([height, width]), align_corners=False, half_pixel_centers=False
        )
    _, rows, columns, _ = ops.shape(x)
    x = ops.take(x, ops.arange(height) * rows // height, axis=1)
    return ops.take(x, ops.arange(width) * columns // width, axis=2)


def _resize_bilinear(x: Any, height: Any, width: Any, *, align_corners: bool, half_pixel: bool) -> Any:
    """(B, h, w, C) float32 -> (B, height, width, C) float32."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.raw_ops.ResizeBilinear(
            images=x, size=tf.stack([height, width]), align_corners=align_corners, half_pixel_centers=half_pixel
        )
    rows = _interpolation_weights(ops.shape(x)[1], height, align_corners=align_corners, half_pixel=half_pixel)
    columns = _interpolation_weights(ops.shape(x)[2], width, align_corners=align_corners, half_pixel=half_pixel)
    return ops.einsum("Hh,bhwc,Ww->bHWc", rows, x, columns)


def _interpolation_weights(size: Any, new_size: Any, *, align_corners: bool, half_pixel: bool) -> Any:
    """(new_size, size) float32 weights of linear interpolation along one axis; rows sum to 1."""
    target = ops.cast(ops.arange(new_size, dtype="int32"), "float32")
    last = ops.cast(size - 1, "float32")
    if align_corners:
        source = target * last / ops.cast(ops.maximum(new_size - 1, 1), "float32")
    else:
        shift = 0.5 if half_pixel else 0.0
        source = (target + shift) * (ops.cast(size, "float32") / ops.cast(new_size, "float32")) - shift
    source = ops.clip(source, 0.0, last)
    pixel = ops.cast(ops.arange(size, dtype="int32"), "float32")
    # The weight of a pixel falls linearly from 1 at the sampled place to 0 at a distance of one pixel.
    return ops.maximum(1.0 - ops.abs(source[:, None] - pixel[None, :]), 0.0)
