"""Whether a model is right as often as it says: confidence against correctness, and the temperature that mends it.

The confidence of a pixel is the probability of its class: the largest of softmax(logits / temperature). Guo et al., On
Calibration of Modern Neural Networks, ICML 2017: ECE (section 2) and the scaling by one temperature (section 4.2),
fitted where the mean negative log likelihood (NLL) of the labels is least. The largest logit stays the largest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import DataError

__all__ = [
    "ECE_BINS",
    "FINE_BINS",
    "TEMPERATURES",
    "Calibration",
    "ConfidenceCounts",
    "LogitSample",
    "confidence_of",
    "fit_temperature",
    "negative_log_likelihood",
]

ECE_BINS = 15
"""Bins of equal width over 0..1, as in the paper."""
FINE_BINS = 20 * ECE_BINS
"""Bins that are counted: each of ECE is made of 20, and as many thresholds can be looked at."""
TEMPERATURES = (0.05, 20.0)
"""The least and the largest temperature that is looked for."""

_MOST_PIXELS = 2**20
_MOST_VALUES = 2**24  # logits, 64 MiB
_STEPS = 60  # no step leaves more than half of what the last one left; about six are needed
_PART = 2**16  # pixels whose probabilities are computed at a time


class ConfidenceCounts:
    """Pixels by class, confidence and correctness, of all images together.

    Bin k of `FINE_BINS` holds the confidences in (k / bins, (k + 1) / bins], as the paper has them.

    Attributes:
        predicted: `(C, FINE_BINS)` int64: pixels by predicted class and confidence.
        correct: Those of which the label is the same class.
        labelled: `(C,)` int64: pixels by label.
        confidence: `(FINE_BINS,)` float64: sum of the confidences.
    """

    def __init__(self, num_classes: int) -> None:
        """Begins with no pixel."""
        self.predicted = np.zeros((num_classes, FINE_BINS), np.int64)
        self.correct = np.zeros_like(self.predicted)
        self.labelled = np.zeros(num_classes, np.int64)
        self.confidence = np.zeros(FINE_BINS)

    def add(self, labels: NDArray[np.uint8], predictions: NDArray[np.uint8], confidence: NDArray[np.float32]) -> None:
        """Counts pixels; arrays are of any one shape, without ignored pixels.

        Args:
            labels: Class ids.
            predictions: Class ids.
            confidence: Probabilities of the predicted classes, 0..1.
        """
        classes = len(self.labelled)
        values = confidence.ravel().astype(np.float64)
        bins = np.clip(np.ceil(values * FINE_BINS).astype(np.int64) - 1, 0, FINE_BINS - 1)
        places = predictions.ravel().astype(np.int64) * FINE_BINS + bins
        right = labels.ravel() == predictions.ravel()
        for total, chosen in ((self.predicted, places), (self.correct, places[right])):
            total += np.bincount(chosen, minlength=total.size).reshape(total.shape)
        self.labelled += np.bincount(labels.ravel(), minlength=classes)
        self.confidence += np.bincount(bins, weights=values, minlength=FINE_BINS)

    @property
    def pixels(self) -> int:
        """Pixels that were counted."""
        return int(self.predicted.sum())

    def reliability(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Returns of each of `ECE_BINS`: its pixels, their mean confidence and their accuracy, nan without pixels."""
        pixels, right, sums = (
            values.reshape(ECE_BINS, -1).sum(axis=1)
            for values in (self.predicted.sum(axis=0), self.correct.sum(axis=0), self.confidence)
        )
        with np.errstate(invalid="ignore"):
            return pixels, sums / pixels, right / pixels

    @property
    def ece(self) -> float:
        """Expected calibration error, 0..1: the mean of |accuracy - confidence| over bins, weighted by their pixels."""
        pixels, confidence, accuracy = self.reliability()
        held = pixels > 0
        gaps = np.abs(accuracy[held] - confidence[held])
        return float((gaps * pixels[held]).sum() / max(1, pixels.sum()))

    def curves(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Returns what remains of each class when pixels of less confidence are left out.

        Returns:
            Thresholds `(FINE_BINS,)`, ascending from 0; precision `(C, FINE_BINS)` of the pixels above each, nan where
            none is left; recall `(C, FINE_BINS)` among all pixels of the label, nan for a class without any.
        """
        left, right = (np.cumsum(one[:, ::-1], axis=1)[:, ::-1] for one in (self.predicted, self.correct))
        with np.errstate(invalid="ignore"):
            precision, recall = right / left, right / self.labelled[:, np.newaxis]
        return np.arange(FINE_BINS) / FINE_BINS, precision, recall


class LogitSample:
    """Logits and labels of a random part of all pixels, in bounded memory.

    Every pixel is equally likely to be in it: each draws a number in 0..1 and stays while that is below a bound, which
    is halved whenever there are more pixels than allowed.
    """

    def __init__(self, num_classes: int, seed: int = 0, most: int | None = None) -> None:
        """Begins with no pixel.

        Args:
            num_classes: Number of classes.
            seed: Seed of the choice.
            most: Pixels that are held at most; by default 2 ** 20, or fewer where their logits would take over 64 MiB.
        """
        self._most = min(_MOST_PIXELS, _MOST_VALUES // num_classes) if most is None else most
        self._random = np.random.default_rng(seed)
        self._bound = 1.0
        self._held = 0
        self._parts: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint8]]] = []
        self._num_classes = num_classes
        self.seen = 0

    def add(self, logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> None:
        """Draws from pixels.

        Args:
            logits: `(N, C)`.
            labels: `(N,)` class ids, none of them ignored.
        """
        self.seen += len(labels)
        drawn = self._random.random(len(labels), np.float32)
        chosen = np.flatnonzero(drawn < self._bound)
        self._parts.append((drawn[chosen], logits[chosen], labels[chosen]))
        self._held += len(chosen)
        while self._held > self._most:
            self._bound /= 2
            self._parts = [tuple(x[part[0] < self._bound] for x in part) for part in self._parts]  # type: ignore[misc]
            self._held = sum(len(part[0]) for part in self._parts)

    @property
    def pixels(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Logits `(N, C)` and labels `(N,)` of the pixels that were drawn."""
        if not self._parts:
            return np.zeros((0, self._num_classes), np.float32), np.zeros(0, np.uint8)
        _, logits, labels = (np.concatenate(arrays) for arrays in zip(*self._parts, strict=True))
        return logits, labels


@dataclass(frozen=True)
class Calibration:
    """A temperature, and what it changes on the pixels that it was fitted on.

    Attributes:
        temperature: What logits are divided by.
        pixels: Pixels that it was fitted on.
        seen: Pixels that those were drawn from.
        nll: Mean negative log likelihood of the labels without and with it, in nats.
        ece: Expected calibration error without and with it.
        before: All counts without it.
        after: All counts with it.
    """

    temperature: float
    pixels: int
    seen: int
    nll: tuple[float, float]
    ece: tuple[float, float]
    before: ConfidenceCounts
    after: ConfidenceCounts

    @property
    def at_bound(self) -> bool:
        """Whether a temperature beyond `TEMPERATURES` would fit better, as where no pixel or no class is right."""
        low, high = TEMPERATURES
        return not low < self.temperature < high

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers for `calibration.json` and reports."""
        before, after = self.nll
        return {
            "temperature": self.temperature,
            "pixels": self.pixels,
            "drawn_from": self.seen,
            "nll_before": before,
            "nll_after": after,
            "ece_before": self.ece[0],
            "ece_after": self.ece[1],
        }

    @classmethod
    def fit(cls, sample: LogitSample) -> Calibration:
        """Fits a temperature to a sample.

        Raises:
            DataError: When it is empty.
        """
        logits, labels = sample.pixels
        temperature = fit_temperature(logits, labels)
        counts = []
        for value in (1.0, temperature):
            count = ConfidenceCounts(logits.shape[1])
            for start in range(0, len(labels), _PART):
                part = logits[start : start + _PART]
                predictions = part.argmax(axis=1).astype(np.uint8)
                count.add(labels[start : start + _PART], predictions, confidence_of(part, value))
            counts.append(count)
        nll = tuple(negative_log_likelihood(logits, labels, value) for value in (1.0, temperature))
        before, after = counts
        return cls(temperature, len(labels), sample.seen, (nll[0], nll[1]), (before.ece, after.ece), before, after)


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    """Returns the temperature in `TEMPERATURES` at which the labels are most likely.

    The NLL is convex in 1 / temperature: the sign of its slope tells on which side the minimum lies. Newton's steps
    find where the slope is 0; one that leaves the interval gives way to its middle. Six digits are kept.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` class ids.

    Raises:
        DataError: When there is no pixel.
    """
    if not len(labels):
        raise DataError("a temperature needs labelled pixels; got none. Check the labels and the ignore index.")
    least, most = TEMPERATURES
    low, high, place = 1 / most, 1 / least, 1.0
    # Where each pixel is right, certainty has no end; where they are worse than chance, neither has doubt.
    if _derivatives(logits, labels, high)[0] <= 0:
        return least
    if _derivatives(logits, labels, low)[0] >= 0:
        return most
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits, labels, place)
        low, high = (low, place) if slope > 0 else (place, high)
        step = place - slope / curvature if curvature > 0 else math.inf
        before, place = place, step if low < step < high else (low + high) / 2
        if abs(place - before) < 1e-8 * before:
            break
    return float(f"{1 / place:.6g}")


def negative_log_likelihood(logits: NDArray[np.float32], labels: NDArray[np.uint8], temperature: float) -> float:
    """Returns the mean over pixels of -log softmax(logits / temperature)[label], in nats.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` class ids.
        temperature: Above 0.
    """
    total = 0.0
    for start in range(0, len(labels), _PART):
        _, own, weights = _weights(logits, labels, start, 1 / temperature)
        total += float((np.log(weights.sum(axis=1)) - own / temperature).sum())
    return total / len(labels)


def _derivatives(logits: NDArray[np.float32], labels: NDArray[np.uint8], sharpness: float) -> tuple[float, float]:
    """Returns the derivatives of the summed NLL by 1 / temperature.

    The first is the sum of the expected logits less the labels' own, the second that of the logits' variances.
    """
    slope = curvature = 0.0
    for start in range(0, len(labels), _PART):
        below, own, weights = _weights(logits, labels, start, sharpness)
        weights /= weights.sum(axis=1, keepdims=True)
        mean = (weights * below).sum(axis=1)
        slope += float((mean - own).sum())
        curvature += float(((weights * below**2).sum(axis=1) - mean**2).sum())
    return slope, curvature


def _weights(
    logits: NDArray[np.float32], labels: NDArray[np.uint8], start: int, sharpness: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Returns logits less the largest `(n, C)`, the labels' own `(n,)`, and probabilities times a factor `(n, C)`."""
    part = logits[start : start + _PART].astype(np.float64)
    below = part - part.max(axis=1, keepdims=True)
    own = below[np.arange(len(below)), labels[start : start + _PART]]
    return below, own, np.exp(below * sharpness)


def confidence_of(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Returns the largest probability `(...)` of logits `(..., C)`."""
    below = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(1 / np.exp(below * np.float32(1 / temperature)).sum(axis=-1), np.float32)
