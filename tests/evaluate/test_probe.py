from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.backbones import resnet
from rsseg_tf.config.pretrain import IMAGENET_MEAN, IMAGENET_STD
from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import DataError, NotFiniteError
from rsseg_tf.evaluate.probe import (
    Patches,
    ProbeSettings,
    _require_finite,
    balanced_accuracy,
    calibrate,
    colour_statistics,
    cut_patches,
    extract_features,
    linear_probe,
    nearest_neighbours,
    normalisation_of,
    probe,
)
from rsseg_tf.training import pretrain
from tests.fixtures.configs import samples, tiny_config
from tests.fixtures.pretraining import images, tiny_pretraining, use_tiny_resnet

SPEC = custom_spec("two", ("dark", "bright"))


def blobs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes that three directions of 20 tell apart, and a large direction that tells nothing."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count) * 2  # ids with gaps
    x = rng.normal(size=(count, 20)) * 0.5
    x[np.arange(count), labels // 2] += 2.0
    x[:, 19] *= 1000
    return x.astype(np.float32), labels


def test_the_linear_probe_learns_what_is_linear() -> None:
    train, labels = blobs(200, 0)
    val, truth = blobs(300, 1)
    assert balanced_accuracy(truth, linear_probe(train, labels, val)) > 0.9
    shuffled = np.random.default_rng(0).permutation(labels)
    assert balanced_accuracy(truth, linear_probe(train, shuffled, val)) < 0.55
    assert set(linear_probe(train, np.full(200, 4), val)) == {4}


def test_the_logistic_regression_is_at_its_optimum() -> None:
    from rsseg_tf.evaluate.probe import _logistic, _softmax

    x, labels = blobs(120, 2)
    x = (x - x.mean(0)) / x.std(0)
    targets = labels // 2
    weights = _logistic(x, targets, 3, 0.01)
    padded = np.concatenate([x, np.ones((120, 1))], 1)
    gradient = padded.T @ (_softmax(padded @ weights) - np.eye(3)[targets]) / 120
    gradient[:-1] += 0.01 * weights[:-1]
    assert np.abs(gradient).max() < 1e-4


def test_nearest_neighbours_vote() -> None:
    train, labels = blobs(200, 0)
    val, truth = blobs(300, 1)
    assert balanced_accuracy(truth, nearest_neighbours(train, labels, val, 20)) > 0.9
    np.testing.assert_array_equal(nearest_neighbours(train, labels, train, 1), labels)


def test_balanced_accuracy_counts_rare_classes_as_much() -> None:
    labels = np.array([0] * 9 + [1])
    assert balanced_accuracy(labels, np.zeros(10)) == 0.5


def test_colour_statistics() -> None:
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[1, ..., 2] = 255
    pixels[0, :2, :, 0] = 51
    rows = colour_statistics(pixels, 255.0)
    assert rows.shape == (2, 15)
    np.testing.assert_allclose(rows[1, [2, 8, 11, 14]], [1, 1, 1, 1])  # mean and quantiles of the third band
    np.testing.assert_allclose(rows[0, [0, 3, 6, 12]], [0.1, 0.1, 0, 0.2], atol=1e-6)


def test_patches_have_the_class_of_most_of_their_pixels(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    tiles = samples(config, "train")
    patches = cut_patches(tiles, config.dataset.spec, size=10, min_share=0.8, max_count=1000)
    assert patches.pixels.shape[1:] == (10, 10, 3) and patches.pixels.dtype == np.uint8
    brightness = patches.pixels.mean((1, 2, 3))
    assert (patches.labels == (brightness > 100)).all() and set(patches.labels) == {0, 1}
    every = cut_patches(tiles, config.dataset.spec, size=10, max_count=1000)
    assert len(patches.labels) < len(every.labels) <= 6 * 16
    few = [cut_patches(tiles, config.dataset.spec, size=10, max_count=7, seed=seed) for seed in (1, 1, 2)]
    assert len(few[0].labels) == 7
    np.testing.assert_array_equal(few[0].pixels, few[1].pixels)
    assert not np.array_equal(few[0].pixels, few[2].pixels)
    with pytest.raises(DataError, match=r"6 tiles give 0 patches of 64x64 .* Choose a smaller --patch_size"):
        cut_patches(tiles, config.dataset.spec, size=64, max_count=10)


def test_calibration_gives_normalised_features() -> None:
    backbone = resnet((1, 1, 1, 1), (4, 4, 8, 8), bottleneck=False)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3)).astype(np.uint8)
    statistics = ((0.5,) * 3, (0.1,) * 3)
    trained = {v.path: v.numpy() for v in backbone.trainable_variables}
    before = extract_features(backbone, pixels, 255.0, statistics)
    calibrate(backbone, pixels, 255.0, statistics)
    after = extract_features(backbone, pixels, 255.0, statistics)
    assert {name: rows.shape for name, rows in after.items()} == {
        "c1": (40, 4),
        "c2": (40, 4),
        "c3": (40, 4),
        "c4": (40, 8),
        "c5": (40, 8),
    }
    x = (pixels / 255.0 - 0.5) / 0.1
    batch = {name: np.asarray(x).mean((1, 2)) for name, x in backbone(x.astype(np.float32), training=True).items()}
    for name in batch:
        assert np.abs(after[name] - batch[name]).mean() < 0.1 * np.abs(before[name] - batch[name]).mean(), name
    for variable in backbone.trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), trained[variable.path])


def test_pixels_are_normalised_as_the_weights_were_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_resnet(monkeypatch)
    assert normalisation_of("https://somewhere/moco.zip", SPEC) == (IMAGENET_MEAN, IMAGENET_STD)
    lite = normalisation_of("efficientnet_lite0", SPEC)
    assert lite == ((127 / 255,) * 3, (128 / 255,) * 3)
    five = custom_spec("five", ("a", "b"), bands=5)
    assert normalisation_of("efficientnet_lite0", five) == ((127 / 255,) * 5, (128 / 255,) * 5)
    four = custom_spec("four", ("a", "b"), bands=4)
    assert normalisation_of("x.pth", four) == ((0.5,) * 4, (0.5,) * 4)
    config = tiny_pretraining(tmp_path, "simsiam", "train.iters=1", "dataset.mean=[0.1, 0.2, 0.3]")
    result = pretrain(config, tmp_path / "out", images(config))
    assert normalisation_of(str(result.checkpoint), SPEC) == ((0.1, 0.2, 0.3), IMAGENET_STD)
    assert normalisation_of(str(result.checkpoint), four) == ((0.5,) * 4, (0.5,) * 4)


def test_rows_for_colours_random_weights_and_each_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_resnet(monkeypatch)
    config = tiny_pretraining(tmp_path, "simsiam", "train.iters=1")
    source = str(pretrain(config, tmp_path / "out", images(config)).checkpoint)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    pixels = (labels[:, None, None, None] * 100 + rng.integers(0, 80, (60, 32, 32, 3))).astype(np.uint8)
    train, val = Patches(pixels[:40], labels[:40]), Patches(pixels[40:], labels[40:])
    lines: list[str] = []
    settings = ProbeSettings(labels=[10, 40], seeds=[0, 1], neighbours=3)
    rows = probe(config.backbone, [source], SPEC, train, val, settings, notify=lines.append)
    random = "random, calibrated"
    assert [(row.features, row.levels, row.dim) for row in rows] == [
        ("colour statistics", "", 15), (random, "c5", 8), (random, "c3 to c5", 20), (source, "c5", 8),
        (source, "c3 to c5", 20),
    ]  # fmt: skip
    for row in rows:
        assert [(score.probe, score.labels) for score in row.scores] == [("linear", 10), ("linear", 40), ("knn", 40)]
        assert all(len(score.balanced_accuracy) == 2 for score in row.scores)
    assert rows[0].scores[1].balanced_accuracy == (1.0, 1.0), "colours tell these classes apart"
    assert len(lines) == 1 and lines[0].startswith("backbone: ") and source in lines[0]


def test_features_that_are_not_finite_are_refused() -> None:
    rows = np.zeros((4, 3), np.float32)
    _require_finite([rows, rows], "here")
    rows[1, 2] = np.inf
    with pytest.raises(NotFiniteError, match="the weights here gives features that are not finite for 2 of 8 patches"):
        _require_finite([rows, rows], "here")
