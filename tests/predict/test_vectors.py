"""Polygons: their areas are those of the raster, neighbours leave no gap, and tiles leave no trace."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from shapely import Polygon

from rsseg_tf.errors import ConfigError, ExportError
from rsseg_tf.predict import OutputOptions, SceneOptions
from rsseg_tf.predict.vector_files import VectorPlace, write_features
from rsseg_tf.predict.vectors import Legend, Region, _features, regions
from rsseg_tf.rasters.ground import PixelAreas, pixel_areas
from rsseg_tf.rasters.scenes import open_scene
from rsseg_tf.styles import PaletteEntry
from tests.fixtures.scenes import (
    COSINE,
    PLACE,
    SPEC,
    noise,
    pointwise,
    predict_files,
    predict_one,
    read_band,
    write_scene,
)

shapely = pytest.importorskip("shapely", reason="the extra `vector` is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")


def entries(names: str) -> tuple[PaletteEntry, ...]:
    return tuple(PaletteEntry(index, name, (index, 0, 0)) for index, name in enumerate(names))


def region_list(
    folder: Path,
    labels: np.ndarray,
    *,
    tile: int = 16,
    simplify: float = 0.0,
    confidence: np.ndarray | None = None,
    ignored: int = 255,
    areas: PixelAreas | None = None,
) -> list[Region]:
    """Writes labels (and confidence) and returns their regions."""
    stored = np.full(labels.shape, 200, np.uint8) if confidence is None else confidence
    one = write_scene(folder / "labels.tif", labels[np.newaxis])
    other = write_scene(folder / "confidence.tif", stored[np.newaxis])
    with rasterio.open(one) as label_map, rasterio.open(other) as confidence_map:
        return list(regions(label_map, confidence_map, ignored, simplify=simplify, tile=tile, areas=areas))


def random_labels(height: int, width: int, classes: int, seed: int) -> np.ndarray:
    """Patches and single pixels of ids 0.. and 255."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, classes, (height // 5 + 1, width // 5 + 1)), np.ones((5, 5), int))[:height, :width]
    labels = np.where(rng.random((height, width)) < 0.2, rng.integers(0, classes, (height, width)), coarse)
    labels[rng.random((height, width)) < 0.05] = 255
    return labels.astype(np.uint8)


def drawn(found: list[Region], shape: tuple[int, int]) -> np.ndarray:
    """Burns regions back into a raster; 255 elsewhere."""
    return rasterize([(region.geometry, region.value) for region in found], out_shape=shape, fill=255, dtype="uint8")


@settings(max_examples=30)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(1, 4),
    tile=st.integers(3, 20),
    seed=st.integers(0, 99),
)
def test_regions_are_the_raster_again(
    height: int, width: int, classes: int, tile: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("regions")
    labels = random_labels(height, width, classes, seed)
    found = region_list(folder, labels, tile=tile)
    assert all(region.geometry.is_valid and region.geometry.geom_type == "Polygon" for region in found)
    np.testing.assert_array_equal(drawn(found, labels.shape), labels)
    for region in found:
        assert region.geometry.area == region.pixels
        assert region.confidence == 200 * region.pixels
    # Without tiles the same regions come out: nothing is cut and nothing is joined that does not touch.
    whole = region_list(folder, labels, tile=64)
    assert sorted((r.value, r.pixels) for r in found) == sorted((r.value, r.pixels) for r in whole)


@settings(max_examples=30)
@given(
    height=st.integers(2, 48), width=st.integers(2, 48), tile=st.integers(5, 24), seed=st.integers(0, 99),
    tolerance=st.sampled_from([0.8, 1.5, 4.0]),
)  # fmt: skip
def test_simplified_neighbours_leave_no_gap_and_no_overlap(
    height: int, width: int, tile: int, seed: int, tolerance: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    labels = random_labels(height, width, 3, seed)
    labels[labels == 255] = 0
    found = region_list(tmp_path_factory.mktemp("regions"), labels, tile=tile, simplify=tolerance)
    geometries = [region.geometry for region in found]
    assert all(geometry.is_valid for geometry in geometries)
    assert shapely.coverage_is_valid(geometries)
    assert sum(geometry.area for geometry in geometries) == pytest.approx(height * width, abs=1e-9)
    assert shapely.union_all(geometries).area == pytest.approx(height * width, abs=1e-9)


def test_simplified_outlines_have_fewer_points_and_nearly_the_area(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:200, :200]
    labels = (np.hypot(rows - 100, columns - 90) < 70).astype(np.uint8)
    exact = region_list(tmp_path, labels, tile=64)
    simple = region_list(tmp_path, labels, tile=64, simplify=2.0)
    for one, other in zip(
        sorted(exact, key=lambda region: region.value), sorted(simple, key=lambda region: region.value), strict=True
    ):
        assert shapely.get_num_coordinates(other.geometry) < 0.5 * shapely.get_num_coordinates(one.geometry)
        assert other.geometry.area == pytest.approx(one.geometry.area, rel=0.01)
    (hole,) = next(region for region in simple if region.value == 0).geometry.interiors
    assert shapely.Polygon(hole).area == pytest.approx(next(r for r in simple if r.value == 1).geometry.area)


def test_regions_leave_as_soon_as_they_are_whole(tmp_path: Path) -> None:
    """A map of many small regions below each other: only those of one row of tiles are open at a time."""
    labels = np.full((400, 20), 255, np.uint8)
    for index in range(40):
        labels[index * 10 + 2 : index * 10 + 8, 2:18] = index % 3
    write_scene(tmp_path / "labels.tif", labels[np.newaxis])
    read = []

    class Watched:
        """A raster that notes up to which row it was read."""

        def __init__(self, source: DatasetReader) -> None:
            self.shape, self._source = source.shape, source

        def read(self, *arguments: int, window: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
            read.append(window[0][1])
            return self._source.read(*arguments, window=window)

    with rasterio.open(tmp_path / "labels.tif") as source:
        found = regions(Watched(source), source, 255, tile=20)
        for index, region in enumerate(found):
            assert read[-1] <= region.geometry.bounds[3] + 21, f"region {index} came late"
    assert index == 39


def test_areas_are_metres_on_the_ground(tmp_path: Path) -> None:
    """A pixel is a quarter of a square metre in UTM; in degrees and in Web Mercator the ellipsoid decides."""
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 10:] = 1

    def areas(crs: str | None, transform: Affine) -> list[float]:
        path = write_scene(tmp_path / "scene.tif", labels[np.newaxis], crs=crs, transform=transform)
        with open_scene(path) as scene:
            found = region_list(tmp_path, labels, areas=pixel_areas(scene.size, scene.transform, scene.crs))
            return [feature.area for feature in _features(found, Legend(entries("ab"), 255), 0.0)]

    assert areas("EPSG:32750", PLACE) == pytest.approx([50.0, 100.0])
    assert areas("EPSG:2263", Affine(10, 0, 1e6, 0, -10, 2e5)) == pytest.approx([200 * 9.2903412, 400 * 9.2903412])
    assert areas(None, Affine.identity()) == [200.0, 400.0], "pixels"
    # Three degrees by one on WGS 84, summed up in thin strips: radius of the meridian times that of the parallel.
    degrees = areas("EPSG:4326", Affine(0.1, 0, 10, 0, -0.05, 51))
    latitude = np.radians(50 + (np.arange(10_000) + 0.5) / 10_000)
    eccentricity2 = (2 - 1 / 298.257223563) / 298.257223563
    curvature = 1 - eccentricity2 * np.sin(latitude) ** 2
    strips = 6378137.0**2 * (1 - eccentricity2) / curvature**2 * np.cos(latitude) * np.radians(1 / 10_000)
    assert sum(degrees) == pytest.approx(strips.sum() * np.radians(3), rel=1e-6)
    # The same ground in Web Mercator.
    west, south, east, north = rasterio.warp.transform_bounds("EPSG:4326", "EPSG:3857", 10, 50, 13, 51)
    place = Affine((east - west) / 30, 0, west, 0, (south - north) / 20, north)
    assert sum(areas("EPSG:3857", place)) == pytest.approx(sum(degrees), rel=1e-6)


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb"])
def test_files_hold_classes_areas_and_confidence(tmp_path: Path, suffix: str) -> None:
    bands = noise(60, 70)
    bands[:, :10] = 0
    path = write_scene(tmp_path / "a.tif", bands, nodata=0)
    output = OutputOptions(vector=suffix, confidence=True)
    result = predict_one(path, tmp_path / "out", COSINE, predict=pointwise, output=output)
    assert result.files["vector"] == tmp_path / "out" / "vector_prediction" / f"a.{suffix}"
    meta, _, wkb, columns = pyogrio.raw.read(result.files["vector"], layer="a")
    table = dict(zip(meta["fields"], columns, strict=True))
    assert list(table) == ["class_id", "class", "area_m2", "pixels", "confidence"]
    labels, confidence = read_band(result.files["geotiff"]), read_band(result.files["confidence"])
    geometries = shapely.from_wkb(wkb)
    assert all(geometry.is_valid for geometry in geometries)
    for value, name in enumerate(SPEC.classes):
        of_class = table["class"] == name
        assert (table["class_id"][of_class] == value).all()
        assert table["area_m2"][of_class].sum() == pytest.approx(0.25 * (labels == value).sum())
        mean = (table["confidence"] * table["pixels"])[of_class].sum() / (labels == value).sum()
        assert mean == pytest.approx(confidence[labels == value].mean() / 254)
    if suffix == "geojson":
        assert meta["crs"] == "EPSG:4326" and shapely.get_coordinates(geometries)[:, 0] == pytest.approx(117, abs=0.01)
    else:
        assert meta["crs"] == "EPSG:32750"
        burnt = rasterize(
            zip(geometries, table["class_id"], strict=True), out_shape=(60, 70), transform=PLACE, fill=255
        )
        np.testing.assert_array_equal(burnt, labels)
    files = sorted(file.name for file in (tmp_path / "out").rglob("*") if file.is_file())
    styles = ["a.qml", "a.qml", "a.tif.aux.xml"] + (["a.qml"] if suffix != "gpkg" else [])
    assert files == sorted([".predicted.jsonl", "a.png", "a.png", "a.tif", "a.tif", f"a.{suffix}", *styles])


def test_small_polygons_are_left_out_and_doubtful_ones_are_named(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(60, 70))
    output = OutputOptions(vector="gpkg", min_area=5.0, min_confidence=0.8)
    result = predict_one(path, tmp_path / "out", COSINE, predict=pointwise, output=output)
    assert "confidence" not in result.files, "made for the polygons, and not asked for"
    meta, _, _, columns = pyogrio.raw.read(result.files["vector"], layer="a")
    table = dict(zip(meta["fields"], columns, strict=True))
    assert table["area_m2"].min() >= 5.0
    everything = predict_one(
        path, tmp_path / "all", COSINE, predict=pointwise, output=OutputOptions(vector="gpkg", min_confidence=0.8)
    )
    _, _, _, (_, names, areas, *_) = pyogrio.raw.read(everything.files["vector"], layer="a")
    assert (areas < 5.0).any() and len(table["area_m2"]) == (areas >= 5.0).sum()
    assert set(names) == {*SPEC.classes, "review"}


@pytest.mark.parametrize("suffix", ["gpkg", "geojson", "fgb"])
def test_many_batches_and_none_at_all(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.predict.vector_files._BATCH", 7)
    labels = random_labels(30, 30, 3, 1)
    found = region_list(tmp_path, labels)
    scene_path = write_scene(tmp_path / "scene.tif", labels[np.newaxis])
    legend = Legend(entries("abc"), 255)
    with open_scene(scene_path) as scene:
        place = VectorPlace(scene.size, scene.transform, scene.crs)
        path = tmp_path / f"many.{suffix}"
        write_features(path, _features(found, legend, 0.0), place, in_metres=True)
        assert len(pyogrio.raw.read(path)[2]) == len(found) > 14
        path = tmp_path / f"none.{suffix}"
        write_features(path, [], place, in_metres=True)
        assert len(pyogrio.raw.read(path)[2]) == 0


def test_one_file_is_for_one_scene(tmp_path: Path) -> None:
    one, two = (write_scene(tmp_path / name, noise(20, 20)) for name in ("a.tif", "b.tif"))
    target = tmp_path / "here.gpkg"
    output = OutputOptions(vector=str(target))
    result = predict_one(one, tmp_path / "out", COSINE, output=output)
    assert result.files["vector"] == target and target.is_file()
    with pytest.raises(ConfigError, match=r"is one file, but there are 2 images.*--vector gpkg"):
        predict_files([one, two], pointwise, SPEC, tmp_path / "out", COSINE, output=output)
    with pytest.raises(ConfigError, match="must be gpkg, geojson, fgb or parquet"):
        OutputOptions(vector="shp")
    with pytest.raises(ConfigError, match="--simplify has an effect with --vector only"):
        OutputOptions(simplify=1.0)


def test_without_the_libraries_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.split(".")[0] == "shapely":
            raise ModuleNotFoundError("No module named 'shapely'", name="shapely")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr("importlib.import_module", without)
    path = write_scene(tmp_path / "a.tif", noise(20, 20))
    with pytest.raises(ExportError, match=r'pip install "\.\[vector\]"'):  # before anything is predicted
        predict_files([path], pointwise, SPEC, tmp_path / "out", COSINE, output=OutputOptions(vector="gpkg"))
    assert not (tmp_path / "out").exists()


# --- area of interest ------------------------------------------------------------------------------------------


def write_area(path: Path, polygons: list[Polygon], crs: str = "EPSG:32750") -> Path:
    pyogrio.raw.write(
        str(path),
        geometry=shapely.to_wkb(np.array(polygons, object)),
        field_data=[],
        fields=[],
        geometry_type="Polygon",
        crs=crs,
    )
    return path


def on_the_map(*corners: tuple[float, ...]) -> Polygon:
    """A polygon whose corners are given in pixels."""
    return shapely.Polygon([(PLACE.c + PLACE.a * x, PLACE.f + PLACE.e * y) for x, y in corners])


@pytest.mark.parametrize("crs", ["EPSG:32750", "EPSG:4326"])
def test_only_the_area_of_interest_is_predicted_and_as_if_all_were(tmp_path: Path, crs: str) -> None:
    path = write_scene(tmp_path / "a.tif", noise(120, 140))
    calls = []

    def spy(batch: np.ndarray) -> np.ndarray:
        calls.append(len(batch))
        return pointwise(batch)

    whole = predict_one(path, tmp_path / "whole", COSINE, predict=spy)
    needed = sum(calls)
    calls.clear()
    polygons = [on_the_map((10.2, 20.3), (50.7, 22.1), (30, 60.4)), on_the_map((100, 100), (110, 100), (110, 119.6))]
    inside = rasterize(polygons, out_shape=(120, 140), transform=PLACE).astype(bool)
    if crs != "EPSG:32750":
        moved = [np.stack(rasterio.warp.transform("EPSG:32750", crs, *p.exterior.xy), axis=1) for p in polygons]
        polygons = [shapely.Polygon(points) for points in moved]
    area = write_area(tmp_path / "area.gpkg", polygons, crs)
    result = predict_one(path, tmp_path / "out", COSINE, predict=spy, scenes=SceneOptions(aoi=area))
    expected = np.where(inside, read_band(whole.files["geotiff"]), 255)
    np.testing.assert_array_equal(read_band(result.files["geotiff"]), expected)
    assert 0 < sum(calls) < 0.5 * needed


def test_scenes_outside_of_the_area_are_told_and_bad_areas_refused(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "a.tif", noise(20, 20))
    away = write_area(tmp_path / "away.geojson", [shapely.box(0, 0, 1, 1)], "EPSG:4326")
    result = predict_one(path, tmp_path / "out", COSINE, scenes=SceneOptions(aoi=away))
    assert "lies outside of" in (result.note or "") and result.files == {}
    (tmp_path / "text.geojson").write_text("no json")
    points = tmp_path / "points.gpkg"
    pyogrio.raw.write(
        str(points),
        geometry=shapely.to_wkb(np.array([shapely.Point(0, 0)], object)),
        field_data=[], fields=[], geometry_type="Point", crs="EPSG:4326",
    )  # fmt: skip
    nowhere = write_scene(tmp_path / "nowhere.tif", noise(20, 20), crs=None, transform=None)
    for scene, area, message in (
        (path, tmp_path / "text.geojson", "cannot be read as polygons"),
        (path, points, "holds no polygon"),
        (nowhere, away, "must both say where they lie"),
    ):
        (failed,) = predict_files([scene], pointwise, SPEC, tmp_path / "no", COSINE, scenes=SceneOptions(aoi=area))
        assert message in (failed.error or "")
