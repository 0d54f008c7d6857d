"""Scenes and label maps: what is known of a place must survive the prediction."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.transform import Affine

from rsseg_tf.datasets.images import write_png
from rsseg_tf.datasets.spec import custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.inference import read_scene, write_labels

SCENES = Path(__file__).resolve().parents[3] / "shared" / "data" / "scenes"
SPEC = custom_spec("toy", ("water, deep", "Straße"), ((0, 0, 255), (255, 255, 255)))
UTM = rasterio.crs.CRS.from_epsg(32650)
PLACE = Affine(0.5, 0.0, 500000.25, 0.0, -0.5, 9050677.5)


def write_tiff(path, bands, **profile):
    """Writes a (C, H, W) array."""
    settings = {"crs": UTM, "transform": PLACE} | profile
    colours = settings.pop("colorinterp", None)
    mask, tags = settings.pop("mask", None), settings.pop("tags", {})
    gcps, rpcs = settings.pop("gcps", None), settings.pop("rpcs", None)
    count, height, width = bands.shape
    shape = {"count": count, "height": height, "width": width, "dtype": bands.dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", driver="GTiff", **shape, **settings) as target,
    ):
        if colours:
            target.colorinterp = colours
        if gcps:
            target.gcps = gcps
        if rpcs:
            target.rpcs = rpcs
        target.update_tags(**tags)
        target.write(bands)
        if mask is not None:
            target.write_mask(mask)
    return path


def noise(bands=3, height=20, width=30, dtype=np.uint8):
    return np.random.default_rng(0).integers(1, 255, (bands, height, width)).astype(dtype)


def zeros(height=20, width=30):
    return np.zeros((height, width), np.uint8)


# --- reading ----------------------------------------------------------------------------------------------------


def test_a_generated_geotiff_keeps_pixels_and_place(tmp_path):
    bands = noise(dtype=np.uint16)
    scene = read_scene(write_tiff(tmp_path / "a.tif", bands))
    np.testing.assert_array_equal(scene.pixels, bands.transpose(1, 2, 0))
    assert scene.pixels.dtype == np.uint16
    assert (scene.crs, scene.transform, scene.nodata) == (UTM, PLACE, None)
    assert scene.is_tiff and scene.is_georeferenced and not scene.has_alpha


def test_alpha_is_a_mask_and_no_band(tmp_path):
    bands = noise(4)
    bands[3] = 255
    bands[3, :5] = 0
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    scene = read_scene(write_tiff(tmp_path / "a.tif", bands, photometric="RGB", colorinterp=colours))
    assert scene.has_alpha and scene.pixels.shape == (20, 30, 3)
    np.testing.assert_array_equal(scene.pixels, bands[:3].transpose(1, 2, 0))
    np.testing.assert_array_equal(scene.nodata, bands[3] == 0)


def test_a_fourth_band_that_is_not_alpha_stays_a_band(tmp_path):
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
    scene = read_scene(write_tiff(tmp_path / "a.tif", noise(4), photometric="RGB", colorinterp=colours))
    assert scene.pixels.shape == (20, 30, 4) and not scene.has_alpha and scene.nodata is None


def test_nodata_values_become_zero_and_count_where_all_bands_have_them(tmp_path):
    bands = noise(3, dtype=np.int16)
    bands[:, 2, 3] = -9999
    bands[1, 7, 7] = -9999
    scene = read_scene(write_tiff(tmp_path / "a.tif", bands, nodata=-9999))
    assert np.argwhere(scene.nodata).tolist() == [[2, 3]]
    assert scene.pixels[2, 3].tolist() == [0, 0, 0]
    assert scene.pixels[7, 7].tolist() == [bands[0, 7, 7], 0, bands[2, 7, 7]]


def test_values_that_are_not_finite_are_no_data(tmp_path):
    bands = noise(3, dtype=np.float32)
    bands[0, 1, 2], bands[2, 4, 4] = np.nan, np.inf
    scene = read_scene(write_tiff(tmp_path / "a.tif", bands))
    assert np.argwhere(scene.nodata).tolist() == [[1, 2], [4, 4]]
    assert np.isfinite(scene.pixels).all() and scene.pixels[1, 2, 0] == 0


def test_an_internal_mask_is_read(tmp_path):
    mask = np.full((20, 30), 255, np.uint8)
    mask[:, :4] = 0
    scene = read_scene(write_tiff(tmp_path / "a.tif", noise(), mask=mask))
    np.testing.assert_array_equal(scene.nodata, mask == 0)


def test_png_and_jpeg_have_no_place(tmp_path):
    rgba = noise(4).transpose(1, 2, 0).copy()
    rgba[:, :, 3] = 255
    rgba[3, 3, 3] = 0
    write_png(tmp_path / "a.png", rgba)
    scene = read_scene(tmp_path / "a.png")
    np.testing.assert_array_equal(scene.pixels, rgba[:, :, :3])
    assert scene.has_alpha and np.argwhere(scene.nodata).tolist() == [[3, 3]]
    assert not scene.is_tiff and not scene.is_georeferenced
    cv2.imwrite(str(tmp_path / "a.jpg"), rgba[:, :, :3])
    assert read_scene(tmp_path / "a.jpg").nodata is None


def test_bad_files_are_named(tmp_path):
    whole = write_tiff(tmp_path / "whole.tif", noise(3, 200, 200)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    for name in ("cut.tif", "text.png", "missing.tif"):
        with pytest.raises(DataError, match=name):
            read_scene(tmp_path / name)
    write_tiff(tmp_path / "radar.tif", np.ones((1, 4, 4), np.complex64))
    with pytest.raises(DataError, match=r"radar\.tif holds complex64"):
        read_scene(tmp_path / "radar.tif")


# --- writing ----------------------------------------------------------------------------------------------------


def test_label_map_lies_where_the_scene_lies(tmp_path):
    scene = read_scene(write_tiff(tmp_path / "a.tif", noise(), tags={"AREA_OR_POINT": "Point"}))
    labels = zeros()
    labels[5:, 3:] = 1
    write_labels(tmp_path / "labels.tif", labels, scene, SPEC)
    with rasterio.open(tmp_path / "labels.tif") as result:
        assert (result.crs, result.transform, result.nodata) == (UTM, PLACE, 255)
        assert result.dtypes == ("uint8",) and result.profile["compress"] == "deflate" and result.profile["tiled"]
        assert result.tags()["AREA_OR_POINT"] == "Point"
        np.testing.assert_array_equal(result.read(1), labels)
        assert result.colorinterp == (ColorInterp.palette,)
        colours = result.colormap(1)
        assert [colours[0], colours[1], colours[255]] == [(0, 0, 255, 255), (255, 255, 255, 255), (0, 0, 0, 0)]
        assert json.loads(result.tags(1)["CLASS_NAMES"]) == ["water, deep", "Straße"]
        assert result.tags(1)["CLASS_1"] == "Straße"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tif", "labels.tif"]


def test_nodata_becomes_the_ignored_id(tmp_path):
    bands = noise()
    bands[:, :6] = 0
    scene = read_scene(write_tiff(tmp_path / "a.tif", bands, nodata=0))
    spec = custom_spec("toy", ("a", "b"), ignore_index=200)
    write_labels(tmp_path / "labels.tif", zeros() + 1, scene, spec, ((9, 9, 9), (8, 8, 8)))
    with rasterio.open(tmp_path / "labels.tif") as result:
        labels = result.read(1)
        assert result.nodata == 200 and result.colormap(1)[1] == (8, 8, 8, 255)
    assert (labels[:6] == 200).all() and (labels[6:] == 1).all()


def test_control_points_are_kept(tmp_path):
    points = [GroundControlPoint(r, c, 10.0 + c, 50.0 - r, 0.0, str(r + c)) for r, c in ((0, 0), (0, 30), (20, 30))]
    crs = rasterio.crs.CRS.from_epsg(4326)
    path = write_tiff(tmp_path / "a.tif", noise(), gcps=(points, crs), crs=None, transform=None)
    scene = read_scene(path)
    assert scene.is_georeferenced
    write_labels(tmp_path / "labels.tif", zeros(), scene, SPEC)
    with rasterio.open(tmp_path / "labels.tif") as result:
        kept, kept_crs = result.gcps
        assert kept_crs == crs
        assert [(p.row, p.col, p.x, p.y) for p in kept] == [(p.row, p.col, p.x, p.y) for p in points]


def test_rpcs_are_kept(tmp_path):
    rpcs = RPC(
        height_off=10.0,
        height_scale=500.0,
        lat_off=50.0,
        lat_scale=0.1,
        line_den_coeff=[1.0] + [0.0] * 19,
        line_num_coeff=[0.0, 0.0, -1.0] + [0.0] * 17,
        line_off=10.0,
        line_scale=10.0,
        long_off=8.0,
        long_scale=0.1,
        samp_den_coeff=[1.0] + [0.0] * 19,
        samp_num_coeff=[0.0, 1.0] + [0.0] * 18,
        samp_off=15.0,
        samp_scale=15.0,
        err_bias=None,
        err_rand=None,
    )
    scene = read_scene(write_tiff(tmp_path / "a.tif", noise(), rpcs=rpcs, crs=None, transform=None))
    write_labels(tmp_path / "labels.tif", zeros(), scene, SPEC)
    with rasterio.open(tmp_path / "labels.tif") as result:
        assert result.rpcs is not None
        assert result.rpcs.lat_off == 50.0 and result.rpcs.line_num_coeff == rpcs.line_num_coeff
    assert not list(tmp_path.glob("labels*.xml"))


def test_labels_that_do_not_fit_are_refused_and_leave_no_file(tmp_path):
    scene = read_scene(write_tiff(tmp_path / "a.tif", noise()))
    for labels, message in (
        (zeros(19), "Predict the scene at its own size"),
        (zeros().astype(np.int32), "int32"),
        (zeros() + 2, r"hold \[2\]; data set 'toy' allows 0\.\.1 and 255"),
    ):
        with pytest.raises(DataError, match=message):
            write_labels(tmp_path / "labels.tif", labels, scene, SPEC)
    with pytest.raises(DataError, match="cannot write"):
        write_labels(tmp_path / "nowhere" / "labels.tif", zeros(), scene, SPEC)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


def test_an_image_without_place_gives_a_plain_tiff(tmp_path):
    write_png(tmp_path / "a.png", noise().transpose(1, 2, 0).copy())
    write_labels(tmp_path / "labels.tif", zeros(), read_scene(tmp_path / "a.png"), SPEC)
    with rasterio.open(tmp_path / "labels.tif") as result:
        assert result.crs is None and result.transform == Affine.identity()


# --- real scenes ------------------------------------------------------------------------------------------------


def real_scene(name):
    if not (SCENES / name).exists():
        pytest.skip("no scenes beside the checkout")
    return SCENES / name


def test_a_real_scene_with_alpha(tmp_path):
    path = real_scene("pix4d_alpha_nodata_rgba_epsg32750.tif")
    scene = read_scene(path)
    write_labels(tmp_path / "labels.tif", np.ones(scene.size, np.uint8), scene, SPEC)
    with rasterio.open(path) as source, rasterio.open(tmp_path / "labels.tif") as result:
        assert result.crs == source.crs and source.crs.to_epsg() == 32750
        assert result.transform == source.transform
        alpha = source.read(4)
        assert 0 < (alpha == 0).sum() < alpha.size
        np.testing.assert_array_equal(result.read(1) == 255, alpha == 0)
        np.testing.assert_array_equal(result.read_masks(1) == 0, alpha == 0)
        assert result.colormap(1)[1] == (255, 255, 255, 255)
    assert scene.pixels.shape == (*alpha.shape, 3)


def test_a_real_scene_of_three_bands():
    path = real_scene("oam_kampala_3072x2048_rgb.tif")
    scene = read_scene(path)
    assert scene.pixels.shape == (2048, 3072, 3) and scene.nodata is None
    with rasterio.open(path) as source:
        assert scene.crs == source.crs and scene.transform == source.transform
        np.testing.assert_array_equal(scene.pixels[:, :, 1], source.read(2))
