"""The encoder of PaddleSeg's U-Net: pairs of 3x3 convolutions, and the maximum of 2x2 pixels between them.

Ronneberger et al., U-Net: Convolutional Networks for Biomedical Image Segmentation, https://arxiv.org/abs/1505.04597.
Source: paddleseg/models/unet.py, whose convolutions have a bias and keep the size of the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import HalvingMaxPool, conv_bn_relu

__all__ = ["unet_encoder"]


@takes_weights
def unet_encoder(
    *,
    in_channels: int = 3,
    channels: Sequence[int] = (64, 128, 256, 512, 512),
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds the encoder.

    Args:
        in_channels: Bands of the image.
        channels: Channels at stride 1, 2, 4 and so on. A config has the default.
        weights: See `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, in_channels) to features by stride, "c0" (1) to "c4" (16) by default. Sides are
        halved and rounded down, to 1 at the least.

    Raises:
        ConfigError: If a number of channels is below 1.
    """
    if not channels or min(channels) < 1:
        raise ConfigError(f"channels must be integers of at least 1; got {tuple(channels)}.")
    x = image = keras.Input((None, None, in_channels), name="image")
    features = {}
    for level, width in enumerate(channels):
        if level:
            x = HalvingMaxPool(name=f"stage{level + 1}_pool")(x)
        for conv in (1, 2):
            x = conv_bn_relu(x, width, 3, use_bias=True, name=f"stage{level + 1}_conv{conv}")
        features[f"c{level}"] = x
    return keras.Model(image, features, name="unet_encoder")
