"""iSAID: objects in aerial images, in fifteen classes and background.

Waqas Zamir et al., iSAID: A Large-scale Dataset for Instance Segmentation in Aerial Images,
https://captain-whu.github.io/iSAID. Names, ids, colours, windows and names of tiles are those of the benchmark
(PaddleSeg, contrib/RSSegBenchmark/data). The images are those of DOTA; the masks come from iSAID.
"""

from __future__ import annotations

import re
from pathlib import Path

from rsseg_tf.datasets.label_codings import ColourCoding
from rsseg_tf.datasets.recipe import Download, Recipe, SourceScene
from rsseg_tf.datasets.spec import YYXX, DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member

__all__ = ["ISAID", "ISAID_RECIPE", "split_of"]

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


def split_of(path: str) -> str | None:
    """Returns `"train"`, `"val"` or `"test"` from the innermost folder of a path that names a split; else None."""
    found = _SPLIT.findall(path)
    return found[-1].lower() if found else None


def _find_scenes(download: Download) -> list[SourceScene]:
    """Pairs images and masks by split and number."""
    images: dict[tuple[str, str], Member] = {}
    masks: dict[tuple[str, str], Member] = {}
    for member in download.members:
        match = _FILE.search(member.path)
        if match is None:
            continue
        split = split_of(member.path.rpartition("/")[0])
        if split is None:
            raise DataError(
                f"{member} does not say its split; folders named train, val and test are expected on the way to it. "
                "Arrange the files as downloaded: train/images/part1.zip."
            )
        if not download.wants(split):
            continue
        number = match["id"].upper()
        files, kind = (masks, "mask") if match["mask"] else (images, "image")
        download.enter(files, (split, number), member, f"the {kind} of {number} ({split})")
    if not images and not masks:
        raise DataError(
            f"{download.sources} holds no scene of iSAID; train/images/part1.zip with P0000.png and "
            f"train/Semantic_masks/images.zip with P0000{_MASK_SUFFIX}.png, for example, are expected. Check the path."
        )
    labelled = ({key: file for key, file in files.items() if key[0] != "test"} for files in (images, masks))
    download.check_pairs(*labelled)
    return [
        SourceScene(split, number, member, masks.get((split, number)), whole=split == "test")
        for (split, number), member in sorted(images.items())
    ]


ISAID_RECIPE = Recipe(
    ISAID,
    Path("data/iSAID"),
    find_scenes=_find_scenes,
    coding=ColourCoding(ISAID.palette),
    splits=("train", "val", "test"),
    tile_size=896,
    overlap=384,
    bands="as_rgb",
    label_suffix=_MASK_SUFFIX,
    off_palette_fraction=0.001,
)
"""Sources are folders or zip files that hold, at any depth, images `P0000.png` and masks
`P0000_instance_color_RGB.png` below folders (or in zip files) named after the split: as downloaded,
`train/images/part1.zip`, `train/Semantic_masks/images.zip` and so on, or unpacked. Instance masks and annotations may
lie there too. Tile size and overlap are those of the benchmark's main tables. Off-palette pixels are ignored;
PaddleSeg makes them background."""
