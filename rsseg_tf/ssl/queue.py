"""A ring of past keys, which serve as negatives."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rsseg_tf.ssl.heads import l2_normalise

__all__ = ["Queue"]


class Queue(keras.layers.Layer):
    """The last `size` keys in a ring, and the place of the next one; both are weights, so checkpoints hold them.

    Attributes:
        keys: (size, dim) float32, rows of length 1 (random ones at first) or, with `empty`, zeros until filled.
        pointer: Int32 scalar, the row that the next batch begins at.
    """

    def __init__(self, size: int, dim: int, *, empty: bool = False, name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.size = size

        def unit_rows(shape: Any, dtype: Any = None) -> Any:
            return l2_normalise(keras.random.normal(shape, dtype=dtype))

        self.keys = self.add_weight(
            name="keys", shape=(size, dim), initializer="zeros" if empty else unit_rows, trainable=False, autocast=False
        )
        self.pointer = self.add_weight(
            name="pointer", shape=(), dtype="int32", initializer="zeros", trainable=False, autocast=False
        )
        self.built = True

    def push(self, keys: Any, *, when: Any = True) -> None:
        """Replaces the oldest rows.

        Args:
            keys: (n, dim); n divides the size.
            when: Boolean scalar; False changes nothing.
        """
        before, pointer = self.keys.value, self.pointer.value
        after = ops.slice_update(before, [pointer, 0], ops.cast(keys, "float32"))
        self.keys.assign(ops.where(when, after, before))
        self.pointer.assign(ops.where(when, (pointer + ops.shape(keys)[0]) % self.size, pointer))

    def full(self) -> Any:
        """Returns whether an `empty` queue has been filled once: its last row is the last one to be written."""
        return ops.any(ops.not_equal(self.keys.value[-1], 0.0))
