"""Scores that are computed from a confusion matrix.

The plain names (`miou`, `acc`, `kappa`, `dice`) are PaddleSeg's numbers, with its handling of zero areas
(`paddleseg/utils/metrics.py`, functions `mean_iou`, `class_measurement`, `kappa`, `dice`), so that they may stand
beside published tables. Two other common definitions differ from them by several points: `miou_present` leaves absent
classes out, `micro_iou` pools the pixels of all classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import DataError

__all__ = ["ABSENT_CLASS_POLICY", "SegmentationScores"]

ABSENT_CLASS_POLICY = (
    "A class in neither label nor prediction has IoU 1 and dice, precision and recall 0, and enters the macro means "
    "like any other, as in PaddleSeg; miou_present leaves such classes out."
)


@dataclass(frozen=True, eq=False)
class SegmentationScores:
    """Scores of a segmentation, all computed from `confusion`.

    Per-class arrays are `(C,)` float64 in 0..1, in the order of `classes`; means are floats in 0..1 (`kappa`: at most
    1, and below 0 for a prediction worse than chance).

    Attributes:
        confusion: `(C, C)` int64, row = label, column = prediction, without ignored pixels.
        classes: C class names.
        ignored_pixels: Pixels that were left out of `confusion`.
        left_out: Names of classes that the means over classes leave out (`miou`, `miou_present`, `dice`, `macro_…`).
            Their pixels still count in the other classes' scores and in `acc`, `kappa` and `micro_iou`.

    Raises:
        DataError: If the matrix is not square with integers >= 0, does not fit the class names, or counts no pixel; if
            `left_out` names what is no class, or names all classes.
    """

    confusion: NDArray[np.int64]
    classes: tuple[str, ...]
    ignored_pixels: int = 0
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = len(self.classes)
        matrix = np.array(self.confusion)
        if matrix.shape != (size, size) or size == 0:
            raise DataError(
                f"the confusion matrix must be {size} x {size} for {size} class names; got shape {matrix.shape}. "
                "Count it with num_classes equal to the number of names."
            )
        if not np.issubdtype(matrix.dtype, np.integer) or matrix.min() < 0 or self.ignored_pixels < 0:
            raise DataError(
                f"pixel counts must be integers >= 0; got {matrix.dtype} with minimum {matrix.min()} and "
                f"{self.ignored_pixels} ignored pixels. Use confusion_matrix() and count_ignored()."
            )
        if matrix.sum() == 0:
            raise DataError(
                f"no pixel to score: 0 pixels counted, {self.ignored_pixels} ignored; at least one is needed. "
                "Check the labels and the ignore index."
            )
        unknown = [name for name in self.left_out if name not in self.classes]
        if unknown or set(self.left_out) == set(self.classes):
            raise DataError(
                f"left_out must name classes, and not all of them; got {', '.join(self.left_out)} for the classes "
                f"{', '.join(self.classes)}. Leave none out, or correct the names."
            )
        matrix = matrix.astype(np.int64)
        matrix.setflags(write=False)
        object.__setattr__(self, "confusion", matrix)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "left_out", tuple(self.left_out))

    @classmethod
    def merge(cls, parts: Sequence[SegmentationScores]) -> SegmentationScores:
        """Adds the counts of scores over the same classes (for instance of several images or workers)."""
        if not parts:
            raise DataError("merge needs at least one set of scores; got none.")
        names = {(part.classes, part.left_out) for part in parts}
        if len(names) != 1:
            raise DataError(
                f"scores to merge must have the same classes and leave out the same; got {len(names)} different lists. "
                "Score all parts with one dataset's class names."
            )
        total = np.stack([part.confusion for part in parts]).sum(axis=0)
        return cls(total, parts[0].classes, sum(part.ignored_pixels for part in parts), parts[0].left_out)

    @property
    def intersection(self) -> NDArray[np.int64]:
        """Correct pixels per class, `(C,)`."""
        return np.diagonal(self.confusion)

    @property
    def label_pixels(self) -> NDArray[np.int64]:
        """Pixels per class in the label, `(C,)`."""
        return self.confusion.sum(axis=1)

    @property
    def prediction_pixels(self) -> NDArray[np.int64]:
        """Pixels per class in the prediction, `(C,)`."""
        return self.confusion.sum(axis=0)

    @property
    def union(self) -> NDArray[np.int64]:
        """Pixels per class in label or prediction, `(C,)`."""
        return self.label_pixels + self.prediction_pixels - self.intersection

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether a class occurs in label or prediction, `(C,)`."""
        return self.union > 0

    @property
    def in_means(self) -> NDArray[np.bool_]:
        """Whether a class is part of the means over classes, `(C,)`."""
        return np.array([name not in self.left_out for name in self.classes])

    @property
    def class_iou(self) -> NDArray[np.float64]:
        """Intersection over union per class; 1 for an absent class."""
        return _ratio(self.intersection, self.union, where_zero=1.0)

    @property
    def class_precision(self) -> NDArray[np.float64]:
        """Correct pixels among the predicted ones per class; 0 where nothing is predicted."""
        return _ratio(self.intersection, self.prediction_pixels, where_zero=0.0)

    @property
    def class_recall(self) -> NDArray[np.float64]:
        """Correct pixels among the labelled ones per class; 0 where nothing is labelled."""
        return _ratio(self.intersection, self.label_pixels, where_zero=0.0)

    @property
    def class_dice(self) -> NDArray[np.float64]:
        """Twice the intersection over the sum of both areas per class (equal to F1); 0 for an absent class."""
        return _ratio(2 * self.intersection, self.label_pixels + self.prediction_pixels, where_zero=0.0)

    @property
    def miou(self) -> float:
        """PaddleSeg's mean IoU: over all classes that are not left out, absent ones with 1."""
        return self._mean(self.class_iou)

    @property
    def miou_present(self) -> float:
        """Mean IoU over the classes that occur in label or prediction; nan where those are all left out."""
        chosen = self.present & self.in_means
        return float(self.class_iou[chosen].mean()) if chosen.any() else math.nan

    @property
    def micro_iou(self) -> float:
        """Sum of intersections over sum of unions."""
        return float(self.intersection.sum() / self.union.sum())

    @property
    def acc(self) -> float:
        """Share of correct pixels; as every pixel has one class, also micro precision, recall and F1."""
        return float(self.intersection.sum() / self.prediction_pixels.sum())

    @property
    def kappa(self) -> float:
        """Cohen's kappa; nan where label and prediction are wholly one class (chance agreement 1), as in PaddleSeg.

        It is computed from the areas in float64, as in PaddleSeg, so that large products do not overflow.
        """
        total = float(self.confusion.sum())
        observed = float(self.intersection.sum()) / total
        by_class = self.prediction_pixels.astype(np.float64) * self.label_pixels.astype(np.float64)
        chance = float(by_class.sum()) / (total * total)
        return math.nan if chance == 1.0 else (observed - chance) / (1.0 - chance)

    @property
    def dice(self) -> float:
        """PaddleSeg's mean dice: over all classes that are not left out, absent ones with 0."""
        return self._mean(self.class_dice)

    @property
    def macro_precision(self) -> float:
        """Mean of the per-class precision over all classes that are not left out."""
        return self._mean(self.class_precision)

    @property
    def macro_recall(self) -> float:
        """Mean of the per-class recall over all classes that are not left out."""
        return self._mean(self.class_recall)

    @property
    def macro_f1(self) -> float:
        """Mean of the per-class F1 over all classes that are not left out; the same number as `dice`."""
        return self.dice

    def _mean(self, values: NDArray[np.float64]) -> float:
        return float(values[self.in_means].mean())

    def to_json(self) -> dict[str, Any]:
        """Returns everything as plain Python values for `json.dump`; numbers that are nan become None."""
        columns = zip(
            self.classes,
            self.label_pixels.tolist(),
            self.prediction_pixels.tolist(),
            self.class_iou.tolist(),
            self.class_precision.tolist(),
            self.class_recall.tolist(),
            self.class_dice.tolist(),
            self.present.tolist(),
            self.in_means.tolist(),
            strict=True,
        )
        keys = (
            "name", "label_pixels", "prediction_pixels", "iou", "precision", "recall", "dice", "present", "in_means",
        )  # fmt: skip
        return {
            "classes": [dict(zip(keys, values, strict=True)) for values in columns],
            "counted_pixels": int(self.confusion.sum()),
            "ignored_pixels": int(self.ignored_pixels),
            "absent_class_policy": ABSENT_CLASS_POLICY,
            "macro": {
                "miou": self.miou,
                "miou_present": _or_none(self.miou_present),
                "dice": self.dice,
                "precision": self.macro_precision,
                "recall": self.macro_recall,
                "f1": self.macro_f1,
            },
            "micro": {"iou": self.micro_iou, "acc": self.acc},
            "kappa": _or_none(self.kappa),
            "confusion_matrix": {"rows": "label", "columns": "prediction", "counts": self.confusion.tolist()},
        }


def _or_none(value: float) -> float | None:
    """Returns None for nan, which JSON does not have."""
    return None if math.isnan(value) else value


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64], where_zero: float) -> NDArray[np.float64]:
    """Divides counts; where the divisor is 0, gives `where_zero`."""
    quotient = np.full(part.shape, where_zero, dtype=np.float64)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient
