"""iSAID: objects in aerial images, in fifteen classes and background.

Waqas Zamir et al., iSAID: A Large-scale Dataset for Instance Segmentation in Aerial Images,
https://captain-whu.github.io/iSAID. Names, ids, colours, windows and names of tiles are those of the benchmark
(PaddleSeg, contrib/RSSegBenchmark/data). The images are those of DOTA; the masks come from iSAID.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rsseg_tf.datasets.label_codings import ColourCoding
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member
from rsseg_tf.prepare.cutting import CutPlan, Scene
from rsseg_tf.prepare.pairing import SourceFiles, as_paths, check_pairs, check_splits, check_tiling, file_once, named
from rsseg_tf.prepare.prepared import PrepareReport
from rsseg_tf.prepare.preparing import workspace
from rsseg_tf.prepare.tile_names import YYXX

__all__ = ["ISAID", "prepare_isaid", "split_of"]

ISAID = DatasetSpec(
    name="isaid",
    classes=(
        "background",
        "ship",
        "store_tank",
        "baseball_diamond",
        "tennis_court",
        "basketball_court",
        "ground_track_field",
        "bridge",
        "large_vehicle",
        "small_vehicle",
        "helicopter",
        "swimming_pool",
        "roundabout",
        "soccer_ball_field",
        "plane",
        "harbor",
    ),
    palette=(
        (0, 0, 0),
        (0, 0, 63),
        (0, 63, 63),
        (0, 63, 0),
        (0, 63, 127),
        (0, 63, 191),
        (0, 63, 255),
        (0, 127, 63),
        (0, 127, 127),
        (0, 0, 127),
        (0, 0, 191),
        (0, 0, 255),
        (0, 191, 127),
        (0, 127, 191),
        (0, 127, 255),
        (0, 100, 155),
    ),
    small_classes=("ship", "large_vehicle", "small_vehicle", "helicopter", "swimming_pool", "plane", "harbor"),
    source="iSAID, Captain-WHU",
    band_names=("red", "green", "blue"),
    tile_names=YYXX,
)

_MASK_SUFFIX = "_instance_color_RGB"
_FILE = re.compile(rf"(?:^|/)(?P<id>P\d+)(?P<mask>{_MASK_SUFFIX})?\.(?:png|tiff?|jpe?g)$", re.IGNORECASE)
_SPLIT = re.compile(r"(?:^|[/_\-. ])(train|val|test)(?:ing|idation)?(?=[/_\-. ]|$)", re.IGNORECASE)


def prepare_isaid(
    source: SourceFiles,
    output: Path,
    *,
    tile_size: int = 896,
    overlap: int = 384,
    splits: Sequence[str] | None = None,
    off_palette_fraction: float = 0.001,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Cuts the scenes of iSAID into tiles and turns their masks into class ids.

    Test images, which have no masks, are copied whole into ``img_dir/test`` and listed in ``test.txt``. Running it
    again gives the same bytes.

    Args:
        source: Folders or zip files that hold, at any depth, images ``P0000.png`` and masks
            ``P0000_instance_color_RGB.png`` below folders (or in zip files) named after the split: as downloaded,
            ``train/images/part1.zip``, ``train/Semantic_masks/images.zip`` and so on, or unpacked. Instance masks and
            annotations may lie there too.
        output: The folder to appear; see `rsseg_tf.prepare.prepared` for what it holds. Tiles have the benchmark's
            names, ``P0000_{y0}_{y1}_{x0}_{x1}.png`` and ``…_instance_color_RGB.png``, rows first.
        tile_size: Side of a tile in pixels; 896 in the benchmark's main tables.
        overlap: Pixels that neighbouring tiles share; 384 in the benchmark.
        splits: Parts to prepare, ``"train"``, ``"val"``, ``"test"``; None takes all, of which train
            and val must be there.
        off_palette_fraction: Share of the pixels of a mask, 0..1, that may have an unknown colour; they are ignored
            (the original makes them background).
        workers: Processes; None takes one for each core.
        progress: Called after each scene with the number done and the number of all.

    Returns:
        What was written.

    Raises:
        DataError: When the source is not the dataset or lacks a file, an option is impossible, files are damaged, masks
            have unknown colours, or the output cannot be written or must not be replaced.
    """
    check_splits(splits, ("train", "val", "test"))
    check_tiling(tile_size, overlap, off_palette_fraction)
    plan = CutPlan(
        tile_size, overlap, YYXX, label_suffix=_MASK_SUFFIX, bands="rgb",
        coding=ColourCoding(ISAID.palette, (), ISAID.ignore_index), palette=ISAID.palette,
    )  # fmt: skip
    facts = {"tile_size": tile_size, "overlap": overlap, "tile_names": plan.names}
    with workspace(output) as work:
        return work.prepare(
            ISAID, _find_scenes(work.members(as_paths(source)), named(source), splits), plan, facts,
            splits=splits, off_palette_fraction=off_palette_fraction, workers=workers, progress=progress,
        )  # fmt: skip


def split_of(path: str) -> str | None:
    """Returns ``"train"``, ``"val"`` or ``"test"``, as the innermost name in a path that says one; else None."""
    found = _SPLIT.findall(path)
    return found[-1].lower() if found else None


def _find_scenes(members: Sequence[Member], source: str, splits: Sequence[str] | None) -> list[Scene]:
    """Pairs images and masks by split and number."""
    images: dict[tuple[str, str], Member] = {}
    masks: dict[tuple[str, str], Member] = {}
    for member in members:
        match = _FILE.search(member.path)
        if match is None:
            continue
        split = split_of(member.path.rpartition("/")[0])
        if split is None:
            raise DataError(
                f"{member} does not say its split; folders named train, val and test are expected on the way to it. "
                "Arrange the files as downloaded: train/images/part1.zip."
            )
        if splits is not None and split not in splits:
            continue
        number = match["id"].upper()
        files, kind = (masks, "mask") if match["mask"] else (images, "image")
        file_once(files, (split, number), member, source, f"the {kind} of {number} ({split})")
    if not images and not masks:
        raise DataError(
            f"{source} holds no scene of iSAID; train/images/part1.zip with P0000.png and "
            f"train/Semantic_masks/images.zip with P0000{_MASK_SUFFIX}.png, for example, are expected. Check the path."
        )
    labelled = {key: member for key, member in images.items() if key[0] != "test"}
    check_pairs(labelled, {key: member for key, member in masks.items() if key[0] != "test"}, source)
    return [
        Scene(split, number, member, masks.get((split, number)), whole=split == "test")
        for (split, number), member in sorted(images.items())
    ]
