"""Formats that GDAL alone reads: JPEG 2000, netCDF, HDF5, Zarr and others, and what of them is not followed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
import rasterio.shutil

from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.rasters.gdal import Trust
from rsseg_tf.rasters.headers import encoded_size
from rsseg_tf.rasters.images import decode_image, read_image, read_label, require_end, write_png
from rsseg_tf.rasters.inspection import Inspection
from rsseg_tf.rasters.pixel_rows import open_rows
from rsseg_tf.rasters.scenes import open_scene, raster_driver, read_pixels
from rsseg_tf.rasters.sources import FileVariable, named_source
from rsseg_tf.rasters.windows import Window
from rsseg_tf.serving.tiffs import decode_tiff
from tests.fixtures.formats import (
    BANDS,
    PLACE,
    UTM,
    foreign_files,
    noise,
    write_as,
    write_netcdf,
    write_tiff,
    write_zarr,
)

# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "driver", "options"),
    [
        ("a.jp2", "JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES"}),
        ("a.img", "HFA", {}),
        ("a.dat", "ENVI", {}),
        ("a.bil", "EHdr", {}),
        ("a.grd", "RRASTER", {}),
    ],
)
def test_pixels_and_place_are_those_of_the_tiff(
    tmp_path: Path, name: str, driver: str, options: dict[str, Any]
) -> None:
    path = write_as(tmp_path / name, driver, **options)
    assert raster_driver(path) == driver
    with open_scene(path) as scene:
        pixels, nodata = scene.read()
        part, _ = scene.read(Window(3, 4, 9, 11))
    np.testing.assert_array_equal(pixels, BANDS.transpose(1, 2, 0))
    np.testing.assert_array_equal(part, pixels[3:9, 4:11])
    assert (scene.crs, scene.transform, str(scene.dtype), nodata) == (UTM, PLACE, "uint16", None)
    require_end(path)


def test_jpeg_2000_is_a_tile_for_training_and_checks(tmp_path: Path) -> None:
    bands = noise(3, 20, 30)
    image = write_as(tmp_path / "a.jp2", "JP2OpenJPEG", bands, QUALITY="100", REVERSIBLE="YES")
    write_png(tmp_path / "a.png", np.zeros((20, 30), np.uint8), ((0, 0, 0), (1, 1, 1)))
    (tmp_path / "train.txt").write_text("a.jp2 a.png\n")
    spec = custom_spec("toy", ("a", "b"))
    samples = read_list(tmp_path / "train.txt", tmp_path)
    assert Inspection(samples, spec).raise_first().kinds[0][:3] == (20, 30, 3)
    np.testing.assert_array_equal(SampleReader(samples, spec)(0)[0], bands.transpose(1, 2, 0))
    image.write_bytes(image.read_bytes()[:200])
    with pytest.raises(DataError, match=r"a\.jp2 is a damaged JPEG 2000 file: .*Copy or download it again"):
        SampleReader(samples, spec)(0)


def test_zarr_is_a_tile_for_training(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", {"image": noise(3, 20, 30)})
    write_png(tmp_path / "a.png", np.zeros((20, 30), np.uint8), ((0, 0, 0), (1, 1, 1)))
    (tmp_path / "train.txt").write_text("a.zarr a.png\n")
    spec = custom_spec("toy", ("a", "b"))
    samples = read_list(tmp_path / "train.txt", tmp_path)
    inspection = Inspection(samples, spec, memory=tmp_path / "memory.npz")
    assert not inspection.missing and inspection.raise_first().kinds[0][:3] == (20, 30, 3)
    np.testing.assert_array_equal(SampleReader(samples, spec)(0)[0], noise(3, 20, 30).transpose(1, 2, 0))


@pytest.mark.parametrize("kind", ["netCDF", "HDF5", "Zarr"])
def test_one_raster_in_a_file_is_taken(tmp_path: Path, kind: str) -> None:
    if kind == "HDF5":
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            file["deep/image"] = BANDS
        place: object = (None, rasterio.Affine.identity())
    elif kind == "Zarr":
        path, place = write_zarr(tmp_path / "a.zarr", {"image": BANDS}), (UTM, PLACE)
    else:
        path, place = write_netcdf(tmp_path / "a.nc", BANDS[:1]), (UTM, PLACE)
    with open_scene(path) as scene:
        pixels, _ = scene.read()
    np.testing.assert_array_equal(pixels, BANDS[: pixels.shape[2]].transpose(1, 2, 0))
    assert (scene.crs, scene.transform) == place
    name = {"HDF5": "deep/image", "netCDF": "Band1", "Zarr": "image"}[kind]
    np.testing.assert_array_equal(read_pixels(FileVariable(path, name)).values, pixels)


def test_several_rasters_in_a_file_are_listed_with_how_to_name_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["red"], file["deep/green"], file["times"] = BANDS[0], BANDS[1], np.arange(5)
    paths = {
        write_netcdf(tmp_path / "a.nc"): ("Band2", r"Band1, Band2, Band3", "Band1", 1),
        tmp_path / "a.h5": ("deep/green", r"deep/green, red", "deep/green", 1),
        write_zarr(tmp_path / "a.zarr", {"red": BANDS[0], "green": BANDS[1]}): ("green", r"\w+, \w+", r"\w+", 1),
    }
    for path, (variable, listed, first, band) in paths.items():
        with pytest.raises(DataError, match=rf"{path.name} holds \d rasters: {listed}\. Name one as .*:{first}, or"):
            read_pixels(path)
        source = named_source(f"{path}:{variable}")
        assert source == FileVariable(path, variable)
        np.testing.assert_array_equal(read_pixels(source).values[..., 0], BANDS[band])
        with pytest.raises(DataError, match=r"has no raster 'blue'; it holds .*Correct the name"):
            read_pixels(named_source(f"{path}:blue"))


def test_names_as_gdal_writes_them(tmp_path: Path) -> None:
    assert named_source('NETCDF:"/data/a b.nc":red') == FileVariable(Path("/data/a b.nc"), "red")
    assert named_source("HDF5:a.h5://deep/red") == FileVariable(Path("a.h5"), "deep/red")
    assert named_source('ZARR:"/data/a.zarr":/red') == FileVariable(Path("/data/a.zarr"), "red")
    (tmp_path / "with:colon.tif").write_bytes(b"")
    assert named_source(str(tmp_path / "with:colon.tif")) == tmp_path / "with:colon.tif"
    write_tiff(tmp_path / "a.tif", noise())
    with pytest.raises(DataError, match=r"a\.tif is no netCDF, HDF5 or Zarr file and has no variables"):
        read_pixels(named_source(f"{tmp_path}/a.tif:red"))


def test_a_file_without_a_raster_is_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["weights"], file["bias"] = np.arange(5.0), np.arange(3.0)
    with pytest.raises(DataError, match=r"a\.h5 holds no raster: no variable has rows and columns"):
        read_pixels(tmp_path / "a.h5")


def test_a_scale_that_is_not_applied_is_told(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["red"] = BANDS[0]
        file["red"].attrs["scale_factor"] = 0.0001
    with open_scene(tmp_path / "a.h5") as scene:
        assert scene.notes == ("is read as stored: its scale of 0.0001 is not applied",)


# --- what is not followed -----------------------------------------------------------------------------------------


def hdf5_with_a_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["image"] = BANDS[0]
        file["other"] = h5py.ExternalLink("secret.h5", "/image")


def hdf5_of_another_files_bytes(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (20, 30), "u1", external=[(str(path.with_name("secret.txt")), 0, 600)])


def hdf5_put_together(path: Path) -> None:
    layout = h5py.VirtualLayout((20, 30), "u2")
    layout[:] = h5py.VirtualSource(str(path.with_name("secret.h5")), "image", (20, 30))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("image", layout)


@pytest.mark.parametrize("write", [hdf5_with_a_link, hdf5_of_another_files_bytes, hdf5_put_together])
@pytest.mark.parametrize("name", ["a.h5", "a.nc", "a.tif"])
def test_hdf5_that_takes_values_from_other_files_is_refused(tmp_path: Path, write: object, name: str) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = BANDS[0]
    (tmp_path / "secret.txt").write_bytes(bytes(600))
    write(tmp_path / name)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"is an HDF5 file that is not followed: .*--allow_vrt_sources"):
        read_pixels(tmp_path / name)
    if name == "a.h5" and write is not hdf5_with_a_link:
        assert read_pixels(tmp_path / name, trust=Trust(vrt_sources=True)).values.shape == (20, 30, 1)


def test_damaged_containers_end_in_one_line(tmp_path: Path) -> None:
    for path in (write_netcdf(tmp_path / "a.nc"), tmp_path / "b.h5"):
        if path.suffix == ".h5":
            with h5py.File(path, "w") as file:
                file["image"] = BANDS
        data = path.read_bytes()
        for length in (9, 100, len(data) // 2):
            path.write_bytes(data[:length])
            with pytest.raises(DataError) as caught:
                read_pixels(path)
            assert "\n" not in str(caught.value) and path.name in str(caught.value)


def test_drivers_that_follow_names_need_trust(tmp_path: Path) -> None:
    write_tiff(tmp_path / "secret.tif", noise())
    texts = {
        "a.mrf": "<MRF_META><Raster><Size x='30' y='20' c='1'/></Raster></MRF_META>",
        "a.wms": "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>",
        "a.json": '{"type":"FeatureCollection","stac_version":"1.0.0","features":[]}',
        "a.gti": f"<GDALTileIndexDataset><IndexDataset>{tmp_path}/a.gpkg</IndexDataset></GDALTileIndexDataset>",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert raster_driver(tmp_path / name) is None
        with pytest.raises(DataError, match="is not a PNG, JPEG or TIFF file"):
            read_pixels(tmp_path / name)
    rasterio.shutil.copy(write_tiff(tmp_path / "b.tif", noise()), tmp_path / "b.ers", driver="ERS")
    assert raster_driver(tmp_path / "b.ers") is None
    trusted = read_pixels(tmp_path / "b.ers", trust=Trust(vrt_sources=True))
    np.testing.assert_array_equal(trusted.values, noise().transpose(1, 2, 0))


def test_overviews_beside_a_store_or_a_jpeg_2000_are_not_followed(tmp_path: Path) -> None:
    elsewhere = "<PAMDataset><Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>/a.tif</MDI></Metadata></PAMDataset>"
    write_zarr(tmp_path / "a.zarr", {"image": BANDS})
    write_as(tmp_path / "a.jp2", "JP2OpenJPEG")
    for path, side in ((tmp_path / "a.zarr", "a.zarr/pam.aux.xml"), (tmp_path / "a.jp2", "a.jp2.aux.xml")):
        (tmp_path / side).write_text(elsewhere)
        with pytest.raises(DataError, match="names a file of overviews"):
            read_pixels(path)


# --- who reads none of it -------------------------------------------------------------------------------------------


def test_servers_archives_and_labels_read_no_more_than_before(tmp_path: Path) -> None:
    for kind, data in foreign_files(tmp_path / "made").items():
        path = tmp_path / "sent.tif"
        path.write_bytes(data)
        with pytest.raises(DataError, match="must be one of PNG, JPEG, BMP, GIF and TIFF|claims to be"):
            encoded_size(data)  # what a server asks before any decoder sees an image
        with pytest.raises(DataError, match="cannot be read"):
            decode_tiff(data, bands=3, dtype="uint8")
        refused = "is not a PNG, JPEG or TIFF file|is a VRT"
        with pytest.raises(DataError, match=refused), open_rows(path, "member", "stored"):
            pass  # scenes in archives
        with pytest.raises(DataError, match=refused):
            read_label(path)
        with pytest.raises(DataError, match=f"{refused}|PNG or JPEG is expected"):
            decode_image(data, kind)
        with pytest.raises(DataError, match=refused):
            read_image(path)


@pytest.mark.parametrize(
    "text", ["https://127.0.0.1:9/a.tif", "s3://bucket/a.tif", "/vsicurl/http://127.0.0.1:9/a.tif"]
)
def test_lists_of_training_name_files_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "train.txt").write_text(f"{text} a.png\n")
    with pytest.raises(DataError, match="names 2 missing files"):
        read_list(tmp_path / "train.txt", tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        read_pixels(Path(text))
