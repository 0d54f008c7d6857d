"""Bands of several files as one image: on one grid, with their nodata, wherever the files lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject, transform_bounds

from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.scenes import Scene, open_scene, read_pixels
from rsseg_tf.rasters.sources import Stack, absolute, named_source, names_of, stack_of
from rsseg_tf.rasters.windows import Size, Window
from tests.fixtures.formats import UTM, noise, write_netcdf, write_tiff


def from_origin(west: float, north: float, width: float, height: float) -> Affine:
    return Affine(width, 0.0, west, 0.0, -height, north)


FINE = from_origin(500000, 9000000, 10, 10)
COARSE = from_origin(500000, 9000000, 20, 20)


def read(*members: Path | str, resampling: Any = "bilinear") -> tuple[Scene, np.ndarray, Any]:
    with open_scene(stack_of(members, resampling)) as scene:
        return scene, *scene.read()


def test_files_on_one_grid_are_read_as_they_are(tmp_path: Path) -> None:
    bands = noise(4, dtype=np.uint16)
    files = [write_tiff(tmp_path / f"B{band}.tif", bands[[band]], transform=FINE) for band in range(4)]
    whole = write_tiff(tmp_path / "all.tif", bands, transform=FINE)
    scene, pixels, nodata = read(*files)
    np.testing.assert_array_equal(pixels, bands.transpose(1, 2, 0))
    assert (scene.crs, scene.transform, scene.size, nodata) == (UTM, FINE, (20, 30), None)
    assert scene.descriptions == ("B0", "B1", "B2", "B3") and scene.is_raster and not scene.notes
    with open_scene(stack_of(files), (3, 1)) as scene:
        np.testing.assert_array_equal(scene.read(Window(2, 3, 9, 20))[0], bands[[2, 0], 2:9, 3:20].transpose(1, 2, 0))
    np.testing.assert_array_equal(read(whole, files[0])[1], bands[[0, 1, 2, 3, 0]].transpose(1, 2, 0))


@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
def test_other_grids_are_brought_to_the_finest(tmp_path: Path, resampling: str) -> None:
    fine, coarse = noise(1, 40, 60, np.uint16), noise(1, 20, 30, np.uint16)
    coarse_file = write_tiff(tmp_path / "B05.tif", coarse, transform=COARSE)
    fine_file = write_tiff(tmp_path / "B02.tif", fine, transform=FINE)
    scene, pixels, nodata = read(coarse_file, fine_file, resampling=resampling)
    assert (scene.size, scene.transform, nodata) == ((40, 60), FINE, None)
    assert scene.notes == ("has the grid of B02.tif; B05.tif is resampled to it",)
    np.testing.assert_array_equal(pixels[..., 1], fine[0])
    expected = np.zeros((40, 60), np.uint16)
    reproject(coarse[0], expected, src_transform=COARSE, dst_transform=FINE, src_crs=UTM, dst_crs=UTM,
              resampling=Resampling[resampling])  # fmt: skip
    np.testing.assert_array_equal(pixels[..., 0], expected)
    if resampling == "nearest":
        np.testing.assert_array_equal(pixels[..., 0], np.repeat(np.repeat(coarse[0], 2, axis=0), 2, axis=1))
    with open_scene(stack_of([coarse_file, fine_file], resampling)) as scene:  # type: ignore[arg-type]
        part, _ = scene.read(Window(7, 11, 30, 50))
        np.testing.assert_array_equal(part, pixels[7:30, 11:50])
        assert scene.read(size=Size(10, 15))[0].shape == (10, 15, 2)


def test_a_shift_by_whole_pixels_keeps_the_values(tmp_path: Path) -> None:
    bands = noise(1, 20, 30, np.uint16)
    shifted = from_origin(500000 - 50, 9000000 + 30, 10, 10)
    _, pixels, nodata = read(
        write_tiff(tmp_path / "a.tif", bands, transform=FINE),
        write_tiff(tmp_path / "b.tif", bands, transform=shifted),
    )
    np.testing.assert_array_equal(pixels[:17, :25, 1], bands[0, 3:, 5:])
    # What the second does not cover is no data, whatever the first holds there.
    expected = np.ones((20, 30), bool)
    expected[:17, :25] = False
    np.testing.assert_array_equal(nodata, expected)


@pytest.mark.parametrize("nodata_value", [0, None])
def test_nodata_is_kept_and_does_not_spill_over(tmp_path: Path, nodata_value: int | None) -> None:
    fine = np.full((1, 40, 60), 500, np.uint16)
    coarse = np.full((1, 10, 30), 900, np.uint16)
    mask = np.full((10, 30), 255, np.uint8)
    coarse[0, :2], mask[:2] = 0, 0
    fine[0, :4, :8] = 0
    how: dict[str, Any] = {"nodata": 0} if nodata_value == 0 else {"mask": mask}
    coarse_file = write_tiff(tmp_path / "B05.tif", coarse, transform=COARSE, **how)
    scene, pixels, nodata = read(write_tiff(tmp_path / "B02.tif", fine, transform=FINE, nodata=0), coarse_file)
    assert scene.nodata_values == (0, nodata_value)
    assert set(np.unique(pixels[4:20, :, 1])) == {900}, "no value between 0 and 900"
    expected = np.zeros((40, 60), bool)
    expected[20:] = True  # not covered by the coarse file
    # Declared values count where all bands have them, a mask always.
    expected[:4, : 8 if nodata_value == 0 else None] = True
    np.testing.assert_array_equal(nodata, expected)


def test_another_crs_is_reprojected(tmp_path: Path) -> None:
    fine = noise(1, 40, 60)
    west, south, east, north = transform_bounds(UTM, "EPSG:4326", 499000, 8998000, 502000, 9001000)
    degrees = np.full((1, 30, 30), 77, np.uint8)
    geographic = write_tiff(
        tmp_path / "dem.tif", degrees, crs="EPSG:4326",
        transform=from_origin(west, north, (east - west) / 30, (north - south) / 30),
    )  # fmt: skip
    scene, pixels, nodata = read(geographic, write_tiff(tmp_path / "a.tif", fine, transform=FINE))
    assert (scene.crs, scene.transform, nodata) == (UTM, FINE, None)
    np.testing.assert_array_equal(pixels[..., 1], fine[0])
    assert set(np.unique(pixels[..., 0])) == {77}


def test_types_are_widened_and_alpha_bands_are_masks(tmp_path: Path) -> None:
    rgba = noise(4)
    rgba[3] = 255
    rgba[3, :5] = 0
    height = np.random.default_rng(0).normal(100, 10, (1, 10, 15)).astype(np.float32)
    scene, pixels, nodata = read(
        write_tiff(tmp_path / "rgb.tif", rgba, transform=FINE, photometric="RGB", alpha="yes"),
        write_tiff(tmp_path / "dsm.tif", height, transform=COARSE, nodata=-9999),
    )
    assert scene.dtype == np.float32 and scene.bands == (1, 2, 3, 4)
    np.testing.assert_array_equal(pixels[..., :3], rgba[:3].transpose(1, 2, 0))
    np.testing.assert_array_equal(nodata, rgba[3] == 0)


def test_variables_pictures_and_files_without_a_place(tmp_path: Path) -> None:
    bands = noise(3, dtype=np.uint16)
    path = write_netcdf(tmp_path / "a.nc", bands)
    _, pixels, _ = read(f"{path}:Band3", f"{path}:Band1")
    np.testing.assert_array_equal(pixels, bands[[2, 0]].transpose(1, 2, 0))
    write_png(tmp_path / "rgb.png", noise().transpose(1, 2, 0))
    write_png(tmp_path / "nir.png", noise(1)[0])
    scene, pixels, _ = read(tmp_path / "rgb.png", tmp_path / "nir.png")
    np.testing.assert_array_equal(pixels, np.concatenate([noise(), noise(1)]).transpose(1, 2, 0))
    assert not scene.is_georeferenced
    data = (tmp_path / "nir.png").read_bytes()
    (tmp_path / "nir.png").write_bytes(data[:-30])
    with pytest.raises(DataError, match=r"nir\.png is a damaged PNG"):
        read(tmp_path / "rgb.png", tmp_path / "nir.png")


def test_what_cannot_be_aligned_is_refused(tmp_path: Path) -> None:
    placed = write_tiff(tmp_path / "placed.tif", noise(1), transform=FINE)
    far = write_tiff(tmp_path / "far.tif", noise(1), transform=from_origin(900000, 9000000, 10, 10))
    nowhere = write_tiff(tmp_path / "nowhere.tif", noise(1), crs=None, transform=Affine.identity())
    larger = write_tiff(tmp_path / "larger.tif", noise(1, 40, 60), crs=None, transform=Affine.identity())
    unnamed = write_tiff(tmp_path / "unnamed.tif", noise(1), crs=None, transform=FINE)
    for members, message in (
        ((placed, far), r"far\.tif does not cover any of .*placed\.tif"),
        ((placed, nowhere), r"nowhere\.tif has no transform, but .*placed\.tif has one"),
        ((nowhere, larger), r"larger\.tif is 60x40 pixels and .*nowhere\.tif 30x20; neither has a transform"),
        ((unnamed, placed), r"unnamed\.tif has no CRS, but .*placed\.tif has one"),
        ((placed, tmp_path / "none.tif"), r"none\.tif does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            read(*members)
    with pytest.raises(ConfigError, match="a stack needs at least one file"):
        stack_of([])


def test_members_without_a_named_crs_are_aligned_in_their_common_plane(tmp_path: Path) -> None:
    fine, coarse = noise(1, 40, 60), noise(1)
    _, pixels, _ = read(
        write_tiff(tmp_path / "a.tif", fine, crs=None, transform=FINE),
        write_tiff(tmp_path / "b.tif", coarse, crs=None, transform=COARSE),
        resampling="nearest",
    )
    np.testing.assert_array_equal(pixels[..., 1], np.repeat(np.repeat(coarse[0], 2, axis=0), 2, axis=1))


def test_names_and_places_of_stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stack = stack_of(["T32_B02.jp2", "https://host/T32_B03.tif?sig=1", "T32_B04.jp2"])
    assert (stack.stem, stack.suffix) == ("T32_B02_stack", ".jp2")
    assert str(stack) == "the stack of T32_B02.jp2 and 2 more"
    assert names_of(stack) == "T32_B02.jp2, T32_B03.tif, T32_B04.jp2"
    moved = absolute(stack)
    assert isinstance(moved, Stack) and moved.members[::2] == (tmp_path / "T32_B02.jp2", tmp_path / "T32_B04.jp2")
    assert moved.members[1] == stack.members[1] == named_source("https://host/T32_B03.tif?sig=1")


def test_a_vrt_in_a_stack_is_looked_at(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    secret = write_tiff(tmp_path / "secret.tif", noise(1))
    (home / "m.vrt").write_text(
        '<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
        f'<SourceFilename relativeToVRT="0">{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
        "</VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(DataError, match="lies outside of its folder"):
        read(home / "m.vrt", write_tiff(home / "a.tif", noise(1)))


def test_a_stack_takes_no_more_memory_than_its_parts(tmp_path: Path) -> None:
    with rasterio.open(
        tmp_path / "huge.tif", "w", driver="GTiff", width=60000, height=60000, count=1, dtype="uint8", tiled=True,
        blockxsize=30000, blockysize=30000, sparse_ok=True,
    ):  # fmt: skip
        pass
    from rsseg_tf.rasters.gdal import Trust

    with pytest.raises(DataError, match=r"a block of .*huge\.tif claims"):
        read_pixels(stack_of([tmp_path / "huge.tif"]), trust=Trust(max_bytes=2**26))
