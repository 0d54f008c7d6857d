"""The ISPRS semantic labelling contest: Potsdam and Vaihingen from the air, in six classes.

https://www.isprs.org/education/benchmarks/UrbanSemLab. The boundaries of objects (black in the eroded masks) are
ignored. Splits, windows and names are those of the benchmark (PaddleSeg, contrib/RSSegBenchmark/data), which took them
from mmsegmentation.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rsseg_tf.datasets.label_codings import ColourCoding
from rsseg_tf.datasets.recipe import Download, Recipe, SourceScene
from rsseg_tf.datasets.spec import RGB, XYXY, DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member

__all__ = ["BOUNDARY_COLOUR", "POTSDAM", "POTSDAM_RECIPE", "SPLIT_IDS", "VAIHINGEN", "VAIHINGEN_RECIPE"]

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


def _find_scenes(name: str, download: Download) -> list[SourceScene]:
    """Pairs images and masks by scene."""
    files, labels = _by_kind(name, download), download.labels
    images, masks = files["image"], files[labels]
    if not images and not any(files.values()):
        example = "top_potsdam_2_10_RGB.tif" if name == "potsdam" else "top/top_mosaic_09cm_area1.tif"
        raise DataError(
            f"{download.sources} holds no scene of {name}; files such as {example} are expected. Check the path."
        )
    if not masks:
        other = "full" if labels == "eroded" else "eroded"
        remedy = (
            f"There are {other} ones: choose labels '{other}'." if files[other] else "Add the zip file of the masks."
        )
        raise DataError(f"{download.sources} holds no {labels} masks of {name}. {remedy}")
    splits = {scene: split for split, scenes in SPLIT_IDS[name].items() for scene in scenes}
    for scene, member in sorted(images.items()):
        if scene not in splits:
            raise DataError(
                f"{member} is scene {scene}, which is in no split of {name}. Check its name or move it away."
            )
    # The mask of area9 goes unused: the scene is in no split.
    wanted = {scene for scene, split in splits.items() if download.wants(split)}
    images, masks = ({scene: files[scene] for scene in files.keys() & wanted} for files in (images, masks))
    download.check_pairs(images, masks)
    return [SourceScene(splits[scene], scene, images[scene], masks[scene]) for scene in sorted(images)]


def _by_kind(name: str, download: Download) -> dict[str, dict[str, Member]]:
    """Tells images, eroded masks and full masks apart: `{kind: {scene: file}}`."""
    found: dict[str, dict[str, Member]] = {"image": {}, "eroded": {}, "full": {}}
    for member in download.members:
        match = (_POTSDAM if name == "potsdam" else _VAIHINGEN).search(member.path)
        if match is None:
            continue
        kind, scene = _kind(match["kind"].lower(), member.path), match["id"].lower()
        there = found[kind].get(scene)
        if there is not None and kind == "full" and there.size == member.size:
            continue  # downloads may contain the participants' masks beside all masks, of which they are a part
        download.enter(found[kind], scene, member, f"the {kind}{' mask' if kind != 'image' else ''} of {scene}")
    return found


def _kind(text: str, path: str) -> _Kind:
    if text.endswith("noboundary"):
        return "eroded"
    if text == "label":
        return "full"
    if text == "rgb" or _IMAGE_FOLDER.search(path):
        return "image"
    return "full" if _MASK_FOLDER.search(path) else "image"


POTSDAM_RECIPE = Recipe(
    POTSDAM,
    Path("data/Potsdam"),
    find_scenes=functools.partial(_find_scenes, "potsdam"),
    coding=ColourCoding(POTSDAM.palette, (BOUNDARY_COLOUR,)),
    cuttings=("benchmark", "overlap"),
    labels=("eroded", "full"),
    bands="as_rgb",
    off_palette_fraction=0.001,
)
"""Sources are folders or zip files that hold, at any depth, the images and the masks: the contents of `2_Ortho_RGB.zip`
and `5_Labels_all_noBoundary.zip`, whatever the zip files are called.

The cutting `"benchmark"` places windows at multiples of the tile size, the last ones shifted back, as the benchmark's
scripts do: the scripts have a stride of 256, but multiply by the tile size. `"overlap"` has the stride that the scripts
document. The labels `"eroded"` are masks without the boundaries of objects, as in the benchmark."""

VAIHINGEN_RECIPE = dataclasses.replace(
    POTSDAM_RECIPE,
    dataset=VAIHINGEN,
    output=Path("data/Vaihingen"),
    find_scenes=functools.partial(_find_scenes, "vaihingen"),
)
"""As Potsdam's, with the contents of `ISPRS_semantic_labeling_Vaihingen.zip` and
`ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip`."""
