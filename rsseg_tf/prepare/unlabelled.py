"""Images without labels, for self-supervised pre-training: Million-AID, DOTA 2.0, and any folder of images.

Million-AID: Long et al., On Creating Benchmark Dataset for Aerial Image Interpretation, IEEE JSTARS 2021,
https://captain-whu.github.io/DiRS; about a million images of 110 to 31672 pixels. DOTA 2.0: Ding et al., Object
Detection in Aerial Images: A Large-Scale Benchmark and Challenges, IEEE TPAMI 2021,
https://captain-whu.github.io/DOTA; images of 800 to 29200 pixels. The benchmark pre-trained on crops of 512x512 of
both, 2.5 and 1.7 million of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from rsseg_tf.errors import DataError, address_hint
from rsseg_tf.files import StrPath
from rsseg_tf.files.archives import Member
from rsseg_tf.files.lists import Sample
from rsseg_tf.files.walking import IMAGE_SUFFIXES, LeftOut, find_images
from rsseg_tf.prepare.cutting import CutPlan, Scene
from rsseg_tf.prepare.pairing import SourceFiles, as_paths, check_tiling, named
from rsseg_tf.prepare.prepared import PrepareReport
from rsseg_tf.prepare.preparing import workspace
from rsseg_tf.prepare.tile_names import YX

__all__ = ["UNLABELLED", "list_images", "prepare_unlabelled"]

UNLABELLED = ("million_aid", "dota", "images")
"""Names of the sets; ``"images"`` is any folder."""

_IMAGE = re.compile(r"\.(?:png|jpe?g|tiff?)$", re.IGNORECASE)
_DOTA_IMAGE = re.compile(r"(?:^|/)P\d+\.(?:png|jpe?g|tiff?)$", re.IGNORECASE)
_FORMATS = ("jpg", "png", "tif")


def prepare_unlabelled(
    name: str,
    source: SourceFiles,
    output: Path,
    *,
    tile_size: int = 512,
    overlap: int = 0,
    image_format: str = "jpg",
    workers: int | None = 1,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Cuts all images into crops of one size and lists them.

    Images smaller than a crop are padded with 0 at the right and the bottom. Folders are kept, so that images of one
    name do not meet. Running it again gives the same bytes.

    Args:
        name: ``"million_aid"``, ``"dota"`` (takes ``P0000.png`` and the like alone, so that masks and previews may lie
            beside) or ``"images"``.
        source: Folders or zip files with PNG, JPEG or TIFF images at any depth.
        output: The folder to appear: ``img_dir/train/…/{name}_{y0}_{x0}.jpg``, ``train.txt`` with one path a line, and
            ``dataset.json``.
        tile_size: Side of a crop in pixels; 512 in the benchmark.
        overlap: Pixels that neighbouring crops share.
        image_format: ``"jpg"`` (quality 95; a quarter of the space), ``"png"`` or ``"tif"``. Images that the format
            cannot hold, such as those of many bands or 16 bits, are written as TIFF with all their bands.
        workers: Processes; None takes one for each core.
        progress: Called after each image with the number done and the number of all.

    Returns:
        What was written; the one split is ``"train"``.

    Raises:
        DataError: When there are no images, an option is impossible, files are damaged, or the output cannot be written
            or must not be replaced.
    """
    check_tiling(tile_size, overlap)
    if image_format not in _FORMATS:
        raise DataError(f"image_format is '{image_format}'; it must be one of {', '.join(_FORMATS)}.")
    plan = CutPlan(tile_size, overlap, YX, bands="all" if name == "images" else "rgb", suffix=f".{image_format}")
    facts = {"tile_size": tile_size, "overlap": overlap, "tile_names": YX, "image_format": image_format}
    with workspace(output) as work:
        scenes = _find_images(name, work.members(as_paths(source)), named(source))
        return work.prepare(name, scenes, plan, facts, workers=workers, progress=progress)


def list_images(folder: StrPath, notify: Callable[[str], object] = lambda line: None) -> tuple[Sample, ...]:
    """Returns all images below a folder, in order of their paths, without labels.

    Args:
        folder: any folder with PNG, JPEG or TIFF files at any depth, also behind links; files and folders with a
            leading dot are skipped.
        notify: told in one line what was left out although it may be an image.

    Raises:
        DataError: when it does not exist, holds no image, or was written by `rsseg-tf prepare`: such a folder may hold
            labels too, and has a list that tells them apart.
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


def _find_images(name: str, members: Sequence[Member], source: str) -> list[Scene]:
    """Names each image by its path below the source; names that meet once the suffix is off keep the suffix."""
    pattern = _DOTA_IMAGE if name == "dota" else _IMAGE
    images = [member for member in members if pattern.search(member.path)]
    if not images:
        wanted = "images such as P0000.png" if name == "dota" else "PNG, JPEG or TIFF images"
        raise DataError(f"{source} holds no {wanted}. Check the path.")
    outermost = {PurePosixPath(member.path).parts[0] for member in images}
    stems = [str(PurePosixPath(*PurePosixPath(member.path).parts[len(outermost) == 1 :])) for member in images]
    plain = Counter(str(PurePosixPath(stem).with_suffix("")) for stem in stems)
    scenes: dict[str, Scene] = {}
    for stem, member in zip(stems, images, strict=True):
        path = PurePosixPath(stem)
        short = str(path.with_suffix(""))
        unique = short if plain[short] == 1 else f"{short}_{path.suffix[1:]}"
        if unique in scenes:
            raise DataError(f"{source} holds {unique} twice: {scenes[unique].image} and {member}. Remove one.")
        scenes[unique] = Scene("train", unique, member, None)
    return list(scenes.values())
