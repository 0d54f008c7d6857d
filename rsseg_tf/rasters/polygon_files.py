"""Files of polygons that a user draws: read by the driver that the first bytes promise and by no other, in bounds.

The vector library would open anything: descriptions that name further files or addresses on the network, too.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from rsseg_tf.errors import DataError, reason
from rsseg_tf.extras import require
from rsseg_tf.files.paths import plain_path

__all__ = ["Area", "read_area"]

_KNOWN = "GeoJSON, GeoPackage, FlatGeobuf, Shapefile (.shp) or KML"
_HEAD_BYTES = 1 << 16
_MOST_BYTES = 1 << 30
_MOST_FEATURES = 1_000_000
_PACKAGE_IDS = (b"GPKG", b"GP10", b"GP11")
"""The application id at byte 68 of a GeoPackage; other SQLite files have another."""
# Roots of descriptions that lead to other files or to the network; some drivers look for them anywhere at the start.
_POINTERS = re.compile(r"<(OGR\w|VRT|WFS|GDAL_|OGCAPI|WMS|WMT|PLScenes|CSW)|gdal_streamed_alg", re.IGNORECASE)
_KML_ROOT = re.compile(r"\s*(<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>\[]*>|\s+)*<(\w+:)?kml[\s>]", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Area:
    """Polygons and their place.

    Attributes:
        polygons: Array of valid polygons, in coordinates of the CRS.
        crs: Their reference system; None where the file names none.
    """

    polygons: NDArray[Any]
    crs: CRS | None


def read_area(path: Path) -> Area:
    """Reads the polygons of a file, including those in collections; heights are dropped.

    Open rings are closed, and outlines that cross themselves are made valid.

    Args:
        path: GeoJSON, GeoPackage, FlatGeobuf, Shapefile or KML, recognised by the first bytes. One layer may hold
            polygons; a KML, whose folders are layers, may have several.

    Raises:
        ExportError: When the extra `vector` is not installed.
        DataError: When the file is of another kind, damaged or too large, holds no polygon or several layers of them,
            or coordinates that cannot be.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read as polygons: {reason(error)}. Check the path.") from error
    return _read(path, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)  # the images of a run share the file
def _read(path: Path, stamp: tuple[int, int]) -> Area:
    shapely = require("shapely", "vector")
    require("pyogrio", "vector")
    if stamp[0] > _MOST_BYTES:
        raise DataError(
            f"{path} has {stamp[0] / 2**30:.1f} GiB; an area of at most {_MOST_BYTES >> 30} GiB is read. Simplify it, "
            "or cut out the part that the images need."
        )
    driver, suffix = _kind(path)
    try:
        with warnings.catch_warnings(), plain_path(path, suffix, whole_family=driver == "ESRI Shapefile") as plain:
            warnings.simplefilter("ignore")  # pyogrio warns of open rings and of further layers
            layers = _read_layers(path, f"GeoJSON:{plain}" if driver == "GeoJSON" else plain, driver)
        found = [(layer, _polygons(_geometries(path, wkb)), crs) for layer, wkb, crs in layers if len(wkb)]
    except DataError:
        raise
    except Exception as error:  # pyogrio has a type of error for each way in which a file is damaged
        raise DataError(f"{path} cannot be read as polygons: {reason(error)}. Give the area as {_KNOWN}.") from error
    found = [(layer, polygons, crs) for layer, polygons, crs in found if len(polygons)]
    if not found:
        raise DataError(f"{path} holds no polygon; the area to predict must be drawn as polygons.")
    if len(found) > 1 and driver != "KML":
        names = ", ".join(f"'{layer}'" for layer, _, _ in found[:5])
        raise DataError(f"{path} has {len(found)} layers with polygons: {names}. Save the one that is meant alone.")
    polygons = np.concatenate([polygons for _, polygons, _ in found])
    crs = _crs_of(path, found[0][2])
    _check_coordinates(path, polygons, crs)
    invalid = ~shapely.is_valid(polygons)
    if invalid.any():
        try:
            mended = _polygons(shapely.make_valid(polygons[invalid]))
        except shapely.errors.ShapelyError as error:  # such as for coordinates of hundreds of digits
            raise DataError(
                f"{path} holds polygons that cannot be made valid: {reason(error)}. Draw the area anew."
            ) from error
        polygons = np.concatenate([polygons[~invalid], mended])
    return Area(polygons, crs)


def _kind(path: Path) -> tuple[str, str]:
    """Returns the driver and the suffix of a file by its first bytes."""
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read as polygons: {reason(error)}. Check the path.") from error
    if head.startswith(b"SQLite format 3\0") and head[68:72] in _PACKAGE_IDS:
        return "GPKG", ".gpkg"
    if head.startswith(b"fgb"):
        return "FlatGeobuf", ".fgb"
    if head.startswith(b"\x00\x00\x27\x0a"):
        return "ESRI Shapefile", ".shp"
    text = head.decode("utf-8-sig", "replace")
    if not _POINTERS.search(text):
        if text.lstrip().startswith("{"):
            return "GeoJSON", ".geojson"
        if _KML_ROOT.match(text):
            return "KML", ".kml"
    raise DataError(
        f"{path} cannot be read as polygons: it begins like no {_KNOWN} file ({head[:8].hex(' ') or 'it is empty'}). "
        "Save the area as one of them."
    )


def _read_layers(path: Path, plain: str, driver: str) -> list[tuple[str, NDArray[Any], str | None]]:
    """Returns name, geometries as WKB, and CRS of each layer that may hold polygons."""
    pyogrio = require("pyogrio", "vector")
    opened = str(pyogrio.read_info(plain)["driver"])
    if opened.removeprefix("LIB") != driver:  # LIBKML reads KML too
        raise DataError(f"{path} begins like {driver}, but is {opened}. Save the area as {_KNOWN}.")
    layers = []
    # `columns=[]` leaves attributes unread, and one feature above the limit is enough to refuse the file.
    for name, kind in pyogrio.list_layers(plain):
        if kind is not None and not re.search("unknown|polygon|surface|collection|tin", str(kind), re.IGNORECASE):
            continue
        meta, _, wkb, _ = pyogrio.raw.read(
            plain, layer=name, columns=[], force_2d=True, max_features=_MOST_FEATURES + 1
        )
        if wkb is not None and len(wkb) > _MOST_FEATURES:
            raise DataError(f"{path} holds more than {_MOST_FEATURES} features. Merge or cut them to what is needed.")
        layers.append((str(name), np.empty(0, object) if wkb is None else wkb, meta["crs"]))
    return layers


def _geometries(path: Path, wkb: NDArray[Any]) -> NDArray[Any]:
    """Returns geometries with all rings closed."""
    shapely = require("shapely", "vector")
    with np.errstate(invalid="ignore"):
        geometries: NDArray[Any] = shapely.from_wkb(wkb, on_invalid="fix")
    lost = sum(one is not None and two is None for one, two in zip(wkb, geometries, strict=True))
    if lost:
        raise DataError(
            f"{path} holds {lost} geometries with too few points or with coordinates that are not finite numbers. Draw "
            "them anew."
        )
    return geometries


def _polygons(geometries: NDArray[Any]) -> NDArray[Any]:
    """Returns the polygons among geometries and inside of collections, without empty ones."""
    shapely = require("shapely", "vector")
    parts = geometries[~shapely.is_missing(geometries)]
    # Types above 3 (polygon) are multi-geometries and collections, which may hold collections.
    while (shapely.get_type_id(parts) > 3).any():
        parts = shapely.get_parts(parts)
    result: NDArray[Any] = shapely.force_2d(parts[(shapely.get_type_id(parts) == 3) & ~shapely.is_empty(parts)])
    return result


def _crs_of(path: Path, text: str | None) -> CRS | None:
    if text is None:
        return None
    try:
        return CRS.from_user_input(text)
    except Exception as error:  # GDAL has errors of its own
        raise DataError(f"the CRS of {path} is not understood: {reason(error)}. Save the area in EPSG:4326.") from error


def _check_coordinates(path: Path, polygons: NDArray[Any], crs: CRS | None) -> None:
    """Raises `DataError` for coordinates that are no numbers, or no longitudes and latitudes where they should be."""
    shapely = require("shapely", "vector")
    points = shapely.get_coordinates(polygons)
    if not np.isfinite(points).all():
        raise DataError(f"{path} holds coordinates that are not finite numbers. Draw the area anew.")
    if crs is None or not crs.is_geographic:
        return
    # Latitudes reach a quarter turn. Longitudes of areas across the date line may go on for a whole turn more.
    turn = 2 * np.pi / crs.units_factor[1]
    furthest = np.abs(points).max(axis=0)
    if furthest[1] > turn / 4 * (1 + 1e-6) or furthest[0] > 1.5 * turn:
        raise DataError(
            f"{path} says that it is in {crs.to_string()[:60]}, but holds coordinates up to {furthest[0]:.7g}, "
            f"{furthest[1]:.7g}; longitudes within {turn / 2:g} and latitudes within {turn / 4:g} are expected. "
            "Save it with its true CRS, longitude first."
        )
