"""Reads `.npz` files whose headers may lie: nothing is allocated that the file does not bring."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

__all__ = ["read_npz"]

# A file of zeros shrinks a thousandfold; what shrinks more, or is large and shrinks so much, is built to fill memory.
_MOST_TIMES = 1100
_LIMIT = 64 * 2**30
_KINDS = "biufc?SU"


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Returns all arrays of a file by name.

    Args:
        path: Written by `np.savez` or `np.savez_compressed`. Objects are refused, as they are programs.

    Raises:
        OSError: When the file cannot be opened or read.
        ValueError: When it is damaged in any way, or claims more than it brings.
        MemoryError: When its arrays do not fit into memory.
    """
    with path.open("rb") as file:
        try:
            return _read(file)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # zip, deflate, LZMA, tokenizer and decoder have a type of error each
            raise ValueError(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) from error


def _read(file: IO[bytes]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        # Both sums are from the table at the end, before any member is unpacked.
        packed = sum(info.compress_size for info in archive.infolist())
        claimed = sum(info.file_size for info in archive.infolist())
        if claimed > min(_LIMIT, _MOST_TIMES * packed + 2**20):
            raise ValueError(f"it has {packed} bytes and claims to unpack to {claimed}")
        for info in archive.infolist():
            with archive.open(info) as member:
                arrays[info.filename.removesuffix(".npy")] = _array(member, info.file_size)
    return arrays


def _array(member: Any, size: int) -> np.ndarray:
    version = npy.read_magic(member)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an array is written in version {version} of the format; 1.0 and 2.0 are read")
    shape, is_fortran, dtype = readers[version](member)
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise ValueError(f"an array has the type {str(dtype)[:100]}; only numbers and text are read")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or len(shape) > 32 or count * dtype.itemsize > size:
        raise ValueError(f"an array claims the shape {str(shape)[:100]} of {dtype} and has {size} bytes")
    array = np.empty(count, dtype)
    # Filled in place: `np.frombuffer` of the read bytes would have to be copied to become writable.
    left = array.view(np.uint8).data if count else memoryview(b"")
    while len(left) and (got := member.readinto(left)):
        left = left[got:]
    if len(left) or member.read(1):
        raise ValueError("an array has another number of bytes than its shape")
    return array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
