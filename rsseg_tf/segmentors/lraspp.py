"""LR-ASPP: the deepest features under a gate that sees the whole image, joined with finer ones as logits.

Howard et al., Searching for MobileNetV3, https://arxiv.org/abs/1905.02244.
Source: torchvision/models/segmentation/lraspp.py, whose released weights fit. As there, the gate is the same for the
whole image; the paper's follows means over large windows.
"""

from __future__ import annotations

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import AdaptiveAveragePooling, ResizeLike, classifier, conv_bn_relu
from rsseg_tf.segmentors.requirements import require_backbone

__all__ = ["lraspp"]


@takes_weights
def lraspp(
    backbone: keras.Model,
    *,
    num_classes: int,
    channels: int = 128,
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds an LR-ASPP on the features `"c3"` and the deepest ones of a backbone.

    The model shares the backbone's layers and variables.

    Args:
        backbone: Model from an image to features `"c3"` (stride 8) and at least one deeper one.
        num_classes: Channels of the logits.
        channels: Channels to which the deepest features are reduced.
        align_corners: How logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits}`, (B, H, W, num_classes) float32.

    Raises:
        ConfigError: If the backbone lacks features.
    """
    names = require_backbone(backbone, "lraspp")
    if "c3" not in names or names[-1] == "c3":
        raise ConfigError(
            f"lraspp needs features c3 and a deeper one (c4 or c5); backbone '{backbone.name}' has "
            f"{', '.join(names) or 'none'}. Use a mobilenet_v3 or a resnet, or fcn as the segmentor."
        )
    low_level, features = backbone.output["c3"], backbone.output[names[-1]]
    x = conv_bn_relu(features, channels, 1, name="head_conv")
    gate = AdaptiveAveragePooling(1, name="head_pool")(features)
    gate = classifier(gate, channels, use_bias=False, name="head_gate")
    gate = keras.layers.Activation("sigmoid", name="head_gate_sigmoid")(gate)
    x = keras.layers.Multiply(name="head_multiply")([x, gate])
    # Torchvision resizes before it classifies; a 1x1 convolution gives the same either way, and classes are fewer.
    x = classifier(x, num_classes, name="head_classifier")
    x = ResizeLike(align_corners=align_corners, name="head_resize")(x, low_level)
    x = keras.layers.Add(name="head_add")([x, classifier(low_level, num_classes, name="head_low_classifier")])
    logits = ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)
    return keras.Model(backbone.input, {"main": logits}, name="lraspp")
