"""Scores of a segmentation: a confusion matrix, and the numbers that are computed from it."""

from __future__ import annotations

from rsseg_tf.metrics.confusion import confusion_matrix, count_ignored
from rsseg_tf.metrics.scores import ABSENT_CLASS_POLICY, SegmentationScores

__all__ = ["ABSENT_CLASS_POLICY", "SegmentationScores", "confusion_matrix", "count_ignored"]
