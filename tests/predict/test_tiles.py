from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rsseg_tf.datasets.spec import custom_spec
from rsseg_tf.predict import InferenceOptions, any_size, predict_logits, usual_stride
from rsseg_tf.predict.engine import make_tiling
from rsseg_tf.rasters.windows import Size

SPEC = custom_spec("toy", ("a", "b", "c"))
TILE = Size(8, 12)


def strict(batch: np.ndarray) -> np.ndarray:
    """A model of one size; its logits are the pixels, in float32."""
    assert batch.shape[1:3] == TILE, batch.shape
    return batch.astype(np.float32)


def image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [TILE, (1, 1), (3, 5), (8, 30), (30, 3), (8, 13), (25, 41)], ids=str)
def test_images_of_any_size_are_predicted(size: tuple[int, int]) -> None:
    pixels = image(*size)
    logits = any_size(strict, TILE, 3)(pixels)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, pixels)


def test_small_images_are_reflected() -> None:
    seen: list[np.ndarray] = []

    def keep(batch: np.ndarray) -> np.ndarray:
        seen.append(batch)
        return strict(batch)

    pixels = image(6, 12)
    any_size(keep, TILE, 3)(pixels)
    np.testing.assert_array_equal(seen[0], np.pad(pixels, ((0, 0), (0, 2), (0, 0), (0, 0)), mode="reflect"))


def test_windows_of_the_tile_are_the_default_for_files_of_one_size() -> None:
    options = InferenceOptions(tile=Size(8, 12), fixed_tile=True)
    tiling = make_tiling(Size(20, 30), options)
    assert tiling.window == TILE and tiling.inner is None and tiling.summary == "12x8 cosine"
    assert tiling.plan.columns.starts == (0, 9, 18)
    asked = InferenceOptions(tile=Size(8, 12), fixed_tile=True, is_slide=True, crop_size=Size(5, 5), stride=Size(5, 5))
    assert make_tiling(Size(20, 30), asked).summary == "5x5 mean"
    assert options.with_blend("mean") == InferenceOptions(
        tile=Size(8, 12), fixed_tile=True, is_slide=True, crop_size=Size(8, 12), stride=Size(6, 9)
    )
    assert usual_stride(Size(1, 1)) == Size(1, 1)


@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(is_slide=True, crop_size=Size(20, 5), stride=Size(20, 5)),
        InferenceOptions(scales=(0.5, 1.5), flip_horizontal=True),
        InferenceOptions(scales=(0.5, 1.5), flip_horizontal=True, tile=Size(8, 12), fixed_tile=True),
    ],
    ids=["windows of another size", "scales", "scales and windows of the tile"],
)
def test_it_goes_with_all_other_options(options: InferenceOptions) -> None:
    pixels = image(25, 30)[0]
    free = dataclasses.replace(options, fixed_tile=False)
    expected = predict_logits(lambda batch: batch.astype(np.float32), pixels, SPEC, free)
    found = predict_logits(any_size(strict, TILE, 3), pixels, SPEC, options)
    np.testing.assert_allclose(found, expected, atol=1e-3)
