"""MobileNetV3: inverted residual blocks with depthwise convolutions, made for phones.

Howard et al., Searching for MobileNetV3, https://arxiv.org/abs/1905.02244.
Source: torchvision/models/mobilenetv3.py, whose released weights fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import keras

from rsseg_tf.errors import ConfigError
from rsseg_tf.layers import AdaptiveAveragePooling, BatchNorm, DilatedDepthwiseConv2D

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
    x = _conv_bn(image, stem_channels, 3, strides=2, activation="hard_silu", name="stem_conv")
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
    features["c5"] = _conv_bn(x, 6 * x.shape[-1], 1, activation="hard_silu", name="last_conv")
    return keras.Model(image, features, name=name)


def mobilenet_v3_large(*, in_channels: int = 3, output_stride: int = 16, reduced_tail: bool = False) -> keras.Model:
    """MobileNetV3-Large, 24 to 960 channels. See `mobilenet_v3`."""
    return mobilenet_v3(
        _LARGE,
        in_channels=in_channels,
        output_stride=output_stride,
        reduced_tail=reduced_tail,
        name="mobilenet_v3_large",
    )


def mobilenet_v3_small(*, in_channels: int = 3, output_stride: int = 16, reduced_tail: bool = False) -> keras.Model:
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
        y = _conv_bn(y, block.expanded, 1, activation=block.activation, name=f"{name}_expand")
    y = _conv_bn(
        y,
        None,
        block.kernel_size,
        strides=strides,
        dilation=dilation,
        activation=block.activation,
        name=f"{name}_depthwise",
    )
    if block.squeeze:
        y = _squeeze_and_excite(y, name=f"{name}_squeeze")
    y = _conv_bn(y, block.channels, 1, name=f"{name}_project")
    # A block whose stride has become dilation stays without shortcut, so that weights mean the same.
    if block.strides != 1 or block.channels != x.shape[-1]:
        return y
    return keras.layers.Add(name=f"{name}_add")([y, x])


def _squeeze_and_excite(x: Any, *, name: str) -> Any:
    """Scales the channels of (B, H, W, C) by factors from 0 to 1 that two layers draw from their means."""
    y = AdaptiveAveragePooling(1, name=f"{name}_pool")(x)
    y = _conv(y, _multiple_of_8(x.shape[-1] // 4), use_bias=True, name=f"{name}_conv1")
    y = keras.layers.ReLU(name=f"{name}_relu")(y)
    y = _conv(y, x.shape[-1], use_bias=True, name=f"{name}_conv2")
    y = keras.layers.Activation("hard_sigmoid", name=f"{name}_hard_sigmoid")(y)
    return keras.layers.Multiply(name=f"{name}_multiply")([x, y])


def _multiple_of_8(channels: int) -> int:
    """The multiple of 8 that is nearest, or the one above if that would lose more than a tenth; at least 8."""
    nearest = max(8, (channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _conv_bn(
    x: Any,
    filters: int | None,
    kernel_size: int,
    *,
    strides: int = 1,
    dilation: int = 1,
    activation: Activation | None = None,
    name: str,
) -> Any:
    """Convolution (depthwise where `filters` is None), batch normalisation and perhaps an activation.

    Returns (B, ceil(H / strides), ceil(W / strides), filters or C).
    """
    if strides != 1:
        # One pixel (of a 3x3 kernel) on every side; TensorFlow's SAME would put the odd one at the bottom and right.
        x = keras.layers.ZeroPadding2D((kernel_size - 1) // 2, name=f"{name}_pad")(x)
    padding = "same" if strides == 1 else "valid"
    if filters is None:
        layer = DilatedDepthwiseConv2D if dilation > 1 else keras.layers.DepthwiseConv2D
        x = layer(
            kernel_size,
            strides=strides,
            dilation_rate=dilation,
            padding=padding,
            use_bias=False,
            depthwise_initializer=_kernel_initializer(),
            name=name,
        )(x)
    else:
        x = _conv(x, filters, kernel_size, strides=strides, padding=padding, name=name)
    # Torchvision's epsilon, which its weights need, but not its momentum of 0.99: with that the running statistics
    # follow so slowly that after a few hundred steps evaluation is far behind training.
    x = BatchNorm(epsilon=1e-3, name=f"{name}_bn")(x)
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x


def _conv(
    x: Any, filters: int, kernel_size: int = 1, *, strides: int = 1, padding: str = "same", use_bias: bool = False,
    name: str,
) -> Any:  # fmt: skip
    """Convolution without anything else, (B, H, W, C) -> (B, H', W', filters)."""
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=use_bias,
        kernel_initializer=_kernel_initializer(),
        name=name,
    )(x)


def _kernel_initializer() -> keras.initializers.Initializer:
    """Standard deviation sqrt(2 / (kernel height * kernel width * output channels)), 1 instead of all if depthwise.

    Torchvision counts all channels of a depthwise convolution too. Such values are so small that the normalisation's
    epsilon, which is large here, would damp the first steps of a training from random weights.
    """
    return keras.initializers.VarianceScaling(scale=2.0, mode="fan_out", distribution="untruncated_normal")
