"""Sizes on the ground: the length of a pixel's sides and the area of pixels, in metres, whatever the CRS.

Both are taken from where the pixels lie in space: their coordinates go to longitude and latitude on the ellipsoid of
their own CRS, and from there to the geocentric frame, in which neither the poles nor the date line are special.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as reproject

from rsseg_tf.rasters.windows import Size, Window

__all__ = ["PixelAreas", "least_sides", "move", "own_degrees", "pixel_areas", "pixel_size", "transformed"]

# Areas are those of a projection's plane where it differs by less than this part from the ground everywhere in a
# scene, and then agree with those that a GIS measures in the map. Within its zone, UTM differs by up to 0.2 %.
_TRUE_ENOUGH = 0.0025
_NODES = 9
"""Places along each side of a scene where its plane is compared with the ground."""
_STEP_DEGREES = 0.1  # the area of a cell of degrees is nearly linear over such a distance
_STEP_PIXELS = 64
"""Areas are worked out at nodes that lie no further apart than this, and interpolated between them."""
_LEAST_DISTANCE_M = 100.0
"""Over shorter distances the rounding of coordinates would show."""
_EARTH_M_PER_DEGREE = 111_320.0  # along the equator of WGS 84
# SPHEROID in WKT 1, ELLIPSOID in WKT 2: semi-major axis, inverse flattening (0 for a sphere), metres per unit.
_ELLIPSOID = re.compile(
    r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([0-9.eE+-]+),\s*([0-9.eE+-]+)(?:,\s*LENGTHUNIT\["[^"]*",\s*([0-9.eE+-]+))?'
)


def move(points: NDArray[np.float64], transform: Affine) -> NDArray[np.float64]:
    """Applies a transform to `(n, 2)` points; in full, because versions of affine differ in the operator for it."""
    x, y = points[:, 0], points[:, 1]
    return np.stack(
        [transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f], axis=1
    )


def pixel_size(size: Size, transform: Affine, crs: CRS | None) -> tuple[float, float] | None:
    """Returns the (height, width) on the ground of the pixel in the middle of a scene, in metres.

    Measured on the ellipsoid, so that degrees and the stretched metres of Web Mercator come out right. In a local CRS,
    which has no place on an ellipsoid, the units of its plane count.

    Args:
        size: (height, width) of the scene in pixels.
        transform: From (column, row) to coordinates.
        crs: Their reference system.

    Returns:
        None where there is no reference system or no transform.
    """
    if crs is None or transform == Affine.identity():
        return None
    middle = np.array([(size[1] / 2, size[0] / 2)])
    down, right = _sides(middle, transform, crs)
    sides = float(np.linalg.norm(down)), float(np.linalg.norm(right))
    return sides if all(np.isfinite(side) and side > 0 for side in sides) else None


def least_sides(places: NDArray[np.float64], transform: Affine, crs: CRS) -> tuple[float, float]:
    """Returns the least (height, width) on the ground that a pixel has at some of `(n, 2)` places, in metres.

    In degrees and in Mercator's projections the same pixels are half as large at 60 degrees as at the equator. Places
    that lie nowhere on Earth do not count; where all do, both are infinite.

    Args:
        places: Columns and rows.
        transform: From (column, row) to coordinates.
        crs: Their reference system.
    """
    lengths = [np.linalg.norm(side, axis=1) for side in _sides(places, transform, crs)]
    down, right = (float(np.min(some[np.isfinite(some) & (some > 0)], initial=np.inf)) for some in lengths)
    return down, right


@dataclass(frozen=True)
class PixelAreas:
    """The area of each pixel of a scene.

    Attributes:
        same: The area of every pixel, where all have the same; else None.
        in_metres: Whether areas are square metres on the ground, and not pixels.
        note: A caution for readers of the areas, in one line; None where the areas need none.
        step: Distance of the nodes between which areas are interpolated, in pixels.
        transform: From (column, row) to coordinates.
        crs: Their reference system.
    """

    same: float | None
    in_metres: bool
    note: str | None = None
    step: int = _STEP_PIXELS
    transform: Affine | None = None
    crs: CRS | None = None

    def of(self, window: Window) -> float | NDArray[np.float64]:
        """Returns the areas of the pixels of a part of the scene, `(H, W)`, or one number if all areas are equal.

        Pixels that lie nowhere on Earth (beyond the edge of its disk in a view from space) have none: 0.
        """
        if self.same is not None or self.crs is None or self.transform is None:
            return 1.0 if self.same is None else self.same
        found = _interpolated(window, self.step, self.transform, self.crs)
        if not np.isfinite(found).all():  # near the edge of the Earth's disk; closer nodes leave fewer pixels without
            found = _interpolated(window, max(self.step // 8, 1), self.transform, self.crs)
        return np.nan_to_num(found, nan=0.0)


def pixel_areas(size: Size, transform: Affine, crs: CRS | None) -> PixelAreas:
    """Works out the areas of a scene's pixels.

    Projections that are true to area, or nearly so where the scene lies (`_TRUE_ENOUGH`), give all pixels the area that
    they have in the map's plane. In all others (degrees, Mercator, UTM far from its zone) each pixel has its own, that
    on the ellipsoid.

    Args:
        size: (height, width) of the scene in pixels.
        transform: From (column, row) to coordinates.
        crs: Their reference system; without one, or without a transform, areas are in pixels.
    """
    if crs is None or transform == Affine.identity():
        return PixelAreas(1.0, in_metres=False)
    plane = abs(transform.a * transform.e - transform.b * transform.d)
    if _longlat(crs) is None:
        unit, factor = crs.units_factor
        return PixelAreas(
            plane * factor**2, True, note=f"its CRS is a local one; areas are those of its own plane, in {unit}"
        )
    places = _grid(np.linspace(0, size[1], _NODES), np.linspace(0, size[0], _NODES))
    down, right = _sides(places, transform, crs)
    areas = np.linalg.norm(np.cross(down, right), axis=1)  # of parallelograms
    if crs.is_projected:
        plane *= crs.linear_units_factor[1] ** 2
        if np.isfinite(areas).all() and np.allclose(areas, plane, rtol=_TRUE_ENOUGH, atol=0):
            return PixelAreas(plane, True)
    longest = np.linalg.norm(np.concatenate([down, right]), axis=1)
    longest = longest[np.isfinite(longest)]
    degrees = float(longest.max()) / _EARTH_M_PER_DEGREE if len(longest) else 0.0
    step = _STEP_PIXELS if degrees * _STEP_PIXELS <= _STEP_DEGREES else max(int(_STEP_DEGREES / degrees), 1)
    return PixelAreas(None, True, step=step, transform=transform, crs=crs)


def _interpolated(window: Window, step: int, transform: Affine, crs: CRS) -> NDArray[np.float64]:
    """Returns the areas of a window's pixels, linear between nodes; NaN far from all that have a place on Earth."""
    rows, to_rows = _nodes(window.y0, window.y1, step)
    columns, to_columns = _nodes(window.x0, window.x1, step)
    down, right = _sides(_grid(columns, rows), transform, crs)
    areas = np.linalg.norm(np.cross(down, right), axis=1).reshape(len(rows), len(columns))
    known = np.isfinite(areas)
    found: NDArray[np.float64] = to_rows @ np.where(known, areas, 0.0) @ to_columns.T
    if known.all():
        return found
    # Weights of unknown nodes go to the known ones beside them.
    share = to_rows @ known @ to_columns.T
    return np.divide(found, share, out=np.full(share.shape, np.nan), where=share > 0)


def _nodes(first: int, last: int, step: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns nodes among the centres of pixels `first..last-1`, and the `(pixels, nodes)` weights of each pixel."""
    count = -(-(last - first - 1) // step) + 1
    nodes = np.linspace(first + 0.5, last - 0.5, count) if count > 1 else np.array([(first + last) / 2])
    centres = np.arange(first, last) + 0.5
    weights = np.stack([np.interp(centres, nodes, unit) for unit in np.eye(count)], axis=1)
    return nodes, weights


def _grid(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the points of a grid, row by row: `(len(y) * len(x), 2)`."""
    columns, rows = np.meshgrid(x, y)
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def _sides(places: NDArray[np.float64], transform: Affine, crs: CRS) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the steps down and to the right by one pixel as vectors in space, `(n, 3)` each, in metres.

    Central differences around `(n, 2)` places. Where one of the points lies nowhere on Earth, the vectors are not
    finite.
    """
    one = 0.5  # half a pixel to either side
    # Over a short step the rounding of coordinates would show. Twice, since the first length comes from the short step.
    middle = places.mean(axis=0, keepdims=True)
    for _ in range(2):
        ends = _in_space(np.concatenate([middle + (0, one), middle - (0, one)]), transform, crs)
        length = float(np.linalg.norm(ends[0] - ends[1])) / (2 * one)
        if np.isfinite(length) and 0 < length < _LEAST_DISTANCE_M:
            one = 0.5 * _LEAST_DISTANCE_M / length
    steps = [(0, one), (0, -one), (one, 0), (-one, 0)]
    points = _in_space(np.concatenate([places + step for step in steps]), transform, crs)
    below, above, after, before = np.split(points, 4)
    with np.errstate(invalid="ignore"):
        return (below - above) / (2 * one), (after - before) / (2 * one)


def _in_space(points: NDArray[np.float64], transform: Affine, crs: CRS) -> NDArray[np.float64]:
    """Returns pixel coordinates `(n, 2)` as `(n, 3)` geocentric metres; in a local CRS as metres of its plane."""
    moved = move(points, transform)
    found = _longlat(crs)
    if found is None:  # its plane is all there is, at height 0
        return np.pad(moved * crs.units_factor[1], ((0, 0), (0, 1)))
    target, semi_major, eccentricity2 = found
    longitude, latitude = np.radians(transformed(moved, crs, target)).T
    # A latitude beyond a pole is no place on Earth.
    latitude = np.where(np.abs(latitude) <= np.pi / 2 * (1 + 1e-9), latitude, np.nan)
    # The radius of curvature in the prime vertical, then the formula for geocentric coordinates at height 0.
    curvature = semi_major / np.sqrt(1 - eccentricity2 * np.sin(latitude) ** 2)
    return np.stack(
        [
            curvature * np.cos(latitude) * np.cos(longitude),
            curvature * np.cos(latitude) * np.sin(longitude),
            curvature * (1 - eccentricity2) * np.sin(latitude),
        ],
        axis=1,
    )


def transformed(points: NDArray[np.float64], source: CRS, target: CRS) -> NDArray[np.float64]:
    """Returns `(n, 2)` points in another CRS; those that have no place in it are NaN.

    For one point outside of the projection's domain GDAL gives up on all. So halves are tried until it is found.
    """
    try:
        moved = np.stack(reproject(source, target, points[:, 0], points[:, 1]), axis=1)
    except Exception:  # GDAL's own error, which has no public type
        if len(points) == 1:
            return np.full((1, 2), np.nan)
        half = len(points) // 2
        return np.concatenate([transformed(part, source, target) for part in (points[:half], points[half:])])
    moved[~np.isfinite(moved).all(axis=1)] = np.nan
    return moved


def own_degrees(crs: CRS) -> CRS | None:
    """Returns the CRS of longitude and latitude on a CRS's own ellipsoid; None for a local CRS, which has none."""
    found = _longlat(crs)
    return None if found is None else found[0]


@lru_cache(maxsize=16)
def _longlat(crs: CRS) -> tuple[CRS, float, float] | None:
    """Returns the CRS of longitude and latitude on a CRS's own ellipsoid, its semi-major axis and e².

    None for a local CRS, which names no ellipsoid.
    """
    # WKT 2 first: it keeps the ellipsoid of derived and compound systems that WKT 1 cannot express.
    for version in ("WKT2_2019", None):
        try:
            match = _ELLIPSOID.search(crs.to_wkt(version=version) if version else crs.to_wkt())
        except Exception:  # not every CRS has each form, and GDAL's error has no public type
            continue
        if match is not None:
            break
    else:
        return None
    semi_major = float(match[1]) * float(match[3] or 1)
    inverse = float(match[2])
    flattening = 1 / inverse if inverse else 0.0
    target = CRS.from_proj4(f"+proj=longlat +a={semi_major!r} +b={semi_major * (1 - flattening)!r} +no_defs")
    return target, semi_major, flattening * (2 - flattening)
