"""Finds images and labels in folders without list files, and pairs them by name.

The layouts, each with several names for the folders:

    img_dir/{train,val,test}/…  ann_dir/{train,val,test}/…
    {train,val,test}/images/…   {train,val,test}/labels/…
    images/…  labels/…          one split
    a.png  a_label.png          one split, images and labels side by side

There may be folders below them; an image and its label then have the same path. The comparison of names leaves out the
suffix and endings such as `_label`, `_instance_color_RGB` (labels) and `_RGB` (images).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample
from rsseg_tf.files.walking import FOREIGN_SUFFIXES, IMAGE_SUFFIXES, RASTER_SUFFIXES, LeftOut, find_images

__all__ = ["FolderSplit", "find_folders"]

_IMAGES = ("img_dir", "images", "image", "imgs", "img")
_LABELS = ("ann_dir", "labels", "label", "masks", "mask", "annotations", "gt")
_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_ONE_SPLIT = "all"

_ENDING = r"(?:[_\-. ](?:{}))+$"
# Endings of known datasets: `_noBoundary`, `_RGB`, `_IRRG` (ISPRS), `_instance_color_RGB` (iSAID).
_LABEL_ENDING = re.compile(
    _ENDING.format("labels?|masks?|gt|ann|annotation|seg|segmentation|noboundary|instance_color_rgb"), re.IGNORECASE
)
_IMAGE_ENDING = re.compile(_ENDING.format("rgb|irrg|rgbir|image|img|sat|ortho"), re.IGNORECASE)


@dataclass(frozen=True)
class FolderSplit:
    """The files of one split.

    Attributes:
        name: `"train"`, `"val"`, `"test"`, or `"all"` for the only split.
        samples: Pairs, or images alone if the split has no labels; in the order of the images' paths.
        labelled: Whether it has labels.
        unpaired_images: Images without a label.
        unpaired_labels: Labels without an image.
        ambiguous: Files that could each be the same half of a pair.
        left_out: A sentence about possible images that were left out; empty for none.
    """

    name: str
    samples: tuple[Sample, ...]
    labelled: bool
    unpaired_images: tuple[Path, ...] = ()
    unpaired_labels: tuple[Path, ...] = ()
    ambiguous: tuple[tuple[Path, ...], ...] = ()
    left_out: str = ""


def find_folders(folder: Path, *, unlabelled: bool) -> tuple[FolderSplit, ...]:
    """Finds the splits of a folder and pairs their images and labels.

    Args:
        folder: The folder.
        unlabelled: Whether to take images without labels.

    Raises:
        DataError: When no known layout fits, or two do.
    """
    images, labels = _child(folder, _IMAGES), _child(folder, _LABELS)
    inner = _split_folders(images) if images else {}
    if inner:
        beside = _split_folders(labels) if labels else {}
        names = [name for name in _SPLITS if name in inner or (name in beside and not unlabelled)]
        return tuple(_split(name, inner.get(name), beside.get(name), unlabelled) for name in names)
    if images:
        return (_split(_ONE_SPLIT, images, labels, unlabelled),)
    outer = _split_folders(folder) or {_ONE_SPLIT: folder}
    return tuple(_outer_split(name, path, unlabelled) for name, path in outer.items())


def _outer_split(name: str, folder: Path, unlabelled: bool) -> FolderSplit:
    """Returns a split with folders of images and labels inside, or with both side by side."""
    images, labels = _child(folder, _IMAGES), _child(folder, _LABELS)
    if images:
        return _split(name, images, labels, unlabelled)
    left_out = LeftOut(RASTER_SUFFIXES)
    files = sorted(find_images(folder, RASTER_SUFFIXES, left_out))
    if not files:
        because = f" ({left_out})" if left_out else ""
        raise DataError(
            f"{folder} holds no {', '.join(IMAGE_SUFFIXES)} files and no other rasters "
            f"({', '.join(FOREIGN_SUFFIXES)}) that could be checked{because}. Name a folder with train.txt "
            "and val.txt, with images/ and labels/, or with img_dir/ and ann_dir/."
        )
    if unlabelled:
        return _alone(name, files, left_out)
    beside = [path for path in files if _LABEL_ENDING.search(path.stem)]
    if not beside:
        raise DataError(
            f"{folder} holds {len(files)} images and nothing that looks like labels: no folder such as "
            f"{', '.join(_LABELS[:3])}, no names ending in _label or _mask. Ask for images alone (--unlabelled), or "
            "write list files."
        )
    return replace(_paired(name, sorted(set(files) - set(beside)), beside, folder, folder), left_out=str(left_out))


def _split(name: str, images: Path | None, labels: Path | None, unlabelled: bool) -> FolderSplit:
    """Returns a split with one folder of images and one of labels; only a test split may lack the latter."""
    left_out = LeftOut(RASTER_SUFFIXES)
    files = sorted(find_images(images, RASTER_SUFFIXES, left_out)) if images else []
    if unlabelled or (labels is None and name == "test"):
        return _alone(name, files, left_out)
    if labels is None and name == _ONE_SPLIT:
        raise DataError(
            f"{images} has no folder of labels beside it; {', '.join(_LABELS)} are looked for. Add it, or ask for "
            "images alone (--unlabelled)."
        )
    beside = sorted(find_images(labels, IMAGE_SUFFIXES, left_out)) if labels else []
    return replace(_paired(name, files, beside, images, labels), left_out=str(left_out))


def _alone(name: str, files: Sequence[Path], left_out: LeftOut) -> FolderSplit:
    return FolderSplit(name, tuple(Sample(path, None) for path in files), labelled=False, left_out=str(left_out))


def _paired(
    name: str, images: Sequence[Path], labels: Sequence[Path], images_root: Path | None, labels_root: Path | None
) -> FolderSplit:
    """Pairs files of equal names first, then files whose names are equal without their endings."""
    pairs: dict[Path, Path] = {}
    ambiguous: list[tuple[Path, ...]] = []
    settled: set[Path] = set()
    # From the strictest comparison to the loosest: equal names, labels without their ending, both without.
    for endings in ((None, None), (None, _LABEL_ENDING), (_IMAGE_ENDING, _LABEL_ENDING)):
        by_key = [
            _by_key((path for path in files if path not in settled), root, ending)
            for files, root, ending in ((images, images_root, endings[0]), (labels, labels_root, endings[1]))
        ]
        for key in sorted(by_key[0].keys() & by_key[1].keys()):
            its_images, its_labels = by_key[0][key], by_key[1][key]
            # Ambiguous files are settled too: a looser comparison would pair them by chance.
            settled |= {*its_images, *its_labels}
            if len(its_images) == len(its_labels) == 1:
                pairs[its_images[0]] = its_labels[0]
            else:
                ambiguous += [tuple(files) for files in (its_images, its_labels) if len(files) > 1]
    return FolderSplit(
        name,
        tuple(Sample(image, pairs[image]) for image in sorted(pairs)),
        labelled=True,
        unpaired_images=tuple(path for path in images if path not in settled),
        unpaired_labels=tuple(path for path in labels if path not in settled),
        ambiguous=tuple(ambiguous),
    )


def _by_key(files: Iterable[Path], root: Path | None, ending: re.Pattern[str] | None) -> dict[str, list[Path]]:
    """Groups files by their path below the root, without suffix and ending, in lower case; no root without files."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for path in files:
        stem = path.stem if ending is None else ending.sub("", path.stem)
        folder = path.parent.relative_to(root) if root else path.parent
        # The capitals of an image's and a label's name may differ.
        found[(folder / stem).as_posix().lower()].append(path)
    return found


def _split_folders(folder: Path) -> dict[str, Path]:
    """Returns the folders of splits in a folder, train first."""
    found = {name: _child(folder, names) for name, names in _SPLITS.items()}
    return {name: path for name, path in found.items() if path is not None}


def _child(folder: Path, names: Sequence[str]) -> Path | None:
    """Returns the folder in `folder` that has one of the names, in upper or lower case.

    Raises:
        DataError: When there are several.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.name.lower() in names and path.is_dir())
    except OSError as error:
        raise DataError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error
    if len(found) > 1:
        raise DataError(
            f"{folder} has both {found[0].name} and {found[1].name}; one of them is expected. Name their parts with "
            "list files (train.txt, val.txt)."
        )
    return found[0] if found else None
