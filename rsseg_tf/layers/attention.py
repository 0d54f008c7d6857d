"""Attention between pixels, between channels, and between pixels and classes.

All of them compute similarities and their softmax in float32, whatever the features' dtype.

In 8 bits a softmax is a multiple of 1/256: over thousands of pixels it is all zeros. A graph for such files divides by
the sum of the exponentials in other places, see `_means`.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rsseg_tf.layers.tracing import is_in_eight_bits

__all__ = ["AttendRegions", "ChannelAttention", "GatherRegions", "MultiHeadAttention", "PositionAttention"]


@keras.saving.register_keras_serializable(package="rsseg_tf")
class PositionAttention(keras.layers.Layer):
    """Adds to every pixel a mixture of all pixels' values, weighted by how alike they are.

    Fu et al., Dual Attention Network for Scene Segmentation, https://arxiv.org/abs/1809.02983.
    Source: PAM in paddleseg/models/danet.py of PaddleSeg. Memory grows with (H * W) squared.
    """

    def build(self, x_shape: Any, query_shape: Any, key_shape: Any, value_shape: Any) -> None:
        """Makes the weight of the mixture, 0 at first."""
        self.gamma = self.add_weight(name="gamma", shape=(1,), initializer="zeros", dtype="float32", autocast=False)

    def call(self, x: Any, query: Any, key: Any, value: Any) -> Any:
        """Mixes pixels.

        Args:
            x: (B, H, W, C).
            query: (B, H, W, K).
            key: (B, H, W, K).
            value: (B, H, W, C).

        Returns:
            (B, H, W, C): x + gamma * mixture.
        """
        query, key, value = (_flat(tensor) for tensor in (query, key, value))
        mixed = _mixture(ops.einsum("bqk,bpk->bqp", query, key), value)
        return x + ops.cast(self.gamma, x.dtype) * ops.reshape(mixed, ops.shape(x))

    def compute_output_shape(self, x_shape: Any, query_shape: Any, key_shape: Any, value_shape: Any) -> Any:
        """Returns (B, H, W, C)."""
        return x_shape


@keras.saving.register_keras_serializable(package="rsseg_tf")
class ChannelAttention(keras.layers.Layer):
    """Adds to every channel a mixture of all channels, weighted by how unlike they are.

    Fu et al., Dual Attention Network for Scene Segmentation, https://arxiv.org/abs/1809.02983.
    Source: CAM in paddleseg/models/danet.py of PaddleSeg.
    """

    def build(self, x_shape: Any) -> None:
        """Makes the weight of the mixture, 0 at first."""
        self.gamma = self.add_weight(name="gamma", shape=(1,), initializer="zeros", dtype="float32", autocast=False)

    def call(self, x: Any) -> Any:
        """(B, H, W, C) to (B, H, W, C): x + gamma * mixture."""
        flat = ops.cast(_flat(x), "float32")
        similarity = ops.einsum("bpc,bpd->bcd", flat, flat)
        # Turned around: the most alike get the least weight. The difference to the maximum also keeps gradients small.
        unlike = ops.max(similarity, axis=-1, keepdims=True) - similarity
        mixed = ops.swapaxes(_mixture(unlike, ops.swapaxes(flat, 1, 2)), 1, 2)
        return x + ops.cast(self.gamma * ops.reshape(mixed, ops.shape(x)), x.dtype)

    def compute_output_shape(self, x_shape: Any) -> Any:
        """Returns (B, H, W, C)."""
        return x_shape


@keras.saving.register_keras_serializable(package="rsseg_tf")
class GatherRegions(keras.layers.Layer):
    """The mean feature of each class, over the pixels as far as they are likely to belong to it.

    Yuan et al., Object-Contextual Representations for Semantic Segmentation, https://arxiv.org/abs/1909.11065.
    Source: SpatialGatherBlock in paddleseg/models/ocrnet.py of PaddleSeg.
    """

    def call(self, pixels: Any, regions: Any) -> Any:
        """Gathers features.

        Args:
            pixels: (B, H, W, C).
            regions: (B, H, W, K) logits of K classes.

        Returns:
            (B, K, 1, C): the softmax is taken over the pixels of a class.
        """
        if is_in_eight_bits():
            # Rows by themselves, then the rows: so no sum counts more pixels than a row or a column has.
            rows, sizes = _means(ops.transpose(regions, (0, 1, 3, 2)), pixels)  # (B, H, K, C), (B, H, K)
            mixed, _ = _means(ops.transpose(sizes, (0, 2, 1))[:, :, None, :], ops.transpose(rows, (0, 2, 1, 3)))
            return mixed
        return _mixture(ops.swapaxes(_flat(regions), 1, 2), _flat(pixels))[:, :, None, :]

    def compute_output_shape(self, pixels_shape: Any, regions_shape: Any) -> tuple[Any, ...]:
        """Returns (B, K, 1, C)."""
        return (pixels_shape[0], regions_shape[-1], 1, pixels_shape[-1])


@keras.saving.register_keras_serializable(package="rsseg_tf")
class AttendRegions(keras.layers.Layer):
    """Gives every pixel a mixture of the classes' values, weighted by how alike pixel and class are.

    Source: ObjectAttentionBlock in paddleseg/models/ocrnet.py of PaddleSeg.
    """

    def call(self, query: Any, key: Any, value: Any) -> Any:
        """Mixes classes.

        Args:
            query: (B, H, W, C) of the pixels.
            key: (B, K, 1, C) of the classes.
            value: (B, K, 1, D) of the classes.

        Returns:
            (B, H, W, D).
        """
        channels = query.shape[-1]
        similarity = ops.cast(ops.einsum("bpc,bkc->bpk", _flat(query), _flat(key)), "float32")
        mixed = _mixture(channels**-0.5 * similarity, _flat(value))
        batch, height, width, _ = ops.shape(query)
        return ops.reshape(mixed, (batch, height, width, value.shape[-1]))

    def compute_output_shape(self, query_shape: Any, key_shape: Any, value_shape: Any) -> tuple[Any, ...]:
        """Returns (B, H, W, D)."""
        return (*query_shape[:-1], value_shape[-1])


@keras.saving.register_keras_serializable(package="rsseg_tf")
class MultiHeadAttention(keras.layers.Layer):
    """Gives every pixel a mixture of values, weighted by how alike its query and their keys are, in each head.

    It has no weights: queries, keys and values are projected before it. Keys may be of a coarser map than queries.
    Memory grows with the product of both numbers of pixels.

    Vaswani et al., Attention Is All You Need, https://arxiv.org/abs/1706.03762.

    Args:
        heads: Number of equal parts of the channels that are compared by themselves.
        name: Name of the layer.
        trainable: Has no effect; part of every Keras layer's config.
        dtype: Name of a dtype or a `keras.DTypePolicy`.
    """

    def __init__(self, heads: int = 1, *, name: str | None = None, trainable: bool = True, dtype: Any = None) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.heads = heads

    def call(self, query: Any, key: Any, value: Any) -> Any:
        """Mixes values.

        Args:
            query: (B, H, W, C), C a multiple of `heads`.
            key: (B, h, w, C).
            value: (B, h, w, C).

        Returns:
            (B, H, W, C).
        """
        # Scaled before the product: queries are fewer numbers than similarities, and half precision overflows later.
        query = query * ops.cast((query.shape[-1] // self.heads) ** -0.5, query.dtype)
        queries, keys, values = (self._split(tensor) for tensor in (query, key, value))
        mixed = _mixture(ops.matmul(queries, ops.transpose(keys, (0, 1, 3, 2))), values)
        return ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), ops.shape(query))

    def _split(self, x: Any) -> Any:
        """(B, H, W, C) to (B, heads, H * W, C / heads)."""
        batch, height, width, channels = ops.shape(x)
        parts = ops.reshape(x, (batch, height * width, self.heads, channels // self.heads))
        return ops.transpose(parts, (0, 2, 1, 3))

    def compute_output_shape(self, query_shape: Any, key_shape: Any, value_shape: Any) -> Any:
        """Returns (B, H, W, C)."""
        return query_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "heads": self.heads}


def _mixture(logits: Any, values: Any) -> Any:
    """Mixes values (..., N, C) with the softmax of logits (..., M, N) as weights: (..., M, C)."""
    logits = ops.cast(logits, "float32")
    if is_in_eight_bits():
        return _means(logits, values)[0]
    # An image may be so small that there is one pixel to choose from. Keras warns of that.
    weights = ops.ones_like(logits) if logits.shape[-1] == 1 else ops.softmax(logits, axis=-1)
    return ops.matmul(ops.cast(weights, values.dtype), values)


def _means(logits: Any, values: Any) -> tuple[Any, Any]:
    """Returns what `_mixture` does, (..., M, C), and the logarithm of the sum of all exponentials, (..., M).

    Every number on the way keeps its size in 8 bits.
    """
    largest = ops.max(logits, axis=-1, keepdims=True)
    weights = ops.exp(logits - largest)
    size = ops.log(ops.sum(weights, axis=-1, keepdims=True))
    # Half of the division before the product and half behind it: neither a few pixels nor many are lost.
    half = ops.exp(-0.5 * size)
    return ops.matmul(weights * half, values) * half, (largest + size)[..., 0]


def _flat(x: Any) -> Any:
    """(B, H, W, C) to (B, H * W, C)."""
    batch, height, width, channels = ops.shape(x)
    return ops.reshape(x, (batch, height * width, channels))
