"""ResNet with the stride in the 3x3 convolution.

He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385.
Source: contrib/RSSegBenchmark/backbones/resnet.py of PaddleSeg, which is torchvision's ResNet; for the deep stem and
its dilation mmseg/models/backbones/resnet.py of mmsegmentation, whose ResNetV1c has `contract_dilation`; for the
dilation of whole stages segmentation_models_pytorch/encoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import conv_bn, conv_bn_relu, max_pool_3x3

__all__ = [
    "resnet",
    "resnet18",
    "resnet18_v1c",
    "resnet34",
    "resnet50",
    "resnet50_v1c",
    "resnet101",
    "resnet101_v1c",
]

# Output stride -> dilation of the four stages.
_DILATIONS = {8: (1, 1, 2, 4), 16: (1, 1, 1, 2), 32: (1, 1, 1, 1)}


def resnet(
    depths: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    *,
    bottleneck: bool,
    in_channels: int = 3,
    deep_stem: bool = False,
    output_stride: int = 32,
    dilate_whole_stages: bool = False,
    name: str = "resnet",
) -> keras.Model:
    """Builds a ResNet from its numbers of blocks.

    Args:
        depths: Residual blocks of the four stages, each >= 1.
        widths: Channels inside the blocks of the four stages; the stem has `widths[0]` channels.
        bottleneck: Blocks of three convolutions that give four times their width (ResNet-50 and deeper), or of two.
        in_channels: Channels of the input image.
        deep_stem: Whether three 3x3 convolutions are the stem in place of one of 7x7 (ResNet-C).
        output_stride: Stride of the deepest features, 8, 16 or 32; below 32 dilation replaces the last strides.
        dilate_whole_stages: Whether every 3x3 convolution of a dilated stage has the stage's dilation. Else its first
            block has the dilation of the stage before, half of its own, and of a block of two convolutions the first is
            dilated alone.
        name: Name of the model.

    Returns:
        A model from images (B, H, W, in_channels) to `{"c1", "c2", "c3", "c4", "c5"}` with strides 2, 4, 8, 16 and 32,
        but none above `output_stride`; `c1` is the stem before its pooling. Sides are rounded up.

    Raises:
        ConfigError: If `depths` or `widths` does not have four entries of at least 1, or for another output stride.
    """
    for what, values in (("depths", depths), ("widths", widths)):
        if len(values) != 4 or min(values) < 1:
            raise ConfigError(f"{what} must be four integers of at least 1; got {tuple(values)}.")
    if output_stride not in _DILATIONS:
        raise ConfigError(
            f"output_stride must be 8, 16 or 32; got {output_stride}. 8 is usual for segmentation; 16 and 32 need less "
            "time and memory and give coarser features."
        )
    image = keras.Input((None, None, in_channels), name="image")
    x = _stem(image, widths[0], deep=deep_stem)
    features = {"c1": x}
    x = max_pool_3x3(x, name="stem_pool")
    for stage, (depth, width, dilation) in enumerate(
        zip(depths, widths, _DILATIONS[output_stride], strict=True), start=1
    ):
        # The first block of stages 2 to 4 halves the resolution, unless the stage is dilated.
        for block in range(1, depth + 1):
            x = _block(
                x,
                width,
                strides=2 if stage > 1 and block == 1 and dilation == 1 else 1,
                dilation=max(1, dilation // 2) if block == 1 and not dilate_whole_stages else dilation,
                last_dilation=dilation if dilate_whole_stages else 1,
                bottleneck=bottleneck,
                name=f"stage{stage}_block{block}",
            )
        features[f"c{stage + 1}"] = x
    return keras.Model(image, features, name=name)


@takes_weights
def resnet18(
    *,
    in_channels: int = 3,
    output_stride: int = 32,
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-18, 64 to 512 channels. See `resnet`."""
    return _plain((2, 2, 2, 2), bottleneck=False, in_channels=in_channels, output_stride=output_stride, name="resnet18")


@takes_weights
def resnet34(
    *,
    in_channels: int = 3,
    output_stride: int = 32,
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-34, 64 to 512 channels. See `resnet`."""
    return _plain((3, 4, 6, 3), bottleneck=False, in_channels=in_channels, output_stride=output_stride, name="resnet34")


@takes_weights
def resnet50(
    *,
    in_channels: int = 3,
    output_stride: int = 32,
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-50, 256 to 2048 channels. See `resnet`."""
    return _plain((3, 4, 6, 3), bottleneck=True, in_channels=in_channels, output_stride=output_stride, name="resnet50")


@takes_weights
def resnet101(
    *,
    in_channels: int = 3,
    output_stride: int = 32,
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-101, 256 to 2048 channels. See `resnet`."""
    return _plain(
        (3, 4, 23, 3), bottleneck=True, in_channels=in_channels, output_stride=output_stride, name="resnet101"
    )


def _plain(depths: Sequence[int], *, bottleneck: bool, in_channels: int, output_stride: int, name: str) -> keras.Model:
    return resnet(
        depths,
        bottleneck=bottleneck,
        in_channels=in_channels,
        output_stride=output_stride,
        dilate_whole_stages=True,
        name=name,
    )


@takes_weights
def resnet18_v1c(
    *,
    in_channels: int = 3,
    output_stride: int = 8,
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-18-C, 64 to 512 channels. See `resnet`."""
    return _v1c((2, 2, 2, 2), bottleneck=False, in_channels=in_channels, output_stride=output_stride, name="18")


@takes_weights
def resnet50_v1c(
    *,
    in_channels: int = 3,
    output_stride: int = 8,
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-50-C, 256 to 2048 channels. See `resnet`."""
    return _v1c((3, 4, 6, 3), bottleneck=True, in_channels=in_channels, output_stride=output_stride, name="50")


@takes_weights
def resnet101_v1c(
    *,
    in_channels: int = 3,
    output_stride: int = 8,
    weights: StrPath | None = None,
) -> keras.Model:
    """ResNet-101-C, 256 to 2048 channels. See `resnet`."""
    return _v1c((3, 4, 23, 3), bottleneck=True, in_channels=in_channels, output_stride=output_stride, name="101")


def _v1c(depths: Sequence[int], *, bottleneck: bool, in_channels: int, output_stride: int, name: str) -> keras.Model:
    return resnet(
        depths,
        bottleneck=bottleneck,
        in_channels=in_channels,
        deep_stem=True,
        output_stride=output_stride,
        name=f"resnet{name}_v1c",
    )


def _stem(image: Any, width: int, *, deep: bool) -> Any:
    """Convolutions, (B, H, W, C) -> (B, H / 2, W / 2, width)."""
    if deep:
        x = conv_bn_relu(image, max(1, width // 2), 3, strides=2, padding="symmetric", name="stem_conv1")
        x = conv_bn_relu(x, max(1, width // 2), 3, name="stem_conv2")
        return conv_bn_relu(x, width, 3, name="stem_conv3")
    return conv_bn_relu(image, width, 7, strides=2, padding="symmetric", name="stem_conv")


def _block(x: Any, width: int, *, strides: int, dilation: int, last_dilation: int, bottleneck: bool, name: str) -> Any:
    """One residual block, (B, H, W, C) -> (B, H / strides, W / strides, width or 4 * width).

    The 3x3 convolution has `dilation`; where there are two, the last one has `last_dilation`.
    """
    channels = width * 4 if bottleneck else width
    if bottleneck:
        y = conv_bn_relu(x, width, 1, name=f"{name}_conv1")
        y = conv_bn_relu(y, width, 3, strides=strides, dilation=dilation, padding="symmetric", name=f"{name}_conv2")
        y = conv_bn(y, channels, 1, name=f"{name}_conv3")
    else:
        y = conv_bn_relu(x, width, 3, strides=strides, dilation=dilation, padding="symmetric", name=f"{name}_conv1")
        y = conv_bn(y, channels, 3, dilation=last_dilation, name=f"{name}_conv2")
    if strides != 1 or x.shape[-1] != channels:
        x = conv_bn(x, channels, 1, strides=strides, padding="symmetric", name=f"{name}_shortcut")
    y = keras.layers.Add(name=f"{name}_add")([y, x])
    return keras.layers.ReLU(name=f"{name}_relu")(y)
