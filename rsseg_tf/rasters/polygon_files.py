"""Files of polygons that a user draws: read by the driver that the first bytes promise and by no other, in bounds.

The vector library would open anything: descriptions that name further files or addresses on the network, too.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from rsseg_tf.errors import DataError, did_you_mean, reason
from rsseg_tf.extras import require
from rsseg_tf.files.paths import plain_path

__all__ = ["Area", "PolygonFeatures", "polygon_driver", "read_area", "read_polygons"]

_KNOWN = "GeoJSON, GeoPackage, FlatGeobuf, Shapefile (.shp), GeoParquet or KML"
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


@dataclass(frozen=True, eq=False)
class PolygonFeatures:
    """The features of a file that hold polygons.

    Attributes:
        polygons: `(N,)` array of polygons in the order of the file, in coordinates of the CRS, as they were drawn:
            outlines may cross themselves.
        features: `(N,)` int64, the feature of each polygon; features count from 0.
        fields: One value per feature for each field that was asked for; None where a feature has none.
        crs: The reference system; None where the file names none.
        others: Number of features without a polygon.
    """

    polygons: NDArray[Any]
    features: NDArray[np.int64]
    fields: dict[str, list[Any]]
    crs: CRS | None
    others: int = 0


def read_area(path: Path) -> Area:
    """Reads the polygons of a file, including those in collections; heights are dropped.

    Open rings are closed, and outlines that cross themselves are made valid.

    Args:
        path: GeoJSON, GeoPackage, FlatGeobuf, Shapefile, GeoParquet or KML, recognised by the first bytes. One layer
            may hold polygons; a KML, whose folders are layers, may have several.

    Raises:
        ExportError: When the extra `vector` is not installed.
        DataError: When the file is of another kind, damaged or too large, holds no polygon or several layers of them,
            or coordinates that cannot be.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read as polygons: {reason(error)}. Check the path.") from error
    return _read_area(path, (status.st_size, status.st_mtime_ns))


@lru_cache(maxsize=1)  # the images of a run share the file
def _read_area(path: Path, stamp: tuple[int, int]) -> Area:
    shapely = require("shapely", "vector")
    found = read_polygons(path)
    polygons = found.polygons
    invalid = ~shapely.is_valid(polygons)
    if invalid.any():
        try:
            mended, _ = _polygons(shapely.make_valid(polygons[invalid]))
        except shapely.errors.ShapelyError as error:  # such as for coordinates of hundreds of digits
            raise DataError(
                f"{path} holds polygons that cannot be made valid: {reason(error)}. Draw the area anew."
            ) from error
        polygons = np.concatenate([polygons[~invalid], mended])
    return Area(polygons, found.crs)


def read_polygons(
    path: Path, *, fields: Sequence[str] = (), layer: str | None = None, noun: str = "area"
) -> PolygonFeatures:
    """Reads the polygons of a file with the feature that each belongs to; heights are dropped, open rings closed.

    Args:
        path: As in `read_area`.
        fields: Fields whose values are read.
        layer: The layer to read, in a file of several.
        noun: What the polygons are, for messages.

    Raises:
        ExportError: When the extra `vector` is not installed.
        DataError: As `read_area`, and when a field or the layer is not in the file.
    """
    require("shapely", "vector")
    require("pyogrio", "vector")
    driver, suffix = _kind(path, noun)
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise DataError(
            f"{path} has {size / 2**30:.1f} GiB; an area of at most {_MOST_BYTES >> 30} GiB is read. Simplify it, "
            "or cut out the part that the images need."
        )
    try:
        if driver == "Parquet":
            layers = [_read_parquet(path, fields)]
        else:
            whole = driver == "ESRI Shapefile"
            with warnings.catch_warnings(), plain_path(path, suffix, whole_family=whole) as plain:
                warnings.simplefilter("ignore")  # pyogrio warns of open rings and of further layers
                opened = f"GeoJSON:{plain}" if driver == "GeoJSON" else plain
                layers = _read_layers(path, opened, driver, fields, layer, noun)
        parts = [(one, *_polygons(_geometries(path, one.wkb))) for one in layers if len(one.wkb)]
    except DataError:
        raise
    except Exception as error:  # pyogrio has a type of error for each way in which a file is damaged
        raise DataError(f"{path} cannot be read as polygons: {reason(error)}. Give the {noun} as {_KNOWN}.") from error
    found = [(one, polygons, rows) for one, polygons, rows in parts if len(polygons)]
    if not found:
        which = "the area to predict" if noun == "area" else f"the {noun}"
        raise DataError(f"{path} holds no polygon; {which} must be drawn as polygons.")
    if len(found) > 1 and driver != "KML":
        names = ", ".join(f"'{one.name}'" for one, _, _ in found[:5])
        remedy = "Save the one that is meant alone." if noun == "area" else "Choose one with --layer."
        raise DataError(f"{path} has {len(found)} layers with polygons: {names}. {remedy}")
    starts = np.cumsum([0, *(len(one.wkb) for one, _, _ in found)])
    polygons = np.concatenate([polygons for _, polygons, _ in found])
    rows = np.concatenate([start + rows for start, (_, _, rows) in zip(starts, found, strict=False)])
    crs = _crs_of(path, found[0][0].crs)
    _check_coordinates(path, polygons, crs, noun)
    values = {name: [value for one, _, _ in found for value in one.fields[name]] for name in fields}
    return PolygonFeatures(polygons, rows.astype(np.int64), values, crs, int(starts[-1]) - len(np.unique(rows)))


def polygon_driver(path: Path) -> str | None:
    """Returns GDAL's driver of a file of polygons by its first bytes; None for other files."""
    try:
        return _kind(path, "area")[0]
    except DataError:
        return None


@dataclass(frozen=True, eq=False)
class _Layer:
    """What is read of a layer: its geometries as WKB, the values of its fields, and its CRS."""

    name: str
    wkb: NDArray[Any]
    fields: dict[str, list[Any]]
    crs: str | None


def _kind(path: Path, noun: str) -> tuple[str, str]:
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
    if head.startswith(b"PAR1"):
        return "Parquet", ".parquet"
    text = head.decode("utf-8-sig", "replace")
    if not _POINTERS.search(text):
        if text.lstrip().startswith("{"):
            return "GeoJSON", ".geojson"
        if _KML_ROOT.match(text):
            return "KML", ".kml"
    raise DataError(
        f"{path} cannot be read as polygons: it begins like no {_KNOWN} file ({head[:8].hex(' ') or 'it is empty'}). "
        f"Save the {noun} as one of them."
    )


def _read_layers(
    path: Path, plain: str, driver: str, fields: Sequence[str], only: str | None, noun: str
) -> list[_Layer]:
    """Reads each layer that may hold polygons, or only one."""
    pyogrio = require("pyogrio", "vector")
    opened = str(pyogrio.read_info(plain)["driver"])
    if opened.removeprefix("LIB") != driver:  # LIBKML reads KML too
        raise DataError(f"{path} begins like {driver}, but is {opened}. Save the {noun} as {_KNOWN}.")
    layers = []
    listed = pyogrio.list_layers(plain)
    if only is not None and only not in listed[:, 0]:
        names = [str(name) for name in listed[:, 0]]
        raise DataError(
            f"{path} has no layer '{only}'; its layers are {', '.join(names[:10])}.{did_you_mean(only, names)}"
        )
    # Tables of a GeoPackage without geometries hold styles, projects and the like.
    kinds = {
        str(name): "none" if kind is None and driver == "GPKG" else str(kind or "unknown") for name, kind in listed
    }
    wanted = [
        name
        for name, kind in kinds.items()
        if (only is None or name == only) and re.search("unknown|polygon|surface|collection|tin", kind, re.IGNORECASE)
    ]
    if fields and len(wanted) > 1 and driver != "KML":
        shown = ", ".join(f"'{name}'" for name in wanted[:5])
        raise DataError(f"{path} has {len(wanted)} layers that may hold polygons: {shown}. Choose one with --layer.")
    for name in wanted:
        if fields:
            _check_fields(path, fields, pyogrio.read_info(plain, layer=name)["fields"])
        # Other attributes stay unread, and one feature above the limit is enough to refuse the file.
        meta, _, wkb, values = pyogrio.raw.read(
            plain, layer=name, columns=list(fields), force_2d=True, max_features=_MOST_FEATURES + 1
        )
        if wkb is not None and len(wkb) > _MOST_FEATURES:
            raise DataError(f"{path} holds more than {_MOST_FEATURES} features. Merge or cut them to what is needed.")
        found = {key: _plain_values(column) for key, column in zip(meta["fields"], values or [], strict=False)}
        layers.append(_Layer(str(name), np.empty(0, object) if wkb is None else wkb, found, meta["crs"]))
    return layers


def _read_parquet(path: Path, fields: Sequence[str]) -> _Layer:
    """Reads a GeoParquet file, which the vector library's own build does not know."""
    parquet = require("pyarrow.parquet", "parquet")
    with parquet.ParquetFile(path) as file:
        if file.metadata.num_rows > _MOST_FEATURES:
            raise DataError(f"{path} holds more than {_MOST_FEATURES} features. Merge or cut them to what is needed.")
        # Not from the schema, which hides the metadata of some writers.
        described = (file.metadata.metadata or {}).get(b"geo")
        if described is None:
            raise DataError(f"{path} is a Parquet file without the metadata 'geo'. Save it as GeoParquet.")
        geo = json.loads(described)
        column = geo["columns"][geo["primary_column"]]
        if column["encoding"] != "WKB":
            raise DataError(
                f"{path} encodes its geometries as {column['encoding']}; WKB is expected. Save it as GeoParquet 1.0."
            )
        others = [name for name in file.schema_arrow.names if name != geo["primary_column"]]
        _check_fields(path, fields, others)
        table = file.read(columns=[geo["primary_column"], *fields])
    crs = column.get("crs", "OGC:CRS84")  # which the format takes where a file says nothing
    wkb = np.array([*table[geo["primary_column"]].to_pylist(), None], object)[:-1]
    found = {name: table[name].to_pylist() for name in fields}
    return _Layer(path.stem, wkb, found, json.dumps(crs) if isinstance(crs, dict) else crs)


def _check_fields(path: Path, wanted: Sequence[str], there: Sequence[str]) -> None:
    names = [str(name) for name in there]
    for name in wanted:
        if name not in names:
            shown = ", ".join(f"'{one}'" for one in names[:20]) + (", …" if len(names) > 20 else "")
            raise DataError(
                f"{path} has no field '{name}'; its fields are {shown or 'none'}.{did_you_mean(name, names)}"
            )


def _plain_values(column: NDArray[Any]) -> list[Any]:
    """Returns values as plain ones; whole numbers with gaps, which the library gives as fractions, are whole again."""
    values = column.tolist()
    return [None if value is None or value != value else value for value in values]


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


def _polygons(geometries: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Returns the polygons among geometries and inside of collections, without empty ones, and where each was."""
    shapely = require("shapely", "vector")
    rows = np.flatnonzero(~shapely.is_missing(geometries))
    parts = geometries[rows]
    # Types above 3 (polygon) are multi-geometries and collections, which may hold collections.
    while (shapely.get_type_id(parts) > 3).any():
        parts, origin = shapely.get_parts(parts, return_index=True)
        rows = rows[origin]
    kept = (shapely.get_type_id(parts) == 3) & ~shapely.is_empty(parts)
    return shapely.force_2d(parts[kept]), rows[kept]


def _crs_of(path: Path, text: str | None) -> CRS | None:
    if text is None:
        return None
    try:
        return CRS.from_user_input(text)
    except Exception as error:  # GDAL has errors of its own
        raise DataError(f"the CRS of {path} is not understood: {reason(error)}. Save the area in EPSG:4326.") from error


def _check_coordinates(path: Path, polygons: NDArray[Any], crs: CRS | None, noun: str) -> None:
    """Raises `DataError` for coordinates that are no numbers, or no longitudes and latitudes where they should be."""
    shapely = require("shapely", "vector")
    points = shapely.get_coordinates(polygons)
    if not np.isfinite(points).all():
        raise DataError(f"{path} holds coordinates that are not finite numbers. Draw the {noun} anew.")
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
