"""Reads a part of an open raster: its pixels as stored, and where they are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling

from rsseg_tf.rasters.nodata import equals_nodata
from rsseg_tf.rasters.windows import Size, Window

__all__ = ["RasterPart", "interleaved", "read_part"]


class RasterPart(NamedTuple):
    """A part of a raster.

    Attributes:
        bands: `(bands, H, W)` as stored.
        masked: `(H, W)`, True where an alpha band or a mask of all bands is 0; None without either.
        absent: For each band `(H, W)`, True where it alone declares that there is no value; None if it does nowhere.
    """

    bands: NDArray
    masked: NDArray[np.bool_] | None
    absent: list[NDArray[np.bool_] | None]


def read_part(
    source: rasterio.DatasetReader,
    part: Window,
    bands: Sequence[int],
    *,
    alpha: int | None = None,
    dtype: np.dtype,
    size: Size | None = None,
) -> RasterPart:
    """Reads a part of an open raster.

    Args:
        source: The raster.
        part: The window to read, within it.
        bands: The bands to read and their order, from 1.
        alpha: The band that is the mask, if one is.
        dtype: Type that holds the values of all of them.
        size: Size to which the part is reduced, for a preview.
    """
    window = ((part.y0, part.y1), (part.x0, part.x1))
    shape = size or (part.y1 - part.y0, part.x1 - part.x0)
    bands = list(bands)
    # Averages matter for previews alone: without `size` nothing is resampled.
    how = {"window": window, "resampling": Resampling.average}
    if len({source.dtypes[band - 1] for band in bands}) == 1:
        stored = source.read(bands, out_shape=(len(bands), *shape), **how)
    else:  # rasterio reads bands of one type at a time
        stored = np.stack([source.read(band, out_shape=shape, **how).astype(dtype) for band in bands])
    flags = [source.mask_flag_enums[band - 1] for band in bands]
    masked = None
    if alpha is not None:
        masked = source.read(alpha, window=window, out_shape=shape) == 0
    # GDAL reports an alpha band as a mask of the dataset too, also one that is read as data.
    elif any(MaskFlags.per_dataset in found and MaskFlags.alpha not in found for found in flags):
        masked = source.dataset_mask(window=window, out_shape=shape) == 0
    absent = []
    for position, band in enumerate(bands):
        # Compared by value: read_masks would read the pixels again, and warns of an alpha band beside a nodata value.
        here = equals_nodata(stored[position], source.nodatavals[band - 1])
        if not flags[position]:  # a mask of this band alone
            own = source.read_masks(band, window=window, out_shape=shape) == 0
            here = own if here is None else here | own
        absent.append(here)
    return RasterPart(stored, masked, absent)


def interleaved(bands: NDArray) -> NDArray:
    """Returns `(bands, H, W)` as `(H, W, bands)`, contiguous."""
    if bands.shape[0] in (3, 4) and bands.dtype in (np.uint8, np.uint16, np.float32):
        return cv2.merge(list(bands))  # several times as fast as NumPy
    return np.ascontiguousarray(bands.transpose(1, 2, 0))
