from __future__ import annotations

import numpy as np
import pytest

from rsseg_tf.predict import InferenceOptions, any_size, predict_logits, tile_options, tile_stride

TILE = (8, 12)


def strict(batch: np.ndarray) -> np.ndarray:
    """A model of one size; its logits are the pixels, in float32."""
    assert batch.shape[1:3] == TILE, batch.shape
    return batch.astype(np.float32)


def image(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [TILE, (1, 1), (3, 5), (8, 30), (30, 3), (8, 13), (25, 41)], ids=str)
def test_images_of_any_size_are_predicted(size: tuple[int, int]) -> None:
    pixels = image(*size)
    logits = any_size(strict, TILE)(pixels)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, pixels)


def test_small_images_are_reflected() -> None:
    seen: list[np.ndarray] = []

    def keep(batch: np.ndarray) -> np.ndarray:
        seen.append(batch)
        return strict(batch)

    pixels = image(6, 12)
    any_size(keep, TILE)(pixels)
    np.testing.assert_array_equal(seen[0], np.pad(pixels, ((0, 0), (0, 2), (0, 0), (0, 0)), mode="reflect"))


def test_windows_of_the_tile_are_the_default_for_scenes() -> None:
    assert tile_options(InferenceOptions(), None) == InferenceOptions()
    options = tile_options(InferenceOptions(flip_vertical=True), TILE)
    assert options == InferenceOptions(flip_vertical=True, is_slide=True, crop_size=(12, 8), stride=(9, 6))
    asked = InferenceOptions(is_slide=True, crop_size=(5, 5), stride=(5, 5))
    assert tile_options(asked, TILE) == asked
    assert tile_stride((1, 1)) == (1, 1)


@pytest.mark.parametrize(
    "options",
    [
        InferenceOptions(is_slide=True, crop_size=(5, 20), stride=(5, 20)),
        InferenceOptions(scales=(0.5, 1.5), flip_horizontal=True),
    ],
    ids=["windows of another size", "scales"],
)
def test_it_goes_with_all_other_options(options: InferenceOptions) -> None:
    pixels = image(25, 30)[0]
    free = predict_logits(lambda batch: batch.astype(np.float32), pixels, options)
    np.testing.assert_allclose(predict_logits(any_size(strict, TILE), pixels, options), free, atol=1e-3)
