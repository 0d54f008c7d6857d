"""What a graph is traced for, where layers must know it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

__all__ = ["converting", "is_converting", "is_in_eight_bits"]

_TARGET: ContextVar[Literal["tensorflow", "converter", "eight_bits"]] = ContextVar("target", default="tensorflow")


@contextmanager
def converting(*, eight_bits: bool = False) -> Iterator[None]:
    """Traces graphs for converters to TFLite and ONNX; TensorFlow may not run them. See `DilatedDepthwiseConv2D`.

    Args:
        eight_bits: Whether activations will be whole numbers of 8 bits. Then attention is computed in other steps,
            see `rsseg_tf.layers.attention`.
    """
    token = _TARGET.set("eight_bits" if eight_bits else "converter")
    try:
        yield
    finally:
        _TARGET.reset(token)


def is_converting() -> bool:
    """Tells whether a graph is traced for a converter."""
    return _TARGET.get() != "tensorflow"


def is_in_eight_bits() -> bool:
    """Tells whether activations of the traced graph will be whole numbers of 8 bits."""
    return _TARGET.get() == "eight_bits"
