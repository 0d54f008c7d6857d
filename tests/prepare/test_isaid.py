from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rsseg_tf.datasets.isaid import split_of
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.rasters.images import read_image, read_label, write_png
from tests.fixtures import downloads
from tests.fixtures.downloads import prepare


@pytest.mark.parametrize(
    ("size", "patch", "overlap"), [((50, 65), 32, 12), ((32, 80), 32, 16), ((64, 64), 32, 0), ((45, 33), 20, 5)]
)
def test_tiles_of_the_original(tmp_path: Path, size: tuple[int, int], patch: int, overlap: int) -> None:
    scenes = downloads.isaid(tmp_path / "iSAID", size)
    report = prepare("isaid", tmp_path / "iSAID", tmp_path / "out", tile_size=patch, overlap=overlap)
    out = tmp_path / "out"
    for split, stems in (("train", ("P0000", "P0001", "P0002")), ("val", ("P0100",))):
        images: dict[str, np.ndarray] = {}
        labels: dict[str, np.ndarray] = {}
        for stem in stems:
            images |= downloads.original_isaid_tiles(stem, scenes[stem][0], patch, overlap)
            labels |= downloads.original_isaid_tiles(stem, scenes[stem][1], patch, overlap)
        samples = read_list(out / f"{split}.txt", out)
        assert report.splits[split].tiles == len(samples) == len(images)
        assert {sample.image.stem for sample in samples} == images.keys()
        for sample in samples:
            assert sample.label is not None and sample.label.name == f"{sample.image.stem}_instance_color_RGB.png"
            np.testing.assert_array_equal(read_image(sample.image), images[sample.image.stem])
            np.testing.assert_array_equal(read_label(sample.label), labels[sample.image.stem])


def test_names_are_rows_first(tmp_path: Path) -> None:
    downloads.isaid(tmp_path / "iSAID", (32, 64))
    prepare("isaid", tmp_path / "iSAID", tmp_path / "out", tile_size=32, overlap=0)
    assert {path.name for path in (tmp_path / "out/img_dir/val").iterdir()} == {
        "P0100_0_32_0_32.png", "P0100_0_32_32_64.png",
    }  # fmt: skip


def test_test_images_are_copied_whole(tmp_path: Path) -> None:
    scenes = downloads.isaid(tmp_path / "iSAID")
    report = prepare("isaid", tmp_path / "iSAID", tmp_path / "out", tile_size=32, overlap=0)
    samples = read_list(tmp_path / "out/test.txt", tmp_path / "out", labels=False)
    assert [sample.image.name for sample in samples] == ["P0200.png", "P0201.png"]
    np.testing.assert_array_equal(read_image(samples[0].image), scenes["P0200"][0])
    assert (report.splits["test"].scenes, report.splits["test"].pixels) == (2, {})
    assert not list((tmp_path / "out/ann_dir").glob("test/*"))


@pytest.mark.parametrize("size", [(20, 50), (50, 20), (20, 20), (20, 32), (32, 20)])
def test_scenes_smaller_than_a_tile(tmp_path: Path, size: tuple[int, int]) -> None:
    """The original has no `numbers` to check its padding by, and cuts wrongly where one side just fits."""
    scenes = downloads.isaid(tmp_path / "iSAID", size)
    prepare("isaid", tmp_path / "iSAID", tmp_path / "out", tile_size=32, overlap=8)
    padded = [np.pad(scenes["P0100"][0], ((0, max(0, 32 - size[0])), (0, max(0, 32 - size[1])), (0, 0)))]
    padded.append(
        np.pad(scenes["P0100"][1], ((0, max(0, 32 - size[0])), (0, max(0, 32 - size[1]))), constant_values=255)
    )
    tiles = [downloads.original_isaid_tiles("P0100", array, 32, 8) for array in padded]
    samples = read_list(tmp_path / "out/val.txt", tmp_path / "out")
    assert {sample.image.stem for sample in samples} == tiles[0].keys()
    for sample in samples:
        np.testing.assert_array_equal(read_image(sample.image), tiles[0][sample.image.stem])
        assert sample.label is not None
        np.testing.assert_array_equal(read_label(sample.label), tiles[1][sample.image.stem])


def test_unpacked_and_without_test_images(tmp_path: Path) -> None:
    downloads.isaid(tmp_path / "iSAID")
    shutil.rmtree(tmp_path / "iSAID" / "test")
    prepare("isaid", tmp_path / "iSAID", tmp_path / "a", tile_size=32, overlap=0)
    downloads.unpack(tmp_path / "iSAID")
    report = prepare(
        "isaid", [tmp_path / "iSAID" / "train", tmp_path / "iSAID" / "val"], tmp_path / "b",
        tile_size=32, overlap=0,
    )  # fmt: skip
    assert set(report.splits) == {"train", "val"}
    for path in (tmp_path / "a").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.parametrize("kind", ["grey", "alpha", "palette"])
def test_images_of_other_kinds_become_rgb(tmp_path: Path, kind: str) -> None:
    scenes = downloads.isaid(tmp_path / "iSAID", (32, 32))
    downloads.unpack(tmp_path / "iSAID")
    path = next((tmp_path / "iSAID").rglob("P0001.png"))
    image = scenes["P0001"][0]
    if kind == "grey":
        write_png(path, image[..., 0])
        expected = np.repeat(image[..., :1], 3, axis=2)
    elif kind == "alpha":
        write_png(path, np.concatenate([image, image[..., :1]], axis=2))
        expected = image
    else:
        ids = image[..., 0] % 5
        palette = [(1, 2, 3), (40, 50, 60), (7, 8, 9), (100, 0, 0), (0, 0, 200)]
        write_png(path, ids, palette)
        expected = np.array(palette, np.uint8)[ids]
    prepare("isaid", tmp_path / "iSAID", tmp_path / "out", tile_size=32, overlap=0)
    np.testing.assert_array_equal(read_image(tmp_path / "out/img_dir/train/P0001_0_32_0_32.png"), expected)


def test_unknown_colours_are_ignored_not_background(tmp_path: Path) -> None:
    scenes = downloads.isaid(tmp_path / "iSAID", (32, 32))
    downloads.unpack(tmp_path / "iSAID")
    path = next((tmp_path / "iSAID").rglob("P0001_instance_color_RGB.png"))
    mask = read_image(path)
    mask[3, 4] = (1, 2, 3)
    write_png(path, mask)
    options: dict[str, Any] = {"tile_size": 32, "overlap": 0}
    with pytest.raises(DataError, match=r"1 of 1024 pixels in 1 colour outside the palette, most often \(1, 2, 3\)"):
        prepare("isaid", tmp_path / "iSAID", tmp_path / "out", off_palette_fraction=0.0, **options)
    report = prepare("isaid", tmp_path / "iSAID", tmp_path / "out", off_palette_fraction=0.001, **options)
    expected = scenes["P0001"][1].copy()
    expected[3, 4] = 255
    label = read_label(tmp_path / "out/ann_dir/train/P0001_0_32_0_32_instance_color_RGB.png")
    np.testing.assert_array_equal(label, expected)
    assert report.splits["train"].off_palette_pixels == 1
    assert report.splits["train"].pixels["background"] == sum((scenes[f"P000{i}"][1] == 0).sum() for i in range(3)) - (
        scenes["P0001"][1][3, 4] == 0
    )


def test_missing_parts_are_named(tmp_path: Path) -> None:
    downloads.isaid(tmp_path / "iSAID")
    (tmp_path / "iSAID/train/images/part2.zip").unlink()
    with pytest.raises(DataError, match=r"1 file has no image: .*P0001_instance_color_RGB\.png"):
        prepare("isaid", tmp_path / "iSAID", tmp_path / "out")
    shutil.rmtree(tmp_path / "iSAID/val")
    shutil.rmtree(tmp_path / "iSAID/train/Semantic_masks")
    with pytest.raises(DataError, match="2 files have no mask"):
        prepare("isaid", tmp_path / "iSAID", tmp_path / "out")
    shutil.rmtree(tmp_path / "iSAID/train")
    with pytest.raises(DataError, match="would have no train tiles"):
        prepare("isaid", tmp_path / "iSAID", tmp_path / "out")
    shutil.rmtree(tmp_path / "iSAID/test")
    with pytest.raises(DataError, match="holds no scene of iSAID"):
        prepare("isaid", tmp_path / "iSAID", tmp_path / "out")


def test_files_that_do_not_say_their_split(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    cv2.imwrite(str(tmp_path / "flat" / "P0000.png"), np.zeros((4, 4, 3)))
    with pytest.raises(DataError, match=r"P0000\.png does not say its split"):
        prepare("isaid", tmp_path / "flat", tmp_path / "out")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("iSAID/train/images/part1/images", "train"),
        ("iSAID/Val/Semantic_masks", "val"),
        ("my_test_of_things/val/images", "val"),
        ("train_part1/images", "train"),
        ("validation/images", "val"),
        ("training", "train"),
        ("trains/images", None),
        ("interval/x", None),
    ],
)
def test_split_of_a_path(path: str, split: str | None) -> None:
    assert split_of(path) == split


def test_parts_of_the_dataset(tmp_path: Path) -> None:
    """Whoever evaluates released weights needs the validation scenes alone."""
    downloads.isaid(tmp_path / "iSAID")
    prepare("isaid", tmp_path / "iSAID", tmp_path / "all", tile_size=32, overlap=0)
    shutil.rmtree(tmp_path / "iSAID/train/images")
    shutil.rmtree(tmp_path / "iSAID/test")
    with pytest.raises(DataError, match="3 files have no image"):
        prepare("isaid", tmp_path / "iSAID", tmp_path / "val", tile_size=32, overlap=0)
    report = prepare("isaid", tmp_path / "iSAID", tmp_path / "val", tile_size=32, overlap=0, splits=["val"])
    assert set(report.splits) == {"val"}
    assert (tmp_path / "val/val.txt").read_bytes() == (tmp_path / "all/val.txt").read_bytes()
    assert not (tmp_path / "val/train.txt").exists() and not (tmp_path / "val/img_dir/train").exists()
    with pytest.raises(DataError, match=r"no test tiles\. Check .*, or prepare what is there alone: splits val\."):
        prepare("isaid", tmp_path / "iSAID", tmp_path / "val", tile_size=32, overlap=0, splits=["val", "test"])
    for splits, got in (([], "none"), (["vall"], "'vall'")):
        with pytest.raises(DataError, match=f"splits holds {got}; name one or more of train, val, test"):
            prepare("isaid", tmp_path / "iSAID", tmp_path / "val", splits=splits)
