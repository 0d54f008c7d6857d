"""Files of polygons: any name, any folder, any CRS, and nothing lost that others wrote."""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.transform import Affine
from shapely import Polygon

from rsseg_tf.errors import DataError, ExportError
from rsseg_tf.files.paths import plain_path
from rsseg_tf.predict import OutputOptions
from rsseg_tf.predict.vector_files import Feature, VectorPlace, check_vector_file, layer_name, write_features
from rsseg_tf.rasters.windows import Size
from tests.fixtures.scenes import COSINE, PLACE, SPEC, plan_of

shapely = pytest.importorskip("shapely", reason="the extra `vector` is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")

UTM = VectorPlace(Size(40, 60), PLACE, CRS.from_epsg(32750))


NO_ARROW = find_spec("pyarrow") is None
PARQUET = pytest.param(".parquet", marks=pytest.mark.skipif(NO_ARROW, reason="the extra `parquet` is not installed"))


def feature(polygon: Polygon, area: float = 1.0) -> Feature:
    return Feature(1, "road", polygon, area, 1, 0.5)


def write(path: Path, *polygons: Polygon, place: VectorPlace = UTM, in_metres: bool = True) -> Path:
    write_features(path, [feature(polygon) for polygon in polygons or (shapely.box(0, 0, 10, 5),)], place,
                   in_metres=in_metres)  # fmt: skip
    return path


def read(path: Path | str, layer: str | None = None) -> tuple[dict[str, Any], np.ndarray]:
    if Path(path).suffix == ".parquet":
        table, column = read_parquet(Path(path))
        fields = [name for name in table.column_names if name not in ("geometry", "bbox")]
        crs = None if column["crs"] is None else CRS.from_user_input(json.dumps(column["crs"]))
        return {"fields": fields, "crs": crs}, shapely.from_wkb(table["geometry"].to_pylist())
    meta, _, wkb, _ = pyogrio.raw.read(str(path), layer=layer)
    return meta, shapely.from_wkb(wkb)


def read_parquet(path: Path) -> tuple[Any, dict[str, Any]]:
    """Returns the table, and what the file says of its geometry."""
    with path.open("rb") as file:
        table = import_module("pyarrow.parquet").read_table(file)
    return table, json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]


NAMES = (
    "-33.45_151.20", "(1) roofs", "+47_ortho", "gpkg_export", "GPKG", "sqlite_x", "rtree_y", "select", "a'b", 'a"b',
    "a`b", "[x]", "{y}", "@home", "%20", "$5", "*", "Straße 日本", "é", ".hidden", "a;b", "a!b", "a?b", "a#b", "a&b",
    "a:b", "a|b", "x" * 200, "日" * 70, " lead", "line\nbreak", "~", "a\\b", "2020",
)  # fmt: skip


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", PARQUET])
@pytest.mark.parametrize("name", NAMES)
def test_any_name_has_a_layer(tmp_path: Path, suffix: str, name: str) -> None:
    path = write(tmp_path / f"{name}{suffix}")
    copy = tmp_path / f"copy{suffix}"
    os.rename(path, copy)
    assert len(read(copy)[1]) == 1
    assert [file.name for file in tmp_path.iterdir()] == [copy.name]


def test_ordinary_names_stay_as_they_are() -> None:
    for name in ("a plain", "2020_ortho", "x.y-z", "Straße 日本", "select"):
        assert layer_name(name) == name
    assert layer_name("-33.45") == "polygons -33.45" and layer_name("gpkg_a") == "polygons gpkg_a"
    assert layer_name("") == "polygons"


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", PARQUET])
def test_any_folder_will_do_and_nothing_stays_in_the_temporary_one(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    folder = tmp_path / "!new; a?b#c%20&:|" / os.fsdecode(b"not utf-8 \xe9")
    folder.mkdir(parents=True)
    path = write(folder / f"b;1{suffix}")
    with plain_path(path) as plain:
        assert plain.startswith(str(temporary)) and len(read(plain)[1]) == 1
    assert [file.name for file in folder.iterdir()] == [path.name] and not list(temporary.iterdir())


def test_links_of_killed_processes_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead = tmp_path / "rsseg_tf_link_dead"
    dead.mkdir()
    (dead / "lock").touch()
    (tmp_path / "a;b").mkdir()
    with plain_path(tmp_path / "a;b" / "x") as one, plain_path(tmp_path / "a;b" / "y") as other:
        assert not dead.exists() and os.path.lexists(one) and os.path.lexists(other)


def user_layer(
    path: Path, layer: str = "surveyed_fields", fields: tuple[str, ...] = ("owner",), count: int = 1
) -> Path:
    shapes = shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)] * count, object))
    if path.suffix == ".parquet":
        columns = {**{name: ["x"] * count for name in fields}, "geometry": list(shapes)}
        import_module("pyarrow.parquet").write_table(import_module("pyarrow").table(columns), path)
        return path
    pyogrio.raw.write(
        str(path), geometry=shapes, field_data=[np.array(["x"] * count, object) for _ in fields], fields=list(fields),
        layer=layer, geometry_type="Polygon", crs="EPSG:32633",
    )  # fmt: skip
    return path


def test_other_layers_of_a_geopackage_stay(tmp_path: Path) -> None:
    path = user_layer(tmp_path / "project.gpkg", count=3)
    for count in (1, 2):  # the second time over our own
        write(path, *[shapely.box(i, 0, i + 1, 1) for i in range(count)])
        assert {str(name) for name, _ in pyogrio.list_layers(path)} == {"surveyed_fields", "project"}
        meta, geometries = read(path, "surveyed_fields")
        assert len(geometries) == 3 and meta["crs"] == "EPSG:32633" and list(meta["fields"]) == ["owner"]
        assert len(read(path, "project")[1]) == count
    assert [file.name for file in tmp_path.iterdir()] == ["project.gpkg"]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", PARQUET])
def test_what_we_did_not_write_is_not_replaced(tmp_path: Path, suffix: str) -> None:
    path = user_layer(tmp_path / f"fields{suffix}", layer="fields")
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"with the fields owner, which predict did not write and will not replace"):
        write(path)
    with pytest.raises(DataError, match="will not replace"):  # before anything is predicted
        plan_of([tmp_path / "a.tif"], SPEC, tmp_path / "out", COSINE, output=OutputOptions(vector=str(path)))
    assert path.read_bytes() == before
    (tmp_path / f"text{suffix}").write_text("no polygons")
    with pytest.raises(DataError, match="so it is not ours to replace"):
        write(tmp_path / f"text{suffix}")
    ours = write(tmp_path / f"ours{suffix}")
    write(ours, shapely.box(0, 0, 1, 1), shapely.box(1, 0, 2, 1))
    assert len(read(ours)[1]) == 2
    write_features(ours, [], UTM, in_metres=True)
    write(ours)


def test_a_geopackage_that_is_open_elsewhere_is_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg")
    (tmp_path / "a.gpkg-wal").write_bytes(b"pages")
    with pytest.raises(DataError, match="open in another program, as a.gpkg-wal beside it tells"):
        check_vector_file(path)


def test_half_written_files_of_this_name_go_and_others_stay(tmp_path: Path) -> None:
    gone = [".a.0123456789ab.tmp.gpkg", ".a.0123456789ab.tmp.gpkg-journal"]
    kept = [".b.0123456789ab.tmp.gpkg", ".a.b.0123456789ab.tmp.gpkg", "a.tmp.gpkg"]
    for name in (*gone, *kept):
        (tmp_path / name).touch()
    write(tmp_path / "a.gpkg")
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*kept, "a.gpkg"])


def test_geojson_has_no_more_decimals_than_its_pixels_need(tmp_path: Path) -> None:
    def longest(place: VectorPlace) -> tuple[np.ndarray, int]:
        text = write(tmp_path / "a.geojson", shapely.Polygon([(0, 0), (7, 0), (7, 3), (1, 3)]), place=place).read_text()
        (found,) = json.loads(text)["features"]
        points = np.array(found["geometry"]["coordinates"][0])
        return points, max(len(repr(value).partition(".")[2]) for value in points.ravel().tolist())

    points, decimals = longest(UTM)
    exact = np.stack(rasterio.warp.transform(UTM.crs, "EPSG:4326", PLACE.c + 0.5 * np.array([0, 7, 7, 1]),
                                             PLACE.f - 0.5 * np.array([0, 0, 3, 3])), axis=1)  # fmt: skip
    assert decimals == 7 and all(np.abs(exact - point).max(axis=1).min() < 6e-8 for point in points)
    fine = VectorPlace(Size(40, 60), Affine(0.002, 0, 500000, 0, -0.002, 9050677), CRS.from_epsg(32750))
    points, decimals = longest(fine)
    assert decimals == 9 and len(np.unique(points, axis=0)) == 4
    points, decimals = longest(VectorPlace(Size(40, 60), Affine.identity(), None))
    assert points.tolist()[0] == [0.0, 0.0] and decimals <= 3


def test_geojson_keeps_to_its_standard(tmp_path: Path) -> None:
    """RFC 7946: no member names a system (4), outlines are counterclockwise and holes clockwise (3.1.6)."""
    ring = shapely.box(0, 0, 9, 9).difference(shapely.box(3, 3, 5, 5))
    count = 5001  # the last ones are appended
    path = tmp_path / "a.geojson"
    write_features(path, (feature(ring) for _ in range(count)), UTM, in_metres=True)
    document = json.loads(path.read_text("utf-8"))
    assert "crs" not in document and len(document["features"]) == count
    for one in (document["features"][0], document["features"][-1]):
        polygon = shapely.geometry.shape(one["geometry"])
        assert polygon.exterior.is_ccw and not polygon.interiors[0].is_ccw and polygon.bounds[0] == 117.0000023
    local = VectorPlace(Size(40, 60), Affine.identity(), None)
    assert shapely.box(0, 0, 10, 5).equals(read(write(path, place=local))[1][0]), "off the map it is in pixels"


@pytest.mark.skipif(NO_ARROW, reason="the extra `parquet` is not installed")
def test_geoparquet_says_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.predict.vector_files._BATCH", 4)
    ring = shapely.box(0, 0, 9, 9).difference(shapely.box(3, 3, 5, 5))
    path = write(tmp_path / "a.parquet", *[shapely.transform(ring, lambda at, by=by: at + by) for by in range(10)])
    table, column = read_parquet(path)
    about = json.loads(table.schema.metadata[b"geo"])
    assert about["version"] == "1.1.0" and about["primary_column"] == "geometry"
    types = {field.name: str(field.type) for field in table.schema if field.name not in ("geometry", "bbox")}
    assert types == {
        "class_id": "int32", "class": "string", "area_m2": "double", "pixels": "int64", "confidence": "double"
    }  # fmt: skip
    polygons = shapely.from_wkb(table["geometry"].to_pylist())
    assert column["encoding"] == "WKB" and column["geometry_types"] == ["Polygon"] and column["edges"] == "planar"
    assert column["orientation"] == "counterclockwise" and all(one.exterior.is_ccw for one in polygons)
    assert not any(one.interiors[0].is_ccw for one in polygons)
    assert column["bbox"] == shapely.total_bounds(polygons).tolist()
    assert column["covering"]["bbox"]["ymax"] == ["bbox", "ymax"]
    boxes = [[box[side] for side in ("xmin", "ymin", "xmax", "ymax")] for box in table["bbox"].to_pylist()]
    assert boxes == shapely.bounds(polygons).tolist()
    assert column["crs"]["id"] == {"authority": "EPSG", "code": 32750}
    _, whole = read(write(tmp_path / "b.gpkg", ring))
    assert whole[0].equals(polygons[0])
    # Parts are read without the others.
    assert import_module("pyarrow.parquet").ParquetFile(path).num_row_groups == 3


@pytest.mark.skipif(NO_ARROW, reason="the extra `parquet` is not installed")
def test_geoparquet_without_place_and_without_polygons(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    meta, (found,) = read(write(path, place=VectorPlace(Size(40, 60), Affine.identity(), None), in_metres=False))
    assert meta["crs"] is None and found.equals(shapely.box(0, 0, 10, 5)) and "area_px" in meta["fields"]
    write_features(path, [], UTM, in_metres=True)
    table, column = read_parquet(path)
    assert table.num_rows == 0 and "bbox" not in column
    write(path)  # over an empty one


def test_geoparquet_needs_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ExportError, match=r'pip install "\.\[parquet\]"'):
        plan_of([tmp_path / "a.tif"], SPEC, tmp_path / "out", COSINE, output=OutputOptions(vector="parquet"))


def test_polygons_across_the_date_line_are_cut_there(tmp_path: Path) -> None:
    place = VectorPlace(Size(100, 100), Affine(1000, 0, 780000, 0, -1000, 1000000), CRS.from_epsg(32660))
    _, (cut,) = read(write(tmp_path / "a.geojson", shapely.box(0, 0, 100, 100), place=place))
    assert cut.geom_type == "MultiPolygon" and cut.is_valid and len(cut.geoms) == 2
    west, east = sorted(cut.geoms, key=lambda part: part.bounds[0])
    assert west.bounds[0] == -180 and east.bounds[2] == 180
    assert west.bounds[2] < -179 and east.bounds[0] > 179
    _, (whole,) = read(write(tmp_path / "a.gpkg", shapely.box(0, 0, 100, 100), place=place))
    assert whole.area == 1e10, "in the map's own plane nothing is cut"


def test_polygons_around_a_pole_reach_up_to_it(tmp_path: Path) -> None:
    place = VectorPlace(Size(100, 100), Affine(2000, 0, -100000, 0, -2000, 100000), CRS.from_epsg(3413))
    _, (cap,) = read(write(tmp_path / "a.geojson", shapely.box(0, 0, 100, 100), place=place))
    assert cap.is_valid and cap.bounds[3] == 90 and cap.bounds[0] == -180 and cap.bounds[2] == 180
    assert cap.contains(shapely.Point(0, 89.9)) and not cap.contains(shapely.Point(0, 85))


ROTATED = "+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +o_lon_p=180 +R=6371229"


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", PARQUET])
@pytest.mark.parametrize("crs", [ROTATED, "+proj=eqearth +datum=WGS84", "EPSG:7415", "EPSG:2263", "+proj=igh"])
def test_a_crs_survives(tmp_path: Path, suffix: str, crs: str) -> None:
    crs = CRS.from_user_input(crs)
    place = VectorPlace(Size(40, 60), Affine(1e-3, 0, 1, 0, -1e-3, 1), crs)
    meta, _ = read(write(tmp_path / f"a{suffix}", place=place))
    assert CRS.from_user_input(meta["crs"]) == crs


def test_a_scene_on_another_body_has_longitudes_of_its_own(tmp_path: Path) -> None:
    moon = CRS.from_proj4("+proj=eqc +R=1737400 +units=m")
    place = VectorPlace(Size(40, 60), Affine(100, 0, 303232.0, 0, -100, 303232.0), moon)
    _, (found,) = read(write(tmp_path / "a.geojson", place=place))
    assert found.bounds[0] == pytest.approx(10, abs=0.01)
