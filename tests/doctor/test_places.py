from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine

from rsseg_tf.doctor.places import Place, overlaps, read_place
from rsseg_tf.rasters.images import write_png
from tests.fixtures.datasets import at, write_tiff


def box(left: float, bottom: float, right: float, top: float, crs: str = "EPSG:32640") -> Place:
    return Place(crs, left, bottom, right, top, 1.0)


boxes = st.tuples(
    st.integers(-300, 300), st.integers(-300, 300), st.integers(1, 120), st.integers(1, 120), st.sampled_from("AB")
).map(lambda v: box(v[0], v[1], v[0] + v[2], v[1] + v[3], v[4]))


@settings(max_examples=100)
@given(st.lists(boxes, max_size=12), st.lists(boxes, max_size=12))
def test_the_grid_finds_what_comparing_all_with_all_finds(images: list[Place], others: list[Place]) -> None:
    found = list(overlaps(dict(enumerate(images)), dict(enumerate(others))))
    wanted = {
        key: {other for other, place in enumerate(others) if image.shared_with(place) > 0}
        for key, image in enumerate(images)
    }
    assert {one.image: set(one.others) for one in found} == {key: near for key, near in wanted.items() if near}
    for one in found:
        shares = [images[one.image].shared_with(others[other]) for other in one.others]
        assert shares == sorted(shares, reverse=True)
        assert one.share == pytest.approx(shares[0] / images[one.image].area)


def test_a_scene_over_small_tiles_does_not_fill_the_grid() -> None:
    tiles = {number: box(number, 0, number + 1, 1) for number in range(100)}
    (found,) = overlaps({0: box(-1e7, -1e7, 1e7, 1e7)}, tiles)
    assert set(found.others) == set(tiles)


def test_less_than_half_a_pixel_is_not_shared() -> None:
    assert box(0, 0, 10, 10).shared_with(box(9.6, 0, 20, 10)) == 0
    assert box(0, 0, 10, 10).shared_with(box(9.4, 0, 20, 10)) == pytest.approx(6)


def test_the_place_of_a_tiff_is_its_box(tmp_path: Path) -> None:
    pixels = np.zeros((10, 20), np.uint8)
    place = read_place(write_tiff(tmp_path / "a.tif", pixels, **at(100, 200, pixel=0.5)))
    assert place == Place("EPSG:32640", 100, 195, 110, 200, 0.5)


def test_the_box_of_a_turned_tiff_holds_all_of_it(tmp_path: Path) -> None:
    turned = Affine(0, 0.5, 100, 0.5, 0, 200)  # rows go east, columns go north
    place = read_place(write_tiff(tmp_path / "a.tif", np.zeros((10, 20), np.uint8), crs="EPSG:32640", transform=turned))
    assert place == Place("EPSG:32640", 100, 200, 105, 210, 0.5)


def test_what_lies_nowhere_has_no_place(tmp_path: Path) -> None:
    pixels = np.zeros((10, 20), np.uint8)
    assert read_place(write_tiff(tmp_path / "a.tif", pixels)) is None
    with rasterio.open(
        tmp_path / "b.tif", "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8", crs="EPSG:4326"
    ):
        pass
    assert read_place(tmp_path / "b.tif") is None
    assert read_place(tmp_path / "missing.tif") is None


def test_the_place_of_a_picture_stands_beside_it(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((10, 20, 3), np.uint8))
    assert read_place(tmp_path / "a.png", "PNG") is None
    (tmp_path / "a.pgw").write_text("0.5\n0\n0\n-0.5\n100.25\n199.75\n")
    (tmp_path / "a.prj").write_text(rasterio.crs.CRS.from_epsg(32640).to_wkt())
    assert read_place(tmp_path / "a.png", "PNG") == Place("EPSG:32640", 100, 195, 110, 200, 0.5)
