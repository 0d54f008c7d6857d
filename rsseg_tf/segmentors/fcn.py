"""FCN: two 1x1 convolutions on the deepest features.

Shelhamer et al., Fully Convolutional Networks for Semantic Segmentation, https://arxiv.org/abs/1411.4038.
Source: paddleseg/models/fcn.py of PaddleSeg.
"""

from __future__ import annotations

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.files import StrPath
from rsseg_tf.layers import ResizeLike, classifier, conv_bn_relu
from rsseg_tf.segmentors.requirements import deepest_feature

__all__ = ["fcn"]

# Standard deviation with which PaddleSeg draws the head's kernels.
_STDDEV = 0.001


@takes_weights
def fcn(
    backbone: keras.Model,
    *,
    num_classes: int,
    channels: int | None = None,
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds an FCN on the deepest features of a backbone.

    The model shares the backbone's layers and variables.

    Args:
        backbone: Model from an image to features `"c2"`…; the last name in order of depth is used.
        num_classes: Channels of the logits.
        channels: Channels of the hidden convolution; by default as many as the features have.
        align_corners: How the logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits}`, (B, H, W, num_classes) float32.

    Raises:
        ConfigError: If the backbone has no features named `"c1"`, `"c2"`, ….
    """
    features = deepest_feature(backbone, "fcn")
    x = conv_bn_relu(features, channels or features.shape[-1], 1, use_bias=True, stddev=_STDDEV, name="head_conv")
    x = classifier(x, num_classes, stddev=_STDDEV, name="head_classifier")
    logits = ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)
    return keras.Model(backbone.input, {"main": logits}, name="fcn")
