"""What a user can name as one raster: a file, a variable in a file, an address, or the bands of several of these.

A file is a `Path`, as everywhere. The others are small values that can be compared, sent to another process, and
shown in a message.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit

from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath

__all__ = [
    "RESAMPLING",
    "FileVariable",
    "Member",
    "RemoteRaster",
    "Resampling",
    "Source",
    "Stack",
    "absolute",
    "is_remote",
    "local_files",
    "named_source",
    "names_of",
    "stack_of",
]

Resampling = Literal["bilinear", "nearest"]
RESAMPLING: tuple[Resampling, ...] = ("bilinear", "nearest")
"""How bands on another grid are brought to that of a stack."""

_ADDRESS = re.compile(r"(https?|s3)://[^/]", re.IGNORECASE)
_VIRTUAL = re.compile(r"/vsi(curl|s3)/")
# GDAL's own names of a variable, which users copy from gdalinfo: NETCDF:"scene.nc":red.
_SUBDATASET = re.compile(r'(?:NETCDF|HDF5|ZARR):(?:"(?P<quoted>[^"]+)"|(?P<plain>.+?)):/{0,2}(?P<variable>[^:].*)$')


@dataclass(frozen=True)
class RemoteRaster:
    """A raster on a server, of which only the parts that are needed are fetched.

    Attributes:
        url: Its address: `https://`, `http://` or `s3://`.
    """

    url: str

    @property
    def name(self) -> str:
        """The last part of the path, such as `scene.tif`."""
        return PurePosixPath(unquote(urlsplit(self.url).path)).name or urlsplit(self.url).netloc

    @property
    def suffix(self) -> str:
        """The suffix of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def gdal_path(self) -> str:
        """The address as GDAL's virtual file systems take it."""
        scheme, rest = self.url.split("://", 1)
        return f"/vsis3/{rest}" if scheme.lower() == "s3" else f"/vsicurl/{self.url}"

    def __str__(self) -> str:
        """Returns the address without what may be secret: a signature in the query, and a password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


@dataclass(frozen=True)
class FileVariable:
    """A variable of a netCDF, HDF5 or Zarr file that holds several rasters.

    Attributes:
        path: The file.
        variable: Its name, such as `red` or `group/red`.
    """

    path: Path
    variable: str

    @property
    def name(self) -> str:
        """The file's name with the variable's before the suffix."""
        return f"{self.stem}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The file's suffix."""
        return self.path.suffix

    @property
    def stem(self) -> str:
        """The file's stem and the variable's name."""
        return f"{self.path.stem}_{self.variable.replace('/', '_')}"

    def __str__(self) -> str:
        return f"{self.path}:{self.variable}"


Member = Path | RemoteRaster | FileVariable
"""What can be named alone, and stand in a stack."""


@dataclass(frozen=True)
class Stack:
    """The bands of several rasters, in their order, as one image.

    Attributes:
        members: The rasters; each gives all its bands but an alpha band.
        resampling: How those on another grid than the finest are brought to it.

    Raises:
        ConfigError: When there is none.
    """

    members: tuple[Member, ...]
    resampling: Resampling = "bilinear"

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("a stack needs at least one file; got none. Name the files of its bands in order.")
        if self.resampling not in RESAMPLING:
            raise ConfigError(f"the resampling of a stack is one of {', '.join(RESAMPLING)}; got '{self.resampling}'.")

    @property
    def name(self) -> str:
        """The first member's name with `_stack` before the suffix."""
        return f"{self.stem}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The first member's suffix."""
        return self.members[0].suffix

    @property
    def stem(self) -> str:
        """The first member's stem with `_stack` behind it."""
        return f"{self.members[0].stem}_stack"

    def __str__(self) -> str:
        more = len(self.members) - 1
        return f"the stack of {self.members[0]}" + (f" and {more} more" if more else "")


Source = Member | Stack
"""Whatever is read as one image."""


def named_source(text: StrPath) -> Member:
    """Returns what a user means by a text.

    Args:
        text: A path; `FILE:VARIABLE`, or the same as GDAL writes it (`NETCDF:"FILE":VARIABLE`); `https://…`,
            `http://…`, `s3://bucket/key`, or the same as GDAL writes it (`/vsicurl/…`, `/vsis3/…`). A `Path` is a file.

    Returns:
        The source; it need not exist.
    """
    if isinstance(text, Path):
        return text
    text = str(text)
    if _ADDRESS.match(text):
        return RemoteRaster(text)
    if (virtual := _VIRTUAL.match(text)) is not None:
        rest = text[virtual.end() :]
        if virtual[1] == "s3":
            return RemoteRaster(f"s3://{rest}")
        if _ADDRESS.match(rest):
            return RemoteRaster(rest)
    if os.path.exists(text):
        return Path(text)
    if (found := _SUBDATASET.match(text)) is not None:
        return FileVariable(Path(found["quoted"] or found["plain"]), found["variable"].strip("/"))
    file, _, variable = text.rpartition(":")
    while file and not os.path.exists(file) and ":" in file:  # names of variables may have colons too
        file, _, before = file.rpartition(":")
        variable = f"{before}:{variable}"
    if file and variable and os.path.exists(file):
        return FileVariable(Path(file), variable.strip("/"))
    return Path(text)


def stack_of(texts: Sequence[StrPath], resampling: Resampling = "bilinear") -> Stack:
    """Returns the stack of what some texts name, see `named_source`.

    Raises:
        ConfigError: When there is no text.
    """
    return Stack(tuple(named_source(text) for text in texts), resampling)


def absolute(source: Source) -> Source:
    """Returns the same source for a process that runs in another folder."""
    if isinstance(source, Stack):
        members = tuple(_absolute_member(member) for member in source.members)
        return replace(source, members=members)
    return _absolute_member(source)


def _absolute_member(member: Member) -> Member:
    if isinstance(member, RemoteRaster):
        return member
    if isinstance(member, FileVariable):
        return replace(member, path=Path(os.path.abspath(member.path)))
    return Path(os.path.abspath(member))


def local_files(source: Source) -> list[Path]:
    """Returns the files and folders on this machine that a source names itself."""
    members = source.members if isinstance(source, Stack) else (source,)
    local = (member for member in members if not isinstance(member, RemoteRaster))
    return [member.path if isinstance(member, FileVariable) else member for member in local]


def names_of(source: Source) -> str:
    """Returns the name of a source, of a stack those of its members, for what is kept about where results come from."""
    return ", ".join(member.name for member in (source.members if isinstance(source, Stack) else (source,)))


def is_remote(source: Source) -> bool:
    """Tells whether reading a source needs the network."""
    members = source.members if isinstance(source, Stack) else (source,)
    return any(isinstance(member, RemoteRaster) for member in members)
