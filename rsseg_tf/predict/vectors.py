"""Polygons of the classes of a label map, streamed: tile by tile, merged over the edges of tiles.

Regions are 4-connected, so that polygons never cross themselves. Each tile is outlined and, if asked for, simplified as
one coverage in which neighbours share their edges; edges on the border of the tile stay as they are, so that the parts
of a region fit together again. A region is merged and written as soon as no tile to come can touch it, so that memory
holds one tile and the regions that are still open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.features import shapes

from rsseg_tf.disjoint_sets import DisjointSets
from rsseg_tf.extras import require
from rsseg_tf.predict.decoding import PROBABILITY_STEPS
from rsseg_tf.predict.styling import layer_qml
from rsseg_tf.predict.vector_files import Feature, VectorPlace, write_features
from rsseg_tf.rasters.ground import PixelAreas, pixel_areas
from rsseg_tf.rasters.scenes import Scene
from rsseg_tf.rasters.windows import Window
from rsseg_tf.styles import PaletteEntry

__all__ = ["Legend", "Region", "regions", "write_polygons"]

TILE = 1024
"""Side of the tiles that are outlined at once, in pixels."""

_OUTSIDE = -1


@dataclass(frozen=True)
class Legend:
    """The meaning of a label map's values.

    Attributes:
        entries: Names and colours of the ids.
        ignored: Id of pixels without a class, which get no polygon.
    """

    entries: tuple[PaletteEntry, ...]
    ignored: int


@dataclass
class Region:
    """A 4-connected region of one class.

    Attributes:
        value: The class id.
        geometry: Its outline in pixels, x to the right and y downwards.
        pixels: Number of its pixels.
        confidence: Sum of their stored confidences.
        area: Sum of their areas.
    """

    value: int
    geometry: Any
    pixels: int
    confidence: float
    area: float


@dataclass
class _Open:
    """A region that later tiles may touch, in parts."""

    value: int
    parts: list[Any]
    pixels: int
    confidence: float
    area: float


def write_polygons(
    path: Path,
    labels_file: Path,
    confidence_file: Path,
    scene: Scene,
    legend: Legend,
    *,
    min_area: float = 0.0,
    simplify: float = 0.0,
) -> None:
    """Writes the regions of a label map as polygons with class, area and mean confidence.

    Fields: `class_id`, `class`, `area_m2` (on the ground, see `pixel_areas`; `area_px` where the scene has no CRS or no
    transform), `pixels` and `confidence`, the mean of the pixels' largest probabilities. GeoJSON is in longitude and
    latitude, as its standard has it; other formats are in the CRS of the scene. A scene that lies by control points or
    by RPCs alone has polygons in pixels, x to the right and y downwards. GeoPackage and GeoJSON are written piece by
    piece; a FlatGeobuf begins with its index and so is written when all polygons are known.

    Args:
        path: .gpkg, .geojson, .fgb or .parquet; appears whole or not. Other layers of a GeoPackage stay.
            A GeoPackage stores colours of the classes for QGIS.
        labels_file: Raster of class ids.
        confidence_file: Raster of the same size, in steps of 1/254.
        scene: The scene, which tells where they lie.
        legend: Names of the classes.
        min_area: Smaller polygons are left out; square metres on the ground, or pixels without a CRS.
        simplify: Tolerance of the outlines in pixels, about the square root of the triangles that are cut off;
            neighbours keep a common edge.

    Raises:
        ExportError: When the extra `vector` is not installed.
        DataError: When the file cannot be written, or holds what this package did not write.
    """
    areas = pixel_areas(scene.size, scene.transform, scene.crs)
    with rasterio.open(labels_file) as labels, rasterio.open(confidence_file) as confidence:
        found = regions(labels, confidence, legend.ignored, simplify=simplify, areas=areas)
        features = _features(found, legend, min_area)
        place = VectorPlace(scene.size, scene.transform, scene.crs)
        write_features(path, features, place, in_metres=areas.in_metres, style=layer_qml(legend.entries))


def regions(
    labels: rasterio.DatasetReader,
    confidence: rasterio.DatasetReader,
    ignored: int,
    *,
    simplify: float = 0.0,
    tile: int = TILE,
    areas: PixelAreas | None = None,
) -> Iterator[Region]:
    """Yields the regions of a label map, each as soon as it is whole; see the module.

    Args:
        labels: Class ids in the first band.
        confidence: Stored confidences.
        ignored: Id that gets no region.
        simplify: See `write_polygons`.
        tile: Side of the tiles.
        areas: Areas of the pixels; 1 each by default.
    """
    areas = areas or PixelAreas(1.0, in_metres=False)
    shapely = require("shapely", "vector")
    height, width = labels.shape
    groups = _Groups()
    # Of the tiles that are done only these edges are kept, so memory grows with the width and not with the scene.
    above = np.full(width, _OUTSIDE, np.int64)  # numbers of the parts along the lower edge of the last row of tiles
    above_values = np.full(width, _OUTSIDE, np.int16)
    for top in range(0, height, tile):
        bottom = min(top + tile, height)
        left_parts, left_values = None, above_values
        for left in range(0, width, tile):
            right = min(left + tile, width)
            around = _with_apron(labels, top, left, bottom, right)
            values = around[1:-1, 1:-1]
            stored = confidence.read(1, window=((top, bottom), (left, right)))
            ids, found = _outlines(values, around, top, left, simplify)
            numbers = groups.add(ids, found, values, stored, areas.of(Window(top, left, bottom, right)))
            parts = numbers[ids]
            groups.join(above[left:right], parts[0], above_values[left:right] == values[0])
            if left_parts is not None:
                groups.join(left_parts, parts[:, 0], left_values == values[:, 0])
            left_parts, left_values = parts[:, -1], values[:, -1].copy()
            above[left:right], above_values[left:right] = parts[-1], values[-1]
        # A region is whole when none of its parts reaches the lower edge of this row of tiles.
        still_open = np.unique(above) if bottom < height else np.empty(0, np.int64)
        for group in groups.close(still_open):
            if group.value != ignored:
                whole = group.parts[0] if len(group.parts) == 1 else shapely.coverage_union_all(group.parts)
                yield Region(group.value, whole, group.pixels, group.confidence, group.area)


def _with_apron(source: rasterio.DatasetReader, top: int, left: int, bottom: int, right: int) -> NDArray[np.int16]:
    """Reads a tile with one more pixel on each side; pixels outside of the map get the value `_OUTSIDE`."""
    height, width = source.shape
    y0, x0, y1, x1 = max(top - 1, 0), max(left - 1, 0), min(bottom + 1, height), min(right + 1, width)
    read = source.read(1, window=((y0, y1), (x0, x1))).astype(np.int16)
    padding = ((y0 - top + 1, bottom + 1 - y1), (x0 - left + 1, right + 1 - x1))
    return np.pad(read, padding, constant_values=_OUTSIDE)


def _outlines(
    values: NDArray[np.int16], around: NDArray[np.int16], top: int, left: int, simplify: float
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Returns the number of each pixel's part, `(H, W)`, and the polygons of the parts by number."""
    shapely = require("shapely", "vector")
    ids = np.zeros(values.shape, np.int32)
    count = 0
    # Parts get numbers first: outlines of class ids would not tell which pixels belong to which polygon.
    for value in np.unique(values):
        mask = values == value
        most, parts = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
        ids[mask] = parts[mask] + (count - 1)  # OpenCV counts the background as part 0
        count += most - 1
    polygons = np.empty(count, object)
    for outline, number in shapes(ids, connectivity=4):
        polygons[int(number)] = shapely.geometry.shape(outline)
    polygons = _with_nodes(polygons, _nodes(around))
    if simplify:  # the border stays, or the tile beside it would no longer fit
        polygons = shapely.coverage_simplify(polygons, simplify, simplify_boundary=False)
    return ids, shapely.transform(polygons, lambda points: points + (left, top))


def _nodes(around: NDArray[np.int16]) -> NDArray[np.int64]:
    """Returns the corners (x, y) that must be vertices of all polygons which they lie on.

    Inside of the tile, these are the corners where three or four regions meet. On the border, these are all corners
    where an outline of either side bends or begins, so that the parts on both sides have the same vertices.
    """
    # The pixels around each corner: a b above, c d below.
    a, b, c, d = around[:-1, :-1], around[:-1, 1:], around[1:, :-1], around[1:, 1:]
    above, below, before, after = a != b, c != d, a != c, b != d
    needed = above.astype(np.int8) + below + before + after >= 3
    for row in (0, -1):
        needed[row] |= above[row] | below[row]
    for column in (0, -1):
        needed[:, column] |= before[:, column] | after[:, column]
    rows, columns = np.nonzero(needed)
    return np.stack([columns, rows], axis=1)


def _with_nodes(polygons: NDArray[Any], nodes: NDArray[np.int64]) -> NDArray[Any]:
    """Adds to polygons with axis-parallel edges the nodes that lie on an edge, between its ends."""
    if not len(nodes):
        return polygons
    shapely = require("shapely", "vector")
    kind, points, (ring_ends, polygon_ends) = shapely.to_ragged_array(polygons)
    corners = points.astype(np.int64)
    steps = np.diff(corners, axis=0, append=corners[-1:])
    steps[ring_ends[1:] - 1] = 0  # no edge leads on from the last point of a ring
    # Nodes on one line are neighbours in the sorted keys, so each edge's nodes are a slice: `first` and `count` of it.
    first = np.zeros(len(corners), np.int64)
    count = np.zeros(len(corners), np.int64)
    stride = int(max(corners.max(), nodes.max())) + 1
    lines = []
    for axis in (0, 1):  # edges along x, then along y
        keys = np.sort(nodes[:, 1 - axis] * stride + nodes[:, axis])
        along = np.flatnonzero(steps[:, axis])
        start, end = corners[along, axis], corners[along, axis] + steps[along, axis]
        base = corners[along, 1 - axis] * stride
        low = np.searchsorted(keys, base + np.minimum(start, end), side="right")
        high = np.searchsorted(keys, base + np.maximum(start, end), side="left")
        first[along], count[along] = low, high - low
        lines.append(keys % stride)
    # Each corner moves back by the nodes that come before it; the nodes of its edge follow it.
    places = np.arange(len(corners)) + np.cumsum(count) - count
    result = np.empty((len(corners) + count.sum(), 2), np.int64)
    result[places] = corners
    source = np.repeat(np.arange(len(corners)), count)
    if len(source):
        rank = np.arange(len(source)) - np.repeat(np.cumsum(count) - count, count)
        axis = (steps[source, 0] == 0).astype(np.int64)
        backwards = steps[source, axis] < 0
        picked = first[source] + np.where(backwards, count[source] - 1 - rank, rank)
        added = corners[source]
        for way in (0, 1):
            on = axis == way
            added[on, way] = lines[way][picked[on]]
        result[places[source] + 1 + rank] = added
    ends = np.append(0, ring_ends[1:] + np.cumsum(count)[ring_ends[1:] - 1])
    return shapely.from_ragged_array(kind, result.astype(np.float64), (ends, polygon_ends))


class _Groups:
    """Parts of regions, joined over the edges of tiles."""

    def __init__(self) -> None:
        self._sets = DisjointSets()
        self._open: dict[int, _Open] = {}
        self._next = 0

    def add(
        self,
        ids: NDArray[np.int32],
        polygons: NDArray[Any],
        values: NDArray[np.int16],
        stored: NDArray[np.uint8],
        areas: float | NDArray[np.float64],
    ) -> NDArray[np.int64]:
        """Adds the parts of a tile and returns their numbers."""
        count = len(polygons)
        pixels = np.bincount(ids.ravel(), minlength=count)
        confidence = np.bincount(ids.ravel(), weights=stored.ravel(), minlength=count)
        if isinstance(areas, float):
            area: NDArray[Any] = pixels * areas
        else:
            area = np.bincount(ids.ravel(), weights=areas.ravel(), minlength=count)
        _, places = np.unique(ids, return_index=True)
        of_part = values.ravel()[places]
        for number in range(count):
            self._open[self._next + number] = _Open(
                int(of_part[number]),
                [polygons[number]],
                int(pixels[number]),
                float(confidence[number]),
                float(area[number]),
            )
        self._next += count
        return np.arange(self._next - count, self._next)

    def join(self, one: NDArray[np.int64], other: NDArray[np.int64], same: NDArray[np.bool_]) -> None:
        """Joins parts that lie side by side, where they are of the same class."""
        for pair in np.unique(np.stack([one[same], other[same]], axis=1), axis=0):
            first, second = self._sets.root(int(pair[0])), self._sets.root(int(pair[1]))
            if first == second:
                continue
            if len(self._open[first].parts) < len(self._open[second].parts):
                first, second = second, first  # the shorter list is copied: a region may have thousands of parts
            kept, taken = self._open[first], self._open.pop(second)
            kept.parts += taken.parts
            kept.pixels += taken.pixels
            kept.confidence += taken.confidence
            kept.area += taken.area
            self._sets.join(first, second)

    def close(self, still_open: NDArray[np.int64]) -> Iterator[_Open]:
        """Yields and forgets the regions without a part among `still_open`."""
        kept = {self._sets.root(int(number)) for number in still_open}
        for number in [number for number in self._open if number not in kept]:
            yield self._open.pop(number)
        # Later tiles ask for the numbers in `still_open` alone; the sets of others would grow with the scene.
        self._sets.keep(map(int, still_open))


def _features(found: Iterable[Region], legend: Legend, min_area: float) -> Iterator[Feature]:
    """Turns regions into features, their outlines still in pixels; leaves out those that are too small."""
    shapely = require("shapely", "vector")
    names = {entry.value: entry.name for entry in legend.entries}
    for region in found:
        for polygon in shapely.get_parts(region.geometry):
            # What simplifying has cut off or added counts at the mean area of the region's pixels.
            area = region.area * float(shapely.area(polygon)) / region.pixels
            if area >= min_area:
                mean = region.confidence / region.pixels / PROBABILITY_STEPS
                yield Feature(region.value, names[region.value], polygon, area, region.pixels, mean)
