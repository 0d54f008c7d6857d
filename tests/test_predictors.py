from __future__ import annotations

import keras
import numpy as np
import pytest

from rsseg_tf.datasets import custom_spec
from rsseg_tf.predictors import keras_predictor, normalise

TWO = custom_spec("two", ("a", "b"), bands=2, max_value=1000.0, mean=(0.1, 0.5), std=(0.2, 0.25))


def test_normalise_is_scale_mean_std_by_band() -> None:
    pixels = np.array([[[100, 1000], [300, 0]]], np.uint16)
    result = normalise(pixels, TWO)
    assert result.dtype == "float32"
    np.testing.assert_allclose(result, [[[0.0, 2.0], [1.0, -2.0]]], atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32", "float64"])
def test_the_model_of_a_predictor_sees_normalised_pixels(dtype: str) -> None:
    inputs = keras.Input((None, None, 2))
    predict = keras_predictor(keras.Model(inputs, {"main": keras.layers.Identity()(inputs)}), TWO)
    pixels = np.random.default_rng(0).integers(0, 1000, (2, 5, 7, 2)).astype(dtype)
    logits = predict(pixels)
    assert logits.dtype == np.float32
    expected = (pixels / 1000 - TWO.mean) / TWO.std
    np.testing.assert_allclose(logits, expected, atol=1e-5)
