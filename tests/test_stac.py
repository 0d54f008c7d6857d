"""Parts of STAC items: outlines on the globe, classes, times, addresses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine
from rasterio.warp import transform as reproject

from rsseg_tf.errors import ConfigError
from rsseg_tf.rasters.windows import Size
from rsseg_tf.stac import Footprint, asset, class_objects, footprint, item, moment_fields
from tests.fixtures.stac import check_geometry

SIZE = Size(300, 400)


def utm(crs: str, x: float, y: float, gsd: float) -> tuple[Affine, CRS]:
    return Affine(gsd, 0, x, 0, -gsd, y), CRS.from_user_input(crs)


PLACES: dict[str, tuple[Affine, CRS]] = {
    "a small scene": utm("EPSG:32636", 452_000, 38_000, 0.05),
    "a large scene": utm("EPSG:32633", 300_000, 8_500_000, 1000),
    "turned": (Affine(21.2, 21.2, 500_000, 21.2, -21.2, 5_000_000), CRS.from_epsg(32633)),
    "south up": (Affine(10, 0, 500_000, 0, 10, 5_000_000), CRS.from_epsg(32633)),
    "across the date line": utm("EPSG:32701", 160_000, 8_200_000, 200),
    "across the date line in the Pacific": utm("EPSG:3832", 3_000_000, -2_000_000, 5000),
    "degrees beyond 180": (Affine(0.01, 0, 178.5, 0, -0.01, -16), CRS.from_epsg(4326)),
    "degrees of 0 to 360": (Affine(0.01, 0, 200, 0, -0.01, -16), CRS.from_epsg(4326)),
    "the whole world in degrees": (Affine(0.9, 0, -180, 0, -0.6, 90), CRS.from_epsg(4326)),
    "the whole world from Greenwich": (Affine(0.9, 0, 0, 0, -0.6, 90), CRS.from_epsg(4326)),
    "the whole world in Web Mercator": (
        Affine(40075016.6855784 / 400, 0, -20037508.3427892, 0, -40075016.6855784 / 300, 20037508.3427892),
        CRS.from_epsg(3857),
    ),
    "around the north pole": utm("EPSG:3413", -2_000_000, 1_500_000, 10_000),
    "around the south pole": utm("EPSG:3031", -3_000_000, 1_000_000, 10_000),
    "a part of the south pole": utm("EPSG:3031", 100_000, 1_000_000, 5000),
}
CUT = {"across the date line", "across the date line in the Pacific", "degrees beyond 180"}


@pytest.mark.parametrize("name", PLACES)
def test_an_outline_holds_the_pixels_and_nothing_else(name: str) -> None:
    shapely = pytest.importorskip("shapely", reason="extra vector is not installed")
    transform, crs = PLACES[name]
    found = footprint(SIZE, transform, crs)
    assert found is not None
    check_geometry(found.geometry, list(found.bbox))
    outline = shapely.from_geojson(json.dumps(found.geometry))
    assert outline.is_valid, shapely.is_valid_reason(outline)
    # Pixels a little inside of the border are inside, those a little outside are not.
    rng = np.random.default_rng(0)
    columns, rows = rng.uniform(2, SIZE.width - 2, 400), rng.uniform(2, SIZE.height - 2, 400)
    assert lie_in(shapely, outline, transform, crs, columns, rows).all()
    if "whole world" not in name:
        columns, rows = rng.uniform(0, SIZE.width, 100), np.full(100, -2.0)
        assert not lie_in(shapely, outline, transform, crs, columns, rows).any()
        columns, rows = np.full(100, SIZE.width + 2.0), rng.uniform(0, SIZE.height, 100)
        assert not lie_in(shapely, outline, transform, crs, columns, rows).any()
    assert (found.geometry["type"] == "MultiPolygon") == (name in CUT)
    assert (found.bbox[0] > found.bbox[2]) == (name in CUT)


def lie_in(
    shapely: Any, outline: Any, transform: Affine, crs: CRS, columns: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    x = transform.a * columns + transform.b * rows + transform.c
    y = transform.d * columns + transform.e * rows + transform.f
    longitude, latitude = (np.array(one) for one in reproject(crs, CRS.from_epsg(4326), x, y))
    wrapped = (longitude + 180) % 360 - 180
    return np.array([outline.covers(shapely.Point(*p)) for p in zip(wrapped, latitude, strict=True)])


def test_a_small_scene_has_four_corners() -> None:
    found = footprint(SIZE, *PLACES["a small scene"])
    assert found is not None and found.geometry["type"] == "Polygon"
    (ring,) = found.geometry["coordinates"]
    assert len(ring) == 5 and found.bbox == (min(x for x, _ in ring), ring[1][1], max(x for x, _ in ring), ring[0][1])


def test_pixels_of_a_millimetre_and_pixels_on_a_pole() -> None:
    tiny = footprint(SIZE, Affine(1e-3, 0, 500_000, 0, -1e-3, 5_000_000), CRS.from_epsg(32633))
    assert tiny is not None and len(tiny.geometry["coordinates"][0]) == 5
    check_geometry(tiny.geometry, list(tiny.bbox))
    assert tiny.bbox[2] - tiny.bbox[0] == pytest.approx(0.4 / 78_800, rel=0.01)
    registered = footprint(Size(181, 360), Affine(1, 0, -180, 0, -1, 90.5), CRS.from_epsg(4326))
    assert registered is not None and registered.bbox == (-180, -90, 180, 90)


def test_the_whole_world_and_poles_reach_from_date_line_to_date_line() -> None:
    for name in ("the whole world in degrees", "the whole world from Greenwich", "the whole world in Web Mercator"):
        found = footprint(SIZE, *PLACES[name])
        assert found is not None and (found.bbox[0], found.bbox[2]) == (-180, 180)
    north, south = (footprint(SIZE, *PLACES[f"around the {side} pole"]) for side in ("north", "south"))
    assert north is not None and (north.bbox[0], *north.bbox[2:]) == (-180, 180, 90) and north.bbox[1] > 50
    assert south is not None and south.bbox[:3] == (-180, -90, 180) and south.bbox[3] < -50


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (Affine(1, 0, 5, 0, -1, 7), None),
        (Affine.identity(), CRS.from_epsg(32636)),
        (Affine(1, 0, 0, 0, -1, 0), CRS.from_wkt('LOCAL_CS["a site",UNIT["metre",1]]')),
        (Affine(1, 0, 500_000, 0, -1, 5_400_000), CRS.from_epsg(4978)),
        (Affine(1, 0, 500, 0, -1, 200), CRS.from_epsg(4326)),
        (Affine(40_000, 0, -6e6, 0, -40_000, 6e6), CRS.from_proj4("+proj=geos +h=35785831 +lon_0=0")),
    ],
    ids=["no CRS", "no transform", "a local CRS", "geocentric", "beyond the poles", "corners beyond the Earth"],
)
def test_scenes_without_a_place_on_the_globe(transform: Affine, crs: CRS | None) -> None:
    assert footprint(SIZE, transform, crs) is None


def test_an_item_without_a_place_has_no_box() -> None:
    found = item("a/b:c", {"datetime": "2024-05-01T00:00:00Z"}, {}, place=None)
    assert found["geometry"] is None and "bbox" not in found and found["id"] == "a_b_c"
    assert found["stac_extensions"] == []
    placed = item("a", {"proj:code": None}, {"x": {"file:size": 1}}, place=Footprint({"type": "Polygon"}, (0, 1, 2, 3)))
    assert placed["bbox"] == [0, 1, 2, 3]
    assert [one.split("/")[3] for one in placed["stac_extensions"]] == ["file", "projection"]


def test_addresses_are_relative_and_spelled_as_addresses(tmp_path: Path) -> None:
    folder = tmp_path / "stac"
    one = asset(tmp_path / "a b" / "100 % #1 straße.tif", folder, "T", "image/tiff", ("data",), file__size=3)
    assert one == {
        "href": "../a%20b/100%20%25%20%231%20straße.tif",
        "title": "T",
        "type": "image/tiff",
        "roles": ["data"],
        "file:size": 3,
    }
    assert asset(folder / "x.tif", folder, "T", "image/tiff", ())["href"] == "./x.tif"


def test_names_of_classes() -> None:
    found = class_objects({0: "Low Vegetation", 1: "low vegetation", 2: "水", 7: "tree-2"}, {0: (1, 2, 255)})
    assert [one["name"] for one in found] == ["class_0", "class_1", "class_2", "tree-2"]
    assert [one["title"] for one in found] == ["Low Vegetation", "low vegetation", "水", "tree-2"]
    assert found[0]["color_hint"] == "0102FF" and "color_hint" not in found[1] and found[3]["value"] == 7


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("2024-05-01T10:30:00Z", ("2024-05-01T10:30:00Z",)),
        ("2024-05-01T10:30:00", ("2024-05-01T10:30:00Z",)),
        ("2024-05-01 12:30:00+02:00", ("2024-05-01T10:30:00Z",)),
        ("2024-05-01", ("2024-05-01T00:00:00Z", "2024-05-01T23:59:59Z")),
        ("2024-04-01/2024-06-30", ("2024-04-01T00:00:00Z", "2024-06-30T23:59:59Z")),
        ("2024-04-01T08:00:00/2024-04-01T09:00:00", ("2024-04-01T08:00:00Z", "2024-04-01T09:00:00Z")),
    ],
)
def test_times(text: str, fields: tuple[str, ...]) -> None:
    found = moment_fields(text)
    if len(fields) == 1:
        assert found == {"datetime": fields[0]}
    else:
        assert found == {"datetime": None, "start_datetime": fields[0], "end_datetime": fields[1]}


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13-01", "2024-05-01/", "2024/05/01", "2024-06-01/2024-05-01"])
def test_no_times(text: str) -> None:
    with pytest.raises(ConfigError, match="stac_datetime"):
        moment_fields(text)
