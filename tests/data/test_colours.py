from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image

from rsseg_tf.data import colours
from rsseg_tf.data.colours import BYTES, change_colours
from tests.fixtures.augment import coloured_by_pillow
from tests.fixtures.golden import GOLDEN, needs_golden

COLOURS = 2**24
FACTORS = (0.0, 0.6, 0.9371, 1.0, 1.1234, 1.4, 2.0)
SHIFTS = (-18.0, -3.5, 0.0, 0.9, 7.3, 127.0)


def every(step: int, mode: str = "RGB") -> tuple[NDArray[np.uint8], Image.Image]:
    """Returns each `step`-th of all colours as an array and as a picture of a mode."""
    codes = np.arange(0, COLOURS, step, dtype=np.uint32)
    bands = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)
    image = bands.reshape(-1, 2 ** (len(codes).bit_length() // 2), 3) if step == 1 else bands[np.newaxis]
    image = np.ascontiguousarray(image)
    return image, Image.frombytes(mode, (image.shape[1], image.shape[0]), image.tobytes())


# === Bytes: Pillow to the bit ===


@needs_golden
@pytest.mark.parity
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_colours_equal_the_originals_to_the_bit(name: str) -> None:
    with np.load(GOLDEN / "pieces.npz") as archive:
        pieces = dict(archive)
    image = np.ascontiguousarray(pieces["tr_bgr"][..., ::-1])
    cases = [key for key in pieces if key.startswith(f"fx_{name}_")]
    assert len(cases) >= 3
    for key in cases:
        got = change_colours(image, [(name, float(key.rsplit("_", 1)[1]))])
        np.testing.assert_array_equal(got, pieces[key], err_msg=key)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", FACTORS)
def test_blends_of_many_colours_equal_pillows(name: str, factor: float) -> None:
    image, picture = every(61)
    np.testing.assert_array_equal(change_colours(image, [(name, factor)]), coloured_by_pillow(picture, name, factor))


@pytest.mark.parametrize("shift", SHIFTS)
def test_hues_of_many_colours_equal_pillows(shift: float) -> None:
    image, picture = every(61)
    np.testing.assert_array_equal(colours.adjust_hue(image, shift), coloured_by_pillow(picture, "hue", shift))


@pytest.mark.slow
def test_all_colours_equal_pillows() -> None:
    """The way to hue, saturation and value, and the way back, each over all of 2 ** 24 colours."""
    image, picture = every(1)
    hsv = np.asarray(picture.convert("HSV"))
    hue, saturation, value = colours._hue_saturation_value(image)
    np.testing.assert_array_equal(hue, hsv[..., 0])
    np.testing.assert_array_equal(np.rint(saturation * 255), hsv[..., 1])
    np.testing.assert_array_equal(value, hsv[..., 2])
    hsv, picture = every(1, "HSV")
    shares = hsv[..., 1].astype(np.float32) / np.float32(255)
    back = colours._rgb(*(np.ascontiguousarray(x) for x in (hsv[..., 0], shares, hsv[..., 2])))
    np.testing.assert_array_equal(back, picture.convert("RGB"))
    image, picture = every(1)
    for factor in (0.63, 1.37):
        np.testing.assert_array_equal(
            colours.adjust_saturation(image, factor), coloured_by_pillow(picture, "saturation", factor)
        )


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_changes_one_after_the_other_equal_pillows(order: tuple[int, ...]) -> None:
    changes = [("brightness", 1.3), ("contrast", 0.7), ("saturation", 1.2), ("hue", -9.7)]
    image, picture = every(2003)
    before = image.copy()
    chosen = [changes[i] for i in order]
    for count in range(5):
        expected = picture
        for name, value in chosen[:count]:
            expected = coloured_by_pillow(expected, name, value)
        np.testing.assert_array_equal(change_colours(image, chosen[:count]), expected)
    np.testing.assert_array_equal(image, before)


def test_grey_and_many_bands_are_blended_from_the_mean_of_all_values() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (9, 8, 1), np.uint8)
    picture = Image.fromarray(grey[..., 0])
    for name in ("brightness", "contrast"):
        np.testing.assert_array_equal(
            change_colours(grey, [(name, 1.3)])[..., 0], coloured_by_pillow(picture, name, 1.3), err_msg=name
        )
        many = np.repeat(grey, 300, axis=2)
        np.testing.assert_array_equal(
            change_colours(many, [(name, 1.3)])[..., 299:], change_colours(grey, [(name, 1.3)])
        )


# === Other types keep fractions and their own range ===


def reflectance(bands: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0, 14_000, (16, 12, bands)).astype(np.float32)


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_blends_of_real_numbers(bands: int) -> None:
    image = reflectance(bands)
    weights = [0.299, 0.587, 0.114] if bands == 3 else [1 / bands] * bands
    luma = image.astype(np.float64) @ weights
    free = (-math.inf, math.inf)
    bases: dict[str, Any] = {"brightness": 0.0, "contrast": luma.mean(), "saturation": luma[..., np.newaxis]}
    for name, base in bases.items():
        got = change_colours(image, [(name, 1.3)], free)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, base + 1.3 * (image - base), rtol=1e-5, atol=0.02, err_msg=name)
        assert change_colours(image, [(name, 1.3)], (0.0, 9_000.0)).max() == 9_000
    assert change_colours(image, [("brightness", 1.3)], free).max() > 14_000
    bright = colours.adjust_brightness(np.full((2, 2, 3), 200, np.float32), 1.4)
    assert (bright == BYTES[1]).all()


@pytest.mark.parametrize("shift", [-18.0, 5.5, 127.0])
def test_the_hue_of_real_numbers_is_tensorflows_in_any_unit(shift: float) -> None:
    image = reflectance()
    expected = tf.image.adjust_hue(image / 20_000, shift / 256.0).numpy()
    for unit in (1.0, 1e-4, 37.0):
        got = colours.adjust_hue(image * np.float32(unit), shift)
        np.testing.assert_allclose(got / unit / 20_000, expected, atol=2e-5)
    black = np.zeros((3, 3, 3), np.float32)
    np.testing.assert_array_equal(colours.adjust_hue(black, shift), black)
