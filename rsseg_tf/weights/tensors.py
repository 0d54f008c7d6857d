"""Reads files of weights as they are released: `.pdparams`, torch's `.pth`, `.safetensors`, and archives of one."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors

from rsseg_tf.errors import WeightsError, reason
from rsseg_tf.files import StrPath
from rsseg_tf.weights.labels import Labels, find_labels, find_training_config
from rsseg_tf.weights.unpickle import StoredTensor, unpickle

__all__ = ["TensorFile", "read_tensors"]

_LIMIT = 8 * 2**30  # bytes of a file, packed or not; ResNets and HRNets have less than 1 GiB
# Weights hardly compress: a file that unpacks to many times its size is built to fill the memory.
_MOST_TIMES = 20
_ANY_FILE = 256 * 2**20  # bytes that may be unpacked from any file, however small
_PIECE = 1 << 20
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
# Where files keep their weights among epochs, optimizers and the like; DINO's teacher is what it is judged by.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "network", "teacher")
_WEIGHT_SUFFIXES = (".pdparams", ".pth", ".pt", ".pth.tar", ".safetensors")
# Safetensors' names of types -> NumPy's; bfloat16, which NumPy lacks, becomes float32.
_SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "uint16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class _Found(NamedTuple):
    """What was read, see `TensorFile`."""

    kind: str
    tensors: dict[str, np.ndarray]
    labels: Labels | None = None
    training_config: str | None = None


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a file.

    Attributes:
        source: The file or URL.
        format: What it turned out to be, e.g. "paddle" or "torch in zip".
        sha256: Of the whole file.
        tensors: Arrays by their names in the file, convolutions (out, in, height, width).
        by_path: Whether names are paths of our variables, in the layout of Keras: those of a checkpoint or a preset.
        labels: The classes that the file names; None where it names none.
        training_config: Text of the other project's config that is in the file; None where there is none.
    """

    source: str
    format: str
    sha256: str
    tensors: dict[str, np.ndarray] = field(repr=False)
    by_path: bool = False
    labels: Labels | None = None
    training_config: str | None = field(default=None, repr=False)


def read_tensors(path: StrPath, source: str | None = None) -> TensorFile:
    """Reads a file of weights. Nothing in it is executed.

    Args:
        path: A `.pdparams`, torch or `.safetensors` file, or a zip or tar.gz archive with one of them in it; the suffix
            is not looked at.
        source: How messages call it; by default the path.

    Raises:
        WeightsError: When it cannot be read, is damaged, is something else, or names functions to call.
    """
    path = Path(path)
    name = source or str(path)
    try:
        with path.open("rb") as file:
            content = file.read() if os.fstat(file.fileno()).st_size <= _LIMIT else None
    except OSError as error:
        raise WeightsError(f"The weights {name} cannot be read: {error.strerror}.") from error
    if content is None:
        raise WeightsError(f"The file {name} is larger than {_LIMIT >> 30} GiB, more than any file of weights.")
    try:
        found = _read(content, _Room(len(content)))
    except WeightsError as error:
        raise WeightsError(f"The file {name} {error}. Download it again, from a source that you trust.") from error
    except MemoryError as error:
        raise WeightsError(f"The file {name} unpacks to more than there is memory for.") from error
    except Exception as error:  # readers of zip, tar and deflate have many types for damaged files
        raise WeightsError(f"The file {name} is damaged: {reason(error)}. Download it again.") from error
    digest = hashlib.sha256(content).hexdigest()
    return TensorFile(name, found.kind, digest, found.tensors, False, found.labels, found.training_config)


class _Room:
    """How many bytes may still be unpacked from a file.

    Args:
        size: Of the file.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._most = self._left = min(max(_ANY_FILE, _MOST_TIMES * size), _LIMIT)

    def take(self, count: int) -> None:
        """Counts bytes.

        Raises:
            WeightsError: When they are too many.
        """
        self._left -= count
        if self._left < 0:
            raise WeightsError(
                f"has {self._size} bytes and unpacks to more than {self._most}, which weights do not. If you trust it, "
                "unpack it and name the file inside"
            )

    def read(self, file: Any, claimed: int) -> bytes:
        """Returns what is left of a file, whose size its archive claims to be `claimed`."""
        self.take(claimed)
        content = bytearray()
        while piece := file.read(_PIECE):
            content += piece
            if len(content) > claimed:
                raise WeightsError("has a member that is larger than its archive states")
        return bytes(content)


class _Counted(io.RawIOBase):
    """A stream whose bytes count as unpacked, also those that are skipped."""

    def __init__(self, file: Any, room: _Room) -> None:
        self._file, self._room = file, room

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._file.read(size)
        self._room.take(len(content))
        return content


def _read(content: bytes, room: _Room, depth: int = 0) -> _Found:
    if not content:
        raise WeightsError("is empty")
    if content.startswith(b"PK"):
        return _read_zip(content, room, depth)
    if content.startswith(b"\x1f\x8b"):
        return _read_tar(content, room, depth)
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") <= len(content) - 8:
        return _Found("safetensors", _read_safetensors(content))
    if content[0] not in b"\x80(}cC":
        raise WeightsError(
            f"is neither .pdparams nor torch nor .safetensors nor an archive (it begins with {content[:8]!r})"
        )
    file = io.BytesIO(content)
    first = unpickle(file)
    if first == _TORCH_MAGIC:
        return _found("torch (before 1.6)", _read_legacy_torch(file))
    return _found("paddle", _join_slices(first) if isinstance(first, dict) else first)


def _found(kind: str, value: Any) -> _Found:
    return _Found(kind, _arrays(value), find_labels(value), find_training_config(value))


# === Archives ===


def _read_zip(content: bytes, room: _Room, depth: int) -> _Found:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        programs = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if programs:
            return _found("torch", _read_torch(archive, programs[0], room))
        member = _only_weights(names, depth)
        found = _read(_member(archive, member, room), room, depth + 1)
    return found._replace(kind=f"{found.kind} in zip")


def _read_tar(content: bytes, room: _Room, depth: int) -> _Found:
    stream = _Room(len(content))  # for all that is unpacked, what is skipped included
    with gzip.open(io.BytesIO(content)) as unzipped:
        with tarfile.open(fileobj=_Counted(unzipped, stream), mode="r|") as archive:
            members: dict[str, bytes] = {}
            for member in archive:  # in the order of the file, so that it is unpacked once
                if member.size < 0:
                    raise WeightsError("has a member of a negative size")
                if member.isfile() and member.name.endswith(_WEIGHT_SUFFIXES):
                    file = archive.extractfile(member)
                    members[member.name] = room.read(file, member.size) if file is not None else b""
    found = _read(members[_only_weights(list(members), depth)], room, depth + 1)
    return found._replace(kind=f"{found.kind} in tar.gz")


def _only_weights(names: list[str], depth: int) -> str:
    weights = [name for name in names if name.endswith(_WEIGHT_SUFFIXES) and "__MACOSX" not in name]
    if depth or len(weights) != 1:
        raise WeightsError(
            f"is an archive with {len(weights)} files of weights ({', '.join(weights[:4]) or 'none'}); one is needed"
        )
    return weights[0]


def _member(archive: zipfile.ZipFile, name: str, room: _Room) -> bytes:
    with archive.open(name) as file:
        return room.read(file, archive.getinfo(name).file_size)


# === Safetensors ===


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    for name, tensor in safetensors.deserialize(content):
        kind = str(tensor["dtype"])
        if kind not in _SAFETENSORS_TYPES:
            raise WeightsError(
                f"holds '{name}' as {kind}; readable are {', '.join(_SAFETENSORS_TYPES)}. Save it as F32 or F16"
            )
        array = np.frombuffer(tensor["data"], np.dtype(_SAFETENSORS_TYPES[kind]).newbyteorder("<"))
        if kind == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False).reshape(tensor["shape"])
    if not arrays:
        raise WeightsError("holds no weights")
    return arrays


# === torch ===


def _read_torch(archive: zipfile.ZipFile, program: str, room: _Room) -> Any:
    folder = program.removesuffix("data.pkl")
    order = "<"
    if f"{folder}byteorder" in archive.namelist():
        order = {b"little": "<", b"big": ">"}.get(_member(archive, f"{folder}byteorder", room).strip(), "<")
    storages: dict[str, bytes] = {}

    def storage(key: str) -> bytes:
        if key not in storages:
            storages[key] = _member(archive, f"{folder}data/{key}", room)
        return storages[key]

    return _materialise(unpickle(io.BytesIO(_member(archive, program, room))), storage, order)


def _read_legacy_torch(file: io.BytesIO) -> Any:
    """Magic number, protocol, facts of the system, the object, the keys of its storages, and their numbers."""
    if unpickle(file) != 1001:
        raise WeightsError("is a torch file of an unknown protocol")
    system = unpickle(file)
    order = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    value = unpickle(file)
    sizes = {tensor.storage.key: tensor.storage for tensor in _tensors(value)}
    storages: dict[str, bytes] = {}
    for key in unpickle(file):
        (count,) = struct.unpack("<q", _exactly(file, 8))
        known = sizes.get(str(key))
        if known is None or known.count != count:
            raise WeightsError(f"has a storage {key} of {count} numbers that no tensor names")
        width = 2 if known.dtype == "bfloat16" else np.dtype(known.dtype).itemsize
        storages[str(key)] = _exactly(file, count * width)
    return _materialise(value, storages.__getitem__, order)


def _exactly(file: io.BytesIO, count: int) -> bytes:
    content = file.read(count) if count >= 0 else b""
    if len(content) != count:
        raise WeightsError("is truncated")
    return content


def _tensors(value: Any, seen: set[int] | None = None) -> list[StoredTensor]:
    """Returns all tensors of a value whose depth `unpickle` has bounded; what is there twice is looked at once."""
    seen = set() if seen is None else seen
    if isinstance(value, StoredTensor):
        return [value]
    if id(value) in seen or not isinstance(value, Mapping | list | tuple):
        return []
    seen.add(id(value))
    return [
        tensor for item in (value.values() if isinstance(value, Mapping) else value) for tensor in _tensors(item, seen)
    ]


def _materialise(value: Any, storage: Callable[[str], bytes], order: str) -> Any:
    """Replaces tensors by arrays, in mappings within mappings.

    Several tensors may share a storage, and those that are no plain stretch of it are copied: as often as a sound file
    has reason to.
    """
    arrays: dict[int, Any] = {}
    copied, known = 0, 0
    keys: set[str] = set()

    def array(tensor: StoredTensor) -> np.ndarray:
        nonlocal copied, known
        raw = storage(tensor.storage.key)
        if tensor.storage.key not in keys:
            keys.add(tensor.storage.key)
            known += len(raw)
        found = tensor.read(raw, order)
        copied += found.nbytes
        if copied > _MOST_TIMES * known + _ANY_FILE:
            raise WeightsError("has tensors that show the same numbers again and again")
        return found

    def walk(one: Any) -> Any:
        if isinstance(one, StoredTensor | Mapping) and id(one) not in arrays:
            arrays[id(one)] = one  # as it is where it holds itself
            arrays[id(one)] = (
                array(one) if isinstance(one, StoredTensor) else {key: walk(item) for key, item in one.items()}
            )
        return arrays.get(id(one), one)

    return walk(value)


# === Names ===


def _join_slices(values: dict[Any, Any]) -> dict[Any, Any]:
    """Drops Paddle's tables, and joins arrays that its protocols 2 and 3 split at 1 GiB."""
    joined = {key: value for key, value in values.items() if not str(key).endswith("@@")}
    for name, info in values.get("UnpackBigParamInfor@@", {}).items():
        parts = [joined.pop(part) for part in info["slices"]]
        joined[name] = np.concatenate([part.ravel() for part in parts]).reshape(info["OriginShape"])
    return joined


def _arrays(value: Any) -> dict[str, np.ndarray]:
    """Finds the mapping from names to arrays; inside containers, whatever is no array is no weight."""
    for _ in range(3):
        inner = [value[key] for key in _CONTAINERS if isinstance(value, dict) and isinstance(value.get(key), dict)]
        if not inner:
            break
        value = inner[0]
    if not isinstance(value, dict):
        raise WeightsError(f"holds {type(value).__name__}, not weights by name")
    arrays: dict[str, np.ndarray] = {}
    for name, item in value.items():
        if isinstance(item, tuple) and len(item) == 2:  # Paddle's (name, array)
            item = item[1]
        if isinstance(item, np.ndarray):
            arrays[str(name)] = item
    if not arrays:
        raise WeightsError("holds no weights")
    return arrays
