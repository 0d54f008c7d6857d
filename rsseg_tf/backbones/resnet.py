"""ResNet with the stride in the 3x3 convolution and no dilation (output stride 32).

He et al., Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385.
Source: contrib/RSSegBenchmark/backbones/resnet.py of PaddleSeg, which is torchvision's ResNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.errors import ConfigError
from rsseg_tf.layers import conv_bn, conv_bn_relu, max_pool_3x3

__all__ = ["resnet", "resnet18", "resnet50", "resnet101"]


def resnet(
    depths: Sequence[int],
    widths: Sequence[int] = (64, 128, 256, 512),
    *,
    bottleneck: bool,
    in_channels: int = 3,
    name: str = "resnet",
) -> keras.Model:
    """Builds a ResNet from its numbers of blocks.

    Args:
        depths: Residual blocks of the four stages, each >= 1.
        widths: Channels inside the blocks of the four stages; the stem has `widths[0]` channels.
        bottleneck: Blocks of three convolutions that give four times their width (ResNet-50 and deeper), or of two.
        in_channels: Channels of the input image.
        name: Name of the model.

    Returns:
        A model from images (B, H, W, in_channels) to `{"c2", "c3", "c4", "c5"}` with strides 4, 8, 16 and 32; sides
        are rounded up.

    Raises:
        ConfigError: If `depths` or `widths` does not have four entries of at least 1.
    """
    for what, values in (("depths", depths), ("widths", widths)):
        if len(values) != 4 or min(values) < 1:
            raise ConfigError(f"{what} must be four integers of at least 1; got {tuple(values)}.")
    image = keras.Input((None, None, in_channels), name="image")
    # Stem: stride 4. Stages: strides [4, 8, 16, 32]; the first block of stages 2 to 4 halves the resolution.
    x = conv_bn_relu(image, widths[0], 7, strides=2, padding="symmetric", name="stem_conv")
    x = max_pool_3x3(x, name="stem_pool")
    features = {}
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        for block in range(1, depth + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            x = _block(x, width, strides=strides, bottleneck=bottleneck, name=f"stage{stage}_block{block}")
        features[f"c{stage + 1}"] = x
    return keras.Model(image, features, name=name)


def resnet18(*, in_channels: int = 3) -> keras.Model:
    """ResNet-18, 64 to 512 channels. See `resnet`."""
    return resnet((2, 2, 2, 2), bottleneck=False, in_channels=in_channels, name="resnet18")


def resnet50(*, in_channels: int = 3) -> keras.Model:
    """ResNet-50, 256 to 2048 channels. See `resnet`."""
    return resnet((3, 4, 6, 3), bottleneck=True, in_channels=in_channels, name="resnet50")


def resnet101(*, in_channels: int = 3) -> keras.Model:
    """ResNet-101, 256 to 2048 channels. See `resnet`."""
    return resnet((3, 4, 23, 3), bottleneck=True, in_channels=in_channels, name="resnet101")


def _block(x: Any, width: int, *, strides: int, bottleneck: bool, name: str) -> Any:
    """One residual block, (B, H, W, C) -> (B, H / strides, W / strides, width or 4 * width)."""
    channels = width * 4 if bottleneck else width
    if bottleneck:
        y = conv_bn_relu(x, width, 1, name=f"{name}_conv1")
        y = conv_bn_relu(y, width, 3, strides=strides, padding="symmetric", name=f"{name}_conv2")
        y = conv_bn(y, channels, 1, name=f"{name}_conv3")
    else:
        y = conv_bn_relu(x, width, 3, strides=strides, padding="symmetric", name=f"{name}_conv1")
        y = conv_bn(y, channels, 3, name=f"{name}_conv2")
    if strides != 1 or x.shape[-1] != channels:
        x = conv_bn(x, channels, 1, strides=strides, padding="symmetric", name=f"{name}_shortcut")
    y = keras.layers.Add(name=f"{name}_add")([y, x])
    return keras.layers.ReLU(name=f"{name}_relu")(y)
