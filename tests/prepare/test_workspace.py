"""What all datasets share: several processes, taking up unfinished work, and leaving nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from rsseg_tf.datasets.isprs import SPLIT_IDS
from rsseg_tf.datasets.table import SPECS
from rsseg_tf.errors import DataError
from rsseg_tf.prepare import cutting
from rsseg_tf.prepare.output import PrepareReport
from tests.fixtures import downloads

NAMES = ("2_10", "2_11", "2_12", "3_10", "3_11", "2_13", "2_14")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def prepare(root: Path, output: Path, **options: Any) -> PrepareReport:
    return downloads.prepare("potsdam", root, output, **{"tile_size": 32, **options})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    downloads.potsdam(tmp_path / "download", NAMES, (70, 90))
    return tmp_path / "download"


def test_processes_give_the_same(root: Path, tmp_path: Path) -> None:
    calls = []
    prepare(root, tmp_path / "a", progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 7) for done in range(1, 8)]
    calls.clear()
    prepare(root, tmp_path / "b", workers=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(done, 7) for done in range(1, 8)]
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "download"}


def test_running_again_does_nothing_unless_something_changed(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = prepare(root, out)
    written = (out / "dataset.json").stat().st_mtime_ns
    again = prepare(root, out)
    assert (first.up_to_date, again.up_to_date, again.splits) == (False, True, first.splits)
    assert (out / "dataset.json").stat().st_mtime_ns == written
    assert not prepare(root, out, tile_size=16).up_to_date
    assert not prepare(root, out).up_to_date
    next(out.glob("img_dir/train/*.png")).unlink()
    assert not prepare(root, out).up_to_date
    archive = root / "5_Labels_all_noBoundary.zip"
    with zipfile.ZipFile(archive) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    members["top_potsdam_2_10_label_noBoundary.tif"] = members["top_potsdam_2_11_label_noBoundary.tif"]
    downloads.write_zip(archive, members)
    assert not prepare(root, out).up_to_date
    assert {path.name for path in tmp_path.iterdir()} == {"out", "download"}


def damage(archive: Path, names: list[str]) -> None:
    """Changes a byte in the middle of some members of a zip file, so that their checksums fail."""
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        for name in names:
            info = file.getinfo(name)
            data[info.header_offset + 30 + len(name) + info.compress_size // 2] ^= 0xFF
    archive.write_bytes(data)


@pytest.mark.parametrize("workers", [1, 2])
def test_corrupt_members_are_named_after_all_others_are_done(root: Path, tmp_path: Path, workers: int) -> None:
    prepare(root, tmp_path / "whole")
    images = root / "2_Ortho_RGB.zip"
    whole = images.read_bytes()
    damage(images, [f"2_Ortho_RGB/top_potsdam_{name}_RGB.tif" for name in ("2_10", "2_13")])
    with pytest.raises(DataError) as caught:
        prepare(root, tmp_path / "out", workers=workers)
    first, *others = str(caught.value).split("\n")
    assert first.startswith("2 of 7 scenes failed. The other scenes are kept in ")
    assert [line.split(" is damaged")[0].rpartition("/")[2] for line in others] == [
        "top_potsdam_2_10_RGB.tif", "top_potsdam_2_13_RGB.tif",
    ]  # fmt: skip
    assert not (tmp_path / "out").exists()
    images.write_bytes(whole)
    calls = []
    prepare(root, tmp_path / "out", workers=workers, progress=lambda done, _: calls.append(done))
    assert calls == [5, 6, 7], "five scenes were taken over"
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_raised_limit_takes_over_all_scenes(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = root / "5_Labels_all_noBoundary.zip"
    with zipfile.ZipFile(archive) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    mask = downloads.isprs_mask(downloads.isprs_scenes(["x"], 70, 90)["x"][1])
    mask[0, :5] = (9, 9, 9)
    members["top_potsdam_2_11_label_noBoundary.tif"] = downloads.encoded(mask, ".tif")
    downloads.write_zip(archive, members)
    with pytest.raises(DataError, match="5 of 6300 pixels in 1 colour outside the palette"):
        prepare(root, tmp_path / "out", off_palette_fraction=0)
    monkeypatch.setattr("rsseg_tf.prepare.workspace.cut_scene", None)
    report = prepare(root, tmp_path / "out", off_palette_fraction=0.01)
    assert report.splits["train"].off_palette_pixels == 5


def test_other_settings_than_the_unfinished_run(root: Path, tmp_path: Path) -> None:
    damage(root / "2_Ortho_RGB.zip", ["2_Ortho_RGB/top_potsdam_2_10_RGB.tif"])
    with pytest.raises(DataError, match="is damaged"):
        prepare(root, tmp_path / "out")
    with pytest.raises(DataError, match=r"unfinished run in .*\.out\.partial had tile_size 32, now it is 16\. Finish"):
        prepare(root, tmp_path / "out", tile_size=16)
    assert (tmp_path / ".out.partial").is_dir(), "finished scenes are not thrown away"


def test_a_changed_scene_is_cut_again_and_a_vanished_one_leaves_nothing(root: Path, tmp_path: Path) -> None:
    images, masks = root / "2_Ortho_RGB.zip", root / "5_Labels_all_noBoundary.zip"
    damage(images, ["2_Ortho_RGB/top_potsdam_2_10_RGB.tif"])
    with pytest.raises(DataError, match="is damaged"):
        prepare(root, tmp_path / "out")
    downloads.potsdam(root, ("2_10", "2_14", "2_12", "2_13"), (70, 90))  # other pixels under the same names
    prepare(root, tmp_path / "out")
    prepare(root, tmp_path / "fresh")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    assert masks.exists()


SCRIPT = """
import sys
from pathlib import Path
from rsseg_tf.prepare.run import PrepareOptions, prepare_dataset
if __name__ == "__main__":
    options = PrepareOptions(tile_size=32, workers=2, progress=lambda done, total: print(done, flush=True))
    prepare_dataset("potsdam", Path(sys.argv[1]), Path(sys.argv[2]), options)
"""


def alive(group: int) -> list[int]:
    """Returns the processes of a group that are not just waiting to be collected."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp, *_ = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(pgrp) == group and state not in "ZX":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_taken_up_after_a_kill(tmp_path: Path) -> None:
    names = (*SPLIT_IDS["potsdam"]["train"][:10], "2_13")
    downloads.potsdam(tmp_path / "download", names, (400, 500))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "download"), str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    with process:
        assert process.stdout is not None
        done = [process.stdout.readline().strip() for _ in range(2)]
        os.kill(process.pid, signal.SIGKILL)
    assert done == ["1", "2"]
    assert not (tmp_path / "out").exists()
    deadline = time.monotonic() + 20
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(process.pid), "the workers follow their parent"
    (tmp_path / ".out.partial/img_dir/train/.half.0123.tmp.png").write_bytes(b"half")  # as a kill may leave
    calls = []
    prepare(tmp_path / "download", tmp_path / "out", tile_size=32, progress=lambda done, _: calls.append(done))
    assert 2 <= calls[0] < 11 and calls[-1] == 11
    prepare(tmp_path / "download", tmp_path / "fresh", tile_size=32)
    assert content(tmp_path / "out") == content(tmp_path / "fresh")


def test_damaged_entries_of_the_journal_count_as_not_made(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path / "fresh")
    images = root / "2_Ortho_RGB.zip"
    whole = images.read_bytes()
    damage(images, ["2_Ortho_RGB/top_potsdam_2_10_RGB.tif"])
    with pytest.raises(DataError, match="is damaged"):
        prepare(root, tmp_path / "out")
    images.write_bytes(whole)
    journal = tmp_path / ".out.partial/.work/journal.jsonl"
    settings, *entries = journal.read_bytes().splitlines()
    assert len(entries) > 5
    damaged = [b"", b'{"stem": 1}', b"[1, null]", b"{}", b"\xff"]
    cut_short = entries[-1][: len(entries[-1]) // 2]
    journal.write_bytes(b"\n".join([settings, *damaged, *entries[len(damaged) : -1], cut_short]))
    prepare(root, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fresh", "download"}


@pytest.mark.parametrize("last", ["work", "aside"])
def test_a_kill_on_the_last_inch_costs_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    """All tiles are cut: the folder only has to take its place, or the one before to come back."""
    prepare(root, tmp_path / "out", tile_size=16)
    prepare(root, tmp_path / "fresh")
    real = Path.rename

    class Killed(BaseException):
        pass

    def rename(self: Path, target: Path) -> Path:
        if self.name == ("out" if last == "work" else ".out.partial"):
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "rename", rename)
        prepare(root, tmp_path / "out")
    monkeypatch.setattr("rsseg_tf.prepare.workspace.cut_scene", None)
    report = prepare(root, tmp_path / "out")
    assert not report.up_to_date
    assert content(tmp_path / "out") == content(tmp_path / "fresh")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "fresh", "download"}


def test_a_killed_worker(root: Path, tmp_path: Path) -> None:
    def kill(done: int, total: int) -> None:
        import multiprocessing

        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(DataError, match=r"A worker process was killed.*fewer --workers \(now 2\)"):
        prepare(root, tmp_path / "out", workers=2, progress=kill)
    prepare(root, tmp_path / "out")


def test_one_at_a_time(root: Path, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".out.lock"),
        pytest.raises(DataError, match=r"Another process is preparing .*out \(its lock is .*lock\)"),
    ):
        prepare(root, tmp_path / "out")
    prepare(root, tmp_path / "out")


def test_a_full_disk(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cutting, "tile_name", full)
    with pytest.raises(DataError, match="Cannot write .*out: No space left on device"):
        prepare(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["download"]


def test_foreign_folder_is_refused_before_any_work(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds 'thesis\.txt', which rsseg_tf did not write"):
        prepare(root, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "download"}


def test_a_list_of_the_users_own_is_not_replaced(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path / "out")
    (tmp_path / "out" / "train_small.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds 'train_small\.txt', which rsseg_tf did not write"):
        prepare(root, tmp_path / "out", tile_size=16)


def test_path_traversal_is_refused(root: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(root / "2_Ortho_RGB.zip", "a") as file:
        file.writestr("../../evil.txt", b"x")
    with pytest.raises(DataError, match=r"holds the name '\.\./\.\./evil\.txt', which leads outside"):
        prepare(root, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["download"]


def test_description_names_the_tiles(root: Path, tmp_path: Path) -> None:
    prepare(root, tmp_path / "out")
    content = json.loads((tmp_path / "out/dataset.json").read_text())
    assert content["tile_names"] == "{stem}_{x0}_{y0}_{x1}_{y1}"
    assert content["name"] in SPECS
