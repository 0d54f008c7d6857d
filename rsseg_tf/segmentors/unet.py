"""U-Net: features are doubled in size step by step, and joined with the backbone's of each stride.

Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, https://arxiv.org/abs/1505.04597.
Source: decoders/unet of segmentation_models_pytorch, whose decoder without attention this is.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a U-Net on all features of a backbone.

    The model shares the backbone's layers and variables. A stride that the backbone has no features of is a step
    without them, as the last one is, which gives the size of the image.

    Args:
        backbone: Model from an image to features `"c1"` (stride 2) to `"c5"`, or some of them.
        num_classes: Channels of the logits.
        decoder_channels: Channels of the steps; the last belongs to the size of the image, the one before to stride
            2, and so on, so that a backbone that is less deep uses the last of them. A number of steps below that of
            the strides is also allowed: then the first belongs to the step from the deepest features, and the logits
            are resized bilinearly from where the steps end.
        align_corners: How logits are resized where the steps end early, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits}`, (B, H, W, num_classes) float32.

    Raises:
        ConfigError: If the backbone has no features or a number of channels is below 1.
    """
    names = require_backbone(backbone, "unet")
    if not names:
        raise ConfigError(f"unet needs features named c1 to c5; backbone '{backbone.name}' has none of them.")
    if not decoder_channels or min(decoder_channels) < 1:
        raise ConfigError(f"decoder_channels must be integers of at least 1; got {tuple(decoder_channels)}.")
    deepest = int(names[-1][1:])
    x = backbone.output[names[-1]]
    for step, channels in enumerate(decoder_channels[-deepest:], start=1):
        level = deepest - step
        skip = backbone.output.get(f"c{level}")
        x = ResizeLike(interpolation="nearest", name=f"decoder_block{step}_resize")(x, _size_of(backbone, level))
        if skip is not None:
            x = keras.layers.Concatenate(name=f"decoder_block{step}_concat")([x, skip])
        x = conv_bn_relu(x, channels, 3, name=f"decoder_block{step}_conv1")
        x = conv_bn_relu(x, channels, 3, name=f"decoder_block{step}_conv2")
    x = keras.layers.Conv2D(
        num_classes, 3, padding="same", kernel_initializer=kernel_initializer(), name="head_classifier"
    )(x)
    logits = ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)
    return keras.Model(backbone.input, {"main": logits}, name="unet")


def _size_of(backbone: keras.Model, level: int) -> keras.KerasTensor:
    """Returns a tensor with the size of the image by 2 ** level, rounded up."""
    if level == 0 or f"c{level}" in backbone.output:
        return backbone.output[f"c{level}"] if level else backbone.input
    finer = _size_of(backbone, level - 1)
    return average_pool_ceil(finer, name=f"size{level}")
