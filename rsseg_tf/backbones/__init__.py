"""Backbones: functions from an image to features named by their stride, `c0` (1) or `c1` (2) to `c5` (up to 32).

Those that a config can name take `weights`, as the segmentors do: what `pretrained` of a config takes, which is a name
of docs/licences.md such as "efficientnet_lite0", a file (.pdparams, .pth, .safetensors), its URL, a preset of
keras-hub, or the folder of a checkpoint. Errors are those of a config. Images of other than three bands get the first
kernel's filters in turn.
"""

from __future__ import annotations

from rsseg_tf.backbones.convnext import convnext, convnext_tiny
from rsseg_tf.backbones.efficientnet import (
    efficientnet,
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
)
from rsseg_tf.backbones.hrnet import hrnet, hrnet_w18, hrnet_w18_small, hrnet_w48
from rsseg_tf.backbones.keras_applications import keras_applications
from rsseg_tf.backbones.keras_hub import keras_hub
from rsseg_tf.backbones.mit import mit, mit_b0, mit_b1, mit_b2, mit_b3, mit_b4, mit_b5
from rsseg_tf.backbones.mobilenet_v3 import InvertedResidual, mobilenet_v3, mobilenet_v3_large, mobilenet_v3_small
from rsseg_tf.backbones.resnet import (
    resnet,
    resnet18,
    resnet18_v1c,
    resnet34,
    resnet50,
    resnet50_v1c,
    resnet101,
    resnet101_v1c,
)
from rsseg_tf.backbones.resnet_vd import resnet18_vd, resnet50_vd, resnet101_vd, resnet_vd
from rsseg_tf.backbones.unet_encoder import unet_encoder

__all__ = [
    "InvertedResidual",
    "convnext",
    "convnext_tiny",
    "efficientnet",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "hrnet",
    "hrnet_w18",
    "hrnet_w18_small",
    "hrnet_w48",
    "keras_applications",
    "keras_hub",
    "mit",
    "mit_b0",
    "mit_b1",
    "mit_b2",
    "mit_b3",
    "mit_b4",
    "mit_b5",
    "mobilenet_v3",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet",
    "resnet18",
    "resnet18_v1c",
    "resnet18_vd",
    "resnet34",
    "resnet50",
    "resnet50_v1c",
    "resnet50_vd",
    "resnet101",
    "resnet101_v1c",
    "resnet101_vd",
    "resnet_vd",
    "unet_encoder",
]
