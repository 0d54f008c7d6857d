"""Counts a model's predictions against labels, exactly as the benchmark does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import DatasetSpec, Sample
from rsseg_tf.inference import InferenceOptions, Predict, predict_labels
from rsseg_tf.metrics import SegmentationScores, confusion_matrix, count_ignored

__all__ = ["evaluate", "read_ahead"]

Observer = Callable[[int, np.ndarray, np.ndarray, np.ndarray], None]


def evaluate(
    predict: Predict,
    samples: Sequence[Sample],
    spec: DatasetSpec,
    options: InferenceOptions,
    *,
    observe: Observer | None = None,
) -> SegmentationScores:
    """Predicts every sample at its own size and counts the pixels.

    Args:
        predict: the model, see `Predict`.
        samples: images with labels.
        spec: classes, ignored id and statistics.
        options: scales, flips and sliding windows.
        observe: called with (index, image, label, prediction) after each sample; image in its own type.

    Raises:
        DataError: for a file that is unreadable or does not fit the dataset.
    """
    counts = np.zeros((spec.num_classes, spec.num_classes), np.int64)
    ignored = 0
    for index, (image, label) in enumerate(read_ahead(SampleReader(samples, spec), len(samples))):
        prediction = predict_labels(predict, image, spec, options)
        counts += confusion_matrix(label, prediction, spec.num_classes, spec.ignore_index)
        ignored += count_ignored(label, spec.ignore_index)
        if observe:
            observe(index, image, label, prediction)
    return SegmentationScores(counts, spec.classes, ignored)


def read_ahead(reader: SampleReader, count: int, ahead: int = 4) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields samples 0..count-1 in order while the next few are read by threads."""
    with ThreadPoolExecutor(ahead) as pool:
        indices = iter(range(count))
        waiting = [pool.submit(reader, i) for i in islice(indices, ahead)]
        while waiting:
            pair = waiting.pop(0).result()
            waiting.extend(pool.submit(reader, i) for i in islice(indices, 1))
            yield pair
