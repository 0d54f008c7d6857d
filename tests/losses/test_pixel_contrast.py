"""Pixel contrast against its definition in loops, and against the original."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.losses import pixel_contrast
from tests.fixtures.golden import GOLDEN, needs_golden
from tests.parity.cases import pixel_contrast_in_order


def _batch(size: int = 16, classes: int = 3, factor: int = 1) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(2, size, size, 5)).astype("float32")
    embedding /= np.linalg.norm(embedding, axis=-1, keepdims=True)
    labels = rng.integers(0, classes, (2, size * factor, size * factor))
    labels[rng.random(labels.shape) < 0.2] = 255
    return {"logits": rng.normal(size=(2, size, size, classes)).astype("float32"), "embedding": embedding}, labels


def _definition(outputs: dict[str, np.ndarray], labels: np.ndarray, max_samples: int, max_views: int) -> float:
    """As the original, pixel by pixel, taking the first pixels of each kind."""
    predicted = outputs["logits"].argmax(-1).reshape(len(labels), -1)
    truth = labels.reshape(len(labels), -1)
    features = outputs["embedding"].reshape(len(labels), truth.shape[1], -1).astype(np.float64)
    pairs = [
        (i, c) for i in range(len(truth)) for c in np.unique(truth[i]) if c != 255 and (truth[i] == c).sum() > max_views
    ]
    views = min(max_samples // len(pairs), max_views)
    anchors, classes = [], []
    for i, c in pairs:
        hard = np.flatnonzero((truth[i] == c) & (predicted[i] != c))
        easy = np.flatnonzero((truth[i] == c) & (predicted[i] == c))
        if min(len(hard), len(easy)) >= views / 2:
            keep_hard = views // 2
        else:
            keep_hard = views - len(easy) if len(hard) >= views / 2 else len(hard)
        chosen = [*hard[:keep_hard], *easy[: views - keep_hard]]
        assert len(chosen) == views
        anchors += [features[i, pixel] for pixel in chosen]
        classes += [c] * views
    losses = []
    for a, anchor in enumerate(anchors):
        logits = np.array([anchor @ other for other in anchors]) / 0.1
        negatives = sum(np.exp(logits[b]) for b in range(len(anchors)) if classes[b] != classes[a])
        positives = [b for b in range(len(anchors)) if classes[b] == classes[a] and b != a]
        losses.append(-np.mean([logits[b] - np.log(np.exp(logits[b]) + negatives) for b in positives]))
    return float(0.1 / 0.07 * np.mean(losses))


@pytest.mark.parametrize(("max_samples", "max_views"), [(1024, 20), (60, 20), (45, 9), (31, 30), (500, 70)])
def test_equals_definition(max_samples: int, max_views: int) -> None:
    outputs, labels = _batch()
    outputs["logits"][0, ..., 1] += 9.0  # all of class 1 right, all else wrong: only one kind to choose from
    loss = pixel_contrast_in_order(outputs, labels, max_samples=max_samples, max_views=max_views)
    assert float(loss) == pytest.approx(_definition(outputs, labels, max_samples, max_views), rel=1e-4)


@needs_golden
@pytest.mark.parity
@pytest.mark.parametrize(("max_samples", "max_views"), [(1024, 100), (256, 50), (64, 100)])
def test_equals_original(max_samples: int, max_views: int) -> None:
    expected = json.loads((GOLDEN / "pieces.json").read_text())[f"pixel_contrast_{max_samples}_{max_views}"]
    with np.load(GOLDEN / "pieces.npz") as file:
        logits, embedding = (file[name].transpose(0, 2, 3, 1) for name in ("pc_seg", "pc_emb"))
        labels = file["pc_label"]
    embedding = tf.constant(embedding)
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        outputs = {"logits": logits, "embedding": tf.math.l2_normalize(embedding, axis=-1)}
        loss = pixel_contrast_in_order(outputs, labels, max_samples=max_samples, max_views=max_views)
    gradient = tape.gradient(loss, embedding).numpy().transpose(0, 3, 1, 2)
    assert float(loss) == pytest.approx(expected["value"], rel=1e-5)
    assert np.abs(gradient).mean() == pytest.approx(expected["grad"]["absmean"], rel=1e-3)
    assert gradient.std() == pytest.approx(expected["grad"]["std"], rel=1e-3)


def test_pixels_follow_from_the_seed_and_differ_between_seeds() -> None:
    outputs, labels = _batch()
    options: dict[str, Any] = {"ignore_index": 255, "max_samples": 60, "max_views": 20}
    losses = [float(pixel_contrast(outputs, labels, seed=seed, **options)) for seed in (1, 1, 2, 3)]
    assert losses[0] == losses[1] and len(set(losses)) == 3
    of_tensor = tf.function(lambda seed: pixel_contrast(outputs, labels, seed=seed, **options))
    assert float(of_tensor(tf.constant(2))) == pytest.approx(losses[2], rel=1e-5)


def test_every_pixel_is_drawn_about_equally_often() -> None:
    from rsseg_tf.losses.pixel_contrast import _shuffled

    first = [np.asarray(_shuffled(2, 8, seed))[:, 0] for seed in range(800)]
    for image in range(2):
        counts = np.bincount([pixels[image] for pixels in first], minlength=8)
        assert counts.min() > 60 and counts.max() < 140, counts
    assert np.asarray(_shuffled(1, 8, 5)).tolist() != [list(range(8))]


@pytest.mark.parametrize("labels", ["ignored", "rare"])
def test_without_a_class_of_enough_pixels_loss_and_gradients_are_zero(labels: str) -> None:
    outputs, truth = _batch()
    truth = np.full_like(truth, 255) if labels == "ignored" else truth
    embedding = tf.constant(outputs["embedding"])
    with tf.GradientTape() as tape:
        tape.watch(embedding)
        loss = pixel_contrast(
            {"logits": outputs["logits"], "embedding": embedding}, truth, ignore_index=255, max_views=200
        )
    assert float(loss) == 0.0
    np.testing.assert_array_equal(tape.gradient(loss, embedding), np.zeros(embedding.shape))


def test_labels_are_taken_at_the_upper_left_of_their_cells() -> None:
    outputs, labels = _batch(factor=4)
    full = pixel_contrast_in_order(outputs, labels, max_views=20)
    assert float(full) == pytest.approx(float(pixel_contrast_in_order(outputs, labels[:, ::4, ::4], max_views=20)))


def test_sizes_may_be_unknown_in_a_graph() -> None:
    outputs, labels = _batch()
    call = tf.function(
        lambda logits, embedding, truth: pixel_contrast(
            {"logits": logits, "embedding": embedding}, truth, ignore_index=255, max_views=20, seed=4
        ),
        input_signature=[
            tf.TensorSpec((None, None, None, 3), tf.float32),
            tf.TensorSpec((None, None, None, 5), tf.float32),
            tf.TensorSpec((None, None, None), tf.int32),
        ],
    )
    expected = pixel_contrast(outputs, labels, ignore_index=255, max_views=20, seed=4)
    actual = call(outputs["logits"], outputs["embedding"], labels.astype("int32"))
    assert float(actual) == pytest.approx(float(expected), rel=1e-5)
