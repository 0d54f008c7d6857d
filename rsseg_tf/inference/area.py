"""Areas of interest: which pixels of a scene lie inside of polygons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import transform as reproject

from rsseg_tf.datasets.rasters import Scene
from rsseg_tf.datasets.tiling import Window
from rsseg_tf.errors import DataError
from rsseg_tf.extras import require
from rsseg_tf.inference.ground import move
from rsseg_tf.inference.streaming import Wanted

__all__ = ["area_of_interest"]


def area_of_interest(path: Path, scene: Scene) -> Wanted | None:
    """Returns a function that tells which pixels have their centre inside of the polygons of a file.

    Args:
        path: polygons as GDAL reads them (GeoJSON, GeoPackage, FlatGeobuf, Shapefile…); the first layer counts.
        scene: the scene; polygons are brought to its CRS.

    Returns:
        None when no polygon touches the scene.

    Raises:
        ExportError: when the extra `vector` is not installed.
        DataError: when the file cannot be read, holds no polygon, or one of both says not where it lies.
    """
    shapely, pyogrio = require("shapely", "vector"), require("pyogrio", "vector")
    try:
        meta, _, wkb, _ = pyogrio.raw.read(str(path), columns=[])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError) as error:
        raise DataError(f"{path} cannot be read as polygons: {error}. Give a GeoJSON or GeoPackage file.") from error
    polygons = [part for part in shapely.from_wkb(wkb) if part is not None and part.geom_type.endswith("Polygon")]
    if not polygons:
        raise DataError(f"{path} holds no polygon; the area to predict must be drawn as polygons.")
    crs = None if meta["crs"] is None else CRS.from_user_input(meta["crs"])
    if (crs is None) != (scene.crs is None) or scene.gcps:
        lies = "control points" if scene.gcps else scene.crs or "no CRS"
        raise DataError(
            f"{path} is in {crs or 'no CRS'} and {scene.path} in {lies}; polygons and scene must both say where they "
            "lie, with a CRS and a transform."
        )
    to_pixels = ~scene.transform

    def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
        if crs != scene.crs:
            points = np.stack(reproject(crs, scene.crs, points[:, 0], points[:, 1]), axis=1)
        return move(points, to_pixels)

    tree = shapely.STRtree([shapely.transform(polygon, place) for polygon in polygons])
    if not len(tree.query(shapely.box(0, 0, scene.size[1], scene.size[0]), predicate="intersects")):
        return None

    def wanted(window: Window) -> NDArray[np.bool_]:
        near = tree.geometries[tree.query(shapely.box(window.x0, window.y0, window.x1, window.y1))]
        shape = window.y1 - window.y0, window.x1 - window.x0
        if not len(near):
            return np.zeros(shape, bool)
        moved = Affine.translation(window.x0, window.y0)
        return rasterize(near, out_shape=shape, transform=moved, fill=0, default_value=1, dtype="uint8").astype(bool)

    return wanted
