"""Formats beyond PNG, JPEG, TIFF and VRT: the driver that fits a file, and the one raster in a file that holds several.

Only drivers whose files hold their own pixels are used. Others read what a file names: lists of tiles, products of many
files, addresses. Those need the same permission as a VRT that leads elsewhere (`Trust.vrt_sources`).
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import rasterio

from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import readable_name
from rsseg_tf.rasters.gdal import RASTER_ERRORS, damaged, is_vrt, opened_raster, reading
from rsseg_tf.rasters.headers import JPEG_SIGNATURE, PNG_SIGNATURE

__all__ = ["ANY_DRIVER", "CONTAINERS", "foreign_driver", "is_foreign", "is_zarr", "opened_part", "require_own_data"]

ANY_DRIVER = ""
"""Stands for GDAL's own choice among all its drivers."""

CONTAINERS = ("netCDF", "HDF5", "Zarr", "GPKG", "MBTiles", "NITF", "GRIB")
"""Drivers whose files may hold several rasters."""

# Two bytes of a TIFF alone, so that a damaged one gets GDAL's explanation and not "no image".
_OURS = (PNG_SIGNATURE, JPEG_SIGNATURE, b"II", b"MM")
_NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf")
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JP2OpenJPEG"),
    (0, b"\xff\x4f\xff\x51", "JP2OpenJPEG"),
    (0, b"CDF\x01", "netCDF"),
    (0, b"CDF\x02", "netCDF"),
    (0, b"CDF\x05", "netCDF"),
    (0, _HDF5_SIGNATURE, "HDF5"),
    (512, _HDF5_SIGNATURE, "HDF5"),  # behind a block that is the user's
    (0, b"EHFA_HEADER_TAG", "HFA"),
    (0, b"NITF", "NITF"),
    (0, b"NSIF", "NITF"),
    (0, b"GRIB", "GRIB"),
    (8, b"WEBP", "WEBP"),
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (68, b"GPKG", "GPKG"),
    (68, b"GP10", "GPKG"),
    (68, b"GP11", "GPKG"),
    (68, b"MPBX", "MBTiles"),
)
# Drivers whose files have no signature that is theirs alone: GDAL looks at suffixes, and at headers beside the file.
_UNSIGNED = (
    "BMP", "ENVI", "EHdr", "AAIGrid", "GRASSASCIIGrid", "SRTMHGT", "DTED", "USGSDEM", "PNM", "RST", "SAGA", "RRASTER",
    "RMF", "KRO", "LAN", "GSAG", "GSBG", "GS7BG", "BT", "ROI_PAC", "MBTiles",
)  # fmt: skip
_PART_NAMES = {
    "netCDF": 'NETCDF:"{path}":{variable}',
    "HDF5": 'HDF5:"{path}"://{variable}',
    "Zarr": 'ZARR:"{path}":/{variable}',
}
_PLAIN_VARIABLE = re.compile(r"[\w./ -]+$")
_OF_VECTORS_TOO = ("GPKG", "MBTiles")
"""Formats whose files may hold no raster at all."""
_MOST_OBJECTS = 100_000  # of an HDF5 file
_MOST_PARTS = 200
_SHOWN = 12


def is_zarr(path: Path) -> bool:
    """Tells whether a folder is a Zarr store."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray", ".zmetadata"))


def is_foreign(head: bytes) -> bool:
    """Tells by the first `HEAD_BYTES` whether a file is no PNG, JPEG, TIFF or VRT; an empty one is no foreign one."""
    return bool(head) and not is_vrt(head) and not head.startswith(_OURS)


def foreign_driver(path: Path, head: bytes) -> str | None:
    """Returns the driver for a file that is no PNG, JPEG, TIFF or VRT; None if none fits that needs no trust.

    Args:
        path: The file.
        head: Its first `HEAD_BYTES`.
    """
    for start, signature, driver in _SIGNATURES:
        if head.startswith(signature, start):
            if driver == "HDF5":
                return _hdf5_driver(path)
            return driver if driver not in _OF_VECTORS_TOO or _opens(path, driver) else None
    return next((driver for driver in _UNSIGNED if head and _opens(path, driver)), None)


def _opens(path: Path, driver: str) -> bool:
    # Not `opened_raster`: that a driver does not fit is no error here.
    with contextlib.suppress(*RASTER_ERRORS, ValueError), rasterio.open(Path(os.path.abspath(path)), driver=driver):
        return True
    return False


def _hdf5_driver(path: Path) -> str:
    """Returns netCDF for files of netCDF 4, which are HDF5 files; that driver reads where they lie."""
    import h5py

    if path.suffix.lower() in _NETCDF_SUFFIXES:
        return "netCDF"
    try:
        with h5py.File(path, "r") as file:
            return "netCDF" if "_NCProperties" in file.attrs else "HDF5"
    except (OSError, RuntimeError, ValueError, KeyError):  # the driver will say what is wrong with it
        return "HDF5"


def require_own_data(path: Path) -> None:
    """Raises `DataError` when an HDF5 file takes values from other files, as links and external storage do.

    A stranger's file could so show any file of this machine.

    Args:
        path: A file of HDF5 or netCDF 4; others pass.
    """
    import h5py

    if not h5py.is_hdf5(path):
        return
    try:
        with h5py.File(path, "r") as file:
            found = _leads_elsewhere(h5py, file)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise DataError(
            f"{readable_name(path)} is a damaged HDF5 file: {reason(error)}. Copy or download it again."
        ) from error
    if found:
        raise DataError(
            f"{readable_name(path)} is an HDF5 file that is not followed: {found}. If you trust it, allow it with "
            "--allow_vrt_sources (in a config: data.allow_vrt_sources)."
        )


def _leads_elsewhere(h5py: Any, file: Any) -> str:
    """Returns what leads from an HDF5 file to another one; empty if nothing does."""
    waiting, seen = [file["/"]], {0}
    while waiting:
        group = waiting.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                return f"'{readable_name(name)}' is a link to another file"
            if not isinstance(link, h5py.HardLink):
                continue  # a link within the file, whose target is looked at where it stands
            found = group[name]
            address = h5py.h5o.get_info(found.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _MOST_OBJECTS:
                return f"it has more than {_MOST_OBJECTS:,} objects"
            if isinstance(found, h5py.Group):
                waiting.append(found)
            elif isinstance(found, h5py.Dataset):
                if found.external:
                    return f"the values of '{readable_name(name)}' are in another file"
                if found.is_virtual and any(source.file_name != "." for source in found.virtual_sources()):
                    return f"'{readable_name(name)}' is put together from other files"
    return ""


def opened_part(path: Path, driver: str, variable: str | None, name: str) -> rasterio.DatasetReader:
    """Opens the one raster that is meant of a file that may hold several; the caller closes it.

    Args:
        path: The file.
        driver: Its driver, one of `CONTAINERS`.
        variable: Name of the raster; None where the file should hold one alone.
        name: Name of the file in errors.

    Raises:
        DataError: When the file is damaged; when it holds several and none is named, or none of the name; when none of
            its variables is a raster.
    """
    source = opened_raster(path, driver, name)
    if variable is None and source.count and min(source.shape) > 1:
        return source
    with source, reading(name, driver):
        parts = _parts(source, path)
    if variable is None:
        rasters = [found for found, text in parts.items() if _is_raster(text)]
        if not rasters:
            raise DataError(f"{name} holds no raster: no variable has rows and columns. Check what it holds.")
        if len(rasters) > 1:
            raise DataError(
                f"{name} holds {len(rasters)} rasters: {_some(rasters)}. Name one as {name}:{rasters[0]}, or several "
                f"of them with --stack."
            )
        variable = rasters[0]
    text = parts.get(variable)
    # GDAL lists no parts of a file with a single one, which has a name all the same.
    if text is None and not parts and driver in _PART_NAMES and _PLAIN_VARIABLE.match(variable):
        text = _PART_NAMES[driver].format(path=os.path.abspath(path), variable=variable)
    try:
        if text is not None:
            return rasterio.open(text)
    except RASTER_ERRORS as error:
        if parts:
            raise damaged(name, driver, error) from error
    held = f"it holds {_some(list(parts))}" if parts else "it holds one alone, which can be left unnamed"
    raise DataError(f"{name} has no raster '{readable_name(variable)}'; {held}. Correct the name.")


def _parts(source: rasterio.DatasetReader, path: Path) -> dict[str, str]:
    """Returns GDAL's names of the rasters in a file by the variables' names."""
    found: dict[str, str] = {}
    for key, text in source.tags(ns="SUBDATASETS").items():
        if key.endswith("_NAME") and len(found) < _MOST_PARTS:
            # DRIVER:"path":variable, with or without quotes.
            _, _, after = text.partition(os.path.abspath(path))
            found[(after or text.rpartition(":")[2]).lstrip('":/') or text] = text
    return found


def _is_raster(text: str) -> bool:
    """Tells whether a variable has rows and columns; coordinates have one of both."""
    try:
        with rasterio.open(text) as part:
            return part.count > 0 and min(part.shape) > 1
    except RASTER_ERRORS:
        return False


def _some(names: list[str]) -> str:
    shown = ", ".join(readable_name(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
