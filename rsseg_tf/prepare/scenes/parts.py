"""Parts of a user's scenes, rows of tiles of one split, and how they are cut: the work of one process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from rsseg_tf.datasets.recipe import SourceScene
from rsseg_tf.datasets.spec import RGB
from rsseg_tf.files.writing import output_file
from rsseg_tf.prepare.cutting import SceneRecord, moved
from rsseg_tf.prepare.scenes.classes import IGNORED_ID
from rsseg_tf.prepare.scenes.labels import Layer, open_labels
from rsseg_tf.prepare.tile_names import tile_name
from rsseg_tf.rasters.gdal import RASTER_ERRORS, TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.scenes import Scene, open_scene
from rsseg_tf.rasters.sources import Source
from rsseg_tf.rasters.windows import Window
from rsseg_tf.rasters.world_files import side_text

__all__ = ["CACHE_MB", "ScenePart", "ScenesPlan", "cut_part"]

CACHE_MB = 64
"""GDAL's cache; its default is a share of the machine's memory, for each process."""


@dataclass(frozen=True)
class ScenesPlan:
    """How all parts are cut.

    Attributes:
        names: Pattern of the tiles' names.
        classes: Class names in the order of their ids.
        palette: Their colours.
        background: Id of the background; `IGNORED_ID` where there is none.
        skip: Ids of which a tile must hold more than these to be kept.
        touching: Which pixels a polygon covers: `"centre"` or `"all"`.
        aoi: File of the polygons outside of which pixels are ignored.
        trust: Limits for files and for the sources of a VRT.
    """

    names: str
    classes: tuple[str, ...]
    palette: tuple[RGB, ...]
    background: int
    skip: tuple[int, ...]
    touching: str
    aoi: str | None = None
    trust: Trust = TRUSTING_NOBODY


@dataclass(frozen=True, eq=False)
class ScenePart(SourceScene):
    """Tiles of one scene and split.

    Attributes:
        raster: The scene.
        bands: The bands that are read, from 1.
        scene: Stem of the scene; `stem` is that of the part.
        stamp: Changes with the scene, the labels and the area of interest.
        places: The tiles.
        own: For each, the rows and columns that no later tile has.
        layers: The labels near them.
        nodata: The value of the image that stands for no data, if there is one.
        background: Id of pixels that no label covers.
    """

    raster: Source = Path()
    bands: tuple[int, ...] = ()
    scene: str = ""
    stamp: str = ""
    places: tuple[Window, ...] = ()
    own: tuple[tuple[int, int], ...] = ()
    layers: tuple[Layer, ...] = ()
    nodata: float | None = None
    background: int = IGNORED_ID

    @property
    def source(self) -> str:
        """What the tiles depend on besides the plan."""
        return self.stamp


def cut_part(part: ScenePart, plan: ScenesPlan, folder: Path, scratch: Path) -> SceneRecord:
    """Writes the tiles of a part: images as TIFF with all bands, type and place; labels as PNG with a side file.

    Pixels without data, outside of the area of interest or beyond the scene are ignored. Tiles in which all is ignored
    or to be skipped are left out.

    Args:
        part: The part.
        plan: How to cut.
        folder: Receives `img_dir/{split}/…` and `ann_dir/{split}/…`.
        scratch: Not used; nothing is copied.

    Raises:
        DataError: When a file is damaged.
        OSError: When a file cannot be written.
    """
    tiles: list[tuple[str, str | None]] = []
    counts = np.zeros(256, np.int64)
    aoi = None if plan.aoi is None else Path(plan.aoi)
    with (
        rasterio.Env(GDAL_CACHEMAX=CACHE_MB),
        open_scene(part.raster, part.bands, trust=plan.trust) as scene,
        open_labels(scene, part.layers, background=part.background, touching=plan.touching, aoi=aoi) as labels,
    ):
        for place, (down, right) in zip(part.places, part.own, strict=True):
            inside = Window(place.y0, place.x0, min(place.y1, scene.size.height), min(place.x1, scene.size.width))
            ids = labels(inside)
            if _is_empty(ids, plan.skip):
                continue
            pixels, absent = scene.stored(inside)
            if absent is not None:
                ids[absent] = IGNORED_ID
                if _is_empty(ids, plan.skip):
                    continue
            counts += np.bincount(ids[:down, :right].ravel(), minlength=256)
            name = tile_name(plan.names, part.scene, place)
            shape = place.y1 - place.y0, place.x1 - place.x0
            _write_image(folder / "img_dir" / part.split / f"{name}.tif", pixels, shape, scene, place, part.nodata)
            label = folder / "ann_dir" / part.split / f"{name}.png"
            side = side_text(scene.crs, moved(scene.transform, place))
            write_png(label, _padded(ids, shape, IGNORED_ID), plan.palette, side=side)
            tiles.append((f"{name}.tif", f"{name}.png"))
        record = SceneRecord(
            part.split,
            part.stem,
            part.group,
            part.source,
            *scene.size,
            len(scene.bands),
            str(scene.dtype),
            tuple(tiles),
        )
    return replace(record, pixels=tuple(counts.tolist()), scene=part.scene)


def _is_empty(ids: NDArray[np.uint8], skip: tuple[int, ...]) -> bool:
    present = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
    return not set(present.tolist()) - {IGNORED_ID, *skip}


def _padded(array: NDArray, shape: tuple[int, int], value: float) -> NDArray:
    """Pads an array at the bottom and the right, where a scene is smaller than a tile."""
    below, right = shape[0] - array.shape[0], shape[1] - array.shape[1]
    if not below and not right:
        return array
    return np.pad(array, ((0, below), (0, right), *((0, 0),) * (array.ndim - 2)), constant_values=value)


def _write_image(
    path: Path, pixels: NDArray, shape: tuple[int, int], scene: Scene, place: Window, nodata: float | None
) -> None:
    """Writes an image tile as the scene stores it."""
    pixels = _padded(pixels, shape, 0 if nodata is None else nodata)
    bands = pixels.shape[2]
    profile = {"height": shape[0], "width": shape[1], "count": bands, "dtype": pixels.dtype, "compress": "deflate"}
    profile |= {"crs": scene.crs, "transform": moved(scene.transform, place), "nodata": nodata}
    # GDAL takes a fourth band for alpha unless it is told otherwise.
    profile |= {"photometric": "RGB" if bands == 3 and pixels.dtype.kind == "u" else "MINISBLACK", "alpha": "NO"}
    with (
        output_file(path, RASTER_ERRORS) as temporary,
        rasterio.open(temporary, "w", driver="GTiff", **profile) as file,
    ):
        file.write(pixels.transpose(2, 0, 1))
        for band, description in enumerate(scene.descriptions, 1):
            if description:
                file.set_band_description(band, description)
