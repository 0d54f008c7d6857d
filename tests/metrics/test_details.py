"""Boundary IoU, objects by size, and confidence, each against an implementation of its own."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from rsseg_tf.errors import DataError
from rsseg_tf.metrics import BoundaryCounts, Calibration, ConfidenceCounts, LogitSample, ObjectCounts, fit_temperature
from rsseg_tf.metrics.boundary import boundary, boundary_width
from rsseg_tf.metrics.calibration import (
    FINE_BINS,
    TEMPERATURES,
    brier_score,
    confidence_of,
    negative_log_likelihood,
)
from rsseg_tf.metrics.objects import SIZE_EDGES, size_names


def blobs(size: tuple[int, int], seed: int, classes: int = 4) -> NDArray[np.uint8]:
    """Class ids in regions of many sizes and shapes."""
    rng = np.random.default_rng(seed)
    fields = [cv2.GaussianBlur(rng.normal(size=size), (0, 0), sigma) for sigma in rng.uniform(1, 6, classes)]
    return np.argmax([field / field.std() for field in fields], axis=0).astype(np.uint8)


# === Boundary IoU ===


def code_of_the_paper(mask: NDArray[np.uint8], ratio: float = 0.02) -> NDArray[np.uint8]:
    """`mask_to_boundary` of boundary-iou-api, line by line."""
    h, w = mask.shape
    dilation = round(ratio * np.sqrt(h**2 + w**2))
    dilation = max(dilation, 1)
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=dilation)
    return mask - eroded[1 : h + 1, 1 : w + 1]


def by_windows(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels of a mask whose square of `width` steps to each side holds a pixel outside of it."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(mask, width), (2 * width + 1, 2 * width + 1))
    return mask & ~windows.all(axis=(2, 3))


SIZES = [(64, 64), (40, 173), (1, 9), (300, 211)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [1, 2, 7])
def test_a_boundary_is_what_lies_near_the_outside(size: tuple[int, int], width: int) -> None:
    for index in range(4):
        mask = blobs(size, 1) == index
        np.testing.assert_array_equal(boundary(mask, width), by_windows(mask, width))
    whole = boundary(np.ones(size, bool), width)
    assert whole[0].all() and whole[:, -1].all(), "the image's border cuts a mask off"


@pytest.mark.parametrize("ratio", [0.005, 0.02])
def test_boundary_iou_is_that_of_the_papers_code_and_of_windows(ratio: float) -> None:
    counts = BoundaryCounts(4, ratio=ratio)
    code, windows = np.zeros((2, 4)), np.zeros((2, 4))
    for number, size in enumerate(SIZES):
        label, prediction = blobs(size, number), blobs(size, number)
        noise = blobs(size, 100 + number)
        prediction[noise == 0] = noise[noise == 0]
        counts.add(label, prediction)
        for index in range(4):
            pair = [(ids == index) for ids in (label, prediction)]
            one, other = (code_of_the_paper(mask.astype(np.uint8), ratio) for mask in pair)
            code[:, index] += (one * other > 0).sum(), (one + other > 0).sum()
            near, far = (by_windows(mask, boundary_width(size, ratio)) for mask in pair)
            windows[:, index] += (near & far).sum(), (near | far).sum()
    assert 0.05 < counts.class_iou.min() < counts.class_iou.max() < 0.95
    np.testing.assert_allclose(counts.class_iou, code[0] / code[1], atol=1e-6)
    np.testing.assert_allclose(counts.class_iou, windows[0] / windows[1], atol=1e-6)


def test_ignored_pixels_are_in_no_boundary_and_an_absent_class_has_none() -> None:
    label = np.zeros((50, 50), np.uint8)
    label[10:20, 10:20], label[:, 40:] = 1, 255
    prediction = label.copy()
    prediction[:, 40:] = 1
    counts = BoundaryCounts(3)
    counts.add(label, prediction)
    assert counts.class_iou[:2].tolist() == [1.0, 1.0] and math.isnan(counts.class_iou[2])
    assert counts.union[1] == 36, "a square of 10 has 36 pixels at its border; the boundary is 1 wide"


# === Objects ===


def flooded(label: NDArray[np.uint8], index: int) -> list[list[tuple[int, int]]]:
    """Returns the connected pixels of a class, found by walking from neighbour to neighbour."""
    left = set(zip(*(places.tolist() for places in np.nonzero(label == index)), strict=True))
    found = []
    while left:
        waiting = [left.pop()]
        component = []
        while waiting:
            y, x = waiting.pop()
            component.append((y, x))
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & left
            left -= near
            waiting += near
        found.append(component)
    return found


def test_objects_are_counted_by_size() -> None:
    label, prediction = blobs((150, 170), 3), blobs((150, 170), 3)
    noise = blobs((150, 170), 7)
    prediction[noise < 2] = noise[noise < 2]
    label[:9] = 255
    counts = ObjectCounts(4)
    counts.add(label, prediction)
    expected = np.zeros((4, 4, len(SIZE_EDGES)), int)
    for index in range(4):
        for component in flooded(label, index):
            size = max(place for place, edge in enumerate(SIZE_EDGES) if len(component) >= edge)
            hits = sum(prediction[place] == index for place in component)
            expected[:, index, size] += 1, hits >= len(component) / 2, len(component), hits
    for found, wanted in zip((counts.objects, counts.found, counts.pixels, counts.hits), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert counts.objects.sum() > 40 and counts.pixels.sum() == (label != 255).sum()
    assert len({int(place) for place in np.nonzero(counts.objects)[1]}) > 3, "objects of several sizes"
    assert np.nanmax(counts.recall) <= 1 and np.isnan(counts.found_share[counts.objects == 0]).all()


def test_sizes_have_names() -> None:
    assert size_names() == ["1-15", "16-63", "64-255", "256-1023", "1024-4095", "4096-16383", "16384+"]


# === Confidence ===


def overconfident(count: int, temperature: float = 3.0, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Logits `(N, 4)`, and labels drawn from the softmax of them divided by the temperature."""
    rng = np.random.default_rng(seed)
    logits = (4 * rng.normal(size=(count, 4))).astype(np.float32)
    chances = np.exp(logits / temperature)
    chances /= chances.sum(axis=1, keepdims=True)
    labels = (chances.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1).clip(0, 3).astype(np.uint8)
    return logits, labels


def softmax(logits: NDArray, temperature: float = 1.0) -> NDArray:
    heated = np.exp(logits.astype(np.float64) / temperature)
    return heated / heated.sum(axis=-1, keepdims=True)


def literal_ece(labels: NDArray, probabilities: NDArray, bins: int = 15) -> float:
    """Section 2 of the paper, bin by bin."""
    confidence, predictions = probabilities.max(axis=1), probabilities.argmax(axis=1)
    total = 0.0
    for low in range(bins):
        inside = (confidence > low / bins) & (confidence <= (low + 1) / bins)
        if inside.any():
            gap = (predictions[inside] == labels[inside]).mean() - confidence[inside].mean()
            total += inside.mean() * abs(gap)
    return total


def counted(logits: NDArray, labels: NDArray, temperature: float = 1.0, parts: int = 3) -> ConfidenceCounts:
    counts = ConfidenceCounts(4)
    for some, own in zip(np.array_split(logits, parts), np.array_split(labels, parts), strict=True):
        counts.add(own, some.argmax(axis=1).astype(np.uint8), confidence_of(some, temperature))
    return counts


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_ece_is_that_of_the_paper(temperature: float) -> None:
    logits, labels = overconfident(5000)
    counts = counted(logits, labels, temperature)
    expected = literal_ece(labels, softmax(logits, temperature))
    assert counts.ece == pytest.approx(expected, abs=1e-6) and counts.pixels == 5000
    pixels, confidence, accuracy = counts.reliability()
    assert pixels.sum() == 5000 and np.isnan(confidence[0]) and np.isnan(accuracy[0]), "of four classes one has 1/4"
    assert (expected > 0.15) == (temperature == 1.0)


def test_precision_and_recall_are_of_the_pixels_above_a_threshold() -> None:
    logits, labels = overconfident(4000)
    thresholds, precision, recall = counted(logits, labels).curves()
    probabilities = softmax(logits)
    confidence, predictions = probabilities.max(axis=1), probabilities.argmax(axis=1)
    for place in (0, 100, 250, FINE_BINS - 1):
        kept = confidence > thresholds[place]
        for index in range(4):
            chosen = kept & (predictions == index)
            right = chosen & (labels == index)
            assert precision[index, place] == pytest.approx(right.sum() / chosen.sum(), abs=2e-3)
            assert recall[index, place] == pytest.approx(right.sum() / (labels == index).sum(), abs=2e-3)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0, 9.0])
def test_the_temperature_is_where_confidence_is_nearest_to_correctness(temperature: float) -> None:
    logits, labels = overconfident(20000, temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.15)

    def literal(value: float) -> float:
        probabilities = softmax(logits, value)
        return float(((probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels)) ** 2).mean())

    least = literal(found)
    assert brier_score(logits, labels, found) == pytest.approx(least, abs=1e-6)
    assert all(literal(found * factor) > least for factor in (0.2, 0.5, 0.95, 1.05, 2, 5))
    likelihood = -np.log(softmax(logits, found)[np.arange(len(labels)), labels]).mean()
    assert negative_log_likelihood(logits, labels, found) == pytest.approx(likelihood, abs=1e-6)


def test_a_few_wrong_labels_do_not_decide() -> None:
    """One pixel in fifty is labelled otherwise than a sure model says; by the likelihood it would doubt all others."""
    logits, labels = overconfident(20000, 1.0)
    sure = np.flatnonzero(softmax(logits).max(axis=1) > 0.99)[::50]
    labels[sure] = (logits[sure].argmax(axis=1) + 1) % 4
    sample = LogitSample(4)
    sample.add(logits, labels)
    fitted = Calibration.fit(sample)
    likeliest = min(np.geomspace(0.5, 10, 60), key=lambda value: negative_log_likelihood(logits, labels, value))
    assert counted(logits, labels, float(likeliest)).ece > 1.5 * fitted.after.ece
    assert fitted.after.ece <= fitted.before.ece


@pytest.mark.parametrize("right", [True, False])
def test_a_temperature_stays_within_bounds(right: bool) -> None:
    logits = np.tile(np.array([[1.0, -1.0]], np.float32), (50, 1))
    sample = LogitSample(2)
    sample.add(logits, np.full(50, 0 if right else 1, np.uint8))
    fitted = Calibration.fit(sample)
    assert fitted.temperature == pytest.approx(TEMPERATURES[0 if right else 1], rel=0.5 if right else 1e-2)
    assert fitted.after.ece < fitted.before.ece and (right or fitted.at_bound)
    with pytest.raises(DataError, match="a temperature needs labelled pixels; got none"):
        Calibration.fit(LogitSample(2))


def test_calibration_makes_other_pixels_more_truthful() -> None:
    sample = LogitSample(4)
    sample.add(*overconfident(20000))
    fitted = Calibration.fit(sample)
    assert not fitted.at_bound and fitted.before.ece > 5 * fitted.after.ece
    assert fitted.brier[0] > fitted.brier[1] and fitted.nll[0] > fitted.nll[1]
    logits, labels = overconfident(20000, seed=1)
    assert counted(logits, labels).ece > 5 * counted(logits, labels, fitted.temperature).ece
    assert list(fitted.to_json()) == [
        "temperature", "pixels", "drawn_from", "brier_before", "brier_after", "nll_before", "nll_after",
        "ece_before", "ece_after",
    ]  # fmt: skip


def test_the_temperature_is_1_where_no_other_helps() -> None:
    """Of pixels with one confidence, as often right as it says."""
    share = softmax(np.array([[2.0, 0.0]]))[0, 0]
    labels = (np.arange(10000) >= round(10000 * share)).astype(np.uint8)
    sample = LogitSample(2)
    sample.add(np.tile(np.array([[2.0, 0.0]], np.float32), (10000, 1)), labels)
    fitted = Calibration.fit(sample)
    assert fitted.temperature == 1.0 and fitted.before is fitted.after and fitted.brier[0] == fitted.brier[1]


def test_a_sample_is_bounded_even_and_drawn_alike_again() -> None:
    def drawn() -> tuple[NDArray, NDArray, int]:
        sample = LogitSample(2, seed=3, most=500)
        for start in range(0, 10000, 77):
            numbers = np.arange(start, min(start + 77, 10000))
            sample.add(np.stack([numbers, -numbers], axis=1).astype(np.float32), (numbers % 2).astype(np.uint8))
        return *sample.pixels, sample.seen

    logits, labels, seen = drawn()
    assert seen == 10000 and 200 < len(labels) <= 500
    assert (labels == logits[:, 0] % 2).all() and (logits[:, 1] == -logits[:, 0]).all()
    thirds = np.histogram(logits[:, 0], bins=3, range=(0, 10000))[0]
    assert thirds.min() > 0.2 * len(labels), "early pixels are as likely as late ones"
    np.testing.assert_array_equal(drawn()[0], logits)
    assert LogitSample(255)._most < LogitSample(6)._most == 2**19, "many classes must not take more memory"
