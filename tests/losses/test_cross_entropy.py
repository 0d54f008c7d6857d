from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.errors import ConfigError
from rsseg_tf.losses import cross_entropy
from tests.fixtures.golden import GOLDEN

# Those of the golden run; class 3 does not occur there.
_WEIGHTS = (1.0, 2.0, 0.5, 1.0, 3.0, 1.0)


def _literal(
    logits: np.ndarray, labels: np.ndarray, ignore_index: int, class_weights: tuple[float, ...] | None
) -> float:
    """The definition, pixel by pixel."""
    total, weight_of_all = 0.0, 0.0
    for scores, label in zip(logits.reshape(-1, logits.shape[-1]).astype("float64"), labels.ravel(), strict=True):
        if label == ignore_index:
            continue
        weight = 1.0 if class_weights is None else class_weights[label]
        total += weight * (np.log(np.exp(scores).sum()) - scores[label])
        weight_of_all += weight
    return (total / labels.size) / (weight_of_all / labels.size + 1e-8)


def _batch(ignore_index: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, (2, 5, 7)).astype("int32")
    labels[rng.random(labels.shape) < 0.3] = ignore_index
    return rng.normal(0, 3, (2, 5, 7, 6)).astype("float32"), labels


@pytest.mark.parametrize("class_weights", [None, _WEIGHTS])
@pytest.mark.parametrize("ignore_index", [255, 0, 5, -1])
def test_equals_definition(ignore_index: int, class_weights: tuple[float, ...] | None) -> None:
    logits, labels = _batch(ignore_index)
    loss = cross_entropy(logits, labels, ignore_index=ignore_index, class_weights=class_weights)
    assert keras.backend.standardize_dtype(loss.dtype) == "float32" and loss.shape == ()
    assert float(loss) == pytest.approx(_literal(logits, labels, ignore_index, class_weights), rel=1e-5)


@pytest.mark.parity
@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden files are not beside the checkout (shared/golden)")
@pytest.mark.parametrize(("stored", "class_weights"), [("loss_ce", None), ("loss_ce_weight", _WEIGHTS)])
def test_equals_original(stored: str, class_weights: tuple[float, ...] | None) -> None:
    expected = json.loads((GOLDEN / "pieces.json").read_text())[stored]
    with np.load(GOLDEN / "pieces.npz") as file:
        logits = tf.constant(file["loss_logits"].transpose(0, 2, 3, 1))
        labels, stored_gradient = file["loss_label"], file["grad_ce"]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = cross_entropy(logits, labels, ignore_index=255, class_weights=class_weights)
    gradient = tape.gradient(loss, logits).numpy().transpose(0, 3, 1, 2)
    assert float(loss) == pytest.approx(expected["value"], rel=1e-6)
    assert np.abs(gradient).mean() == pytest.approx(expected["grad"]["absmean"], rel=1e-5)
    assert gradient.std() == pytest.approx(expected["grad"]["std"], rel=1e-5)
    np.testing.assert_allclose(gradient.ravel()[:4], expected["grad"]["first"], rtol=1e-4)
    if class_weights is None:
        np.testing.assert_allclose(gradient, stored_gradient, atol=1e-9)


@pytest.mark.parametrize("class_weights", [None, _WEIGHTS])
def test_no_label_gives_zero_and_zero_gradients(class_weights: tuple[float, ...] | None) -> None:
    logits = tf.constant(_batch(255)[0])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = cross_entropy(logits, np.full((2, 5, 7), 255, "int32"), ignore_index=255, class_weights=class_weights)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, logits).numpy(), 0.0)


def test_ignored_pixels_get_no_gradient() -> None:
    values, labels = _batch(255)
    logits = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = cross_entropy(logits, labels, ignore_index=255)
    gradient = tape.gradient(loss, logits).numpy()
    np.testing.assert_array_equal(gradient[labels == 255], 0.0)
    assert (np.abs(gradient[labels != 255]).max(-1) > 0).all()


@pytest.mark.parametrize("class_weights", [None, _WEIGHTS])
def test_mean_over_replicas_is_the_loss_of_the_batch(class_weights: tuple[float, ...] | None) -> None:
    """Two replicas with very different numbers of labels, and a mean that sees both."""
    logits, labels = _batch(255)
    labels[0] = 255
    labels[0, 0, 0] = 2
    weights: list[tf.Tensor] = []
    for part in range(2):
        cross_entropy(
            logits[part : part + 1],
            labels[part : part + 1],
            ignore_index=255,
            class_weights=class_weights,
            mean=lambda values: (weights.append(values), tf.reduce_mean(values))[1],
        )
    assert [value.shape for value in weights] == [(1, 5, 7)] * 2
    over_all = tf.reduce_mean(tf.stack(weights))
    losses = [
        cross_entropy(
            logits[part : part + 1],
            labels[part : part + 1],
            ignore_index=255,
            class_weights=class_weights,
            mean=lambda _: over_all,
        )
        for part in range(2)
    ]
    whole = cross_entropy(logits, labels, ignore_index=255, class_weights=class_weights)
    assert float(sum(losses)) / 2 == pytest.approx(float(whole), rel=1e-6)


def test_half_precision_logits_are_computed_in_float32() -> None:
    logits, labels = _batch(255)
    half = tf.cast(logits, tf.bfloat16)
    loss = cross_entropy(half, labels, ignore_index=255)
    assert float(loss) == pytest.approx(_literal(tf.cast(half, tf.float32).numpy(), labels, 255, None), rel=1e-5)


def test_wrong_number_of_weights() -> None:
    logits, labels = _batch(255)
    with pytest.raises(ConfigError, match="one value for each of 6 classes; got 2"):
        cross_entropy(logits, labels, ignore_index=255, class_weights=(1.0, 2.0))
