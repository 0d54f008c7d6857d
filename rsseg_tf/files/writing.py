"""Writes that are whole or not at all: of files and of folders.

A file that is being written has a hidden name, `.STEM.HEX.tmp.SUFFIX`. A kill leaves it behind; whoever holds the
folder's lock next removes it with `remove_leftovers`.

A folder that is being written is called `.NAME.partial`. Replacing a folder takes two renames; a kill between them
leaves the earlier one whole as `.NAME.retired`, and `recover_folder` gives it its name back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from rsseg_tf.errors import DataError, reason
from rsseg_tf.files.locks import Held, hold
from rsseg_tf.files.paths import StrPath

__all__ = [
    "PARTIAL",
    "RETIRED",
    "SIDE_SUFFIX",
    "atomic_folder",
    "atomic_path",
    "discard_folder",
    "output_file",
    "partial_folder",
    "recover_folder",
    "remove_file",
    "remove_leftovers",
    "replace_file",
    "replace_folder",
    "retired_folder",
    "short_stem",
    "staging_folder",
]

PARTIAL, RETIRED = ".partial", ".retired"
"""Ends of hidden names: of a folder that is being written, and of one that is being replaced."""

SIDE_SUFFIX = ".aux.xml"
"""What GDAL appends to a raster's name for the file that holds what the raster's own format cannot."""

# Libraries append their own suffixes while they write: `.aux.xml`, `-journal`, `.ovr.tmp`.
_LEFTOVER = re.compile(r"^\.(.+)\.[0-9a-f]{12}\.tmp([._-].*)?$", re.DOTALL)
_LONGEST_STEM = 180  # of 255 bytes; what is added before and after it takes the rest
_STAGE = re.compile(r"(\.[0-9a-f]{8}\.partial)(\.lock(\.soft)?)?$")
# GDAL and SQLite put these beside a file while they write it; a kill leaves them there.
_BESIDE = (SIDE_SUFFIX, "-journal", "-wal", "-shm")


@contextlib.contextmanager
def atomic_path(path: StrPath) -> Iterator[Path]:
    """Gives a temporary path beside `path` that becomes `path` when the block ends well.

    The temporary name keeps the suffix, by which some writers choose the format. On success the file is flushed to the
    disk and renamed over `path`, with the side file that GDAL may have written. On any error both are removed, and
    `path` stays as it was.

    Args:
        path: The file to appear; its folder must exist.

    Yields:
        The path to write to. The block must create that file.

    Raises:
        OSError: When the file cannot be flushed or renamed, or the block did not create it.
    """
    path = Path(path)
    temporary = path.with_name(f".{short_stem(path.stem)}.{secrets.token_hex(6)}.tmp{path.suffix}")
    try:
        yield temporary
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        for suffix in _BESIDE:
            temporary.with_name(temporary.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def output_file(path: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """Gives a temporary path as `atomic_path` does, for a file that a user asked for.

    Args:
        path: The file to appear.
        errors: What the writing library raises when it cannot write.

    Raises:
        DataError: When the file cannot be written.
    """
    try:
        with atomic_path(path) as temporary:
            yield temporary
    except errors as error:
        raise DataError(
            f"Cannot write {path}: {reason(error)}. Check the folder and the free space.", code="not-written"
        ) from error


def short_stem(stem: str) -> str:
    """Returns a stem for hidden names: a long stem is cut, and a checksum of the whole stem appended.

    File systems take names of 255 bytes, and hidden names are longer than those of the files.
    """
    data = stem.encode("utf-8", "surrogateescape")
    if len(data) <= _LONGEST_STEM:
        return stem
    return f"{data[:_LONGEST_STEM].decode('utf-8', 'ignore')}~{hashlib.sha256(data).hexdigest()[:8]}"


def replace_file(temporary: StrPath, path: StrPath) -> None:
    """Flushes a file to the disk and gives it its name, replacing what has it.

    GDAL keeps in `NAME.aux.xml` what a format cannot hold, such as a CRS beyond GeoTIFF's keys. That side file is
    renamed before the raster, so that no raster is ever seen without it. The side file of the replaced raster is
    removed.

    Raises:
        OSError: When a file cannot be flushed or renamed.
    """
    temporary = Path(temporary)
    path = Path(path)
    side = _side(temporary)
    has_side = side.is_file()
    for written in (temporary, side) if has_side else (temporary,):
        with written.open("rb") as handle:
            os.fsync(handle.fileno())
    if has_side:
        os.replace(side, _side(path))
    os.replace(temporary, path)
    if not has_side:
        with contextlib.suppress(OSError):  # the name may be too long to have a side file
            _side(path).unlink()


def _side(path: Path) -> Path:
    return path.with_name(path.name + SIDE_SUFFIX)


def remove_file(path: StrPath) -> None:
    """Removes a file, if it is there, and the side file that GDAL may have given it.

    Raises:
        OSError: When one of them cannot be removed.
    """
    path = Path(path)
    path.unlink(missing_ok=True)
    _side(path).unlink(missing_ok=True)


def remove_leftovers(folder: StrPath, removable: Callable[[str], bool] = lambda stem: True) -> None:
    """Removes from a folder what killed processes left of `atomic_path`; subfolders are not searched.

    Args:
        folder: The folder.
        removable: Whether a leftover may go, by the `short_stem` of the file that was to appear; no other process may
            be writing that file. By default all leftovers go, for which the folder's lock must be held.
    """
    folder = Path(folder)
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _LEFTOVER.match(path.name)
            if match is not None and removable(match[1]):
                with contextlib.suppress(OSError):  # a folder, or another user's file; the others are still removed
                    path.unlink(missing_ok=True)


def partial_folder(folder: Path) -> Path:
    """Returns the hidden path at which a folder is written, and to which it moves to be removed."""
    return folder.with_name(f".{folder.name}{PARTIAL}")


def retired_folder(folder: Path) -> Path:
    """Returns the hidden path at which a folder waits while another takes its place."""
    return folder.with_name(f".{folder.name}{RETIRED}")


@contextlib.contextmanager
def atomic_folder(folder: StrPath) -> Iterator[Path]:
    """Gives an empty folder beside `folder` that takes its place when the block ends well.

    On any error it is removed and `folder` stays as it was. Hold a lock: what an earlier process began is removed.

    Args:
        folder: The folder to appear; its parents are made.

    Yields:
        The folder to fill.

    Raises:
        OSError: When it cannot be made or renamed.
    """
    folder = Path(folder)
    partial = partial_folder(folder)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def replace_folder(partial: Path, folder: Path) -> None:
    """Gives a folder its name; a folder that has the name is set aside until that has worked, and then removed.

    Raises:
        OSError: When one of them cannot be renamed; `folder` then stays as it was.
    """
    retired = retired_folder(folder)
    try:
        if folder.exists():
            shutil.rmtree(retired, ignore_errors=True)
            folder.rename(retired)
        partial.rename(folder)
    except BaseException:  # Ctrl-C as well
        recover_folder(folder)
        raise
    _flush_folder(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Gives a folder its name back if a kill has left it set aside; removes one that was already replaced.

    Raises:
        OSError: When it cannot be renamed or removed.
    """
    retired = retired_folder(folder)
    if retired.exists():
        if folder.exists():
            shutil.rmtree(retired)
        else:
            retired.rename(folder)


def discard_folder(folder: Path) -> None:
    """Removes a folder so that no part of it is ever seen under its name; does nothing where there is none.

    Raises:
        OSError: When it cannot be removed.
    """
    partial = partial_folder(folder)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(partial)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(partial)
        shutil.rmtree(partial)


def _flush_folder(folder: Path) -> None:
    """Makes a rename in the folder survive a power cut; a file system that cannot do so for folders is left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Makes a hidden folder that no other process writes to, and removes what is left of it in the end.

    Each folder has a lock of its own, so that several processes may write to one `parent` at once. Folders that killed
    processes have left there are removed first.

    Args:
        parent: Where to make it; made if missing, and removed in the end if nothing came into it.

    Yields:
        The folder, whose content is to be renamed to its place within `parent`; or the whole folder.

    Raises:
        OSError: When it cannot be made.
    """
    created = not parent.exists()
    parent.mkdir(parents=True, exist_ok=True)
    for name in {match[1] for path in parent.iterdir() if (match := _STAGE.match(path.name))}:
        dead = hold(parent / f"{name}.lock")
        if dead is not None:
            shutil.rmtree(parent / name, ignore_errors=True)
            dead.release()
    lock: Held | None = None
    # Another process may hold a fresh lock for a moment, while it looks whether the holder is dead.
    while lock is None:
        stage = parent / f".{secrets.token_hex(4)}{PARTIAL}"
        lock = hold(parent / f"{stage.name}.lock")
    try:
        stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        lock.release()
        if created:
            with contextlib.suppress(OSError):  # something came into it
                parent.rmdir()
