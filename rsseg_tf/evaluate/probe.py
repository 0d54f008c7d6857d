"""How much of the labels the features of a frozen backbone know, beside what a trivial baseline knows.

Tiles with labels are cut into patches, a patch's class being that of most of its pixels. A linear classifier and
nearest neighbours learn from the features of training patches and are counted on validation patches, for

- colour statistics of the patch: mean, standard deviation and three quantiles of each band;
- the backbone with random weights, its normalisations calibrated on the training patches;
- the backbone with each of the weights in question.

Without the first two the third says little: random convolutions see much already, and so does the mean colour.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rsseg_tf.build import build_backbone
from rsseg_tf.checkpoint import config_file
from rsseg_tf.config import load_any_config
from rsseg_tf.config.pretrain import IMAGENET_MEAN, IMAGENET_STD
from rsseg_tf.config.zoo import Backbone
from rsseg_tf.data.reader import SampleReader
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import DataError, NotFiniteError, naming
from rsseg_tf.files.lists import Sample
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.weights.pretrained import load_backbone

__all__ = [
    "Patches",
    "ProbeRow",
    "ProbeScore",
    "balanced_accuracy",
    "calibrate",
    "colour_statistics",
    "cut_patches",
    "extract_features",
    "linear_probe",
    "nearest_neighbours",
    "normalisation_of",
    "probe",
]

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

_BATCH = 64
_CALIBRATION_BATCHES = 50  # what the running statistics began with has a weight of 0.9 ** 50 then
_L2 = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Patches:
    """Square pieces of tiles.

    Attributes:
        pixels: (N, size, size, bands) in the type of the files.
        labels: (N,) int64 class ids.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def draw(self, count: int, seed: int) -> Patches:
        """Returns `count` of them by chance, all if there are no more."""
        chosen = np.random.default_rng(seed).permutation(len(self.labels))[:count]
        return Patches(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True)
class ProbeScore:
    """Scores of one way to learn from labels, one for each seed.

    Attributes:
        probe: "linear" or "knn".
        labels: number of labelled patches to learn from.
        balanced_accuracy: mean recall of the classes, 0..1.
        accuracy: share of the validation patches, 0..1.
    """

    probe: str
    labels: int
    balanced_accuracy: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class ProbeRow:
    """The scores of one kind of features, in the same order for each kind."""

    features: str
    dim: int
    scores: tuple[ProbeScore, ...]


def probe(
    section: Backbone,
    sources: Sequence[str],
    spec: DatasetSpec,
    train: Patches,
    val: Patches,
    *,
    labels: Sequence[int],
    seeds: Sequence[int],
    neighbours: int = 20,
    normalisation: Callable[[str], Statistics] | None = None,
    offline: bool = False,
    notify: Callable[[str], object] = lambda line: None,
) -> list[ProbeRow]:
    """Probes colour statistics, random weights and each source of weights.

    Args:
        section: the backbone.
        sources: of weights, as `pretrained` in a config.
        spec: of the dataset.
        train: patches to learn from.
        val: patches to be counted on.
        labels: numbers of labelled patches for the linear probe; the nearest neighbours take all of `train`.
        seeds: for each, other labelled patches are drawn, and other random weights.
        neighbours: how many vote.
        normalisation: mean and standard deviation of pixels / max_value for a source; `normalisation_of` by default.
        offline: whether the network is forbidden.
        notify: called with a line for each source that was loaded.

    Returns:
        A row for the colour statistics, one for random weights, and one for each source.

    Raises:
        WeightsError: when a source cannot be had or does not fit.
    """
    options: dict[str, Any] = {"labels": labels, "seeds": seeds, "neighbours": neighbours}
    of_colour = [colour_statistics(patches.pixels, spec.max_value) for patches in (train, val)]
    rows = [_row("colour statistics", functools.partial(_same, of_colour), train, val, **options)]

    def random(seed: int) -> list[np.ndarray]:
        keras.utils.set_random_seed(seed)
        backbone = build_backbone(section, in_channels=spec.bands)
        statistics = (spec.mean, spec.std)
        calibrate(backbone, train.pixels, spec.max_value, statistics, seed=seed)
        both = [extract_features(backbone, patches.pixels, spec.max_value, statistics) for patches in (train, val)]
        _require_finite(both, "random")
        return both

    rows.append(_row("random, calibrated", random, train, val, **options))
    for source in sources:
        backbone = build_backbone(section, in_channels=spec.bands)
        notify(load_backbone(backbone, section, source, offline=offline).summary())
        statistics = normalisation(source) if normalisation else normalisation_of(source, spec)
        both = [extract_features(backbone, patches.pixels, spec.max_value, statistics) for patches in (train, val)]
        _require_finite(both, source)
        rows.append(_row(source, functools.partial(_same, both), train, val, **options))
    return rows


def normalisation_of(source: str, spec: DatasetSpec) -> Statistics:
    """Returns mean and standard deviation that a source of weights was trained with.

    For a checkpoint of ours its config says so. Released weights were trained with ImageNet's, where there are three
    bands; for other numbers it is the dataset's own.
    """
    if Path(source).is_dir():
        before = load_any_config(config_file(Path(source))).dataset.spec
        if before.bands == spec.bands:
            return before.mean, before.std
    return (IMAGENET_MEAN, IMAGENET_STD) if spec.bands == 3 else (spec.mean, spec.std)


def _require_finite(features: Sequence[np.ndarray], source: str) -> None:
    """Raises NotFiniteError for features that no classifier can learn from."""
    wrong = sum(int(np.count_nonzero(~np.isfinite(rows).all(axis=1))) for rows in features)
    if wrong:
        raise NotFiniteError(
            f"the backbone with the weights {source} gives features that are not finite for {wrong} of "
            f"{sum(map(len, features))} patches. The weights are damaged, or their training ran away; use an earlier "
            "checkpoint."
        )


def _same(features: list[np.ndarray], seed: int) -> list[np.ndarray]:
    return features


def _row(
    name: str,
    features: Callable[[int], list[np.ndarray]],
    train: Patches,
    val: Patches,
    *,
    labels: Sequence[int],
    seeds: Sequence[int],
    neighbours: int,
) -> ProbeRow:
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    dim = 0
    for seed in seeds:
        of_train, of_val = features(seed)
        dim = of_train.shape[1]
        for count in labels:
            chosen = np.random.default_rng(seed).permutation(len(train.labels))[:count]
            predicted = linear_probe(of_train[chosen], train.labels[chosen], of_val)
            found.setdefault(("linear", len(chosen)), []).append(predicted)
        predicted = nearest_neighbours(of_train, train.labels, of_val, neighbours)
        found.setdefault(("knn", len(train.labels)), []).append(predicted)
    scores = tuple(
        ProbeScore(
            kind,
            count,
            tuple(balanced_accuracy(val.labels, row) for row in rows),
            tuple(float(np.mean(row == val.labels)) for row in rows),
        )
        for (kind, count), rows in found.items()
    )
    return ProbeRow(name, dim, scores)


# === Patches ===


def cut_patches(
    samples: Sequence[Sample],
    spec: DatasetSpec,
    *,
    size: int,
    least_share: float = 0.5,
    at_most: int,
    seed: int = 0,
    trust: Trust = TRUSTING_NOBODY,
) -> Patches:
    """Cuts tiles into patches that lie side by side.

    Args:
        samples: tiles with labels.
        spec: their classes.
        size: side of a patch in pixels.
        least_share: share of a patch's pixels that its class must have; other patches are left out.
        at_most: patches to keep, drawn by chance.
        seed: of that draw.
        trust: how large images may be, and what a VRT may name.

    Raises:
        DataError: when no patch is left, or all are of one class.
    """
    pixels: list[np.ndarray] = []
    labels: list[int] = []
    reader = SampleReader(samples, spec, trust=trust)
    for index in range(len(samples)):
        sample = samples[index]
        with naming(sample.image, sample.label):
            image, ids = reader(index)
        for y in range(0, ids.shape[0] - size + 1, size):
            for x in range(0, ids.shape[1] - size + 1, size):
                counts = np.bincount(ids[y : y + size, x : x + size].ravel(), minlength=256)[: spec.num_classes]
                if counts.max() >= least_share * size * size:
                    pixels.append(image[y : y + size, x : x + size])
                    labels.append(int(counts.argmax()))
    if len(set(labels)) < 2:
        raise DataError(
            f"{len(samples)} tiles give {len(labels)} patches of {size}x{size} pixels with a class that covers "
            f"{100 * least_share:.0f} % of them, of {len(set(labels))} classes; two are needed at least. "
            "Choose a smaller --patch_size."
        )
    return Patches(np.stack(pixels), np.array(labels)).draw(at_most, seed)


# === Features ===


def colour_statistics(pixels: np.ndarray, max_value: float) -> np.ndarray:
    """Returns (N, 5 * bands): mean, standard deviation, and the quantiles 0.1, 0.5 and 0.9 of each band."""
    flat = pixels.reshape(len(pixels), -1, pixels.shape[-1]).astype(np.float32) / max_value
    quantiles = np.quantile(flat, (0.1, 0.5, 0.9), axis=1)
    return np.concatenate([flat.mean(1), flat.std(1), *quantiles], axis=1).astype(np.float32)


def extract_features(backbone: keras.Model, pixels: np.ndarray, max_value: float, statistics: Statistics) -> np.ndarray:
    """Returns (N, C) float32: the deepest feature of each patch, averaged over its pixels."""
    name = max(name for name in backbone.output if name.startswith("c"))
    rows = [
        np.asarray(keras.ops.convert_to_numpy(keras.ops.mean(backbone(images, training=False)[name], axis=(1, 2))))
        for images in _batches(pixels, max_value, statistics)
    ]
    return np.concatenate(rows)


def calibrate(
    backbone: keras.Model, pixels: np.ndarray, max_value: float, statistics: Statistics, *, seed: int = 0
) -> None:
    """Gives the normalisations of a backbone the statistics of its features; nothing else changes."""
    rng = np.random.default_rng(seed)
    for _ in range(_CALIBRATION_BATCHES):
        chosen = rng.permutation(len(pixels))[:_BATCH]
        for images in _batches(pixels[chosen], max_value, statistics):
            backbone(images, training=True)


def _batches(pixels: np.ndarray, max_value: float, statistics: Statistics) -> Iterator[np.ndarray]:
    mean, std = (np.array(values, np.float32) for values in statistics)
    for start in range(0, len(pixels), _BATCH):
        yield (pixels[start : start + _BATCH].astype(np.float32) / np.float32(max_value) - mean) / std


# === Probes ===


def linear_probe(train: np.ndarray, labels: np.ndarray, val: np.ndarray) -> np.ndarray:
    """Predicts by logistic regression on standardised features.

    The strength of its L2 penalty is chosen among five on every fifth training row, then all rows are learnt from.

    Args:
        train: (N, C) features.
        labels: (N,) class ids.
        val: (M, C) features.

    Returns:
        (M,) class ids.
    """
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) == 1:
        return np.full(len(val), classes[0])
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, other = (train - mean) / std, (val - mean) / std
    held = np.arange(len(x)) % 5 == 4
    strengths = [
        balanced_accuracy(targets[held], _predict(_logistic(x[~held], targets[~held], len(classes), l2), x[held]))
        for l2 in _L2
    ]
    # The strongest of equals: it is the simplest.
    best = max(range(len(_L2)), key=lambda i: (strengths[i], i))
    return classes[_predict(_logistic(x, targets, len(classes), _L2[best]), other)]


def nearest_neighbours(train: np.ndarray, labels: np.ndarray, val: np.ndarray, count: int) -> np.ndarray:
    """Predicts the class of most of the `count` rows of `train` with the largest cosine, on standardised features.

    Args:
        train: (N, C) features.
        labels: (N,) class ids.
        val: (M, C) features.
        count: how many vote; ties go to the lowest id.

    Returns:
        (M,) class ids.
    """
    mean, std = train.mean(0), train.std(0) + 1e-6
    x, other = ((rows - mean) / std for rows in (train, val))
    x, other = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (x, other))
    nearest = np.argsort(-(other @ x.T), axis=1, kind="stable")[:, :count]
    votes = labels[nearest]
    return np.array([np.bincount(row).argmax() for row in votes])


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the mean recall of the classes that `labels` has."""
    return float(np.mean([np.mean(predicted[labels == i] == i) for i in np.unique(labels)]))


def _logistic(x: np.ndarray, targets: np.ndarray, classes: int, l2: float, steps: int = 300) -> np.ndarray:
    """Returns weights (C + 1, classes) by accelerated gradient descent; the step is what the largest curvature allows.

    The last row is the offset, which has no penalty. Features are standardised, so it is not far from the optimum.
    """
    x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1).astype(np.float32)
    onehot = np.eye(classes, dtype=np.float32)[targets]
    vector = np.ones(x.shape[1], np.float32)
    for _ in range(20):  # the largest eigenvalue of the features' covariance
        vector = x.T @ (x @ (vector / np.linalg.norm(vector))) / len(x)
    step = 1.0 / (0.55 * float(np.linalg.norm(vector)) + l2)
    penalty = np.full((x.shape[1], 1), l2, np.float32)
    penalty[-1] = 0.0
    weights = ahead = np.zeros((x.shape[1], classes), np.float32)
    for i in range(steps):
        gradient = x.T @ (_softmax(x @ ahead) - onehot) / len(x) + penalty * ahead
        following = ahead - np.float32(step) * gradient
        ahead = following + np.float32(i / (i + 3)) * (following - weights)
        weights = following
    return weights


def _predict(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (x @ weights[:-1] + weights[-1]).argmax(1)


def _softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - x.max(1, keepdims=True))
    return exponential / exponential.sum(1, keepdims=True)
