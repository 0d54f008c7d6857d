"""Writes files of weights as Paddle and torch write them, without either."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

TORCH_TYPES = {"float32": "FloatStorage", "float64": "DoubleStorage", "float16": "HalfStorage", "int64": "LongStorage"}


def write_pdparams(path: Path, tensors: Mapping[str, np.ndarray], protocol: int = 4, **more: Any) -> Path:
    table = {name: f"tensor_{i}.w_0" for i, name in enumerate(tensors)}
    values = {**tensors, "StructuredToParameterName@@": table, **more}
    path.write_bytes(pickle.dumps(values, protocol=protocol))
    return path


class _Storage:
    def __init__(self, key: str, array: np.ndarray, kind: str) -> None:
        self.key, self.array, self.kind = key, array, kind


class _Tensor:
    def __init__(self, storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.arguments = (storage, offset, size, stride, False, OrderedDict())

    def __reduce__(self) -> Any:
        return _rebuild_tensor_v2, self.arguments


def _rebuild_tensor_v2(*arguments: Any) -> None:
    """Stands in for torch's function of this name; only its name is written."""


_rebuild_tensor_v2.__module__ = "torch._utils"


class _Pickler(pickle._Pickler):
    """Writes storages as references, and the names of torch's classes."""

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, _Storage):
            return None
        kind = type(value.kind, (), {"__module__": "torch", "__qualname__": value.kind})
        setattr(sys.modules["torch"], value.kind, kind)
        numbers = value.array.size
        return ("storage", kind, value.key, "cpu", numbers, *(() if self.proto_zip else (None,)))


def _pickled(value: Any, protocol: int, *, zipped: bool) -> bytes:
    """Pickles with modules called torch in place, as pickle checks that names lead to what it writes."""
    before = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
    sys.modules |= {"torch": torch, "torch._utils": utils}
    try:
        file = io.BytesIO()
        pickler = _Pickler(file, protocol)
        pickler.proto_zip = zipped  # type: ignore[attr-defined]
        pickler.dump(value)
        return file.getvalue()
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _state(tensors: Mapping[str, np.ndarray], wrap: Any) -> tuple[Any, list[_Storage]]:
    storages, state = [], OrderedDict()
    for i, (name, array) in enumerate(tensors.items()):
        # Of every other tensor the storage is larger and the tensor a transposed part of it.
        if i % 2 and array.ndim == 2:
            numbers = np.concatenate([np.zeros(3, array.dtype), array.T.ravel()])
            view: tuple[int, tuple[int, ...]] = (3, (1, array.shape[0]))
        else:
            numbers = array.ravel()
            view = (0, tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim)))
        storages.append(_Storage(str(i), numbers, TORCH_TYPES[array.dtype.name]))
        state[name] = _Tensor(storages[-1], view[0], array.shape, view[1])
    return wrap(state), storages


def write_torch(path: Path, tensors: Mapping[str, np.ndarray], wrap: Any = lambda state: state) -> Path:
    """Writes the zip format of torch 1.6 and later."""
    value, storages = _state(tensors, wrap)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", _pickled(value, 2, zipped=True))
        archive.writestr("archive/byteorder", "little")
        for storage in storages:
            archive.writestr(f"archive/data/{storage.key}", storage.array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path


def write_legacy_torch(path: Path, tensors: Mapping[str, np.ndarray], wrap: Any = lambda state: state) -> Path:
    """Writes the format of torch before 1.6, which torchvision's older files have."""
    value, storages = _state(tensors, wrap)
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2)]
    parts.append(pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, 2))
    parts.append(_pickled(value, 2, zipped=False))
    parts.append(pickle.dumps([storage.key for storage in storages], 2))
    parts += [struct.pack("<q", storage.array.size) + storage.array.tobytes() for storage in storages]
    path.write_bytes(b"".join(parts))
    return path
