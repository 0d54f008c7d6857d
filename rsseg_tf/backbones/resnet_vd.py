"""ResNet-D with dilated last stages.

He et al., Bag of Tricks for Image Classification with Convolutional Neural Networks, https://arxiv.org/abs/1812.01187:
three 3x3 convolutions as stem, and an average pooling in the strided shortcuts.
Source: paddleseg/models/backbones/resnet_vd.py of PaddleSeg.

A stage that is dilated keeps its resolution from its first block on, and its first block is dilated too (torchvision
gives the first block the dilation of the stage before).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import average_pool_ceil, conv_bn, conv_bn_relu, max_pool_3x3

__all__ = ["resnet18_vd", "resnet50_vd", "resnet101_vd", "resnet_vd"]

# Output stride -> dilation of the four stages.
_DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}


def resnet_vd(
    depths: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    *,
    bottleneck: bool,
    in_channels: int = 3,
    output_stride: int = 8,
    multi_grid: Sequence[int] = (1, 1, 1),
    name: str = "resnet_vd",
) -> keras.Model:
    """Builds a ResNet-D from its numbers of blocks.

    Args:
        depths: Residual blocks of the four stages, each >= 1.
        widths: Channels inside the blocks of the four stages; the stem ends with `widths[0]` channels.
        bottleneck: Blocks of three convolutions that give four times their width (ResNet-50 and deeper), or of two.
        in_channels: Channels of the input image.
        output_stride: Stride of the deepest features, 8, 16 or 32; below 32 dilation replaces the last strides.
        multi_grid: Factors of the dilation in the blocks of the last stage, one per block; surplus ones are unused.
        name: Name of the model.

    Returns:
        A model from images (B, H, W, in_channels) to `{"c1", "c2", "c3", "c4", "c5"}`. `c1`, the stem before its
        pooling, has stride 2, `c2` stride 4; none has a stride above `output_stride`. Sides are rounded up.

    Raises:
        ConfigError: If an argument is outside of what is described here.
    """
    dilations = _stage_dilations(depths, widths, output_stride, multi_grid)
    image = keras.Input((None, None, in_channels), name="image")
    # Stem: three 3x3 convolutions in place of the 7x7 one, then pooling; stride 4.
    stem_width = max(1, widths[0] // 2)
    x = conv_bn_relu(image, stem_width, 3, strides=2, padding="symmetric", name="stem_conv1")
    x = conv_bn_relu(x, stem_width, 3, name="stem_conv2")
    x = conv_bn_relu(x, widths[0], 3, name="stem_conv3")
    features = {"c1": x}
    x = max_pool_3x3(x, name="stem_pool")
    for stage, (depth, width, stage_dilation) in enumerate(zip(depths, widths, dilations, strict=True), start=1):
        for block in range(1, depth + 1):
            # A stage is either strided or dilated, and only its first block is strided.
            x = _block(
                x,
                width,
                strides=2 if stage > 1 and block == 1 and stage_dilation == 1 else 1,
                dilation=stage_dilation * multi_grid[block - 1] if stage == 4 else stage_dilation,
                bottleneck=bottleneck,
                project=block == 1,
                name=f"stage{stage}_block{block}",
            )
        features[f"c{stage + 1}"] = x
    return keras.Model(image, features, name=name)


@takes_weights
def resnet18_vd(
    *,
    in_channels: int = 3,
    output_stride: int = 8,
    multi_grid: Sequence[int] = (1, 1, 1),
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-18-D, 64 to 512 channels. See `resnet_vd`."""
    return resnet_vd(
        (2, 2, 2, 2),
        bottleneck=False,
        in_channels=in_channels,
        output_stride=output_stride,
        multi_grid=multi_grid,
        name="resnet18_vd",
    )


@takes_weights
def resnet50_vd(
    *,
    in_channels: int = 3,
    output_stride: int = 8,
    multi_grid: Sequence[int] = (1, 1, 1),
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-50-D, 256 to 2048 channels. See `resnet_vd`."""
    return resnet_vd(
        (3, 4, 6, 3),
        bottleneck=True,
        in_channels=in_channels,
        output_stride=output_stride,
        multi_grid=multi_grid,
        name="resnet50_vd",
    )


@takes_weights
def resnet101_vd(
    *,
    in_channels: int = 3,
    output_stride: int = 8,
    multi_grid: Sequence[int] = (1, 1, 1),
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-101-D, 256 to 2048 channels. See `resnet_vd`."""
    return resnet_vd(
        (3, 4, 23, 3),
        bottleneck=True,
        in_channels=in_channels,
        output_stride=output_stride,
        multi_grid=multi_grid,
        name="resnet101_vd",
    )


def _stage_dilations(
    depths: Sequence[int], widths: Sequence[int], output_stride: int, multi_grid: Sequence[int]
) -> tuple[int, int, int, int]:
    """Checks the arguments of `resnet_vd` and returns the dilations of the four stages."""
    for what, values in (("depths", depths), ("widths", widths)):
        if len(values) != 4 or min(values) < 1:
            raise ConfigError(f"{what} must be four integers of at least 1; got {tuple(values)}.")
    if output_stride not in _DILATIONS:
        raise ConfigError(
            f"output_stride must be 8, 16 or 32; got {output_stride}. "
            "8 is the benchmark's; 16 and 32 need less time and memory and give coarser features."
        )
    if len(multi_grid) < depths[3] or min(multi_grid) < 1:
        raise ConfigError(
            f"multi_grid must be at least {depths[3]} integers of at least 1, one per block of the last stage; "
            f"got {tuple(multi_grid)}."
        )
    if output_stride == 32 and multi_grid[0] != 1:
        # PaddleSeg drops the stride of a block that is dilated, and so would silently give output stride 16.
        raise ConfigError(
            f"multi_grid must begin with 1 at output_stride 32; got {tuple(multi_grid)}. "
            "The first block of the last stage cannot be strided and dilated."
        )
    return _DILATIONS[output_stride]


def _block(x: Any, width: int, *, strides: int, dilation: int, bottleneck: bool, project: bool, name: str) -> Any:
    """One residual block, (B, H, W, C) -> (B, H / strides, W / strides, width or 4 * width)."""
    channels = width * 4 if bottleneck else width
    if bottleneck:
        y = conv_bn_relu(x, width, 1, name=f"{name}_conv1")
        y = conv_bn_relu(y, width, 3, strides=strides, dilation=dilation, padding="symmetric", name=f"{name}_conv2")
        y = conv_bn(y, channels, 1, name=f"{name}_conv3")
    else:
        y = conv_bn_relu(x, width, 3, strides=strides, dilation=dilation, padding="symmetric", name=f"{name}_conv1")
        y = conv_bn(y, channels, 3, dilation=dilation, name=f"{name}_conv2")
    if project:
        if strides != 1:
            x = average_pool_ceil(x, name=f"{name}_shortcut_pool")
        x = conv_bn(x, channels, 1, name=f"{name}_shortcut")
    y = keras.layers.Add(name=f"{name}_add")([y, x])
    return keras.layers.ReLU(name=f"{name}_relu")(y)
