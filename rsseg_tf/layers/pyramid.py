"""Pyramid pooling and the auxiliary head, which PSPNet and UPerNet share.

Source: paddleseg/models/layers/pyramid_pool.py (PPModule) and layer_libs.py (AuxLayer) of PaddleSeg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.errors import ConfigError
from rsseg_tf.layers.conv import classifier, conv_bn_relu, kernel_initializer
from rsseg_tf.layers.pooling import AdaptiveAveragePooling
from rsseg_tf.layers.resize import ResizeLike

__all__ = ["auxiliary_head", "pyramid_pooling"]


def pyramid_pooling(
    x: Any,
    channels: int,
    *,
    bin_sizes: Sequence[int],
    align_corners: bool,
    branch_channels: int | None = None,
    project_kernel: int = 3,
    normalise_mean: bool = True,
) -> Any:
    """Joins features with their means over grids of several sizes.

    Each mean is reduced to fewer channels and resized; the finest grid comes first after the features.
    The layers are called `ppm_branch1`… in the order of `bin_sizes`, and `ppm_project`.

    Args:
        x: (B, H, W, C) floating point.
        channels: Channels of the result.
        bin_sizes: Cells per side of each grid, each at least 1.
        align_corners: How the means are resized, see `rsseg_tf.layers.ResizeLike`.
        branch_channels: Channels of each mean; by default C / len(bin_sizes).
        project_kernel: Odd side of the kernel that joins them.
        normalise_mean: Whether the convolution on a grid of one cell is followed by a normalisation, as those on the
            others are.

    Returns:
        (B, H, W, channels).

    Raises:
        ConfigError: If there is no bin size, or one below 1.
    """
    if not bin_sizes or min(bin_sizes) < 1:
        raise ConfigError(f"bin_sizes must be integers of at least 1; got {tuple(bin_sizes)}.")
    reduced = branch_channels or x.shape[-1] // len(bin_sizes)
    branches = []
    # For each grid (B, bins, bins, C): 1x1 convolution to `reduced` channels, back to (B, H, W, reduced).
    for index, bins in enumerate(bin_sizes, start=1):
        name = f"ppm_branch{index}"
        y = AdaptiveAveragePooling(bins, name=f"{name}_pool")(x)
        if bins == 1 and not normalise_mean:
            y = keras.layers.Conv2D(reduced, 1, kernel_initializer=kernel_initializer(), name=name)(y)
            y = keras.layers.ReLU(name=f"{name}_relu")(y)
        else:
            y = conv_bn_relu(y, reduced, 1, use_bias=True, name=name)
        branches.append(ResizeLike(align_corners=align_corners, name=f"{name}_resize")(y, x))
    y = keras.layers.Concatenate(name="ppm_concat")([x, *reversed(branches)])
    return conv_bn_relu(y, channels, project_kernel, use_bias=True, name="ppm_project")


def auxiliary_head(x: Any, channels: int, num_classes: int, *, dropout: float, of_channels: bool = False) -> Any:
    """Logits (B, H, W, num_classes) from features (B, H, W, C) over a 3x3 convolution with `channels` channels.

    In training a share `dropout` of the values is dropped, or of the channels where `of_channels`, as mmsegmentation
    does. The layers are called `aux_conv`, `aux_dropout` and `aux_classifier`.
    """
    x = conv_bn_relu(x, channels, 3, use_bias=True, name="aux_conv")
    layer = keras.layers.SpatialDropout2D if of_channels else keras.layers.Dropout
    x = layer(dropout, name="aux_dropout")(x)
    return classifier(x, num_classes, name="aux_classifier")
