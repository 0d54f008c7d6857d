"""The metrics for Keras: the numbers of `SegmentationScores`."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf import metrics
from rsseg_tf.errors import ConfigError
from rsseg_tf.losses import CrossEntropyLoss
from rsseg_tf.metrics import Kappa, MeanDice, MeanIoU, PixelAccuracy, SegmentationScores, confusion_matrix
from tests.fixtures.devices import two_devices

CLASSES = 5
KINDS = {"miou": MeanIoU, "acc": PixelAccuracy, "kappa": Kappa, "dice": MeanDice}


def batches(ignore_index: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three batches in which class 3 is nowhere."""
    rng, found = np.random.default_rng(seed), []
    for size in (1, 2, 1):
        labels = rng.choice([0, 1, 2, 4], (size, 16, 12), p=[0.7, 0.1, 0.1, 0.1]).astype("uint8")
        logits = rng.normal(size=(size, 16, 12, CLASSES)).astype("float32")
        logits[..., 3] = -9
        np.put_along_axis(logits, labels[..., None].astype("int64"), 1.2, axis=-1)
        labels[rng.random(labels.shape) < 0.2] = ignore_index
        found.append((labels, logits))
    return found


def scores(parts: list[tuple[np.ndarray, np.ndarray]], ignore_index: int) -> SegmentationScores:
    counts = [
        confusion_matrix(labels, logits.argmax(-1).astype("uint8"), CLASSES, ignore_index) for labels, logits in parts
    ]
    return SegmentationScores(np.sum(counts, axis=0), tuple("abcde"))


@pytest.mark.parametrize("ignore_index", [255, 0])
@pytest.mark.parametrize("name", KINDS)
def test_a_metric_gives_the_score_of_all_batches(name: str, ignore_index: int) -> None:
    parts = batches(ignore_index)
    metric = KINDS[name](CLASSES, ignore_index=ignore_index)
    for labels, logits in parts:
        metric.update_state(labels, logits)
    assert metric.name == name
    assert float(metric.result()) == pytest.approx(getattr(scores(parts, ignore_index), name), rel=1e-12)
    metric.reset_state()
    assert math.isnan(float(metric.result()))
    metric.update_state(parts[0][0][..., None], parts[0][1])
    assert float(metric.result()) == pytest.approx(getattr(scores(parts[:1], ignore_index), name), rel=1e-12)


def test_absent_classes_can_be_left_out_of_the_mean() -> None:
    parts = batches(255)
    metric = MeanIoU(CLASSES, present=True)
    for labels, logits in parts:
        metric.update_state(labels, logits)
    assert float(metric.result()) == pytest.approx(scores(parts, 255).miou_present, rel=1e-12)
    assert scores(parts, 255).miou_present < scores(parts, 255).miou


def test_kappa_of_one_class_is_nan() -> None:
    metric, labels = Kappa(CLASSES), np.zeros((1, 4, 4), "uint8")
    logits = np.zeros((1, 4, 4, CLASSES), "float32")  # of equals the first counts
    metric.update_state(labels, logits)
    assert math.isnan(float(metric.result())) and math.isnan(scores([(labels, logits)], 255).kappa)


def test_a_label_that_is_no_class_shows() -> None:
    """Leaving it out would raise the score silently."""
    labels, logits = batches(255)[0]
    metric = PixelAccuracy(CLASSES)
    labels[0, 0, 0] = 77
    metric.update_state(labels, logits)
    assert math.isnan(float(metric.result()))


@pytest.mark.parametrize("kind", KINDS.values())
def test_keras_writes_and_reads_a_metric(kind: type[keras.metrics.Metric]) -> None:
    metric = kind(CLASSES, ignore_index=0, name="mine", **({"present": True} if kind is MeanIoU else {}))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(metric))
    assert type(again) is kind and again.get_config() == metric.get_config() and again.ignore_index == 0


def test_what_does_not_fit_is_refused() -> None:
    labels, logits = batches(255)[0]
    with pytest.raises(ConfigError, match=r"'miou' is of 4 classes, and the model gives 5"):
        MeanIoU(4).update_state(labels, logits)
    with pytest.raises(ConfigError, match=r"takes no sample_weight"):
        MeanIoU(5).update_state(labels, logits, sample_weight=np.ones(1))
    with pytest.raises(ConfigError, match=r"num_classes must be at least 1; got 0"):
        MeanIoU(0)


@pytest.mark.parametrize("devices", [1, 2])
def test_evaluate_counts_every_pixel_once(devices: int) -> None:
    parts = batches(255)
    labels, logits = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    strategy = tf.distribute.get_strategy() if devices == 1 else two_devices()
    with strategy.scope():
        image = keras.Input((None, None, CLASSES))
        model = keras.Model(image, keras.layers.Activation("linear")(image))
        model.compile(loss=CrossEntropyLoss(), metrics=[kind(CLASSES) for kind in KINDS.values()])
    found = model.evaluate(tf.data.Dataset.from_tensor_slices((logits, labels)).batch(2), verbose=0, return_dict=True)
    expected = scores(parts, 255)
    assert {name: found[name] for name in KINDS} == pytest.approx(
        {name: getattr(expected, name) for name in KINDS}, rel=1e-6
    )


def test_the_import_of_the_scores_loads_no_keras() -> None:
    code = "import sys, rsseg_tf.metrics; print('keras' in sys.modules)"
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout.strip() == "False"
    with pytest.raises(AttributeError, match="has no attribute 'MeanIou'"):
        getattr(metrics, "MeanIou")  # noqa: B009
