from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.datasets.loveda import LOVEDA
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.rasters.images import read_image, read_label, write_png
from tests.fixtures import downloads
from tests.fixtures.downloads import prepare


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.parametrize("unpacked", [False, True])
def test_prepares(tmp_path: Path, unpacked: bool) -> None:
    scenes = downloads.loveda(tmp_path / "LoveDA")
    if unpacked:
        downloads.unpack(tmp_path / "LoveDA")
    out = tmp_path / "out"
    report = prepare("loveda", tmp_path / "LoveDA", out, tile_size=32)
    assert {split: counts.tiles for split, counts in report.splits.items()} == {"train": 2, "val": 2, "test": 2}
    for sample in read_list(out / "train.txt", out):
        image, ids = scenes[sample.image.stem.removesuffix("_0_0")]
        np.testing.assert_array_equal(read_image(sample.image), image)
        assert sample.label is not None
        np.testing.assert_array_equal(read_label(sample.label), ids)
        assert (ids == 255).any() and ids.min() == 0, "no data is ignored, and the first class has id 0"
    assert lines(out / "train_urban.txt") == ["img_dir/train/urban_1_0_0.png ann_dir/train/urban_1_0_0.png"]
    groups = [lines(out / f"val_{domain}.txt") for domain in ("rural", "urban")]
    assert sorted(line for group in groups for line in group) == lines(out / "val.txt")
    assert lines(out / "test.txt") == ["img_dir/test/rural_4191.png", "img_dir/test/urban_4192.png"]
    assert prepare("loveda", tmp_path / "LoveDA", out, tile_size=32).up_to_date
    again = prepare("loveda", tmp_path / "LoveDA", out, tile_size=16)
    assert again.splits["val"].tiles == 8, "its own lists are replaced"


def test_classes() -> None:
    assert LOVEDA.classes[:2] == ("background", "building")
    assert LOVEDA.num_classes == 7


def test_bad_downloads(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no scene of LoveDA"):
        prepare("loveda", tmp_path, tmp_path / "out")
    downloads.loveda(tmp_path / "LoveDA")
    downloads.unpack(tmp_path / "LoveDA")
    mask = next((tmp_path / "LoveDA").rglob("Train/Urban/masks_png/1.png"))
    ids = read_label(mask)
    ids[0, 0] = 9
    write_png(mask, ids)
    with pytest.raises(DataError, match=r"1\.png has 1 of 1024 pixels in 1 value outside the palette, most often 9"):
        prepare("loveda", tmp_path / "LoveDA", tmp_path / "out", tile_size=32)
    write_png(mask, np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"1\.png has 3 bands; one band of class values"):
        prepare("loveda", tmp_path / "LoveDA", tmp_path / "out", tile_size=32)
    mask.unlink()
    with pytest.raises(DataError, match="1 file has no mask"):
        prepare("loveda", tmp_path / "LoveDA", tmp_path / "out", tile_size=32)
