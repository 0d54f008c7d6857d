"""UPerNet: pyramid pooling on the deepest features, and a feature pyramid over all four strides.

Xiao et al., Unified Perceptual Parsing for Scene Understanding, https://arxiv.org/abs/1807.10221.
Source: paddleseg/models/upernet.py of PaddleSeg; for the other variant UPerHead and FCNHead in
mmseg/models/decode_heads of mmsegmentation.
"""

from __future__ import annotations

from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import (
    BatchNorm,
    ResizeLike,
    UnusedWeights,
    auxiliary_head,
    classifier,
    conv_bn_relu,
    kernel_initializer,
    pyramid_pooling,
)
from rsseg_tf.segmentors.requirements import Variant, require_backbone, require_variant

__all__ = ["upernet"]

_FEATURES = ("c2", "c3", "c4", "c5")
_BIN_SIZES = (1, 2, 3, 6)


@takes_weights
def upernet(
    backbone: keras.Model,
    *,
    num_classes: int,
    channels: int = 512,
    dropout: float = 0.1,
    aux_head: bool = True,
    aux_channels: int | None = None,
    variant: Variant = "paddleseg",
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a UPerNet on the features of all four strides, with an auxiliary head on the third.

    The model shares the backbone's layers and variables. Between the levels, PaddleSeg resizes features with aligned
    corners in any case. It has a second classifier that nothing calls; its weights (`conv_last`) lie on the output
    `"aux"` as `rsseg_tf.layers.UnusedWeights`, so that a model without that output has none of them.

    Args:
        backbone: Model from an image to features `"c2"` to `"c5"`.
        num_classes: Channels of the logits.
        channels: Channels of every level of the pyramid.
        dropout: Share of values that the auxiliary head drops; in mmsegmentation's variant the share of channels that
            both heads drop.
        aux_head: Whether the model has the output `"aux"`.
        aux_channels: Channels of the auxiliary head's convolution; by default as many as its features have, and 256 in
            mmsegmentation's variant.
        variant: Whose computation it is. mmsegmentation's has `channels` channels for each mean of the pyramid, no
            second classifier, and resizes between the levels as `align_corners` says.
        align_corners: How the logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits, "aux": logits}`, (B, H, W, num_classes) float32.

    Raises:
        ConfigError: If the backbone lacks features, or there is no such variant.
    """
    require_backbone(backbone, "upernet")
    missing = [name for name in _FEATURES if name not in backbone.output]
    if missing:
        raise ConfigError(
            f"upernet needs the features c2 to c5; backbone '{backbone.name}' has no {', '.join(missing)}. "
            "Use a resnet."
        )
    require_variant(variant, "upernet")
    of_mmsegmentation = variant == "mmsegmentation"
    features = [backbone.output[name] for name in _FEATURES]
    fused = _feature_pyramid(
        features,
        channels,
        branch_channels=channels if of_mmsegmentation else None,
        align_corners=align_corners if of_mmsegmentation else True,
    )
    x = conv_bn_relu(fused, channels, 3, use_bias=True, name="fpn_bottleneck")
    if of_mmsegmentation:
        x = keras.layers.SpatialDropout2D(dropout, name="head_dropout")(x)
    x = classifier(x, num_classes, name="head_classifier")
    outputs = {"main": ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)}
    if aux_head:
        aux_channels = aux_channels or (256 if of_mmsegmentation else features[2].shape[-1])
        x = auxiliary_head(features[2], aux_channels, num_classes, dropout=dropout, of_channels=of_mmsegmentation)
        x = ResizeLike(align_corners=align_corners, dtype="float32", name="aux")(x, backbone.input)
        if not of_mmsegmentation:
            unused = _second_classifier(fused.shape[-1], channels, num_classes)
            x = UnusedWeights(unused, dtype="float32", name="unused")(x)
        outputs["aux"] = x
    return keras.Model(backbone.input, outputs, name="upernet")


def _feature_pyramid(features: list[Any], channels: int, *, branch_channels: int | None, align_corners: bool) -> Any:
    """Returns all levels at the size of the first one, (B, H, W, 4 * channels)."""
    # Lateral convolutions: strides [4, 8, 16, 32], `channels` each; the deepest level pools instead.
    levels = [
        conv_bn_relu(feature, channels, 1, use_bias=True, name=f"fpn_lateral{i}")
        for i, feature in enumerate(features[:-1], start=1)
    ]
    levels.append(
        pyramid_pooling(
            features[-1],
            channels,
            bin_sizes=_BIN_SIZES,
            align_corners=align_corners,
            branch_channels=branch_channels,
        )
    )
    # Top-down: each level adds the one above it, from stride 32 down to 4.
    for i in range(len(levels) - 1, 0, -1):
        above = ResizeLike(align_corners=align_corners, name=f"fpn_top_down{i}")(levels[i], levels[i - 1])
        levels[i - 1] = keras.layers.Add(name=f"fpn_add{i}")([levels[i - 1], above])
    # A 3x3 convolution on every level but the pooled one, then all levels at stride 4.
    joined = [conv_bn_relu(level, channels, 3, name=f"fpn_conv{i}") for i, level in enumerate(levels[:-1], start=1)]
    joined.append(levels[-1])
    resized = [
        ResizeLike(align_corners=align_corners, name=f"fpn_resize{i}")(level, joined[0])
        for i, level in enumerate(joined[1:], start=2)
    ]
    return keras.layers.Concatenate(name="fpn_concat")([joined[0], *resized])


def _second_classifier(in_channels: int, channels: int, num_classes: int) -> list[keras.layers.Layer]:
    """Returns built layers: convolution, normalisation and classifier."""
    conv = keras.layers.Conv2D(
        channels, 3, padding="same", use_bias=False, kernel_initializer=kernel_initializer(), name="conv_last"
    )
    norm = BatchNorm(name="conv_last_bn")
    last = keras.layers.Conv2D(num_classes, 1, kernel_initializer=kernel_initializer(), name="conv_last_classifier")
    conv.build((None, None, None, in_channels))
    norm.build((None, None, None, channels))
    last.build((None, None, None, channels))
    return [conv, norm, last]
