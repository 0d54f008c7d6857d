from __future__ import annotations

import json
from pathlib import Path

import pytest

from rsseg_tf.errors import DataError
from rsseg_tf.files.reading import read_bytes, read_json


def test_the_beginning_the_end_and_the_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    assert read_bytes(tmp_path / "a") == b"0123456789"
    assert read_bytes(tmp_path / "a", 3) == b"012"
    assert read_bytes(tmp_path / "a", 3, at_end=True) == b"789"
    assert read_bytes(tmp_path / "a", 30, at_end=True) == b"0123456789"


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\\x0a\.png does not exist\. Check the path"):
        read_bytes(tmp_path / "gone\n.png")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_bytes(tmp_path)


def test_json_is_read_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, "é"]}), "utf-8")
    assert read_json(path) == {"a": [1, "é"]}
    with pytest.raises(ValueError, match="larger than 5 bytes"):
        read_json(path, most_bytes=5)
    path.write_text("[" * 200_000, "utf-8")
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(path)
    with pytest.raises(OSError, match="No such file"):
        read_json(tmp_path / "gone.json")
