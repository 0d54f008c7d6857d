"""Cuts a scene into tiles, row of tiles by row of tiles, so that memory depends on the width of the scene alone."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.transform import Affine

from rsseg_tf.datasets.label_codings import LabelCoding, OffPalette
from rsseg_tf.datasets.recipe import SourceScene
from rsseg_tf.datasets.spec import RGB
from rsseg_tf.errors import DataError
from rsseg_tf.files import SIDE_SUFFIX, atomic_path
from rsseg_tf.files.archives import local_copy
from rsseg_tf.prepare.tile_names import tile_name
from rsseg_tf.rasters.images import write_image, write_png
from rsseg_tf.rasters.pixel_rows import RowBands, RowReader, open_rows
from rsseg_tf.rasters.windows import Window, windows

__all__ = ["CutPlan", "SceneRecord", "cut_scene", "moved"]


@dataclass(frozen=True)
class CutPlan:
    """How the scenes of a dataset become tiles.

    Attributes:
        tile_size: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share.
        names: Pattern of the tiles' names; see `rsseg_tf.prepare.tile_names`.
        label_suffix: Addition to the image's name in the name of its label, before `.png`.
        bands: What to read of the images.
        suffix: Format of the image tiles: `".png"`, `".jpg"` or `".tif"`; images that a format cannot hold become
            `".tif"`.
        coding: How masks encode the classes; None without masks.
        palette: Colours of the classes, for label files.
        ignore_index: Id of padding.
        jpeg_quality: 1..100.
    """

    tile_size: int
    overlap: int
    names: str
    label_suffix: str = ""
    bands: RowBands = "rgb_only"
    suffix: str = ".png"
    coding: LabelCoding | None = None
    palette: tuple[RGB, ...] = ()
    ignore_index: int = 255
    jpeg_quality: int = 95


@dataclass(frozen=True)
class SceneRecord:
    """What was made of a scene.

    Attributes:
        split: As of the scene.
        stem: As of the scene.
        group: As of the scene.
        source: Size and stamp of its files, by which a changed source is recognised.
        height: Rows of the scene.
        width: Columns of the scene.
        bands: Bands of the tiles.
        dtype: NumPy name of the tiles' type.
        tiles: Names of each tile's image below `img_dir/{split}` and of its label below `ann_dir/{split}`.
        pixels: Number of source pixels by class id, 256 numbers; empty without a mask.
        off_palette: Pixels off the palette; they count as ignored, too.
        scene: Stem of the scene that this is a part of; empty for a whole scene.
    """

    split: str
    stem: str
    group: str
    source: str
    height: int
    width: int
    bands: int
    dtype: str
    tiles: tuple[tuple[str, str | None], ...]
    pixels: tuple[int, ...] = ()
    off_palette: OffPalette = OffPalette()  # noqa: RUF009 (frozen)
    scene: str = ""

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> SceneRecord:
        """Makes a record from the values of `to_json`."""
        tiles = tuple((image, label) for image, label in content["tiles"])
        off_palette = OffPalette(**{**content["off_palette"], "worst": tuple(content["off_palette"]["worst"])})
        return cls(**{**content, "tiles": tiles, "pixels": tuple(content["pixels"]), "off_palette": off_palette})

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return dataclasses.asdict(self)


def cut_scene(scene: SourceScene, plan: CutPlan, folder: Path, scratch: Path) -> SceneRecord:
    """Reads a scene from top to bottom and writes its tiles.

    A scene smaller than a tile is padded at the right and the bottom, with 0 in the image and the ignored id in the
    label.

    Args:
        scene: The scene.
        plan: How to cut it.
        folder: Receives `img_dir/{split}/…` and `ann_dir/{split}/…`.
        scratch: An existing folder for one copy of each file at a time.

    Returns:
        What was written.

    Raises:
        DataError: When a file is damaged or does not fit the dataset, or image and mask differ in size.
        OSError: When a file cannot be written.
    """
    with ExitStack() as stack:
        path = stack.enter_context(local_copy(scene.image, scratch))
        image = stack.enter_context(open_rows(path, str(scene.image), "stored" if scene.whole else plan.bands))
        if scene.whole:
            return _copy_whole(scene, image, path, folder)
        ids = None
        if scene.mask is not None and plan.coding is not None:
            path = stack.enter_context(local_copy(scene.mask, scratch))
            wanted: RowBands = "as_rgb" if plan.coding.bands == 3 else "mask"
            mask = stack.enter_context(open_rows(path, str(scene.mask), wanted))
            if (image.height, image.width) != (mask.height, mask.width):
                raise DataError(
                    f"{scene.stem}: the image is {image.height}x{image.width} and its mask {mask.height}x{mask.width} "
                    "pixels (rows x columns); they must be equal. Check that they belong together."
                )
            ids = _MaskIds(mask, plan.coding)
        tiles = _write_tiles(scene, plan, folder, image, ids)
    record = _record(scene, image, tiles)
    if ids is None:
        return record
    return dataclasses.replace(
        record, pixels=tuple(ids.counts.tolist()), off_palette=OffPalette.of(ids.unknown, ids.coding.what)
    )


class _MaskIds:
    """The class ids of a mask, read in rows like an image, with counts of the ids read so far."""

    def __init__(self, mask: RowReader, coding: LabelCoding) -> None:
        self.mask = mask
        self.coding = coding
        self.counts = np.zeros(256, np.int64)
        self.unknown: Counter[object] = Counter()

    def read(self, y0: int, y1: int) -> np.ndarray:
        """Returns the ids of the rows `y0..y1-1` as `(y1 - y0, W, 1)` uint8."""
        ids, unknown = self.coding.decode(self.mask.read(y0, y1))
        self.unknown.update(unknown)
        self.counts += np.bincount(ids.ravel(), minlength=256)
        return ids[..., np.newaxis]


class _RowBuffer:
    """The rows of an image that a row of tiles needs. Each row of the image is read once, also where tiles overlap."""

    def __init__(self, read: Callable[[int, int], np.ndarray], height: int) -> None:
        self._read = read
        self._height = height
        self._start = 0
        self._kept: np.ndarray | None = None

    def rows(self, y0: int, y1: int) -> np.ndarray:
        """Returns the rows `y0..y1-1` that exist; later calls must ask for the same or later rows, without a gap."""
        wanted = min(y1, self._height)
        if self._kept is None or y0 >= self._start + len(self._kept):
            self._kept = self._read(y0, wanted)
        else:
            end = self._start + len(self._kept)
            kept = self._kept[y0 - self._start :]
            self._kept = np.concatenate([kept, self._read(end, wanted)]) if wanted > end else kept
        self._start = y0
        return self._kept


def _write_tiles(
    scene: SourceScene, plan: CutPlan, folder: Path, image: RowReader, ids: _MaskIds | None
) -> list[tuple[str, str | None]]:
    """Writes the tiles of a scene and returns the names of each image and its label."""
    side = plan.tile_size
    wide = max(image.width, side)
    pictures = _RowBuffer(image.read, image.height)
    labels = _RowBuffer(ids.read, image.height) if ids else None
    image_folder, label_folder = folder / "img_dir" / scene.split, folder / "ann_dir" / scene.split
    if "/" in scene.stem:
        (image_folder / scene.stem).parent.mkdir(parents=True, exist_ok=True)
    suffix = _suffix(plan.suffix, image)
    # Windows row by row: all tiles of a row share one stretch of the image in memory.
    tiles: list[tuple[str, str | None]] = []
    places = windows(max(image.height, side), wide, side, plan.overlap)
    for (y0, y1), row in groupby(places, key=lambda place: (place.y0, place.y1)):
        picture = _padded(pictures.rows(y0, y1), side, wide, 0)
        label = _padded(labels.rows(y0, y1), side, wide, plan.ignore_index) if labels else None
        for place in row:
            columns = slice(place.x0, place.x1)
            name = tile_name(plan.names, scene.stem, place)
            label_name = None
            write_image(
                image_folder / f"{name}{suffix}",
                picture[:, columns],
                jpeg_quality=plan.jpeg_quality,
                crs=image.crs,
                transform=moved(image.transform, place),
            )
            if label is not None:
                label_name = f"{name}{plan.label_suffix}.png"
                write_png(label_folder / label_name, label[:, columns, 0], plan.palette)
            tiles.append((f"{name}{suffix}", label_name))
    return tiles


def moved(transform: Affine | None, place: Window) -> Affine | None:
    """Returns the transform of a tile of a scene."""
    if transform is None:
        return None
    a, b, c, d, e, f = transform[:6]  # in full, because versions of affine differ in the operator for it
    return Affine(a, b, a * place.x0 + b * place.y0 + c, d, e, d * place.x0 + e * place.y0 + f)


def _copy_whole(scene: SourceScene, image: RowReader, path: Path, folder: Path) -> SceneRecord:
    """Copies the image file, with the file that GDAL keeps beside it."""
    name = f"{scene.stem}{Path(scene.image.name).suffix.lower()}"
    side = path.with_name(path.name + SIDE_SUFFIX)  # exists only beside images that are in no archive
    with atomic_path(folder / "img_dir" / scene.split / name) as partial:
        shutil.copyfile(path, partial)
        if side.is_file():
            shutil.copyfile(side, partial.with_name(partial.name + SIDE_SUFFIX))
    return _record(scene, image, [(name, None)])


def _record(scene: SourceScene, image: RowReader, tiles: Sequence[tuple[str, str | None]]) -> SceneRecord:
    return SceneRecord(
        scene.split, scene.stem, scene.group, scene.source,
        image.height, image.width, image.bands, image.dtype, tuple(tiles),
    )  # fmt: skip


def _padded(rows: np.ndarray, height: int, width: int, value: int) -> np.ndarray:
    """Pads rows at the bottom and the right to a height and width."""
    below, right = height - rows.shape[0], width - rows.shape[1]
    if not below and not right:
        return rows
    return np.pad(rows, ((0, below), (0, right), (0, 0)), constant_values=value)


def _suffix(wanted: str, image: RowReader) -> str:
    """Returns the suffix of the wanted format, or `.tif` when it cannot hold such an image."""
    fits = {
        ".png": image.bands in (1, 3, 4) and image.dtype in ("uint8", "uint16"),
        ".jpg": image.bands in (1, 3) and image.dtype == "uint8",
    }
    return wanted if fits.get(wanted, True) else ".tif"
