from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsseg_tf.errors import DataError
from rsseg_tf.files import archives
from rsseg_tf.files.archives import Member, list_members, local_copy


def read_member(member: Member, scratch: Path | None = None) -> bytes:
    with local_copy(member, scratch) as path:
        return path.read_bytes()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    archives.close_archives()


def zip_bytes(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def make_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(zip_bytes(members, compression))
    return path


def make_folder(path: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def paths(*sources: Path, **options: Any) -> list[str]:
    return [member.path for member in list_members(sources, **options)]


MEMBERS = {"b/x.txt": b"1", "a.txt": b"2", "__MACOSX/b/._x.txt": b"3", "b/.DS_Store": b"4"}


def test_folder_and_zip_look_alike(tmp_path: Path) -> None:
    for source in (make_folder(tmp_path / "set", MEMBERS), make_zip(tmp_path / "z" / "set.zip", MEMBERS)):
        members = list_members([source])
        assert [member.path for member in members] == ["set/a.txt", "set/b/x.txt"]
        assert read_member(members[1]) == b"1"
        assert str(members[1]).endswith("b/x.txt")
        assert members[1].size == 1


def test_names_with_backslashes(tmp_path: Path) -> None:
    names = ["b\\x.txt", "a.txt", "__MACOSX\\x.txt", "empty\\"]
    source = make_zip(tmp_path / "set.zip", dict.fromkeys(names, b"1"))
    with zipfile.ZipFile(source) as file:
        assert file.namelist() == names
    members = list_members([source])
    assert [member.path for member in members] == ["set/a.txt", "set/b/x.txt"]
    assert read_member(members[1]) == b"1"


def test_several_sources_and_relative_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "one", {"x": b"1"})
    make_folder(tmp_path / "two", {"x": b"2"})
    monkeypatch.chdir(tmp_path / "one")
    here, there = list_members([type(tmp_path)("."), tmp_path / "two"])
    assert (here.path, read_member(here), there.path, read_member(there)) == ("one/x", b"1", "two/x", b"2")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_files_within_folders_and_zip_files(tmp_path: Path, compression: int) -> None:
    inner = zip_bytes({"x.txt": b"x" * 5000, "__MACOSX/x.txt": b""})
    middle = zip_bytes({"inner.zip": inner, "y.txt": b"y"}, compression)
    make_zip(tmp_path / "set" / "outer.ZIP", {"deep/middle.zip": middle, "z.txt": b"z"}, compression)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    members = list_members([tmp_path / "set"], scratch)
    assert [member.path for member in members] == [
        "set/outer/deep/middle/inner/x.txt", "set/outer/deep/middle/y.txt", "set/outer/z.txt",
    ]  # fmt: skip
    assert read_member(members[0], scratch) == b"x" * 5000
    assert [read_member(member, scratch) for member in members[1:]] == [b"y", b"z"]


def test_a_zip_file_compressed_in_another_needs_room(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"inner.zip": zip_bytes({"x": b""})})
    with pytest.raises(DataError, match=r"inner\.zip is a zip file compressed within another one; unpack"):
        list_members([path])


def test_what_lies_unpacked_beside_its_zip_file_counts_once(tmp_path: Path) -> None:
    content = {"top/x.tif": b"1", "y.tif": b"22"}
    for place in ("set", "set/part"):  # unpacked here, or into a folder of its name
        root = tmp_path / place.replace("/", "_")
        make_zip(root / "set" / "part.zip", content)
        make_folder(root / place, content)
        members = list_members([root / "set"])
        assert [member.chain for member in members] == [(), ()]
        (root / place / "y.tif").write_bytes(b"another")
        assert len(list_members([root / "set"])) == 3


def test_same_name_elsewhere_is_another_file(tmp_path: Path) -> None:
    make_zip(tmp_path / "set" / "masks.zip", {"x.tif": b"1"})
    make_folder(tmp_path / "set" / "images", {"x.tif": b"2"})
    assert paths(tmp_path / "set") == ["set/images/x.tif", "set/masks/x.tif"]


def test_copies_are_removed(tmp_path: Path) -> None:
    (member,) = list_members([make_zip(tmp_path / "a.zip", {"x.png": b"1"})])
    with local_copy(member, tmp_path) as path:
        assert (path.read_bytes(), path.suffix, path.parent) == (b"1", ".png", tmp_path)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_replaced_zip_file_is_opened_anew(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x": b"1"})
    (before,) = list_members([path])
    assert read_member(before) == b"1"
    make_zip(path, {"x": b"2"})
    os.utime(path, ns=(1, 1))
    (after,) = list_members([path])
    assert read_member(after) == b"2"
    assert before.stamp != after.stamp


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "..\\evil", "C:/evil", "\\\\x\\y"])
def test_names_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "a.zip", {"fine.txt": b"", name: b"x"})
    with pytest.raises(DataError, match="leads outside the archive"):
        list_members([path])


def test_no_zip_and_nothing_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="neither a folder nor a whole zip file"):
        list_members([tmp_path / "a.zip"])
    with pytest.raises(DataError, match="does not exist"):
        list_members([tmp_path / "absent.zip"])


def test_truncated_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x": b"0" * 1000})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="Download it again"):
        list_members([path])


def test_damaged_member(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x.txt": bytes(range(256)) * 10})
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    path.write_bytes(data)
    (member,) = list_members([path])
    with pytest.raises(DataError, match=r"a\.zip:x\.txt is damaged"):
        read_member(member)


def test_oversized_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 100)
    path = make_zip(tmp_path / "bomb.zip", {"x": b"0" * 101})
    with pytest.raises(DataError, match="x would take 101 bytes"):
        list_members([path])


def test_encrypted_zip(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag in the central directory
    path.write_bytes(data)
    with pytest.raises(DataError, match="is encrypted"):
        list_members([path])


def test_vanished_files(tmp_path: Path) -> None:
    (in_folder,) = list_members([make_folder(tmp_path / "set", {"x": b"1"})])
    (in_zip,) = list_members([make_zip(tmp_path / "a.zip", {"x": b"1"})])
    (tmp_path / "set" / "x").unlink()
    (tmp_path / "a.zip").unlink()
    for member in (in_folder, in_zip):
        with pytest.raises(DataError, match="cannot be read"):
            read_member(member)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("d.tar.gz", "Unpack it, and name the folder"), ("d.7z", "Unpack it, and name"), ("d.zip", "Download it again")],
)
def test_what_is_no_zip_file_says_what_to_do(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(DataError, match=f"neither a folder nor a whole zip file .*{remedy}"):
        list_members([tmp_path / name])


# === Archives that are damaged, or built to harm ===


def test_an_archive_within_archives_without_end_is_refused(tmp_path: Path) -> None:
    data = zip_bytes({"x": b"1"}, zipfile.ZIP_STORED)
    for _ in range(6):
        data = zip_bytes({"again.zip": data}, zipfile.ZIP_STORED)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(DataError, match="again.zip is a zip file 4 levels down"):
        list_members([tmp_path / "a.zip"], tmp_path)


def test_an_inner_archive_that_shrinks_too_much_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"inner.zip": bytes(5_000_000)})
    with pytest.raises(DataError, match=r"inner\.zip is a zip file of 5000000 bytes packed into \d+; real ones"):
        list_members([path], tmp_path)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_members_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"x": b"0" * 1000, "y": b"1" * 1000})
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = bytes(4)  # where its content begins
    path.write_bytes(data)
    with pytest.raises(DataError, match="x and y overlap in the file|y and x overlap in the file"):
        list_members([path])


def test_more_archives_than_a_process_may_open(tmp_path: Path) -> None:
    for i in range(archives._MOST_OPEN + 20):
        make_zip(tmp_path / "set" / f"{i:03}.zip", {"x": b"%d" % i})
    members = list_members([tmp_path / "set"])
    assert len(archives._OPEN) == archives._MOST_OPEN
    assert [read_member(member) for member in members] == [b"%d" % i for i in range(len(members))]


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_of_any_kind_is_one_error(tmp_path: Path, compression: int) -> None:
    """Bytes of an archive are changed in turn; LZMA, names, flags and versions raise something of their own each."""
    sound = zip_bytes({"x/\u00e4.txt": bytes(range(256)) * 2, "y.zip": zip_bytes({"z": b"z"})}, compression)
    rng = random.Random(3)
    for at in range(0, len(sound), 3):
        data = bytearray(sound)
        data[at] ^= 1 << rng.randrange(8)
        path = tmp_path / "a.zip"
        path.write_bytes(data)
        os.utime(path, ns=(at, at))
        try:
            for member in list_members([path], tmp_path):
                read_member(member, tmp_path)
        except DataError as error:
            assert "\n" not in str(error)
        archives.close_archives()
        for copy in tmp_path.glob("*-*.zip"):
            copy.unlink()
