"""Finds which file of a download is the image and which the mask of a scene, and says what is missing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from rsseg_tf.errors import DataError
from rsseg_tf.files.archives import Member

__all__ = ["SourceFiles", "as_paths", "check_pairs", "check_splits", "check_tiling", "file_once", "named"]

Key = TypeVar("Key", bound=Hashable)

SourceFiles = Path | Sequence[Path]
"""One folder or zip file, or several that belong together."""


def as_paths(sources: SourceFiles) -> tuple[Path, ...]:
    """Returns the sources as a tuple.

    Raises:
        DataError: When there is none.
    """
    paths = (sources,) if isinstance(sources, Path) else tuple(sources)
    if not paths:
        raise DataError("No source was given; the downloaded folder or zip files of the dataset are needed.")
    return paths


def named(sources: SourceFiles) -> str:
    """Returns how to name the sources in errors."""
    return ", ".join(map(str, as_paths(sources)))


def file_once(files: dict[Key, Member], key: Key, member: Member, source: str, what: str) -> None:
    """Enters a file.

    Raises:
        DataError: When there is one of that key already.
    """
    if key in files:
        raise DataError(f"{source} holds {what} twice: {files[key]} and {member}. Remove one.")
    files[key] = member


def check_pairs(images: Mapping[Key, Member], masks: Mapping[Key, Member], source: str) -> None:
    """Checks that each image has its mask and each mask its image.

    Raises:
        DataError: When one is missing, naming the first five files without a counterpart.
    """
    for kind, these, others in (("mask", images, masks), ("image", masks, images)):
        lonely = sorted(these[key].path for key in these.keys() - others.keys())
        if lonely:
            raise DataError(
                f"{source}: {len(lonely)} file{'s have' if len(lonely) > 1 else ' has'} no {kind}: "
                f"{', '.join(lonely[:5])}{', …' if len(lonely) > 5 else ''}. Complete the dataset."
            )


def check_splits(splits: Sequence[str] | None, allowed: Sequence[str] = ("train", "val")) -> None:
    """Checks which parts of a dataset a user wants.

    Raises:
        DataError: When there is no such part, or none is wanted.
    """
    unknown = [split for split in splits or () if split not in allowed]
    if splits is not None and (unknown or not splits):
        got = f"'{unknown[0]}'" if unknown else "none"
        raise DataError(f"splits holds {got}; name one or more of {', '.join(allowed)}, or leave it out for all.")


def check_tiling(tile_size: int, overlap: int, off_palette_fraction: float = 0.0) -> None:
    """Checks what a user may choose.

    Raises:
        DataError: When there are no such tiles, or no such share.
    """
    if tile_size < 1 or not 0 <= overlap < tile_size:
        raise DataError(
            f"Tiles of {tile_size} pixels with an overlap of {overlap} are not possible; the size must be at least 1 "
            "and the overlap from 0 to below the size. 512 and 0 are usual."
        )
    if not 0 <= off_palette_fraction <= 1:
        raise DataError(f"off_palette_fraction is {off_palette_fraction}; it must lie in 0..1. 0 allows none.")
