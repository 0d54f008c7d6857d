"""Areas of interest as users draw them: read by the promised driver, mended where that is safe, refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.errors import DataError
from rsseg_tf.rasters.area import area_of_interest
from rsseg_tf.rasters.polygon_files import read_area
from rsseg_tf.rasters.scenes import Scene
from rsseg_tf.rasters.windows import Size, Window

shapely = pytest.importorskip("shapely", reason="the extra `vector` is not installed")
pyogrio = pytest.importorskip("pyogrio", reason="the extra `vector` is not installed")

SQUARE = [[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]
WORLD = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]


def geojson(path: Path, *geometries: dict[str, Any] | None) -> Path:
    features = [{"type": "Feature", "properties": {}, "geometry": geometry} for geometry in geometries]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), "utf-8")
    return path


SIZE = Size(40, 60)


def polygon(*rings: list[Any]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def scene(crs: str, transform: Affine, size: Size = SIZE) -> Scene:
    return Scene(Path(), size, np.dtype("uint8"), (1, 2, 3), crs=CRS.from_user_input(crs), transform=transform)


def selected(path: Path, where: Scene) -> int | None:
    """The number of pixels that are selected; None outside."""
    wanted = area_of_interest(path, where)
    if wanted is None:
        return None
    inside = wanted(Window(0, 0, *where.size))
    assert inside is not None
    return int(inside.sum())


@pytest.mark.parametrize(
    ("geometry", "area"),
    [
        (polygon(SQUARE[:-1]), 1.0),  # not closed
        (polygon([[*point, 7] for point in SQUARE]), 1.0),  # with heights
        (polygon([[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]), 0.5),  # crosses itself
        ({"type": "GeometryCollection", "geometries": [
            {"type": "Point", "coordinates": [5, 5]},
            {"type": "GeometryCollection", "geometries": [polygon(SQUARE)]},
        ]}, 1.0),
        ({"type": "MultiPolygon", "coordinates": [[SQUARE], [[[2, 2], [3, 2], [3, 3], [2, 2]]]]}, 1.5),
    ],
)  # fmt: skip
def test_polygons_are_found_and_mended(tmp_path: Path, geometry: dict[str, Any], area: float) -> None:
    found = read_area(geojson(tmp_path / "a.geojson", None, {"type": "Polygon", "coordinates": []}, geometry))
    assert shapely.area(found.polygons).sum() == pytest.approx(area)
    assert found.crs is not None and found.crs.is_geographic
    assert shapely.is_valid(found.polygons).all() and not shapely.has_z(found.polygons).any()


KML = '<?xml version="1.0"?>\n<!-- drawn -->\n<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{}</Document></kml>'
PLACEMARK = (
    "<Folder><Placemark><Polygon><outerBoundaryIs><LinearRing><coordinates>{}</coordinates></LinearRing>"
    "</outerBoundaryIs></Polygon></Placemark></Folder>"
)


def test_folders_of_kml_count_together(tmp_path: Path) -> None:
    (tmp_path / "a.kml").write_text(
        KML.format(PLACEMARK.format("0,0,1 1,0,1 1,1,1 0,0,1") + PLACEMARK.format("5,5 6,5 6,6 5,5")), "utf-8"
    )
    assert shapely.area(read_area(tmp_path / "a.kml").polygons).sum() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.geojson", "", "begins like no .*it is empty"),
        ("text.geojson", "no json", "begins like no"),
        ("broken.geojson", "{ not json", "cannot be read as polygons"),
        ("none.geojson", '{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ("points.geojson", '{"type": "Point", "coordinates": [1, 1]}', "holds no polygon"),
        ("line.geojson", '{"type": "LineString", "coordinates": [[1, 1], [2, 2]]}', "holds no polygon"),
        ("metres.geojson", json.dumps(polygon([[500000, 5400000], [500100, 5400000], [500100, 5400100]])),
         r"says that it is in EPSG:4326, but holds coordinates up to 500100, 5400100; .*longitude first"),
        ("nan.geojson", '{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 0], [1, 1], [NaN, 0]]]}',
         "not finite numbers"),
        ("none.kml", KML.format("<Placemark><name>a</name></Placemark>"), "holds no polygon"),
        ("away.vrt", '<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource>/etc/passwd</SrcDataSource>'
         "</OGRVRTLayer></OGRVRTDataSource>", "begins like no"),
        ("away.geojson", '<OGRVRTDataSource><OGRVRTLayer name="a"/></OGRVRTDataSource>', "begins like no"),
        ("hidden.kml", "<kml><!-- <OGRVRTDataSource> --></kml>", "begins like no"),
        ("wfs.xml", "<OGRWFSDataSource><URL>http://localhost:9/</URL></OGRWFSDataSource>", "begins like no"),
        ("program.json", '{"type": "gdal_streamed_alg", "command_line": "gdal vector read x"}', "begins like no"),
        ("table.csv", "WKT,a\n\"POLYGON((0 0,1 0,1 1,0 0))\",1\n", "begins like no"),
    ],
)  # fmt: skip
def test_what_is_no_area_is_refused_in_one_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=message) as refused:
        read_area(tmp_path / name)
    assert "\n" not in str(refused.value) and name in str(refused.value)


def write_layer(path: Path, layer: str, kind: str = "Polygon", crs: str = "EPSG:4326") -> Path:
    shape = shapely.box(0, 0, 1, 1) if kind == "Polygon" else shapely.Point(0, 0)
    pyogrio.raw.write(
        str(path), geometry=shapely.to_wkb(np.array([shape], object)), field_data=[], fields=[], layer=layer,
        geometry_type=kind, crs=crs, driver=None if path.suffix != ".shp" else "ESRI Shapefile",
    )  # fmt: skip
    return path


def test_one_layer_of_polygons_is_taken_and_several_are_named(tmp_path: Path) -> None:
    path = write_layer(tmp_path / "project.gpkg", "trees", "Point")
    write_layer(path, "site")
    assert len(read_area(path).polygons) == 1
    write_layer(path, "fields")
    with pytest.raises(DataError, match="2 layers with polygons: 'site', 'fields'"):
        read_area(path)


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".shp", ".geojson"])
def test_names_and_folders_may_hold_anything(tmp_path: Path, suffix: str) -> None:
    odd = tmp_path / "!new; a?b#c%20:d|é"
    odd.mkdir()
    write_layer(tmp_path / f"a{suffix}", "a")
    for file in tmp_path.glob("a.*"):
        shutil.copy(file, odd / f"x;1!y?z{file.suffix}")
    found = read_area(odd / f"x;1!y?z{suffix}")
    assert len(found.polygons) == 1 and found.crs == CRS.from_epsg(4326)


@pytest.mark.parametrize(
    ("crs", "place"),
    [
        ("EPSG:32633", Affine(10, 0, 5e5, 0, -10, 5.4e6)),
        ("EPSG:3857", Affine(10, 0, 1e6, 0, -10, 6e6)),
        ("EPSG:3857", Affine(40075016.68 / 60, 0, -20037508.34, 0, -40075016.68 / 40, 20037508.34)),
        ("EPSG:3413", Affine(20, 0, -600, 0, -20, 400)),  # holds the pole
        ("EPSG:3031", Affine(20, 0, -600, 0, -20, 400)),
        ("EPSG:32660", Affine(200, 0, 8.2e5, 0, -200, 1e6)),  # crosses the date line
        ("EPSG:4326", Affine(0.01, 0, 179.8, 0, -0.01, 10)),
        ("EPSG:4326", Affine(6, 0, -180, 0, -4.5, 90)),
        ("+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +o_lon_p=180 +R=6371229",
         Affine(1e-3, 0, 1, 0, -1e-3, 1)),
    ],
)  # fmt: skip
def test_the_whole_world_selects_every_pixel_of_any_scene(tmp_path: Path, crs: str, place: Affine) -> None:
    assert selected(geojson(tmp_path / "world.geojson", polygon(WORLD)), scene(crs, place)) == 40 * 60


def test_the_whole_world_selects_the_disk_that_a_satellite_sees(tmp_path: Path) -> None:
    disk = scene("+proj=geos +h=35785831 +lon_0=0 +sweep=y +ellps=WGS84", Affine(2e5, 0, -6e6, 0, -3e5, 6e6))
    found = selected(geojson(tmp_path / "world.geojson", polygon(WORLD)), disk)
    assert found == pytest.approx(np.pi * 5.43e6**2 / 6e10, rel=0.03)


@pytest.mark.parametrize("west", [-181, 179])
def test_areas_go_on_beyond_the_date_line(tmp_path: Path, west: int) -> None:
    """The eastern 0.2 of 0.6 degrees."""
    area = [[west, -20], [west + 1.2, -20], [west + 1.2, 20], [west, 20], [west, -20]]
    path = geojson(tmp_path / "a.geojson", polygon(area))
    assert selected(path, scene("EPSG:4326", Affine(0.01, 0, 179.9, 0, -0.01, 10))) == 40 * 30
    assert selected(path, scene("EPSG:4326", Affine(0.01, 0, -179.9, 0, -0.01, 10))) == 40 * 10
    assert selected(path, scene("EPSG:3857", Affine(1000, 0, -20037508, 0, -1000, 1e6))) == 40 * 22
    assert selected(path, scene("EPSG:4326", Affine(0.01, 0, 0, 0, -0.01, 10))) is None


def test_a_crs_from_which_no_way_leads_to_the_scene_is_told(tmp_path: Path) -> None:
    local = write_layer(tmp_path / "a.gpkg", "a", crs='LOCAL_CS["site",UNIT["metre",1]]')
    with pytest.raises(DataError, match="no way leads to EPSG:32633"):
        area_of_interest(local, scene("EPSG:32633", Affine(10, 0, 5e5, 0, -10, 5.4e6)))
