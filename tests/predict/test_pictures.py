"""Pictures: the colours must be the right ones in the right place."""

from __future__ import annotations

import numpy as np
import pytest

from rsseg_tf.datasets.spec import custom_spec
from rsseg_tf.errors import DataError
from rsseg_tf.predict import as_rgb, colour_table, colourise, montage, overlay

PALETTE = ((200, 0, 0), (0, 100, 50))
LABELS = np.array([[0, 1, 255]], np.uint8)


def test_colours_follow_ids() -> None:
    assert colourise(LABELS, PALETTE).tolist() == [[[200, 0, 0], [0, 100, 50], [0, 0, 0]]]
    white = colourise(LABELS, PALETTE, ignored_colour=(255, 255, 255))
    assert white[0, 2].tolist() == [255, 255, 255]
    table = colour_table(PALETTE, ignore_index=7, ignored_colour=(1, 2, 3))
    assert len(table) == 256 and table[1] == (0, 100, 50) and table[7] == (1, 2, 3) and table[255] == (0, 0, 0)


def test_ids_without_colour_are_refused() -> None:
    with pytest.raises(DataError, match=r"hold \[2\]"):
        colourise(np.array([[2]], np.uint8), PALETTE)
    with pytest.raises(DataError, match=r"hold \[255\]"):
        colourise(LABELS, PALETTE, ignore_index=9)
    with pytest.raises(DataError, match="uint8"):
        colourise(LABELS.astype(np.int64), PALETTE)


def test_overlay_mixes_60_to_40_and_leaves_ignored_pixels() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    assert overlay(image, LABELS, PALETTE).tolist() == [[[140, 60, 60], [60, 100, 80], [100, 100, 100]]]
    assert overlay(image, LABELS, PALETTE, weight=0.0)[0, 0].tolist() == [200, 0, 0]
    with pytest.raises(DataError, match=r"0\.\.1; got 1\.5"):
        overlay(image, LABELS, PALETTE, weight=1.5)
    with pytest.raises(DataError, match="labels' size"):
        overlay(image[:, :2], LABELS, PALETTE)


def test_eight_bit_bands_are_shown_as_they_are() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    spec = custom_spec("infrared", ("a",), bands=4, rgb_bands=(3, 0, 1))
    np.testing.assert_array_equal(as_rgb(pixels, spec), pixels[:, :, [3, 0, 1]])
    grey = as_rgb(pixels, custom_spec("grey", ("a",), bands=4, rgb_bands=(2,)))
    np.testing.assert_array_equal(grey, np.repeat(pixels[:, :, 2:3], 3, axis=2))
    with pytest.raises(DataError, match=r"\[3, 0, 1\]"):
        as_rgb(pixels[:, :, :3], spec)


def test_other_types_are_stretched_between_the_percentiles() -> None:
    ramp = np.arange(101, dtype=np.uint16).reshape(1, 101, 1) * 20 + 3000
    picture = as_rgb(ramp, custom_spec("one", ("a",), bands=1))[0, :, 0]
    assert picture[:3].tolist() == [0, 0, 0] and picture[98:].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(picture[2:99], np.rint(np.arange(97) * 255 / 96).astype(np.uint8))


def test_pixels_without_data_are_black_and_do_not_stretch() -> None:
    spec = custom_spec("one", ("a",), bands=1)
    ramp = np.linspace(0.1, 0.2, 101, dtype=np.float32).reshape(1, 101, 1)
    spoiled = np.concatenate([ramp, np.full((1, 50, 1), 1e6, np.float32)], axis=1)
    nodata = np.arange(151)[np.newaxis] >= 101
    picture = as_rgb(spoiled, spec, nodata)
    np.testing.assert_array_equal(picture[:, :101], as_rgb(ramp, spec))
    assert (picture[:, 101:] == 0).all()
    eight_bit = np.full((1, 2, 1), 200, np.uint8)
    assert as_rgb(eight_bit, spec, np.array([[True, False]]))[0, :, 0].tolist() == [0, 200]
    assert (as_rgb(np.full((2, 2, 1), 7.0), spec) == 0).all()
    assert (as_rgb(np.full((2, 2, 1), np.nan), spec) == 0).all()


def test_montage_shows_panels_and_a_legend() -> None:
    image = np.full((32, 64, 3), 77, np.uint8)
    label = np.zeros((32, 64), np.uint8)
    label[:, 32:] = 255
    prediction = np.ones((32, 64), np.uint8)
    three = montage(image, label, prediction, ("water", "roof"), PALETTE, panel_side=128)
    two = montage(image, None, prediction, ("water", "roof"), PALETTE, panel_side=128)
    assert three.dtype == np.uint8 and three.shape[1] - two.shape[1] == 128 + 12
    areas = {colour: int((three == colour).all(axis=-1).sum()) for colour in (*PALETTE, (77, 77, 77), (0, 0, 0))}
    assert areas[(77, 77, 77)] >= 128 * 64
    # half of the label's panel and the legend's field; the prediction's panel and its field
    assert 64 * 64 < areas[PALETTE[0]] < 64 * 64 + 300
    assert 128 * 64 < areas[PALETTE[1]] < 128 * 64 + 300
    assert 64 * 64 < areas[(0, 0, 0)] < 64 * 64 + 300
    assert not (two == np.array((0, 0, 0))).all(axis=-1).any(), "no ignored pixel, no entry in the legend"


def test_a_long_legend_takes_more_lines_and_loses_no_class() -> None:
    colours = tuple((i * 15 + 5, 250 - i * 7, i) for i in range(16))
    image = np.full((64, 64, 3), 255, np.uint8)
    names = tuple(f"class number {i}" for i in range(16))
    picture = montage(image, None, np.zeros((64, 64), np.uint8), names, colours, panel_side=128)
    for colour in colours:
        assert (picture == colour).all(axis=-1).sum() >= 100
    with pytest.raises(DataError, match="one colour per class"):
        montage(image, None, np.zeros((64, 64), np.uint8), names[:3], colours)
