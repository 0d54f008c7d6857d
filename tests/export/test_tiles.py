from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from rsseg_tf.datasets import custom_spec
from rsseg_tf.datasets.synthetic import SYNTHETIC
from rsseg_tf.errors import DataError, ExportError
from rsseg_tf.export.tiles import calibration_images, middle_of, random_tiles
from rsseg_tf.rasters.windows import Size


def test_made_up_tiles_are_those_of_the_seed() -> None:
    spec = custom_spec("deep", ("a", "b"), bands=5, max_value=10000)
    tiles = random_tiles(spec, Size(20, 33), 3, dtype="float32", seed=4)
    assert tiles.shape == (3, 20, 33, 5) and tiles.dtype == np.float32
    assert 0 <= tiles.min() < 2000 and 8000 < tiles.max() <= 10000
    np.testing.assert_array_equal(tiles, random_tiles(spec, Size(20, 33), 3, dtype="float32", seed=4))
    assert (tiles != random_tiles(spec, Size(20, 33), 3, dtype="float32", seed=5)).any()


def test_the_middle_of_an_image() -> None:
    image = np.arange(5 * 6).reshape(5, 6, 1)
    np.testing.assert_array_equal(middle_of(image, Size(3, 2)), image[1:4, 2:4])
    assert middle_of(image, Size(7, 2)).shape == (7, 2, 1)
    np.testing.assert_array_equal(middle_of(image, Size(7, 6))[:5], image)


@pytest.fixture
def list_file(tmp_path: Path) -> Path:
    for value in range(8):
        cv2.imwrite(str(tmp_path / f"{value}.png"), np.full((9, 9, 3), value, np.uint8))
    (tmp_path / "train.txt").write_text("".join(f"{value}.png {value}_label.png\n" for value in range(8)), "utf-8")
    return tmp_path / "train.txt"


def drawn(list_file: Path, count: int, seed: int) -> list[int]:
    images = calibration_images(list_file, SYNTHETIC, Size(4, 4), count=count, seed=seed)
    assert all(image.shape == (4, 4, 3) for image in images)
    return [int(image[0, 0, 0]) for image in images]


def test_calibration_draws_from_a_list(list_file: Path) -> None:
    assert drawn(list_file, 20, 0) == list(range(8))
    three = drawn(list_file, 3, 0)
    assert len(set(three)) == 3 and three == drawn(list_file, 3, 0)
    assert any(drawn(list_file, 3, seed) != three for seed in range(1, 5))


def test_calibration_needs_a_list_of_fitting_images(list_file: Path) -> None:
    with pytest.raises(ExportError, match=r"nowhere\.txt does not exist; .* --calibration"):
        calibration_images(list_file.with_name("nowhere.txt"), SYNTHETIC, Size(4, 4), count=1)
    with pytest.raises(DataError, match=r"\.png has 3 bands, but the dataset 'grey' has 1"):
        calibration_images(list_file, custom_spec("grey", ("a", "b"), bands=1), Size(4, 4), count=1)
