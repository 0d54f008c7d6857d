"""Scores of a segmentation: of a confusion matrix, of outlines, of objects by size, of confidence."""

from __future__ import annotations

from rsseg_tf.metrics.boundary import BoundaryCounts
from rsseg_tf.metrics.calibration import Calibration, ConfidenceCounts, LogitSample, fit_temperature
from rsseg_tf.metrics.confusion import confusion_matrix, count_ignored
from rsseg_tf.metrics.objects import ObjectCounts
from rsseg_tf.metrics.scores import ABSENT_CLASS_POLICY, SegmentationScores

__all__ = [
    "ABSENT_CLASS_POLICY",
    "BoundaryCounts",
    "Calibration",
    "ConfidenceCounts",
    "LogitSample",
    "ObjectCounts",
    "SegmentationScores",
    "confusion_matrix",
    "count_ignored",
    "fit_temperature",
]
