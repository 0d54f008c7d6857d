"""Areas of interest: which pixels of a scene lie inside of polygons."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine

from rsseg_tf.errors import DataError, reason
from rsseg_tf.extras import require
from rsseg_tf.rasters.ground import move, transformed
from rsseg_tf.rasters.polygon_files import Area, read_area
from rsseg_tf.rasters.scenes import Scene
from rsseg_tf.rasters.windows import Window

__all__ = ["AreaOfInterest", "Wanted", "area_of_interest", "polygons_in_pixels"]

Wanted = Callable[[Window], NDArray[np.bool_] | None]
"""Tells which pixels of a part of a scene are wanted, `(H, W)`; None for all."""

_NODES = 33
"""Points along each side of a scene that are transformed to find its place in the polygons' CRS."""
_SEGMENTS = 64
"""Edges of polygons get at least this many points across a scene, because projected edges are not straight."""


@dataclass(frozen=True, eq=False)
class AreaOfInterest:
    """The pixels of a scene that lie inside of polygons; called with a window, it gives their mask, see `Wanted`.

    Attributes:
        bounds: The part of the scene outside of which there is none.
        mask: What is called.
    """

    bounds: Window
    mask: Wanted

    def __call__(self, window: Window) -> NDArray[np.bool_] | None:
        """Returns the mask of a part of the scene."""
        return self.mask(window)


def area_of_interest(path: Path, scene: Scene) -> AreaOfInterest | None:
    """Returns a function from a window to a mask of the pixels whose centre is inside of the polygons of a file.

    Polygons are cut to the surroundings of the scene before they are brought to its CRS, because few projections take
    the whole world. Longitudes may go on beyond 180 degrees on either side.

    Args:
        path: File of polygons, see `read_area`.
        scene: The scene; polygons are brought to its CRS.

    Returns:
        None when no polygon touches the scene.

    Raises:
        ExportError: When the extra `vector` is not installed.
        DataError: When the file cannot be read or holds no polygon (see `read_area`), or the file or the scene has no
            CRS.
    """
    shapely = require("shapely", "vector")
    area = read_area(path)
    try:
        found = polygons_in_pixels(path, area.polygons, area.crs, scene)
        if found is None:
            return AreaOfInterest(Window(0, 0, *scene.size), _pixel_by_pixel(area, scene))
        placed, _ = found
        tree = shapely.STRtree(placed)
    except shapely.errors.ShapelyError as error:  # such as for coordinates beyond all measure
        raise DataError(
            f"the polygons of {path} cannot be brought to {scene.path}: {reason(error)}. Draw the area anew."
        ) from error
    touching = tree.query(shapely.box(0, 0, *scene.size.width_height), predicate="intersects")
    if not len(touching):
        return None
    west, north, east, south = shapely.total_bounds(tree.geometries[touching])
    bounds = Window(
        max(math.floor(north), 0),
        max(math.floor(west), 0),
        min(math.ceil(south), scene.size.height),
        min(math.ceil(east), scene.size.width),
    )

    def wanted(window: Window) -> NDArray[np.bool_]:
        # Only polygons near the window are drawn: an area may have a million of them.
        near = tree.geometries[tree.query(shapely.box(window.x0, window.y0, window.x1, window.y1))]
        shape = window.y1 - window.y0, window.x1 - window.x0
        if not len(near):
            return np.zeros(shape, bool)
        moved = Affine.translation(window.x0, window.y0)
        return rasterize(near, out_shape=shape, transform=moved, fill=0, default_value=1, dtype="uint8").astype(bool)

    return AreaOfInterest(bounds, wanted)


def polygons_in_pixels(
    path: Path, polygons: NDArray[Any], crs: CRS | None, scene: Scene
) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
    """Brings the polygons near a scene to its pixels.

    Args:
        path: Their file, for errors.
        polygons: `(N,)` polygons. Those that cross the edge of the scene's surroundings must be valid where their CRS
            is not the scene's.
        crs: Their reference system.
        scene: The scene.

    Returns:
        `(M,)` polygons in columns and rows of the scene, and `(M,)` the position of each among those given, rising;
        None if parts of them have no place in the CRS of the scene.

    Raises:
        DataError: When polygons or scene do not say where they lie, or no way leads from one CRS to the other.
    """
    shapely = require("shapely", "vector")
    if (crs is None) != (scene.crs is None) or scene.gcps or (crs is not None and scene.transform == Affine.identity()):
        lies = "control points" if scene.gcps else scene.crs or "no CRS"
        raise DataError(
            f"{path} is in {crs or 'no CRS'} and {scene.path} in {lies}; polygons and scene must both say where "
            "they lie, with a CRS and a transform."
        )
    to_pixels = ~scene.transform
    rows = np.arange(len(polygons))
    if crs is not None and scene.crs is not None and (crs != scene.crs or crs.is_geographic):
        box = _surroundings(crs, scene)
        if box is None:
            raise DataError(
                f"{path} is in {crs.to_string()[:80]}, from which no way leads to {scene.crs.to_string()[:80]} of "
                f"{scene.path}. Save the area in the CRS of the scene."
            )
        polygons, rows = _cut_to(polygons, box, crs)
        if crs != scene.crs:
            west, south, east, north = box
            polygons = shapely.segmentize(polygons, max(east - west, north - south) / _SEGMENTS)

    points = shapely.get_coordinates(polygons)
    if crs != scene.crs and len(points):
        points = transformed(points, crs, scene.crs)
        # One corner without a place spoils its polygon, and leaving it out would change the area.
        if not np.isfinite(points).all():
            return None
    placed: NDArray[Any] = shapely.set_coordinates(polygons.copy(), move(points, to_pixels))
    return placed, rows


def _pixel_by_pixel(area: Area, scene: Scene) -> Wanted:
    """Brings the centre of each pixel to the polygons instead, which is slow but works beyond the Earth's edge."""
    shapely = require("shapely", "vector")
    whole = shapely.union_all(area.polygons)
    shapely.prepare(whole)

    def wanted(window: Window) -> NDArray[np.bool_]:
        columns, rows = np.meshgrid(np.arange(window.x0, window.x1) + 0.5, np.arange(window.y0, window.y1) + 0.5)
        centres = move(np.stack([columns.ravel(), rows.ravel()], axis=1), scene.transform)
        points = transformed(centres, scene.crs, area.crs)
        inside: NDArray[np.bool_] = shapely.contains_xy(whole, points)
        return inside.reshape(columns.shape)

    return wanted


def _surroundings(crs: CRS, scene: Scene) -> tuple[float, float, float, float] | None:
    """Returns a box in `crs` with some room around a scene: left, bottom, right, top; None if there is none.

    Around the date line the box goes on beyond 180 degrees; around a pole it is a whole belt of the globe.
    """
    height, width = scene.size
    columns, rows = np.meshgrid(np.linspace(0, width, _NODES), np.linspace(0, height, _NODES))
    nodes = move(np.stack([columns.ravel(), rows.ravel()], axis=1), scene.transform)
    points = nodes.copy() if crs == scene.crs else transformed(nodes, scene.crs, crs)
    points = points[np.isfinite(points).all(axis=1)]
    if not len(points):
        return None
    if crs.is_geographic and crs != scene.crs:
        turn = 2 * np.pi / crs.units_factor[1]  # 360 degrees, or 400 gon
        # Longitudes within half a turn of the scene's centre have no jump at the date line.
        centre = points[len(points) // 2, 0]
        points[:, 0] = centre + (points[:, 0] - centre + turn / 2) % turn - turn / 2
        poles = np.array([(0.0, turn / 4), (0.0, -turn / 4)])
        seen = move(transformed(poles, crs, scene.crs), ~scene.transform)
        inside: NDArray[np.bool_] = np.logical_and.reduce((seen >= 0) & (seen <= (width, height)), axis=1)
        # No box of longitudes surrounds a pole.
        if inside.any() or np.ptp(points[:, 0]) > 0.8 * turn:
            half = turn / 2 * (1 - 1e-9)
            latitudes = np.concatenate([points, poles[inside]])[:, 1]
            bottom, top = float(latitudes.min()), float(latitudes.max())
            return _with_room(crs, scene, (centre - half, bottom, centre + half, top))
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    return _with_room(crs, scene, (left, bottom, right, top))


def _with_room(crs: CRS, scene: Scene, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Widens a box a little where the scene's projection goes on beyond it."""
    left, bottom, right, top = box
    room = max(right - left, top - bottom) / _NODES
    wider = left - room, bottom - room, right + room, top + room

    def ends(sides: tuple[float, float, float, float]) -> NDArray[np.float64]:
        x, y = (left + right) / 2, (bottom + top) / 2
        points = np.array([(sides[0], y), (x, sides[1]), (sides[2], y), (x, sides[3])])
        return move(points if crs == scene.crs else transformed(points, crs, scene.crs), ~scene.transform)

    # Beyond a seam of the projection coordinates jump; there the side stays where it is.
    moved = np.abs(ends(wider) - ends(box))
    near: NDArray[np.bool_] = np.logical_and.reduce(moved < np.array(scene.size.width_height) / 2, axis=1)
    result = [wider[side] if near[side] else box[side] for side in range(4)]
    if crs.is_geographic:
        quarter = np.pi / 2 / crs.units_factor[1]
        result[1], result[3] = max(result[1], -quarter), min(result[3], quarter)
    return result[0], result[1], result[2], result[3]


def _cut_to(
    polygons: NDArray[Any], box: tuple[float, float, float, float], crs: CRS
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Returns the parts of polygons that lie in a box, and which polygon each is of; in the order of the polygons.

    On the globe also those that do so after up to two whole turns either way.
    """
    shapely = require("shapely", "vector")
    turn = 2 * np.pi / crs.units_factor[1] if crs.is_geographic else 0.0
    frame = shapely.box(*box)
    found, rows = [], []
    for count in (-2, -1, 0, 1, 2) if turn else (0,):
        west, south, east, north = shapely.bounds(polygons).T
        by = count * turn
        near = np.flatnonzero((west + by <= box[2]) & (east + by >= box[0]) & (south <= box[3]) & (north >= box[1]))
        turned = shapely.transform(polygons[near], lambda points, by=by: points + (by, 0.0)) if by else polygons[near]
        inside = shapely.covers(frame, turned)  # most polygons need no cut, and keep their vertices to the bit
        found.append(turned[inside])
        rows.append(near[inside])
        parts, origin = shapely.get_parts(shapely.intersection(turned[~inside], frame), return_index=True)
        parts, again = shapely.get_parts(parts, return_index=True)
        kept = shapely.get_type_id(parts) == 3
        found.append(parts[kept])
        rows.append(near[~inside][origin][again][kept])
    order = np.argsort(np.concatenate(rows), kind="stable")
    return np.concatenate(found)[order], np.concatenate(rows)[order]
