"""Segmentors: functions from a backbone to a model whose outputs are logits by head name."""

from __future__ import annotations

from rsseg_tf.segmentors.c2fnet import c2fnet
from rsseg_tf.segmentors.danet import danet
from rsseg_tf.segmentors.deeplabv3plus import deeplabv3plus
from rsseg_tf.segmentors.fcn import fcn
from rsseg_tf.segmentors.fpn import fpn
from rsseg_tf.segmentors.hrnet_contrast import hrnet_contrast
from rsseg_tf.segmentors.lraspp import lraspp
from rsseg_tf.segmentors.ocrnet import ocrnet
from rsseg_tf.segmentors.pspnet import pspnet
from rsseg_tf.segmentors.segformer import segformer
from rsseg_tf.segmentors.unet import unet
from rsseg_tf.segmentors.upernet import upernet

__all__ = [
    "c2fnet",
    "danet",
    "deeplabv3plus",
    "fcn",
    "fpn",
    "hrnet_contrast",
    "lraspp",
    "ocrnet",
    "pspnet",
    "segformer",
    "unet",
    "upernet",
]
