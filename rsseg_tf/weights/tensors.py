"""Reads files of weights as they are released: Paddle's `.pdparams`, torch's `.pth`, and archives of one of them."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.unpickle import StoredTensor, unpickle

__all__ = ["TensorFile", "read_tensors"]

_LIMIT = 8 * 2**30  # bytes of an unpacked member; ResNets and HRNets have less than 1 GiB
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
# Where files keep their weights among epochs, optimizers and the like.
_CONTAINERS = ("state_dict", "model", "model_state_dict", "network")
_WEIGHT_SUFFIXES = (".pdparams", ".pth", ".pt", ".pth.tar")


@dataclass(frozen=True)
class TensorFile:
    """The tensors of a file.

    Attributes:
        source: the file or URL.
        format: what it turned out to be, e.g. "paddle" or "torch in zip".
        sha256: of the whole file.
        tensors: arrays by their names in the file, convolutions (out, in, height, width).
        ours: whether it is one of our own checkpoints, with our names and layout.
    """

    source: str
    format: str
    sha256: str
    tensors: dict[str, np.ndarray] = field(repr=False)
    ours: bool = False


def read_tensors(path: Path, source: str | None = None) -> TensorFile:
    """Reads a file of weights. Nothing in it is executed.

    Args:
        path: a `.pdparams` or torch file, or a zip or tar.gz archive with one of them in it; the suffix is not
            looked at.
        source: how messages call it; by default the path.

    Raises:
        WeightsError: when it cannot be read, is damaged, is something else, or names functions to call.
    """
    name = source or str(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"The weights {name} cannot be read: {error.strerror}.") from error
    try:
        kind, tensors = _read(content)
    except WeightsError as error:
        raise WeightsError(f"The file {name} {error}. Download it again, from a source that you trust.") from error
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError, zlib.error, RuntimeError, MemoryError, ValueError,
            NotImplementedError, KeyError) as error:  # fmt: skip
        raise WeightsError(f"The file {name} is damaged: {error}. Download it again.") from error
    return TensorFile(name, kind, hashlib.sha256(content).hexdigest(), tensors)


def _read(content: bytes, depth: int = 0) -> tuple[str, dict[str, np.ndarray]]:
    if not content:
        raise WeightsError("is empty")
    if content.startswith(b"PK"):
        return _read_zip(content, depth)
    if content.startswith(b"\x1f\x8b"):
        return _read_tar(content, depth)
    if content[0] not in b"\x80(}cC":
        raise WeightsError(f"is neither .pdparams nor torch nor an archive (it begins with {content[:8]!r})")
    file = io.BytesIO(content)
    first = unpickle(file)
    if first == _TORCH_MAGIC:
        return "torch (before 1.6)", _arrays(_read_legacy_torch(file))
    return "paddle", _arrays(_join_slices(first) if isinstance(first, dict) else first)


# === Archives ===


def _read_zip(content: bytes, depth: int) -> tuple[str, dict[str, np.ndarray]]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        programs = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if programs:
            return "torch", _arrays(_read_torch(archive, programs[0]))
        member = _only_weights(names, depth)
        with archive.open(member) as file:
            kind, tensors = _read(_limited(file), depth + 1)
    return f"{kind} in zip", tensors


def _read_tar(content: bytes, depth: int) -> tuple[str, dict[str, np.ndarray]]:
    with gzip.open(io.BytesIO(content)) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as archive:
        found: dict[str, bytes] = {}
        for member in archive:  # in the order of the file, so that it is unpacked once
            if member.isfile() and member.name.endswith(_WEIGHT_SUFFIXES):
                file = archive.extractfile(member)
                found[member.name] = _limited(file) if file is not None else b""
    kind, tensors = _read(found[_only_weights(list(found), depth)], depth + 1)
    return f"{kind} in tar.gz", tensors


def _only_weights(names: list[str], depth: int) -> str:
    weights = [name for name in names if name.endswith(_WEIGHT_SUFFIXES) and "__MACOSX" not in name]
    if depth or len(weights) != 1:
        raise WeightsError(
            f"is an archive with {len(weights)} files of weights ({', '.join(weights[:4]) or 'none'}); one is needed"
        )
    return weights[0]


def _limited(file: Any) -> bytes:
    content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise WeightsError(f"unpacks to more than {_LIMIT >> 30} GiB")
    return bytes(content)


# === torch ===


def _read_torch(archive: zipfile.ZipFile, program: str) -> Any:
    folder = program.removesuffix("data.pkl")
    order = "<"
    if f"{folder}byteorder" in archive.namelist():
        order = {b"little": "<", b"big": ">"}.get(archive.read(f"{folder}byteorder").strip(), "<")
    storages: dict[str, bytes] = {}

    def storage(key: str) -> bytes:
        if key not in storages:
            with archive.open(f"{folder}data/{key}") as file:
                storages[key] = _limited(file)
        return storages[key]

    with archive.open(program) as file:
        value = unpickle(io.BytesIO(_limited(file)))
    return _materialise(value, storage, order)


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


def _tensors(value: Any) -> list[StoredTensor]:
    if isinstance(value, StoredTensor):
        return [value]
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in items for tensor in _tensors(item)]


def _materialise(value: Any, storage: Any, order: str) -> Any:
    if isinstance(value, StoredTensor):
        return value.read(storage(value.storage.key), order)
    if isinstance(value, Mapping):
        return {key: _materialise(item, storage, order) for key, item in value.items()}
    return value


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
