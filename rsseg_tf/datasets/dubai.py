"""The public set "Semantic segmentation of aerial imagery": Dubai from the air, in five classes.

Published by the Mohammed Bin Rashid Space Centre (MBRSC) and Humans in the Loop: 72 scenes of 509x544 to 1817x2062
pixels, RGB JPEG, with masks in colours as PNG. The nine parts of each of the eight tiles are neighbours (a 3x3 mosaic),
so the split goes by tile: with parts of one tile on both sides, validation would see what training has seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsseg_tf.datasets.archives import Archive, open_archive
from rsseg_tf.datasets.images import decode_image
from rsseg_tf.datasets.prepared import PreparedFolder, PrepareReport, staged_output
from rsseg_tf.datasets.rgb_masks import rgb_to_ids
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import DataError

__all__ = ["DUBAI", "IGNORED_COLOURS", "TRAIN_TILES", "VAL_TILES", "prepare_dubai"]

# The colours that the masks have. The classes.json which circulates with the set names others.
DUBAI = DatasetSpec(
    name="dubai",
    classes=("water", "land", "road", "building", "vegetation"),
    palette=((226, 169, 41), (132, 41, 246), (110, 193, 228), (60, 16, 152), (254, 221, 58)),
    source="Semantic segmentation of aerial imagery, MBRSC and Humans in the Loop",
)

IGNORED_COLOURS: tuple[RGB, ...] = ((155, 155, 155), (0, 0, 0))
"""Grey is "unlabelled"; black fills borders that were never drawn."""

VAL_TILES = (4, 6)
"""Both hold all five classes."""

TRAIN_TILES = (1, 2, 3, 5, 7, 8)

# "images/tile1_001.jpg", and the public layout "Tile 1/images/image_part_001.jpg"; masks likewise.
_FLAT = re.compile(r"(?:^|/)(?P<kind>images|masks)/tile(?P<tile>\d+)_(?P<part>\d+)\.(?:jpe?g|png)$", re.IGNORECASE)
_PUBLIC = re.compile(
    r"(?:^|/)tile (?P<tile>\d+)/(?P<kind>images|masks)/image_part_(?P<part>\d+)\.(?:jpe?g|png)$", re.IGNORECASE
)
_PICTURE = re.compile(r"(?:^|/)(?:images|masks)/[^/]+\.(?:jpe?g|png|tiff?)$", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class _Scene:
    tile: int
    part: int
    image: str
    mask: str


def prepare_dubai(
    source: Path,
    output: Path,
    *,
    tile_size: int = 512,
    overlap: int = 0,
    off_palette_fraction: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Cuts the scenes into tiles, turns the masks into class ids and splits them by mosaic tile.

    Running it again gives the same bytes.

    Args:
        source: The folder or the zip file, either with ``images/tile1_001.jpg`` and ``masks/tile1_001.png``, or as
            distributed with ``Tile 1/images/image_part_001.jpg`` and ``Tile 1/masks/image_part_001.png``.
        output: The folder to appear; see `rsseg_tf.datasets.prepared` for what it holds. Tiles are named
            ``tile1_001_{y0}_{x0}.png``, rows first.
        tile_size: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share; the last tile of a row or column is shifted back and shares more.
        off_palette_fraction: Share of the pixels of a mask, 0..1, that may have an unknown colour; they are ignored.
        progress: Called after each scene with the number done and the number of all.

    Returns:
        What was written.

    Raises:
        DataError: When the source is not the dataset, an image or a mask lacks its counterpart, a file is damaged, a
            mask has unknown colours, or the output cannot be written or must not be replaced.
    """
    if tile_size < 1 or not 0 <= overlap < tile_size:
        raise DataError(
            f"Tiles of {tile_size} pixels with an overlap of {overlap} are not possible; the size must be at least 1 "
            "and the overlap from 0 to below the size. 512 and 0 are usual."
        )
    if not 0 <= off_palette_fraction <= 1:
        raise DataError(f"off_palette_fraction is {off_palette_fraction}; it must lie in 0..1. 0 allows none.")
    with open_archive(source) as archive, staged_output(output) as folder:
        scenes = _find_scenes(archive, source)
        prepared = PreparedFolder(folder, DUBAI)
        for done, scene in enumerate(scenes, start=1):
            image, label = _read_scene(archive, scene, off_palette_fraction)
            prepared.add_scene(
                "val" if scene.tile in VAL_TILES else "train",
                f"tile{scene.tile}_{scene.part:03d}",
                image,
                label,
                tile_size=tile_size,
                overlap=overlap,
            )
            if progress is not None:
                progress(done, len(scenes))
        splits = prepared.finish({"tile_size": tile_size, "overlap": overlap})
    return PrepareReport(DUBAI.name, output, splits)


def _find_scenes(archive: Archive, source: Path) -> list[_Scene]:
    """Pairs images and masks by tile and part."""
    found: dict[str, dict[tuple[int, int], str]] = {"images": {}, "masks": {}}
    for name in archive.names:
        match = _FLAT.search(name) or _PUBLIC.search(name)
        if match is None:
            if _PICTURE.search(name):
                raise DataError(
                    f"{archive.describe(name)} has a name that does not belong to the dataset; tile1_001.jpg in "
                    "images/, or image_part_001.jpg in 'Tile 1/images/', is expected. Move it away."
                )
            continue
        key = int(match["tile"]), int(match["part"])
        files = found[match["kind"].lower()]
        if key in files:
            raise DataError(f"{source} holds tile {key[0]}, part {key[1]} twice: {files[key]} and {name}. Remove one.")
        files[key] = name
    images, masks = found["images"], found["masks"]
    if not images and not masks:
        zips = [name for name in archive.names if name.lower().endswith(".zip")]
        hint = f" It holds {zips[0]}: give that file itself." if zips else " Check the path."
        raise DataError(
            f"{source} holds no scene of the dataset; images/tile1_001.jpg with masks/tile1_001.png, or "
            f"'Tile 1/images/image_part_001.jpg' with 'Tile 1/masks/image_part_001.png', is expected.{hint}"
        )
    for kind, these, others in (("mask", images, masks), ("image", masks, images)):
        lonely = sorted(these[key] for key in these.keys() - others.keys())
        if lonely:
            raise DataError(
                f"{source}: {len(lonely)} file{'s have' if len(lonely) > 1 else ' has'} no {kind}: "
                f"{', '.join(lonely[:5])}{', …' if len(lonely) > 5 else ''}. Complete the dataset."
            )
    for tile, part in images:
        if tile not in TRAIN_TILES + VAL_TILES:
            raise DataError(f"{source}: {images[tile, part]} is of tile {tile}; the dataset has tiles 1 to 8.")
    return sorted(_Scene(*key, images[key], masks[key]) for key in images)


def _read_scene(archive: Archive, scene: _Scene, off_palette_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Reads the image ``(H, W, 3)`` and the class ids ``(H, W)``, both uint8."""
    image = decode_image(archive.read(scene.image), archive.describe(scene.image))
    if image.shape[2] != DUBAI.bands or image.dtype != np.uint8:
        raise DataError(
            f"{archive.describe(scene.image)} has {image.shape[2]} bands of {image.dtype}; 3 of uint8 are expected."
        )
    name = archive.describe(scene.mask)
    mask = decode_image(archive.read(scene.mask), name)  # a palette PNG, as 18 of them are, comes in its colours
    label = rgb_to_ids(
        mask,
        DUBAI.palette,
        ignored=IGNORED_COLOURS,
        ignore_index=DUBAI.ignore_index,
        off_palette_fraction=off_palette_fraction,
        name=name,
    )
    return image, label
