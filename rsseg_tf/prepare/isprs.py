"""The ISPRS semantic labelling contest: Potsdam and Vaihingen from the air, in six classes.

https://www.isprs.org/education/benchmarks/UrbanSemLab. The boundaries of objects (black in the eroded masks) are
ignored. Splits, windows and names are those of the benchmark (PaddleSeg, contrib/RSSegBenchmark/data), which took them
from mmsegmentation.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from rsseg_tf.datasets.label_codings import ColourCoding
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member
from rsseg_tf.prepare.cutting import CutPlan, Scene
from rsseg_tf.prepare.pairing import SourceFiles, as_paths, check_pairs, check_splits, check_tiling, file_once, named
from rsseg_tf.prepare.prepared import PrepareReport
from rsseg_tf.prepare.preparing import workspace
from rsseg_tf.prepare.tile_names import XYXY

__all__ = ["BOUNDARY_COLOUR", "POTSDAM", "SPLIT_IDS", "VAIHINGEN", "prepare_isprs"]

POTSDAM = DatasetSpec(
    name="potsdam",
    classes=("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter"),
    palette=((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    source="ISPRS 2D Semantic Labeling Contest, Potsdam",
    band_names=("red", "green", "blue"),
    gsd=0.05,
    tile_names=XYXY,
)

VAIHINGEN = dataclasses.replace(
    POTSDAM,
    name="vaihingen",
    source="ISPRS 2D Semantic Labeling Contest, Vaihingen (near infrared, red, green)",
    band_names=("nir", "red", "green"),
    gsd=0.09,
    tile_names=XYXY,
)

BOUNDARY_COLOUR: RGB = (0, 0, 0)
"""The eroded masks show the boundaries of objects, three pixels wide, in black."""


def _areas(*numbers: int) -> tuple[str, ...]:
    return tuple(f"area{number}" for number in numbers)


def _blocks(**columns: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"{row[1:]}_{column}" for row, numbers in columns.items() for column in numbers)


SPLIT_IDS = {
    "potsdam": {
        "train": _blocks(
            r2=range(10, 13), r3=range(10, 13), r4=range(10, 13), r5=range(10, 13), r6=range(7, 13), r7=range(7, 13)
        ),
        "val": _blocks(r2=(13, 14), r3=(13, 14), r4=(13, 14, 15), r5=(13, 14, 15), r6=(13, 14, 15), r7=(13,)),
    },
    "vaihingen": {
        "train": _areas(1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37),
        "val": _areas(2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38),
    },
}
"""Scenes of each split, as the benchmark has them: 24 and 14 of Potsdam, 16 and 17 of Vaihingen."""

# top_potsdam_2_10_RGB.tif, top_potsdam_2_10_label.tif, top_potsdam_2_10_label_noBoundary.tif; IRRG and RGBIR are other
# pictures of the same scenes and stay out.
_POTSDAM = re.compile(
    r"(?:^|/)top_potsdam_(?P<id>\d+_\d+)_(?P<kind>RGB|label|label_noBoundary)\.(?:tiff?|png)$", re.IGNORECASE
)
# top_mosaic_09cm_area1.tif is an image or, by its folder, a mask; top_mosaic_09cm_area1_noBoundary.tif is a mask.
_VAIHINGEN = re.compile(r"(?:^|/)top_mosaic_09cm_(?P<id>area\d+)(?P<kind>|_noBoundary)\.(?:tiff?|png)$", re.IGNORECASE)
_MASK_FOLDER = re.compile(r"(?:^|/)[^/]*(?:gts?_|ground_?truth|label|mask|annot|gt(?=/))[^/]*/", re.IGNORECASE)
_IMAGE_FOLDER = re.compile(r"(?:^|/)(?:top|images?|img)/[^/]+$", re.IGNORECASE)

_Kind = Literal["image", "eroded", "full"]


def prepare_isprs(
    spec: DatasetSpec,
    source: SourceFiles,
    output: Path,
    *,
    tile_size: int = 512,
    protocol: str = "seed",
    overlap: int | None = None,
    labels: str = "eroded",
    splits: Sequence[str] | None = None,
    off_palette_fraction: float = 0.001,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Cuts the scenes of Potsdam or Vaihingen into tiles and turns their masks into class ids.

    Running it again gives the same bytes.

    Args:
        spec: `POTSDAM` or `VAIHINGEN`.
        source: Folders or zip files that hold, at any depth, the images and the masks: for Potsdam the contents of
            ``2_Ortho_RGB.zip`` and ``5_Labels_all_noBoundary.zip``; for Vaihingen those of
            ``ISPRS_semantic_labeling_Vaihingen.zip`` and ``…_ground_truth_eroded_COMPLETE.zip``, whatever the zip files
            are called. Zip files within a folder are read where they lie.
        output: The folder to appear; see `rsseg_tf.prepare.prepared` for what it holds. Tiles have the benchmark's
            names, ``2_10_{x0}_{y0}_{x1}_{y1}.png`` and ``area1_{x0}_{y0}_{x1}_{y1}.png``, columns first.
        tile_size: Side of a tile in pixels; 512 in the benchmark.
        protocol: ``"seed"``: windows at multiples of the tile size, the last ones shifted back, as the benchmark's
            scripts cut them (their stride of 256 changes nothing: they multiply by the tile size). ``"overlap"``: the
            stride that those scripts document.
        overlap: With ``"overlap"``, pixels that neighbouring tiles share; half the tile size when left out.
        labels: ``"eroded"``: masks without the boundaries of objects, as in the benchmark; ``"full"``: masks with them.
        splits: Parts to prepare, ``"train"``, ``"val"``; None takes all, of which train
            and val must be there.
        off_palette_fraction: Share of the pixels of a mask, 0..1, that may have an unknown colour; they are ignored.
        workers: Processes; None takes one for each core.
        progress: Called after each scene with the number done and the number of all.

    Returns:
        What was written.

    Raises:
        DataError: When the source is not the dataset or lacks a file, an option is impossible, files are damaged, masks
            have unknown colours, or the output cannot be written or must not be replaced.
    """
    if protocol not in ("seed", "overlap"):
        raise DataError(f"protocol is '{protocol}'; it must be 'seed' (as the benchmark) or 'overlap'.")
    if labels not in ("eroded", "full"):
        raise DataError(f"labels is '{labels}'; it must be 'eroded' (as the benchmark) or 'full'.")
    if protocol == "seed" and overlap is not None:
        raise DataError(
            f"An overlap of {overlap} has no effect on the windows of protocol 'seed'; choose protocol 'overlap'."
        )
    shared = 0 if protocol == "seed" else tile_size // 2 if overlap is None else overlap
    check_splits(splits)
    check_tiling(tile_size, shared, off_palette_fraction)
    plan = CutPlan(
        tile_size, shared, XYXY, bands="rgb",
        coding=ColourCoding(spec.palette, (BOUNDARY_COLOUR,), spec.ignore_index), palette=spec.palette,
    )  # fmt: skip
    facts = {
        "tile_size": tile_size, "overlap": shared, "protocol": protocol, "labels": labels, "tile_names": plan.names,
    }  # fmt: skip
    with workspace(output) as work:
        scenes = _find_scenes(spec.name, work.members(as_paths(source)), named(source), labels, splits)
        return work.prepare(
            spec, scenes, plan, facts,
            splits=splits, off_palette_fraction=off_palette_fraction, workers=workers, progress=progress,
        )  # fmt: skip


def _find_scenes(
    name: str, members: Sequence[Member], source: str, labels: str, chosen: Sequence[str] | None
) -> list[Scene]:
    """Pairs images and masks by scene."""
    files = _sorted_out(name, members, source)
    images, masks = files["image"], files[labels]
    if not images and not any(files.values()):
        example = "top_potsdam_2_10_RGB.tif" if name == "potsdam" else "top/top_mosaic_09cm_area1.tif"
        raise DataError(f"{source} holds no scene of {name}; files such as {example} are expected. Check the path.")
    if not masks:
        other = "full" if labels == "eroded" else "eroded"
        remedy = (
            f"There are {other} ones: choose labels '{other}'." if files[other] else "Add the zip file of the masks."
        )
        raise DataError(f"{source} holds no {labels} masks of {name}. {remedy}")
    splits = {scene: split for split, scenes in SPLIT_IDS[name].items() for scene in scenes}
    for scene, member in sorted(images.items()):
        if scene not in splits:
            raise DataError(
                f"{member} is scene {scene}, which is in no split of {name}. Check its name or move it away."
            )
    # area9 has a mask and is in no split
    wanted = {scene for scene, split in splits.items() if chosen is None or split in chosen}
    images, masks = ({scene: files[scene] for scene in files.keys() & wanted} for files in (images, masks))
    check_pairs(images, masks, source)
    return [Scene(splits[scene], scene, images[scene], masks[scene]) for scene in sorted(images)]


def _sorted_out(name: str, members: Sequence[Member], source: str) -> dict[str, dict[str, Member]]:
    """Tells images, eroded masks and full masks apart: ``{kind: {scene: file}}``."""
    found: dict[str, dict[str, Member]] = {"image": {}, "eroded": {}, "full": {}}
    for member in members:
        match = (_POTSDAM if name == "potsdam" else _VAIHINGEN).search(member.path)
        if match is None:
            continue
        kind, scene = _kind(match["kind"].lower(), member.path), match["id"].lower()
        there = found[kind].get(scene)
        if there is not None and kind == "full" and there.size == member.size:
            continue  # some downloads hold the participants' masks and all masks
        file_once(found[kind], scene, member, source, f"the {kind}{' mask' if kind != 'image' else ''} of {scene}")
    return found


def _kind(text: str, path: str) -> _Kind:
    if text.endswith("noboundary"):
        return "eroded"
    if text == "label":
        return "full"
    if text == "rgb" or _IMAGE_FOLDER.search(path):
        return "image"
    return "full" if _MASK_FOLDER.search(path) else "image"
