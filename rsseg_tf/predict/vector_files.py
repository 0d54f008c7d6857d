"""Files of polygons: written whole or not at all, in any folder, beside what others have put into them."""

from __future__ import annotations

import contextlib
import math
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.errors import DataError, reason
from rsseg_tf.extras import require
from rsseg_tf.files import atomic_path, hold, remove_leftovers, short_stem
from rsseg_tf.files.paths import plain_path
from rsseg_tf.predict.geoparquet import EXTRA, GeoParquetWriter, parquet_fields
from rsseg_tf.predict.writing import unwritable
from rsseg_tf.rasters.ground import move, own_degrees, pixel_size, transformed
from rsseg_tf.rasters.windows import Size
from rsseg_tf.styles import STYLE_TABLE, put_layer_style, users_styles

__all__ = ["Feature", "VectorPlace", "check_vector_file", "layer_name", "require_vector_libraries", "write_features"]

_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf", ".parquet": "Parquet"}
_BATCH = 5000
"""Polygons that are written at once."""
_FIELDS = ("class_id", "class", "area_m2", "pixels", "confidence")
_FIELDS_IN_PIXELS = ("class_id", "class", "area_px", "pixels", "confidence")
_TYPES = (np.int32, object, np.float64, np.int64, np.float64)
_LONGEST_LAYER = 120
_DEGREES_BETWEEN_POINTS = 0.5
"""Longer edges get points in between before they become longitudes and latitudes, where they are no longer straight."""
_M_PER_DEGREE = 111_320.0


@dataclass(frozen=True)
class Feature:
    """A polygon and its attributes.

    Attributes:
        value: The class id.
        name: The class.
        polygon: Its outline in pixels.
        area: In square metres, or in pixels.
        pixels: Number of its pixels.
        confidence: Mean of their largest probabilities, 0..1.
    """

    value: int
    name: str
    polygon: Any
    area: float
    pixels: int
    confidence: float


@dataclass(frozen=True)
class VectorPlace:
    """The place of polygons.

    Attributes:
        size: Size of their scene in pixels.
        transform: From (column, row) to coordinates; the identity where there is none.
        crs: The scene's reference system.
    """

    size: Size
    transform: Affine
    crs: CRS | None

    @property
    def is_on_map(self) -> bool:
        """Whether the scene has a CRS and a transform."""
        return self.crs is not None and self.transform != Affine.identity()


def layer_name(stem: str) -> str:
    """Returns the name of a file's layer: the stem, changed where GeoPackage or SQLite refuse it as a name."""
    name = re.sub(r"[\x00-\x1f\x7f\ud800-\udfff\"'`\\]", "_", stem)[:_LONGEST_LAYER].strip()
    if not re.match(r"\w", name) or re.match(r"(gpkg|sqlite_|rtree_|layer_styles$)", name, re.IGNORECASE):
        name = f"polygons {name}".strip()
    return name


def require_vector_libraries(suffix: str) -> None:
    """Raises `ExportError` unless all is installed that polygons in files of a suffix need."""
    require("shapely", "vector")
    require("pyogrio", "vector")
    if suffix.lower() == ".parquet":
        require("pyarrow.parquet", EXTRA)


def check_vector_file(path: Path) -> None:
    """Raises `DataError` if polygons written to `path` would replace what this package did not write.

    A layer may be replaced if it has the fields that this package writes, or no features. A GeoPackage may hold other
    layers, which stay; other formats have one layer.

    Raises:
        ExportError: When an extra is not installed.
        DataError: When the layer may not be replaced, or the file is open in another program.
    """
    require_vector_libraries(path.suffix)
    if not path.exists():
        return
    is_package = path.suffix.lower() == ".gpkg"
    # SQLite keeps changes in this file until the last program closes the package; replacing the package loses them.
    wal = path.with_name(path.name + "-wal")
    if is_package and wal.is_file() and wal.stat().st_size:
        raise DataError(f"{path} is open in another program, as {wal.name} beside it tells. Close it there first.")
    layer = layer_name(path.stem)
    try:
        found = parquet_fields(path) if path.suffix.lower() == ".parquet" else _layer_fields(path)
    except (RuntimeError, OSError, ValueError) as error:  # pyogrio's errors are RuntimeErrors
        raise DataError(
            f"{path} exists and cannot be read as {_DRIVERS[path.suffix.lower()]} ({reason(error)}), so it is not ours "
            "to replace. Give --vector another file, or remove this one."
        ) from error
    if found is None:
        return
    fields, count = found
    if count and fields not in (list(_FIELDS), list(_FIELDS_IN_PIXELS)):
        what = f"has a layer '{layer}'" if is_package else "exists and has polygons"
        raise DataError(
            f"{path} {what} with the fields {', '.join(fields) or '(none)'}, which predict did not write and will not "
            "replace. Give --vector another file" + (", whose name gives another layer." if is_package else ".")
        )


def _layer_fields(path: Path) -> tuple[list[str], int] | None:
    """Returns the fields of the layer to be replaced and its number of features; None where there is no such layer."""
    pyogrio = require("pyogrio", "vector")
    layer = None
    with plain_path(path) as plain:
        if path.suffix.lower() == ".gpkg":
            layer = layer_name(path.stem)
            if layer not in {str(name) for name, _ in pyogrio.list_layers(plain)}:
                return None
        about = pyogrio.read_info(plain, layer=layer, force_feature_count=True)
    # Some formats put a field with the feature's number in front.
    return [str(name) for name in about["fields"] if str(name) not in ("fid", "ogc_fid")], int(about["features"])


def write_features(
    path: Path, features: Iterable[Feature], place: VectorPlace, *, in_metres: bool, style: str | None = None
) -> None:
    """Writes polygons as the layer that is named after `path`.

    Args:
        path: .gpkg, .geojson, .fgb or .parquet.
        features: The polygons; taken one by one.
        place: Where they lie; off the map they stay in pixels.
        in_metres: Whether areas are square metres.
        style: Style (QML) that a GeoPackage stores for the layer; other formats have no place for it.

    Raises:
        ExportError: When the extra `vector`, or `parquet` for .parquet, is not installed.
        DataError: When the file cannot be written, holds what is not ours to replace, or is being written by another
            process.
    """
    check_vector_file(path)
    lock_file = path.with_name(f".{short_stem(path.stem)}{path.suffix}.lock")
    try:
        lock = hold(lock_file)
        if lock is None:
            raise DataError(f"{path} is being written by another process. Wait for it, or stop it.")
        with lock:
            remove_leftovers(path.parent, lambda stem: stem == short_stem(path.stem))
            with atomic_path(path) as temporary:
                is_package, layer = path.suffix.lower() == ".gpkg", layer_name(path.stem)
                users = users_styles(path, layer) if is_package and path.exists() else []
                if is_package:
                    _copy_other_layers(path, temporary)
                with plain_path(temporary) as plain:
                    _Writer(plain, path, place, in_metres).write(features)
                    _check_whole(plain, path)
                if is_package and style is not None:
                    put_layer_style(temporary, layer, style, users)
    except (RuntimeError, sqlite3.Error, OSError) as error:  # pyogrio's errors are RuntimeErrors
        raise unwritable(path, error) from error


def _copy_other_layers(path: Path, temporary: Path) -> None:
    """Copies a whole GeoPackage if it holds other layers; the writer then replaces the one layer in the copy."""
    if not path.exists():
        return
    layer = layer_name(path.stem)
    with contextlib.closing(sqlite3.connect(f"file:{quote(bytes(path.absolute()))}?mode=ro", uri=True)) as source:
        query = "select name from sqlite_master where type in ('table', 'view')"
        others = [name for (name,) in source.execute(query) if name not in (layer, STYLE_TABLE)]
        if any(not re.match(r"(gpkg|sqlite|rtree)_", name) for name in others):  # those belong to the format
            with contextlib.closing(sqlite3.connect(temporary)) as target:
                source.backup(target)


class _Writer:
    """Puts polygons on the map and writes them batch by batch."""

    def __init__(self, plain: str, path: Path, place: VectorPlace, in_metres: bool) -> None:
        self._plain, self._layer = plain, layer_name(path.stem)
        self._driver = _DRIVERS[path.suffix.lower()]
        self._place, self._in_metres = place, in_metres
        self._degrees = _degrees_of(place) if self._driver == "GeoJSON" and place.is_on_map else None
        self._crs = self._degrees
        if self._degrees is None and place.transform != Affine.identity():
            self._crs = place.crs
        side = pixel_size(place.size, place.transform, place.crs)
        self._longest = math.inf if side is None else _DEGREES_BETWEEN_POINTS * _M_PER_DEGREE / max(side)
        self._options: dict[str, Any] | None = None
        if self._driver == "GeoJSON":
            # Fifteen decimals, the driver's default, would only make the text longer.
            self._options = {"COORDINATE_PRECISION": self._decimals(side)}
            # The standard knows no other system, and no member that names one.
            if self._crs is not None and self._crs.to_epsg() == 4326:
                self._options["RFC7946"] = "YES"
        self._fields = list(_FIELDS if in_metres else _FIELDS_IN_PIXELS)

    def write(self, features: Iterable[Feature]) -> None:
        """Writes all features."""
        if self._driver != "Parquet":
            self._write_batches(features, self._write_batch)
            return
        types = [np.dtype(kind) for kind in _TYPES]
        fields = list(zip(self._fields, types, strict=True))
        with GeoParquetWriter(Path(self._plain), fields, self._crs) as file:
            self._write_batches(features, lambda batch, append: file.write(self._placed(batch), _columns(batch)))

    def _write_batches(self, features: Iterable[Feature], write: Callable[[list[Feature], bool], None]) -> None:
        batch: list[Feature] = []
        written = False
        # The other drivers append, so that memory holds one batch. Without features an empty layer is written.
        for feature in features:
            batch.append(feature)
            if len(batch) == _BATCH and self._driver != "FlatGeobuf":
                write(batch, written)
                batch, written = [], True
        if batch or not written:
            write(batch, written)

    def _decimals(self, side: tuple[float, float] | None) -> int:
        """Returns the decimals of coordinates: 7 of degrees, as the standard advises, or more for finer pixels."""
        transform = self._place.transform
        if self._degrees is not None:
            finest = None if side is None else min(side) / _M_PER_DEGREE
            return 7 if finest is None else min(max(7, math.ceil(-math.log10(finest / 4))), 15)
        finest = min(math.hypot(transform.a, transform.d), math.hypot(transform.b, transform.e))
        return min(max(math.ceil(-math.log10(finest)) + 3, 3), 15)

    def _placed(self, batch: list[Feature]) -> NDArray[Any]:
        """Returns the polygons in the coordinates of the file."""
        shapely = require("shapely", "vector")
        geometries = np.array([feature.polygon for feature in batch], object)
        if self._degrees is None:
            moved: NDArray[Any] = shapely.transform(geometries, lambda points: move(points, self._place.transform))
            return moved
        return self._in_degrees(geometries) if len(batch) else geometries

    def _write_batch(self, batch: list[Feature], append: bool) -> None:
        shapely, pyogrio = require("shapely", "vector"), require("pyogrio", "vector")
        geometries = self._placed(batch)
        if self._driver == "GeoJSON":  # the standard has outlines counterclockwise
            geometries = shapely.orient_polygons(geometries)
        with warnings.catch_warnings():
            if self._crs is None:  # the note of the image's result tells the user already
                warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
            pyogrio.raw.write(
                self._plain,
                geometry=shapely.to_wkb(geometries),
                field_data=_columns(batch),
                fields=self._fields,
                layer=self._layer,
                driver=self._driver,
                # A polygon that the date line cuts is a multipolygon.
                geometry_type="Polygon" if self._degrees is None else "Unknown",
                crs=None if self._crs is None else _wkt(self._crs),
                append=append,
                layer_options=self._options,
            )

    def _in_degrees(self, polygons: NDArray[Any]) -> NDArray[Any]:
        """Brings polygons from pixels to longitude and latitude, cut where they cross the date line."""
        shapely = require("shapely", "vector")
        crs = self._place.crs
        if math.isfinite(self._longest):  # in pixels, of which an edge has at least one
            polygons = shapely.segmentize(polygons, max(self._longest, 1.0))
        points = transformed(move(shapely.get_coordinates(polygons), self._place.transform), crs, self._degrees)
        if not np.isfinite(points).all():
            raise DataError("some polygons have no longitude and latitude. Write them as gpkg instead of geojson.")
        moved: NDArray[Any] = shapely.set_coordinates(polygons.copy(), points)
        west, _, east, _ = shapely.bounds(moved).T
        wraps = crs is None or crs.to_dict().get("proj") != "longlat"  # degrees go on beyond the date line
        for index in np.flatnonzero((west < -180) | (east > 180) | (east - west > 180 if wraps else False)):
            moved[index] = _cut_at_date_line(_unwrapped(moved[index]) if wraps else moved[index])
        return moved


def _columns(batch: list[Feature]) -> list[NDArray[Any]]:
    """Returns the attributes of polygons, field by field."""
    rows = [
        # Nine digits are more than the areas are known to, and keep text short.
        (one.value, one.name, float(f"{one.area:.9g}"), one.pixels, round(one.confidence, 9))
        for one in batch
    ]
    return [np.array([row[index] for row in rows], kind) for index, kind in enumerate(_TYPES)]


def _degrees_of(place: VectorPlace) -> CRS | None:
    """Returns the CRS of longitude and latitude that GeoJSON is written in: WGS 84, on other bodies their own.

    None for a local CRS, from which no way leads there.
    """
    centre = move(np.array([(place.size.width / 2, place.size.height / 2)]), place.transform)
    wgs84 = CRS.from_epsg(4326)  # not at import: PROJ's data may be missing or misplaced
    if np.isfinite(transformed(centre, place.crs, wgs84)).all():
        return wgs84
    return own_degrees(place.crs)


def _unwrapped(polygon: Any) -> Any:
    """Lets the longitudes of rings go on beyond 180 degrees where they jump; closes rings around a pole over it."""
    shapely = require("shapely", "vector")
    exterior = _unwrapped_ring(shapely.get_coordinates(polygon.exterior))
    left, right = exterior[:, 0].min(), exterior[:, 0].max()
    holes = []
    for interior in polygon.interiors:
        ring = _unwrapped_ring(shapely.get_coordinates(interior))
        middle = (ring[:, 0].min() + ring[:, 0].max()) / 2
        # A hole starts its count of turns on its own; whole turns bring it back inside of the exterior.
        while middle < left:
            ring[:, 0] += 360
            middle += 360
        while middle > right:
            ring[:, 0] -= 360
            middle -= 360
        holes.append(ring)
    return shapely.Polygon(exterior, holes)


def _unwrapped_ring(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Does for one ring what `_unwrapped` does for a polygon."""
    result = ring.copy()
    result[1:, 0] -= np.cumsum(np.round(np.diff(ring[:, 0]) / 360) * 360)
    if abs(result[-1, 0] - result[0, 0]) > 180:  # a ring around a pole ends a whole turn from its beginning
        pole = math.copysign(90.0, float(ring[:, 1].mean()))
        over = [(result[-1, 0], pole), (result[0, 0], pole), tuple(result[0])]
        result = np.concatenate([result, over])
    return result


def _cut_at_date_line(polygon: Any) -> Any:
    """Cuts what reaches beyond 180 degrees and puts it where it belongs, as the GeoJSON standard has it (3.1.9)."""
    shapely = require("shapely", "vector")
    west, _, east, _ = polygon.bounds
    first, last = math.floor((west + 180) / 360), math.ceil((east + 180) / 360)
    if (first, last) in ((0, 1), (0, 0)):
        return polygon
    whole = shapely.make_valid(polygon)
    parts = []
    for turn in range(first, max(last, first + 1)):
        part = shapely.intersection(whole, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90))
        moved = shapely.transform(part, lambda points, by=360 * turn: points - (by, 0))
        parts += [piece for piece in shapely.get_parts(moved) if piece.geom_type == "Polygon"]
    return shapely.union_all(parts)  # around a pole, parts meet where the ring begins


def _wkt(crs: CRS) -> str:
    """Returns a CRS as text: in the older form that all programs read, where that can hold it."""
    text: str = crs.to_wkt()
    return text if CRS.from_wkt(text) == crs else str(crs.to_wkt(version="WKT2_2019"))


def _check_whole(plain: str, path: Path) -> None:
    """Raises `OSError` if a file was cut short; the library does not always tell of a full disk when it closes one."""
    suffix = path.suffix.lower()
    if suffix == ".geojson":
        with open(plain, "rb") as handle:
            handle.seek(max(handle.seek(0, 2) - 64, 0))
            if not handle.read().rstrip().endswith(b"}"):
                raise OSError("its end is missing, probably for want of space")
    elif suffix == ".parquet":
        parquet_fields(Path(plain))  # its index is at the end
    else:
        layer = layer_name(path.stem) if suffix == ".gpkg" else None
        require("pyogrio", "vector").raw.read(plain, layer=layer, skip_features=0, max_features=1)
