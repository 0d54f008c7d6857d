"""Writes that are whole or not at all.

A file that is being written has a hidden name, `.STEM.HEX.tmp.SUFFIX`. A kill leaves it behind; whoever holds the
folder's lock next removes it with `remove_leftovers`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["SIDE_SUFFIX", "atomic_path", "remove_file", "remove_leftovers", "replace_file", "short_stem"]

SIDE_SUFFIX = ".aux.xml"
"""What GDAL appends to a raster's name for the file that holds what the raster's own format cannot."""

# Libraries add endings of their own while they write: `.aux.xml`, `-journal`, `.ovr.tmp`.
_LEFTOVER = re.compile(r"^\.(.+)\.[0-9a-f]{12}\.tmp([._-].*)?$", re.DOTALL)
_LONGEST_STEM = 180
# What GDAL and SQLite put beside a file while they write it, and leave there when they are killed.
_BESIDE = (SIDE_SUFFIX, "-journal", "-wal", "-shm")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path` that becomes `path` when the block ends well.

    The temporary name keeps the suffix, so that writers which choose the format by it work. On success the file is
    flushed to the disk and renamed over `path`, with the side file that GDAL may have written; on any error both are
    removed and `path` stays as it was.

    Args:
        path: The file to appear; its folder must exist.

    Yields:
        The path to write to. The block must create that file.

    Raises:
        OSError: When the file cannot be flushed or renamed, or the block did not create it.
    """
    temporary = path.with_name(f".{short_stem(path.stem)}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        yield temporary
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        for suffix in _BESIDE:
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


def short_stem(stem: str) -> str:
    """Returns a stem that hidden names can be made of: a long one is cut and ends with a checksum of all of it.

    File systems take names of 255 bytes, and what is added to a long one must not make it too long.
    """
    data = stem.encode("utf-8", "surrogateescape")
    if len(data) <= _LONGEST_STEM:
        return stem
    return f"{data[:_LONGEST_STEM].decode('utf-8', 'ignore')}~{hashlib.sha256(data).hexdigest()[:8]}"


def replace_file(temporary: Path, path: Path) -> None:
    """Flushes a file to the disk and gives it its name, replacing what has it.

    GDAL keeps what a format cannot hold (a CRS beyond GeoTIFF's keys, category names) in `NAME.aux.xml`. That file
    moves along, before the raster, so that no raster is ever seen without it; one that described the replaced raster
    goes.

    Raises:
        OSError: When a file cannot be flushed or renamed.
    """
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    side = _side(temporary)
    if side.is_file():
        os.replace(side, _side(path))
        os.replace(temporary, path)
    else:
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # such as a name that is too long for one
            _side(path).unlink()


def _side(path: Path) -> Path:
    return path.with_name(path.name + SIDE_SUFFIX)


def remove_file(path: Path) -> None:
    """Removes a file, if it is there, and the side file that GDAL may have given it.

    Raises:
        OSError: When one of them cannot be removed.
    """
    path.unlink(missing_ok=True)
    _side(path).unlink(missing_ok=True)


def remove_leftovers(folder: Path, removable: Callable[[str], bool] = lambda stem: True) -> None:
    """Removes what kills of `atomic_path` have left right in a folder.

    Args:
        folder: The folder.
        removable: Tells by the `short_stem` of the file that was to appear whether what was begun of it may go; nobody
            else may be writing that file. By default all goes, for which the folder's lock must be held.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _LEFTOVER.match(path.name)
            if match is not None and removable(match[1]):
                with contextlib.suppress(OSError):  # a folder, or somebody else's; the next may go all the same
                    path.unlink(missing_ok=True)
