"""OHEM, Dice, focal and Lovász-softmax against their definitions, written out in NumPy."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.errors import ConfigError
from rsseg_tf.losses import cross_entropy, dice, focal, lovasz_softmax, ohem_cross_entropy
from tests.fixtures.golden import GOLDEN, needs_golden

CLASSES = 4
LOSSES: dict[str, Callable[..., Any]] = {
    "ohem": partial(ohem_cross_entropy, min_kept=20),
    "dice": dice,
    "dice_weights": partial(dice, class_weights=(1.0, 0.0, 2.0, 0.5), smooth=0.5),
    "focal": focal,
    "focal_root": partial(focal, alpha=0.25, gamma=0.5),
    "lovasz": lovasz_softmax,
}


def _batch(ignore_index: int = 255) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES - 1, (2, 6, 7)).astype("int32")  # the last class does not occur
    labels[rng.random(labels.shape) < 0.3] = ignore_index
    return rng.normal(0, 2, (2, 6, 7, CLASSES)).astype("float32"), labels


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponent = np.exp(logits.astype(np.float64))
    return exponent / exponent.sum(-1, keepdims=True)


def _true_probability(logits: np.ndarray, labels: np.ndarray, ignore_index: int) -> np.ndarray:
    """Of the pixels that count, in order."""
    counted = labels != ignore_index
    return _softmax(logits)[counted][np.arange(counted.sum()), labels[counted]]


# === Definitions ===


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 5), (0.1, 20), (0.7, 1000), (0.99, 1), (0.001, 1)])
@pytest.mark.parametrize("ignore_index", [255, 0])
def test_ohem_equals_definition(threshold: float, min_kept: int, ignore_index: int) -> None:
    logits, labels = _batch(ignore_index)
    p = _true_probability(logits, labels, ignore_index)
    limit = max(threshold, np.sort(p)[min_kept - 1]) if min_kept < len(p) else np.inf
    kept = p[p < limit]
    expected = (-np.log(kept)).sum() / labels.size / (len(kept) / labels.size + 1e-5)
    loss = ohem_cross_entropy(logits, labels, ignore_index=ignore_index, threshold=threshold, min_kept=min_kept)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_ohem_of_few_pixels_is_the_cross_entropy() -> None:
    logits, labels = _batch()
    assert float(ohem_cross_entropy(logits, labels, ignore_index=255)) == pytest.approx(
        float(cross_entropy(logits, labels, ignore_index=255)), rel=1e-4
    )


@pytest.mark.parametrize("class_weights", [None, (1.0, 2.0, 0.5, 3.0)])
@pytest.mark.parametrize("ignore_index", [255, 1])
def test_dice_equals_definition(class_weights: tuple[float, ...] | None, ignore_index: int) -> None:
    logits, labels = _batch(ignore_index)
    total = 0.0
    for image, truth in zip(_softmax(logits), labels, strict=True):
        counted = truth != ignore_index
        for c in range(CLASSES):
            p, y = image[counted][:, c], (truth[counted] == c).astype(float)
            loss = 1 - (2 * (p * y).sum() + 0.7) / (p.sum() + y.sum() + 0.7)
            total += loss * (class_weights[c] if class_weights else 1.0)
    loss = dice(logits, labels, ignore_index=ignore_index, class_weights=class_weights, smooth=0.7)
    assert float(loss) == pytest.approx(total / len(labels) / CLASSES, rel=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 2.0), (0.25, 0.5), (1.0, 0.0)])
def test_focal_equals_definition(alpha: float, gamma: float) -> None:
    logits, labels = _batch()
    p = _true_probability(logits, labels, 255)
    expected = (alpha * (1 - p) ** gamma * -np.log(p)).mean()
    assert float(focal(logits, labels, ignore_index=255, alpha=alpha, gamma=gamma)) == pytest.approx(expected, rel=1e-5)


def _lovasz(logits: np.ndarray, labels: np.ndarray, ignore_index: int) -> float:
    """The extension as a sum over rising sets of pixels: each error times what its pixel adds to 1 - IoU."""
    counted = labels != ignore_index
    losses = []
    for c in np.unique(labels[counted]):
        truth = labels[counted] == c
        errors = np.abs(truth - _softmax(logits)[counted][:, c])
        wrong, before, loss = np.zeros(len(truth), bool), 0.0, 0.0
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            predicted = truth ^ wrong
            after = 1 - (predicted & truth).sum() / max((predicted | truth).sum(), 1)
            loss += errors[pixel] * (after - before)
            before = after
        losses.append(loss)
    return float(np.mean(losses))


@pytest.mark.parametrize("ignore_index", [255, 0, 2])
def test_lovasz_equals_definition(ignore_index: int) -> None:
    logits, labels = _batch(ignore_index)
    assert float(lovasz_softmax(logits, labels, ignore_index=ignore_index)) == pytest.approx(
        _lovasz(logits, labels, ignore_index), rel=1e-5
    )


def test_lovasz_of_a_perfect_prediction_is_zero_and_of_a_wrong_one_is_one() -> None:
    labels = np.array([[[0, 1, 1, 255]]])
    right = 50.0 * np.eye(2, dtype=np.float32)[np.array([[[0, 1, 1, 0]]])]
    assert float(lovasz_softmax(right, labels, ignore_index=255)) == pytest.approx(0.0, abs=1e-6)
    assert float(lovasz_softmax(-right, labels, ignore_index=255)) == pytest.approx(1.0, abs=1e-6)


# === The original ===


@needs_golden
@pytest.mark.parity
def test_lovasz_equals_original() -> None:
    expected = json.loads((GOLDEN / "pieces.json").read_text())["loss_lovasz"]
    with np.load(GOLDEN / "pieces.npz") as file:
        logits = tf.constant(file["loss_logits"].transpose(0, 2, 3, 1))
        labels, stored_gradient = file["loss_label"], file["grad_lovasz"]
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = lovasz_softmax(logits, labels, ignore_index=255)
    assert float(loss) == pytest.approx(expected["value"], rel=1e-6)
    gradient = tape.gradient(loss, logits).numpy().transpose(0, 3, 1, 2)
    np.testing.assert_allclose(gradient, stored_gradient, atol=1e-8)


# === What all of them promise ===


@pytest.mark.parametrize("name", LOSSES)
def test_without_labels_loss_and_gradients_are_zero(name: str) -> None:
    logits = tf.constant(_batch()[0])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = LOSSES[name](logits, np.full((2, 6, 7), 255, "uint8"), ignore_index=255)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(tape.gradient(loss, logits), np.zeros((2, 6, 7, CLASSES)))


@pytest.mark.parametrize("scale", [1.0, 200.0])
@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_have_no_part_and_gradients_are_finite(name: str, scale: float) -> None:
    values, labels = _batch()
    logits = tf.constant(values * scale)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = LOSSES[name](logits, labels, ignore_index=255)
    gradient = tape.gradient(loss, logits).numpy()
    assert loss.dtype == tf.float32 and loss.shape == () and np.isfinite(loss)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0
    assert (gradient[labels == 255] == 0).all()
    changed = np.where((labels == 255)[..., None], 9.0, values * scale).astype("float32")
    assert float(LOSSES[name](changed, labels, ignore_index=255)) == pytest.approx(float(loss), rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_sizes_may_be_unknown_in_a_graph_and_logits_of_half_precision(name: str) -> None:
    logits, labels = _batch()
    call = tf.function(
        lambda x, y: LOSSES[name](x, y, ignore_index=255),
        input_signature=[
            tf.TensorSpec((None, None, None, CLASSES), tf.bfloat16),
            tf.TensorSpec((None, None, None), tf.uint8),
        ],
    )
    half = tf.cast(logits, tf.bfloat16)
    expected = LOSSES[name](tf.cast(half, tf.float32), labels, ignore_index=255)
    assert float(call(half, labels.astype("uint8"))) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["ohem", "focal"])
def test_the_mean_over_replicas_is_the_loss_of_the_whole_batch(name: str) -> None:
    """Where pixels are not chosen among others; `min_kept` above the pixels makes OHEM keep all."""
    loss = partial(ohem_cross_entropy, min_kept=1000) if name == "ohem" else focal
    logits, labels = _batch()
    labels[0, :3] = 255  # different numbers of labels
    share = float(np.mean(labels != 255))
    halves = [
        float(loss(logits[i : i + 1], labels[i : i + 1], ignore_index=255, mean=lambda _: share)) for i in range(2)
    ]
    assert np.mean(halves) == pytest.approx(float(loss(logits, labels, ignore_index=255)), rel=1e-5)


def test_weights_of_another_number_of_classes_are_refused() -> None:
    logits, labels = _batch()
    with pytest.raises(ConfigError, match="one value for each of 4 classes; got 2"):
        dice(logits, labels, ignore_index=255, class_weights=(1.0, 2.0))
