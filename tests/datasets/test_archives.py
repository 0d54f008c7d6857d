from __future__ import annotations

import zipfile

import pytest

from rsseg_tf.datasets import archives
from rsseg_tf.datasets.archives import open_archive
from rsseg_tf.errors import DataError


def make_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_folder_and_zip_look_alike(tmp_path):
    members = {"b/x.txt": b"1", "a.txt": b"2", "__MACOSX/b/._x.txt": b"3", "b/.DS_Store": b"4"}
    folder = tmp_path / "folder"
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for source in (folder, make_zip(tmp_path / "a.zip", members)):
        with open_archive(source) as archive:
            assert archive.names == ("a.txt", "b/x.txt")
            assert archive.read("b/x.txt") == b"1"
            assert "b/x.txt" in archive.describe("b/x.txt")


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil", "..\\evil", "C:/evil", "\\\\x\\y"])
def test_names_that_lead_outside_are_refused(tmp_path, name):
    path = make_zip(tmp_path / "a.zip", {"fine.txt": b"", name: b"x"})
    with pytest.raises(DataError, match="leads outside the archive"), open_archive(path):
        pass


def test_no_zip_and_nothing_at_all(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"not a zip")
    with pytest.raises(DataError, match="neither a folder nor a whole zip file"), open_archive(tmp_path / "a.zip"):
        pass
    with pytest.raises(DataError, match="does not exist"), open_archive(tmp_path / "absent.zip"):
        pass


def test_truncated_zip(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"x": b"0" * 1000})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="Download it again"), open_archive(path):
        pass


def test_damaged_member(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"x.txt": bytes(range(256)) * 10})
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(20)
    path.write_bytes(data)
    with open_archive(path) as archive, pytest.raises(DataError, match=r"a\.zip:x\.txt is damaged"):
        archive.read("x.txt")


def test_oversized_member(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 100)
    path = make_zip(tmp_path / "bomb.zip", {"x": b"0" * 101})
    with pytest.raises(DataError, match="x would take 101 bytes"), open_archive(path):
        pass


def test_encrypted_zip(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"x": b"1"})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag in the central directory
    path.write_bytes(data)
    with pytest.raises(DataError, match="is encrypted"), open_archive(path):
        pass


def test_vanished_file(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    with open_archive(tmp_path) as archive:
        (tmp_path / "x").unlink()
        with pytest.raises(DataError, match="cannot be read"):
            archive.read("x")
