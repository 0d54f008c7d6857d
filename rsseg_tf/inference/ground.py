"""Sizes on the ground: the length of a pixel's sides and the area of polygons, in metres."""

from __future__ import annotations

import functools
import re

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as reproject

from rsseg_tf.errors import DataError

__all__ = ["area_plane", "move", "pixel_size"]


@functools.cache
def _wgs84() -> CRS:
    """Returns longitude and latitude; not made at import, because PROJ's data may be missing or misplaced."""
    return CRS.from_epsg(4326)


# Projections whose square units are not square metres on the ground: degrees, and Mercator, whose areas grow with
# the latitude (2.4 times at 50 degrees).
_NOT_TRUE_TO_AREA = ("longlat", "merc", "webmerc")


def move(points: NDArray[np.float64], transform: Affine) -> NDArray[np.float64]:
    """Applies a transform to `(n, 2)` points; in full, because versions of affine differ in the operator for it."""
    x, y = points[:, 0], points[:, 1]
    return np.stack(
        [transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f], axis=1
    )


def pixel_size(size: tuple[int, int], transform: Affine, crs: CRS | None) -> tuple[float, float] | None:
    """Returns the (height, width) on the ground of the pixel in the middle of a scene, in metres.

    Measured on the ellipsoid, so that degrees and the stretched metres of Web Mercator come out right.

    Args:
        size: (height, width) of the scene in pixels.
        transform: from (column, row) to coordinates.
        crs: their reference system.

    Returns:
        None where there is no reference system or no transform.
    """
    if crs is None or transform == Affine.identity():
        return None
    row, column = size[0] / 2, size[1] / 2
    corners = move(np.array([(column, row), (column, row + 1), (column + 1, row)]), transform)
    longitude, latitude = reproject(crs, _wgs84(), corners[:, 0], corners[:, 1])
    semi_major, eccentricity2 = _ellipsoid(_wgs84())
    sine = np.sin(np.radians(latitude[0]))
    curvature = 1 - eccentricity2 * sine**2
    north = semi_major * (1 - eccentricity2) / curvature**1.5  # radius of the meridian
    east = semi_major / curvature**0.5 * np.cos(np.radians(latitude[0]))  # radius of the parallel
    sides = [
        float(
            np.hypot(
                north * np.radians(latitude[end] - latitude[0]),
                east * np.radians((longitude[end] - longitude[0] + 180) % 360 - 180),
            )
        )
        for end in (1, 2)
    ]
    if not all(np.isfinite(side) and side > 0 for side in sides):
        return None
    return sides[0], sides[1]


def area_plane(points: NDArray[np.float64], crs: CRS | None) -> NDArray[np.float64]:
    """Moves points to a plane in which planar areas are square metres on the ground.

    Coordinates of a projection are scaled to metres. Degrees and Mercator coordinates go to the equal-area cylinder
    of their ellipsoid, where pixels along parallels and meridians keep their exact area.

    Args:
        points: `(n, 2)` coordinates of `crs`.
        crs: their reference system; without one, points stay in its units.

    Raises:
        DataError: when the CRS names no ellipsoid.
    """
    if crs is None:
        return points
    if crs.to_dict().get("proj") not in _NOT_TRUE_TO_AREA:
        return points * crs.linear_units_factor[1] if crs.is_projected else points
    longitude, latitude = points.T
    if crs.is_projected:
        longitude, latitude = (np.asarray(values) for values in reproject(crs, _wgs84(), longitude, latitude))
        crs = _wgs84()
    semi_major, eccentricity2 = _ellipsoid(crs)
    sine = np.sin(np.radians(latitude))
    if eccentricity2 == 0:
        height = sine
    else:
        eccentricity = np.sqrt(eccentricity2)
        height = (
            (1 - eccentricity2)
            / 2
            * (sine / (1 - eccentricity2 * sine**2) + np.arctanh(eccentricity * sine) / eccentricity)
        )
    return np.stack([semi_major * np.radians(longitude), semi_major * height], axis=1)


def _ellipsoid(crs: CRS) -> tuple[float, float]:
    """Returns the semi-major axis in metres and the squared eccentricity."""
    match = re.search(r'(?:SPHEROID|ELLIPSOID)\["[^"]*",\s*([0-9.eE+-]+),\s*([0-9.eE+-]+)', crs.to_wkt())
    if match is None:
        raise DataError(f"the CRS {crs.to_string()[:80]} names no ellipsoid. Reproject the scene to a known CRS.")
    inverse = float(match[2])
    flattening = 1 / inverse if inverse else 0.0
    return float(match[1]), flattening * (2 - flattening)
