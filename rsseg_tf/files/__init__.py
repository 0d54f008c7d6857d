"""Files and folders, asked with care: writes that are whole or not at all, locks, walks that follow links.

A file that is being written has a hidden name, `.STEM.HEX.tmp.SUFFIX`. A kill leaves it behind; whoever holds the
folder's lock next removes it with `remove_leftovers`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

__all__ = [
    "SIDE_SUFFIX",
    "Held",
    "StrPath",
    "atomic_path",
    "hold",
    "read_json",
    "readable_name",
    "remove_file",
    "remove_leftovers",
    "replace_file",
    "short_stem",
    "walk_files",
]

StrPath = str | os.PathLike[str]
"""What functions of the package take for a file or a folder."""

SIDE_SUFFIX = ".aux.xml"
"""What GDAL appends to a raster's name for the file that holds what the raster's own format cannot."""

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029)}
"""For `str.translate`: characters that break lines or steer terminals, and what stands for them."""

# Libraries add endings of their own while they write: `.aux.xml`, `-journal`, `.ovr.tmp`.
_LEFTOVER = re.compile(r"^\.(.+)\.[0-9a-f]{12}\.tmp([._-].*)?$", re.DOTALL)
_LONGEST_STEM = 180
# What GDAL and SQLite put beside a file while they write it, and leave there when they are killed.
_BESIDE = (SIDE_SUFFIX, "-journal", "-wal", "-shm")
# What a file system without locks answers: flock on some network shares, FUSE and container mounts.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


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


def read_json(path: Path, most_bytes: int = 2**28) -> Any:
    """Reads a JSON file.

    Args:
        path: of the file.
        most_bytes: a larger file is refused before it is read.

    Raises:
        OSError: When it cannot be read.
        ValueError: When it is not JSON, too large, or nested deeper than Python follows.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None


class Held:
    """A lock that this process holds; `release` ends it and removes the lock file."""

    def __init__(self, lock: BaseFileLock) -> None:
        """Takes a lock that was acquired."""
        self._lock = lock

    def release(self) -> None:
        """Gives the lock back; a second call does nothing."""
        if self._lock.is_locked:
            # Before the release: afterwards the name may belong to the next holder.
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock.release()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def hold(path: Path) -> Held | None:
    """Takes a lock without waiting.

    Where the file system has no locks, the lock file's existence is the lock; one that a killed process of this machine
    left behind does not count.

    Args:
        path: The lock file; its folder must exist.

    Returns:
        The lock; None when another process (or another caller in this one) holds it.

    Raises:
        OSError: When the lock file cannot be written.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # filelock tells of its own turn to a soft lock, which is ours too
            lock: BaseFileLock = FileLock(path)
            lock.acquire(timeout=0)
        if not isinstance(lock, SoftFileLock):
            return Held(lock)
        lock.release()
    except Timeout:
        return None
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    path.unlink(missing_ok=True)  # it locks nothing here
    lock = SoftFileLock(path.with_name(path.name + ".soft"))
    try:
        lock.acquire(timeout=0.2)  # time for a second try: the first removes what a dead process left
    except Timeout:
        return None
    return Held(lock)


def readable_name(path: str | Path) -> str:
    r"""Returns a path as text that can be written anywhere, in one line.

    Bytes that are no UTF-8 come as ``\xe9``, control characters as ``\x0a``.
    """
    text = str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return text.translate(_CONTROLS)


def walk_files(
    folder: Path,
    *,
    exclude: Path | None = None,
    refuse: Callable[[Path], str] = lambda folder: "",
    skipped: Callable[[Path, str], object] = lambda path, why: None,
    hidden: Callable[[Path], object] = lambda path: None,
) -> Iterator[Path]:
    """Yields the files under a folder in the order of their names; hidden files and folders are left out.

    Links to folders are followed, but for one that leads back to a folder it lies in.

    Args:
        folder: Where to begin.
        exclude: A folder to leave out.
        refuse: Says of a folder why it is to be left out, or nothing.
        skipped: Called with each folder or link that is left out though it is not hidden (nor `exclude`), and why.
        hidden: Called with each file and folder whose name begins with a dot.
    """
    left_out = None if exclude is None else os.path.realpath(exclude)

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
