from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rsseg_tf.datasets.isprs import POTSDAM, SPLIT_IDS, VAIHINGEN
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.rasters.images import read_image, read_label
from tests.fixtures import downloads
from tests.fixtures.downloads import prepare

MAKERS = {"potsdam": (POTSDAM, downloads.potsdam), "vaihingen": (VAIHINGEN, downloads.vaihingen)}


def content(folder: Path) -> dict[str, bytes]:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files.pop(".prepared")
    return files


def test_splits() -> None:
    sizes = {name: {split: len(ids) for split, ids in splits.items()} for name, splits in SPLIT_IDS.items()}
    assert sizes == {"potsdam": {"train": 24, "val": 14}, "vaihingen": {"train": 16, "val": 17}}
    for splits in SPLIT_IDS.values():
        assert not set(splits["train"]) & set(splits["val"])
    assert {"2_10", "6_7", "7_12"} <= set(SPLIT_IDS["potsdam"]["train"])
    assert {"2_13", "7_13", "4_15"} <= set(SPLIT_IDS["potsdam"]["val"])


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("size", "clip"), [((70, 90), 32), ((64, 64), 32), ((33, 65), 32), ((32, 32), 32)])
def test_benchmark_cutting_gives_the_tiles_of_the_original(
    tmp_path: Path, name: str, size: tuple[int, int], clip: int
) -> None:
    spec, make = MAKERS[name]
    scenes = make(tmp_path / "download", size=size)
    report = prepare(spec.name, tmp_path / "download", tmp_path / "out", tile_size=clip)
    written: dict[str, dict[str, np.ndarray]] = {"img_dir": {}, "ann_dir": {}}
    for kind in written:
        for path in (tmp_path / "out" / kind).rglob("*.png"):
            written[kind][f"{path.parent.name}/{path.stem}"] = (read_image if kind == "img_dir" else read_label)(path)
    for kind, part in (("img_dir", 0), ("ann_dir", 1)):
        expected: dict[str, np.ndarray] = {}
        for stem, arrays in scenes.items():
            split = "train" if stem in SPLIT_IDS[name]["train"] else "val"
            tiles = downloads.original_isprs_tiles(stem, arrays[part], clip, clip // 2)
            expected |= {f"{split}/{tile}": pixels for tile, pixels in tiles.items()}
        assert written[kind].keys() == expected.keys()
        for tile, pixels in expected.items():
            np.testing.assert_array_equal(written[kind][tile], pixels)
    for split, counts in report.splits.items():
        samples = read_list(tmp_path / "out" / f"{split}.txt", tmp_path / "out")
        assert len(samples) == counts.tiles
        ids = [scenes[stem][1] for stem in scenes if stem in SPLIT_IDS[name][split]]
        assert counts.ignored_pixels == sum((array == 255).sum() for array in ids)
        assert counts.pixels["car"] == sum((array == 4).sum() for array in ids)


def test_names_are_columns_first(tmp_path: Path) -> None:
    downloads.potsdam(tmp_path / "download", size=(32, 64))
    prepare("potsdam", tmp_path / "download", tmp_path / "out", tile_size=32)
    assert {path.name for path in (tmp_path / "out/img_dir/val").iterdir()} == {
        "2_13_0_0_32_32.png", "2_13_32_0_64_32.png",
    }  # fmt: skip


def test_overlap_cutting_honours_the_stride(tmp_path: Path) -> None:
    scenes = downloads.vaihingen(tmp_path / "download", size=(64, 80))
    prepare("vaihingen", tmp_path / "download", tmp_path / "out", tile_size=32, cutting="overlap")
    names = {path.stem for path in (tmp_path / "out/img_dir/train").glob("area1_*")}
    assert names == {f"area1_{x}_{y}_{x + 32}_{y + 32}" for x in (0, 16, 32, 48) for y in (0, 16, 32)}
    tile = read_image(tmp_path / "out/img_dir/train/area1_48_16_80_48.png")
    np.testing.assert_array_equal(tile, scenes["area1"][0][16:48, 48:80])
    prepare("vaihingen", tmp_path / "download", tmp_path / "b", tile_size=32, cutting="overlap", overlap=8)
    assert len(list((tmp_path / "b/img_dir/train").glob("area1_*"))) == 9
    assert json.loads((tmp_path / "b/dataset.json").read_text())["cutting"] == "overlap"


def test_small_scenes_are_padded(tmp_path: Path) -> None:
    scenes = downloads.vaihingen(tmp_path / "download", size=(40, 20))
    prepare("vaihingen", tmp_path / "download", tmp_path / "out", tile_size=32)
    image, label = scenes["area1"]
    tile = read_image(tmp_path / "out/img_dir/train/area1_0_8_32_40.png")
    np.testing.assert_array_equal(tile[:, :20], image[8:40])
    assert not tile[:, 20:].any()
    ids = read_label(tmp_path / "out/ann_dir/train/area1_0_8_32_40.png")
    np.testing.assert_array_equal(ids[:, :20], label[8:40])
    assert (ids[:, 20:] == 255).all()


def renamed(root: Path) -> None:
    for number, path in enumerate(sorted(root.glob("*.zip"))):
        path.rename(root / f"renamed {number}.zip")


def nested(root: Path) -> None:
    for path in sorted(root.glob("*.zip")):
        with zipfile.ZipFile(path) as file:
            members = {f"some/deeper folder/{info.filename}": file.read(info) for info in file.infolist()}
        downloads.write_zip(path, members, macos=True)


def in_one_zip(root: Path) -> None:
    data = downloads.zip_of(root)
    for path in root.glob("*.zip"):
        path.unlink()
    (root / "Everything.zip").write_bytes(data)


def both(root: Path) -> None:
    copy = root.with_name("copy")
    shutil.copytree(root, copy)
    downloads.unpack(root)
    shutil.copytree(copy, root, dirs_exist_ok=True)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("rearrange", [renamed, nested, downloads.unpack, in_one_zip, both])
def test_however_it_lies_the_result_is_the_same(tmp_path: Path, name: str, rearrange: Callable[..., Any]) -> None:
    spec, make = MAKERS[name]
    # neither a "label" nor a "noBoundary" on the way to the files turns images into masks
    root = tmp_path / "label_noBoundary" / "download"
    make(root)
    prepare(spec.name, root, tmp_path / "plain", tile_size=32)
    rearrange(root)
    prepare(spec.name, root, tmp_path / "other", tile_size=32)
    assert content(tmp_path / "plain") == content(tmp_path / "other")


def test_the_zip_files_themselves(tmp_path: Path) -> None:
    downloads.potsdam(tmp_path / "a")
    prepare("potsdam", tmp_path / "a", tmp_path / "x", tile_size=32)
    prepare("potsdam", sorted((tmp_path / "a").glob("*.zip")), tmp_path / "y", tile_size=32)
    assert content(tmp_path / "x") == content(tmp_path / "y")


def test_full_masks(tmp_path: Path) -> None:
    scenes = downloads.vaihingen(tmp_path / "download")
    prepare("vaihingen", tmp_path / "download", tmp_path / "out", tile_size=32, labels="full")
    ids = read_label(tmp_path / "out/ann_dir/train/area1_0_0_32_32.png")
    np.testing.assert_array_equal(ids, np.where(scenes["area1"][1] == 255, 0, scenes["area1"][1])[:32, :32])
    assert json.loads((tmp_path / "out/dataset.json").read_text())["labels"] == "full"
    (tmp_path / "download/ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE.zip").unlink()
    with pytest.raises(DataError, match="no eroded masks of vaihingen. There are full ones: choose labels 'full'"):
        prepare("vaihingen", tmp_path / "download", tmp_path / "out2")


def test_full_masks_of_potsdam_and_other_pictures_stay_out(tmp_path: Path) -> None:
    scenes = downloads.potsdam(tmp_path / "download")
    full = {
        f"top_potsdam_{name}_label.tif": downloads.encoded(downloads.isprs_mask(np.where(ids == 255, 1, ids)), ".tif")
        for name, (_, ids) in scenes.items()
    }
    downloads.write_zip(tmp_path / "download/5_Labels_all.zip", full)
    downloads.write_zip(tmp_path / "download/5_Labels_for_participants.zip", dict(list(full.items())[:1]))
    other = {f"4_Ortho_RGBIR/top_potsdam_{name}_RGBIR.tif": b"not read" for name in scenes}
    downloads.write_zip(tmp_path / "download/4_Ortho_RGBIR.zip", other)
    for labels, ignored in (("eroded", True), ("full", False)):
        report = prepare("potsdam", tmp_path / "download", tmp_path / labels, tile_size=32, labels=labels)
        assert (report.splits["train"].ignored_pixels > 0) == ignored


def spoil(path: Path, member: str, change: Callable[..., Any]) -> None:
    with zipfile.ZipFile(path) as file:
        members = {info.filename: file.read(info) for info in file.infolist()}
    members[member] = change(members[member])
    if members[member] is None:
        del members[member]
    downloads.write_zip(path, members)


def recoloured(data: bytes) -> bytes:
    ids = np.zeros((70, 90), np.uint8)
    mask = downloads.isprs_mask(ids)
    # these two meet the hash that the original compares colours by, 2 B + 3 G + 4 R: it would call them building
    mask[0, :2] = (0, 170, 0), (64, 0, 127)
    return downloads.encoded(mask, ".tif")


@pytest.mark.parametrize(
    ("archive", "member", "change", "message"),
    [
        ("5_Labels_all_noBoundary.zip", "top_potsdam_6_9_label_noBoundary.tif", lambda data: None,
         r"1 file has no mask: download/2_Ortho_RGB/2_Ortho_RGB/top_potsdam_6_9_RGB\.tif"),
        ("2_Ortho_RGB.zip", "2_Ortho_RGB/top_potsdam_6_9_RGB.tif", lambda data: None, "1 file has no image: "),
        ("5_Labels_all_noBoundary.zip", "top_potsdam_6_9_label_noBoundary.tif", recoloured,
         r"6_9_label_noBoundary\.tif has 2 of 6300 pixels in 2 colours outside the palette"),
        ("2_Ortho_RGB.zip", "2_Ortho_RGB/top_potsdam_6_9_RGB.tif", lambda data: data[:-9000], "RGB.tif is a damaged"),
        ("2_Ortho_RGB.zip", "2_Ortho_RGB/top_potsdam_6_9_RGB.tif", lambda data: b"x" * 99, "not a PNG, JPEG or TIFF"),
        ("2_Ortho_RGB.zip", "2_Ortho_RGB/top_potsdam_6_9_RGB.tif",
         lambda data: downloads.encoded(np.zeros((70, 91, 3), np.uint8), ".tif"), "image is 70x91 and its mask 70x90"),
        ("2_Ortho_RGB.zip", "2_Ortho_RGB/top_potsdam_6_9_RGB.tif",
         lambda data: downloads.encoded(np.zeros((70, 90, 3), np.uint16), ".tif"), "holds uint16 pixels"),
        ("2_Ortho_RGB.zip", "2_Ortho_RGB/top_potsdam_9_99_RGB.tif", lambda data: b"", "is scene 9_99, which is in no"),
        ("2_Ortho_RGB.zip", "b/top_potsdam_6_9_RGB.tif", lambda data: b"", "holds the image of 6_9 twice"),
    ],
)  # fmt: skip
def test_bad_downloads(tmp_path: Path, archive: str, member: str, change: Callable[..., Any], message: str) -> None:
    root = tmp_path / "download"
    downloads.potsdam(root)
    path = root / archive
    with zipfile.ZipFile(path) as file:
        there = member in file.namelist()
    if not there:
        with zipfile.ZipFile(path, "a") as file:
            file.writestr(member, b"")
    spoil(path, member, change)
    with pytest.raises(DataError, match=message):
        prepare("potsdam", root, tmp_path / "out", tile_size=32, off_palette_fraction=0.0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutting": "slide"}, "cutting is 'slide'; it must be 'benchmark'"),
        ({"labels": "none"}, "labels is 'none'; it must be 'eroded'"),
        ({"overlap": 8}, "An overlap of 8 has no effect on the windows of cutting 'benchmark'"),
        ({"cutting": "overlap", "overlap": 512}, "not possible"),
        ({"tile_size": 0}, "not possible"),
        ({"off_palette_fraction": -1}, r"must lie in 0\.\.1"),
        ({"workers": 0}, "workers is 0; at least 1"),
    ],
)
def test_bad_options(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    downloads.potsdam(tmp_path / "download")
    with pytest.raises(DataError, match=message):
        prepare("potsdam", tmp_path / "download", tmp_path / "out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["download"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no scene of potsdam; files such as top_potsdam_2_10_RGB\.tif"):
        prepare("potsdam", tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="needs the downloaded folder or zip file; none was given"):
        prepare("potsdam", [], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
