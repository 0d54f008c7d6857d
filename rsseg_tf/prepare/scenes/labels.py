"""Labels in files: polygons with a field of classes, or rasters of class values; and their pixels in a scene."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from rsseg_tf.errors import DataError, address_hint, reason
from rsseg_tf.extras import require
from rsseg_tf.files import SIDE_SUFFIX, readable_name
from rsseg_tf.files.walking import JPEG_SUFFIXES
from rsseg_tf.prepare.scenes.classes import IGNORED_ID, ClassTable, value_text
from rsseg_tf.prepare.scenes.sources import file_stamp
from rsseg_tf.rasters.area import Wanted, area_of_interest, polygons_in_pixels
from rsseg_tf.rasters.gdal import (
    RASTER_ERRORS,
    Trust,
    damaged,
    lossy_compression,
    opened_raster,
    reading,
    require_small_blocks,
)
from rsseg_tf.rasters.polygon_files import PolygonFeatures, polygon_driver, read_polygons
from rsseg_tf.rasters.scenes import Scene, raster_driver
from rsseg_tf.rasters.vrt import require_near_sources, require_plain_sides
from rsseg_tf.rasters.windows import Window
from rsseg_tf.rasters.world_files import image_place

__all__ = ["LabelFile", "Layer", "PolygonLayer", "RasterLayer", "ids_of", "open_labels", "place_labels", "read_labels"]

Touching = Literal["centre", "all"]

_MOST_VALUES = 1000
_SIDE = 2048  # of the parts in which a raster is searched for its values
_WARP_MEMORY_MB = 32
_LARGE = 500  # corners from which a polygon is cut to what is drawn
_FAR = 1e9  # pixels, beyond the sides of any scene
_AROUND = 4.0  # pixels around it that are kept, so that the cut does not show
_TOLERANCE = 0.01  # pixels, by which the warper may take a place to be elsewhere; it cannot do with 0


@dataclass(frozen=True, eq=False)
class LabelFile:
    """A file of labels, read as far as all scenes need it.

    Attributes:
        path: The file.
        values: The class values that it holds, as text.
        stamp: Changes with the file.
        features: Its polygons; None for a raster.
        classes: The value of each feature; None for a feature without one.
        driver: GDAL's name of a raster's format.
        crs: Reference system of a raster.
        transform: Of a raster, from (column, row) to coordinates.
        numbers: The class values of a raster, rising.
    """

    path: Path
    values: frozenset[str]
    stamp: str
    features: PolygonFeatures | None = None
    classes: tuple[str | None, ...] = ()
    driver: str = ""
    crs: CRS | None = None
    transform: Affine | None = None
    numbers: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class PolygonLayer:
    """Polygons in the pixels of a scene.

    Attributes:
        polygons: `(N,)` polygons in columns and rows; later ones lie on earlier ones.
        ids: `(N,)` uint8 class ids.
        rows: `(N,)` which polygon of the file each is.
    """

    polygons: NDArray[Any]
    ids: NDArray[np.uint8]
    rows: NDArray[np.int64]

    def near(self, box: tuple[float, float, float, float]) -> PolygonLayer:
        """Returns those that may touch a box: left, top, right, bottom in pixels; of large ones the part around it.

        Drawing takes time for each corner of a polygon, and the outline of a background has a million of them.
        """
        shapely = require("shapely", "vector")
        left, top, right, bottom = shapely.bounds(self.polygons).T
        kept = np.flatnonzero((left <= box[2]) & (right >= box[0]) & (top <= box[3]) & (bottom >= box[1]))
        polygons, rows = self.polygons[kept], kept
        within = (left[kept] >= box[0]) & (right[kept] <= box[2]) & (top[kept] >= box[1]) & (bottom[kept] <= box[3])
        large = np.flatnonzero(~within & (shapely.get_num_coordinates(polygons) > _LARGE))
        if len(large):
            frame = shapely.box(box[0] - _AROUND, box[1] - _AROUND, box[2] + _AROUND, box[3] + _AROUND)
            polygons = polygons.copy()
            for place in large:
                with contextlib.suppress(shapely.errors.ShapelyError):  # of outlines that cross themselves
                    polygons[place] = shapely.intersection(polygons[place], frame)
            while (shapely.get_type_id(polygons) > 3).any():
                polygons, origin = shapely.get_parts(polygons, return_index=True)
                rows = rows[origin]
            drawn = (shapely.get_type_id(polygons) == 3) & ~shapely.is_empty(polygons)
            polygons, rows = polygons[drawn], rows[drawn]
        return PolygonLayer(polygons, self.ids[rows], self.rows[rows])


@dataclass(frozen=True, eq=False)
class RasterLayer:
    """A raster of class values, brought to the grid of a scene by the nearest pixel.

    Attributes:
        path: The file.
        driver: GDAL's name of its format.
        crs: Its reference system.
        transform: From (column, row) to coordinates.
        numbers: Its class values, rising.
        ids: The class id of each value.
    """

    path: Path
    driver: str
    crs: CRS
    transform: Affine
    numbers: tuple[float, ...]
    ids: tuple[int, ...]


Layer = PolygonLayer | RasterLayer


# === Reading ===


def read_labels(
    paths: Sequence[Path], *, field: str | None, layer: str | None, single: str, trust: Trust, extra: Sequence[str] = ()
) -> tuple[LabelFile, ...]:
    """Reads files of labels.

    Args:
        paths: Files of polygons or rasters of class values.
        field: The field that holds the class of a polygon; None makes all polygons one class.
        layer: The layer to read, in a file of several.
        single: Name of that one class.
        trust: Limits for the sources of a VRT.
        extra: Further fields to read.

    Raises:
        ExportError: When the extra `vector` is not installed.
        DataError: When a file is missing, empty or damaged, is no file of labels, or lacks the field, the layer, a CRS
            or polygons.
    """
    found = []
    for path in paths:
        name = readable_name(path)
        if not path.is_file():
            raise DataError(f"{name} does not exist; a file of labels is expected. Check the path.{address_hint(path)}")
        if not path.stat().st_size:
            raise DataError(f"{name} is empty; polygons or a raster of classes are expected. Save the labels again.")
        if polygon_driver(path) is not None:
            found.append(_read_polygons(path, field, layer, single, extra))
        elif raster_driver(path) is not None or path.suffix.lower() == ".png":
            found.append(_read_raster(path, trust))
        else:
            kind = " is a JPEG, whose losses change class values;" if path.suffix.lower() in JPEG_SUFFIXES else " is"
            raise DataError(
                f"{name}{kind} neither a file of polygons (GeoPackage, GeoJSON, Shapefile, FlatGeobuf, GeoParquet, "
                "KML) nor a raster of classes (TIFF, VRT, PNG). Save the labels as one of them."
            )
    return tuple(found)


def _read_polygons(path: Path, field: str | None, layer: str | None, single: str, extra: Sequence[str]) -> LabelFile:
    fields = list(dict.fromkeys([*([] if field is None else [field]), *extra]))
    features = read_polygons(path, fields=fields, layer=layer, noun="labels")
    if features.crs is None:
        raise DataError(
            f"{readable_name(path)} names no CRS, so its polygons have no place in a scene. Assign one (a .prj file "
            "beside a shapefile; in QGIS: Assign Projection)."
        )
    count = int(features.features.max()) + 1
    classes: tuple[str | None, ...] = (single,) * count
    if field is not None:
        classes = tuple(value_text(value) for value in features.fields[field])
    used = {classes[row] for row in np.unique(features.features)}
    values = frozenset(value for value in used if value is not None)
    if not values:
        raise DataError(
            f"{readable_name(path)} has no value in the field '{field}' of any polygon; a class is expected there. "
            "Fill it, or choose another field."
        )
    # A shapefile's fields, CRS and index lie in files beside it.
    family = (
        [one for one in path.parent.iterdir() if one.stem == path.stem] if path.suffix.lower() == ".shp" else [path]
    )
    return LabelFile(path, values, file_stamp(family), features, classes)


def _read_raster(path: Path, trust: Trust) -> LabelFile:
    name, driver = readable_name(path), raster_driver(path) or "PNG"
    if not trust.vrt_sources:
        require_plain_sides(path)
        if driver == "VRT":
            require_near_sources(path)
    with opened_raster(path, driver) as source:
        if source.count != 1:
            raise DataError(
                f"{name} has {source.count} bands; labels hold class values in one. If it is the image, it belongs "
                "before --labels, and the labels after it."
            )
        require_small_blocks(name, source, source.dtypes[0], trust)
        if losses := lossy_compression(source):
            raise DataError(
                f"{name} is compressed with losses ({losses}), which change class values. Save the labels with "
                "DEFLATE, LZW or no compression."
            )
        crs, transform = source.crs, source.transform
        if crs is None and driver in ("GTiff", "PNG"):
            beside = image_place(path, driver)
            crs = beside.crs
            transform = beside.transform if transform == Affine.identity() else transform
        if crs is None or transform == Affine.identity():
            raise DataError(
                f"{name} names no CRS or no transform, so its classes have no place in a scene. Assign them (gdal_edit "
                "-a_srs, in QGIS: Assign Projection)."
            )
        try:
            numbers = _distinct(source, name)
        except RASTER_ERRORS as error:
            raise damaged(name, driver, error) from error
        files = [*source.files, path.with_name(path.name + SIDE_SUFFIX)]
    if not numbers:
        raise DataError(f"{name} is empty: all its pixels are no data. Check the nodata value.")
    values = frozenset(text for number in numbers if (text := value_text(number)) is not None)
    return LabelFile(
        path, values, file_stamp(files), driver=driver, crs=crs, transform=transform, numbers=tuple(numbers)
    )


def _distinct(source: Any, name: str) -> list[float]:
    """Returns the values of a raster's pixels, without its nodata value, rising."""
    found: set[float] = set()
    for y0 in range(0, source.height, _SIDE):
        for x0 in range(0, source.width, _SIDE):
            window = ((y0, min(y0 + _SIDE, source.height)), (x0, min(x0 + _SIDE, source.width)))
            values = source.read(1, window=window, masked=True).compressed()
            if values.dtype == np.uint8:
                found.update(np.flatnonzero(np.bincount(values, minlength=256)).tolist())
            else:
                values = np.unique(values[np.isfinite(values)])
                if values.dtype.kind not in "iu" and (values != np.round(values)).any():
                    broken = values[values != np.round(values)][0]
                    raise DataError(
                        f"{name} holds the value {broken:g}; classes are whole numbers. If it is the image, it belongs "
                        "before --labels."
                    )
                found.update(values.tolist())
            if len(found) > _MOST_VALUES:
                raise DataError(
                    f"{name} holds more than {_MOST_VALUES} different values, as an image does; classes are few. If it "
                    "is the image, it belongs before --labels."
                )
    return sorted(found)


# === Placing ===


def ids_of(file: LabelFile, table: ClassTable) -> NDArray[np.uint8]:
    """Returns the class id of each feature of a file of polygons, or of each value of a raster."""
    return np.array([table.id_of(value) for value in file.classes or file.numbers], np.uint8)


def place_labels(file: LabelFile, ids: NDArray[np.uint8], scene: Scene) -> Layer | None:
    """Brings the labels of a file to a scene; None where they do not touch it.

    Args:
        file: The file.
        ids: From `ids_of`.
        scene: The scene.

    Raises:
        DataError: When polygons have no place in the CRS of the scene.
    """
    if file.features is None:
        return _placed_raster(file, ids, scene)
    shapely = require("shapely", "vector")
    height, width = scene.size
    crs = file.features.crs
    if crs != scene.crs or (crs is not None and crs.is_geographic):
        polygons, rows = _mended(file)  # they may be cut, for which they must be valid
    else:
        # A file may hold a country, and the scenes may be many.
        left, bottom, right, top = _bounds((height, width), scene.transform)
        west, south, east, north = _extents(file)
        near = np.flatnonzero((west <= right) & (east >= left) & (south <= top) & (north >= bottom))
        polygons, rows = file.features.polygons[near], near
    found = polygons_in_pixels(file.path, polygons, crs, scene)
    if found is None:
        raise DataError(
            f"{file.path} holds polygons near {scene.path} that have no place in its CRS. Cut them to the surroundings "
            "of the scene first."
        )
    placed, positions = found
    rows = rows[positions]
    layer = PolygonLayer(placed, ids[file.features.features[rows]], rows).near((0.0, 0.0, float(width), float(height)))
    # A box may touch a scene that its polygon does not.
    frame = shapely.box(0, 0, width, height)
    shapely.prepare(frame)
    try:
        touching = shapely.intersects(frame, layer.polygons)
    except shapely.errors.ShapelyError:  # of outlines that cross themselves
        touching = np.ones(len(layer.polygons), bool)
    layer = PolygonLayer(layer.polygons[touching], layer.ids[touching], layer.rows[touching])
    return layer if len(layer.polygons) else None


@lru_cache(maxsize=4)  # a file meets many scenes
def _extents(file: LabelFile) -> NDArray[np.float64]:
    """Returns left, bottom, right and top of the polygons of a file, `(4, N)`."""
    shapely = require("shapely", "vector")
    extents: NDArray[np.float64] = shapely.bounds(file.features.polygons).T if file.features else np.zeros((4, 0))
    return extents


@lru_cache(maxsize=4)
def _mended(file: LabelFile) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Returns the polygons of a file made valid, in their order, and which of those in the file each is a part of."""
    shapely = require("shapely", "vector")
    polygons = file.features.polygons if file.features else np.zeros(0, object)
    rows = np.arange(len(polygons))
    invalid = ~shapely.is_valid(polygons)
    if not invalid.any():
        return polygons, rows
    try:
        mended = np.where(invalid, shapely.make_valid(polygons), polygons)
    except shapely.errors.ShapelyError as error:
        raise DataError(
            f"{file.path} holds polygons that cannot be made valid: {reason(error)}. Draw the labels anew."
        ) from error
    while (shapely.get_type_id(mended) > 3).any():
        mended, origin = shapely.get_parts(mended, return_index=True)
        rows = rows[origin]
    kept = shapely.get_type_id(mended) == 3
    return mended[kept], rows[kept]


def _placed_raster(file: LabelFile, ids: NDArray[np.uint8], scene: Scene) -> RasterLayer | None:
    with opened_raster(file.path, file.driver) as source:
        size = source.height, source.width
    box = _bounds(size, file.transform)
    height, width = scene.size
    try:
        # Many points along each side, since a side may be curved in the other CRS.
        box = transform_bounds(file.crs, scene.crs, *box, densify_pts=33)
    except Exception:  # GDAL's own error, which has no public type: no part of it has a place there
        return None
    own = _bounds((height, width), scene.transform)
    if not (box[0] < own[2] and box[2] > own[0] and box[1] < own[3] and box[3] > own[1]):
        return None
    return RasterLayer(file.path, file.driver, file.crs, file.transform, file.numbers, tuple(ids.tolist()))


def _bounds(size: tuple[int, int], transform: Affine | None) -> tuple[float, float, float, float]:
    a, b, c, d, e, f = (transform or Affine.identity())[:6]
    x = [a * column + b * row + c for column in (0, size[1]) for row in (0, size[0])]
    y = [d * column + e * row + f for column in (0, size[1]) for row in (0, size[0])]
    return min(x), min(y), max(x), max(y)


# === Drawing ===


@contextlib.contextmanager
def open_labels(
    scene: Scene, layers: Sequence[Layer], *, background: int, touching: str, aoi: Path | None
) -> Iterator[Callable[[Window], NDArray[np.uint8]]]:
    """Gives a function from a window within a scene to its class ids, `(H, W)` uint8.

    A polygon covers the pixels whose centre lies in it, or all that it touches; later polygons and later layers lie on
    earlier ones. Pixels that no label covers are background, where there are polygons at all; pixels outside of the
    area of interest are ignored.

    Args:
        scene: The scene.
        layers: Its labels.
        background: Id of what no label covers.
        touching: `"centre"` or `"all"`.
        aoi: File of the polygons outside of which pixels are ignored.

    Raises:
        DataError: When a file is damaged; also from the function.
    """
    wanted: Wanted | None = None
    if aoi is not None:
        wanted = area_of_interest(aoi, scene) or (lambda window: np.zeros(_shape(window), bool))
    with ExitStack() as stack:
        draw = [_drawer(layer, scene, touching, stack) for layer in layers]

        def read(window: Window) -> NDArray[np.uint8]:
            ids = np.full(_shape(window), background, np.uint8)
            for one in draw:
                one(window, ids)
            inside = None if wanted is None else wanted(window)
            if inside is not None:
                ids[~inside] = IGNORED_ID
            return ids

        yield read


Draw = Callable[[Window, NDArray[np.uint8]], None]


def _shape(window: Window) -> tuple[int, int]:
    return window.y1 - window.y0, window.x1 - window.x0


def _drawer(layer: Layer, scene: Scene, touching: str, stack: ExitStack) -> Draw:
    if isinstance(layer, PolygonLayer):
        return _polygon_drawer(layer, all_touched=touching == "all")
    return _raster_drawer(layer, scene, stack)


def _polygon_drawer(layer: PolygonLayer, *, all_touched: bool) -> Draw:
    rows: tuple[int, int, PolygonLayer] | None = None

    def draw(window: Window, ids: NDArray[np.uint8]) -> None:
        nonlocal rows
        # Windows come row by row, and all of a row share the polygons near it.
        if rows is None or (window.y0, window.y1) != rows[:2]:
            rows = window.y0, window.y1, layer.near((-_FAR, window.y0 - 1.0, _FAR, window.y1 + 1.0))
        near = rows[2].near((window.x0 - 1.0, window.y0 - 1.0, window.x1 + 1.0, window.y1 + 1.0))
        if len(near.polygons):
            shapes = list(zip(near.polygons, near.ids.tolist(), strict=True))
            moved = Affine.translation(window.x0, window.y0)
            rasterize(shapes, out=ids, transform=moved, all_touched=all_touched)

    return draw


def _raster_drawer(layer: RasterLayer, scene: Scene, stack: ExitStack) -> Draw:
    source = stack.enter_context(opened_raster(layer.path, layer.driver))
    height, width = scene.size
    with reading(readable_name(layer.path), layer.driver):
        warped = stack.enter_context(
            WarpedVRT(
                source, src_crs=layer.crs, src_transform=layer.transform, crs=scene.crs, transform=scene.transform,
                width=width, height=height, resampling=Resampling.nearest, add_alpha=True, tolerance=_TOLERANCE,
                warp_mem_limit=_WARP_MEMORY_MB,
            )
        )  # fmt: skip
    numbers, known = np.array(layer.numbers), np.array(layer.ids, np.uint8)

    def draw(window: Window, ids: NDArray[np.uint8]) -> None:
        part = ((window.y0, window.y1), (window.x0, window.x1))
        try:
            values, covered = warped.read([1, 2], window=part)
        except RASTER_ERRORS as error:
            raise damaged(readable_name(layer.path), layer.driver, error) from error
        places = np.minimum(np.searchsorted(numbers, values), len(numbers) - 1)
        here = (covered != 0) & (numbers[places] == values)
        ids[here] = known[places[here]]

    return draw
