"""The labels of tiles are those of the user's files: polygons and rasters in any format, CRS and grid."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.enums import Resampling
from rasterio.features import rasterize
from rasterio.transform import Affine
from rasterio.warp import reproject

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.polygon_files import read_polygons
from tests.fixtures.own_scenes import (
    CRS,
    OUTSIDE,
    PLACE,
    SIZE,
    drawn,
    houses,
    mosaic,
    moved,
    prepare,
    scene,
    square,
    tiles,
    write_polygons,
)
from tests.fixtures.scenes import write_scene

KINDS = ("house", "tree", "road")


@pytest.fixture
def ortho(tmp_path: Path) -> Path:
    return scene(tmp_path / "ortho.tif")


def kinds(count: int) -> list[str]:
    return [KINDS[number % 3] for number in range(count)]


def ids(count: int) -> list[int]:
    """The ids of `kinds` among background, house, road and tree, which are in the order of the alphabet."""
    return [(1, 3, 2)[number % 3] for number in range(count)]


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.fgb", "a.shp"])
def test_polygons_of_each_format_are_drawn_as_rasterio_draws_them(tmp_path: Path, ortho: Path, name: str) -> None:
    polygons = houses()
    labels = write_polygons(tmp_path / name, polygons, kind=kinds(40))
    prepare(ortho, labels, tmp_path / "out", field="kind", split="none", tile_size=100)
    found = mosaic(tmp_path / "out")
    assert (found == drawn(polygons, ids(40))).all()
    assert (tmp_path / "out/labels.txt").read_text().split() == ["background", "house", "road", "tree"]


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32749", "EPSG:3857"])
def test_polygons_of_another_crs_are_brought_to_the_scene(tmp_path: Path, ortho: Path, crs: str) -> None:
    polygons = houses()
    labels = write_polygons(tmp_path / "a.gpkg", moved(polygons, crs), crs, kind=kinds(40))
    prepare(ortho, labels, tmp_path / "out", field="kind", split="none")
    assert (mosaic(tmp_path / "out") == drawn(polygons, ids(40))).mean() > 0.9995


def test_geoparquet(tmp_path: Path, ortho: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="GeoParquet needs pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    polygons = houses()
    column = {"encoding": "WKB", "geometry_types": ["Polygon"]}  # without a CRS: longitude and latitude
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
    wkb = [bytes(one) for one in shapely.to_wkb(moved(polygons, "EPSG:4326"))]
    table = pyarrow.table({"kind": kinds(40), "geometry": wkb})
    parquet.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), tmp_path / "a.parquet")
    prepare(ortho, tmp_path / "a.parquet", tmp_path / "out", field="kind", split="none")
    assert (mosaic(tmp_path / "out") == drawn(polygons, ids(40))).mean() > 0.9995
    with pytest.raises(DataError, match=r"a\.parquet has no field 'kid'; its fields are 'kind'. Did you mean 'kind'"):
        prepare(ortho, tmp_path / "a.parquet", tmp_path / "out", field="kid")


def test_the_solaris_sample_gives_its_reference(tmp_path: Path) -> None:
    found = importlib.util.find_spec("solaris")
    if found is None or found.origin is None:
        pytest.skip("the package solaris, which brings SpaceNet's sample, is not installed")
    data = Path(found.origin).parent / "data"
    labels = read_polygons(data / "geotiff_labels.geojson")
    degrees = write_polygons(tmp_path / "degrees.gpkg", moved(labels.polygons, "EPSG:4326", "EPSG:32616"), "EPSG:4326")
    prepare(data / "sample_geotiff.tif", data / "geotiff_labels.geojson", tmp_path / "out", tile_size=None)
    with rasterio.open(data / "sample_geotiff.tif") as source:
        place = source.transform
    with rasterio.open(data / "sample_fp_mask_from_geojson.tif") as source:
        reference = source.read(1) // 255
    found_ids = mosaic(tmp_path / "out", (900, 900), place)
    there = found_ids != OUTSIDE
    assert there.mean() > 0.8 and (found_ids == reference)[there].all()
    prepare(data / "sample_geotiff.tif", degrees, tmp_path / "degrees", tile_size=300, split="none")
    assert (mosaic(tmp_path / "degrees", (900, 900), place) == reference).mean() > 0.999


def test_the_touching_rule(tmp_path: Path, ortho: Path) -> None:
    polygons = houses()
    labels = write_polygons(tmp_path / "a.gpkg", polygons)
    prepare(ortho, labels, tmp_path / "centre", split="none")
    prepare(ortho, labels, tmp_path / "all", split="none", touching="all")
    assert (mosaic(tmp_path / "centre") == drawn(polygons)).all()
    assert (mosaic(tmp_path / "all") == drawn(polygons, all_touched=True)).all()
    assert (mosaic(tmp_path / "all") == 1).sum() > (mosaic(tmp_path / "centre") == 1).sum()


def test_later_polygons_and_files_lie_on_top_and_polygons_without_a_class_are_ignored(
    tmp_path: Path, ortho: Path
) -> None:
    first = write_polygons(
        tmp_path / "a.gpkg", [square(0, 0, 20), square(10, 10, 20), square(100, 100, 10)], kind=["a", "b", None]
    )
    second = write_polygons(tmp_path / "b.gpkg", [square(25, 25, 10)], kind=["a"])
    prepare(ortho, [first, second], tmp_path / "out", field="kind", split="none")
    found = mosaic(tmp_path / "out")
    assert [found[5, 5], found[15, 15], found[27, 27], found[105, 105], found[200, 200]] == [1, 2, 1, 255, 0]


@pytest.mark.parametrize(
    ("options", "names", "values"),
    [
        ({}, ["background", "1", "2", "10"], [1, 2, 3, 0]),  # by number, not by letter
        ({"classes": ("2=road", "1=house", "10=house")}, ["background", "road", "house"], [2, 1, 2, 0]),
        ({"classes": ("2=road", "*=ignore")}, ["background", "road"], [255, 1, 255, 0]),
        ({"classes": ("2=road", "*=other")}, ["background", "road", "other"], [2, 1, 2, 0]),
        ({"background": "ignore"}, ["1", "2", "10"], [0, 1, 2, 255]),
        ({"classes": ("1=a", "2=background", "10=b")}, ["a", "background", "b"], [0, 1, 2, 1]),
    ],
)
def test_values_become_classes(
    tmp_path: Path, ortho: Path, options: dict[str, Any], names: list[str], values: list[int]
) -> None:
    squares = [square(32 * place, 0, 10) for place in range(3)]
    labels = write_polygons(tmp_path / "a.gpkg", squares, code=[1, 2, 10])
    prepare(ortho, labels, tmp_path / "out", field="code", split="none", **options)
    found = mosaic(tmp_path / "out")
    assert (tmp_path / "out/labels.txt").read_text().split() == names
    assert [found[5, 5], found[5, 37], found[5, 69], found[20, 20]] == values
    # What is ignored altogether is no tile.
    assert (found[200:, 200:] == OUTSIDE).all() == (options.get("background") == "ignore")


def test_without_a_field_all_polygons_are_one_class(tmp_path: Path, ortho: Path) -> None:
    labels = write_polygons(tmp_path / "a.gpkg", houses())
    prepare(ortho, labels, tmp_path / "out", classes=("building",), split="none")
    assert (tmp_path / "out/labels.txt").read_text().split() == ["background", "building"]
    prepare(ortho, labels, tmp_path / "out2", split="none")
    assert (tmp_path / "out2/labels.txt").read_text().split() == ["background", "object"]


def test_a_layer_is_chosen_among_several(tmp_path: Path, ortho: Path) -> None:
    write_polygons(tmp_path / "a.gpkg", [square(0, 0, 20)], layer="sites", kind=["x"])
    labels = write_polygons(tmp_path / "a.gpkg", houses(), layer="houses", kind=kinds(40))
    with pytest.raises(DataError, match="2 layers that may hold polygons: 'sites', 'houses'. Choose one with --layer"):
        prepare(ortho, labels, tmp_path / "out", field="kind")
    prepare(ortho, labels, tmp_path / "out", field="kind", layer="houses", split="none")
    assert (mosaic(tmp_path / "out") == drawn(houses(), ids(40))).all()
    with pytest.raises(DataError, match=r"has no layer 'house'; its layers are sites, houses. Did you mean 'houses'"):
        prepare(ortho, labels, tmp_path / "out", layer="house")


def test_styles_in_a_geopackage_are_no_layer_of_polygons(tmp_path: Path, ortho: Path) -> None:
    labels = write_polygons(tmp_path / "a.gpkg", houses(), kind=kinds(40))
    pyogrio.raw.write(
        str(labels), geometry=None, field_data=[np.array(["mine"], object)], fields=["styleName"], layer="layer_styles",
        geometry_type=None, crs=None,
    )  # fmt: skip
    prepare(ortho, labels, tmp_path / "out", field="kind", split="none")
    assert (mosaic(tmp_path / "out") == drawn(houses(), ids(40))).all()


def test_outlines_that_cross_themselves_do_not_stop_the_work(tmp_path: Path, ortho: Path) -> None:
    left, top = PLACE.c, PLACE.f
    bow = shapely.Polygon([(left, top), (left + 20, top - 20), (left + 20, top), (left, top - 20)])
    for crs, polygon in ((CRS, bow), ("EPSG:4326", moved(np.array([bow]), "EPSG:4326")[0])):
        labels = write_polygons(tmp_path / f"{crs[5:]}.gpkg", [polygon], crs)
        prepare(ortho, labels, tmp_path / crs[5:], split="none")
        assert abs(int((mosaic(tmp_path / crs[5:]) == 1).sum()) - 800) < 45  # half of 40 x 40


# === Rasters ===


def test_a_raster_on_the_same_grid_is_taken_as_it_is(tmp_path: Path, ortho: Path) -> None:
    labels = drawn(houses(), ids(40))
    write_scene(tmp_path / "l.tif", labels[None], crs=CRS, transform=PLACE)
    prepare(ortho, tmp_path / "l.tif", tmp_path / "out", split="none")
    assert (mosaic(tmp_path / "out") == labels).all()
    assert (tmp_path / "out/labels.txt").read_text().split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(("crs", "pixel"), [("EPSG:32750", 0.8), ("EPSG:4326", 5e-6), ("EPSG:3857", 0.6)])
def test_a_raster_on_another_grid_is_resampled_by_the_nearest_pixel(
    tmp_path: Path, ortho: Path, crs: str, pixel: float
) -> None:
    corner = moved(np.array([shapely.Point(PLACE.c + 20, PLACE.f - 20)]), crs)[0]
    place = Affine(pixel, 0, corner.x, 0, -pixel, corner.y)
    rng = np.random.default_rng(0)
    values = np.kron(rng.integers(0, 4, (20, 20)), np.ones((6, 6))).astype(np.float32) * 10  # as QGIS writes them
    write_scene(tmp_path / "l.tif", values[None], crs=crs, transform=place, nodata=30)
    prepare(ortho, tmp_path / "l.tif", tmp_path / "out", split="none")
    expected = np.full(SIZE, 255, np.uint8)
    found = np.full(SIZE, -1, np.float32)
    reproject(values, found, src_transform=place, src_crs=crs, src_nodata=30, dst_transform=PLACE, dst_crs=CRS,
              dst_nodata=-1, resampling=Resampling.nearest, tolerance=0.01)  # fmt: skip
    for number, value in enumerate((0, 10, 20)):
        expected[found == value] = number
    result = mosaic(tmp_path / "out")
    there = result != OUTSIDE
    assert (result == expected)[there].mean() > 0.999 and (expected[~there] == 255).all()
    assert set(np.unique(result[there])) == {0, 1, 2, 255}


def test_what_a_raster_does_not_cover_is_background_where_the_user_says_so(tmp_path: Path, ortho: Path) -> None:
    values = np.zeros((1, 100, 100), np.uint8)
    values[0, 20:40, 20:40] = 7
    write_scene(tmp_path / "l.tif", values, crs=CRS, transform=PLACE, nodata=0)
    prepare(ortho, tmp_path / "l.tif", tmp_path / "out", background="class", split="none")
    found = mosaic(tmp_path / "out")
    assert (tmp_path / "out/labels.txt").read_text().split() == ["background", "7"]
    assert (found == 1).sum() == 400 and (found == 0).sum() == found.size - 400


def test_names_and_colours_come_from_the_style(tmp_path: Path, ortho: Path) -> None:
    labels = drawn(houses())
    path = write_scene(tmp_path / "l.tif", labels[None], crs=CRS, transform=PLACE)
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {0: (10, 20, 30, 255), 1: (200, 0, 0, 255)})
        target.update_tags(1, CLASS_0="land", CLASS_1="house")
    prepare(ortho, path, tmp_path / "out", split="none")
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert description["classes"] == ["land", "house"]
    assert description["palette"] == [[10, 20, 30], [200, 0, 0]]


# === Several scenes, areas, places without data ===


def east(columns: int) -> Affine:
    return Affine(PLACE.a, 0, PLACE.c + columns * PLACE.a, 0, PLACE.e, PLACE.f)


def test_labels_belong_to_the_scenes_on_whose_ground_they_lie(tmp_path: Path) -> None:
    for name, columns in (("west/a.tif", 0), ("east/a.tif", 320), ("far/a.tif", 9000)):
        (tmp_path / name).parent.mkdir()
        scene(tmp_path / name, transform=east(columns))
    polygons = houses(80, (240, 640))
    halves = polygons[:40], polygons[40:]
    files = [write_polygons(tmp_path / f"{number}.gpkg", half) for number, half in enumerate(halves)]
    files.append(write_polygons(tmp_path / "nowhere.gpkg", shapely.transform(polygons, lambda p: p + 1e5)))
    paths = [tmp_path / name for name in ("west/a.tif", "east", "far/a.tif")]
    result = prepare(paths, files, tmp_path / "out", split="none")
    found = mosaic(tmp_path / "out", (240, 640))
    assert (found == drawn(polygons, size=(240, 640))).all()
    assert {tile.path.name.rsplit("_", 2)[0] for tile in tiles(tmp_path / "out")} == {"west_a", "east_a"}
    assert result.notes[:2] == (
        f"Left out, because no label lies there: {tmp_path / 'far/a.tif'}.",
        f"Labels that lie in no scene: {tmp_path / 'nowhere.gpkg'}.",
    )


def test_outside_of_the_area_of_interest_all_is_ignored(tmp_path: Path, ortho: Path) -> None:
    polygons = houses()
    labels = write_polygons(tmp_path / "a.gpkg", polygons)
    area = write_polygons(tmp_path / "aoi.geojson", moved(np.array([square(40, 40, 100)]), "EPSG:4326"), "EPSG:4326")
    prepare(ortho, labels, tmp_path / "out", aoi=area, split="none", tile_size=32)
    found, expected = mosaic(tmp_path / "out"), drawn(polygons)
    inside = drawn([square(40, 40, 100)]).astype(bool)
    assert (found == expected)[inside].mean() > 0.999
    assert np.isin(found[~inside], (255, OUTSIDE)).mean() > 0.999
    assert (found[:32] == OUTSIDE).all() and (found[160:] == OUTSIDE).all()
    away = write_polygons(tmp_path / "away.gpkg", [square(5000, 0, 10)])
    with pytest.raises(DataError, match=r"away\.gpkg and .*ortho\.tif do not overlap: no polygon of --aoi lies"):
        prepare(ortho, labels, tmp_path / "out", aoi=away)


@pytest.mark.parametrize("how", ["nodata", "alpha", "mask"])
def test_pixels_without_data_are_ignored_and_tiles_without_any_left_out(tmp_path: Path, how: str) -> None:
    path = tmp_path / "ortho.tif"
    absent = np.zeros(SIZE, bool)
    absent[:, :90] = True
    absent[100:110, 200:] = True
    pixels = np.stack([np.arange(240 * 320).reshape(SIZE) % 250 + 1] * 3).astype(np.uint8)
    if how == "alpha":
        pixels = np.concatenate([pixels, np.where(absent, 0, 255)[None].astype(np.uint8)])
        write_scene(path, pixels, crs=CRS, transform=PLACE, photometric="RGB", alpha="YES")
    elif how == "mask":
        write_scene(path, pixels, crs=CRS, transform=PLACE, mask=(~absent).astype(np.uint8) * 255)
    else:
        pixels[:, absent] = 0
        write_scene(path, pixels, crs=CRS, transform=PLACE, nodata=0)
    polygons = houses()
    prepare(path, write_polygons(tmp_path / "a.gpkg", polygons), tmp_path / "out", split="none")
    found = mosaic(tmp_path / "out")
    expected = np.where(absent, 255, drawn(polygons))
    assert (found[:, 80:] == expected[:, 80:]).all() and (found[:, :80] == OUTSIDE).all()
    assert all(tile.image.shape[2] == 3 for tile in tiles(tmp_path / "out"))
    report = json.loads((tmp_path / "out/dataset.json").read_text())["splits"]["train"]
    assert report["ignored_pixels"] + sum(report["pixels"].values()) == 240 * (320 - 80)


def test_fractions_without_data_are_ignored_and_stay_what_they_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).random((2, 160, 160)).astype(np.float32)
    pixels[:, :30, :30] = np.nan
    path = write_scene(tmp_path / "ortho.tif", pixels, crs=CRS, transform=PLACE, nodata=np.nan)
    prepare(path, write_polygons(tmp_path / "a.gpkg", houses(20, (160, 160))), tmp_path / "out", split="none")
    first = next(tile for tile in tiles(tmp_path / "out") if tile.path.stem.endswith("_0_0"))
    with rasterio.open(first.path) as source:
        assert source.nodata is not None and np.isnan(source.nodata)
    np.testing.assert_array_equal(first.image, pixels[:, :80, :80].transpose(1, 2, 0))
    assert ((first.label == 255) == np.isnan(first.image[..., 0])).all()


def test_tiles_keep_bands_type_names_nodata_and_place(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 4000, (5, 100, 130)).astype(np.int16)
    pixels[:, :20, :20] = -9999
    path = write_scene(tmp_path / "ortho.tif", pixels, crs=CRS, transform=PLACE, nodata=-9999)
    names = ("blue", "green", "red", "nir", "swir")
    with rasterio.open(path, "r+") as target:
        target.descriptions = names
    labels = write_polygons(tmp_path / "a.gpkg", houses(20, (100, 130)))
    prepare(path, labels, tmp_path / "out", split="none")
    for tile in tiles(tmp_path / "out"):
        with rasterio.open(tile.path) as source:
            assert (source.descriptions, source.nodata, source.dtypes[0]) == (names, -9999, "int16")
        x, y = round((tile.box[0] - PLACE.c) / PLACE.a), round((tile.box[3] - PLACE.f) / PLACE.e)
        assert (tile.image == pixels[:, y : y + 80, x : x + 80].transpose(1, 2, 0)).all()
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert (description["bands"], description["band_names"]) == (5, list(names))
    assert description["gsd"] == pytest.approx(0.5, rel=0.01)


def test_a_scene_smaller_than_a_tile_is_padded(tmp_path: Path) -> None:
    path = scene(tmp_path / "ortho.tif", (20, 25))
    labels = write_polygons(tmp_path / "a.gpkg", [square(2, 2, 10)])
    prepare(path, labels, tmp_path / "out", split="none", tile_size=32)
    (tile,) = tiles(tmp_path / "out")
    assert tile.image.shape == (32, 32, 3) and (tile.label[20:] == 255).all() and (tile.label[:, 25:] == 255).all()
    assert (tile.label == 1).sum() == 100 and not tile.image[20:].any()


def test_tiles_with_background_alone_are_left_out_on_demand(tmp_path: Path, ortho: Path) -> None:
    labels = write_polygons(tmp_path / "a.gpkg", [square(40, 40, 10), square(200, 100, 10)])
    prepare(ortho, labels, tmp_path / "out", skip_empty=True, split="none")
    assert len(tiles(tmp_path / "out")) == 2 and all((tile.label == 1).any() for tile in tiles(tmp_path / "out"))


@pytest.mark.parametrize("crs", [CRS, "EPSG:4326"])
def test_outlines_of_thousands_of_corners_are_cut_where_it_does_not_show(
    tmp_path: Path, ortho: Path, crs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the background of a prediction, which is one polygon with a hole for each object."""
    holes = shapely.buffer(shapely.centroid(houses()), 3.0, quad_segs=30)
    ground = np.array([shapely.difference(square(-50, -50, 500), shapely.union_all(holes))])
    assert shapely.get_num_coordinates(ground)[0] > 3000
    corners: list[int] = []

    def counted(shapes: list[tuple[Any, int]], **how: Any) -> Any:
        corners.extend(int(shapely.get_num_coordinates(shape)) for shape, _ in shapes)
        return rasterize(shapes, **how)

    monkeypatch.setattr("rsseg_tf.prepare.scenes.labels.rasterize", counted)
    labels = write_polygons(tmp_path / "a.gpkg", ground if crs == CRS else moved(ground, crs), crs)
    prepare(ortho, labels, tmp_path / "out", split="none", tile_size=60)
    assert (mosaic(tmp_path / "out") == drawn(ground)).mean() > (0.9995 if crs != CRS else 0.9999999)
    assert max(corners) < 1500
