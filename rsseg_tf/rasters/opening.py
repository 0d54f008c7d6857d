"""Opens what a user names with the driver that fits it, after a look at what it would lead GDAL to."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import rasterio

from rsseg_tf.errors import DataError
from rsseg_tf.files import readable_name
from rsseg_tf.rasters.formats import (
    ANY_DRIVER,
    CONTAINERS,
    foreign_driver,
    is_foreign,
    is_zarr,
    opened_part,
    require_own_data,
)
from rsseg_tf.rasters.gdal import HEAD_BYTES, Trust, is_vrt, opened_raster
from rsseg_tf.rasters.remote import open_address
from rsseg_tf.rasters.sources import FileVariable, Member, RemoteRaster
from rsseg_tf.rasters.vrt import require_near_sources, require_plain_sides

__all__ = ["Opened", "open_member", "raster_driver"]


class Opened(NamedTuple):
    """An open raster, which the caller closes, and GDAL's name of its driver."""

    source: rasterio.DatasetReader
    driver: str


def raster_driver(path: Path, trust: Trust | None = None) -> str | None:
    """Returns the GDAL driver of a file by its first bytes; None for PNG, JPEG, and what no driver fits.

    Args:
        path: A file, or the folder of a Zarr store.
        trust: Where it allows all sources, all drivers of GDAL are tried in the end.
    """
    try:
        if path.is_dir():
            return "Zarr" if is_zarr(path) else None
        with path.open("rb") as handle:
            head = handle.read(HEAD_BYTES)
    except OSError:
        return None
    if not is_foreign(head):
        if is_vrt(head):
            return "VRT"
        return "GTiff" if head[:2] in (b"II", b"MM") else None
    driver = foreign_driver(path, head)
    return ANY_DRIVER if driver is None and trust is not None and trust.vrt_sources else driver


def open_member(member: Member, driver: str | None, trust: Trust) -> Opened:
    """Opens a file, a variable of a file or an address; the caller closes it.

    Args:
        member: What to open.
        driver: The driver of a file, from `raster_driver`; of no meaning for others.
        trust: Limits for what files may name.

    Raises:
        DataError: When it is missing, damaged, or leads to files that are not allowed, or holds several rasters and
            none is named.
    """
    if isinstance(member, RemoteRaster):
        return Opened(*open_address(member))
    path, variable = (member.path, member.variable) if isinstance(member, FileVariable) else (member, None)
    name = readable_name(path)
    if isinstance(member, FileVariable):
        driver = raster_driver(path, trust)
    if driver is None:
        kind = "does not exist" if not path.exists() else "is no file of GDAL's"
        raise DataError(f"{name} {kind}; a raster is needed here. Check the path.")
    if not trust.vrt_sources:  # before GDAL opens the file, since opening may already follow what it names
        require_plain_sides(path)
        if driver == "Zarr":
            require_plain_sides(path / "pam")
        if driver == "VRT":
            require_near_sources(path)
        if driver in ("HDF5", "netCDF"):
            require_own_data(path)
    if driver in (*CONTAINERS, ANY_DRIVER):
        return Opened(opened_part(path, driver, variable, name), driver)
    if variable is not None:
        raise DataError(f"{name} is no netCDF, HDF5 or Zarr file and has no variables; name it without ':{variable}'.")
    return Opened(opened_raster(path, driver, name), driver)
