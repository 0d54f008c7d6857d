"""Images without labels, for self-supervised pre-training: Million-AID, DOTA 2.0, and any folder of images.

Million-AID: Long et al., On Creating Benchmark Dataset for Aerial Image Interpretation, IEEE JSTARS 2021,
https://captain-whu.github.io/DiRS; about a million images of 110 to 31672 pixels. DOTA 2.0: Ding et al., Object
Detection in Aerial Images: A Large-Scale Benchmark and Challenges, IEEE TPAMI 2021,
https://captain-whu.github.io/DOTA; images of 800 to 29200 pixels. The benchmark pre-trained on crops of 512x512 of
both, 2.5 and 1.7 million of them.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rsseg_tf.datasets.recipe import Download, Recipe, SourceScene
from rsseg_tf.errors import DataError, address_hint
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import Sample
from rsseg_tf.files.walking import IMAGE_SUFFIXES, LeftOut, find_images

__all__ = ["DOTA_RECIPE", "IMAGES_RECIPE", "MILLION_AID_RECIPE", "list_images"]

_IMAGE = re.compile(r"\.(?:png|jpe?g|tiff?)$", re.IGNORECASE)
_DOTA_IMAGE = re.compile(r"(?:^|/)P\d+\.(?:png|jpe?g|tiff?)$", re.IGNORECASE)


def list_images(folder: StrPath, notify: Callable[[str], object] = lambda line: None) -> tuple[Sample, ...]:
    """Returns all images below a folder, in order of their paths, without labels.

    Args:
        folder: Any folder with PNG, JPEG or TIFF files at any depth, also behind links. Files and folders with a
            leading dot are skipped.
        notify: Called with one line about possible images that were left out.

    Raises:
        DataError: When the folder does not exist, holds no image, or was written by `rsseg-tf prepare`. A prepared
            folder may hold labels too, and its list separates them from the images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"The folder of images {folder} does not exist. Set dataset.root.{address_hint(folder)}")
    if (folder / "dataset.json").is_file():
        raise DataError(
            f"{folder} was written by `rsseg-tf prepare`; to take its images and not its labels, set "
            "dataset.train_list=train.txt."
        )
    left_out = LeftOut(IMAGE_SUFFIXES)
    paths = sorted(find_images(folder, IMAGE_SUFFIXES, left_out))
    if not paths:
        because = f" ({left_out})" if left_out else ""
        raise DataError(f"{folder} holds no PNG, JPEG or TIFF images{because}. Set dataset.root.")
    if left_out:
        notify(f"{folder}: {left_out}.")
    return tuple(Sample(path, None) for path in paths)


def _find_images(pattern: re.Pattern[str], wanted: str, download: Download) -> list[SourceScene]:
    """Names each image by its path below the source, without the suffix unless two images differ in it alone."""
    images = [member for member in download.members if pattern.search(member.path)]
    if not images:
        raise DataError(f"{download.sources} holds no {wanted}. Check the path.")
    # A name begins with the source, which tells images of several sources apart and is redundant for one.
    outermost = {PurePosixPath(member.path).parts[0] for member in images}
    stems = [str(PurePosixPath(*PurePosixPath(member.path).parts[len(outermost) == 1 :])) for member in images]
    plain = Counter(str(PurePosixPath(stem).with_suffix("")) for stem in stems)
    scenes: dict[str, SourceScene] = {}
    for stem, member in zip(stems, images, strict=True):
        path = PurePosixPath(stem)
        short = str(path.with_suffix(""))
        unique = short if plain[short] == 1 else f"{short}_{path.suffix[1:]}"
        if unique in scenes:
            raise DataError(
                f"{download.sources} holds {unique} twice: {scenes[unique].image} and {member}. Remove one."
            )
        scenes[unique] = SourceScene("train", unique, member, None)
    return list(scenes.values())


IMAGES_RECIPE = Recipe(
    "images",
    Path("data/images"),
    find_scenes=functools.partial(_find_images, _IMAGE, "PNG, JPEG or TIFF images"),
    splits=("train",),
    bands="stored",
)
"""Sources are any folders or zip files with PNG, JPEG or TIFF images at any depth. Folders are kept, so that images of
one name do not meet."""

MILLION_AID_RECIPE = dataclasses.replace(
    IMAGES_RECIPE, dataset="million_aid", output=Path("data/Million-AID"), bands="as_rgb"
)

DOTA_RECIPE = dataclasses.replace(
    MILLION_AID_RECIPE,
    dataset="dota",
    output=Path("data/DOTA"),
    find_scenes=functools.partial(_find_images, _DOTA_IMAGE, "images such as P0000.png"),
)
"""Takes only files named like `P0000.png`, so that the download may contain masks and previews."""
