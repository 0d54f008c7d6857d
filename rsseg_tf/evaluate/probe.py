"""Probes a frozen backbone: how well simple classifiers learn the classes of image patches from its features.

Tiles with labels are cut into patches; a patch's class is the class of most of its pixels. A linear classifier and
nearest neighbours learn from the features of training patches and are scored on validation patches, for

- colour statistics of the patch: mean, standard deviation and three quantiles of each band;
- the backbone with random weights, its normalisations calibrated on the training patches;
- the backbone with each of the given weights.

Of a backbone the deepest feature, c5, is looked at by itself, and together with those of strides 8 and 16: decoders use
all of them, and weights differ in what their middle layers know.

The first two are baselines. The scores of trained weights mean little without them: random convolutions and the mean
colour already separate many classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from rsseg_tf.build import build_backbone
from rsseg_tf.checkpoint import config_file
from rsseg_tf.config import load_any_config
from rsseg_tf.config.named_weights import Normalisation, find_weights
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
    "ProbeSettings",
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

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each band
Features = tuple[np.ndarray, np.ndarray]  # of the training and of the validation patches

_BATCH = 64
# Running statistics keep 0.9 of their value at each batch; after 50 batches the initial ones weigh 0.9 ** 50 = 0.5 %.
_CALIBRATION_BATCHES = 50
_L2 = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # strengths of the penalty that the linear probe chooses from


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
        """Returns `count` random patches, or all if there are no more."""
        chosen = np.random.default_rng(seed).permutation(len(self.labels))[:count]
        return Patches(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of a probe.

    Attributes:
        labels: Numbers of labelled patches for the linear probe; the nearest neighbours take all training patches.
        seeds: Seeds; each draws other labelled patches and other random weights.
        neighbours: How many neighbours vote.
        normalisation: Mean and standard deviation of pixels / max_value; None for those that each source of weights was
            trained with, see `normalisation_of`.
    """

    labels: Sequence[int]
    seeds: Sequence[int]
    neighbours: int = 20
    normalisation: Statistics | None = None


@dataclass(frozen=True)
class ProbeScore:
    """Scores of one way to learn from labels, one for each seed.

    Attributes:
        probe: "linear" or "knn".
        labels: Number of labelled patches to learn from.
        balanced_accuracy: Mean recall of the classes, 0..1.
        accuracy: Share of the validation patches with the right class, 0..1.
    """

    probe: str
    labels: int
    balanced_accuracy: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class ProbeRow:
    """The scores of one kind of features, in the same order for each kind.

    Attributes:
        features: What they are: "colour statistics", "random, calibrated", or the source of the weights.
        dim: Numbers that describe a patch.
        scores: Of each probe.
        levels: The backbone's features, "c5" or "c3 to c5"; empty for colour statistics.
    """

    features: str
    dim: int
    scores: tuple[ProbeScore, ...]
    levels: str = ""


def probe(
    section: Backbone,
    sources: Sequence[str],
    spec: DatasetSpec,
    train: Patches,
    val: Patches,
    settings: ProbeSettings,
    *,
    offline: bool = False,
    notify: Callable[[str], object] = lambda line: None,
) -> list[ProbeRow]:
    """Probes colour statistics, random weights and each source of weights.

    Args:
        section: The backbone.
        sources: Sources of weights, as `pretrained` in a config.
        spec: The dataset.
        train: Patches to learn from.
        val: Patches to score on.
        settings: Labels, seeds, neighbours and normalisation.
        offline: Whether the network is forbidden.
        notify: Called with a line for each source that was loaded.

    Returns:
        A row for the colour statistics; for random weights, and for each source, a row for each of `_levels`.

    Raises:
        WeightsError: When a source cannot be read or does not fit.
    """

    def features_of(backbone: keras.Model, statistics: Statistics, source: str) -> dict[str, Features]:
        of_train, of_val = (
            extract_features(backbone, part.pixels, spec.max_value, statistics) for part in (train, val)
        )
        joined = {
            levels: (np.concatenate([of_train[n] for n in names], 1), np.concatenate([of_val[n] for n in names], 1))
            for levels, names in _levels(list(of_train)).items()
        }
        for pair in joined.values():
            _require_finite(pair, source)
        return joined

    def random_features(seed: int) -> dict[str, Features]:
        keras.utils.set_random_seed(seed)
        backbone = build_backbone(section, in_channels=spec.bands)
        calibrate(backbone, train.pixels, spec.max_value, (spec.mean, spec.std), seed=seed)
        return features_of(backbone, (spec.mean, spec.std), "random")

    def rows_of(name: str, features: dict[int, dict[str, Features]]) -> list[ProbeRow]:
        return [
            _row(name, {s: of[levels] for s, of in features.items()}, train.labels, val.labels, settings, levels)
            for levels in next(iter(features.values()))
        ]

    # Only random weights differ from seed to seed; the other features are computed once and shared by all seeds.
    colours = colour_statistics(train.pixels, spec.max_value), colour_statistics(val.pixels, spec.max_value)
    rows = [
        *rows_of("colour statistics", {seed: {"": colours} for seed in settings.seeds}),
        *rows_of("random, calibrated", {seed: random_features(seed) for seed in settings.seeds}),
    ]
    for source in sources:
        backbone = build_backbone(section, in_channels=spec.bands)
        notify(load_backbone(backbone, section, source, offline=offline).summary())
        statistics = settings.normalisation or normalisation_of(source, spec, section)
        rows += rows_of(source, dict.fromkeys(settings.seeds, features_of(backbone, statistics, source)))
    return rows


def normalisation_of(source: str, spec: DatasetSpec, section: Backbone | None = None) -> Statistics:
    """Returns the mean and standard deviation that a source of weights was trained with.

    These are the config's for a checkpoint of this package, what is known of named weights, ImageNet's for other
    released weights of three bands, and the dataset's own for any other number of bands.

    Args:
        source: As `pretrained` in a config.
        spec: The dataset.
        section: The backbone, which may know more of its weights than their name.
    """
    if Path(source).is_dir():
        before = load_any_config(config_file(Path(source))).dataset.spec
        if before.bands == spec.bands:
            return before.mean, before.std
    elif known := _known_normalisation(source, section):
        return known.for_bands(spec.bands)
    return (IMAGENET_MEAN, IMAGENET_STD) if spec.bands == 3 else (spec.mean, spec.std)


def _known_normalisation(source: str, section: Backbone | None) -> Normalisation | None:
    if section is not None:
        return section.model_copy(update={"pretrained": source}).normalisation
    weights = find_weights(source)
    return None if weights is None else weights.normalisation


def _levels(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Returns what is looked at, by its label: the deepest feature, and all from stride 8 on if there are several.

    Args:
        names: Of a backbone's features.
    """
    deepest = max(names)
    levels = {deepest: (deepest,)}
    middle = tuple(sorted(name for name in names if "c3" <= name <= deepest))
    return levels | ({f"{middle[0]} to {deepest}": middle} if len(middle) > 1 else {})


def _require_finite(features: Sequence[np.ndarray], source: str) -> None:
    """Raises NotFiniteError for features that no classifier can learn from."""
    wrong = sum(int(np.count_nonzero(~np.isfinite(rows).all(axis=1))) for rows in features)
    if wrong:
        raise NotFiniteError(
            f"the backbone with the weights {source} gives features that are not finite for {wrong} of "
            f"{sum(map(len, features))} patches. The weights are damaged, or their training ran away; use an earlier "
            "checkpoint."
        )


def _row(
    name: str,
    features: dict[int, Features],
    train_labels: np.ndarray,
    val_labels: np.ndarray,
    settings: ProbeSettings,
    levels: str,
) -> ProbeRow:
    """Scores the features of each seed with both classifiers."""
    # (kind, number of labels) -> predictions, one array for each seed
    predictions: dict[tuple[str, int], list[np.ndarray]] = {}
    for seed, (of_train, of_val) in features.items():
        for count in settings.labels:
            chosen = np.random.default_rng(seed).permutation(len(train_labels))[:count]
            predicted = linear_probe(of_train[chosen], train_labels[chosen], of_val)
            predictions.setdefault(("linear", len(chosen)), []).append(predicted)
        predicted = nearest_neighbours(of_train, train_labels, of_val, settings.neighbours)
        predictions.setdefault(("knn", len(train_labels)), []).append(predicted)
    scores = tuple(
        ProbeScore(
            kind,
            count,
            tuple(balanced_accuracy(val_labels, predicted) for predicted in of_seeds),
            tuple(float(np.mean(predicted == val_labels)) for predicted in of_seeds),
        )
        for (kind, count), of_seeds in predictions.items()
    )
    return ProbeRow(name, of_train.shape[1], scores, levels)


# === Patches ===


def cut_patches(
    samples: Sequence[Sample],
    spec: DatasetSpec,
    *,
    size: int,
    min_share: float = 0.5,
    max_count: int,
    seed: int = 0,
    trust: Trust = TRUSTING_NOBODY,
) -> Patches:
    """Cuts tiles into patches that lie side by side.

    Args:
        samples: Tiles with labels.
        spec: Their classes.
        size: Side of a patch in pixels.
        min_share: Share of a patch's pixels that its class must have; other patches are left out.
        max_count: Patches to keep, drawn at random.
        seed: Seed of that draw.
        trust: How large images may be, and what a VRT may name.

    Raises:
        DataError: When no patch is left, or all are of one class.
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
                if counts.max() >= min_share * size * size:  # ignored pixels count for the share of no class
                    pixels.append(image[y : y + size, x : x + size])
                    labels.append(int(counts.argmax()))
    if len(set(labels)) < 2:
        raise DataError(
            f"{len(samples)} tiles give {len(labels)} patches of {size}x{size} pixels with a class that covers "
            f"{100 * min_share:.0f} % of them, of {len(set(labels))} classes; two are needed at least. "
            "Choose a smaller --patch_size."
        )
    return Patches(np.stack(pixels), np.array(labels)).draw(max_count, seed)


# === Features ===


def colour_statistics(pixels: np.ndarray, max_value: float) -> np.ndarray:
    """Returns (N, 5 * bands): mean, standard deviation, and the quantiles 0.1, 0.5 and 0.9 of each band."""
    flat = pixels.reshape(len(pixels), -1, pixels.shape[-1]).astype(np.float32) / max_value
    quantiles = np.quantile(flat, (0.1, 0.5, 0.9), axis=1)
    return np.concatenate([flat.mean(1), flat.std(1), *quantiles], axis=1).astype(np.float32)


def extract_features(
    backbone: keras.Model, pixels: np.ndarray, max_value: float, statistics: Statistics
) -> dict[str, np.ndarray]:
    """Returns each feature of the patches by its name, (N, C) float32, averaged over the pixels of a patch."""
    names = [name for name in backbone.output if name.startswith("c")]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for images in _batches(pixels, max_value, statistics):
        features = backbone(images, training=False)
        for name in names:
            pooled = keras.ops.mean(keras.ops.cast(features[name], "float32"), axis=(1, 2))
            rows[name].append(np.asarray(keras.ops.convert_to_numpy(pooled)))
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def calibrate(
    backbone: keras.Model, pixels: np.ndarray, max_value: float, statistics: Statistics, *, seed: int = 0
) -> None:
    """Sets the running statistics of a backbone's normalisations to those of its features.

    Without this, features of random weights vanish or explode with depth, and the baseline would be too weak.
    """
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

    The strength of its L2 penalty is chosen among five by holding out every fifth training row; then all rows train.

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
    x, x_val = _standardised(train, val)
    held_out = np.arange(len(x)) % 5 == 4

    def held_out_score(l2: float) -> float:
        weights = _logistic(x[~held_out], targets[~held_out], len(classes), l2)
        return balanced_accuracy(targets[held_out], _predict(weights, x[held_out]))

    # Of equal scores the strongest penalty wins, which gives the simplest classifier.
    _, best = max((held_out_score(l2), l2) for l2 in _L2)
    return classes[_predict(_logistic(x, targets, len(classes), best), x_val)]


def nearest_neighbours(train: np.ndarray, labels: np.ndarray, val: np.ndarray, count: int) -> np.ndarray:
    """Predicts the class of most of the `count` rows of `train` with the largest cosine, on standardised features.

    Args:
        train: (N, C) features.
        labels: (N,) class ids.
        val: (M, C) features.
        count: How many neighbours vote; ties go to the lowest id.

    Returns:
        (M,) class ids.
    """
    # Rows of length 1, so that a product of two is their cosine.
    x, x_val = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in _standardised(train, val)
    )
    nearest = np.argsort(-(x_val @ x.T), axis=1, kind="stable")[:, :count]  # (M, count)
    return np.array([np.bincount(votes).argmax() for votes in labels[nearest]])


def _standardised(train: np.ndarray, val: np.ndarray) -> Features:
    """Scales features by the mean and standard deviation of the training ones; a constant feature becomes 0."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    return (train - mean) / std, (val - mean) / std


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Returns the mean recall of the classes that `labels` has."""
    return float(np.mean([np.mean(predicted[labels == i] == i) for i in np.unique(labels)]))


def _logistic(x: np.ndarray, targets: np.ndarray, classes: int, l2: float, steps: int = 300) -> np.ndarray:
    """Fits a logistic regression with Nesterov's accelerated gradient descent.

    Features are standardised, so that 300 steps come near to the optimum.

    Returns:
        Weights `(C + 1, classes)`; the last row is the offset, which has no penalty.
    """
    x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1).astype(np.float32)
    onehot = np.eye(classes, dtype=np.float32)[targets]
    # The step is 1 / the largest curvature: at most half the largest eigenvalue of x.T @ x / N (0.55 leaves a margin
    # for its estimate by power iteration) plus the penalty.
    vector = np.ones(x.shape[1], np.float32)
    for _ in range(20):
        vector = x.T @ (x @ (vector / np.linalg.norm(vector))) / len(x)
    step = 1.0 / (0.55 * float(np.linalg.norm(vector)) + l2)
    penalty = np.full((x.shape[1], 1), l2, np.float32)
    penalty[-1] = 0.0
    weights = lookahead = np.zeros((x.shape[1], classes), np.float32)
    for i in range(steps):
        gradient = x.T @ (_softmax(x @ lookahead) - onehot) / len(x) + penalty * lookahead
        updated = lookahead - np.float32(step) * gradient
        lookahead = updated + np.float32(i / (i + 3)) * (updated - weights)
        weights = updated
    return weights


def _predict(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    return (x @ weights[:-1] + weights[-1]).argmax(1)


def _softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - x.max(1, keepdims=True))
    return exponential / exponential.sum(1, keepdims=True)
