"""Writes an annotated image and its label, whole or as tiles: the work of one process."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.recipe import SourceScene
from rsseg_tf.datasets.spec import RGB, YX
from rsseg_tf.errors import DataError, naming
from rsseg_tf.files import SIDE_SUFFIX
from rsseg_tf.files.archives import local_copy
from rsseg_tf.files.writing import atomic_path
from rsseg_tf.prepare.annotations.shapes import Shape, draw
from rsseg_tf.prepare.cutting import SceneRecord, moved
from rsseg_tf.prepare.scenes.classes import IGNORED_ID
from rsseg_tf.prepare.tile_names import tile_name
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.images import write_image, write_png
from rsseg_tf.rasters.scenes import Scene, open_scene
from rsseg_tf.rasters.windows import Size, windows

__all__ = ["AnnotatedScene", "AnnotationsPlan", "cut_annotated"]


@dataclass(frozen=True)
class AnnotationsPlan:
    """How all images are written.

    Attributes:
        bands: Bands of the images; grey ones among coloured ones are repeated.
        ids: The id of each name of an object.
        background: Id of pixels that no object covers.
        palette: Colours of the classes.
        ignores_crowds: Whether the pixels of crowds are ignored.
        skips_empty: Whether what holds no object is left out.
        tile_size: Side of the tiles; None for whole images.
        overlap: Pixels that neighbouring tiles share.
        trust: Limits for files.
    """

    bands: int
    ids: tuple[tuple[str, int], ...]
    background: int
    palette: tuple[RGB, ...]
    ignores_crowds: bool = False
    skips_empty: bool = False
    tile_size: int | None = None
    overlap: int = 0
    trust: Trust = TRUSTING_NOBODY


@dataclass(frozen=True, eq=False)
class AnnotatedScene(SourceScene):
    """An image with its objects.

    Attributes:
        shapes: The objects; later ones lie on top.
        size: Height and width of the image that they were drawn on; None if unknown.
        stamp: Changes with the objects.
    """

    shapes: tuple[Shape, ...] = ()
    size: Size | None = None
    stamp: str = ""

    @property
    def source(self) -> str:
        """Size and stamp of the image, and the stamp of its objects."""
        return f"{super().source} {self.stamp}"


def cut_annotated(scene: AnnotatedScene, plan: AnnotationsPlan, folder: Path, scratch: Path) -> SceneRecord:
    """Writes an image and its label.

    Pixels without data are ignored. A whole image is copied byte by byte, unless its bands have to change. Tiles are
    PNG, or TIFF where that cannot hold them or they have a place on Earth.

    Args:
        scene: The image.
        plan: How to write it.
        folder: Receives `img_dir/{split}/…` and `ann_dir/{split}/…`.
        scratch: An existing folder for copies of images that lie in zip files.

    Raises:
        DataError: When the image is damaged, or has another size than its objects were drawn on, or other bands.
        OSError: When a file cannot be written.
    """
    with (
        naming(scene.image),
        local_copy(scene.image, scratch) as path,
        open_scene(path, trust=plan.trust) as opened,
    ):
        pixels, nodata = opened.stored()
        label = _label(scene, plan, opened.size)
        if nodata is not None:
            label[nodata] = IGNORED_ID
        grey = pixels.shape[2] == 1 and plan.bands == 3
        if pixels.shape[2] != plan.bands and not grey:
            raise DataError(
                f"{scene.image} has {pixels.shape[2]} bands, most images have {plan.bands}; all must have the same. "
                "Select the bands, or prepare it apart."
            )
        for kind in ("img_dir", "ann_dir"):
            (folder / kind / scene.split / scene.stem).parent.mkdir(parents=True, exist_ok=True)
        if plan.tile_size is None:
            tiles = _whole(scene, plan, folder, np.repeat(pixels, 3, axis=2) if grey else path, label)
        else:
            tiles = _tiles(scene, plan, folder, np.repeat(pixels, 3, axis=2) if grey else pixels, label, opened)
    counts = np.bincount(label.ravel(), minlength=256) if tiles else np.zeros(256, np.int64)
    return SceneRecord(
        scene.split, scene.stem, scene.group, scene.source, label.shape[0], label.shape[1], plan.bands,
        str(pixels.dtype), tuple(tiles), tuple(counts.tolist()),
    )  # fmt: skip


def _label(scene: AnnotatedScene, plan: AnnotationsPlan, size: Size) -> NDArray[np.uint8]:
    """Draws the label of an image."""
    if scene.size is not None and scene.size != size:
        turned = " It is turned by its EXIF data: save it as it is shown." if scene.size == size[::-1] else ""
        raise DataError(
            f"{scene.image} is {size[1]}x{size[0]} pixels; its annotations are of an image of {scene.size[1]}x"
            f"{scene.size[0]}.{turned or ' Check that they belong together.'}"
        )
    for shape in scene.shapes:
        if shape.runs is not None and int(shape.runs.sum()) != size.pixels:
            raise DataError(
                f"{scene.image} is {size[1]}x{size[0]} pixels; the runs of an object '{shape.name}' cover "
                f"{int(shape.runs.sum())}. Check that they belong together."
            )
    ids = dict(plan.ids)

    def id_of(shape: Shape) -> int:
        if shape.name is None or (shape.is_crowd and plan.ignores_crowds):
            return IGNORED_ID
        return ids[shape.name]

    return draw(scene.shapes, size, id_of, plan.background)


def _is_empty(label: NDArray[np.uint8], plan: AnnotationsPlan) -> bool:
    """Returns whether there is nothing to learn from a label."""
    skipped = {IGNORED_ID, plan.background} if plan.skips_empty else {IGNORED_ID}
    return not set(np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist()) - skipped


def _whole(
    scene: AnnotatedScene, plan: AnnotationsPlan, folder: Path, source: Path | NDArray, label: NDArray[np.uint8]
) -> Sequence[tuple[str, str | None]]:
    """Copies the file of an image, or writes the pixels that it was changed to; returns the names."""
    if _is_empty(label, plan):
        return []
    suffix = PurePosixPath(scene.image.name).suffix.lower() if isinstance(source, Path) else ".png"
    image = folder / "img_dir" / scene.split / f"{scene.stem}{suffix}"
    if not isinstance(source, Path):
        write_image(image, source)
    else:
        side = source.with_name(source.name + SIDE_SUFFIX)  # exists only beside images that are in no archive
        with atomic_path(image) as partial:
            shutil.copyfile(source, partial)
            if side.is_file():
                shutil.copyfile(side, partial.with_name(partial.name + SIDE_SUFFIX))
    write_png(folder / "ann_dir" / scene.split / f"{scene.stem}.png", label, plan.palette)
    return [(f"{scene.stem}{suffix}", f"{scene.stem}.png")]


def _tiles(
    scene: AnnotatedScene,
    plan: AnnotationsPlan,
    folder: Path,
    pixels: NDArray,
    label: NDArray[np.uint8],
    opened: Scene,
) -> Sequence[tuple[str, str | None]]:
    """Writes the tiles of an image; returns their names."""
    side = plan.tile_size or 0
    below, right = max(0, side - label.shape[0]), max(0, side - label.shape[1])
    pixels = np.pad(pixels, ((0, below), (0, right), (0, 0)))
    padded = np.pad(label, ((0, below), (0, right)), constant_values=IGNORED_ID)
    placed = opened.crs is not None
    fits = pixels.shape[2] in (1, 3) and pixels.dtype in (np.uint8, np.uint16) and not placed
    names: list[tuple[str, str | None]] = []
    for place in windows(padded.shape[0], padded.shape[1], side, plan.overlap):
        rows, columns = slice(place.y0, place.y1), slice(place.x0, place.x1)
        if _is_empty(padded[rows, columns], plan):
            continue
        name = tile_name(YX, scene.stem, place)
        image = f"{name}{'.png' if fits else '.tif'}"
        write_image(
            folder / "img_dir" / scene.split / image,
            pixels[rows, columns],
            crs=opened.crs,
            transform=moved(opened.transform, place) if placed else None,
        )
        write_png(folder / "ann_dir" / scene.split / f"{name}.png", padded[rows, columns], plan.palette)
        names.append((image, f"{name}.png"))
    return names
