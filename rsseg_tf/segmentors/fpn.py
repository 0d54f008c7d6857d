"""FPN: a feature pyramid whose levels are brought to stride 4 by convolutions and added.

Kirillov et al., Panoptic Feature Pyramid Networks, https://arxiv.org/abs/1901.02446.
Source: decoders/fpn of segmentation_models_pytorch.
"""

from __future__ import annotations

import math
from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import ResizeLike, classifier, kernel_initializer
from rsseg_tf.segmentors.requirements import require_backbone

__all__ = ["fpn"]

_FEATURES = ("c2", "c3", "c4", "c5")
_GROUPS = 32


@takes_weights
def fpn(
    backbone: keras.Model,
    *,
    num_classes: int,
    pyramid_channels: int = 256,
    segmentation_channels: int = 128,
    dropout: float = 0.2,
    align_corners: bool = True,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds an FPN on the features of strides 4 to 32.

    The model shares the backbone's layers and variables.

    Args:
        backbone: Model from an image to features `"c2"` to `"c5"`.
        num_classes: Channels of the logits.
        pyramid_channels: Channels of every level of the pyramid.
        segmentation_channels: Channels of the levels as they are added; they are normalised in 32 groups, or in as
            many as divide both numbers.
        dropout: Share of whole channels that are dropped before the classifier.
        align_corners: How levels and logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits}`, (B, H, W, num_classes) float32.

    Raises:
        ConfigError: If the backbone lacks features.
    """
    require_backbone(backbone, "fpn")
    if missing := [name for name in _FEATURES if name not in backbone.output]:
        raise ConfigError(
            f"fpn needs the features c2 to c5; backbone '{backbone.name}' has no {', '.join(missing)}. Use a resnet, "
            "or fcn as the segmentor."
        )
    features = [backbone.output[name] for name in _FEATURES]
    levels = _pyramid(features, pyramid_channels)
    merged = [
        _to_stride_4(levels[i], features[: i + 1], segmentation_channels, align_corners, name=f"head_level{i + 1}")
        for i in range(len(levels))
    ]
    x = keras.layers.Add(name="head_add")(merged[::-1])
    x = keras.layers.SpatialDropout2D(dropout, name="head_dropout")(x)
    x = classifier(x, num_classes, name="head_classifier")
    logits = ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)
    return keras.Model(backbone.input, {"main": logits}, name="fpn")


def _pyramid(features: list[Any], channels: int) -> list[Any]:
    """Returns the levels from stride 4 to 32, each with the one above it added."""
    levels = [
        keras.layers.Conv2D(channels, 1, kernel_initializer=kernel_initializer(), name=f"fpn_lateral{i}")(feature)
        for i, feature in enumerate(features, start=1)
    ]
    for i in range(len(levels) - 1, 0, -1):
        above = ResizeLike(interpolation="nearest", name=f"fpn_top_down{i}")(levels[i], levels[i - 1])
        levels[i - 1] = keras.layers.Add(name=f"fpn_add{i}")([above, levels[i - 1]])
    return levels


def _to_stride_4(x: Any, finer: list[Any], channels: int, align_corners: bool, *, name: str) -> Any:
    """Brings a level to the size of the first feature: for each stride a convolution, and a resizing if one is left.

    Args:
        x: (B, h, w, C), the level.
        finer: The backbone's features from stride 4 to that of the level.
        channels: Of the result.
        align_corners: How it is resized.
        name: What the names of the layers begin with.
    """
    for index in range(1, max(len(finer), 2)):
        conv = f"{name}_conv{index}"
        x = keras.layers.Conv2D(
            channels, 3, padding="same", use_bias=False, kernel_initializer=kernel_initializer(), name=conv
        )(x)
        x = keras.layers.GroupNormalization(math.gcd(_GROUPS, channels), epsilon=1e-5, name=f"{conv}_norm")(x)
        x = keras.layers.ReLU(name=f"{conv}_relu")(x)
        if len(finer) > 1:
            x = ResizeLike(align_corners=align_corners, name=f"{conv}_resize")(x, finer[-1 - index])
    return x
