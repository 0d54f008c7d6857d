"""Segmentors: functions from a backbone to a model whose outputs are logits by head name."""

from __future__ import annotations

from rsseg_tf.segmentors.c2fnet import c2fnet
from rsseg_tf.segmentors.deeplabv3plus import deeplabv3plus
from rsseg_tf.segmentors.fcn import fcn

__all__ = ["c2fnet", "deeplabv3plus", "fcn"]
