"""Scenes: pixels, place, and where there is no data, read in whole or in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.scenes import open_scene
from rsseg_tf.rasters.windows import Size, Window
from tests.fixtures.formats import PLACE, UTM, noise, write_tiff

SCENES = Path(__file__).resolve().parents[3] / "shared" / "data" / "scenes"


def read_scene(path: Path, bands: tuple[int, ...] | None = None) -> tuple[Any, ...]:
    """Returns a scene that is closed again, its pixels, and where there is no data."""
    with open_scene(path, bands) as scene:
        return scene, *scene.read()


# --- reading ----------------------------------------------------------------------------------------------------


def test_a_generated_geotiff_keeps_pixels_and_place(tmp_path: Path) -> None:
    bands = noise(dtype=np.uint16)
    scene, pixels, nodata = read_scene(write_tiff(tmp_path / "a.tif", bands))
    np.testing.assert_array_equal(pixels, bands.transpose(1, 2, 0))
    assert pixels.dtype == scene.dtype == np.uint16 and scene.size == (20, 30) and scene.bands == (1, 2, 3)
    assert (scene.crs, scene.transform, nodata) == (UTM, PLACE, None)
    assert scene.is_raster and scene.is_georeferenced and not scene.has_alpha


def test_alpha_is_a_mask_and_no_band(tmp_path: Path) -> None:
    bands = noise(4)
    bands[3] = 255
    bands[3, :5] = 0
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    path = write_tiff(tmp_path / "a.tif", bands, photometric="RGB", colorinterp=colours)
    scene, pixels, nodata = read_scene(path)
    assert scene.has_alpha and pixels.shape == (20, 30, 3)
    np.testing.assert_array_equal(pixels, bands[:3].transpose(1, 2, 0))
    np.testing.assert_array_equal(nodata, bands[3] == 0)
    with pytest.raises(DataError, match=r"no band 5 to read; its bands are 1, 2, 3, 4\. Choose among them"):
        read_scene(path, (1, 5))


def test_a_band_that_is_asked_for_is_data_whatever_its_mark(tmp_path: Path) -> None:
    bands = noise(4)
    bands[3, :5] = 0
    path = write_tiff(tmp_path / "a.tif", bands, photometric="RGB", alpha="yes")
    scene, pixels, nodata = read_scene(path, (1, 2, 3, 4))
    assert scene.bands == (1, 2, 3, 4) and not scene.has_alpha and nodata is None
    np.testing.assert_array_equal(pixels, bands.transpose(1, 2, 0))


def test_alpha_and_a_nodata_value_both_count(tmp_path: Path) -> None:
    bands = noise(4)
    bands[3] = 255
    bands[3, :5] = 0
    bands[:3, 7, 8], bands[0, 9, 9] = 7, 7
    bands[1, 9, 9] = 8
    path = write_tiff(tmp_path / "a.tif", bands, photometric="RGB", alpha="yes", nodata=7)
    _, pixels, nodata = read_scene(path)
    assert nodata[:5].all() and np.argwhere(nodata[5:]).tolist() == [[2, 8]]
    assert pixels[9, 9, :2].tolist() == [7, 8], "7 is a value like any other where another band holds data"


def test_a_fourth_band_that_is_not_alpha_stays_a_band(tmp_path: Path) -> None:
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
    scene, pixels, nodata = read_scene(write_tiff(tmp_path / "a.tif", noise(4), photometric="RGB", colorinterp=colours))
    assert pixels.shape == (20, 30, 4) and not scene.has_alpha and nodata is None


def test_nodata_values_become_zero_and_count_where_all_bands_have_them(tmp_path: Path) -> None:
    bands = noise(3, dtype=np.int16)
    bands[:, 2, 3] = -9999
    bands[1, 7, 7] = -9999
    _, pixels, nodata = read_scene(write_tiff(tmp_path / "a.tif", bands, nodata=-9999))
    assert np.argwhere(nodata).tolist() == [[2, 3]]
    assert pixels[2, 3].tolist() == [0, 0, 0]
    assert pixels[7, 7].tolist() == [bands[0, 7, 7], 0, bands[2, 7, 7]]


def test_values_that_are_not_finite_are_no_data(tmp_path: Path) -> None:
    bands = noise(3, dtype=np.float32)
    bands[0, 1, 2], bands[2, 4, 4] = np.nan, np.inf
    _, pixels, nodata = read_scene(write_tiff(tmp_path / "a.tif", bands))
    assert np.argwhere(nodata).tolist() == [[1, 2], [4, 4]]
    assert np.isfinite(pixels).all() and pixels[1, 2, 0] == 0


def test_an_internal_mask_is_read(tmp_path: Path) -> None:
    mask = np.full((20, 30), 255, np.uint8)
    mask[:, :4] = 0
    _, _, nodata = read_scene(write_tiff(tmp_path / "a.tif", noise(), mask=mask))
    np.testing.assert_array_equal(nodata, mask == 0)


def test_png_and_jpeg_have_no_place(tmp_path: Path) -> None:
    rgba = noise(4).transpose(1, 2, 0).copy()
    rgba[:, :, 3] = 255
    rgba[3, 3, 3] = 0
    write_png(tmp_path / "a.png", rgba)
    scene, pixels, nodata = read_scene(tmp_path / "a.png")
    np.testing.assert_array_equal(pixels, rgba[:, :, :3])
    assert scene.has_alpha and np.argwhere(nodata).tolist() == [[3, 3]]
    assert not scene.is_raster and not scene.is_georeferenced
    cv2.imwrite(str(tmp_path / "a.jpg"), rgba[:, :, :3])
    assert read_scene(tmp_path / "a.jpg")[2] is None


@pytest.mark.parametrize("kind", ["tif", "png", "vrt"])
def test_parts_are_cut_from_the_whole_and_bands_come_in_the_order_asked_for(tmp_path: Path, kind: str) -> None:
    bands = noise(3)
    path = write_tiff(tmp_path / "a.tif", bands, nodata=None if kind == "png" else 7)
    if kind == "png":
        write_png(path := tmp_path / "a.png", bands.transpose(1, 2, 0).copy())
    if kind == "vrt":
        path = write_vrt(tmp_path / "a.vrt", path)
    with open_scene(path, (3, 1)) as scene:
        pixels, nodata = scene.read()
        part, part_nodata = scene.read(Window(4, 5, 11, 29))
        assert (scene.bands, pixels.shape) == ((3, 1), (20, 30, 2))
        expected = bands[[2, 0]].transpose(1, 2, 0)
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(part, pixels[4:11, 5:29])
        assert nodata is None and part_nodata is None
        reduced, _ = scene.read(size=Size(5, 6))
        assert reduced.shape == (5, 6, 2) and abs(float(reduced.mean()) - float(pixels.mean())) < 4


def write_vrt(path: Path, source: Path) -> Path:
    """Writes a VRT over three bands of a TIFF of 30 x 20 pixels."""
    band = (
        '<VRTRasterBand dataType="Byte" band="{0}"><NoDataValue>7</NoDataValue><SimpleSource>'
        '<SourceFilename relativeToVRT="1">{1}</SourceFilename><SourceBand>{0}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
    )
    bands = "".join(band.format(index, source.name) for index in (1, 2, 3))
    path.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{bands}</VRTDataset>')
    return path


def test_bad_files_are_named(tmp_path: Path) -> None:
    whole = write_tiff(tmp_path / "whole.tif", noise(3, 200, 200)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.tif", "text.png", "missing.tif"):
        with pytest.raises(DataError, match=name):
            read_scene(tmp_path / name)
    write_tiff(tmp_path / "radar.tif", np.ones((1, 4, 4), np.complex64))
    with pytest.raises(DataError, match=r"radar\.tif holds complex64"):
        read_scene(tmp_path / "radar.tif")


# --- real scenes ------------------------------------------------------------------------------------------------


def real_scene(name: str) -> Path:
    if not (SCENES / name).exists():
        pytest.skip("no scenes beside the checkout")
    return SCENES / name


def test_a_real_scene_of_three_bands() -> None:
    path = real_scene("oam_kampala_3072x2048_rgb.tif")
    scene, pixels, nodata = read_scene(path)
    assert pixels.shape == (2048, 3072, 3) and nodata is None
    with rasterio.open(path) as source:
        assert scene.crs == source.crs and scene.transform == source.transform
        np.testing.assert_array_equal(pixels[:, :, 1], source.read(2))
