"""Backbones: functions from an image to features named by their stride, `c1` (2) to `c5` (up to 32)."""

from __future__ import annotations

from rsseg_tf.backbones.hrnet import hrnet, hrnet_w18, hrnet_w18_small, hrnet_w48
from rsseg_tf.backbones.mobilenet_v3 import InvertedResidual, mobilenet_v3, mobilenet_v3_large, mobilenet_v3_small
from rsseg_tf.backbones.resnet import (
    resnet,
    resnet18,
    resnet18_v1c,
    resnet50,
    resnet50_v1c,
    resnet101,
    resnet101_v1c,
)
from rsseg_tf.backbones.resnet_vd import resnet18_vd, resnet50_vd, resnet101_vd, resnet_vd

__all__ = [
    "InvertedResidual",
    "hrnet",
    "hrnet_w18",
    "hrnet_w18_small",
    "hrnet_w48",
    "mobilenet_v3",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet",
    "resnet18",
    "resnet18_v1c",
    "resnet18_vd",
    "resnet50",
    "resnet50_v1c",
    "resnet50_vd",
    "resnet101",
    "resnet101_v1c",
    "resnet101_vd",
    "resnet_vd",
]
