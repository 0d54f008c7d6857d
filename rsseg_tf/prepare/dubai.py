"""The public set "Semantic segmentation of aerial imagery": Dubai from the air, in five classes.

Published by the Mohammed Bin Rashid Space Centre (MBRSC) and Humans in the Loop: 72 scenes of 509x544 to 1817x2062
pixels, RGB JPEG, with masks in colours as PNG. The nine parts of each of the eight tiles are neighbours (a 3x3 mosaic),
so the split goes by tile: with parts of one tile on both sides, validation would see what training has seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rsseg_tf.datasets.label_codings import ColourCoding
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member
from rsseg_tf.prepare.cutting import CutPlan, Scene
from rsseg_tf.prepare.pairing import SourceFiles, as_paths, check_pairs, check_splits, check_tiling, file_once, named
from rsseg_tf.prepare.prepared import PrepareReport
from rsseg_tf.prepare.preparing import workspace
from rsseg_tf.prepare.tile_names import YX

__all__ = ["DUBAI", "IGNORED_COLOURS", "TRAIN_TILES", "VAL_TILES", "prepare_dubai"]

# The colours that the masks have. The classes.json which circulates with the set names others.
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


def prepare_dubai(
    source: SourceFiles,
    output: Path,
    *,
    tile_size: int = 512,
    overlap: int = 0,
    splits: Sequence[str] | None = None,
    off_palette_fraction: float = 0.0,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Cuts the scenes into tiles, turns the masks into class ids and splits them by mosaic tile.

    Running it again gives the same bytes.

    Args:
        source: The folder or the zip file (or several), either with ``images/tile1_001.jpg`` and
            ``masks/tile1_001.png``, or as distributed with ``Tile 1/images/image_part_001.jpg`` and
            ``Tile 1/masks/image_part_001.png``.
        output: The folder to appear; see `rsseg_tf.prepare.prepared` for what it holds. Tiles are named
            ``tile1_001_{y0}_{x0}.png``, rows first.
        tile_size: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share; the last tile of a row or column is shifted back and shares more.
        splits: Parts to prepare, ``"train"``, ``"val"``; None takes all, of which train
            and val must be there.
        off_palette_fraction: Share of the pixels of a mask, 0..1, that may have an unknown colour; they are ignored.
        workers: Processes; None takes one for each core.
        progress: Called after each scene with the number done and the number of all.

    Returns:
        What was written.

    Raises:
        DataError: When the source is not the dataset, an image or a mask lacks its counterpart, a file is damaged, a
            mask has unknown colours, or the output cannot be written or must not be replaced.
    """
    check_splits(splits)
    check_tiling(tile_size, overlap, off_palette_fraction)
    coding = ColourCoding(DUBAI.palette, IGNORED_COLOURS, DUBAI.ignore_index)
    plan = CutPlan(tile_size, overlap, YX, coding=coding, palette=DUBAI.palette)
    facts = {"tile_size": tile_size, "overlap": overlap, "tile_names": plan.names}
    with workspace(output) as work:
        return work.prepare(
            DUBAI, _find_scenes(work.members(as_paths(source)), named(source), splits), plan, facts,
            splits=splits, off_palette_fraction=off_palette_fraction, workers=workers, progress=progress,
        )  # fmt: skip


def _find_scenes(members: Sequence[Member], source: str, splits: Sequence[str] | None) -> list[Scene]:
    """Pairs images and masks by tile and part."""
    found: dict[str, dict[tuple[int, int], Member]] = {"images": {}, "masks": {}}
    for member in members:
        match = _FLAT.search(member.path) or _PUBLIC.search(member.path)
        if match is None:
            if _PICTURE.search(member.path):
                raise DataError(
                    f"{member} has a name that does not belong to the dataset; tile1_001.jpg in "
                    "images/, or image_part_001.jpg in 'Tile 1/images/', is expected. Move it away."
                )
            continue
        key = int(match["tile"]), int(match["part"])
        file_once(found[match["kind"].lower()], key, member, source, f"tile {key[0]}, part {key[1]}")
    images, masks = found["images"], found["masks"]
    if not images and not masks:
        raise DataError(
            f"{source} holds no scene of the dataset; images/tile1_001.jpg with masks/tile1_001.png, or "
            "'Tile 1/images/image_part_001.jpg' with 'Tile 1/masks/image_part_001.png', is expected. Check the path."
        )
    for tile, part in images:
        if tile not in TRAIN_TILES + VAL_TILES:
            raise DataError(f"{source}: {images[tile, part]} is of tile {tile}; the dataset has tiles 1 to 8.")
    if splits is not None:
        tiles = {tile for split in splits for tile in (VAL_TILES if split == "val" else TRAIN_TILES)}
        images, masks = ({key: file for key, file in files.items() if key[0] in tiles} for files in (images, masks))
    check_pairs(images, masks, source)
    return [
        Scene("val" if tile in VAL_TILES else "train", f"tile{tile}_{part:03d}", images[tile, part], masks[tile, part])
        for tile, part in sorted(images)
    ]
