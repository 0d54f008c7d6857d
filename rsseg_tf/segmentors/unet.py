"""U-Net: features are doubled in size step by step, and joined with the backbone's of each stride.

Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, https://arxiv.org/abs/1505.04597.
Source: decoders/unet of segmentation_models_pytorch, whose decoder without attention this is; as the variant
"paddleseg" paddleseg/models/unet.py, with `rsseg_tf.backbones.unet_encoder`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import ResizeLike, average_pool_ceil, conv_bn_relu, kernel_initializer
from rsseg_tf.segmentors.requirements import require_backbone

__all__ = ["unet"]


@takes_weights
def unet(
    backbone: keras.Model,
    *,
    num_classes: int,
    variant: Literal["smp", "paddleseg"] = "smp",
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a U-Net on all features of a backbone.

    The model shares the backbone's layers and variables. A stride that the backbone has no features of is a step
    without them, as the last one is, which gives the size of the image.

    Args:
        backbone: Model from an image to features `"c0"` (stride 1) to `"c5"`, or some of them.
        num_classes: Channels of the logits.
        variant: Whose decoder it is. That of smp repeats pixels; PaddleSeg's resizes bilinearly, and its convolutions
            have a bias.
        decoder_channels: Channels of the steps; the last belongs to the size of the image, the one before to stride
            2, and so on, so that a backbone that is less deep uses the last of them. A number of steps below that of
            the strides is also allowed: then the first belongs to the step from the deepest features, and the logits
            are resized bilinearly from where the steps end.
        align_corners: How bilinear resizing places pixels, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits}`, (B, H, W, num_classes) float32.

    Raises:
        ConfigError: If the backbone has no features, a number of channels is below 1 or the variant is unknown.
    """
    names = require_backbone(backbone, "unet")
    if not names:
        raise ConfigError(f"unet needs features named c1 to c5; backbone '{backbone.name}' has none of them.")
    if not decoder_channels or min(decoder_channels) < 1:
        raise ConfigError(f"decoder_channels must be integers of at least 1; got {tuple(decoder_channels)}.")
    if variant not in ("smp", "paddleseg"):
        raise ConfigError(f"The variant of unet must be smp or paddleseg; got {variant}.")
    is_paddle = variant == "paddleseg"
    resize: Any = (
        {"interpolation": "bilinear", "align_corners": align_corners} if is_paddle else {"interpolation": "nearest"}
    )
    deepest = int(names[-1][1:])
    x = backbone.output[names[-1]]
    for step, channels in enumerate(decoder_channels[-deepest:], start=1):
        level = deepest - step
        skip = backbone.output.get(f"c{level}")
        x = ResizeLike(**resize, name=f"decoder_block{step}_resize")(x, _size_of(backbone, level))
        if skip is not None:
            x = keras.layers.Concatenate(name=f"decoder_block{step}_concat")([x, skip])
        for conv in (1, 2):
            x = conv_bn_relu(x, channels, 3, use_bias=is_paddle, name=f"decoder_block{step}_conv{conv}")
    x = keras.layers.Conv2D(
        num_classes, 3, padding="same", kernel_initializer=kernel_initializer(), name="head_classifier"
    )(x)
    logits = ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)
    return keras.Model(backbone.input, {"main": logits}, name="unet")


def _size_of(backbone: keras.Model, level: int) -> keras.KerasTensor:
    """Returns a tensor with the size of the image by 2 ** level, rounded up."""
    if level == 0:
        return backbone.input
    if f"c{level}" in backbone.output:
        return backbone.output[f"c{level}"]
    finer = _size_of(backbone, level - 1)
    return average_pool_ceil(finer, name=f"size{level}")
