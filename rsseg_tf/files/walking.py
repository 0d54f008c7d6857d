"""Walks through folders, and the images in them; what is left out is collected for one line to the user."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rsseg_tf.files.paths import StrPath

__all__ = [
    "FOREIGN_SUFFIXES",
    "IMAGE_SUFFIXES",
    "JPEG_SUFFIXES",
    "RASTER_SUFFIXES",
    "SCENE_SUFFIXES",
    "TIFF_SUFFIXES",
    "ZARR_SUFFIX",
    "LeftOut",
    "find_images",
    "is_file",
    "walk_files",
]

JPEG_SUFFIXES = (".jpeg", ".jpg")
TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*JPEG_SUFFIXES, ".png", *TIFF_SUFFIXES)
"""Suffixes of the images that are read."""

ZARR_SUFFIX = ".zarr"
"""Suffix of stores that are folders and are taken for one file."""
FOREIGN_SUFFIXES = (
    *(".jp2", ".j2k", ".j2c", ".jpx", ".nc", ".nc4", ".h5", ".hdf5", ".he5", ZARR_SUFFIX),
    *(".img", ".ntf", ".nitf", ".bil", ".bip", ".bsq"),
)
"""Suffixes of rasters that GDAL alone reads; a file of another suffix is read where it is named itself."""

RASTER_SUFFIXES = (*IMAGE_SUFFIXES, *FOREIGN_SUFFIXES)
"""Suffixes of images of any format."""
SCENE_SUFFIXES = (*IMAGE_SUFFIXES, ".vrt", *FOREIGN_SUFFIXES)
"""Suffixes of what is predicted: images, and mosaics of them."""

OTHER_SUFFIXES = frozenset(
    ".avif .bil .bip .bmp .bsq .dng .ecw .gif .h5 .hdf .hdf4 .hdf5 .he5 .heic .img .j2c .j2k .jfif .jp2 "
    ".jpe .jpf .jpx .jxl .mrsid .nc .nc4 .ntf .nitf .pgm .pnm .ppm .sid .svs .tga .webp".split()
)
"""Suffixes of image files that are not looked for everywhere, but could be converted."""


class LeftOut:
    """Collects what a search leaves out although it may be an image; as text it is one sentence.

    Args:
        suffixes: Suffixes that are searched for, in small letters.
    """

    def __init__(self, suffixes: Sequence[str]) -> None:
        self._suffixes = frozenset(suffixes)
        self._formats = Counter[str]()
        self._links: list[tuple[Path, str]] = []
        self._hidden: list[Path] = []

    def link(self, path: Path, why: str) -> None:
        """Adds a folder or a link, and why it is left out."""
        self._links.append((path, why))

    def hidden(self, path: Path) -> None:
        """Adds something hidden, if it has a suffix that is searched for."""
        if path.suffix.lower() in self._suffixes and not path.name.startswith("._"):  # macOS puts these beside files
            self._hidden.append(path)

    def file(self, path: Path) -> None:
        """Adds a file of another suffix, if it is that of an image."""
        suffix = path.suffix.lower()
        if suffix in OTHER_SUFFIXES and suffix not in self._suffixes:
            self._formats[suffix] += 1

    def __bool__(self) -> bool:
        return bool(self._formats or self._links or self._hidden)

    def __str__(self) -> str:
        """Returns a sentence without a full stop; empty if nothing was left out."""
        parts = []
        if self._formats:
            kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(self._formats.items()))
            parts.append(f"files of other formats ({kinds}; convert them to TIFF or PNG)")
        for why in dict.fromkeys(why for _, why in self._links):
            paths = [path for path, reason in self._links if reason == why]
            parts.append(f"{_some(paths)} ({why})")
        if self._hidden:
            parts.append(f"{_some(self._hidden)} (hidden)")
        return f"left out: {'; '.join(parts)}" if parts else ""


def _some(paths: Sequence[Path]) -> str:
    return str(paths[0]) + (f" and {len(paths) - 1:,} more" if len(paths) > 1 else "")


def is_file(path: str | Path) -> bool:
    """Tells whether there is a file, or the folder of a Zarr store, which counts as one; never raises."""
    return os.path.isfile(path) or (str(path).lower().endswith(ZARR_SUFFIX) and os.path.isdir(path))


def walk_files(
    folder: StrPath,
    *,
    exclude: StrPath | None = None,
    stores: bool = False,
    refuse: Callable[[Path], str] = lambda folder: "",
    skipped: Callable[[Path, str], object] = lambda path, why: None,
    hidden: Callable[[Path], object] = lambda path: None,
) -> Iterator[Path]:
    """Yields the files under a folder in the order of their names; hidden files and folders are left out.

    Links to folders are followed, except a link that leads back to a folder it lies in.

    Args:
        folder: Where to begin.
        exclude: A folder to leave out.
        stores: Yield Zarr stores, which are folders, instead of what is in them.
        refuse: Returns why a folder is to be left out; empty for one to walk through.
        skipped: Called with each other folder or link that is left out, and why.
        hidden: Called with each file and folder whose name begins with a dot.
    """
    folder = Path(folder)
    exclude = None if exclude is None else Path(exclude)
    left_out = None if exclude is None else os.path.realpath(exclude)

    # Only the folders above are compared: one folder under two links is walked through twice, which is no loop.
    def walk(directory: Path, above: frozenset[str]) -> Iterator[Path]:
        real = os.path.realpath(directory)
        if real == left_out:
            return
        if real in above:
            skipped(directory, "the link leads back to a folder that it lies in")
            return
        try:
            with os.scandir(directory) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            skipped(directory, error.strerror or str(error))
            return
        for entry in entries:
            path = directory / entry.name
            if entry.name.startswith("."):
                hidden(path)
            elif stores and entry.is_dir() and path.suffix.lower() == ZARR_SUFFIX:
                yield path
            elif entry.is_dir():
                if why := refuse(path):
                    skipped(path, why)
                else:
                    yield from walk(path, above | {real})
            elif entry.is_file():
                yield path
            elif entry.is_symlink():
                skipped(path, "the link leads nowhere")

    yield from walk(folder, frozenset())


def find_images(
    folder: Path,
    suffixes: Sequence[str],
    left_out: LeftOut | None = None,
    *,
    exclude: Path | None = None,
    refuse: Callable[[Path], str] = lambda folder: "",
) -> Iterator[Path]:
    """Yields the images under a folder, those of a folder in the order of their names.

    Args:
        folder: Where to look; links are followed.
        suffixes: Their suffixes, in small letters.
        left_out: Collects what is left out.
        exclude: A folder to leave out.
        refuse: Returns why a folder is to be left out; empty for one to walk through.
    """
    noted = LeftOut(suffixes) if left_out is None else left_out
    stores = ZARR_SUFFIX in suffixes
    for path in walk_files(
        folder, exclude=exclude, stores=stores, refuse=refuse, skipped=noted.link, hidden=noted.hidden
    ):
        if path.suffix.lower() in suffixes:
            yield path
        else:
            noted.file(path)
