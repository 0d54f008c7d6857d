"""Sizes on the ground."""

from __future__ import annotations

import math

import numpy as np
import pytest
from rasterio.crs import CRS
from rasterio.transform import Affine

from rsseg_tf.inference.ground import area_plane, move, pixel_size


def test_a_pixel_of_utm_has_its_size_up_to_the_scale_of_the_projection():
    size = pixel_size((100, 100), Affine(0.5, 0, 500000, 0, -0.5, 5400000), CRS.from_epsg(32632))
    assert size == pytest.approx((0.5 / 0.9996, 0.5 / 0.9996), rel=1e-6), "on the central meridian"


def test_degrees_and_web_mercator_are_measured_on_the_ground():
    # A minute of arc along the meridian is near 1852 m, and along the parallel at 60 degrees about half of it.
    minute = 1 / 60
    rows, columns = pixel_size((2, 2), Affine(minute, 0, 10, 0, -minute, 60 + minute), CRS.from_epsg(4326))
    assert rows == pytest.approx(1857, abs=1) and columns == pytest.approx(930.6, abs=1)
    y = 6378137 * math.log(math.tan(math.pi / 4 + math.radians(60) / 2))
    rows, columns = pixel_size((2, 2), Affine(1, 0, 1e6, 0, -1, y + 1), CRS.from_epsg(3857))
    assert columns == pytest.approx(0.5, abs=2e-3) and rows == pytest.approx(0.5, abs=3e-3)


def test_pixels_may_be_oblong_turned_and_across_the_date_line():
    cosine, sine = math.cos(0.5), math.sin(0.5)
    turned = Affine(0.2 * cosine, 0.4 * sine, 500000, 0.2 * sine, -0.4 * cosine, 5400000)
    assert pixel_size((10, 10), turned, CRS.from_epsg(32632)) == pytest.approx((0.4, 0.2), rel=1e-3)
    rows, columns = pixel_size((2, 2), Affine(0.001, 0, 179.9995, 0, -0.001, 0), CRS.from_epsg(4326))
    assert columns == pytest.approx(111.3, abs=0.1) and rows == pytest.approx(110.6, abs=0.1)


def test_what_lies_nowhere_has_no_size():
    assert pixel_size((10, 10), Affine(1, 0, 5, 0, -1, 5), None) is None
    assert pixel_size((10, 10), Affine.identity(), CRS.from_epsg(32632)) is None


def test_points_are_moved_as_the_transform_says():
    transform = Affine(2, 0.5, 100, -0.25, -3, 200)
    assert move(np.array([[0.0, 0.0], [4.0, 2.0]]), transform).tolist() == [[100, 200], [109, 193]]


def test_the_whole_earth_has_its_area():
    corners = np.array([(-180, -90), (180, -90), (180, 90), (-180, 90)], float)
    x, y = area_plane(corners, CRS.from_epsg(4326)).T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    assert area / 1e6 == pytest.approx(510_065_621.7, abs=1), "square kilometres of WGS 84"
    sphere = CRS.from_proj4("+proj=longlat +R=1000 +no_defs")
    x, y = area_plane(corners, sphere).T
    assert abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2 == pytest.approx(4 * math.pi * 1000**2)
