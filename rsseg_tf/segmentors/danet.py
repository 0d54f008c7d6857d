"""DANet: attention between pixels and between channels on the deepest features.

Fu et al., Dual Attention Network for Scene Segmentation, https://arxiv.org/abs/1809.02983.
Source: paddleseg/models/danet.py of PaddleSeg.
"""

from __future__ import annotations

from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.files import StrPath
from rsseg_tf.layers import (
    ChannelAttention,
    PositionAttention,
    ResizeLike,
    UnusedWeights,
    conv_bn_relu,
    kernel_initializer,
)
from rsseg_tf.segmentors.requirements import deepest_feature

__all__ = ["danet"]

_DROPOUT = 0.1


@takes_weights
def danet(
    backbone: keras.Model,
    *,
    num_classes: int,
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a DANet on the deepest features of a backbone.

    The model shares the backbone's layers and variables. Three quirks of PaddleSeg are kept:

    - The outputs `"cam"` and `"pam"` have the same classifier. The weights of the one that was meant for `"pam"`
      lie on that output as `rsseg_tf.layers.UnusedWeights`.
    - Logits are resized with sources at target * scale, without the half pixel.
    - Dropout takes away whole channels.

    Args:
        backbone: Model from an image to features `"c2"`…; the last name in order of depth is used.
        num_classes: Channels of the logits.
        align_corners: How the logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to logits (B, H, W, num_classes) float32: `"main"` and, for training only,
        `"cam"` (after the attention between channels), `"pam"` (between pixels) and `"aux"` (of the features).

    Raises:
        ConfigError: If the backbone has no features named `"c1"`, `"c2"`, ….
    """
    features = deepest_feature(backbone, "danet")
    channels = features.shape[-1] // 4
    compared = max(channels // 8, 1)
    # Attention between channels: a (channels, channels) matrix of similarities.
    by_channel = conv_bn_relu(features, channels, 3, use_bias=True, name="cam_conv")
    by_channel = ChannelAttention(name="cam_attention")(by_channel)
    by_channel = conv_bn_relu(by_channel, channels, 3, use_bias=True, name="cam_project")

    # Attention between pixels: a (H * W, H * W) matrix, from queries and keys with an eighth of the channels.
    by_pixel = conv_bn_relu(features, channels, 3, use_bias=True, name="pam_conv")
    query, key, value = (
        _conv1x1(size, name=f"pam_{name}")(by_pixel)
        for name, size in (("query", compared), ("key", compared), ("value", channels))
    )
    by_pixel = PositionAttention(name="pam_attention")(by_pixel, query, key, value)
    by_pixel = conv_bn_relu(by_pixel, channels, 3, use_bias=True, name="pam_project")

    # Four heads; both attentions share a classifier.
    shared = _conv1x1(num_classes, name="attention_classifier")
    both = keras.layers.Add(name="head_add")([by_pixel, by_channel])
    logits = {
        "main": _conv1x1(num_classes, name="head_classifier")(_dropout(both, "head_dropout")),
        "cam": shared(_dropout(by_channel, "cam_dropout")),
        "pam": shared(_dropout(by_pixel, "pam_dropout")),
        "aux": _conv1x1(num_classes, name="aux_classifier")(_dropout(features, "aux_dropout")),
    }
    outputs = {
        head: ResizeLike(align_corners=align_corners, half_pixel_centers=False, dtype="float32", name=head)(
            x, backbone.input
        )
        for head, x in logits.items()
    }
    unused = _conv1x1(num_classes, name="pam_classifier")
    unused.build((None, None, None, channels))
    outputs["pam"] = UnusedWeights([unused], dtype="float32", name="unused")(outputs["pam"])
    return keras.Model(backbone.input, outputs, name="danet")


def _conv1x1(filters: int, *, name: str) -> keras.layers.Conv2D:
    return keras.layers.Conv2D(filters, 1, kernel_initializer=kernel_initializer(), name=name)


def _dropout(x: Any, name: str) -> Any:
    return keras.layers.SpatialDropout2D(_DROPOUT, name=name)(x)
