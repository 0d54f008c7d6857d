"""LoveDA: land cover of three Chinese cities from the air, urban and rural, in seven classes.

Wang et al., LoveDA: A Remote Sensing Land-Cover Dataset for Domain Adaptive Semantic Segmentation, NeurIPS 2021
Datasets and Benchmarks; https://github.com/Junjue-Wang/LoveDA. Scenes of 1024x1024 pixels, 0.3 m: 2522 for training,
1669 for validation, 1796 for testing without labels. The masks hold 0 for "no data" and 1..7 for the classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rsseg_tf.datasets.label_codings import IdCoding
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member
from rsseg_tf.prepare.cutting import CutPlan, Scene
from rsseg_tf.prepare.pairing import SourceFiles, as_paths, check_pairs, check_splits, check_tiling, file_once, named
from rsseg_tf.prepare.prepared import PrepareReport
from rsseg_tf.prepare.preparing import workspace
from rsseg_tf.prepare.tile_names import YX

__all__ = ["LOVEDA", "prepare_loveda"]

LOVEDA = DatasetSpec(
    name="loveda",
    classes=("background", "building", "road", "water", "barren", "forest", "agricultural"),
    palette=(
        (255, 255, 255),
        (255, 0, 0),
        (255, 255, 0),
        (0, 0, 255),
        (159, 129, 183),
        (0, 255, 0),
        (255, 195, 128),
    ),
    source="LoveDA, RSIDEA, Wuhan University",
    band_names=("red", "green", "blue"),
    gsd=0.3,
    tile_names=YX,
)

_FILE = re.compile(
    r"(?:^|/)(?P<split>train|val|test)/(?:.*/)?(?P<domain>urban|rural)/(?P<kind>images|masks)(?:_png)?/(?P<id>\d+)\.png$",
    re.IGNORECASE,
)


def prepare_loveda(
    source: SourceFiles,
    output: Path,
    *,
    tile_size: int = 1024,
    overlap: int = 0,
    splits: Sequence[str] | None = None,
    off_palette_fraction: float = 0.0,
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Cuts the scenes of LoveDA into tiles (by default, one each) and maps "no data" to the ignored id.

    Besides ``train.txt`` and ``val.txt`` there are lists of the two domains: ``train_urban.txt``, ``train_rural.txt``,
    ``val_urban.txt`` and ``val_rural.txt``. Test images, which have no masks, are copied whole into ``img_dir/test``.
    Running it again gives the same bytes.

    Args:
        source: Folders or zip files that hold ``Train/Urban/images_png/1366.png``,
            ``Train/Urban/masks_png/1366.png`` and so on: ``Train.zip``, ``Val.zip`` and ``Test.zip`` as downloaded, or
            unpacked.
        output: The folder to appear; see `rsseg_tf.prepare.prepared` for what it holds. Tiles are named
            ``urban_1366_{y0}_{x0}.png``, rows first.
        tile_size: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share.
        splits: Parts to prepare, ``"train"``, ``"val"``, ``"test"``; None takes all, of which train
            and val must be there.
        off_palette_fraction: Share of the pixels of a mask, 0..1, that may have another value than 0..7; they are
            ignored.
        workers: Processes; None takes one for each core.
        progress: Called after each scene with the number done and the number of all.

    Returns:
        What was written.

    Raises:
        DataError: When the source is not the dataset or lacks a file, an option is impossible, files are damaged, masks
            have unknown values, or the output cannot be written or must not be replaced.
    """
    check_splits(splits, ("train", "val", "test"))
    check_tiling(tile_size, overlap, off_palette_fraction)
    ids = ((0, LOVEDA.ignore_index), *((number + 1, number) for number in range(LOVEDA.num_classes)))
    plan = CutPlan(tile_size, overlap, YX, coding=IdCoding(ids, LOVEDA.ignore_index), palette=LOVEDA.palette)
    facts = {"tile_size": tile_size, "overlap": overlap, "tile_names": plan.names}
    with workspace(output) as work:
        return work.prepare(
            LOVEDA, _find_scenes(work.members(as_paths(source)), named(source), splits), plan, facts,
            splits=splits, off_palette_fraction=off_palette_fraction, workers=workers, progress=progress,
        )  # fmt: skip


def _find_scenes(members: Sequence[Member], source: str, splits: Sequence[str] | None) -> list[Scene]:
    """Pairs images and masks by split, domain and number."""
    found: dict[str, dict[tuple[str, str, int], Member]] = {"images": {}, "masks": {}}
    for member in members:
        match = _FILE.search(member.path)
        if match is not None and (splits is None or match["split"].lower() in splits):
            key = match["split"].lower(), match["domain"].lower(), int(match["id"])
            kind = match["kind"].lower()
            file_once(found[kind], key, member, source, f"{kind[:-1]} {key[2]} ({key[0]}, {key[1]})")
    images, masks = found["images"], found["masks"]
    if not images and not masks:
        raise DataError(
            f"{source} holds no scene of LoveDA; Train/Urban/images_png/1366.png with Train/Urban/masks_png/1366.png, "
            "for example, is expected. Check the path."
        )
    check_pairs({key: member for key, member in images.items() if key[0] != "test"}, masks, source)
    return [
        Scene(split, f"{domain}_{number}", member, masks.get((split, domain, number)), split == "test", domain)
        for (split, domain, number), member in sorted(images.items())
    ]
