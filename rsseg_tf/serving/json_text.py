"""JSON with arrays in it, quickly, and with the numbers that TensorFlow Serving takes and JSON has not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

__all__ = ["dump", "dump_array", "parse"]


def parse(text: bytes | bytearray) -> Any:
    """Reads JSON; NaN and infinities too.

    Raises:
        ValueError: when it is not JSON, or its lists are nested too deeply.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None


def dump(value: Any) -> bytes:
    """Writes dictionaries, lists, texts and numbers."""
    return orjson.dumps(value)


def dump_array(array: NDArray) -> bytes:
    """Writes an array of numbers of any rank, floats with no more digits than their type needs."""
    array = np.asarray(array, order="C")
    if array.ndim and (array.dtype.kind in "iub" or (array.dtype.kind == "f" and np.isfinite(array).all())):
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(array.tolist()).encode()  # NaN, where orjson would write null
