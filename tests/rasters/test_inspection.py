"""A list is looked at once: what was seen is remembered, and forgotten as soon as a file may be another."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample, read_list
from rsseg_tf.rasters import inspection
from rsseg_tf.rasters import memory as memory_module
from rsseg_tf.rasters.inspection import Inspection, ListSummary, memory_file
from rsseg_tf.rasters.memory import Memory
from tests.fixtures.datasets import CLASSES, ids, picture, write, write_sound, write_tiff

SPEC = custom_spec("town", CLASSES)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset whose files count as settled at once."""
    monkeypatch.setattr(memory_module, "UNSETTLED_NS", -(10**9))
    return write_sound(tmp_path / "data")


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images in the order in which they are looked at."""
    names: list[str] = []
    real = inspection.summarise

    def counted(sample: Sample, *args: object, **options: object) -> object:
        names.append(sample.image.stem)
        return real(sample, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(inspection, "summarise", counted)
    return names


def look(root: Path, **options: object) -> ListSummary:
    samples = read_list(root / "train.txt", root)
    return Inspection(samples, SPEC, memory=root / "memory.npz", workers=1, **options).raise_first()  # type: ignore[arg-type]


def test_the_second_look_reads_no_file_and_knows_the_same(root: Path, looked: list[str]) -> None:
    first = look(root)
    assert sorted(looked) == [f"train_{number}" for number in range(5)]
    looked.clear()
    again = look(root)
    assert looked == []
    assert [again.kinds[place] for place in again.kind_of] == [first.kinds[place] for place in first.kind_of]
    np.testing.assert_array_equal(again.values, first.values)
    assert again.ids == first.ids == {0, 1, 2, 255}


def test_only_what_changed_is_looked_at_again(root: Path, looked: list[str]) -> None:
    look(root)
    looked.clear()
    write(root / "labels/train_3.png", ids(77))
    write(root / "images/train_1.png", picture(77))
    (root / "train.txt").write_text((root / "train.txt").read_text() + "images/val_0.png labels/val_0.png\n")
    look(root)
    assert looked == ["train_1", "train_3", "val_0"]


def test_another_file_of_the_same_size_and_time_is_another_file(root: Path, looked: list[str]) -> None:
    label = root / "labels/train_2.png"
    write_tiff(label, ids(2))
    look(root)
    before = label.stat()
    write_tiff(root / "other.tif", ids(3))
    shutil.copyfile(root / "other.tif", label)
    os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (label.stat().st_size, label.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    looked.clear()
    look(root)
    assert looked == ["train_2"]


def test_a_nodata_value_in_a_side_file_is_another_image(root: Path, looked: list[str]) -> None:
    image = root / "images/train_2.tif"
    write_tiff(image, picture(2))
    (root / "train.txt").write_text("images/train_2.tif labels/train_2.png\n")
    assert np.isnan(look(root).values).all()
    looked.clear()
    (root / "images/train_2.tif.aux.xml").write_text(
        "<PAMDataset>"
        + "".join(f'<PAMRasterBand band="{band}"><NoDataValue>0</NoDataValue></PAMRasterBand>' for band in (1, 2, 3))
        + "</PAMDataset>"
    )
    look(root)
    assert looked == ["train_2"]


def test_what_a_vrt_shows_is_looked_at_each_time(root: Path, looked: list[str]) -> None:
    write_tiff(root / "images/s.tif", picture(2))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename relativeToVRT="1">s.tif'
        f"</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
        for band in (1, 2, 3)
    )
    (root / "images/s.vrt").write_text(f'<VRTDataset rasterXSize="64" rasterYSize="64">{bands}</VRTDataset>')
    (root / "train.txt").write_text("images/s.vrt labels/train_2.png\n")
    look(root)
    look(root)
    assert looked == ["s", "s"]


def test_files_that_have_just_changed_are_not_remembered(
    root: Path, looked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_module, "UNSETTLED_NS", 10**12)
    look(root)
    look(root)
    assert len(looked) == 10


@pytest.mark.parametrize("content", [b"", b"no memory", b"PK\x03\x04 cut short", "half", "other rows"])
def test_a_memory_that_is_damaged_is_ignored(root: Path, looked: list[str], content: bytes | str) -> None:
    look(root)
    memory = root / "memory.npz"
    if content == "half":
        memory.write_bytes(memory.read_bytes()[:-300])
    elif content == "other rows":
        known = Memory.recalled(memory, inspection._WIDTH)
        Memory(known.pairs, known.stamps, known.rows + 1e6, known.words).keep(memory)
    else:
        assert isinstance(content, bytes)
        memory.write_bytes(content)
    looked.clear()
    assert look(root).ids == {0, 1, 2, 255}
    assert len(looked) == 5
    looked.clear()
    look(root)
    assert looked == []


def test_a_memory_that_cannot_be_written_costs_nothing_but_time(root: Path) -> None:
    (root / "memory.npz").mkdir()
    assert look(root).ids == {0, 1, 2, 255}


def test_what_was_seen_before_an_error_is_remembered(root: Path, looked: list[str]) -> None:
    (root / "labels/train_4.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"train_4\.png is empty"):
        look(root)
    write(root / "labels/train_4.png", ids(4))
    looked.clear()
    look(root)
    assert looked == ["train_4"]


def test_what_is_remembered_is_judged_by_the_dataset_of_today(root: Path, looked: list[str]) -> None:
    look(root)
    (root / "labels/train_1.png").unlink()
    write(root / "labels/train_1.png", ids(1, 64, 32))
    samples = read_list(root / "train.txt", root)
    two = custom_spec("town", CLASSES[:2])
    looked.clear()
    with pytest.raises(DataError, match=r"labels/train_0\.png holds the ids 2"):
        Inspection(samples, two, memory=root / "memory.npz", workers=1).raise_first()
    assert looked == ["train_1"], "the first wrong sample of the list is a remembered one"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", "strips.tif"])
def test_an_image_that_is_cut_short_is_found_without_its_pixels(root: Path, suffix: str) -> None:
    image = root / f"images/cut{suffix}"
    if suffix == "strips.tif":
        write_tiff(image, picture(1), compress="deflate", blockysize=8, interleave="band")
    elif suffix == ".tif":
        write_tiff(image, picture(1))
    else:
        write(image, picture(1))
    (root / "train.txt").write_text(f"images/{image.name} labels/train_1.png\n")
    look(root)
    (root / "memory.npz").unlink()
    image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(DataError, match=f"{image} is a damaged (PNG|JPEG|TIFF) file"):
        look(root)


def test_what_follows_the_end_of_a_png_does_not_matter(root: Path) -> None:
    image = root / "images/train_1.png"
    image.write_bytes(image.read_bytes() + b"made by a camera")
    assert (look(root).kind_of >= 0).all()


def test_a_pair_that_stands_in_many_lines_is_looked_at_once(root: Path, looked: list[str]) -> None:
    line = "images/train_1.png labels/train_1.png\n"
    (root / "train.txt").write_text(line * 50 + "images/train_2.png labels/train_2.png\n" + line * 50)
    summary = look(root)
    assert looked == ["train_1", "train_2"]
    assert len(summary.kind_of) == 101 and (summary.kind_of >= 0).all()


def test_a_memory_belongs_to_a_list_and_to_how_it_is_read(tmp_path: Path) -> None:
    def place(name: str = "train.txt", labels: bool = True, **change: object) -> Path:
        return memory_file(tmp_path, tmp_path / name, tmp_path, custom_spec("town", CLASSES, **change), labels=labels)  # type: ignore[arg-type]

    assert place() == place()
    others = {place("val.txt"), place(labels=False), place(max_value=10000.0), place(ignore_index=9), place(bands=4)}
    assert len({place(), *others}) == 6


@pytest.mark.slow
def test_processes_see_what_threads_see(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "_WORTH_PROCESSES", 1)
    here, there = look(root), look(root / ".", processes=2)
    assert [here.kinds[place] for place in here.kind_of] == [there.kinds[place] for place in there.kind_of]
