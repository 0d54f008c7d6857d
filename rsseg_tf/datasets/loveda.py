"""LoveDA: land cover of three Chinese cities from the air, urban and rural, in seven classes.

Wang et al., LoveDA: A Remote Sensing Land-Cover Dataset for Domain Adaptive Semantic Segmentation, NeurIPS 2021
Datasets and Benchmarks; https://github.com/Junjue-Wang/LoveDA. Scenes of 1024x1024 pixels, 0.3 m: 2522 for training,
1669 for validation, 1796 for testing without labels. The masks hold 0 for "no data" and 1..7 for the classes.
"""

from __future__ import annotations

import re
from pathlib import Path

from rsseg_tf.datasets.label_codings import IdCoding
from rsseg_tf.datasets.recipe import Download, Recipe, SourceScene
from rsseg_tf.datasets.spec import YX, DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member

__all__ = ["LOVEDA", "LOVEDA_RECIPE"]

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


def _find_scenes(download: Download) -> list[SourceScene]:
    """Pairs images and masks by split, domain and number."""
    found: dict[str, dict[tuple[str, str, int], Member]] = {"images": {}, "masks": {}}
    for member in download.members:
        match = _FILE.search(member.path)
        if match is not None and download.wants(match["split"].lower()):
            key = match["split"].lower(), match["domain"].lower(), int(match["id"])
            kind = match["kind"].lower()
            download.enter(found[kind], key, member, f"{kind[:-1]} {key[2]} ({key[0]}, {key[1]})")
    images, masks = found["images"], found["masks"]
    if not images and not masks:
        raise DataError(
            f"{download.sources} holds no scene of LoveDA; Train/Urban/images_png/1366.png with "
            "Train/Urban/masks_png/1366.png, for example, is expected. Check the path."
        )
    download.check_pairs({key: member for key, member in images.items() if key[0] != "test"}, masks)
    return [
        SourceScene(split, f"{domain}_{number}", member, masks.get((split, domain, number)), split == "test", domain)
        for (split, domain, number), member in sorted(images.items())
    ]


LOVEDA_RECIPE = Recipe(
    LOVEDA,
    Path("data/LoveDA"),
    find_scenes=_find_scenes,
    coding=IdCoding(((0, LOVEDA.ignore_index), *((number + 1, number) for number in range(LOVEDA.num_classes)))),
    splits=("train", "val", "test"),
    tile_size=1024,  # one tile a scene
)
"""Sources are folders or zip files that hold `Train/Urban/images_png/1366.png`, `Train/Urban/masks_png/1366.png` and so
on: `Train.zip`, `Val.zip` and `Test.zip` as downloaded, or unpacked. Besides the lists of the splits there are those of
the two domains, such as `train_urban.txt`."""
