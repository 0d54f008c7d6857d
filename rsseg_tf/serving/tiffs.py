"""TIFFs in requests: TensorFlow decodes none, so the server does before it runs the model."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from rsseg_tf.errors import DataError, reason
from rsseg_tf.rasters.gdal import RASTER_ERRORS
from rsseg_tf.rasters.headers import TIFF_SIGNATURES

__all__ = ["decode_tiff", "encode_labels", "is_tiff"]

_DTYPES = {"uint8": {"uint8"}, "float32": {"uint8", "int8", "uint16", "int16", "float32"}}
"""Type that a model takes -> types of pixels that it holds exactly."""


def is_tiff(data: bytes) -> bool:
    """Tells a TIFF by its first bytes."""
    return data.startswith(TIFF_SIGNATURES)


def decode_tiff(data: bytes, *, bands: int, dtype: str) -> NDArray:
    """Decodes a TIFF whose size is known to be within the limits.

    Args:
        data: The file.
        bands: How many it must have; an alpha band beyond them is dropped.
        dtype: Type that the model takes.

    Returns:
        `(H, W, bands)` of `dtype`, with the values as stored.

    Raises:
        DataError: When it cannot be read, or does not suit the model.
    """
    try:
        # GTiff alone: other drivers of GDAL would follow paths and addresses in what a client sends.
        with MemoryFile(data) as file, file.open(driver="GTiff") as source:
            has_alpha = source.count == bands + 1 and source.colorinterp[-1] is ColorInterp.alpha
            if source.count != bands and not has_alpha:
                raise DataError(f"the model needs {bands} bands; the TIFF has {source.count}")
            if ColorInterp.palette in source.colorinterp:
                raise DataError("the TIFF must not have a palette; save it with its colours")
            if not set(source.dtypes) <= _DTYPES[dtype]:
                raise DataError(f"the TIFF's pixels are {source.dtypes[0]}, which does not fit the model's {dtype}")
            pixels: NDArray = source.read(range(1, bands + 1))
    except RASTER_ERRORS as error:
        raise DataError(f"the TIFF cannot be read: {reason(error)}") from error
    # rasterio gives bands first; TensorFlow takes them last, and in one piece.
    return np.ascontiguousarray(pixels.transpose(1, 2, 0).astype(dtype))


def encode_labels(class_map: NDArray[np.uint8]) -> bytes:
    """Returns a grey PNG of class ids, as the signature `predict_bytes` does."""
    encoded: bytes = tf.io.encode_png(class_map[..., np.newaxis]).numpy()
    return encoded
