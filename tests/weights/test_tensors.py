"""Files of weights: read exactly, refused clearly, and never executed."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import pickletools
import random
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsseg_tf.errors import WeightsError
from rsseg_tf.weights import read_tensors
from tests.fixtures.weight_files import write_legacy_torch, write_pdparams, write_safetensors, write_torch

TENSORS: dict[str, np.ndarray] = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bn._mean": np.array([1.5], np.float32),
    "half": np.array([0.5, -2.0], np.float16),
    "steps": np.array(7, np.int64),
}
WRITERS: dict[str, Callable[..., Path]] = {
    "paddle": write_pdparams,
    "torch": write_torch,
    "legacy": write_legacy_torch,
    "safetensors": write_safetensors,
}


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray] = TENSORS) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array, err_msg=name)
        assert actual[name].dtype == array.dtype and actual[name].shape == array.shape


@pytest.mark.parametrize("writer", WRITERS)
def test_tensors_are_read_exactly(writer: str, tmp_path: Path) -> None:
    file = read_tensors(WRITERS[writer](tmp_path / "weights", TENSORS))
    assert_same(file.tensors)
    assert file.format == {"legacy": "torch (before 1.6)"}.get(writer, writer)
    assert len(file.sha256) == 64 and not file.by_path


def test_bfloat16_of_safetensors_becomes_float32_and_what_numpy_lacks_is_refused(tmp_path: Path) -> None:
    header = '{"w":{"dtype":"%s","shape":[2],"data_offsets":[0,%d]}}'
    for kind, data in (("BF16", b"\x80\x3f\x00\xc0"), ("F8_E4M3", b"\x00\x00")):
        text = (header % (kind, len(data))).encode()
        (tmp_path / kind).write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert_same(read_tensors(tmp_path / "BF16").tensors, {"w": np.array([1.0, -2.0], np.float32)})
    with pytest.raises(WeightsError, match="holds 'w' as F8_E4M3; readable are F64, F32, .*Save it as F32"):
        read_tensors(tmp_path / "F8_E4M3")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_paddle_is_read(protocol: int, tmp_path: Path) -> None:
    transposed = np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3))
    file = read_tensors(write_pdparams(tmp_path / "w", {**TENSORS, "t": transposed}, protocol))
    np.testing.assert_array_equal(file.tensors.pop("t"), transposed)
    assert_same(file.tensors)


def test_arrays_that_paddle_split_are_joined_and_pairs_unpacked(tmp_path: Path) -> None:
    whole = np.arange(10, dtype=np.float32).reshape(2, 5)
    values: dict[str, Any] = {"big@@.0": whole.ravel()[:7], "big@@.1": whole.ravel()[7:], "pair": ("x", whole)}
    info = {"big": {"OriginShape": (2, 5), "slices": ["big@@.0", "big@@.1"]}}
    file = read_tensors(write_pdparams(tmp_path / "w", values, 2, **{"UnpackBigParamInfor@@": info}))
    assert_same(file.tensors, {"pair": whole, "big": whole})


@pytest.mark.parametrize("writer", ["torch", "legacy"])
@pytest.mark.parametrize("container", ["state_dict", "model"])
def test_weights_are_found_among_other_things(writer: str, container: str, tmp_path: Path) -> None:
    path = WRITERS[writer](
        tmp_path / "w", TENSORS, lambda state: {"epoch": 3, container: state, "arch": "resnet50", "best": None}
    )
    assert_same(read_tensors(path).tensors)


def test_real_torch_files_are_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    state = {name: torch.from_numpy(np.array(array)) for name, array in TENSORS.items()}
    state["bf"] = torch.tensor([1.5, -3.0]).to(torch.bfloat16)
    for zipped in (True, False):
        torch.save({"state_dict": state}, tmp_path / "w", _use_new_zipfile_serialization=zipped)
        tensors = read_tensors(tmp_path / "w").tensors
        np.testing.assert_array_equal(tensors.pop("bf"), np.array([1.5, -3.0], np.float32))
        assert_same(tensors)


class HistoryBuffer:
    """Stands in for the class of mmengine that holds the log of a run; its methods are among its attributes."""

    def __init__(self) -> None:
        self._log_history, self._statistics_methods = np.zeros(3), {"mean": HistoryBuffer.mean}

    def mean(self) -> float:
        raise AssertionError("a file was run")


def test_logs_of_mmengine_beside_the_weights_are_left_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    for one in (HistoryBuffer, HistoryBuffer.mean):
        monkeypatch.setattr(one, "__module__", module.__name__)
    content = pickle.dumps({"message_hub": {"loss": HistoryBuffer()}, "state_dict": TENSORS}, 2)  # as torch.save
    assert b"getattr" in content and b"HistoryBuffer" in content
    (tmp_path / "w").write_bytes(content)
    assert_same(read_tensors(tmp_path / "w").tensors)


# === Archives ===


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("pack", "suffix"), [(_zip, "zip"), (_tar, "tar.gz")])
def test_archives_as_released(pack: Callable[..., Path], suffix: str, tmp_path: Path) -> None:
    content = write_pdparams(tmp_path / "w", TENSORS).read_bytes()
    path = pack(tmp_path / "a", {"resnet/model.pdparams": content, "resnet/README": b"hello"})
    file = read_tensors(path)
    assert_same(file.tensors)
    assert file.format == f"paddle in {suffix}"
    with pytest.raises(
        WeightsError, match=r"archive with 2 files of weights \(a.pdparams, b.pdparams\); one is needed"
    ):
        read_tensors(pack(tmp_path / "b", {"a.pdparams": content, "b.pdparams": content}))
    with pytest.raises(WeightsError, match=r"archive with 0 files of weights \(none\)"):
        read_tensors(pack(tmp_path / "c", {"README": b"hello"}))
    # A path that leads elsewhere is only a name: nothing is unpacked to the disk.
    assert_same(read_tensors(pack(tmp_path / "d", {"../../evil.pdparams": content})).tensors)
    assert not (tmp_path.parent.parent / "evil.pdparams").exists()


# === Damage ===


@pytest.mark.parametrize("writer", WRITERS)
def test_a_truncated_file_is_an_error_of_one_line(writer: str, tmp_path: Path) -> None:
    whole = WRITERS[writer](tmp_path / "w", TENSORS).read_bytes()
    for end in {0, 1, 2, 5, len(whole) // 3, len(whole) // 2, len(whole) - 20, len(whole) - 1}:
        (tmp_path / "t").write_bytes(whole[:end])
        with pytest.raises(WeightsError) as error:
            read_tensors(tmp_path / "t")
        assert "\n" not in str(error.value) and str(tmp_path / "t") in str(error.value)


@pytest.mark.parametrize("writer", WRITERS)
def test_changed_bytes_never_cause_another_exception(writer: str, tmp_path: Path) -> None:
    whole = WRITERS[writer](tmp_path / "w", TENSORS).read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3])):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        (tmp_path / "t").write_bytes(bytes(changed))
        try:
            read_tensors(tmp_path / "t")
        except WeightsError:
            refused += 1
    assert refused, "some of the changes must have done damage"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html>not found</html>", "neither .pdparams nor torch nor .safetensors nor an archive"),
        (pickle.dumps([1, 2]), "holds list, not weights by name"),
        (pickle.dumps({"a": 1}), "holds no weights"),
        (gzip.compress(b"text", mtime=0), "is damaged"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_tensors(tmp_path / "w")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere cannot be read: No such file or directory"):
        read_tensors(tmp_path / "nowhere")


# === Hostile pickles ===


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


HOSTILE = {
    "os.system": _Runs(os.system, "touch HERE"),
    "eval": _Runs(eval, "open('HERE', 'w')"),
    "exec": _Runs(exec, "open('HERE', 'w')"),
    "open": _Runs(open, "HERE", "w"),
    "getattr": _Runs(getattr, os, "system"),
    "import": _Runs(__import__, "os"),
    "numpy.load": _Runs(np.load, "HERE"),
    "numpy object array": np.array([_Runs(os.system, "touch HERE")], dtype=object),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("packed", [False, True])
def test_a_hostile_pickle_is_refused_and_not_run(
    name: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "getattr":  # a module cannot be pickled; the program is written by hand
        content = b"\x80\x04cbuiltins\ngetattr\n(cos\nsystem\nX\x04\x00\x00\x00nametR."
    else:
        content = pickle.dumps({"conv.weight": HOSTILE[name]}, protocol=4)
    pickletools.dis(content, out=io.StringIO())  # it is a sound pickle
    path = tmp_path / "w"
    path.write_bytes(content)
    if packed:
        path = _zip(tmp_path / "z", {"archive/data.pkl": content})
    with pytest.raises(WeightsError, match=r"names \w+\.\w+, which no file of weights needs"):
        read_tensors(path)
    assert not (tmp_path / "HERE").exists()


@pytest.mark.parametrize(
    "program",
    {
        "a huge shape": b"cnumpy.core.multiarray\n_reconstruct\n(tR(K\x01(L99999999999L\nt"
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4tR\x89C\x04aaaatb.",
        "a huge bytearray": b"cbuiltins\nbytearray\n(L99999999999L\ntR.",
        "a memo of billions": b"]r\xff\xff\xff\x7f.",
        "a length beyond the end": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "a function to be changed": b"cnumpy\nndarray\n}X\x01\x00\x00\x00aK\x01sb.",
        "deep nesting": b"]" * 100_000 + b"a" * 99_999 + b".",
        "another class": b"ccollections\nOrderedDict\n(tR}X\x01\x00\x00\x00aK\x01sb.",
        "an unknown reference": b"(X\x01\x00\x00\x00aK\x01K\x02K\x03K\x04tQ.",
    }.items(),
    ids=lambda item: item[0],
)
def test_programs_that_waste_memory_or_meddle_are_refused(program: tuple[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\x80\x04" + program[1])
    with pytest.raises(WeightsError):
        read_tensors(tmp_path / "w")


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(5, (1,), (1,)), (0, (10**12,), (0,)), (-1, (1,), (1,)), (0, (2, 3), (1, 1))]
)
def test_a_torch_view_beyond_its_storage_is_refused(
    offset: int, size: tuple[int, ...], stride: tuple[int, ...], tmp_path: Path
) -> None:
    def stretch(state: Any) -> Any:
        storage, _, _, _, *rest = state["bn._mean"].arguments
        state["bn._mean"].arguments = (storage, offset, size, stride, *rest)
        return state

    with pytest.raises(WeightsError, match="reaches beyond its storage"):
        read_tensors(write_torch(tmp_path / "w", TENSORS, stretch))


# === Files that are small and become large ===


def doubling(kind: str, steps: int) -> bytes:
    """A program that builds a list or tuple of the same two lists or tuples, of the same two ... and leaves it."""
    close = {"list": b"e", "tuple": b"t"}[kind]
    begin = b"](" if kind == "list" else b"("
    program = begin + b"K\x01K\x01" + close + b"q\x00"
    for step in range(steps):
        number = bytes([step])
        program += b"0" + begin + b"h" + number + b"h" + number + close + b"q" + bytes([step + 1])
    return program


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x04}X\x01\x00\x00\x00a" + doubling("list", 40) + b"s.", "holds no weights"),
        (b"\x80\x04}" + doubling("tuple", 45) + b"K\x01s.", "a key of the type tuple"),
        (b"\x80\x04}(" + doubling("tuple", 45) + b"K\x01u.", "a key of the type tuple"),
        (b"\x80\x04(" + doubling("tuple", 45) + b"K\x01d.", "a key of the type tuple"),
        (b"\x80\x04\x8f(" + doubling("tuple", 45) + b"\x90.", "a set"),
        (b"\x80\x04(" + doubling("tuple", 45) + b"\x91.", "a set"),
        (b"\x80\x04ccollections\nOrderedDict\n](" + doubling("tuple", 45) + b"K\x01\x86e\x85R.", "a key of the type"),
        (b"\x80\x04(" + doubling("tuple", 45) + b"K\x01K\x01K\x01K\x01tQ.", "something else than a storage"),
        (b"\x80\x04cnumpy\ndtype\n(" + doubling("list", 45) + b"tR.", "of the type list"),
        (b"\x80\x04" + b"](" * 100 + b"e" * 100 + b".", "nests objects deeper than 50"),
        (b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"abc.", "cut off"),
        (b"\x80\x04" + b"N0" * 2_600_000 + b".", "more than 5000000 steps"),
    ],
    ids=range(12),
)
def test_a_small_program_that_builds_something_huge_ends_at_once(program: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(program)
    with pytest.raises(WeightsError, match=message):
        read_tensors(tmp_path / "w")


def test_content_is_not_copied_again_and_again(tmp_path: Path) -> None:
    text = b"X" + (10_000_000).to_bytes(4, "little") + b"x" * 10_000_000 + b"q\x00"
    copy = b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR"
    (tmp_path / "w").write_bytes(b"\x80\x04](" + text + copy * 50 + b"e.")
    with pytest.raises(WeightsError, match="copies its content again and again"):
        read_tensors(tmp_path / "w")


def test_an_object_that_holds_itself_is_no_endless_walk(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\x80\x04}q\x00X\x01\x00\x00\x00ah\x00s.")
    with pytest.raises(WeightsError, match="holds no weights"):
        read_tensors(tmp_path / "w")


def test_shared_and_nested_state_is_still_read(tmp_path: Path) -> None:
    shared = np.arange(6, dtype=np.float32).reshape(2, 3)
    state = {"epoch": 3, "history": [[1.0, 2.0]] * 3, "state_dict": {"a.weight": shared, "b.weight": shared}}
    (tmp_path / "w").write_bytes(pickle.dumps(state, 2))
    assert_same(read_tensors(tmp_path / "w").tensors, {"a.weight": shared, "b.weight": shared})


def _tar_of_zeros(path: Path, members: dict[str, int]) -> Path:
    """Members of zeros, of any size."""
    with gzip.open(path, "wb", 9) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for name, size in members.items():
            info = tarfile.TarInfo(name)
            info.size = size
            archive.addfile(info, _Zeros(size))
    return path


class _Zeros(io.RawIOBase):
    def __init__(self, left: int) -> None:
        self.left = left

    def read(self, size: int = -1) -> bytes:
        size = min(self.left, size if size >= 0 else self.left)
        self.left -= size
        return bytes(size)


@pytest.mark.parametrize("name", ["x.pdparams", "notes.txt"])
def test_a_tar_that_unpacks_to_too_much_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.weights.tensors._ANY_FILE", 2_000_000)
    path = _tar_of_zeros(tmp_path / "w.tar.gz", {name: 30_000_000, "y.pdparams": 10})
    with pytest.raises(WeightsError, match=rf"has {path.stat().st_size} bytes and unpacks to more than 2000000"):
        read_tensors(path)


@pytest.mark.parametrize("kind", ["weights", "torch"])
def test_a_zip_that_unpacks_to_too_much_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.weights.tensors._ANY_FILE", 2_000_000)
    name = "w.pdparams" if kind == "weights" else "archive/data.pkl"
    with zipfile.ZipFile(tmp_path / "w.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(3_000_000))
    with pytest.raises(WeightsError, match="unpacks to more than 2000000, which weights do not"):
        read_tensors(tmp_path / "w.zip")


def test_a_small_archive_of_zeros_is_read(tmp_path: Path) -> None:
    zeros = {"conv.weight": np.zeros((100, 100), np.float32)}
    inner = write_pdparams(tmp_path / "x.pdparams", zeros)
    with tarfile.open(tmp_path / "w.tar.gz", "w:gz") as archive:
        archive.add(inner, "x.pdparams")
    assert (tmp_path / "w.tar.gz").stat().st_size < 500
    assert_same(read_tensors(tmp_path / "w.tar.gz").tensors, zeros)


def test_tensors_that_share_a_storage_are_not_copied_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(state: Any) -> Any:
        storage = state["fc.weight"].arguments[0]
        for number in range(100):
            state[f"copy{number}"] = type(state["fc.weight"])(storage, 3, (2, 3), (1, 2))
        return state

    path = write_torch(
        tmp_path / "w", {"conv.weight": TENSORS["conv.weight"], "fc.weight": TENSORS["fc.weight"]}, share
    )
    assert len(read_tensors(path).tensors) == 102
    monkeypatch.setattr("rsseg_tf.weights.tensors._ANY_FILE", 0)
    monkeypatch.setattr("rsseg_tf.weights.tensors._MOST_TIMES", 10)
    monkeypatch.setattr("rsseg_tf.weights.tensors._Room.take", lambda self, count: None)
    with pytest.raises(WeightsError, match="the same numbers again and again"):
        read_tensors(path)
