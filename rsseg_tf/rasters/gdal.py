"""Opens files with GDAL: with the driver that fits their first bytes, by a path that GDAL does not parse.

For GDAL and rasterio a text can be many things: `http:x.tif` is a URL, `GTIFF_DIR:1:a.tif` a page, `/vsizip/…` a
member of an archive. An absolute path is none of these.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import Compression, Interleaving
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import readable_name

__all__ = [
    "HEAD_BYTES",
    "MAX_IMAGE_BYTES",
    "RASTER_ERRORS",
    "TRUSTING_NOBODY",
    "PixelTypeError",
    "Trust",
    "damaged",
    "is_vrt",
    "lossy_compression",
    "marks_of",
    "open_raster",
    "opened_raster",
    "pixel_type",
    "reading",
    "require_bytes",
    "require_small_blocks",
]

# Tiles without a CRS are legitimate input. A filter set around each call would not be safe in threads.
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)

RASTER_ERRORS = (RasterioError, CRSError, CPLE_BaseError, OSError, UnicodeDecodeError)
"""Errors of reading with rasterio; it wraps neither all of GDAL's (`CPLE_BaseError`) nor texts that are no UTF-8."""

HEAD_BYTES = 1024
"""Bytes that are enough to tell the kind of a file; GDAL looks for a VRT's first tag in as many."""

MAX_IMAGE_BYTES = 2**30
"""Largest image that is decoded as a whole by default: 18,900 x 18,900 pixels of three bytes."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_KINDS = {"GTiff": "TIFF", "VRT": "VRT", "PNG": "PNG", "JPEG": "JPEG", "JP2OpenJPEG": "JPEG 2000"}
# Compressions of GDAL's TIFF driver that change values: old and new JPEG, PixarLog and SGILog (of floats).
_LOSSY = ("JPEG", "OJPEG", "JPEG2000", "PIXARLOG", "SGILOG", "SGILOG24", "THUNDERSCAN")


class PixelTypeError(DataError):
    """The pixels of an image are of a type that no model takes."""


@dataclass(frozen=True)
class Trust:
    """Limits for a file's use of the machine: memory, and other files.

    Attributes:
        max_bytes: Largest image, in bytes of its decoded pixels, that is read as a whole. The header of a file of a few
            kilobytes can claim gigabytes.
        vrt_sources: Whether a VRT may name whatever GDAL opens: files anywhere, servers, formats other than TIFF, PNG,
            JPEG and JPEG 2000.
        remedy: The last sentence of the error for an image that is too large: what a user can do.
        max_block_bytes: Largest block of a TIFF, which GDAL decodes at once; as `max_bytes` if None.
    """

    max_bytes: int = MAX_IMAGE_BYTES
    vrt_sources: bool = False
    remedy: str = (
        "If it is sound, cut it into tiles, or allow more with data.max_image_mb in the config (check-data: "
        "--max_image_mb)."
    )
    max_block_bytes: int | None = None


TRUSTING_NOBODY = Trust()


def is_vrt(head: bytes) -> bool:
    """Tells whether a file is a VRT by its first `HEAD_BYTES`.

    A byte-order mark, blank lines, an XML declaration and comments may stand before its first tag, as for GDAL.
    """
    return head.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"<") and b"<VRTDataset" in head


def damaged(name: str, driver: str, error: BaseException | str) -> DataError:
    """Returns the error for a damaged file, with the cause that the library gives.

    Args:
        name: Name of the file in errors.
        driver: GDAL's driver, or a kind of file.
        error: The library's error, or the cause as text.
    """
    why = error if isinstance(error, str) else reason(error)
    kind = _KINDS.get(driver, driver or "raster")
    remedy = "Mend its sources, or build it again." if kind == "VRT" else "Copy or download it again."
    return DataError(f"{name} is a damaged {kind} file: {why.rstrip('.')}. {remedy}")


@contextlib.contextmanager
def open_raster(path: Path, driver: str, name: str | None = None) -> Iterator[rasterio.DatasetReader]:
    """Opens a raster with one driver, for a block that only reads it; errors of the block become `DataError` too.

    Args:
        path: The file.
        driver: GDAL's name of the driver that fits the first bytes of the file; empty for any that GDAL has.
        name: Name of the file in errors; its path if None.

    Raises:
        DataError: When the file cannot be opened or read, or has a name that GDAL cannot be given.
    """
    with opened_raster(path, driver, name) as source, reading(name or readable_name(path), driver):
        yield source


def opened_raster(path: Path, driver: str, name: str | None = None) -> rasterio.DatasetReader:
    """Opens a raster as `open_raster` does; the caller closes it."""
    absolute = os.path.abspath(path)
    try:
        absolute.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{readable_name(path)} has a name that is not UTF-8, which GDAL needs. Rename it.") from error
    with reading(name or readable_name(path), driver):
        # rasterio splits text into scheme, archive and member; a Path it does not.
        return rasterio.open(Path(absolute), driver=driver or None)


@contextlib.contextmanager
def reading(name: str, driver: str) -> Iterator[None]:
    """Turns the errors of the library in a block that only reads a raster into `DataError`."""
    try:
        yield
    except RASTER_ERRORS as error:
        raise damaged(name, driver, error) from error


def pixel_type(source: rasterio.DatasetReader, bands: tuple[int, ...], name: str) -> np.dtype:
    """Returns the type that holds the values of all of some bands.

    Raises:
        PixelTypeError: When one of them holds complex numbers.
    """
    types = [source.dtypes[band - 1] for band in bands]
    if wrong := next((found for found in types if found.startswith("complex")), None):
        raise PixelTypeError(f"{name} holds {wrong} values; real numbers are needed. Take their magnitude first.")
    return np.result_type(*types)


def marks_of(source: rasterio.DatasetReader) -> tuple[str, ...]:
    """Returns how a file marks its bands: "red", "alpha", "palette", "undefined" and so on."""
    try:
        return tuple(mark.name for mark in source.colorinterp)
    except ValueError:  # a mark that this rasterio does not know
        return ("undefined",) * source.count


def require_bytes(name: str, shape: tuple[int, int, int], dtype: str, trust: Trust) -> None:
    """Raises `DataError` when `(height, width, bands)` pixels would take more memory than is allowed.

    Args:
        name: Name of the file in errors.
        shape: `(height, width, bands)` in its header.
        dtype: NumPy name of the pixels' type.
        trust: The number of bytes that are allowed, and the remedy for more.
    """
    # NumPy has no type for GDAL's complex integers; 16 bytes are the most that a complex number takes.
    wide = 16 if dtype.startswith("complex") else np.dtype(dtype).itemsize
    needed = shape[0] * shape[1] * shape[2] * wide
    if needed > trust.max_bytes:
        raise DataError(
            f"{name} claims to hold {shape[1]} x {shape[0]} pixels of {shape[2]} x {dtype}, which are "
            f"{needed / 2**20:,.0f} MiB when decoded; {trust.max_bytes / 2**20:,.0f} MiB are allowed. {trust.remedy}"
        )


def require_small_blocks(name: str, source: rasterio.DatasetReader, dtype: str, trust: Trust) -> None:
    """Raises `DataError` when one block of a raster takes more memory than is allowed.

    GDAL decodes a block at once, and a block may be larger than the image.
    """
    # With interleaved pixels a block holds all bands.
    rows, columns = max(source.block_shapes, key=lambda shape: shape[0] * shape[1])
    together = source.count if source.interleaving is Interleaving.pixel else 1
    limit = trust.max_bytes if trust.max_block_bytes is None else trust.max_block_bytes
    require_bytes(f"a block of {name}", (rows, columns, together), dtype, replace(trust, max_bytes=limit))


def lossy_compression(source: rasterio.DatasetReader) -> str:
    """Returns the lossy compression of a TIFF, such as "JPEG"; empty if values are stored exactly.

    LERC is exact where its largest error is 0, WebP and JPEG XL where a tag marks them as lossless.
    """
    # GDAL reports some of these tags for the file and some for its bands.
    tags = {**source.tags(ns="IMAGE_STRUCTURE"), **source.tags(1, ns="IMAGE_STRUCTURE")}
    stored = tags.get("COMPRESSION", "").upper()
    reversibility = tags.get("COMPRESSION_REVERSIBILITY", "").upper()
    if any(word in stored.replace("YCBCR ", "").split() for word in _LOSSY) or source.compression is Compression.jpeg:
        return "JPEG" if "JPEG" in stored else stored
    if float(tags.get("MAX_Z_ERROR", "0") or 0) > 0:
        return f"{stored} with errors up to {tags['MAX_Z_ERROR']}"
    if stored in ("WEBP", "JXL", "JPEGXL") and reversibility != "LOSSLESS":
        return stored
    return f"{stored} with losses" if reversibility == "LOSSY" else ""
