"""Images of any size, read from top to bottom in bands of rows: memory grows with the width, not with the height.

PNG and TIFF are streamed by GDAL. JPEG is decoded whole by OpenCV up to 64 Mpx, because GDAL does not smooth the colour
of subsampled JPEG and so gives other pixels than every other reader; larger ones are streamed all the same.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.gdal import HEAD_BYTES, opened_raster, reading
from rsseg_tf.rasters.headers import check_jpeg, check_png, image_kind
from rsseg_tf.rasters.images import decode_image

__all__ = ["RowBands", "RowReader", "open_rows"]

RowBands = Literal["as_rgb", "rgb_only", "stored", "mask"]
"""Which bands to read: red, green and blue of any eight-bit image (grey is repeated, palettes looked up, alpha left
out); the same, but of images with three bands alone; all bands as stored; the one band of a mask of class values."""

_WHOLE_JPEG_PIXELS = 64_000_000
_GDAL_CACHE_MB = 32


@dataclass
class RowReader:
    """An open image.

    Attributes:
        height: Rows.
        width: Columns.
        bands: RowBands that `read` gives.
        dtype: NumPy name of the pixel type.
        read: `read(y0, y1)` returns the rows `y0..y1-1` as `(y1 - y0, W, bands)`; fast when called downwards.
        crs: Coordinate reference system of a TIFF, or None.
        transform: From (column, row) to coordinates; None where the file has none.
    """

    height: int
    width: int
    bands: int
    dtype: str
    read: Callable[[int, int], np.ndarray]
    crs: CRS | None = None
    transform: Affine | None = None


@contextlib.contextmanager
def open_rows(path: Path, name: str, bands: RowBands) -> Iterator[RowReader]:
    """Opens a PNG, JPEG or TIFF file for reading in bands of rows.

    Args:
        path: The file.
        name: What to call it in errors.
        bands: Which bands to read.

    Yields:
        The image.

    Raises:
        DataError: When the file is damaged or cut short (for TIFF, possibly while reading), of another kind, or has
            other bands or another type than wanted.
    """
    with path.open("rb") as handle:
        head = handle.read(HEAD_BYTES)
    kind = image_kind(head, name)
    if kind == "VRT":
        raise DataError(f"{name} is a VRT; a PNG, JPEG or TIFF is expected here. Convert it to one.")
    if kind != "TIFF":
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = check_png(data, name) if kind == "PNG" else check_jpeg(data, name)
            if kind == "JPEG" and header.height * header.width <= _WHOLE_JPEG_PIXELS:
                pixels = decode_image(data[:], name)
                choose = _chooser(pixels.shape[2], str(pixels.dtype), None, bands, name)
                yield RowReader(
                    pixels.shape[0],
                    pixels.shape[1],
                    choose.bands,
                    str(pixels.dtype),
                    lambda y0, y1: choose(pixels[y0:y1]),
                )
                return
    driver = {"PNG": "PNG", "JPEG": "JPEG", "TIFF": "GTiff"}[kind]
    with ExitStack() as stack:
        stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE_MB))
        # Not `open_raster`: the caller writes other files meanwhile, and a full disk is no damage of this one.
        file = stack.enter_context(opened_raster(path, driver, name))
        colours = None
        if file.count == 1 and file.colorinterp[0].name == "palette":
            colours = np.zeros((256, 3), np.uint8)
            for index, colour in file.colormap(1).items():
                colours[index] = colour[:3]
        choose = _chooser(file.count, file.dtypes[0], colours, bands, name)

        def read(y0: int, y1: int) -> np.ndarray:
            with reading(name, driver):
                return choose(file.read(choose.indexes, window=((y0, y1), (0, file.width))).transpose(1, 2, 0))

        transform = None if file.transform == Affine.identity() else file.transform
        yield RowReader(file.height, file.width, choose.bands, file.dtypes[0], read, file.crs, transform)


@dataclass(frozen=True)
class _Chooser:
    """Turns rows as stored into the bands to read."""

    indexes: list[int]
    """Stored bands that are needed, from 1."""
    bands: int
    repeat: bool = False
    colours: np.ndarray | None = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        if self.colours is not None:
            return self.colours[rows[..., 0]]
        if self.repeat:
            return np.repeat(rows[..., :1], 3, axis=2)
        return np.ascontiguousarray(rows[..., : self.bands])


def _chooser(stored: int, dtype: str, colours: np.ndarray | None, bands: RowBands, name: str) -> _Chooser:
    if bands != "stored" and dtype != "uint8":
        raise DataError(f"{name} holds {dtype} pixels; uint8 is expected of this dataset. Check the download.")
    shown = 3 if colours is not None else stored
    if bands == "mask":
        if stored != 1:
            raise DataError(f"{name} has {stored} bands; one band of class values is expected. Check the download.")
        return _Chooser([1], 1)
    if bands == "rgb_only" and shown != 3:
        raise DataError(f"{name} has {shown} bands of {dtype}; 3 of uint8 are expected.")
    if colours is not None:
        return _Chooser([1], 3, colours=colours)
    if bands == "stored":
        return _Chooser(list(range(1, stored + 1)), stored)
    if stored in (1, 2):
        return _Chooser([1], 3, repeat=True)
    return _Chooser([1, 2, 3], 3)
