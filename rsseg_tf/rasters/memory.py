"""Facts about files, kept between runs, and used only while the files are the same.

A file counts as the same while its size, its times of change and of status change, and its inode are. Facts about a
file that changed less than `UNSETTLED_NS` before it was read are not kept: a second change might have the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.files import SIDE_SUFFIX, atomic_path, remove_leftovers
from rsseg_tf.files.npz import read_npz
from rsseg_tf.files.walking import FOREIGN_SUFFIXES, TIFF_SUFFIXES, ZARR_SUFFIX

__all__ = ["Memory", "Stamps", "stamp_pairs"]

_FORMAT = 1
_MOST_FILES = 64  # each takes 44 bytes a sample
UNSETTLED_NS = 2_000_000_000
"""The coarsest clock of a file system in use: FAT and some shares count seconds in twos."""
_WITH_OTHERS = (*TIFF_SUFFIXES, ".vrt", *FOREIGN_SUFFIXES)
_BESIDE = (SIDE_SUFFIX, ".msk")
_MASK = (1 << 64) - 1  # `hash` is signed, the arrays are not
_MEANINGLESS = np.uint64(0)
"""Stamp of files that must not be remembered."""


class Stamps(NamedTuple):
    """Numbers that identify pairs of files, `(N,)` uint64 each.

    Attributes:
        pairs: By their paths.
        stamps: By size, times and inode; 0 where these do not identify the content.
        images: The images alone, by device and number, whatever path leads there.
        missing: Paths of files that do not exist, with the position of their pair.
    """

    pairs: NDArray[np.uint64]
    stamps: NDArray[np.uint64]
    images: NDArray[np.uint64]
    missing: list[tuple[int, str]]


def stamp_pairs(pairs: Sequence[tuple[str, str | None]], now_ns: int) -> Stamps:
    """Reads the status of images and labels; that takes two or three microseconds a file.

    Args:
        pairs: The paths.
        now_ns: The time.
    """
    names: list[int] = []
    stamps: list[int] = []
    images: list[int] = []
    missing: list[tuple[int, str]] = []
    settled = now_ns - UNSETTLED_NS
    here = os.getcwd() + os.sep
    for place, (image, label) in enumerate(pairs):
        name = "\0".join(path if os.path.isabs(path) else here + path for path in (image, label) if path is not None)
        digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
        names.append(int.from_bytes(digest, "little"))
        facts: list[int] = []
        newest = 0
        for path in (image, label):
            if path is None:
                continue
            try:
                status = os.stat(path)
                is_file = stat.S_ISREG(status.st_mode) or path.lower().endswith(ZARR_SUFFIX)
            except (OSError, ValueError):
                is_file = False
            if not is_file:  # its place stands for the device below, so that missing images differ from each other
                missing.append((place, path))
                facts += [0, 0, 0, 0, place]
                continue
            # The time of the status too: a copy over the file can keep size and time of change.
            facts += [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
            if path.lower().endswith(_WITH_OTHERS):
                newest = max(newest, _stamp_others(path, facts, settled))
        # The hash of numbers is the same in each run, unlike that of text, and takes less time than a digest.
        stamps.append(hash(tuple(facts)) & _MASK if newest < settled else 0)
        # The image's inode and device: a link to a file is the file.
        images.append(hash((facts[3], facts[4])) & _MASK)
    return Stamps(np.array(names, np.uint64), np.array(stamps, np.uint64), np.array(images, np.uint64), missing)


def _stamp_others(path: str, facts: list[int], never: int) -> int:
    """Adds size, times and inode of the files beside a raster that GDAL reads with it; returns their latest time.

    The pixels of a VRT and of a Zarr store are in other files, whose status is not read here; so these are never
    remembered.
    """
    if path.lower().endswith((".vrt", ZARR_SUFFIX)):
        return never
    newest = 0
    for suffix in _BESIDE:
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(path + suffix)
            facts += [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
            newest = max(newest, status.st_mtime_ns, status.st_ctime_ns)
    return newest


@dataclass(frozen=True)
class Memory:
    """Facts about pairs of files, each a row of numbers.

    Attributes:
        pairs: `(N,)` uint64, sorted.
        stamps: `(N,)` uint64.
        rows: `(N, M)` float32; the first column is a place in `words`.
        words: Texts that many pairs have in common.
    """

    pairs: NDArray[np.uint64]
    stamps: NDArray[np.uint64]
    rows: NDArray[np.float32]
    words: tuple[str, ...]

    def find(self, pairs: NDArray[np.uint64], stamps: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Returns the row of each pair that is the same as when it was looked at, -1 for others."""
        if not len(self.pairs):
            return np.full(len(pairs), -1, np.int64)
        places = np.minimum(np.searchsorted(self.pairs, pairs), len(self.pairs) - 1)
        same = (self.pairs[places] == pairs) & (self.stamps[places] == stamps) & (stamps != _MEANINGLESS)
        return np.where(same, places, -1)

    @staticmethod
    def empty(width: int) -> Memory:
        """Returns a memory without facts."""
        none = np.zeros(0, np.uint64)
        return Memory(none, none, np.zeros((0, width), np.float32), ())

    @staticmethod
    def recalled(file: Path, width: int) -> Memory:
        """Reads a memory; a file that is missing, damaged or of another form gives an empty one."""
        try:
            stored = read_npz(file)
            header = json.loads(stored["words"].tobytes())
            memory = Memory(stored["pairs"], stored["stamps"], stored["rows"], tuple(header["words"]))
            # A damaged file must cost an inspection, never a run.
            sound = header["format"] == _FORMAT and memory._is_sound(width)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, MemoryError, RecursionError):
            return Memory.empty(width)
        return memory if sound else Memory.empty(width)

    def _is_sound(self, width: int) -> bool:
        count = len(self.pairs)
        return (
            self.pairs.dtype == self.stamps.dtype == np.uint64
            and self.rows.dtype == np.float32
            and self.pairs.shape == self.stamps.shape == (count,)
            and self.rows.shape == (count, width)
            and bool((self.pairs[1:] > self.pairs[:-1]).all())
            and all(isinstance(word, str) for word in self.words)
            and (not count or bool((self.rows[:, 0] >= 0).all() and (self.rows[:, 0] < len(self.words)).all()))
        )

    def keep(self, file: Path) -> None:
        """Writes the memory; if that fails, the next run reads the files again."""
        header = json.dumps({"format": _FORMAT, "words": self.words}).encode()
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(file) as partial, partial.open("wb") as handle:
                np.savez(
                    handle,
                    pairs=self.pairs,
                    stamps=self.stamps,
                    rows=self.rows,
                    words=np.frombuffer(header, np.uint8),
                )
            remove_leftovers(file.parent)
            # Each list, config and version has a file of its own, so that old ones would pile up.
            oldest_first = sorted(file.parent.glob("*.npz"), key=lambda path: path.stat().st_mtime)
            for path in oldest_first[:-_MOST_FILES]:
                path.unlink(missing_ok=True)
