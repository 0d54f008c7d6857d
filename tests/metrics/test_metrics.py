"""The scores against the original's stored numbers and against literal loops."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rsseg_tf.errors import DataError
from rsseg_tf.metrics import SegmentationScores, confusion_matrix, count_ignored
from tests.fixtures.golden import GOLDEN

CLASSES = 5
NAMES = tuple("abcde")


def scores_of(
    labels: np.ndarray, predictions: np.ndarray, num_classes: int = CLASSES, names: tuple[str, ...] = NAMES
) -> SegmentationScores:
    matrix = confusion_matrix(labels, predictions, num_classes)
    return SegmentationScores(matrix, names, count_ignored(labels))


@pytest.mark.parity
def test_equals_the_original_to_1e_12() -> None:
    if not (GOLDEN / "pieces.json").exists():
        pytest.skip("no golden files beside the checkout")
    expected = json.loads((GOLDEN / "pieces.json").read_text())["metrics"]
    with np.load(GOLDEN / "pieces.npz") as arrays:
        labels, predictions = arrays["met_label"], arrays["met_pred"]
    scores = scores_of(labels, predictions, 6, tuple("abcdef"))
    assert scores.intersection.tolist() == expected["intersect"]
    assert scores.prediction_pixels.tolist() == expected["pred"]
    assert scores.label_pixels.tolist() == expected["label"]
    for ours, theirs in {
        "class_iou": "class_iou",
        "class_precision": "precision",
        "class_recall": "recall",
        "class_dice": "class_dice",
        "miou": "miou",
        "acc": "acc",
        "kappa": "kappa",
        "dice": "mdice",
    }.items():
        np.testing.assert_allclose(getattr(scores, ours), expected[theirs], rtol=0, atol=1e-12, err_msg=ours)
    assert scores.ignored_pixels + int(scores.confusion.sum()) == labels.size


pixels = hnp.arrays(np.uint8, (2, 4, 5), elements=st.sampled_from([0, 1, 2, 3, 4, 255]))
class_ids = hnp.arrays(np.uint8, (2, 4, 5), elements=st.integers(0, CLASSES - 1))


@settings(max_examples=60, deadline=None)
@given(labels=pixels, predictions=class_ids)
def test_equals_a_literal_loop(labels: np.ndarray, predictions: np.ndarray) -> None:
    counted = [(int(a), int(b)) for a, b in zip(labels.ravel(), predictions.ravel(), strict=True) if a != 255]
    if not counted:
        with pytest.raises(DataError, match="no pixel to score"):
            scores_of(labels, predictions)
        return
    scores = scores_of(labels, predictions)
    total = len(counted)
    ious, dices, precisions, recalls, present, inters, unions = [], [], [], [], [], 0, 0
    chance = 0.0
    for c in range(CLASSES):
        inter = sum(1 for a, b in counted if a == c and b == c)
        area_l = sum(1 for a, _ in counted if a == c)
        area_p = sum(1 for _, b in counted if b == c)
        union = area_l + area_p - inter
        ious.append(inter / union if union else 1.0)
        dices.append(2 * inter / (area_l + area_p) if union else 0.0)
        precisions.append(inter / area_p if area_p else 0.0)
        recalls.append(inter / area_l if area_l else 0.0)
        if union:
            present.append(inter / union)
        inters, unions, chance = inters + inter, unions + union, chance + area_l * area_p / total**2
    near: dict[str, Any] = {"abs": 1e-12}
    assert scores.class_iou.tolist() == pytest.approx(ious, **near)
    assert scores.class_precision.tolist() == pytest.approx(precisions, **near)
    assert scores.class_recall.tolist() == pytest.approx(recalls, **near)
    assert scores.class_dice.tolist() == pytest.approx(dices, **near)
    assert scores.miou == pytest.approx(sum(ious) / CLASSES, **near)
    assert scores.miou_present == pytest.approx(sum(present) / len(present), **near)
    assert scores.micro_iou == pytest.approx(inters / unions, **near)
    assert scores.acc == pytest.approx(inters / total, **near)
    assert scores.dice == scores.macro_f1 == pytest.approx(sum(dices) / CLASSES, **near)
    assert scores.macro_precision == pytest.approx(sum(precisions) / CLASSES, **near)
    assert scores.macro_recall == pytest.approx(sum(recalls) / CLASSES, **near)
    if abs(1 - chance) > 1e-9:
        assert scores.kappa == pytest.approx((inters / total - chance) / (1 - chance), abs=1e-9)
    assert scores.ignored_pixels == labels.size - total
    assert [[sum((a, b) == (r, c) for a, b in counted) for c in range(CLASSES)] for r in range(CLASSES)] == (
        scores.confusion.tolist()
    )


@settings(max_examples=20, deadline=None)
@given(labels=pixels, predictions=class_ids)
def test_merging_parts_equals_scoring_the_whole(labels: np.ndarray, predictions: np.ndarray) -> None:
    labels[:, 0, 0] = 1  # at least one counted pixel in each part
    parts = [scores_of(a, b) for a, b in zip(labels, predictions, strict=True)]
    assert SegmentationScores.merge(parts).to_json() == scores_of(labels, predictions).to_json()


def test_rows_are_labels_and_columns_predictions() -> None:
    matrix = confusion_matrix(np.array([0, 0, 1, 255]), np.array([1, 1, 1, 7]), 2)
    assert matrix.tolist() == [[0, 2], [0, 1]] and matrix.dtype == np.int64


def test_another_ignored_value_may_be_negative() -> None:
    assert confusion_matrix(np.array([-1, 1]), np.array([0, 1]), 2, ignore_index=-1).tolist() == [[0, 0], [0, 1]]


def test_uint8_does_not_overflow() -> None:
    labels = np.full((3,), 199, np.uint8)
    assert confusion_matrix(labels, labels, 200)[199, 199] == 3


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        (np.array([0, 7, 6]), np.array([0, 0, 0]), r"labels must be 0\.\.4 or 255 \(ignored\); got 6, 7"),
        (np.array([0, -1]), np.array([0, 0]), "got -1"),
        (np.array([0, 1]), np.array([0, 5]), r"predictions must be 0\.\.4; got 5"),
        (np.array([0, 1]), np.array([[0, 1]]), "must have one shape"),
        (np.array([0, 1]), np.array([0.0, 1.0]), "predictions must be integers"),
        (np.array([0.0, 1.0]), np.array([0, 1]), "labels must be integers"),
    ],
)
def test_refuses_what_cannot_be_counted(labels: np.ndarray, predictions: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        confusion_matrix(labels, predictions, CLASSES)


def test_kappa_of_a_single_class_is_nan_and_null_in_json() -> None:
    scores = scores_of(np.zeros((3,), int), np.zeros((3,), int))
    assert math.isnan(scores.kappa)
    assert scores.to_json()["kappa"] is None
    assert scores.miou == scores.miou_present == 1.0


def test_json_is_valid_and_complete() -> None:
    scores = scores_of(np.array([0, 0, 1, 255, 255]), np.array([0, 1, 1, 0, 0]), 3, ("water", "road", "roof"))
    report = json.loads(json.dumps(scores.to_json(), allow_nan=False))
    assert [entry["name"] for entry in report["classes"]] == ["water", "road", "roof"]
    assert [entry["label_pixels"] for entry in report["classes"]] == [2, 1, 0]
    assert [entry["present"] for entry in report["classes"]] == [True, True, False]
    assert (report["counted_pixels"], report["ignored_pixels"]) == (3, 2)
    assert report["macro"]["miou"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert report["macro"]["miou_present"] == pytest.approx(0.5)
    assert report["micro"] == {"iou": pytest.approx(2 / 4), "acc": pytest.approx(2 / 3)}
    assert report["confusion_matrix"]["counts"] == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert "IoU 1" in report["absent_class_policy"]


def test_means_without_a_class_by_hand() -> None:
    # Rows are labels. Clutter meets both others: it counts in their unions and in the accuracy, not in the means.
    matrix = np.array([[6, 1, 1], [0, 4, 0], [2, 1, 5]])
    scores = SegmentationScores(matrix, ("road", "roof", "clutter"), 7, left_out=("clutter",))
    whole = SegmentationScores(matrix, ("road", "roof", "clutter"), 7)
    assert scores.in_means.tolist() == [True, True, False]
    assert scores.class_iou.tolist() == whole.class_iou.tolist() == pytest.approx([6 / 10, 4 / 6, 5 / 9])
    assert scores.miou == scores.miou_present == pytest.approx((6 / 10 + 4 / 6) / 2)
    assert scores.dice == scores.macro_f1 == pytest.approx((12 / 16 + 8 / 10) / 2)
    assert scores.macro_precision == pytest.approx((6 / 8 + 4 / 6) / 2)
    assert scores.macro_recall == pytest.approx((6 / 8 + 4 / 4) / 2)
    assert scores.acc == whole.acc == pytest.approx(15 / 20)
    assert (scores.kappa, scores.micro_iou) == (whole.kappa, whole.micro_iou)
    assert [entry["in_means"] for entry in scores.to_json()["classes"]] == [True, True, False]
    assert SegmentationScores.merge([scores, scores]).miou == scores.miou
    with pytest.raises(DataError, match="the same classes and leave out the same"):
        SegmentationScores.merge([scores, whole])


def test_where_only_left_out_classes_occur_the_mean_over_the_present_ones_is_null() -> None:
    scores = SegmentationScores(np.array([[0, 0], [0, 3]]), ("road", "clutter"), left_out=("clutter",))
    assert math.isnan(scores.miou_present) and scores.to_json()["macro"]["miou_present"] is None
    assert scores.miou == 1.0


@pytest.mark.parametrize("left_out", [("cluter",), ("a", "b"), ("a", "c")])
def test_only_some_of_the_classes_can_be_left_out(left_out: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=f"left_out must name classes, and not all of them; got {', '.join(left_out)} "):
        SegmentationScores(np.eye(2, dtype=int), ("a", "b"), left_out=left_out)


def test_scores_do_not_change_with_the_callers_array() -> None:
    matrix = np.eye(2, dtype=np.int64)
    scores = SegmentationScores(matrix, ("a", "b"))
    matrix[0, 1] = 100
    assert scores.acc == 1.0
    with pytest.raises(ValueError, match="read-only"):
        scores.confusion[0, 0] = 5


@pytest.mark.parametrize(
    ("matrix", "classes", "message"),
    [
        (np.eye(3, dtype=int), ("a", "b"), "must be 2 x 2"),
        (np.eye(2), ("a", "b"), "integers >= 0"),
        (np.array([[1, -1], [0, 1]]), ("a", "b"), "integers >= 0"),
        (np.zeros((2, 2), int), ("a", "b"), "no pixel to score"),
    ],
)
def test_refuses_a_wrong_matrix(matrix: np.ndarray, classes: tuple[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SegmentationScores(matrix, classes)


def test_merge_refuses_other_classes_and_nothing() -> None:
    with pytest.raises(DataError, match="same classes"):
        SegmentationScores.merge(
            [SegmentationScores(np.eye(2, dtype=int), ("a", "b")), SegmentationScores(np.eye(2, dtype=int), ("a", "c"))]
        )
    with pytest.raises(DataError, match="at least one"):
        SegmentationScores.merge([])


def test_counts_of_bytes_are_those_of_larger_integers() -> None:
    rng = np.random.default_rng(2)
    labels, predictions = rng.integers(0, 255, (2, 300, 200), np.uint8)
    labels[rng.random(labels.shape) < 0.1] = 255
    sliced = (slice(1, None, 2), slice(None, None, -3))  # neither contiguous nor in order
    for one, other in ((labels, predictions), (labels[sliced], predictions[sliced]), (labels[:0], predictions[:0])):
        found = confusion_matrix(one, other, 255)
        np.testing.assert_array_equal(found, confusion_matrix(one.astype(np.int64), other.astype(np.int64), 255))


def test_every_pixel_of_a_large_image_counts() -> None:
    """Beyond 2^24, where float32 leave out whole numbers."""
    labels = np.zeros(2**24 + 1, np.uint8)
    assert confusion_matrix(labels, labels, 2).tolist() == [[labels.size, 0], [0, 0]]
    labels.flags.writeable = False
    assert confusion_matrix(labels[:5], labels[:5], 2)[0, 0] == 5
