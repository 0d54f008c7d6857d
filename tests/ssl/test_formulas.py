"""Losses, matching, assignments and schedules: reference numbers, and formulas written out in float64."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from rsseg_tf.ssl.contrast import contrast, info_nce
from rsseg_tf.ssl.densecl import dense_contrast, match_cells
from rsseg_tf.ssl.heads import l2_normalise
from rsseg_tf.ssl.moco_byol import byol_loss
from rsseg_tf.ssl.momentum import cosine_rate
from rsseg_tf.ssl.monitors import alignment, queue_values, spread, usage
from rsseg_tf.ssl.pixpro import cell_centres, pixel_consistency, positive_pairs, propagate
from rsseg_tf.ssl.simsiam import negative_cosine
from rsseg_tf.ssl.swav import sinkhorn, swapped_prediction

TOLERANCE: dict[str, Any] = {"rel": 1e-6, "abs": 1e-6}


def sine(shape: tuple[int, ...], a: float) -> np.ndarray:
    """The made-up values that the reference numbers belong to: sin(a * n + a / 10), C order."""
    return np.sin(a * np.arange(math.prod(shape)) + 0.1 * a).reshape(shape)


def unit(x: np.ndarray, axis: int = 1) -> np.ndarray:
    return x / np.linalg.norm(x, axis=axis, keepdims=True)


def cells(x: np.ndarray) -> np.ndarray:
    """(B, C, ...) to (B, S, C)."""
    return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)


def both(x: np.ndarray) -> list[np.ndarray]:
    return [x, x.astype(np.float32)]


def affine_of(box: list[float]) -> np.ndarray:
    """PixPro's coordinates (left, top, right, bottom) as an affine."""
    x0, y0, x1, y1 = box
    return np.array([[x1 - x0, 0, x0], [0, y1 - y0, y0]])


# === Reference numbers ===


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_info_nce(dtype: str) -> None:
    query, key, queue = (
        unit(sine(shape, a)).astype(dtype) for shape, a in (((4, 8), 0.7), ((4, 8), 1.3), ((16, 8), 2.1))
    )
    loss = info_nce(*map(ops.convert_to_tensor, (query, key, queue)), temperature=0.2)
    assert float(loss) == pytest.approx(3.0171452379, **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dense_contrast(dtype: str) -> None:
    features = [cells(unit(sine((2, 6, 9), a))).astype(dtype) for a in (2.9, 0.8)]
    match = match_cells(*map(ops.convert_to_tensor, features))
    np.testing.assert_array_equal(match[0], [8, 4, 0, 3, 7, 3, 6, 2, 6])
    query, key = (ops.convert_to_tensor(cells(unit(sine((2, 4, 9), a))).astype(dtype)) for a in (0.9, 1.1))
    queue = unit(sine((4, 16), 1.7), axis=0).T.astype(dtype)
    loss = dense_contrast(query, key, match, ops.convert_to_tensor(queue), temperature=0.2)
    assert float(loss) == pytest.approx(6.0246137794, **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_pixel_consistency(dtype: str) -> None:
    query, key = (cells(unit(sine((2, 8, 7, 7), a))).astype(dtype) for a in (0.37, 0.53))
    one, other = (
        ops.convert_to_tensor(np.stack([affine_of(box) for box in boxes]).astype(dtype))
        for boxes in ([[0, 0, 0.6, 0.5], [0.3, 0.2, 1, 0.9]], [[0.2, 0.1, 0.8, 0.7], [0.9, 0.1, 0.2, 0.8]])
    )
    positive = positive_pairs(one, other, 7, 7, radius=0.7)
    np.testing.assert_array_equal(ops.sum(positive, axis=(1, 2)), [83, 36])
    loss = pixel_consistency(ops.convert_to_tensor(query), ops.convert_to_tensor(key), positive)
    assert float(loss) == pytest.approx(0.3877692710, **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_propagation(dtype: str) -> None:
    x = ops.convert_to_tensor(cells(sine((1, 8, 7, 7), 0.37)).astype(dtype))
    y = ops.convert_to_numpy(propagate(x, x))
    assert y.sum() == pytest.approx(1.7226289087, rel=1e-5)  # a sum of 392 values of both signs
    assert y[0, 0, 0] == pytest.approx(0.3156534996, **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cosine_losses(dtype: str) -> None:
    one, other = (ops.convert_to_tensor(sine((4, 8), a).astype(dtype)) for a in (0.7, 1.3))
    assert float(negative_cosine(one, other)) == pytest.approx(0.0018718842, **TOLERANCE)
    assert float(byol_loss(one, other)) == pytest.approx(2.0037437684, **TOLERANCE)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_swapped_prediction(dtype: str) -> None:
    z, prototypes = unit(sine((6, 8), 0.7)), unit(sine((5, 8), 1.9))
    scores = (z @ prototypes.T).astype(dtype)
    by_view = [ops.convert_to_tensor(scores[:3]), ops.convert_to_tensor(scores[3:])]
    assignments = [sinkhorn(view) for view in by_view]
    np.testing.assert_allclose(assignments[0][0], [0.508283, 0.017604, 0.177710, 0.280154, 0.016249], atol=1e-6, rtol=0)
    loss = swapped_prediction(by_view, assignments, temperature=0.1)
    assert float(loss) == pytest.approx(3.0029299890, **TOLERANCE)


def test_the_momentum_rises_along_a_cosine() -> None:
    assert 1 - float(cosine_rate(25, 100, 0.99)) == pytest.approx(0.9914644661, abs=2e-9)
    for step in (0, 1, 50, 99, 100):
        expected = 0.01 * (math.cos(math.pi * step / 100) + 1) / 2
        assert float(cosine_rate(step, 100, 0.99)) == pytest.approx(expected, rel=1e-6, abs=1e-12)


# === Written out ===


def test_info_nce_equals_its_formula_on_random_vectors() -> None:
    rng = np.random.default_rng(3)
    query, key, queue = (unit(rng.normal(size=shape)) for shape in ((6, 5), (6, 5), (12, 5)))
    expected = 0.0
    for q, k in zip(query, key, strict=True):
        logits = np.array([q @ k, *(queue @ q)]) / 0.07
        expected -= math.log(math.exp(logits[0]) / np.exp(logits).sum()) / 6
    assert float(info_nce(*map(ops.convert_to_tensor, (query, key, queue)), temperature=0.07)) == pytest.approx(
        expected
    )


def test_sinkhorn_equals_the_original_in_float64_and_survives_large_scores() -> None:
    scores = np.random.default_rng(0).normal(size=(7, 4))
    q = np.exp(scores / 0.25).T
    q /= q.sum()
    for _ in range(3):
        q /= q.sum(axis=1, keepdims=True) * 4
        q /= q.sum(axis=0, keepdims=True) * 7
    np.testing.assert_allclose(sinkhorn(ops.convert_to_tensor(scores), epsilon=0.25), (q * 7).T, atol=1e-12)
    large = sinkhorn(ops.convert_to_tensor(100.0 * scores.astype(np.float32)))
    assert np.isfinite(ops.convert_to_numpy(large)).all()
    np.testing.assert_allclose(ops.sum(large, axis=1), 1.0, atol=1e-5)


def test_more_views_only_predict() -> None:
    """Two assigned views out of four: each is predicted by the three others."""
    rng = np.random.default_rng(1)
    scores = [rng.normal(size=(3, 5)) for _ in range(4)]
    assigned = [rng.dirichlet(np.ones(5), 3) for _ in range(2)]

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum(1, keepdims=True))

    expected = 0.0
    for i, q in enumerate(assigned):
        others = [j for j in range(4) if j != i]
        expected += sum(-(q * log_softmax(scores[j] / 0.1)).sum(1).mean() for j in others) / 3 / 2
    loss = swapped_prediction(
        [*map(ops.convert_to_tensor, scores)], [*map(ops.convert_to_tensor, assigned)], temperature=0.1
    )
    assert float(loss) == pytest.approx(expected)


def test_cells_of_turned_and_mirrored_views_lie_where_they_show() -> None:
    """The affine of a view that is mirrored and turned sends each cell to the place of its pixels."""
    mirrored = affine_of([0.8, 0.2, 0.4, 0.6])
    turned = np.array([[0.0, 0.4, 0.4], [-0.4, 0.0, 0.6]])  # a quarter turn: rows of the view run along the image's x
    plain = affine_of([0.4, 0.2, 0.8, 0.6])
    centres = [
        ops.convert_to_numpy(cell_centres(ops.convert_to_tensor(a[None]), 2, 2)[0])[0]
        for a in (plain, mirrored, turned)
    ]
    np.testing.assert_allclose(centres[0], [[0.5, 0.3], [0.7, 0.3], [0.5, 0.5], [0.7, 0.5]])
    np.testing.assert_allclose(centres[1], centres[0][[1, 0, 3, 2]])
    np.testing.assert_allclose(centres[2], centres[0][[2, 0, 3, 1]])
    diagonals = [float(cell_centres(ops.convert_to_tensor(a[None]), 2, 2)[1][0]) for a in (plain, mirrored, turned)]
    np.testing.assert_allclose(diagonals, 0.2 * math.sqrt(2))


def test_views_of_different_places_have_no_positives_and_no_loss() -> None:
    one, other = (ops.convert_to_tensor(affine_of(box)[None]) for box in ([0, 0, 0.2, 0.2], [0.7, 0.7, 1, 1]))
    positive = positive_pairs(one, other, 3, 3, radius=0.7)
    assert float(ops.sum(positive)) == 0.0
    x = ops.convert_to_tensor(unit(np.ones((1, 9, 4)), axis=2))
    assert float(pixel_consistency(x, x, positive)) == 0.0
    assert float(pixel_consistency(x, x, ops.ones_like(positive))) == pytest.approx(-2.0)


def test_a_zero_vector_has_a_finite_gradient() -> None:
    import tensorflow as tf

    x = tf.Variable(np.zeros((2, 3)))
    with tf.GradientTape() as tape:
        total = ops.sum(l2_normalise(x))
    np.testing.assert_array_equal(total, 0.0)
    assert np.isfinite(tape.gradient(total, x)).all()


def test_half_precision_is_computed_in_float32() -> None:
    x = ops.convert_to_tensor(sine((4, 8), 0.7).astype(np.float16))
    assert keras.backend.standardize_dtype(l2_normalise(x).dtype) == "float32"


# === Monitors ===


def test_spread_is_one_for_random_directions_and_zero_for_one() -> None:
    rng = np.random.default_rng(0)
    assert float(spread(ops.convert_to_tensor(rng.normal(size=(4096, 16))))) == pytest.approx(1.0, abs=0.01)
    assert float(spread(ops.convert_to_tensor(np.tile(rng.normal(size=16), (64, 1))))) == pytest.approx(0.0, abs=1e-6)
    maps = ops.convert_to_tensor(rng.normal(size=(64, 4, 4, 16)))
    assert float(spread(maps)) == pytest.approx(1.0, abs=0.03)


def test_alignment_is_the_mean_cosine() -> None:
    x = ops.convert_to_tensor(sine((5, 7), 0.3))
    assert float(alignment(x, 3.0 * x)) == pytest.approx(1.0)
    assert float(alignment(x, -x)) == pytest.approx(-1.0)


def test_what_the_queue_says() -> None:
    queue = np.tile(unit(np.ones((1, 4))), (6, 1))
    values = queue_values(
        ops.convert_to_tensor([0.9, 0.1]), ops.convert_to_tensor([[0.2, 0.4], [0.2, 0.4]]), ops.convert_to_tensor(queue)
    )
    assert float(values["gap"]) == pytest.approx(0.5 - 0.3)
    assert float(values["acc1"]) == 0.5
    assert float(values["queue_mean"]) == pytest.approx(1.0)
    query = ops.convert_to_tensor(unit(sine((3, 4), 0.9)))
    loss, more = contrast(query, query, ops.convert_to_tensor(queue), temperature=0.2)
    assert float(loss) == pytest.approx(float(info_nce(query, query, ops.convert_to_tensor(queue), temperature=0.2)))
    assert set(more) == {"gap", "acc1", "queue_mean"}


def test_usage_is_one_when_all_prototypes_are_used_alike() -> None:
    assert float(usage(ops.convert_to_tensor(np.eye(4)))) == pytest.approx(1.0)
    assert float(usage(ops.convert_to_tensor(np.tile([1.0, 0, 0, 0], (4, 1))))) == pytest.approx(0.0, abs=1e-9)
