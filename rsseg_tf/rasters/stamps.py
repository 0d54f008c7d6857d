"""By what a change of a file, or of any other source of an image, is seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsseg_tf.errors import DataError
from rsseg_tf.files.walking import walk_files
from rsseg_tf.rasters.remote import fingerprint
from rsseg_tf.rasters.sources import FileVariable, RemoteRaster, Source, Stack

__all__ = ["source_stamp", "stamp"]


def stamp(path: Path) -> list[int]:
    """Returns size and time of a file, by which a change is seen; an empty list for a missing file."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def source_stamp(source: Source) -> list[Any]:
    """Returns what changes with the content of an image, as JSON can hold it; an empty list if it cannot be reached.

    Of a file its size and time; of a Zarr store the size of all its files, and the time of the newest; of an address
    what its header tells.
    """
    if isinstance(source, Stack):
        return [source.resampling, *([str(member), *source_stamp(member)] for member in source.members)]
    if isinstance(source, RemoteRaster):
        try:
            return [fingerprint(source)]
        except DataError:
            return []
    path, more = (source.path, [source.variable]) if isinstance(source, FileVariable) else (source, [])
    if path.is_dir():
        stamps = [found for found in map(stamp, walk_files(path)) if found]
        return [sum(size for size, _ in stamps), max((time for _, time in stamps), default=0), *more]
    return [*stamp(path), *more]
