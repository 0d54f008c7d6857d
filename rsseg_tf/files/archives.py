"""Downloads as their owners publish them: folders, zip files, and zip files within these, read member by member.

`list_members` lists every file of a download without reading any; `local_copy` fetches one. A member
is a plain value that can be sent to another process. Nothing is unpacked as a whole: a zip file that is stored in
another one is read in place. Only one that is compressed once more is copied, to a scratch folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import secrets
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rsseg_tf.errors import DataError, address_hint, reason
from rsseg_tf.files.paths import readable_name
from rsseg_tf.files.walking import IMAGE_SUFFIXES, LeftOut, walk_files

__all__ = ["MAX_MEMBER_BYTES", "Member", "close_archives", "list_members", "local_copy"]

MAX_MEMBER_BYTES = 16 << 30
"""A member that claims to be larger than this is refused: the largest known scene takes 2.4 GB unpacked."""

_CHUNK_BYTES = 1 << 20
_LOCAL_HEADER_BYTES = 30  # at least, before the bytes of each member
_MOST_OPEN = 32  # systems allow a process a few hundred open files
_OTHER_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_DEEPEST = 4  # zip files within each other; an archive can hold itself, without end
# Compressing a zip file once more saves little. An inner one that shrinks more than this is built to fill the disk.
_MOST_TIMES = 100
_ANY_INNER_BYTES = 1 << 16


@dataclass(frozen=True, order=True)
class Member:
    """One file of a download.

    Attributes:
        path: Its `/`-separated name, from the name of the source (the folder or zip file that the user gave) down;
            the names of zip files on the way are part of it, without `.zip`.
        file: The file on the disk that holds it: itself, or the outermost zip file.
        chain: Names within zip files, from the outermost to the innermost; empty for a file outside of any.
        size: Bytes, unpacked.
        stamp: Changes with the content: the checksum in a zip file, else the time of the last change.
    """

    path: str
    file: Path
    chain: tuple[str, ...]
    size: int
    stamp: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return _display_name(self.file, self.chain)


def list_members(
    sources: Sequence[Path], scratch: Path | None = None, left_out: LeftOut | None = None
) -> tuple[Member, ...]:
    """Lists every file of a download.

    Hidden files and `__MACOSX` are left out. A file that also lies unpacked beside its zip file, where unpacking
    puts it and with the same size, is listed once.

    Args:
        sources: Folders and zip files.
        scratch: Folder for copies of zip files that lie compressed in another one; without it they are refused.
        left_out: Collects what is left out of folders although it may be an image.

    Returns:
        The members, sorted by path.

    Raises:
        DataError: When a source does not exist or is neither a folder nor a whole zip file, or a zip file on the way is
            damaged, encrypted, or holds names that lead outside it.
    """
    members: list[Member] = []
    noted = LeftOut(IMAGE_SUFFIXES) if left_out is None else left_out
    for source in sources:
        source = Path(os.path.abspath(source))
        if source.is_dir():
            members.extend(_folder_members(source, scratch, noted))
        elif source.exists():
            members.extend(_zip_members(source, (), _without_zip(source.name), scratch))
        else:
            raise DataError(
                f"{source} does not exist; the folder or zip file of the dataset is expected. Check the path."
                f"{address_hint(source)}",
                code="not-found",
            )
    return tuple(sorted(members))


@contextlib.contextmanager
def local_copy(member: Member, scratch: Path | None = None) -> Iterator[Path]:
    """Gives a file on the disk with the content of a member.

    A file outside of zip files is given itself. A member of one is copied and checked by its checksum; the copy is
    removed when the block ends.

    Args:
        member: From `list_members`.
        scratch: An existing folder for the copy; the system's temporary folder when left out.

    Yields:
        The path of the file.

    Raises:
        DataError: When the member cannot be read or is damaged.
        OSError: When the copy cannot be written.
    """
    if not member.chain:
        if not member.file.is_file():
            raise DataError(f"{member} cannot be read: it is not there any more.")
        yield member.file
        return
    folder = scratch or Path(os.environ.get("TMPDIR", "/tmp"))
    copy = folder / f"{secrets.token_hex(8)}{PurePosixPath(member.name).suffix}"
    try:
        _extract(member.file, member.chain, copy, scratch)
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _display_name(file: Path, chain: Sequence[str]) -> str:
    """Returns the name of a member for messages."""
    return ":".join(readable_name(str(name)) for name in (file, *chain))


def _without_zip(name: str) -> str:
    return name[:-4] if name.lower().endswith(".zip") else name


def _is_content(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return "__MACOSX" not in parts and not any(part.startswith(".") for part in parts)


def _folder_members(root: Path, scratch: Path | None, left_out: LeftOut) -> Iterator[Member]:
    """Lists a folder; a file that lies unpacked hides its copy in a zip file beside it."""
    unpacked: list[Member] = []
    zips: list[tuple[Path, str]] = []
    for path in walk_files(root, skipped=left_out.link, hidden=left_out.hidden):
        relative = path.relative_to(root).as_posix()
        if not _is_content(relative):
            continue
        left_out.file(path)
        if path.suffix.lower() == ".zip":
            zips.append((path, _without_zip(f"{root.name}/{relative}")))
        else:
            status = path.stat()
            unpacked.append(Member(f"{root.name}/{relative}", path, (), status.st_size, status.st_mtime_ns))
    sizes = {member.path: member.size for member in unpacked}
    yield from unpacked
    for path, prefix in zips:
        beside = prefix.rpartition("/")[0]
        for member in _zip_members(path, (), prefix, scratch):  # unpacked into a folder of its name, or right here
            places = (member.path, beside + member.path.removeprefix(prefix))
            if not any(sizes.get(place) == member.size for place in places):
                yield member


def _zip_members(file: Path, chain: tuple[str, ...], prefix: str, scratch: Path | None) -> Iterator[Member]:
    """Lists a zip file, and the zip files in it."""
    archive = _open_zip(file, chain, scratch)
    where = _display_name(file, chain)
    _check_overlaps(archive, where)
    for info in archive.infolist():
        name = info.filename
        shown = readable_name(name)
        if name.startswith(("/", "\\")) or ":" in name.split("/")[0] or ".." in name.replace("\\", "/").split("/"):
            raise DataError(f"{where} holds the name {name!r}, which leads outside the archive. Do not use this file.")
        if info.flag_bits & 1:
            raise DataError(f"{where} is encrypted ({shown}); unpack it and give the folder.")
        if info.file_size > MAX_MEMBER_BYTES:
            raise DataError(
                f"{where}: {shown} would take {info.file_size} bytes; at most {MAX_MEMBER_BYTES} are allowed."
            )
        if "\x00" in name:
            raise DataError(f"{where} holds the name {name!r:.100}, which no file can have. Do not use this file.")
        path = name.replace("\\", "/")  # some programs on Windows write names their own way
        if path.endswith("/") or not _is_content(path):
            continue
        if path.lower().endswith(".zip"):
            if len(chain) + 1 >= _DEEPEST:
                raise DataError(
                    f"{where}: {shown} is a zip file {_DEEPEST} levels down; datasets have two. Do not use this file."
                )
            if info.file_size > _MOST_TIMES * info.compress_size + _ANY_INNER_BYTES:
                raise DataError(
                    f"{where}: {shown} is a zip file of {info.file_size} bytes packed into {info.compress_size}; real "
                    "ones do not shrink so much. Do not use this file."
                )
            yield from _zip_members(file, (*chain, name), f"{prefix}/{_without_zip(path)}", scratch)
        else:
            yield Member(f"{prefix}/{path}", file, (*chain, name), info.file_size, info.CRC)


def _check_overlaps(archive: zipfile.ZipFile, where: str) -> None:
    """Refuses members that share bytes, by which a small zip file could hold any number of large members."""
    members = sorted(archive.infolist(), key=lambda info: info.header_offset)
    for one, following in pairwise(members):
        if one.header_offset + _LOCAL_HEADER_BYTES + one.compress_size > following.header_offset:
            names = f"{readable_name(one.filename)} and {readable_name(following.filename)}"
            raise DataError(
                f"{where}: {names} overlap in the file; it is damaged, or built to fill the disk. Do not use this file."
            )


_OPEN: OrderedDict[tuple[Path, tuple[str, ...], int], tuple[zipfile.ZipFile, BinaryIO]] = OrderedDict()


def close_archives() -> None:
    """Closes the zip files that were read; they are kept open in between, as reading their tables takes time."""
    while _OPEN:
        _close_oldest()


def _close_oldest() -> None:
    """Closes the zip file that was used least recently; a folder may hold more than a process may open."""
    _, (archive, handle) = _OPEN.popitem(last=False)
    archive.close()
    handle.close()


def _open_zip(file: Path, chain: tuple[str, ...], scratch: Path | None) -> zipfile.ZipFile:
    """Opens a zip file, or the one at the end of a chain."""
    where = _display_name(file, chain)
    try:
        key = (file, chain, file.stat().st_mtime_ns)  # a file that was replaced is opened anew
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}.") from error
    if key not in _OPEN:
        try:
            handle = _inner_zip(file, chain, scratch) if chain else file.open("rb")
        except OSError as error:
            raise DataError(f"{where} cannot be read: {reason(error)}.") from error
        try:
            opened = zipfile.ZipFile(handle), handle
        except Exception as error:  # names, flags and sizes of a damaged table have a type of error each
            handle.close()
            is_other = not chain and file.suffix.lower() in _OTHER_ARCHIVES
            remedy = "Unpack it, and name the folder." if is_other else "Download it again."
            raise DataError(f"{where} is neither a folder nor a whole zip file ({reason(error)}). {remedy}") from error
        while len(_OPEN) >= _MOST_OPEN:
            _close_oldest()
        _OPEN[key] = opened
    _OPEN.move_to_end(key)
    return _OPEN[key][0]


def _inner_zip(file: Path, chain: tuple[str, ...], scratch: Path | None) -> BinaryIO:
    """Opens a zip file within another one: in place when it is stored, else from a copy."""
    outer = _open_zip(file, chain[:-1], scratch)
    info = outer.getinfo(chain[-1])
    if info.compress_type == zipfile.ZIP_STORED and len(chain) == 1:
        # The local header repeats name and extra field, with other lengths than in the table of the archive.
        with file.open("rb") as handle:
            handle.seek(info.header_offset + 26)
            lengths = handle.read(4)
        skip = 30 + int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        part: Any = _Part(file, info.header_offset + skip, info.file_size)
        return io.BufferedReader(part)
    where = _display_name(file, chain)
    if scratch is None:
        raise DataError(f"{where} is a zip file compressed within another one; unpack {file} and give the folder.")
    copy = scratch / f"{hashlib.sha256(where.encode()).hexdigest()[:16]}-{info.CRC:08x}.zip"
    if not copy.exists():  # another process may make the same copy; the last whole one stays
        partial = copy.with_suffix(f".{secrets.token_hex(4)}")
        _extract(file, chain, partial, scratch)
        partial.replace(copy)
    return copy.open("rb")


def _extract(file: Path, chain: tuple[str, ...], target: Path, scratch: Path | None) -> None:
    """Copies a member; zipfile compares its checksum at the end."""
    archive = _open_zip(file, chain[:-1], scratch)
    where = _display_name(file, chain)
    with target.open("wb") as output:
        try:
            with archive.open(chain[-1]) as member:
                while chunk := member.read(_CHUNK_BYTES):
                    written = output.write(chunk)
                    if written != len(chunk):
                        raise OSError(f"{target} took {written} of {len(chunk)} bytes")
        except KeyError as error:
            raise DataError(f"{where} is not there any more.") from error
        except Exception as error:  # each way to compress has a type of error for damage
            # A full disk (or quota) is no damage of the archive.
            if isinstance(error, OSError) and (
                error.errno in (errno.ENOSPC, errno.EDQUOT) or shutil.disk_usage(target.parent).free < _CHUNK_BYTES
            ):
                raise
            raise DataError(f"{where} is damaged: {reason(error)}. Download the archive again.") from error


class _Part(io.RawIOBase):
    """A stretch of a file as a file of its own, with a handle that no other reader moves."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file = path.open("rb")
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
