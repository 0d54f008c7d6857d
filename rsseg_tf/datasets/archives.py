"""Downloaded datasets as folders or zip files, read member by member without unpacking them."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from rsseg_tf.errors import DataError

__all__ = ["Archive", "open_archive"]

MAX_MEMBER_BYTES = 1 << 30
"""A member that claims to be larger than this is refused: no scene of the known datasets comes near it."""


class Archive(Protocol):
    """Files of a download, by their ``/``-separated names relative to its root."""

    names: tuple[str, ...]

    def read(self, name: str) -> bytes:
        """Returns the content of one file; raises DataError when it cannot be read."""

    def describe(self, name: str) -> str:
        """Returns how to name the file in errors."""


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Opens a folder or a zip file.

    ``__MACOSX`` and hidden files are left out.

    Args:
        path: A folder or a zip file.

    Yields:
        The archive, with its names sorted.

    Raises:
        DataError: When there is nothing at `path`, it is neither a folder nor a zip file, or the zip file is damaged,
            encrypted, or holds names that lead outside it.
    """
    if path.is_dir():
        yield _Folder(path)
        return
    if not path.exists():
        raise DataError(f"{path} does not exist; the folder or zip file of the dataset is expected. Check the path.")
    try:
        file = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path} is neither a folder nor a whole zip file ({error}). Download it again.") from error
    with file:
        yield _Zip(path, file)


def _is_content(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" not in parts and not any(part.startswith(".") for part in parts)


class _Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        files = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
        self.names = tuple(sorted(name for name in files if _is_content(name)))

    def read(self, name: str) -> bytes:
        try:
            return (self.root / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.describe(name)} cannot be read: {error.strerror or error}.") from error

    def describe(self, name: str) -> str:
        return str(self.root / name)


class _Zip:
    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self.file = file
        for member in file.infolist():
            name = member.filename
            if name.startswith(("/", "\\")) or ":" in name.split("/")[0] or ".." in name.replace("\\", "/").split("/"):
                raise DataError(
                    f"{path} holds the name {name!r}, which leads outside the archive. Do not use this file."
                )
            if member.flag_bits & 1:
                raise DataError(f"{path} is encrypted ({name}); unpack it and give the folder.")
            if member.file_size > MAX_MEMBER_BYTES:
                raise DataError(
                    f"{path}: {name} would take {member.file_size} bytes; at most {MAX_MEMBER_BYTES} are allowed."
                )
        files = (member.filename for member in file.infolist() if not member.is_dir())
        self.names = tuple(sorted(name for name in files if _is_content(name)))

    def read(self, name: str) -> bytes:
        try:
            return self.file.read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError) as error:
            raise DataError(f"{self.describe(name)} is damaged: {error}. Download the archive again.") from error

    def describe(self, name: str) -> str:
        return f"{self.path}:{name}"
