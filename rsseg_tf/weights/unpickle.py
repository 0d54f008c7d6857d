"""Reads the pickles of Paddle and torch without Paddle or torch, and without running anything that they name.

A pickle is a program: it may name any function and call it. Here every name is looked up in a small table, whose
entries are stand-ins of this package that only keep data. Any other name is an error that shows it.

A small program can also build something huge: a list that holds the same list twice, which holds another one twice, has
a billion entries after thirty steps for whoever walks through it. So steps, depth and what stand-ins copy are bounded,
keys of mappings are plain (to hash a nested tuple is to walk through it), and each object is looked at once.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rsseg_tf.errors import WeightsError
from rsseg_tf.files import readable_name

__all__ = ["StoredTensor", "TorchStorage", "unpickle"]

_DTYPE_KINDS = "fiub"
_MOST_STEPS = 5_000_000  # checkpoints of large models with their optimizers have some ten thousand
_DEEPEST = 50
_MOST_AXES = 32
_LARGEST_SIZE = 2**48
_COPIED_AT_LEAST = 64 * 2**20  # bytes that stand-ins may copy, beyond four times the file
_PLAIN_KEYS = (str, int, float, bytes, type(None))


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


class _Budget:
    """What stand-ins may copy: one object in the file can be copied as often as the file pleases."""

    def __init__(self, size: int) -> None:
        self._left = 4 * size + _COPIED_AT_LEAST

    def take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise ValueError("it copies its content again and again")


class _Dict(dict[Any, Any]):
    """An OrderedDict of a state dict; torch gives it attributes."""


class _Dtype:
    """`numpy.dtype` on its way: letters first, byte order later."""

    def __init__(self, code: str, *_: Any) -> None:
        self._code, self._order = _text(code), "="

    def __setstate__(self, state: Any) -> None:
        self._order = _text(state[1])

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
    size = _sizes(shape)
    kind = dtype()
    if any(n < 0 for n in size) or math.prod(size) * kind.itemsize != len(raw):
        raise ValueError(f"an array of shape {size} with {len(raw)} bytes")
    return np.frombuffer(raw, kind).reshape(size, order="F" if order == "F" else "C")


def _text(value: Any) -> str:
    if not isinstance(value, str | bytes):  # text of anything else could be of any length
        raise ValueError(f"a text was expected, and it is of the type {type(value).__name__}")
    return value if isinstance(value, str) else value.decode("latin1")


def _sizes(values: Any) -> tuple[int, ...]:
    """Returns sizes or strides as numbers that can be multiplied in no time."""
    if not isinstance(values, tuple | list) or len(values) > _MOST_AXES:
        raise ValueError("a shape is no tuple, or has too many axes")
    sizes = tuple(int(value) for value in values)
    if any(abs(size) > _LARGEST_SIZE for size in sizes):
        raise ValueError("an axis is too long")
    return sizes


def _check_keys(keys: Any) -> None:
    for key in keys:
        if not isinstance(key, _PLAIN_KEYS):
            raise ValueError(f"a mapping has a key of the type {type(key).__name__}")


class TorchStorage:
    """A run of numbers in a torch file.

    Attributes:
        dtype: NumPy's name of their type, or "bfloat16".
        key: Name within the file.
        count: How many.
    """

    def __init__(self, dtype: str, key: str, count: int) -> None:
        self.dtype, self.key, self.count = dtype, key, count

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a storage was to be given a state")


class StoredTensor:
    """A torch tensor: a view of a storage that may be read later."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> None:
        if not isinstance(storage, TorchStorage):
            raise ValueError("a tensor without a storage")
        self.storage, self.offset = storage, int(offset)
        self.size, self.stride = _sizes(size), _sizes(stride)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("a tensor was to be given a state")

    def read(self, raw: bytes, byte_order: str) -> np.ndarray:
        """Returns the tensor out of the storage's bytes, contiguous; bfloat16 becomes float32.

        Raises:
            ValueError: When the bytes are too few or the view reaches beyond them.
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
        raise ValueError("bytes in another encoding than latin1")
    return _text(text).encode("latin1")


def _bytearray(data: Any = b"") -> bytearray:
    if not isinstance(data, bytes | bytearray):  # a number would be a size to reserve
        raise ValueError("a bytearray of something else than bytes")
    return bytearray(data)


def _ordered(items: Any = ()) -> _Dict:
    pairs = list(items.items() if isinstance(items, Mapping) else items)
    _check_keys(key for key, _ in pairs)
    return _Dict(pairs)


def _names(budget: _Budget) -> dict[tuple[str, str], Any]:
    """The table, new for each file, so that no file can leave anything behind."""

    class Ignored:
        """A stand-in for an object that is of no use here, whatever is in it."""

        __slots__ = ()

        def __new__(cls, *_: Any) -> Ignored:
            return object.__new__(cls)

        def __setstate__(self, state: Any) -> None:
            pass

    def counted(call: Callable[..., Any], unit: int) -> _Function:
        """A stand-in that copies its first argument, whose entries take `unit` bytes each."""

        def run(*arguments: Any) -> Any:
            if arguments and hasattr(arguments[0], "__len__"):
                budget.take(unit * len(arguments[0]))
            return call(*arguments)

        return _Function(run)

    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): counted(_ordered, 100),
        ("_codecs", "encode"): counted(_encode, 1),
        ("numpy", "ndarray"): _Function(_Array),
        ("numpy", "dtype"): _Function(_Dtype),
        ("torch._utils", "_rebuild_tensor_v2"): _Function(StoredTensor),
        ("torch._utils", "_rebuild_tensor"): _Function(StoredTensor),
        ("torch._utils", "_rebuild_parameter"): _Function(lambda tensor, *_: tensor),
        ("torch", "Size"): _Function(lambda sizes=(): _sizes(sizes)),
        # Training logs beside the weights in checkpoints of mmengine, and how they name their methods.
        ("mmengine.logging.history_buffer", "HistoryBuffer"): Ignored,
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = _Function(lambda *_: _Array())
        table[f"{core}.multiarray", "scalar"] = _Function(lambda dtype, raw: _array(raw, dtype, (), "C"))
        table[f"{core}.numeric", "_frombuffer"] = _Function(_array)
    for name, dtype in _STORAGES.items():
        table["torch", name] = dtype
    for name in ("builtins", "__builtin__"):
        table[name, "bytearray"] = counted(_bytearray, 1)
        table[name, "getattr"] = _Function(lambda *_: None)
    return table


# Not the faster unpickler written in C: a number in the file makes that one reserve gigabytes for a table.
class _Unpickler(pickle._Unpickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")
        self._budget = _Budget(file.getbuffer().nbytes)
        self._table = _names(self._budget)
        self._steps = 0

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._table:
            raise WeightsError(f"names {readable_name(f'{module}.{name}')[:200]}, which no file of weights needs")
        return self._table[module, name]

    def persistent_load(self, reference: Any) -> Any:
        kind, dtype, key, _, count, *_ = reference
        if kind != "storage" or dtype not in _STORAGES.values():
            raise ValueError("a reference to something else than a storage")
        return TorchStorage(dtype, _text(key), int(count))

    def step(self) -> None:
        """Counts an instruction."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise WeightsError(f"has more than {_MOST_STEPS} steps, more than any file of weights needs")


def _counted(run: Callable[[Any], None]) -> Callable[[Any], None]:
    def counted(unpickler: _Unpickler) -> None:
        unpickler.step()
        run(unpickler)

    return counted


def _with_plain_keys(run: Callable[[Any], None], find: Callable[[Any], Any]) -> Callable[[Any], None]:
    def checked(unpickler: Any) -> None:
        _check_keys(find(unpickler))
        run(unpickler)

    return checked


def _refused(_: Any) -> None:
    raise ValueError("a set, which no file of weights needs")


def _load_bytearray8(unpickler: Any) -> None:
    """Reads what is there, where pickle reserves first what the file claims."""
    (count,) = struct.unpack("<Q", unpickler.read(8))
    content = unpickler.read(min(count, sys.maxsize))
    if len(content) != count:
        raise ValueError("a bytearray that is cut off")
    unpickler.append(bytearray(content))


def _instructions() -> dict[int, Callable[[Any], None]]:
    """Returns the table of instructions, each counted, and those with keys checked."""
    table = dict(pickle._Unpickler.dispatch)
    own = {
        pickle.SETITEM: _with_plain_keys(table[pickle.SETITEM[0]], lambda one: one.stack[-2:-1]),
        pickle.SETITEMS: _with_plain_keys(table[pickle.SETITEMS[0]], lambda one: one.stack[::2]),
        pickle.DICT: _with_plain_keys(table[pickle.DICT[0]], lambda one: one.stack[::2]),
        pickle.EMPTY_SET: _refused,
        pickle.ADDITEMS: _refused,
        pickle.FROZENSET: _refused,
        pickle.BYTEARRAY8: _load_bytearray8,
    }
    table |= {code[0]: run for code, run in own.items()}
    return {code: _counted(run) for code, run in table.items()}


_Unpickler.dispatch = _instructions()


def unpickle(file: io.BytesIO) -> Any:
    """Reads one object: dicts, lists, numbers, texts, NumPy arrays and `StoredTensor`.

    Args:
        file: At the beginning of a pickle; left behind its end.

    Raises:
        WeightsError: When the pickle names anything that is not in the table, or is broken. The message is a clause
            without the name of the file.
    """
    try:
        return _plain(_Unpickler(file).load())
    except WeightsError:
        raise
    except Exception as error:  # a broken or hostile program fails in any way there is
        raise WeightsError(f"is damaged or no file of weights ({type(error).__name__}: {error})") from error


def _plain(value: Any, depth: int = 0, done: dict[int, Any] | None = None) -> Any:
    """Replaces stand-ins by what they stand for; what is there twice is looked at once."""
    done = {} if done is None else done
    if depth > _DEEPEST:
        raise WeightsError(f"nests objects deeper than {_DEEPEST} levels, which no file of weights does")
    if isinstance(value, _Array):
        return value.value
    if not isinstance(value, Mapping | tuple | list):
        return value
    if id(value) not in done:
        done[id(value)] = value  # as it is where it holds itself
        if isinstance(value, Mapping):
            plain: Any = {key: _plain(item, depth + 1, done) for key, item in value.items()}
        else:
            plain = type(value)([_plain(item, depth + 1, done) for item in value])
        done[id(value)] = plain
    return done[id(value)]
