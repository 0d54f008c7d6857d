from __future__ import annotations

import math
from collections import Counter
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from rsseg_tf.config.schema import Augment
from rsseg_tf.data import augment as ops
from rsseg_tf.data.augment import Augmentation, Draw, draw_changes, uniform_numbers
from rsseg_tf.datasets import DatasetSpec, custom_spec
from tests.fixtures.augment import coloured_by_pillow, sample
from tests.fixtures.golden import GOLDEN, needs_golden

IGNORE = 255
BYTES = np.dtype("uint8")
SPEC = custom_spec("town", [str(i) for i in range(6)])
STILL: dict[str, Any] = {"brightness_range": 0.0, "contrast_range": 0.0, "saturation_range": 0.0, "hue_range": 0.0}
PLAIN: dict[str, Any] = STILL | {"scale_range": (1.0, 1.0), "flip_horizontal": 0.0}
FULL = Augment(crop_size=(32, 24), flip_vertical=0.5, rotate90=0.5, rotate_degrees=10.0)


def draws(augment: Augment, count: int, seed: int = 7) -> list[Draw]:
    return [draw_changes(augment, next(uniform_numbers(seed, position))) for position in range(count)]


def changed(
    image: NDArray[Any], label: NDArray[Any], augment: Augment, draw: Draw, spec: DatasetSpec = SPEC
) -> tuple[NDArray[Any], NDArray[Any]]:
    changes = Augmentation(augment, spec, image.dtype)
    return changes.image(image, draw), changes.label(label, draw)


# === Against the original ===


def paddleseg(
    image: NDArray[np.uint8], label: NDArray[np.uint8], draw: Draw, crop: tuple[int, int], *, distort: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Does with a draw what PaddleSeg's transforms do with theirs, with the same calls of OpenCV and Pillow."""
    pixels = image.astype("float32")
    width, height = round(draw.factor * image.shape[1]), round(draw.factor * image.shape[0])
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    down, across = max(crop[0] - height, 0), max(crop[1] - width, 0)
    border = cv2.BORDER_CONSTANT
    pixels = cv2.copyMakeBorder(pixels, 0, down, 0, across, border, value=(127.5, 127.5, 127.5))
    label = cv2.copyMakeBorder(label, 0, down, 0, across, border, value=IGNORE)
    y, x = (int(place * (whole - side + 1)) for place, whole, side in zip(draw.place, label.shape, crop, strict=True))
    pixels, label = pixels[y : y + crop[0], x : x + crop[1]], label[y : y + crop[0], x : x + crop[1]]
    if draw.flip_horizontal:
        pixels, label = pixels[:, ::-1], label[:, ::-1]
    if distort:
        picture = Image.fromarray(np.ascontiguousarray(pixels.astype("uint8")))
        for name, value in draw.colours:
            picture = coloured_by_pillow(picture, name, value)
        pixels = np.asarray(picture).astype("float32")
    return pixels, label


@pytest.mark.parametrize("shape", [(96, 128), (61, 83), (20, 24)])
@pytest.mark.parametrize("step", [0.25, 0.0])
def test_the_whole_chain_equals_paddlesegs_to_the_bit(shape: tuple[int, int], step: float) -> None:
    image, label = sample(*shape)
    augment = Augment(crop_size=(64, 48), scale_step=step)
    seen: set[str] = set()
    for draw in draws(augment, 60):
        got, ids = changed(image, label, augment, draw)
        expected, expected_ids = paddleseg(image, label, draw, (48, 64), distort=True)
        assert got.dtype == np.uint8
        np.testing.assert_array_equal(got, expected, err_msg=str(draw))
        np.testing.assert_array_equal(ids, expected_ids, err_msg=str(draw))
        seen.update(name for name, _ in draw.colours)
    assert len(seen) == 4


def test_without_colour_changes_fractions_stay_as_in_paddleseg() -> None:
    image, label = sample(61, 83)
    augment = Augment(crop_size=(64, 48), **STILL)
    for draw in draws(augment, 20):
        got, _ = changed(image, label, augment, draw)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, paddleseg(image, label, draw, (48, 64), distort=False)[0])


@needs_golden
@pytest.mark.parity
def test_padding_and_normalisation_equal_the_coloured_by_pillow() -> None:
    with np.load(GOLDEN / "pieces.npz") as archive:
        pieces = dict(archive)
    image, label = np.ascontiguousarray(pieces["tr_bgr"][..., ::-1]), pieces["tr_label"]
    augment = Augment(crop_size=(64, 64), **PLAIN)
    got, ids = changed(image, label, augment, Draw())
    np.testing.assert_array_equal(got, pieces["tr_pad_64_img"].transpose(1, 2, 0))
    np.testing.assert_array_equal(ids, pieces["tr_pad_64_label"])
    normal = ops.normalise(image, SPEC)
    np.testing.assert_allclose(normal, pieces["tr_normalize_img"].transpose(1, 2, 0), atol=1e-6)


@needs_golden
@pytest.mark.parity
def test_the_originals_crop_is_one_of_ours() -> None:
    with np.load(GOLDEN / "pieces.npz") as archive:
        pieces = dict(archive)
    image, label = np.ascontiguousarray(pieces["tr_bgr"][..., ::-1]), pieces["tr_label"]
    wanted = pieces["tr_crop_32x20_wh_img"].transpose(1, 2, 0)
    augment = Augment(crop_size=(32, 20), **PLAIN)
    room = (label.shape[0] - 20 + 1, label.shape[1] - 32 + 1)
    places = [((y + 0.5) / room[0], (x + 0.5) / room[1]) for y in range(room[0]) for x in range(room[1])]
    equal = [np.array_equal(changed(image, label, augment, Draw(place=place))[0], wanted) for place in places]
    assert sum(equal) == 1


# === What is drawn ===


def test_numbers_depend_on_seed_and_position_alone() -> None:
    first, second = (next(numbers) for numbers in [uniform_numbers(3, 5)] * 2)
    stream = uniform_numbers(3, 5)
    np.testing.assert_array_equal(next(stream), first)
    np.testing.assert_array_equal(next(stream), second)
    assert len(first) == 32 and ((first >= 0) & (first < 1)).all()
    for other in ((3, 6), (4, 5), (5, 3), (3, 5 + 2**31), (3, 2**40)):
        assert not np.isin(next(uniform_numbers(*other)), first).any()
    # Philox4x64-10 with the key (3, 5), so that a run can be resumed with another version of NumPy.
    np.testing.assert_allclose(first[:2], [0.08910064623458391, 0.33189185276481004], rtol=1e-14)


def test_step_scaling_draws_each_factor_equally_often() -> None:
    counts = Counter(draw.factor for draw in draws(Augment(), 700))
    assert sorted(counts) == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert all(60 <= count <= 145 for count in counts.values()), counts


def test_continuous_and_fixed_scaling() -> None:
    factors = [draw.factor for draw in draws(Augment(scale_step=0.0), 100)]
    assert len(set(factors)) == 100 and 0.5 <= min(factors) < 0.6 and 1.9 < max(factors) <= 2.0
    assert {draw.factor for draw in draws(Augment(scale_range=(0.5, 0.5)), 5)} == {0.5}


def test_crop_offsets_are_uniform_and_complete() -> None:
    label = np.arange(90, dtype=np.uint8).reshape(10, 9)
    image = np.repeat(label[..., np.newaxis], 3, axis=2)
    augment = Augment(crop_size=(8, 8), **PLAIN)
    offsets = Counter(divmod(int(changed(image, label, augment, draw)[1][0, 0]), 9) for draw in draws(augment, 600))
    assert set(offsets) == {(y, x) for y in range(3) for x in range(2)}
    assert all(60 <= count <= 140 for count in offsets.values()), offsets


def test_flips_and_turns_come_with_their_probabilities() -> None:
    augment = Augment(flip_horizontal=0.5, flip_vertical=0.25, rotate90=0.75, rotate_degrees=30, rotate_probability=0.4)
    drawn = draws(augment, 800)
    shares = {
        "flip_horizontal": (sum(draw.flip_horizontal for draw in drawn), 0.5),
        "flip_vertical": (sum(draw.flip_vertical for draw in drawn), 0.25),
        "rotate90": (sum(draw.quarter_turns > 0 for draw in drawn), 0.75),
        "rotation": (sum(draw.degrees is not None for draw in drawn), 0.4),
    }
    for name, (count, probability) in shares.items():
        assert abs(count / 800 - probability) < 0.06, name
    assert {draw.quarter_turns for draw in drawn} == {0, 1, 2, 3}
    degrees = [draw.degrees for draw in drawn if draw.degrees is not None]
    assert -30 <= min(degrees) < -27 and 27 < max(degrees) <= 30
    oblong = draws(Augment(crop_size=(32, 24), rotate90=1.0), 20)
    assert {draw.quarter_turns for draw in oblong} == {2}
    off = draws(Augment(flip_horizontal=0.0), 100)
    assert not any(d.flip_horizontal or d.flip_vertical or d.quarter_turns or d.degrees for d in off)


def test_colours_draw_order_chance_and_strength() -> None:
    drawn = [draw.colours for draw in draws(Augment(), 2000)]
    counts = Counter(len(colours) for colours in drawn)
    assert abs(counts[0] / 2000 - 1 / 16) < 0.03 and abs(counts[4] / 2000 - 1 / 16) < 0.03
    orders = Counter(tuple(name for name, _ in colours) for colours in drawn if len(colours) == 4)
    assert len(orders) > 20, "24 orders"
    for name, middle, width in (("brightness", 1, 0.4), ("contrast", 1, 0.4), ("saturation", 1, 0.4), ("hue", 0, 18)):
        values = [value - middle for colours in drawn for found, value in colours if found == name]
        assert abs(len(values) / 2000 - 0.5) < 0.05
        assert -width <= min(values) < -0.95 * width and 0.95 * width < max(values) <= width
    some = draws(Augment(contrast_range=0.0, hue_range=0.0, distort_probability=1.0), 50)
    assert all({name for name, _ in draw.colours} == {"brightness", "saturation"} for draw in some)
    assert not any(draw.colours for draw in draws(Augment(distort_probability=0.0), 50))


def test_an_option_moves_no_other_draw() -> None:
    plain, turning = draws(Augment(), 20), draws(Augment(rotate90=1.0, rotate_degrees=5.0, scale_range=(1.0, 1.0)), 20)
    for one, other in zip(plain, turning, strict=True):
        assert (one.place, one.flip_horizontal, one.colours) == (other.place, other.flip_horizontal, other.colours)


# === What is done ===


@pytest.mark.parametrize(
    ("dtype", "options", "expected"),
    [
        ("uint8", {}, "uint8"),
        ("uint8", {"distort_probability": 0.0}, "float32"),
        ("uint8", PLAIN, "float32"),  # its padding is 127.5
        ("uint8", PLAIN | {"image_padding": 3.0}, "uint8"),
        ("uint8", PLAIN | {"image_padding": 3.0, "rotate_degrees": 5.0}, "float32"),
        ("uint16", {}, "float32"),
        ("uint16", PLAIN | {"image_padding": 0.0}, "uint16"),
        ("uint16", STILL, "float32"),
        ("float32", {}, "float32"),
        ("float64", PLAIN, "float32"),
        ("int32", PLAIN | {"image_padding": 0.0}, "float32"),
    ],
)
def test_the_type_of_results_holds_what_changes_give(dtype: str, options: dict[str, Any], expected: str) -> None:
    augment = Augment(crop_size=(48, 48), **options)
    assert Augmentation(augment, SPEC, np.dtype(dtype)).dtype == expected
    image, label = sample()
    for draw in draws(augment, 6):
        got, ids = changed(image.astype(dtype), label, augment, draw)
        assert got.dtype == expected and ids.dtype == np.uint8
        assert got.shape == (48, 48, 3) and got.flags.c_contiguous and not np.shares_memory(got, image)


def test_16_bits_keep_their_own_range() -> None:
    """A value above `max_value` is the same number for the network in training, evaluation and export."""
    spec = custom_spec("s2", ["a", "b"], bands=2, max_value=10_000.0, mean=(0.1, 0.3), std=(0.05, 0.1))
    image = np.full((8, 8, 2), 12_000, np.uint16)
    augment = Augment(crop_size=(8, 8), **(PLAIN | {"scale_range": (0.5, 2.0)}))
    for draw in draws(augment, 10):
        got, ids = changed(image, np.zeros((8, 8), np.uint8), augment, draw, spec)
        covered = ids != IGNORE
        assert (got[covered] == 12_000).all()
        evaluated = ops.normalise(image, spec).numpy()
        assert set(np.unique(ops.normalise(got[covered], spec))) == set(np.unique(evaluated))
    bright = Augment(crop_size=(8, 8), **(PLAIN | {"brightness_range": 0.4}))
    most = max(changed(image, np.zeros((8, 8), np.uint8), bright, draw, spec)[0].max() for draw in draws(bright, 40))
    assert 15_000 < most <= 1.4 * 12_000
    assert ops.value_limits(np.dtype("uint16")) == (0, 65535)


@pytest.mark.parametrize(
    ("dtype", "max_value", "limits"),
    [
        ("uint8", 255.0, (0.0, 255.0)),
        ("uint8", 100.0, (0.0, 255.0)),
        ("uint16", 65535.0, (0.0, 255.0)),
        ("uint16", 10000.0, (0.0, 65535 * 255 / 10000)),
        ("float32", 1.0, (-math.inf, math.inf)),
    ],
)
def test_limits_on_a_common_scale(dtype: str, max_value: float, limits: tuple[float, float]) -> None:
    assert ops.value_limits(np.dtype(dtype), max_value) == pytest.approx(limits)


def test_padding_is_the_mean_where_bytes_do_not_say_otherwise() -> None:
    spec = custom_spec("s2", ["a", "b"], bands=2, max_value=10_000.0, mean=(0.1, 0.3), std=(0.05, 0.1))
    assert ops.padding_of(Augment(), SPEC, BYTES) == 127.5
    assert ops.padding_of(Augment(), custom_spec("x", ["a", "b"]), np.dtype("float32")) == 127.5, (
        "the default mean is 0.5"
    )
    assert ops.padding_of(Augment(image_padding=51.0), spec, np.dtype("uint16")) == 2000.0
    means = ops.padding_of(Augment(), spec, np.dtype("uint16"))
    assert means == pytest.approx((1000, 3000))
    augment = Augment(crop_size=(8, 8), **PLAIN)
    image, label = np.full((4, 4, 2), 500, np.uint16), np.zeros((4, 4), np.uint8)
    for draw in (Draw(), Draw(degrees=45.0)):
        got, ids = changed(image, label, augment, draw, spec)
        np.testing.assert_allclose(got[7, 0], means, rtol=1e-5)
        np.testing.assert_allclose(ops.normalise(got, spec)[7, 0], 0, atol=1e-4)
        assert ids[7, 0] == IGNORE


@pytest.mark.parametrize("bands", [1, 5, 200])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_all_changes_work_with_any_number_of_bands(bands: int, dtype: str) -> None:
    image, label = sample(40, 44, bands)
    spec = custom_spec("many", [str(i) for i in range(6)], bands=bands)
    augment = FULL.model_copy(update={"saturation_range": 0.0, "hue_range": 0.0, "rotate_degrees": 30.0})
    for draw in draws(augment, 8):
        got, ids = changed(image.astype(dtype), label, augment, draw, spec)
        assert got.shape == (24, 32, bands) and got.dtype == dtype and np.isfinite(got).all()
        assert set(np.unique(ids)) <= {*range(6), IGNORE}


def test_image_and_label_stay_in_register() -> None:
    blocks = np.kron(np.random.default_rng(0).integers(0, 6, (8, 8)), np.ones((8, 8))).astype(np.uint8)
    image = blocks[..., np.newaxis].astype(np.float32) * 40
    spec = custom_spec("blocks", [str(i) for i in range(6)], bands=1)
    augment = Augment(crop_size=(48, 48), flip_vertical=0.5, rotate90=0.5, rotate_degrees=20.0, **STILL)
    for draw in draws(augment, 30):
        got, ids = changed(image, blocks, augment, draw, spec)
        inside = ids != IGNORE
        exact = np.isclose(got[..., 0] / 40, ids, atol=1e-3)
        assert exact[inside].mean() > 0.5, "pixels away from the block borders carry their class"


# === Turning the whole image ===


def turned_by_paddleseg(
    image: NDArray[np.float32], label: NDArray[np.uint8], degrees: float
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """What PaddleSeg's RandomRotation does, with the same calls of OpenCV."""
    h, w = image.shape[:2]
    pc = (w // 2, h // 2)
    r = cv2.getRotationMatrix2D(pc, degrees, 1.0)
    cos, sin = np.abs(r[0, 0]), np.abs(r[0, 1])
    nw, nh = int((h * sin) + (w * cos)), int((h * cos) + (w * sin))
    r[0, 2] += (nw / 2) - pc[0]
    r[1, 2] += (nh / 2) - pc[1]
    border = cv2.BORDER_CONSTANT
    turned = cv2.warpAffine(
        image, r, dsize=(nw, nh), flags=cv2.INTER_LINEAR, borderMode=border, borderValue=(127.5, 127.5, 127.5)
    )
    ids = cv2.warpAffine(label, r, dsize=(nw, nh), flags=cv2.INTER_NEAREST, borderMode=border, borderValue=IGNORE)
    return turned, ids


@pytest.mark.parametrize("crop", [(40, 56), (150, 150)])
@pytest.mark.parametrize("factor", [1.0, 0.75])
def test_the_whole_image_turns_as_in_paddleseg_to_the_bit(crop: tuple[int, int], factor: float) -> None:
    image, label = sample(61, 84)
    augment = Augment(crop_size=crop, rotate_degrees=30.0, rotate_probability=1.0, rotate_whole=True, **PLAIN)
    augment = augment.model_copy(update={"scale_range": (factor, factor)})
    for position in range(8):
        draw = draw_changes(augment, next(uniform_numbers(1, position)))
        assert draw.degrees is not None
        size = (round(factor * 84), round(factor * 61))
        pixels = cv2.resize(image.astype("float32"), size, interpolation=cv2.INTER_LINEAR)
        ids = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        pixels, ids = turned_by_paddleseg(pixels, ids, draw.degrees)
        height, width = crop[1], crop[0]
        down, across = max(height - ids.shape[0], 0), max(width - ids.shape[1], 0)
        pixels = cv2.copyMakeBorder(pixels, 0, down, 0, across, cv2.BORDER_CONSTANT, value=(127.5, 127.5, 127.5))
        ids = cv2.copyMakeBorder(ids, 0, down, 0, across, cv2.BORDER_CONSTANT, value=IGNORE)
        y, x = (
            int(at * (whole - side + 1)) for at, whole, side in zip(draw.place, ids.shape, (height, width), strict=True)
        )
        ours, our_ids = changed(image, label, augment, draw)
        np.testing.assert_array_equal(ours, pixels[y : y + height, x : x + width])
        np.testing.assert_array_equal(our_ids, ids[y : y + height, x : x + width])


def test_turning_the_whole_image_or_the_crop_differs() -> None:
    image, label = sample(61, 84)
    options = {"crop_size": (40, 40), "rotate_degrees": 30.0, "rotate_probability": 1.0, **PLAIN}
    [draw] = draws(Augment(**options), 1)
    ours = [changed(image, label, Augment(**options, rotate_whole=whole), draw)[1] for whole in (False, True)]
    assert (ours[0] != ours[1]).any()
    # The corners of a crop from the middle have no padding where the whole image was turned.
    middle = Draw(degrees=30.0, place=(0.5, 0.5))
    padded = [
        (changed(image * 0, label * 0, Augment(**options, rotate_whole=whole), middle)[1] == IGNORE).sum()
        for whole in (False, True)
    ]
    assert padded[1] < padded[0]


def test_turning_the_whole_image_needs_degrees() -> None:
    with pytest.raises(ValueError, match="rotate_whole has a meaning with rotate_degrees above 0 only"):
        Augment(rotate_whole=True)
