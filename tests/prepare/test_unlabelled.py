from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from numpy.typing import DTypeLike
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.rasters.images import read_image
from tests.fixtures import downloads
from tests.fixtures.downloads import prepare


def images(root: Path, sizes: dict[str, tuple[int, int]], suffix: str = ".png") -> dict[str, np.ndarray]:
    made = {}
    for number, (name, size) in enumerate(sizes.items()):
        made[name], _ = downloads.scene(number, *size, 4)
        path = root / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(downloads.encoded(made[name], suffix))
    return made


def test_crops_cover_all_images(tmp_path: Path) -> None:
    made = images(tmp_path / "set", {"train/farm land/a": (40, 70), "train/lake/a": (16, 20), "b": (32, 32)})
    report = prepare("images", tmp_path / "set", tmp_path / "out", tile_size=32, image_format="png")
    out = tmp_path / "out"
    samples = read_list(out / "train.txt", out, labels=False)
    assert report.splits["train"].tiles == len(samples) == 6 + 1 + 1
    for sample in samples:
        stem, y0, x0 = sample.image.relative_to(out / "img_dir/train").with_suffix("").as_posix().rsplit("_", 2)
        window = made[stem][int(y0) : int(y0) + 32, int(x0) : int(x0) + 32]
        tile = read_image(sample.image)
        assert tile.shape == (32, 32, 3)
        np.testing.assert_array_equal(tile[: window.shape[0], : window.shape[1]], window)
        assert not tile[window.shape[0] :].any()
    assert sorted(path.name for path in out.iterdir()) == [".prepared", "dataset.json", "img_dir", "train.txt"]
    assert json.loads((out / "dataset.json").read_text())["labelled"] is False
    again = prepare("images", tmp_path / "set", out, tile_size=32, image_format="png")
    assert again.up_to_date and again.splits == report.splits


def test_linked_folders_are_cut_too_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    images(tmp_path / "set", {"a": (16, 16)})
    images(tmp_path / "store", {"b": (16, 16)})
    (tmp_path / "set/linked").symlink_to(tmp_path / "store")
    (tmp_path / "set/again").symlink_to(tmp_path / "set")
    (tmp_path / "set/c.jp2").write_bytes(b"x")
    for _ in range(2):  # the second time all is there already
        report = prepare("images", tmp_path / "set", tmp_path / "out", tile_size=16)
        assert report.splits["train"].tiles == 2
        assert "1 .jp2" in report.left_out
        assert "again (the link leads back to a folder that it lies in)" in report.left_out


def test_jpeg_is_the_default_and_close_to_the_image(tmp_path: Path) -> None:
    smooth = np.linspace(20, 220, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    downloads.write_zip(tmp_path / "train.zip", {"x/y.png": downloads.encoded(smooth, ".png")})
    prepare("million_aid", tmp_path / "train.zip", tmp_path / "out", tile_size=64)
    tile = read_image(tmp_path / "out/img_dir/train/x/y_0_0.jpg")
    assert abs(tile.astype(int) - smooth).max() < 12


@pytest.mark.parametrize(("bands", "dtype"), [(5, np.uint8), (3, np.uint16), (4, np.float32), (2, np.uint8)])
def test_other_bands_and_types_become_tiff(tmp_path: Path, bands: int, dtype: DTypeLike) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (20, 30, bands)).astype(dtype)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.tif").write_bytes(downloads.encoded(pixels, ".tif"))
    prepare("images", tmp_path / "set", tmp_path / "out", tile_size=16)
    tile = read_image(tmp_path / "out/img_dir/train/a_4_14.tif")
    assert tile.dtype == dtype
    np.testing.assert_array_equal(tile, pixels[4:20, 14:30])


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:32633", Affine(0.5, 0, 500000, 0, -0.5, 5400000)),
        ("EPSG:32633", Affine(0.4, 0.3, 500000, 0.3, -0.4, 5400000)),
        # A CRS that GeoTIFF has no keys for, so that GDAL puts it into a file beside each tile.
        ("+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +R=6371229", Affine(1e-3, 0, 1, 0, -1e-3, 1)),
        (None, Affine.identity()),
    ],
)
def test_tiles_lie_where_they_were_cut(tmp_path: Path, crs: str | None, transform: Affine) -> None:
    crs = None if crs is None else CRS.from_user_input(crs)
    pixels = np.random.default_rng(0).integers(0, 200, (5, 20, 30), dtype=np.uint8)
    (tmp_path / "set").mkdir()
    profile = {"height": 20, "width": 30, "count": 5, "dtype": "uint8", "crs": crs, "transform": transform}
    with rasterio.open(tmp_path / "set" / "a.tif", "w", driver="GTiff", **profile) as scene:
        scene.write(pixels)
    with rasterio.open(tmp_path / "set" / "a.tif") as scene:
        crs = scene.crs
    prepare("images", tmp_path / "set", tmp_path / "out", tile_size=16)
    with rasterio.open(tmp_path / "out/img_dir/train/a_4_14.tif") as tile:
        assert tile.crs == crs
        a, b, c, d, e, f, *_ = transform
        moved = (a, b, a * 14 + b * 4 + c, d, e, d * 14 + e * 4 + f)
        assert tuple(tile.transform)[:6] == pytest.approx(tuple(transform)[:6] if crs is None else moved)


def test_dota_takes_its_images_alone(tmp_path: Path) -> None:
    images(tmp_path / "set", {"train/images/P0001": (20, 20), "test/images/P0002": (20, 20), "preview": (8, 8)})
    images(tmp_path / "set", {"train/masks/P0001_instance_color_RGB": (20, 20)})
    report = prepare("dota", tmp_path / "set", tmp_path / "out", tile_size=16, overlap=4)
    assert report.splits["train"].scenes == 2
    assert report.splits["train"].tiles == 8


def test_one_name_in_two_formats_and_two_sources(tmp_path: Path) -> None:
    images(tmp_path / "one", {"a": (8, 8)})
    images(tmp_path / "one", {"a": (8, 8)}, ".tif")
    images(tmp_path / "two", {"a": (8, 8)})
    prepare("images", [tmp_path / "one", tmp_path / "two"], tmp_path / "out", tile_size=8)
    names = {path.relative_to(tmp_path / "out/img_dir/train").as_posix() for path in (tmp_path / "out").rglob("*.jpg")}
    assert names == {"one/a_png_0_0.jpg", "one/a_tif_0_0.jpg", "two/a_0_0.jpg"}


def test_an_unreadable_image_does_not_stop_the_others(tmp_path: Path) -> None:
    images(tmp_path / "set", {"a": (8, 8), "b": (8, 8), "c": (8, 8)})
    whole = (tmp_path / "set/b.png").read_bytes()
    (tmp_path / "set/b.png").write_bytes(whole[:-20])
    with pytest.raises(
        DataError, match=r"b\.png is a damaged PNG .* The other scenes are kept in .*\.out\.partial; mend"
    ):
        prepare("images", tmp_path / "set", tmp_path / "out", tile_size=8)
    assert not (tmp_path / "out").exists()
    calls = []
    (tmp_path / "set/b.png").write_bytes(whole)
    prepare("images", tmp_path / "set", tmp_path / "out", tile_size=8, progress=lambda done, _: calls.append(done))
    assert calls == [2, 3], "two were done before"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("images", {}, "holds no PNG, JPEG or TIFF images"),
        ("dota", {}, r"holds no images such as P0000\.png"),
        ("images", {"image_format": "gif"}, "image_format is 'gif'; it must be one of jpg, png, tif"),
        ("images", {"overlap": 600}, "not possible"),
    ],
)
def test_bad_calls(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(name, tmp_path, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []
