from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.files.npz import read_npz

ARRAYS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "scalar": np.array(7, np.uint8),
    "empty": np.zeros((0, 3), np.float16),
    "text": np.array(["x", "yy"]),
    "big": np.arange(3, dtype=">u2"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_reads_them(save: object, tmp_path: Path) -> None:
    save(tmp_path / "x.npz", **ARRAYS)  # type: ignore[operator]
    found = read_npz(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as expected:
        assert found.keys() == set(expected.files)
        for name, array in found.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype and array.flags.writeable


def claiming(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"content"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (claiming("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000)}"), "claims the shape"),
        (claiming("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}"), "claims the shape"),
        (claiming("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"), "only numbers and text"),
        (claiming("{'descr': '|V1000000000', 'fortran_order': False, 'shape': (1,)}"), "only numbers and text"),
        (claiming("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}"), "another number of bytes"),
        (claiming("{'descr': (" + "(" * 500), "Error"),
        (claiming("{'descr': '<f4"), "Error"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "version"),
        (b"nonsense", "magic"),
        (b"", "EOF|magic"),
    ],
)
def test_headers_that_lie_allocate_nothing(content: bytes, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", content)
    with pytest.raises(ValueError, match=message):
        read_npz(tmp_path / "x.npz")


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"x")
    data = bytearray(buffer.getvalue())
    at = data.index(b"PK\1\2") + 24
    data[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(ValueError, match="claims to unpack to"):
        read_npz(tmp_path / "x.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_damage_is_always_one_error(compression: int, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(20, dtype=np.float32))
    with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as archive:
        archive.writestr("a.npy", buffer.getvalue())
    sound = (tmp_path / "x.npz").read_bytes()
    refused = 0
    for at in range(len(sound)):
        data = bytearray(sound)
        data[at] ^= 255
        (tmp_path / "x.npz").write_bytes(data)
        try:
            arrays = read_npz(tmp_path / "x.npz")
        except (ValueError, OSError):
            refused += 1
            continue
        for array in arrays.values():  # what changed is a name or a date, never a number
            np.testing.assert_array_equal(array, np.arange(20, dtype=np.float32))
    assert refused > len(sound) // 2
