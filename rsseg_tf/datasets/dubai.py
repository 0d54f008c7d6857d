"""The public set "Semantic segmentation of aerial imagery": Dubai from the air, in five classes.

Published by the Mohammed Bin Rashid Space Centre (MBRSC) and Humans in the Loop: 72 scenes of 509x544 to 1817x2062
pixels, RGB JPEG, with masks in colours as PNG. The nine parts of each of the eight tiles are neighbours (a 3x3 mosaic),
so the split goes by tile: with parts of one tile in both splits, validation would use pixels from training.
"""

from __future__ import annotations

import re
from pathlib import Path

from rsseg_tf.datasets.label_codings import ColourCoding
from rsseg_tf.datasets.recipe import Download, Recipe, SourceScene
from rsseg_tf.datasets.spec import RGB, YX, DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member

__all__ = ["DUBAI", "DUBAI_RECIPE", "IGNORED_COLOURS", "TRAIN_TILES", "VAL_TILES"]

# The colours in the masks. The classes.json that circulates with the dataset has other ones.
DUBAI = DatasetSpec(
    name="dubai",
    classes=("water", "land", "road", "building", "vegetation"),
    palette=((226, 169, 41), (132, 41, 246), (110, 193, 228), (60, 16, 152), (254, 221, 58)),
    source="Semantic segmentation of aerial imagery, MBRSC and Humans in the Loop",
    band_names=("red", "green", "blue"),
    tile_names=YX,
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


def _find_scenes(download: Download) -> list[SourceScene]:
    """Pairs images and masks by tile and part."""
    found: dict[str, dict[tuple[int, int], Member]] = {"images": {}, "masks": {}}
    for member in download.members:
        match = _FLAT.search(member.path) or _PUBLIC.search(member.path)
        if match is None:
            if _PICTURE.search(member.path):
                raise DataError(
                    f"{member} has a name that does not belong to the dataset; tile1_001.jpg in "
                    "images/, or image_part_001.jpg in 'Tile 1/images/', is expected. Move it away."
                )
            continue
        key = int(match["tile"]), int(match["part"])
        download.enter(found[match["kind"].lower()], key, member, f"tile {key[0]}, part {key[1]}")
    images, masks = found["images"], found["masks"]
    if not images and not masks:
        raise DataError(
            f"{download.sources} holds no scene of the dataset; images/tile1_001.jpg with masks/tile1_001.png, or "
            "'Tile 1/images/image_part_001.jpg' with 'Tile 1/masks/image_part_001.png', is expected. Check the path."
        )
    for tile, part in images:
        if tile not in TRAIN_TILES + VAL_TILES:
            raise DataError(
                f"{download.sources}: {images[tile, part]} is of tile {tile}; the dataset has tiles 1 to 8."
            )
    images, masks = (
        {key: file for key, file in files.items() if download.wants(_split_of(key[0]))} for files in (images, masks)
    )
    download.check_pairs(images, masks)
    return [
        SourceScene(_split_of(tile), f"tile{tile}_{part:03d}", images[tile, part], masks[tile, part])
        for tile, part in sorted(images)
    ]


def _split_of(tile: int) -> str:
    return "val" if tile in VAL_TILES else "train"


DUBAI_RECIPE = Recipe(
    DUBAI, Path("data/dubai"), find_scenes=_find_scenes, coding=ColourCoding(DUBAI.palette, IGNORED_COLOURS)
)
"""Sources are folders or zip files, either with `images/tile1_001.jpg` and `masks/tile1_001.png`, or as distributed
with `Tile 1/images/image_part_001.jpg` and `Tile 1/masks/image_part_001.png`."""
