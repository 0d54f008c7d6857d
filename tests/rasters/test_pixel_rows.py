from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rsseg_tf.errors import DataError
from rsseg_tf.rasters import pixel_rows
from rsseg_tf.rasters.images import read_image, write_image, write_png
from rsseg_tf.rasters.pixel_rows import open_rows
from tests.fixtures.downloads import encoded


def rows_of(path: Path, bands: Any, step: int = 7) -> np.ndarray:
    with open_rows(path, path.name, bands) as image:
        parts = [image.read(y, min(y + step, image.height)) for y in range(0, image.height, step)]
        whole = np.concatenate(parts)
        assert whole.shape == (image.height, image.width, image.bands)
        assert str(whole.dtype) == image.dtype
    return whole


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("bands", [1, 3])
def test_rows_equal_the_whole(tmp_path: Path, suffix: str, bands: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 33, bands)).astype(np.uint8)
    write_image(tmp_path / f"a{suffix}", pixels)
    expected = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(rows_of(tmp_path / f"a{suffix}", "stored"), expected)
    np.testing.assert_array_equal(rows_of(tmp_path / f"a{suffix}", "as_rgb"), np.repeat(expected, 3 // bands, axis=2))


def test_palette_alpha_and_values(tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 4, (20, 30)).astype(np.uint8)
    colours = [(1, 2, 3), (200, 100, 0), (9, 9, 9), (0, 0, 255)]
    write_png(tmp_path / "palette.png", ids, colours)
    np.testing.assert_array_equal(rows_of(tmp_path / "palette.png", "rgb_only"), np.array(colours, np.uint8)[ids])
    np.testing.assert_array_equal(rows_of(tmp_path / "palette.png", "mask")[..., 0], ids)
    rgba = np.random.default_rng(1).integers(0, 256, (20, 30, 4)).astype(np.uint8)
    write_png(tmp_path / "rgba.png", rgba)
    np.testing.assert_array_equal(rows_of(tmp_path / "rgba.png", "as_rgb"), rgba[..., :3])
    np.testing.assert_array_equal(rows_of(tmp_path / "rgba.png", "stored"), rgba)


def test_grey_with_alpha(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 2)).astype(np.uint8)
    pillow.fromarray(pixels, "LA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(rows_of(tmp_path / "a.png", "as_rgb"), np.repeat(pixels[..., :1], 3, axis=2))


def test_large_jpeg_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8), (0, 0), 4)
    cv2.imwrite(str(tmp_path / "a.jpg"), smooth)
    whole = rows_of(tmp_path / "a.jpg", "as_rgb")
    monkeypatch.setattr(pixel_rows, "_WHOLE_JPEG_PIXELS", 100)
    streamed = rows_of(tmp_path / "a.jpg", "as_rgb")
    assert abs(streamed.astype(int) - whole).max() < 25  # GDAL does not smooth subsampled colour


@pytest.mark.parametrize(
    ("data", "bands", "message"),
    [
        (b"", "as_rgb", r"a is empty"),
        (b"GIF89a" + b"0" * 90, "as_rgb", "not a PNG, JPEG or TIFF"),
        (encoded(np.ones((9, 9, 3), np.uint8), ".png")[:-30], "as_rgb", "a is a damaged PNG file"),
        (encoded(np.ones((9, 9, 3), np.uint8), ".jpg")[:-30], "as_rgb", "a is a damaged JPEG file"),
        (encoded(np.ones((9, 9, 3), np.uint8), ".tif")[:60], "as_rgb", "a is a damaged TIFF file"),
        (encoded(np.ones((9, 9), np.uint8), ".png"), "rgb_only", "a has 1 bands of uint8; 3 of uint8"),
        (encoded(np.ones((9, 9, 3), np.uint16), ".png"), "as_rgb", "a holds uint16 pixels; uint8 is expected"),
        (encoded(np.ones((9, 9, 3), np.uint8), ".png"), "mask", "a has 3 bands; one band of class values"),
    ],
)
def test_bad_files(tmp_path: Path, data: bytes, bands: str, message: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message):
        rows_of(path, bands)


def test_tiff_whose_pixels_are_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(encoded(np.ones((200, 200, 3), np.uint8), ".tif")[:-50000])
    with pytest.raises(DataError, match=r"a\.tif is a damaged TIFF file"):
        rows_of(path, "as_rgb")
