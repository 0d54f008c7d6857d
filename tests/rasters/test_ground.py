"""Sizes on the ground."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.rasters.ground import move, own_degrees, pixel_areas, pixel_size, transformed
from rsseg_tf.rasters.windows import Size, Window


def test_a_pixel_of_utm_has_its_size_up_to_the_scale_of_the_projection() -> None:
    size = pixel_size(Size(100, 100), Affine(0.5, 0, 500000, 0, -0.5, 5400000), CRS.from_epsg(32632))
    assert size == pytest.approx((0.5 / 0.9996, 0.5 / 0.9996), rel=1e-6), "on the central meridian"


def known_size(size: Size, transform: Affine, crs: CRS) -> tuple[float, float]:
    found = pixel_size(size, transform, crs)
    assert found is not None
    return found


def test_degrees_and_web_mercator_are_measured_on_the_ground() -> None:
    # A minute of arc along the meridian is near 1852 m, and along the parallel at 60 degrees about half of it.
    minute = 1 / 60
    rows, columns = known_size(Size(2, 2), Affine(minute, 0, 10, 0, -minute, 60 + minute), CRS.from_epsg(4326))
    assert rows == pytest.approx(1857, abs=1) and columns == pytest.approx(930.6, abs=1)
    y = 6378137 * math.log(math.tan(math.pi / 4 + math.radians(60) / 2))
    rows, columns = known_size(Size(2, 2), Affine(1, 0, 1e6, 0, -1, y + 1), CRS.from_epsg(3857))
    assert columns == pytest.approx(0.5, abs=2e-3) and rows == pytest.approx(0.5, abs=3e-3)


def test_pixels_may_be_oblong_turned_and_across_the_date_line() -> None:
    cosine, sine = math.cos(0.5), math.sin(0.5)
    turned = Affine(0.2 * cosine, 0.4 * sine, 500000, 0.2 * sine, -0.4 * cosine, 5400000)
    assert pixel_size(Size(10, 10), turned, CRS.from_epsg(32632)) == pytest.approx((0.4, 0.2), rel=1e-3)
    rows, columns = known_size(Size(2, 2), Affine(0.001, 0, 179.9995, 0, -0.001, 0), CRS.from_epsg(4326))
    assert columns == pytest.approx(111.3, abs=0.1) and rows == pytest.approx(110.6, abs=0.1)


def test_what_lies_nowhere_has_no_size() -> None:
    assert pixel_size(Size(10, 10), Affine(1, 0, 5, 0, -1, 5), None) is None
    assert pixel_size(Size(10, 10), Affine.identity(), CRS.from_epsg(32632)) is None


def test_points_are_moved_as_the_transform_says() -> None:
    transform = Affine(2, 0.5, 100, -0.25, -3, 200)
    assert move(np.array([[0.0, 0.0], [4.0, 2.0]]), transform).tolist() == [[100, 200], [109, 193]]


def total_area(size: Size, transform: Affine, crs: str) -> float:
    """Area of a whole scene in square metres."""
    areas = pixel_areas(size, transform, CRS.from_user_input(crs))
    assert areas.in_metres
    return float(np.sum(areas.of(Window(0, 0, *size)) * np.ones(size)))


def area_by_geodesy(
    size: tuple[int, int], transform: Affine, crs: str, axes: tuple[float, float] = (6378137.0, 298.257223563)
) -> float:
    """The same by another way: the authalic cylinder, around the densified outline of the scene."""
    height, width = size
    edge = np.linspace(0, 1, 400, endpoint=False)
    outline = np.concatenate(
        [
            np.stack([edge * width, 0 * edge], axis=1),
            np.stack([0 * edge + width, edge * height], axis=1),
            np.stack([(1 - edge) * width, 0 * edge + height], axis=1),
            np.stack([0 * edge, (1 - edge) * height], axis=1),
        ]
    )
    crs = CRS.from_user_input(crs)
    longitude, latitude = np.radians(transformed(move(outline, transform), crs, own_degrees(crs))).T
    longitude = np.unwrap(longitude)
    semi_major, inverse = axes
    e2 = (2 - 1 / inverse) / inverse if inverse else 0.0
    sine = np.sin(latitude)
    if e2:
        e = np.sqrt(e2)
        sine = (1 - e2) / 2 * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
    return abs(np.dot(longitude, np.roll(sine, -1)) - np.dot(sine, np.roll(longitude, -1))) / 2 * semi_major**2


ROTATED = "+proj=ob_tran +o_proj=longlat +lon_0=-162 +o_lat_p=39.25 +o_lon_p=180 +R=6371229"
MERCATOR_60 = 8399737.89


@pytest.mark.parametrize(
    ("crs", "place", "axes"),
    [
        ("EPSG:3857", Affine(1, 0, 1e6, 0, -1, MERCATOR_60), None),
        ("EPSG:3857", Affine(1, 0, 1e6, 0, 1, MERCATOR_60), None),  # south up
        ("EPSG:3857", Affine(0.8, 0.6, 1e6, 0.6, -0.8, MERCATOR_60), None),  # turned
        ("EPSG:3395", Affine(1000, 0, 1e6, 0, -1000, MERCATOR_60), None),
        ("EPSG:32633", Affine(10, 0, 3.5e6, 0, -10, 5e6), None),  # far from its zone
        ("EPSG:32660", Affine(100, 0, 8.2e5, 0, -100, 1e6), None),  # over the date line
        ("EPSG:3413", Affine(20, 0, -3e6, 0, -20, 1000), None),
        ("EPSG:3035", Affine(10, 0, 4e6, 0, -10, 3e6), None),
        ("EPSG:2263", Affine(10, 0, 1e6, 0, -10, 2e5), (6378137.0, 298.257222101)),  # feet
        ("EPSG:4326", Affine(0.01, 0, 10, 0, -0.01, 71), None),
        ("EPSG:4326", Affine(0.01, 0, 179.5, 0, -0.01, 1), None),
        ("EPSG:4901", Affine(0.001, 0, 1, 0, -0.001, 50), (6376523.0, 308.64)),  # grads
        ("EPSG:4979", Affine(1e-5, 0, 10, 0, -1e-5, 50), None),  # with heights
        ("EPSG:32633+5773", Affine(0.5, 0, 5e5, 0, -0.5, 5.4e6), None),
        (ROTATED, Affine(1e-3, 0, 1, 0, -1e-3, 1), (6371229.0, 0.0)),
        (f"{ROTATED} +to_meter=0.0174532925199433", Affine(1e-3, 0, 1, 0, -1e-3, 1), (6371229.0, 0.0)),
        ("+proj=eqearth +datum=WGS84", Affine(10, 0, 4e6, 0, -10, 5e6), None),
        ("+proj=eqc +lat_ts=0 +datum=WGS84", Affine(10, 0, 4e6, 0, -10, 7e6), None),
        ("+proj=gnom +lat_0=50 +lon_0=10 +datum=WGS84", Affine(10, 0, 3e6, 0, -10, 10), None),
        ("+proj=sinu +lon_0=0 +R=6371007.181 +units=m", Affine(500, 0, 1e6, 0, -500, 5e6), (6371007.181, 0.0)),
        ("+proj=longlat +R=1737400 +no_defs", Affine(0.01, 0, 1, 0, -0.01, 60), (1737400.0, 0.0)),  # the Moon
    ],
)  # fmt: skip
def test_areas_are_those_of_the_ellipsoid_in_any_crs(crs: str, place: Affine, axes: tuple[float, float] | None) -> None:
    size = Size(90, 100)
    expected = area_by_geodesy(size, place, crs, axes or (6378137.0, 298.257223563))
    assert total_area(size, place, crs) == pytest.approx(expected, rel=0.003)


def test_the_whole_earth_has_its_area() -> None:
    place = Affine(1, 0, -180, 0, -1, 90)
    assert total_area(Size(180, 360), place, "EPSG:4326") / 1e6 == pytest.approx(510_065_621.7, rel=1e-4)
    # A polar projection, whose scene holds the pole: the cap within 10 degrees of it on a sphere.
    polar = "+proj=stere +lat_0=90 +R=6371000"
    radius = 2 * 6371000 * math.tan(math.radians(5))
    areas = pixel_areas(
        Size(400, 400), side := Affine(radius / 200, 0, -radius, 0, -radius / 200, radius), CRS.from_proj4(polar)
    )
    rows, columns = np.mgrid[:400, :400] + 0.5
    inside = np.hypot(columns - 200, rows - 200) < 200
    cap = 2 * math.pi * 6371000**2 * (1 - math.cos(math.radians(10)))
    assert np.asarray(areas.of(Window(0, 0, 400, 400)))[inside].sum() == pytest.approx(cap, rel=1e-3), side


def test_where_the_plane_is_nearly_true_it_is_taken_at_its_word() -> None:
    areas = pixel_areas(Size(1000, 1000), Affine(0.5, 0, 500000, 0, -0.5, 5400000), CRS.from_epsg(32632))
    assert areas.same == 0.25 and areas.note is None
    assert pixel_areas(Size(10, 10), Affine.identity(), CRS.from_epsg(32632)).in_metres is False


def test_a_local_crs_has_areas_of_its_own_plane_and_says_so() -> None:
    feet = CRS.from_wkt('LOCAL_CS["site",UNIT["foot",0.3048]]')
    areas = pixel_areas(Size(10, 10), Affine(2, 0, 1, 0, -2, 1), feet)
    assert areas.same == pytest.approx(4 * 0.3048**2) and "local" in (areas.note or "") and "foot" in (areas.note or "")
    assert pixel_size(Size(10, 10), Affine(2, 0, 1, 0, -2, 1), feet) == pytest.approx((0.6096, 0.6096))


def test_pixels_beyond_the_edge_of_the_earth_have_no_area_and_those_inside_have_theirs() -> None:
    disk = CRS.from_proj4("+proj=geos +h=35785831 +lon_0=0 +sweep=y +ellps=WGS84")
    areas = pixel_areas(Size(100, 100), Affine(1.2e5, 0, -6e6, 0, -1.2e5, 6e6), disk)
    found = np.asarray(areas.of(Window(0, 0, 100, 100)))
    assert found[0, 0] == 0 and found[50, 50] == pytest.approx(1.44e10, rel=0.01)
    assert np.isfinite(found).all()


def test_one_point_without_a_place_does_not_cost_the_others() -> None:
    disk = CRS.from_proj4("+proj=geos +h=35785831 +lon_0=0 +sweep=y +ellps=WGS84")
    points = np.array([(0.0, 0.0), (5.9e6, 5.9e6), (1e6, 0.0)])
    found = transformed(points, disk, CRS.from_epsg(4326))
    assert np.isfinite(found).all(axis=1).tolist() == [True, False, True]
