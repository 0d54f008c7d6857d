"""Windows and test-time augmentation: against the original's stored arrays, and by their properties."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg_tf.datasets.spec import DatasetSpec, custom_spec
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.predict import (
    InferenceOptions,
    Predict,
    augmented_logits,
    predict_labels,
    predict_logits,
    resize_bilinear,
)
from rsseg_tf.rasters.windows import Size
from tests.fixtures.golden import GOLDEN

PIECES = GOLDEN / "pieces.npz"
SPEC = custom_spec("toy", ("a", "b", "c"))
PLAIN = InferenceOptions()
FOUR = custom_spec("four", ("a", "b", "c", "d"))


def logits_of(predict: Predict, image: np.ndarray, options: InferenceOptions = PLAIN) -> np.ndarray:
    """Logits of a model with three classes."""
    return predict_logits(predict, image, SPEC, options)


def slid(
    predict: Predict,
    image: np.ndarray,
    *,
    crop_size: Size,
    stride: Size,
    batch_size: int = 1,
    spec: DatasetSpec = SPEC,
) -> np.ndarray:
    """Logits by windows."""
    options = InferenceOptions(is_slide=True, crop_size=crop_size, stride=stride, batch_size=batch_size)
    return predict_logits(predict, image, spec, options)


def rng_image(height: int, width: int, bands: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((height, width, bands), dtype=np.float32)


def pointwise(batch: np.ndarray) -> np.ndarray:
    """A model without a neighbourhood: windows and flips must not change it."""
    weights = np.array([[1.0, -2.0, 0.5], [0.3, 0.8, -1.0], [-1.5, 0.1, 2.0]], np.float32)
    return batch @ weights


def lopsided(batch: np.ndarray) -> np.ndarray:
    """A model that sees the window's left and top border: cumulative sums, divided by the window's size."""
    logits = pointwise(batch).cumsum(axis=1).cumsum(axis=2)
    return (logits / (batch.shape[1] * batch.shape[2])).astype(np.float32)


# --- the original's arrays --------------------------------------------------------------------------------------


def patches(batch: np.ndarray) -> np.ndarray:
    """5 x 5 neighbourhoods at stride 2, zero-padded by 2: (B, H/2, W/2, 25 * C)."""
    _, height, width, _ = batch.shape
    padded = np.pad(batch, ((0, 0), (2, 2), (2, 2), (0, 0)))
    rows, columns = 2 * ((height + 1) // 2) - 1, 2 * ((width + 1) // 2) - 1
    parts = [padded[:, i : i + rows : 2, j : j + columns : 2] for i in range(5) for j in range(5)]
    return np.stack(parts, axis=3).reshape(batch.shape[0], (rows + 1) // 2, (columns + 1) // 2, -1)


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, np.ndarray], Callable[..., Any]]:
    """The stored arrays, and the model behind them.

    The model is one 5 x 5 convolution of stride 2 and a bilinear resize; its weights are found by least squares from
    the plain prediction alone, which leaves the windowed and augmented arrays as tests.
    """
    if not PIECES.exists():
        pytest.skip("no golden files beside the checkout")
    with np.load(PIECES) as stored:
        arrays = {
            key: np.ascontiguousarray(stored[key][0].transpose(1, 2, 0))
            for key in stored.files
            if key.startswith(("inf_", "slide_", "tta_"))
        }
    image, plain = arrays["inf_img"], arrays["inf_plain"].astype(np.float64)

    def upsampling(size: int) -> np.ndarray:
        return cv2.resize(np.eye((size + 1) // 2), ((size + 1) // 2, size), interpolation=cv2.INTER_LINEAR)

    down, across = (np.linalg.pinv(upsampling(size)) for size in plain.shape[:2])
    coarse = np.einsum("hH,HWc,wW->hwc", down, plain, across).reshape(-1, 4)
    inputs = patches(image[np.newaxis])[0].reshape(len(coarse), -1).astype(np.float64)
    weights, *_ = np.linalg.lstsq(np.c_[inputs, np.ones(len(inputs))], coarse, rcond=None)

    def predict(batch: np.ndarray) -> np.ndarray:
        logits = (patches(batch) @ weights[:-1] + weights[-1]).astype(np.float32)
        return np.stack([resize_bilinear(one, *batch.shape[1:3]) for one in logits])

    return arrays, predict


@pytest.mark.parity
def test_plain_equals_the_original(golden: tuple[dict[str, np.ndarray], Callable[..., Any]]) -> None:
    arrays, predict = golden
    logits = predict_logits(predict, arrays["inf_img"], FOUR, PLAIN)
    np.testing.assert_allclose(logits, arrays["inf_plain"], rtol=0, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    ("crop_size", "stride"), [((32, 24), (20, 16)), ((80, 24), (20, 16)), ((128, 128), (64, 64))], ids=str
)
def test_windows_equal_the_original(
    golden: tuple[dict[str, np.ndarray], Callable[..., Any]],
    crop_size: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int,
) -> None:
    arrays, predict = golden
    key = f"slide_crop{crop_size[0]}x{crop_size[1]}_stride{stride[0]}x{stride[1]}_(w,h)"
    logits = slid(
        predict,
        arrays["inf_img"],
        crop_size=Size.from_width_height(crop_size),
        stride=Size.from_width_height(stride),
        batch_size=batch_size,
        spec=FOUR,
    )
    np.testing.assert_allclose(logits, arrays[key], rtol=0, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("tta_flip", {"flip_horizontal": True, "flip_vertical": True}),
        ("tta_scales", {"scales": (0.75, 1.0, 1.5), "flip_horizontal": True}),
        ("tta_scales_desc", {"scales": (1.5, 1.0, 0.75)}),
    ],
)
def test_augmentation_equals_the_original(
    golden: tuple[dict[str, np.ndarray], Callable[..., Any]], key: str, options: dict[str, Any]
) -> None:
    arrays, predict = golden
    logits = predict_logits(predict, arrays["inf_img"], FOUR, InferenceOptions(**options))
    np.testing.assert_allclose(logits, arrays[f"{key}_logit"], rtol=0, atol=5e-6)
    np.testing.assert_array_equal(logits.argmax(axis=-1), arrays[f"{key}_pred"][:, :, 0])


# --- resize -----------------------------------------------------------------------------------------------------


def loop_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel centres, clamped at the border, no antialiasing."""
    result = np.zeros((height, width, image.shape[2]))
    for y, x in itertools.product(range(height), range(width)):
        sy = min(max((y + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
        sx = min(max((x + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
        y0, x0 = int(sy), int(sx)
        y1, x1 = min(y0 + 1, image.shape[0] - 1), min(x0 + 1, image.shape[1] - 1)
        fy, fx = sy - y0, sx - x0
        result[y, x] = (image[y0, x0] * (1 - fx) + image[y0, x1] * fx) * (1 - fy) + (
            image[y1, x0] * (1 - fx) + image[y1, x1] * fx
        ) * fy
    return result


@pytest.mark.parametrize("channels", [1, 3, 6, 130])
@pytest.mark.parametrize("size", [(7, 19), (20, 24), (5, 6), (4, 5), (10, 12)])
def test_resize_is_bilinear_with_half_pixel_centres(size: tuple[int, int], channels: int) -> None:
    image = rng_image(10, 12, channels)
    resized = resize_bilinear(image, *size)
    assert resized.shape == (*size, channels) and resized.dtype == np.float32
    np.testing.assert_allclose(resized, loop_bilinear(image, *size), rtol=0, atol=3e-6)


# --- windows ----------------------------------------------------------------------------------------------------

window_cases = st.tuples(
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 12),
).map(lambda v: (v[0], v[1], Size(v[3], v[2]), Size(min(v[5], v[3]), min(v[4], v[2]))))


@settings(max_examples=60, deadline=None)
@given(case=window_cases, batch_size=st.integers(1, 5))
def test_windows_equal_a_literal_loop(case: tuple[int, int, Size, Size], batch_size: int) -> None:
    height, width, crop_size, stride = case
    image = rng_image(height, width)
    total, count = np.zeros((height, width, 3)), np.zeros((height, width, 1))
    rows = 1 if height <= crop_size.height else -(-(height - crop_size.height) // stride.height) + 1
    columns = 1 if width <= crop_size.width else -(-(width - crop_size.width) // stride.width) + 1
    for r, c in itertools.product(range(rows), range(columns)):
        y1, x1 = min(r * stride.height + crop_size.height, height), min(c * stride.width + crop_size.width, width)
        y0, x0 = max(y1 - crop_size.height, 0), max(x1 - crop_size.width, 0)
        total[y0:y1, x0:x1] += lopsided(image[np.newaxis, y0:y1, x0:x1])[0]
        count[y0:y1, x0:x1] += 1
    logits = slid(lopsided, image, crop_size=crop_size, stride=stride, batch_size=batch_size)
    np.testing.assert_allclose(logits, total / count, rtol=1e-6, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(case=window_cases)
def test_constant_logits_stay_constant(case: tuple[int, int, Size, Size]) -> None:
    height, width, crop_size, stride = case
    logits = slid(
        lambda batch: np.full((*batch.shape[:3], 3), 0.375, np.float32),
        rng_image(height, width),
        crop_size=crop_size,
        stride=stride,
    )
    np.testing.assert_array_equal(logits, np.full((height, width, 3), 0.375, np.float32))


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12))
def test_a_window_that_covers_the_image_equals_plain(height: int, width: int) -> None:
    image = rng_image(height, width)
    logits = slid(lopsided, image, crop_size=Size(12, 12), stride=Size(12, 12))
    np.testing.assert_array_equal(logits, logits_of(lopsided, image))


def test_batches_hold_at_most_batch_size_windows_of_one_size() -> None:
    seen = []

    def predict(batch: np.ndarray) -> np.ndarray:
        seen.append(batch.shape)
        return pointwise(batch)

    slid(predict, rng_image(10, 30), crop_size=Size(6, 8), stride=Size(6, 8), batch_size=3)
    assert seen == [(3, 6, 8, 3), (3, 6, 8, 3), (2, 6, 8, 3)], "a batch goes on with the next row of windows"


# --- augmentation -----------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    horizontal=st.booleans(),
    vertical=st.booleans(),
    slide=st.booleans(),
)
def test_flips_do_not_change_an_equivariant_model(
    height: int, width: int, horizontal: bool, vertical: bool, slide: bool
) -> None:
    image = rng_image(height, width)
    windows: dict[str, Any] = {"is_slide": True, "crop_size": Size(5, 4), "stride": Size(2, 3)} if slide else {}
    options = InferenceOptions(flip_horizontal=horizontal, flip_vertical=vertical, **windows)
    np.testing.assert_allclose(logits_of(pointwise, image, options), logits_of(pointwise, image), rtol=1e-5, atol=1e-5)


def test_flips_are_horizontal_vertical_and_both() -> None:
    image = rng_image(5, 7)

    def view(h: bool, v: bool) -> np.ndarray:
        turned = image[:: -1 if v else 1, :: -1 if h else 1]
        return logits_of(lopsided, turned)[:: -1 if v else 1, :: -1 if h else 1]

    for h, v in itertools.product((False, True), repeat=2):
        views = [view(i, j) for i in ({False, h}) for j in ({False, v})]
        logits = logits_of(lopsided, image, InferenceOptions(flip_horizontal=h, flip_vertical=v))
        np.testing.assert_allclose(logits, np.mean(views, axis=0), atol=1e-5)


def test_rotations_are_those_of_numpy_and_none_is_taken_twice() -> None:
    image = rng_image(5, 7)
    turned = [np.rot90(logits_of(lopsided, np.rot90(image, k)), -k) for k in range(4)]
    logits = logits_of(lopsided, image, InferenceOptions(rotate90=True))
    np.testing.assert_allclose(logits, np.mean(turned, axis=0), atol=1e-6)
    for horizontal, vertical, count in ((False, False, 4), (True, False, 8), (True, True, 8)):
        views = InferenceOptions(rotate90=True, flip_horizontal=horizontal, flip_vertical=vertical).views
        assert len(views) == len(set(views)) == count and views[0] == (False, False, False)


def test_scales_are_rounded_half_up_and_slid_by_window() -> None:
    sizes = []

    def predict(batch: np.ndarray) -> np.ndarray:
        sizes.append(batch.shape[1:3])
        return pointwise(batch)

    image = rng_image(5, 7)
    augmented_logits(predict, image[np.newaxis], InferenceOptions(scales=(0.5, 1.5)))
    assert sizes == [(3, 4), (8, 11)]
    sizes.clear()
    options = InferenceOptions(scales=(2.0,), is_slide=True, crop_size=Size(5, 14), stride=Size(5, 14))
    assert logits_of(predict, image, options).shape == (5, 7, 3)
    assert sizes == [(5, 14), (5, 14)]


def test_a_model_that_reuses_its_buffer_is_safe() -> None:
    buffer = np.empty((1, 4, 4, 3), np.float32)

    def predict(batch: np.ndarray) -> np.ndarray:
        np.copyto(buffer, lopsided(batch))
        return buffer

    images, options = rng_image(4, 4)[np.newaxis], InferenceOptions(flip_horizontal=True)
    np.testing.assert_allclose(
        augmented_logits(predict, images, options),
        augmented_logits(lopsided, images, options),
        atol=1e-6,
    )


# --- labels -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(),
        InferenceOptions(is_slide=True, crop_size=Size(7, 9), stride=Size(4, 5), batch_size=2),
        InferenceOptions(is_slide=True, crop_size=Size(7, 9), stride=Size(4, 5), flip_vertical=True),
        InferenceOptions(scales=(0.5, 1.0)),
    ],
    ids=str,
)
def test_labels_are_the_argmax_of_the_logits(options: InferenceOptions) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (23, 31, 3), dtype=np.uint8)
    expected = logits_of(lopsided, pixels.astype(np.float32), options).argmax(axis=-1)
    labels = predict_labels(lopsided, pixels, SPEC, options)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


def test_bytes_are_resized_without_rounding() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    resized = resize_bilinear(pixels, 9, 8)
    assert resized.dtype == np.float32 and (resized != np.rint(resized)).any()
    np.testing.assert_array_equal(resized, resize_bilinear(pixels.astype(np.float32), 9, 8))


def test_errors_name_both_sides() -> None:
    with pytest.raises(DataError, match=r"'toy' needs 3 bands; the image has 4"):
        predict_labels(pointwise, np.zeros((4, 4, 4), np.uint8), SPEC, InferenceOptions())
    with pytest.raises(DataError, match="gives 2 classes, data set 'toy' has 3"):
        predict_labels(lambda b: b[..., :2], np.zeros((4, 4, 3), np.uint8), SPEC, InferenceOptions())
    with pytest.raises(DataError, match=r"must answer a batch of \(1, 4, 4, 3\)"):
        logits_of(lambda b: b[:, ::2, ::2], rng_image(4, 4))
    with pytest.raises(DataError, match=r"\(height, width, bands\)"):
        logits_of(pointwise, np.zeros((4, 4), np.float32))
    with pytest.raises(DataError, match="vanish"):
        logits_of(pointwise, rng_image(2, 2), InferenceOptions(scales=(0.1,)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": ()}, "one or more"),
        ({"scales": (1.0, 0.0)}, "above 0"),
        ({"scales": (float("nan"),)}, "above 0"),
        ({"batch_size": 0}, "at least 1; got 0"),
        ({"is_slide": True, "crop_size": Size(8, 8)}, "needs crop_size and stride"),
        ({"crop_size": Size(8, 8), "stride": Size(8, 8)}, "with is_slide only"),
        ({"is_slide": True, "crop_size": Size(4, 8), "stride": Size(5, 8)}, "at most crop_size"),
        ({"is_slide": True, "crop_size": Size(8, 4), "stride": Size(8, 5)}, "at most crop_size"),
        ({"is_slide": True, "crop_size": Size(0, 8), "stride": Size(0, 8)}, "two whole numbers above 0"),
        ({"is_slide": True, "crop_size": (8, 8), "stride": (8, 8)}, r"must be a Size\(height, width\); got \(8, 8\)"),
    ],
)
def test_options_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InferenceOptions(**values)
