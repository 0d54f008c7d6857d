"""Losses of one head: functions of logits and labels."""

from __future__ import annotations

from rsseg_tf.losses.cross_entropy import cross_entropy

__all__ = ["cross_entropy"]
