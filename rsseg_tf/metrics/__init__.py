"""Scores of a segmentation: of a confusion matrix, of outlines, of objects by size, of confidence.

`MeanIoU`, `PixelAccuracy`, `Kappa` and `MeanDice` are metrics for Keras, which is imported with the first of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rsseg_tf.metrics.boundary import BoundaryCounts
from rsseg_tf.metrics.calibration import Calibration, ConfidenceCounts, LogitSample, fit_temperature
from rsseg_tf.metrics.confusion import confusion_matrix, count_ignored
from rsseg_tf.metrics.objects import ObjectCounts
from rsseg_tf.metrics.scores import ABSENT_CLASS_POLICY, SegmentationScores

if TYPE_CHECKING:
    from rsseg_tf.metrics.keras_metrics import Kappa, MeanDice, MeanIoU, PixelAccuracy

__all__ = [
    "ABSENT_CLASS_POLICY",
    "BoundaryCounts",
    "Calibration",
    "ConfidenceCounts",
    "Kappa",
    "LogitSample",
    "MeanDice",
    "MeanIoU",
    "ObjectCounts",
    "PixelAccuracy",
    "SegmentationScores",
    "confusion_matrix",
    "count_ignored",
    "fit_temperature",
]

_OF_KERAS = ("Kappa", "MeanDice", "MeanIoU", "PixelAccuracy")

if not TYPE_CHECKING:  # a type checker shall report wrong names

    def __getattr__(name: str) -> Any:
        if name not in _OF_KERAS:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        return getattr(importlib.import_module("rsseg_tf.metrics.keras_metrics"), name)
