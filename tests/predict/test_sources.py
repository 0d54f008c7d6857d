"""Prediction of what is no plain GeoTIFF: other formats, variables, addresses and stacks, within areas, resumed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from rsseg_tf.errors import DataError
from rsseg_tf.predict import InferenceOptions, OutputOptions, SceneOptions, collect_sources, image_size
from rsseg_tf.rasters.sources import FileVariable, RemoteRaster, Source, Stack, named_source, stack_of
from rsseg_tf.rasters.windows import Size
from tests.fixtures.ranges import Served, served
from tests.fixtures.scenes import (
    COSINE,
    PLACE,
    SPEC,
    Stopped,
    hidden_files,
    noise,
    plan_of,
    pointwise,
    predict_files,
    predict_one,
    read_band,
    stopping_after,
    write_scene,
)

shapely = pytest.importorskip("shapely", reason="the extra `vector` is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")

WINDOWS = InferenceOptions(is_slide=True, crop_size=Size(128, 128), stride=Size(96, 96), blend="cosine")
COARSE = Affine(1.0, 0.0, PLACE.c, 0.0, -1.0, PLACE.f)


def write_area(path: Path, *boxes: tuple[int, int, int, int]) -> Path:
    """Writes boxes, given by their first and last columns and rows in pixels."""
    polygons = [
        shapely.box(PLACE.c + PLACE.a * x0, PLACE.f + PLACE.e * y1, PLACE.c + PLACE.a * x1, PLACE.f + PLACE.e * y0)
        for x0, y0, x1, y1 in boxes
    ]
    pyogrio.raw.write(
        str(path),
        geometry=shapely.to_wkb(np.array(polygons, object)),
        field_data=[], fields=[], geometry_type="Polygon", crs="EPSG:32750",
    )  # fmt: skip
    return path


def write_cog(path: Path, bands: np.ndarray, **profile: Any) -> Path:
    rasterio.shutil.copy(
        write_scene(path.with_name(f"{path.stem}_plain.tif"), bands, **profile), path, driver="COG", BLOCKSIZE="128"
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise that hardly packs, the coarse third band of a stack, and an area in a corner."""
    folder = tmp_path_factory.mktemp("served")
    pixels = np.random.default_rng(0).integers(1, 255, (3, 1024, 1024), np.uint8)
    write_cog(folder / "cog.tif", pixels)
    write_cog(folder / "floats.tif", pixels.astype(np.float32))
    write_cog(folder / "two.tif", pixels[:2])
    write_scene(folder / "third.tif", noise(512, 512, 1), transform=COARSE)
    write_area(folder / "area.gpkg", (600, 700, 700, 780))
    write_area(folder / "corners.gpkg", (10, 20, 60, 90), (900, 30, 1000, 400), (300, 850, 420, 1000))
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with served(folder) as running:
        yield running


@pytest.mark.parametrize("name", ["cog.tif", "floats.tif"])
def test_a_small_area_of_a_cog_costs_a_part_of_its_bytes_and_gives_the_files_labels(
    folder: Path, server: Served, tmp_path: Path, name: str
) -> None:
    scenes = SceneOptions(aoi=folder / "area.gpkg")
    output = OutputOptions(confidence=True, vector="gpkg")
    local = predict_one(folder / name, tmp_path / "local", WINDOWS, predict=pointwise, scenes=scenes, output=output)
    server.bytes_sent()
    remote = predict_one(
        RemoteRaster(f"{server.url}/{name}"),
        tmp_path / "remote",
        WINDOWS,
        predict=pointwise,
        scenes=scenes,
        output=output,
    )
    assert 0 < server.bytes_sent() < 0.2 * (folder / name).stat().st_size
    assert set(local.files) == set(remote.files)
    for product in ("geotiff", "confidence"):
        np.testing.assert_array_equal(read_band(remote.files[product]), read_band(local.files[product]))
    labels = read_band(remote.files["geotiff"])
    assert (labels[700:780, 600:700] != 255).all() and np.count_nonzero(labels != 255) == 8000
    shown, expected = (read_band(result.files["overlay"])[700:780, 600:700] for result in (remote, local))
    # The brightness of floats follows the part that is shown.
    assert np.abs(shown.astype(int) - expected).max() <= (1 if name == "floats.tif" else 0)
    with rasterio.open(remote.files["geotiff"]) as made:
        assert made.tags()["SOURCE"] == name and made.transform == PLACE


def test_areas_apart_are_predicted_as_if_all_were(folder: Path, tmp_path: Path) -> None:
    whole = read_band(predict_one(folder / "cog.tif", tmp_path / "whole", COSINE).files["geotiff"])
    scenes = SceneOptions(aoi=folder / "corners.gpkg", max_memory=4 * 2**20)
    result = predict_one(folder / "cog.tif", tmp_path / "some", COSINE, scenes=scenes)
    expected = np.full_like(whole, 255)
    for x0, y0, x1, y1 in ((10, 20, 60, 90), (900, 30, 1000, 400), (300, 850, 420, 1000)):
        expected[y0:y1, x0:x1] = whole[y0:y1, x0:x1]
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), expected)


def test_a_small_area_of_an_image_that_would_be_predicted_whole(folder: Path, server: Served, tmp_path: Path) -> None:
    options = InferenceOptions(tile=Size(128, 128))
    scenes = SceneOptions(aoi=folder / "area.gpkg")
    seen = []

    def spy(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape[1:3])
        return pointwise(batch)

    local = predict_one(folder / "cog.tif", tmp_path / "local", options, predict=spy, scenes=scenes)
    assert set(seen) == {(128, 128)}
    server.bytes_sent()
    remote = predict_one(
        RemoteRaster(f"{server.url}/cog.tif"), tmp_path / "remote", options, predict=spy, scenes=scenes
    )
    assert 0 < server.bytes_sent() < 0.2 * (folder / "cog.tif").stat().st_size
    np.testing.assert_array_equal(read_band(remote.files["geotiff"]), read_band(local.files["geotiff"]))
    seen.clear()
    predict_one(folder / "cog.tif", tmp_path / "large", InferenceOptions(), predict=spy, scenes=scenes)
    assert set(seen) == {(1024, 1024)}, "four tiles are an image that is predicted whole"


def everything(folder: Path, server: Served) -> Stack:
    """Two bands from a server, one on another grid from a file."""
    return stack_of([f"{server.url}/two.tif", str(folder / "third.tif")])


def test_a_stack_an_address_and_an_area_are_resumed_to_the_same_bytes(
    folder: Path, server: Served, tmp_path: Path, every_row_is_saved: None
) -> None:
    source, area = everything(folder, server), folder / "corners.gpkg"
    expected = predict_one(source, tmp_path / "straight", WINDOWS, scenes=SceneOptions(aoi=area))
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        predict_files([source], stopping_after(12), SPEC, out, WINDOWS, scenes=SceneOptions(aoi=area))
    assert hidden_files(out), "rows of the first run are kept"
    resumed = predict_one(source, out, WINDOWS, scenes=SceneOptions(aoi=area, resume=True))
    assert resumed.files["geotiff"].name == "two_stack.tif"
    assert resumed.files["geotiff"].read_bytes() == expected.files["geotiff"].read_bytes()
    done = SceneOptions(aoi=area, resume=True)
    assert predict_one(source, out, WINDOWS, predict=stopping_after(0), scenes=done).files == resumed.files
    other = stack_of([str(folder / "two.tif"), str(folder / "third.tif")])
    with pytest.raises(Stopped):  # another source under the same name is predicted anew
        predict_one(other, out, WINDOWS, predict=stopping_after(0), scenes=done)


def test_a_changed_raster_on_a_server_is_predicted_again(folder: Path, server: Served, tmp_path: Path) -> None:
    from rsseg_tf.rasters.remote import fingerprint

    address = RemoteRaster(f"{server.url}/changing.tif")
    write_cog(folder / "changing.tif", noise(200, 300, seed=1))
    resume = SceneOptions(resume=True)
    predict_one(address, tmp_path / "out", WINDOWS)
    assert "done by an earlier run" in (predict_one(address, tmp_path / "out", WINDOWS, scenes=resume).note or "")
    write_cog(folder / "changing.tif", noise(200, 300, seed=2))
    fingerprint.cache_clear()  # as in a later run
    result = predict_one(RemoteRaster(f"{address.url}?again"), tmp_path / "out", WINDOWS, scenes=resume)
    assert "done by an earlier run" not in (result.note or "")


@pytest.mark.slow
def test_a_stack_an_address_and_an_area_on_dask(folder: Path, server: Served, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    from rsseg_tf.predict import cluster
    from tests.fixtures.scenes import lopsided

    sources: list[Source] = [everything(folder, server), RemoteRaster(f"{server.url}/cog.tif")]
    scenes = SceneOptions(aoi=folder / "corners.gpkg")
    here = predict_files(sources, lopsided, SPEC, tmp_path / "here", WINDOWS, scenes=scenes)
    plan = plan_of(sources, SPEC, tmp_path / "there", WINDOWS, scenes=scenes)
    there = cluster.predict_on_cluster(plan, open_lopsided, None, workers=2)
    for one, other in zip(here, there, strict=True):
        assert one.ok and other.ok, other.error
        assert other.image == one.image
        np.testing.assert_array_equal(read_band(one.files["geotiff"]), read_band(other.files["geotiff"]))


def open_lopsided() -> Any:
    """Returns the model, in a worker."""
    from tests.fixtures.scenes import lopsided

    return lopsided


def test_other_formats_are_found_and_predicted(tmp_path: Path) -> None:
    pixels = noise(60, 80)
    folder = tmp_path / "in"
    folder.mkdir()
    expected = predict_one(write_scene(tmp_path / "a.tif", pixels), tmp_path / "expected", COSINE)
    profile = {"count": 3, "height": 60, "width": 80, "dtype": "uint8", "crs": "EPSG:32750", "transform": PLACE}
    for name, driver, options in (
        ("a.jp2", "JP2OpenJPEG", {"QUALITY": "100", "REVERSIBLE": "YES"}),
        ("b.zarr", "Zarr", {}),
        ("c.img", "HFA", {}),
    ):
        with rasterio.open(folder / name, "w", driver=driver, **profile, **options) as target:
            target.write(pixels)
    with h5py.File(folder / "d.h5", "w") as file:
        file["image"] = pixels
    found, base = collect_sources(str(folder))
    assert [path.name for path in found] == ["a.jp2", "b.zarr", "c.img", "d.h5"] and base == folder
    results = predict_files(found, pointwise, SPEC, tmp_path / "out", COSINE, base=base)
    local = predict_one(tmp_path / "a.tif", tmp_path / "again", COSINE, predict=pointwise)
    for path, result in zip(found, results, strict=True):
        assert result.ok, result.error
        assert image_size(path) == (60, 80)
        np.testing.assert_array_equal(read_band(result.files["geotiff"]), read_band(local.files["geotiff"]))
    assert expected.ok


def test_sources_by_their_texts(folder: Path, server: Served, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["red"], file["green"] = noise(20, 30, 1)[0], noise(20, 30, 1)[0]
    part = FileVariable(tmp_path / "a.h5", "red")
    assert collect_sources(f"{tmp_path}/a.h5:red") == ([part], Path())
    assert image_size(part) == (20, 30) and image_size(tmp_path / "a.h5") == (0, 0)
    (tmp_path / "list.txt").write_text(f"{server.url}/cog.tif\na.h5\n{server.url}/cog.tif\n")
    found, base = collect_sources(str(tmp_path / "list.txt"))
    assert found == [RemoteRaster(f"{server.url}/cog.tif"), tmp_path / "a.h5"]
    names = [str(job.name) for job in plan_of(found, SPEC, tmp_path / "out", COSINE, base=base).jobs]
    assert names == ["cog", "a"]
    (tmp_path / "list.txt").write_text(f"{server.url}/cog.tif\nnone.tif\n")
    with pytest.raises(DataError, match=r"names 1 missing file; the first is .*none\.tif \(line 2\)"):
        collect_sources(str(tmp_path / "list.txt"))
    with pytest.raises(DataError, match=r"gs://bucket/a\.tif is an address of another kind than https://, http:// and"):
        collect_sources("gs://bucket/a.tif")
    with pytest.raises(DataError, match=r"none\.jp2 does not exist\. Check the path"):
        collect_sources(stack_of([f"{server.url}/cog.tif", "none.jp2"]))
    with pytest.raises(DataError, match="would write results of one name, 'cog'"):
        plan_of([RemoteRaster("https://a/cog.tif"), RemoteRaster("https://b/cog.tif")], SPEC, tmp_path / "out", COSINE)


def test_formats_that_lead_elsewhere_need_a_permission(tmp_path: Path) -> None:
    pixels = noise(60, 80)
    rasterio.shutil.copy(write_scene(tmp_path / "b.tif", pixels), tmp_path / "a.ers", driver="ERS")
    with pytest.raises(DataError, match=r"a\.ers is neither an image .* needs --allow_vrt_sources"):
        collect_sources(str(tmp_path / "a.ers"))
    found, _ = collect_sources(str(tmp_path / "a.ers"), any_driver=True)
    (tmp_path / "list.txt").write_text("b.tif\n")
    assert collect_sources(str(tmp_path / "list.txt"), any_driver=True)[0] == [tmp_path / "b.tif"]
    trusting = SceneOptions(allow_vrt_sources=True)
    result = predict_one(found[0], tmp_path / "out", COSINE, scenes=trusting)
    expected = predict_one(tmp_path / "b.tif", tmp_path / "out", COSINE)
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), read_band(expected.files["geotiff"]))


def test_a_server_that_is_gone_fails_its_image_alone(folder: Path, server: Served, tmp_path: Path) -> None:
    sources = [named_source(f"{server.url}/none.tif"), named_source(str(folder / "third.tif"))]
    failed, _ = predict_files(sources, pointwise, SPEC, tmp_path / "out", COSINE, scenes=SceneOptions(resume=True))
    assert "none.tif cannot be read over the network: HTTP response code: 404" in (failed.error or "")


def test_a_stack_never_takes_the_place_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "geotiff_prediction").mkdir()
    one = write_scene(tmp_path / "a.tif", noise(20, 30)[:2])
    other = write_scene(tmp_path / "geotiff_prediction" / "a_stack.tif", noise(20, 30)[:1])
    (result,) = predict_files([stack_of([one, other])], pointwise, SPEC, tmp_path, COSINE)
    assert "would replace the image itself" in (result.error or "")
