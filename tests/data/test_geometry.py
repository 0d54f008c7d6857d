from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rsseg_tf.data import geometry
from rsseg_tf.data.geometry import scale_factors, scaled_label, scaled_part, scaled_size
from rsseg_tf.rasters.windows import Size, Window
from tests.fixtures.augment import sample
from tests.fixtures.golden import GOLDEN, needs_golden

IGNORE = 255
# Before version 5, a pixel's last bits depended on how far it lay from the end of its row.
LAST_BITS = 0.0 if int(cv2.__version__.split(".")[0]) >= 5 else 2e-5
STEPS = (0.5, 0.75, 1.25, 1.5, 1.75, 2.0)


def whole(image: NDArray[Any], size: Size) -> NDArray[np.float32]:
    """Scales an image as PaddleSeg does."""
    scaled = cv2.resize(image.astype(np.float32), size.width_height, interpolation=cv2.INTER_LINEAR)
    return scaled.reshape(*size, image.shape[2])


def parts(size: Size, count: int, rng: np.random.Generator) -> Iterator[Window]:
    """Yields the corners and some parts."""
    height, width = max(size.height // 3, 1), max(size.width // 3, 1)
    yield Window(0, 0, *size)
    yield Window(0, size.width - width, height, size.width)
    yield Window(size.height - height, 0, size.height, width)
    for _ in range(count):
        y, x = (int(rng.integers(0, side)) for side in size)
        yield Window(y, x, int(rng.integers(y, size.height)) + 1, int(rng.integers(x, size.width)) + 1)


# === Scaling ===


@needs_golden
@pytest.mark.parity
@pytest.mark.parametrize("factor", ["0.5", "0.75", "1.25", "2"])
def test_scaling_equals_the_originals(factor: str) -> None:
    with np.load(GOLDEN / "pieces.npz") as archive:
        pieces = dict(archive)
    image, label = np.ascontiguousarray(pieces["tr_bgr"][..., ::-1]), pieces["tr_label"]
    size = scaled_size(label.shape, float(factor))
    everything = Window(0, 0, *size)
    scaled = scaled_part(image, size, everything)
    expected = pieces[f"tr_scale_{factor}_img"].transpose(1, 2, 0)
    # The original ran with an earlier OpenCV, whose last bits may differ.
    np.testing.assert_allclose(scaled, expected, atol=2e-5)
    np.testing.assert_array_equal(scaled_label(label, size, everything), pieces[f"tr_scale_{factor}_label"])


@pytest.mark.parametrize("shape", [(512, 512), (96, 160), (37, 53), (61, 240), (1, 9)])
@pytest.mark.parametrize("factor", [*STEPS, 0.613, 1.3371])
def test_a_part_equals_that_part_of_the_whole_to_the_bit(shape: tuple[int, int], factor: float) -> None:
    image, label = sample(*shape)
    size = scaled_size(shape, factor)
    for accelerated in (True, False):
        before = cv2.ipp.useIPP()
        cv2.ipp.setUseIPP(accelerated and before)
        try:
            expected = whole(image, size)
            nearest = cv2.resize(label, size.width_height, interpolation=cv2.INTER_NEAREST)
            for part in parts(size, 8, np.random.default_rng(0)):
                inside = np.s_[part.y0 : part.y1, part.x0 : part.x1]
                scaled = scaled_part(image, size, part)
                np.testing.assert_allclose(scaled, expected[inside], rtol=0, atol=LAST_BITS, err_msg=str(part))
                np.testing.assert_array_equal(scaled_label(label, size, part), nearest[inside], err_msg=str(part))
        finally:
            cv2.ipp.setUseIPP(before)


@pytest.mark.parametrize("bands", [1, 2, 4, 5, 128, 300])
def test_any_number_of_bands_is_scaled(bands: int) -> None:
    image, _ = sample(24, 20, bands)
    size = scaled_size((24, 20), 1.25)
    scaled = scaled_part(image, size, Window(3, 2, 28, 25))
    assert scaled.shape == (25, 23, bands)
    for band in {0, bands // 2, bands - 1}:
        expected = whole(image[..., band : band + 1], size)[3:28, 2:25, 0]
        # OpenCV takes other paths for other numbers of bands, with other last bits.
        np.testing.assert_allclose(scaled[..., band], expected, atol=5e-4)


def test_only_what_a_part_needs_is_scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _ = sample(600, 800)
    sources: list[tuple[int, int]] = []
    resize = cv2.resize

    def noted(source: NDArray[Any], *rest: Any, **options: Any) -> NDArray[Any]:
        sources.append(source.shape[:2])
        return resize(source, *rest, **options)

    monkeypatch.setattr(cv2, "resize", noted)
    scaled_part(image, Size(1200, 1600), Window(400, 600, 500, 800))
    scaled_part(image, Size(300, 400), Window(100, 200, 150, 300))
    scaled_part(image, Size(750, 1000), Window(100, 200, 150, 300))  # 5 pixels of 4, from the beginning on
    assert sources == [(52, 102), (104, 204), (124, 244)]


def test_sizes_are_rounded_half_to_even_and_never_empty() -> None:
    assert scaled_size((5, 7), 0.5) == (2, 4)
    assert scaled_size((1, 3), 0.3) == (1, 1)


def test_scale_factors() -> None:
    assert scale_factors((0.5, 2.0), 0.25) == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    assert scale_factors((1.0, 1.0), 0.25) == [1.0]


# === Padding, mirrors, rotations ===


def test_padding_is_at_the_bottom_and_right() -> None:
    image, label = sample(5, 6)
    result = geometry.padded(image.astype(np.float32), Size(8, 9), (1.5, 2.5, 3.5))
    np.testing.assert_array_equal(result[:5, :6], image)
    np.testing.assert_array_equal(result[5:], np.broadcast_to([1.5, 2.5, 3.5], (3, 9, 3)))
    np.testing.assert_array_equal(result[:5, 6:], np.broadcast_to([1.5, 2.5, 3.5], (5, 3, 3)))
    ids = geometry.padded(label, Size(8, 9), IGNORE)
    assert (ids[5:] == IGNORE).all() and (ids[:, 6:] == IGNORE).all() and (ids[:5, :6] == label).all()
    assert (geometry.padded(image, Size(8, 9), 127.5)[5:] == 127).all()  # as PaddleSeg's cast to bytes


def test_padding_nothing_is_a_copy() -> None:
    image, _ = sample(5, 6)
    result = geometry.padded(image, Size(5, 6), 0.0)
    np.testing.assert_array_equal(result, image)
    assert not np.shares_memory(result, image)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bands", [0, 1, 3, 200])
def test_mirrors(axis: int, bands: int) -> None:
    image, label = sample(bands=max(bands, 1))
    pixels = image if bands else label
    turned = geometry.mirrored(pixels, axis)
    np.testing.assert_array_equal(turned, np.flip(pixels, axis))
    assert turned.flags.c_contiguous


@pytest.mark.parametrize("bands", [1, 3, 6])
@pytest.mark.parametrize("degrees", [-45.0, 10.0, 45.0])
def test_rotation_keeps_the_centre_and_fills_the_corners(bands: int, degrees: float) -> None:
    image, label = np.full((33, 33, bands), 9, np.float32), np.ones((33, 33), np.uint8)
    turned = geometry.rotated(image, degrees, 127.5)
    ids = geometry.rotated_label(label, degrees, IGNORE)
    assert turned.shape == image.shape and set(np.unique(ids)) == {1, IGNORE}
    assert (ids[12:21, 12:21] == 1).all() and (turned[12:21, 12:21] == 9).all()
    assert ids[0, 0] == IGNORE and turned[0, 0, 0] > 100
    # image and label are uncovered at the same places, but for the image's soft border
    assert (turned[ids == 1] < 127.5).all() and (turned[ids == IGNORE] > 9).all()


def test_rotation_turns_image_and_label_alike_against_the_clock() -> None:
    label = np.zeros((41, 41), np.uint8)
    label[20, 20:] = 1  # to the right of the centre
    label = cv2.dilate(label, np.ones((5, 5), np.uint8))
    image = label[..., np.newaxis].astype(np.float32)
    turned, ids = geometry.rotated(image, 90.0, 0.0)[..., 0], geometry.rotated_label(label, 90.0, 0)
    np.testing.assert_array_equal(ids, np.rot90(label))
    np.testing.assert_allclose(turned, ids, atol=0.1)


def test_each_band_is_filled_with_its_own_padding() -> None:
    means = (25.5, 76.5, 3.0, 4.0, 5.0)
    even = np.broadcast_to(np.array(means, np.float32), (20, 20, 5))
    np.testing.assert_allclose(geometry.rotated(even, 30.0, means), even, rtol=1e-4)
