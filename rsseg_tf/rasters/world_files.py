"""The place of an image from the files beside it: world files, `.prj` files, and GDAL's own side files."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict
from xml.sax.saxutils import escape

import rasterio
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import SIDE_SUFFIX
from rsseg_tf.rasters.gdal import RASTER_ERRORS, open_raster

__all__ = ["ImagePlace", "RasterPlace", "image_place", "raster_place", "side_text"]

_WORLD_SUFFIXES = {
    "PNG": (".pgw", ".pngw", ".wld"),
    "JPEG": (".jgw", ".jpgw", ".jpegw", ".wld"),
    "GTiff": (".tfw", ".tifw", ".tiffw", ".wld"),
}
_MOST_BYTES = 1 << 16
"""Descriptions of a CRS that are longer are none."""


@dataclass(frozen=True)
class ImagePlace:
    """Where an image lies.

    Attributes:
        crs: Coordinate reference system, or None.
        transform: From (column, row) to coordinates; the identity where there is none.
        note: What lies beside the image and could not be used, in one line; None if there is nothing of the kind.
    """

    crs: CRS | None = None
    transform: Affine = field(default_factory=Affine.identity)
    note: str | None = None


class RasterPlace(TypedDict, total=False):
    """Where a raster lies, by the names of the fields of a scene."""

    crs: CRS | None
    transform: Affine
    gcps: tuple[GroundControlPoint, ...]
    gcps_crs: CRS | None
    rpcs: RPC | None
    place_note: str | None


def raster_place(path: Path | None, source: rasterio.DatasetReader, driver: str) -> RasterPlace:
    """Returns the place of an open raster.

    A place that cannot be read is left out and noted, since the pixels are sound without it.

    Args:
        path: Its file, beside which a TIFF without a place may have one; None for a raster that is not a file.
        source: The raster.
        driver: GDAL's name of its kind.
    """
    try:
        crs, transform, (gcps, gcps_crs), rpcs = source.crs, source.transform, source.gcps, source.rpcs
    except (*RASTER_ERRORS, ValueError, LookupError) as error:  # rasterio parses tags of RPCs and GCPs itself
        return {"place_note": f"its place on Earth cannot be read ({reason(error)}), so results have none"}
    note = None
    # GDAL itself looks for world files beside a TIFF, but not for the CRS in a .prj.
    if crs is None and not gcps and driver == "GTiff" and path is not None:
        beside = image_place(path, driver)
        crs, transform = beside.crs, beside.transform if transform == Affine.identity() else transform
        note = beside.note
    return {
        "crs": crs,
        "transform": transform,
        "gcps": tuple(gcps),
        "gcps_crs": gcps_crs,
        "rpcs": rpcs,
        "place_note": note,
    }


def image_place(path: Path, driver: str) -> ImagePlace:
    """Reads the place of a PNG or JPEG, or of a TIFF that holds none itself, from the files beside it.

    A world file (`.jgw`, `.pgw`, `.tfw`, `.wld`, in capitals too) gives the transform, a `.prj` file the CRS, and
    GDAL's `.aux.xml` either.

    Args:
        path: The image.
        driver: GDAL's name of its kind: "PNG", "JPEG" or "GTiff".
    """
    beside = _files_beside(path, (*_WORLD_SUFFIXES[driver], ".prj"))
    world = next((beside[suffix] for suffix in _WORLD_SUFFIXES[driver] if suffix in beside), None)
    if world is None and ".prj" not in beside and not path.with_name(path.name + SIDE_SUFFIX).is_file():
        return ImagePlace()
    try:
        with open_raster(path, driver) as source:
            crs, transform = source.crs, source.transform
    except DataError:
        crs, transform = None, Affine.identity()
    notes = []
    if world is not None and transform == Affine.identity():
        numbers = _read_world_file(world)
        if numbers is None:
            notes.append(f"{world.name} beside it is no world file of six numbers, and was not used")
        else:
            transform = numbers
    if crs is None and ".prj" in beside:
        crs = _read_prj(beside[".prj"])
        if crs is None:
            notes.append(f"the CRS in {beside['.prj'].name} beside it is not understood, and was not used")
    return ImagePlace(crs, transform, "; ".join(notes) or None)


def side_text(crs: CRS | None, transform: Affine | None) -> str:
    """Returns the text of the `.aux.xml` in which GDAL and QGIS find the place of an image beside it.

    Args:
        crs: Coordinate reference system.
        transform: From (column, row) to coordinates.
    """
    srs = "" if crs is None else f"  <SRS>{escape(crs.to_wkt())}</SRS>\n"
    numbers = ""
    if transform is not None:
        order = (transform.c, transform.a, transform.b, transform.f, transform.d, transform.e)
        numbers = f"  <GeoTransform>{', '.join(map(repr, order))}</GeoTransform>\n"
    return f"<PAMDataset>\n{srs}{numbers}</PAMDataset>\n"


def _files_beside(path: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Returns the files with the name of an image and one of some suffixes, by these in small letters."""
    found: dict[str, Path] = {}
    for suffix in suffixes:
        for spelled in (suffix, suffix.upper(), f".{suffix[1:].capitalize()}"):
            candidate = path.with_suffix(spelled)
            if candidate.is_file():
                found.setdefault(suffix, candidate)
    return found


def _read_world_file(path: Path) -> Affine | None:
    """Reads what GDAL does not: other spellings of the suffix, a byte-order mark, decimal commas."""
    try:
        with path.open("rb") as handle:
            text = handle.read(_MOST_BYTES).decode("utf-8-sig", "replace")
        a, d, b, e, x, y = (float(number.replace(",", ".")) for number in text.split())
    except (OSError, ValueError):
        return None
    if not all(math.isfinite(number) for number in (a, d, b, e, x, y)) or a * e == b * d:
        return None
    return Affine(a, b, x - a / 2 - b / 2, d, e, y - d / 2 - e / 2)  # x and y are those of a pixel's centre


def _read_prj(path: Path) -> CRS | None:
    """Reads a `.prj` file; None if it holds no WKT."""
    try:
        with path.open("rb") as handle:
            text = handle.read(_MOST_BYTES).decode("utf-8-sig", "replace").strip()
        with rasterio.Env():  # which keeps GDAL from printing its errors
            return CRS.from_wkt(text, morph_from_esri_dialect="AUTHORITY[" not in text and "ID[" not in text)
    except Exception:  # GDAL has errors of its own for text that is no WKT
        return None
