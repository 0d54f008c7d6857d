"""Counts of label against prediction.

PaddleSeg (`paddleseg/utils/metrics.py`) keeps three vectors: the areas of intersection, prediction and label. They are
the diagonal, the column sums and the row sums of the matrix counted here; the matrix also shows *which* classes are
mistaken for each other.

One difference is on purpose. PaddleSeg counts a label that is neither a class nor the ignored value as predicted area,
which lowers the scores silently. Such a label is a mistake in the data, and this module refuses it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import DataError

__all__ = ["confusion_matrix", "count_ignored"]

_EXACT = 2**24
"""Pixels that OpenCV counts at once: it returns float32, which hold each whole number up to this one."""


def confusion_matrix(
    labels: NDArray[np.integer],
    predictions: NDArray[np.integer],
    num_classes: int,
    ignore_index: int = 255,
) -> NDArray[np.int64]:
    """Counts pixels by label and prediction; pixels labelled `ignore_index` are left out.

    Matrices of several images or batches are merged by adding them.

    Args:
        labels: Integers of any shape, 0..num_classes-1 or `ignore_index`.
        predictions: Integers of the same shape, 0..num_classes-1 where the label is not ignored, any value elsewhere.
        num_classes: Number of classes, at least 1.
        ignore_index: Label of pixels that do not count.

    Returns:
        `(num_classes, num_classes)` int64: row = label, column = prediction.

    Raises:
        DataError: If shapes differ, an array is not of integers, or a value is out of range.
    """
    if num_classes < 1:
        raise DataError(f"num_classes must be at least 1; got {num_classes}. Give the number of classes of the data.")
    if labels.shape != predictions.shape:
        raise DataError(
            f"labels and predictions must have one shape; got labels {labels.shape} and predictions "
            f"{predictions.shape}. Resize the prediction to the label's size."
        )
    for what, values in (("labels", labels), ("predictions", predictions)):
        if not np.issubdtype(values.dtype, np.integer):
            raise DataError(
                f"{what} must be integers (class ids); got {values.dtype}. Take the argmax of logits first."
            )
    if labels.dtype == predictions.dtype == np.uint8:
        return _from_bytes(labels, predictions, num_classes, ignore_index)
    counted = labels != ignore_index
    # int64 before the multiplication: 16 * 16 already overflows uint8.
    rows = labels[counted].astype(np.int64)
    columns = predictions[counted].astype(np.int64)
    _refuse_outside("labels", rows, num_classes, f" or {ignore_index} (ignored)")
    _refuse_outside("predictions", columns, num_classes, "")
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes * num_classes)
    return counts.astype(np.int64).reshape(num_classes, num_classes)


def _from_bytes(
    labels: NDArray[np.integer], predictions: NDArray[np.integer], num_classes: int, ignore_index: int
) -> NDArray[np.int64]:
    """Counts bytes: every pair of values, of which the allowed ones are kept. No pixel is looked at twice."""
    counts = np.zeros((2**8, 2**8), np.int64)
    flat = labels.reshape(1, -1), predictions.reshape(1, -1)
    # OpenCV takes half the time of `numpy.bincount`, which makes eight bytes of each pair first.
    for start in range(0, labels.size, _EXACT):
        part = [np.ascontiguousarray(one[:, start : start + _EXACT], np.uint8) for one in flat]
        counts += cv2.calcHist(part, [0, 1], None, [2**8, 2**8], [0, 2**8, 0, 2**8]).astype(np.int64)
    if 0 <= ignore_index < 2**8:
        counts[ignore_index] = 0
    _refuse_outside("labels", np.flatnonzero(counts.any(axis=1)), num_classes, f" or {ignore_index} (ignored)")
    _refuse_outside("predictions", np.flatnonzero(counts.any(axis=0)), num_classes, "")
    result = np.zeros((num_classes, num_classes), np.int64)
    known = min(num_classes, 2**8)
    result[:known, :known] = counts[:known, :known]
    return result


def count_ignored(labels: NDArray[np.integer], ignore_index: int = 255) -> int:
    """Returns how many pixels of `labels` (any shape) have the ignored value."""
    return int(np.count_nonzero(labels == ignore_index))


def _refuse_outside(what: str, values: NDArray[np.int64], num_classes: int, also: str) -> None:
    """Raises `DataError` that names those of `values` that are not in 0..num_classes-1."""
    if values.size == 0 or (values.min() >= 0 and values.max() < num_classes):
        return
    outside = np.unique(values[(values < 0) | (values >= num_classes)])
    shown = ", ".join(str(value) for value in outside[:8]) + (", …" if outside.size > 8 else "")
    raise DataError(
        f"{what} must be 0..{num_classes - 1}{also}; got {shown}. "
        "Convert the values to class ids, or set num_classes and ignore_index to fit the data."
    )
