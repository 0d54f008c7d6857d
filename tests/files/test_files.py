from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import atomic_folder, atomic_path, hold, remove_leftovers, walk_files
from rsseg_tf.files.locks import Held
from rsseg_tf.files.writing import discard_folder, recover_folder


def test_atomic_path_keeps_the_old_file_on_error(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_path_keeps_suffix_and_folder(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.tif") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".tif"
        temporary.write_bytes(b"x")
        assert not (tmp_path / "a.tif").exists()
    assert (tmp_path / "a.tif").read_bytes() == b"x"
    assert list(tmp_path.iterdir()) == [tmp_path / "a.tif"]


def test_atomic_path_without_a_file_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass


def test_atomic_path_takes_the_side_file_along(tmp_path: Path) -> None:
    target = tmp_path / "a.tif"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"x")
        temporary.with_name(temporary.name + ".aux.xml").write_text("<PAMDataset/>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "a.tif.aux.xml"]
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"y")
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]  # what described the old file goes with it


def test_atomic_path_with_a_name_as_long_as_file_systems_take(tmp_path: Path) -> None:
    target = tmp_path / ("ä" * 125 + ".tif")
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_leftovers_of_a_kill_are_removed_and_nothing_else(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from rsseg_tf.files import atomic_path\n"
        "with atomic_path(Path(sys.argv[1])) as partial:\n    partial.write_text('half'); os._exit(9)"
    )
    for name in ("a.json", "noext"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=False)
    (tmp_path / ".mine.tmp").write_text("kept")
    (tmp_path / "a.tmp.json").write_text("kept")
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "a.tmp.json"]


def test_a_folder_appears_whole_and_replaces_the_earlier_one(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "deep" / "set") as folder:
            (folder / "a").write_text(content)
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "deep" / "set") as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert (tmp_path / "deep/set/a").read_text() == "new"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["set"]


def test_a_folder_that_cannot_take_its_name_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "set") as folder:
        (folder / "a").write_text("old")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == ".set.partial":
            raise OSError(errno.EIO, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output"), atomic_folder(tmp_path / "set"):
        pass
    assert (tmp_path / "set/a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_that_a_kill_has_set_aside_is_recovered(tmp_path: Path) -> None:
    (tmp_path / ".set.retired").mkdir()
    recover_folder(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / ".set.retired").mkdir()
    recover_folder(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    discard_folder(tmp_path / "set")
    discard_folder(tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def held(path: Path) -> Held:
    """Takes a lock that is free."""
    lock = hold(path)
    assert lock is not None
    return lock


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with held(path):
        assert hold(path) is None
    assert not path.exists()
    again = held(path)
    again.release()
    again.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_share_without_locks_gets_a_soft_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "lock"
    with held(path):
        assert hold(path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_soft_lock_of_a_dead_process_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = (
        "import os, sys; from filelock import SoftFileLock\n"
        "lock = SoftFileLock(sys.argv[1]); lock.acquire(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "lock.soft")], check=False)
    assert (tmp_path / "lock.soft").is_file()

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(tmp_path / "lock"):
        pass


def test_walk_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    (tmp_path / "in/b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/c.png").touch()
    for name in ("in/a.png", "in/b/d.png", "in/.hidden.png"):
        (tmp_path / name).touch()
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/b/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "in/out").mkdir()
    (tmp_path / "in/out/e.png").touch()
    told: list[tuple[Path, str]] = []
    hidden: list[Path] = []
    found = walk_files(
        tmp_path / "in",
        exclude=tmp_path / "in/out",
        skipped=lambda path, why: told.append((path, why)),
        hidden=hidden.append,
    )
    assert [path.relative_to(tmp_path / "in").as_posix() for path in found] == ["a.png", "b/d.png", "linked/c.png"]
    assert [path.name for path, _ in told] == ["up", "gone"]
    assert "leads back" in told[0][1]
    assert [path.name for path in hidden] == [".hidden.png"]


def chained() -> OSError:
    try:
        try:
            raise ValueError("TIFFFillTile: 3 bytes of 40")
        except ValueError as error:
            raise OSError("Read failed. See previous exception for details.") from error
    except OSError as error:
        return error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (chained(), "Read failed: ValueError: TIFFFillTile: 3 bytes of 40"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (DataError("a.png is cut short.\nCopy it."), "a.png is cut short. Copy it"),
        (KeyError(), "KeyError"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 387 + "…"),
    ],
)
def test_reason_is_one_line_with_all_causes(error: Exception, line: str) -> None:
    assert reason(error) == line
