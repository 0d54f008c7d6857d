"""MobileNetV3: inverted residual blocks with depthwise convolutions, made for phones.

Howard et al., Searching for MobileNetV3, https://arxiv.org/abs/1905.02244.
Source: torchvision/models/mobilenetv3.py, whose released weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import conv_bn_activation, multiple_of_8, squeeze_and_excite

__all__ = ["InvertedResidual", "mobilenet_v3", "mobilenet_v3_large", "mobilenet_v3_small"]

# Keras's names of the functions; hard_silu is the paper's h-swish.
Activation = Literal["relu", "hard_silu"]


class InvertedResidual(NamedTuple):
    """One block: a 1x1 convolution that widens, a depthwise one, and a 1x1 convolution that narrows.

    Attributes:
        kernel_size: Odd side of the depthwise kernel.
        expanded: Channels inside the block; if they are those of its input there is no first convolution.
        channels: Channels of the result.
        squeeze: Whether channels are scaled by factors that follow from their means (squeeze-and-excitation).
        activation: Name of the activation after the first two convolutions.
        strides: 1 or 2.
    """

    kernel_size: int
    expanded: int
    channels: int
    squeeze: bool
    activation: Activation
    strides: int


_LARGE = (
    InvertedResidual(3, 16, 16, False, "relu", 1),
    InvertedResidual(3, 64, 24, False, "relu", 2),
    InvertedResidual(3, 72, 24, False, "relu", 1),
    InvertedResidual(5, 72, 40, True, "relu", 2),
    InvertedResidual(5, 120, 40, True, "relu", 1),
    InvertedResidual(5, 120, 40, True, "relu", 1),
    InvertedResidual(3, 240, 80, False, "hard_silu", 2),
    InvertedResidual(3, 200, 80, False, "hard_silu", 1),
    InvertedResidual(3, 184, 80, False, "hard_silu", 1),
    InvertedResidual(3, 184, 80, False, "hard_silu", 1),
    InvertedResidual(3, 480, 112, True, "hard_silu", 1),
    InvertedResidual(3, 672, 112, True, "hard_silu", 1),
    InvertedResidual(5, 672, 160, True, "hard_silu", 2),
    InvertedResidual(5, 960, 160, True, "hard_silu", 1),
    InvertedResidual(5, 960, 160, True, "hard_silu", 1),
)
_SMALL = (
    InvertedResidual(3, 16, 16, True, "relu", 2),
    InvertedResidual(3, 72, 24, False, "relu", 2),
    InvertedResidual(3, 88, 24, False, "relu", 1),
    InvertedResidual(5, 96, 40, True, "hard_silu", 2),
    InvertedResidual(5, 240, 40, True, "hard_silu", 1),
    InvertedResidual(5, 240, 40, True, "hard_silu", 1),
    InvertedResidual(5, 120, 48, True, "hard_silu", 1),
    InvertedResidual(5, 144, 48, True, "hard_silu", 1),
    InvertedResidual(5, 288, 96, True, "hard_silu", 2),
    InvertedResidual(5, 576, 96, True, "hard_silu", 1),
    InvertedResidual(5, 576, 96, True, "hard_silu", 1),
)


def mobilenet_v3(
    blocks: Sequence[InvertedResidual],
    *,
    stem_channels: int = 16,
    in_channels: int = 3,
    output_stride: int = 16,
    reduced_tail: bool = False,
    name: str = "mobilenet_v3",
) -> keras.Model:
    """Builds a MobileNetV3 from its blocks.

    Args:
        blocks: The inverted residual blocks, four of them with stride 2.
        stem_channels: Channels of the first convolution, which has stride 2.
        in_channels: Channels of the input image.
        output_stride: Stride of the deepest features, 8, 16 or 32; below 32 dilation replaces the last strides.
        reduced_tail: Whether the blocks of stride 32 have half of their channels, as in the paper's segmentation
            networks. Weights released for the whole network do not fit then.
        name: Name of the model.

    Returns:
        A model from images (B, H, W, in_channels) to `{"c1", "c2", "c3", "c4", "c5"}`. `c1` is the last result of
        stride 2; `c2` to `c4` are those of the first blocks of strides 4, 8 and 16, where torchvision's segmentation
        and detection models take them; `c5` that of the last convolution, six times as wide as the last block. None
        has a stride above `output_stride`. Sides are rounded up.

    Raises:
        ConfigError: If an argument is outside of what is described here.
    """
    strided = _check_arguments(blocks, stem_channels, output_stride)
    if reduced_tail:
        blocks = _halve_tail(blocks, strided[-1])
    image = keras.Input((None, None, in_channels), name="image")
    x = conv_bn_activation(image, stem_channels, 3, strides=2, activation="hard_silu", name="stem_conv")
    features = {"c1": x}
    stride, dilation = 2, 1
    for index, block in enumerate(blocks):
        strides = block.strides
        if strides == 2 and stride == output_stride:
            # The block is dilated itself, as in torchvision; the stride that it loses is the dilation's factor.
            strides, dilation = 1, dilation * 2
        stride *= strides
        x = _block(x, block, strides=strides, dilation=dilation, name=f"block{index + 1}")
        if stride == 2:
            features["c1"] = x
        elif index in strided[:-1]:
            features[f"c{strided.index(index) + 2}"] = x
    features["c5"] = conv_bn_activation(x, 6 * x.shape[-1], 1, activation="hard_silu", name="last_conv")
    return keras.Model(image, features, name=name)


@takes_weights
def mobilenet_v3_large(
    *,
    in_channels: int = 3,
    output_stride: int = 16,
    reduced_tail: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """MobileNetV3-Large, 24 to 960 channels. See `mobilenet_v3`."""
    return mobilenet_v3(
        _LARGE,
        in_channels=in_channels,
        output_stride=output_stride,
        reduced_tail=reduced_tail,
        name="mobilenet_v3_large",
    )


@takes_weights
def mobilenet_v3_small(
    *,
    in_channels: int = 3,
    output_stride: int = 16,
    reduced_tail: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """MobileNetV3-Small, 16 to 576 channels. See `mobilenet_v3`."""
    return mobilenet_v3(
        _SMALL,
        in_channels=in_channels,
        output_stride=output_stride,
        reduced_tail=reduced_tail,
        name="mobilenet_v3_small",
    )


def _check_arguments(blocks: Sequence[InvertedResidual], stem_channels: int, output_stride: int) -> tuple[int, ...]:
    """Checks the arguments of `mobilenet_v3` and returns the positions of the blocks with stride 2."""
    sizes = [stem_channels, *(size for block in blocks for size in (block.expanded, block.channels))]
    if min(sizes) < 1:
        raise ConfigError(f"stem_channels and the channels of all blocks must be at least 1; got {min(sizes)}.")
    strided = tuple(index for index, block in enumerate(blocks) if block.strides == 2)
    if len(strided) != 4:
        raise ConfigError(
            f"blocks must have stride 2 four times, for the strides 4, 8, 16 and 32; got {len(strided)} of them."
        )
    if output_stride not in (8, 16, 32):
        raise ConfigError(
            f"output_stride must be 8, 16 or 32; got {output_stride}. "
            "16 is usual for this network; 8 gives finer features, 32 needs less time and memory."
        )
    return strided


def _halve_tail(blocks: Sequence[InvertedResidual], first: int) -> tuple[InvertedResidual, ...]:
    """Halves the channels from block `first` on; what is widened before is as wide as the blocks before want it."""
    tail = [block._replace(channels=block.channels // 2, expanded=block.expanded // 2) for block in blocks[first:]]
    tail[0] = tail[0]._replace(expanded=blocks[first].expanded)
    return (*blocks[:first], *tail)


def _block(x: Any, block: InvertedResidual, *, strides: int, dilation: int, name: str) -> Any:
    """One inverted residual block, (B, H, W, C) -> (B, H / strides, W / strides, block.channels)."""
    y = x
    if block.expanded != x.shape[-1]:
        y = conv_bn_activation(y, block.expanded, 1, activation=block.activation, name=f"{name}_expand")
    y = conv_bn_activation(
        y,
        None,
        block.kernel_size,
        strides=strides,
        dilation=dilation,
        activation=block.activation,
        name=f"{name}_depthwise",
    )
    if block.squeeze:
        y = squeeze_and_excite(
            y,
            multiple_of_8(y.shape[-1] // 4),
            activation="relu",
            gate="hard_sigmoid",
            name=f"{name}_squeeze",
        )
    y = conv_bn_activation(y, block.channels, 1, name=f"{name}_project")
    # A block whose stride has become dilation stays without shortcut, so that weights mean the same.
    if block.strides != 1 or block.channels != x.shape[-1]:
        return y
    return keras.layers.Add(name=f"{name}_add")([y, x])
