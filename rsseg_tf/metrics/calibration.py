"""Whether a model is right as often as it says: confidence against correctness, and the temperature that mends it.

The confidence of a pixel is the probability of its class: the largest of softmax(logits / temperature). Guo et al., On
Calibration of Modern Neural Networks, ICML 2017: ECE (section 2), and one temperature for all logits (section 4.2), by
which the largest logit stays the largest.

The paper fits the temperature to the likelihood of the labels. That is decided by the few pixels which are labelled
otherwise than the model is sure of, and labels of remote sensing have many of these at outlines: on tiles that were not
fitted to, ECE rose more often. Here the temperature is where the Brier score of the confidence is least: the mean
squared difference between the confidence and 1 for a right pixel, 0 for a wrong one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
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
    "brier_score",
    "confidence_of",
    "counted",
    "fit_temperature",
    "negative_log_likelihood",
]

ECE_BINS = 15
"""Bins of equal width over 0..1, as in the paper."""
FINE_BINS = 20 * ECE_BINS
"""Bins that are counted: each of ECE is made of 20, and as many thresholds can be looked at."""
TEMPERATURES = (0.05, 20.0)
"""The least and the largest temperature that is looked for."""

_MOST_PIXELS = 2**19
_MOST_VALUES = 2**24  # logits, 64 MiB
_COARSE = 16  # temperatures that are tried first
_PRECISION = 1e-4  # of the logarithm of a temperature
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
            most: Pixels that are held at most; by default 2 ** 19, or fewer where their logits would take over 64 MiB.
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
        brier: Mean squared difference between confidence and correctness, without and with it.
        nll: Mean negative log likelihood of the labels without and with it, in nats.
        before: Pixels by confidence without it.
        after: The same with it.
    """

    temperature: float
    pixels: int
    seen: int
    brier: tuple[float, float]
    nll: tuple[float, float]
    before: ConfidenceCounts
    after: ConfidenceCounts

    @property
    def at_bound(self) -> bool:
        """Whether a temperature beyond `TEMPERATURES` would fit better, as where all pixels are right or none is."""
        low, high = TEMPERATURES
        return not low * 1.01 < self.temperature < high / 1.01

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers for `calibration.json` and reports."""
        values = {"brier": self.brier, "nll": self.nll, "ece": (self.before.ece, self.after.ece)}
        pairs = {f"{name}_{when}": pair[place] for name, pair in values.items() for place, when in _WHEN}
        return {"temperature": self.temperature, "pixels": self.pixels, "drawn_from": self.seen, **pairs}

    @classmethod
    def fit(cls, sample: LogitSample) -> Calibration:
        """Fits a temperature to a sample; see `of`.

        Raises:
            DataError: When it is empty.
        """
        return dataclasses.replace(cls.of(*sample.pixels), seen=sample.seen)

    @classmethod
    def of(cls, logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> Calibration:
        """Fits a temperature to pixels; it is 1 where no other one lowers their ECE.

        Args:
            logits: `(N, C)`.
            labels: `(N,)` class ids.

        Raises:
            DataError: When there is no pixel.
        """
        temperature, before = fit_temperature(logits, labels), counted(logits, labels, 1.0)
        after = counted(logits, labels, temperature)
        if after.ece >= before.ece:
            temperature, after = 1.0, before
        both = (1.0, temperature)
        brier, nll = (
            tuple(score(logits, labels, value) for value in both) for score in (brier_score, negative_log_likelihood)
        )
        return cls(temperature, len(labels), len(labels), (brier[0], brier[1]), (nll[0], nll[1]), before, after)


_WHEN = ((0, "before"), (1, "after"))


def counted(logits: NDArray[np.float32], labels: NDArray[np.uint8], temperature: float) -> ConfidenceCounts:
    """Returns the counts of pixels with a temperature; arguments as `brier_score`."""
    counts = ConfidenceCounts(logits.shape[1])
    for part, own in _parts(logits, labels):
        counts.add(own, part.argmax(axis=1).astype(np.uint8), confidence_of(part, temperature))
    return counts


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    """Returns the temperature in `TEMPERATURES` at which the Brier score of the confidence is least.

    The best of a few temperatures, evenly spaced on a logarithmic scale, and its neighbours enclose the minimum, which
    a golden section search then finds. Four digits are kept.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` class ids.

    Raises:
        DataError: When there is no pixel.
    """
    if not len(labels):
        raise DataError("a temperature needs labelled pixels; got none. Check the labels and the ignore index.")

    def score(place: float) -> float:
        return brier_score(logits, labels, math.exp(place))

    places = np.log(np.geomspace(*TEMPERATURES, _COARSE))
    best = int(np.argmin([score(place) for place in places]))
    low, high = float(places[max(0, best - 1)]), float(places[min(_COARSE - 1, best + 1)])
    inner = (math.sqrt(5) - 1) / 2
    left, right = high - inner * (high - low), low + inner * (high - low)
    of_left, of_right = score(left), score(right)
    while high - low > _PRECISION:
        if of_left <= of_right:
            high, right, of_right = right, left, of_left
            left = high - inner * (high - low)
            of_left = score(left)
        else:
            low, left, of_left = left, right, of_right
            right = low + inner * (high - low)
            of_right = score(right)
    return float(f"{math.exp((low + high) / 2):.4g}")


def brier_score(logits: NDArray[np.float32], labels: NDArray[np.uint8], temperature: float) -> float:
    """Returns the mean squared difference between confidence and correctness, which is 1 or 0.

    Args:
        logits: `(N, C)`.
        labels: `(N,)` class ids.
        temperature: Above 0.
    """
    total = 0.0
    for part, own in _parts(logits, labels):
        gaps = confidence_of(part, temperature) - (part.argmax(axis=1) == own)
        total += float(np.square(gaps, dtype=np.float64).sum())
    return total / len(labels)


def negative_log_likelihood(logits: NDArray[np.float32], labels: NDArray[np.uint8], temperature: float) -> float:
    """Returns the mean over pixels of -log softmax(logits / temperature)[label]; arguments as `brier_score`."""
    total = 0.0
    for part, own in _parts(logits, labels):
        below = (part - part.max(axis=1, keepdims=True)).astype(np.float64) / temperature
        total += float((np.log(np.exp(below).sum(axis=1)) - below[np.arange(len(own)), own]).sum())
    return total / len(labels)


def _parts(
    logits: NDArray[np.float32], labels: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    for start in range(0, len(labels), _PART):
        yield logits[start : start + _PART], labels[start : start + _PART]


def confidence_of(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float32]:
    """Returns the largest probability `(...)` of logits `(..., C)`."""
    below = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(1 / np.exp(below * np.float32(1 / temperature)).sum(axis=-1), np.float32)
