"""Reads the pickles of Paddle and torch without Paddle or torch, and without running anything that they name.

A pickle is a program: it may name any function and call it. Here every name is looked up in a small table, whose
entries are stand-ins of our own that only keep data. Anything else is an error that says the name.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rsseg_tf.errors import WeightsError

__all__ = ["StoredTensor", "TorchStorage", "unpickle"]

_DTYPE_KINDS = "fiub"


class _Function:
    """A stand-in for a function or class: can be called, and cannot be changed by what a pickle does to it."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("a function was to be changed")

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a function was to be given a state")


class _Dict(dict[Any, Any]):
    """An OrderedDict of a state dict; torch gives it attributes."""


class _Dtype:
    """`numpy.dtype` on its way: letters first, byte order later."""

    def __init__(self, code: str, *_: Any) -> None:
        self._code, self._order = str(code), "="

    def __setstate__(self, state: Any) -> None:
        self._order = str(state[1])

    def __call__(self) -> np.dtype[Any]:
        dtype = np.dtype(self._code)
        if dtype.kind not in _DTYPE_KINDS:
            raise ValueError(f"an array of type {self._code}")
        return dtype.newbyteorder(">" if self._order == ">" else "<" if self._order == "<" else "=")


class _Array:
    """`numpy.ndarray` on its way."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, raw = state
        self.value = _array(raw, dtype, shape, "F" if fortran_order else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(raw, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise ValueError("an array of objects")
    size = tuple(int(n) for n in shape)
    kind = dtype()
    if any(n < 0 for n in size) or math.prod(size) * kind.itemsize != len(raw):
        raise ValueError(f"an array of shape {size} with {len(raw)} bytes")
    return np.frombuffer(raw, kind).reshape(size, order="F" if order == "F" else "C")


class TorchStorage:
    """A run of numbers in a torch file.

    Attributes:
        dtype: NumPy's name of their type, or "bfloat16".
        key: name within the file.
        count: how many.
    """

    def __init__(self, dtype: str, key: str, count: int) -> None:
        self.dtype, self.key, self.count = dtype, key, count


class StoredTensor:
    """A torch tensor: a view of a storage that may be read later."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        if not isinstance(storage, TorchStorage):
            raise ValueError("a tensor without a storage")
        self.storage, self.offset = storage, int(offset)
        self.size, self.stride = tuple(int(n) for n in size), tuple(int(n) for n in stride)

    def read(self, raw: bytes, byte_order: str) -> np.ndarray:
        """Returns the tensor out of the storage's bytes, contiguous; bfloat16 becomes float32.

        Raises:
            ValueError: when the bytes are too few or the view reaches beyond them.
        """
        name = "uint16" if self.storage.dtype == "bfloat16" else self.storage.dtype
        dtype = np.dtype(name).newbyteorder(">" if byte_order == ">" else "<")
        if len(raw) != self.storage.count * dtype.itemsize:
            raise ValueError(f"storage {self.storage.key} of {self.storage.count} numbers has {len(raw)} bytes")
        numbers = np.frombuffer(raw, dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        inside = min((self.offset, *self.size, *self.stride), default=0) >= 0 and last < len(numbers)
        if 0 not in self.size and (not inside or math.prod(self.size) > len(numbers)):
            raise ValueError(f"a tensor of shape {self.size} reaches beyond its storage")
        strides = tuple(step * dtype.itemsize for step in self.stride)
        view = np.lib.stride_tricks.as_strided(numbers[self.offset :], self.size, strides)
        if self.storage.dtype == "bfloat16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(view).astype(np.dtype(name), copy=False).reshape(self.size)


_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Protocol 2 writes bytes as text."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"bytes in the encoding {encoding}")
    return str(text).encode("latin1")


def _bytearray(data: Any = b"") -> bytearray:
    if not isinstance(data, bytes | bytearray):  # a number would be a size to reserve
        raise ValueError("a bytearray of something else than bytes")
    return bytearray(data)


def _names() -> dict[tuple[str, str], Any]:
    """The table, new for each file, so that no file can leave anything behind."""
    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _Function(lambda items=(): _Dict(items)),
        ("_codecs", "encode"): _Function(_encode),
        ("numpy", "ndarray"): _Function(_Array),
        ("numpy", "dtype"): _Function(_Dtype),
        ("torch._utils", "_rebuild_tensor_v2"): _Function(StoredTensor),
        ("torch._utils", "_rebuild_tensor"): _Function(StoredTensor),
        ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
        ("torch", "Size"): _Function(lambda sizes=(): tuple(sizes)),
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = _Function(lambda *_: _Array())
        table[f"{core}.multiarray", "scalar"] = _Function(lambda dtype, raw: _array(raw, dtype, (), "C"))
        table[f"{core}.numeric", "_frombuffer"] = _Function(_array)
    for name, dtype in _STORAGES.items():
        table["torch", name] = dtype
    for name in ("builtins", "__builtin__"):
        table[name, "bytearray"] = _Function(_bytearray)
    return table


# Not the faster unpickler written in C: a number in the file makes that one reserve gigabytes for a table.
class _Unpickler(pickle._Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self._table = _names()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._table:
            raise WeightsError(f"names {module}.{name}, which no file of weights needs")
        return self._table[module, name]

    def persistent_load(self, reference: Any) -> Any:
        kind, dtype, key, _, count, *_ = reference
        if kind != "storage" or dtype not in _STORAGES.values():
            raise ValueError(f"a reference to {kind!r}")
        return TorchStorage(dtype, str(key), int(count))


def unpickle(file: io.BytesIO) -> Any:
    """Reads one object: dicts, lists, numbers, texts, NumPy arrays and `StoredTensor`.

    Args:
        file: at the beginning of a pickle; left behind its end.

    Raises:
        WeightsError: when the pickle names anything that is not in the table, or is broken. The message is a clause
            without the name of the file.
    """
    try:
        return _plain(_Unpickler(file).load())
    except WeightsError:
        raise
    except Exception as error:  # a broken or hostile program fails in any way there is
        raise WeightsError(f"is damaged or no file of weights ({type(error).__name__}: {error})") from error


def _plain(value: Any, depth: int = 0) -> Any:
    """Replaces stand-ins by what they stand for, a few levels down; state dicts are not deeper."""
    if isinstance(value, _Array):
        return value.value
    if depth < 5 and isinstance(value, Mapping):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if depth < 5 and isinstance(value, tuple | list):
        return type(value)(_plain(item, depth + 1) for item in value)
    return value
