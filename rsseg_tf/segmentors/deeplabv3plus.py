"""DeepLabV3+: atrous spatial pyramid pooling and a decoder that sees features of stride 4.

Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation,
https://arxiv.org/abs/1802.02611.
Source: DeepLabV3P in paddleseg/models/deeplab.py and ASPPModule in paddleseg/models/layers/pyramid_pool.py of
PaddleSeg. The paper's decoder has plain 3x3 convolutions, PaddleSeg's separable ones. For the other variants
DepthwiseSeparableASPPHead and FCNHead in mmseg/models/decode_heads of mmsegmentation, and decoders/deeplabv3 of
segmentation_models_pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import (
    AdaptiveAveragePooling,
    ResizeLike,
    auxiliary_head,
    classifier,
    conv_bn_relu,
    separable_conv_bn_relu,
)
from rsseg_tf.segmentors.requirements import VariantOrSmp, require_backbone, require_variant

__all__ = ["deeplabv3plus"]


@takes_weights
def deeplabv3plus(
    backbone: keras.Model,
    *,
    num_classes: int,
    aspp_rates: Sequence[int] = (1, 12, 24, 36),
    aspp_channels: int = 256,
    decoder_channels: int = 256,
    low_level_channels: int = 48,
    aux_head: bool = False,
    variant: VariantOrSmp = "paddleseg",
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a DeepLabV3+ on the stride-4 and the deepest features of a backbone.

    The model shares the backbone's layers and variables. The benchmark uses the same rates on its undilated ResNet-50
    (output stride 32) as on ResNet-50-D at output stride 8, for which they are meant.

    Args:
        backbone: Model from an image to features `"c2"` and at least one deeper one.
        num_classes: Channels of the logits.
        aspp_rates: Dilation of each branch of the pyramid; rate 1 is a 1x1 convolution. (6, 12, 18 are usual at output
            stride 16.)
        aspp_channels: Channels of every branch and of the pyramid's result.
        decoder_channels: Channels of the decoder's two separable convolutions.
        low_level_channels: Channels to which the stride-4 features are reduced.
        aux_head: Whether the model has the output `"aux"`, an auxiliary head on the features before the deepest.
        variant: Whose computation it is. mmsegmentation's has a ReLU between the halves of a separable convolution, and
            a 3x3 convolution at the end of the pyramid; in training whole channels are dropped, before the classifier
            and not after the pyramid. Its configs have 512 channels in pyramid and decoder.
            segmentation_models_pytorch's ("smp") has nothing between those halves, one more separable convolution after
            the pyramid and one less in the decoder; in training it drops half of the pyramid's values. It is used at
            output stride 16 with the rates 1, 12, 24 and 36 and aligned corners, without an auxiliary head.
        align_corners: How features and logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits}`, and `"aux"` with `aux_head`, (B, H, W, num_classes)
        float32.

    Raises:
        ConfigError: If the backbone lacks features, a rate is below 1, or there is no such variant.
    """
    names = require_backbone(backbone, "deeplabv3plus")
    if "c2" not in names or names[-1] == "c2":
        raise ConfigError(
            f"deeplabv3plus needs features c2 and a deeper one (c3, c4 or c5); backbone '{backbone.name}' has "
            f"{', '.join(names) or 'none'}. Use a resnet, or fcn as the segmentor."
        )
    if not aspp_rates or min(aspp_rates) < 1:
        raise ConfigError(f"aspp_rates must be integers of at least 1; got {tuple(aspp_rates)}.")
    require_variant(variant, "deeplabv3plus", smp=True)
    low_level, features = backbone.output["c2"], backbone.output[names[-1]]
    x = _aspp(features, aspp_rates, aspp_channels, variant=variant, align_corners=align_corners)

    # Decoder: the pyramid at stride 4, beside reduced features of that stride.
    low_level = conv_bn_relu(low_level, low_level_channels, 1, use_bias=True, name="decoder_low_level")
    x = ResizeLike(align_corners=align_corners, name="decoder_resize")(x, low_level)
    x = keras.layers.Concatenate(name="decoder_concat")([x, low_level])
    x = _separable(x, decoder_channels, variant=variant, name="decoder_conv1")
    if variant != "smp":
        x = _separable(x, decoder_channels, variant=variant, name="decoder_conv2")
    if variant == "mmsegmentation":
        x = keras.layers.SpatialDropout2D(0.1, name="decoder_dropout")(x)
    logits = {"main": classifier(x, num_classes, name="decoder_classifier")}
    if aux_head:
        x = backbone.output[names[-2]]
        of_channels = variant != "paddleseg"
        logits["aux"] = auxiliary_head(x, x.shape[-1] // 4, num_classes, dropout=0.1, of_channels=of_channels)
    outputs = {
        head: ResizeLike(align_corners=align_corners, dtype="float32", name=head)(x, backbone.input)
        for head, x in logits.items()
    }
    return keras.Model(backbone.input, outputs, name="deeplabv3plus")


def _aspp(x: Any, rates: Sequence[int], channels: int, *, variant: VariantOrSmp, align_corners: bool) -> Any:
    """Atrous spatial pyramid pooling with image pooling, (B, H, W, C) -> (B, H, W, channels)."""
    branches = []
    for index, rate in enumerate(rates, start=1):
        name = f"aspp_branch{index}"
        if rate == 1:
            branches.append(conv_bn_relu(x, channels, 1, use_bias=True, name=name))
        else:
            branches.append(_separable(x, channels, dilation=rate, variant=variant, name=name))
    # One more branch: the mean of the image, the same at every pixel.
    pooled = AdaptiveAveragePooling(1, name="aspp_pool")(x)
    pooled = conv_bn_relu(pooled, channels, 1, name="aspp_pool_conv")
    branches.append(ResizeLike(align_corners=align_corners, name="aspp_pool_resize")(pooled, x))
    y = keras.layers.Concatenate(name="aspp_concat")(branches)
    if variant == "mmsegmentation":
        return conv_bn_relu(y, channels, 3, use_bias=True, name="aspp_project")
    y = conv_bn_relu(y, channels, 1, use_bias=True, name="aspp_project")
    y = keras.layers.Dropout(0.5 if variant == "smp" else 0.1, name="aspp_dropout")(y)
    return _separable(y, channels, variant=variant, name="aspp_conv") if variant == "smp" else y


def _separable(x: Any, channels: int, *, variant: VariantOrSmp, name: str, dilation: int = 1) -> Any:
    """A separable 3x3 convolution, (B, H, W, C) -> (B, H, W, channels)."""
    return separable_conv_bn_relu(
        x,
        channels,
        3,
        dilation=dilation,
        depthwise_norm=variant != "smp",
        depthwise_relu=variant == "mmsegmentation",
        name=name,
    )
