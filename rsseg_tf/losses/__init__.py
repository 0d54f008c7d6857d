"""Losses of one head: functions of what the head returns and of labels, and objects for Keras's `compile`."""

from __future__ import annotations

from rsseg_tf.losses.cross_entropy import cross_entropy
from rsseg_tf.losses.dice import dice
from rsseg_tf.losses.focal import focal
from rsseg_tf.losses.keras_losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    FunctionLoss,
    KerasLoss,
    LovaszSoftmaxLoss,
    MixedLoss,
    OhemCrossEntropyLoss,
    PixelContrastLoss,
    WindowLoss,
)
from rsseg_tf.losses.lovasz import lovasz_softmax
from rsseg_tf.losses.ohem import ohem_cross_entropy
from rsseg_tf.losses.pixel_contrast import pixel_contrast

__all__ = [
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "FunctionLoss",
    "KerasLoss",
    "LovaszSoftmaxLoss",
    "MixedLoss",
    "OhemCrossEntropyLoss",
    "PixelContrastLoss",
    "WindowLoss",
    "cross_entropy",
    "dice",
    "focal",
    "lovasz_softmax",
    "ohem_cross_entropy",
    "pixel_contrast",
]
