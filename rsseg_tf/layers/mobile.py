"""Parts of the networks made of inverted residual blocks: MobileNetV3 and EfficientNet."""

from __future__ import annotations

from typing import Any

import keras

from rsseg_tf.layers.conv import DilatedDepthwiseConv2D, Padding
from rsseg_tf.layers.norm import BatchNorm
from rsseg_tf.layers.pooling import AdaptiveAveragePooling

__all__ = ["conv_bn_activation", "multiple_of_8", "squeeze_and_excite"]


def conv_bn_activation(
    x: Any,
    filters: int | None,
    kernel_size: int,
    *,
    name: str,
    strides: int = 1,
    dilation: int = 1,
    padding: Padding = "symmetric",
    activation: str | None = None,
    epsilon: float = 1e-3,
) -> Any:
    """Convolution (depthwise where `filters` is None), batch normalisation and perhaps an activation.

    Args:
        x: (B, H, W, C) floating point.
        filters: Channels of the result; None for a depthwise convolution, which keeps the C channels.
        kernel_size: Odd side of the square kernel.
        name: Name of the convolution and prefix of the other layers.
        strides: Step in both directions.
        dilation: Distance of the kernel's taps, of a depthwise convolution alone.
        padding: See `conv_bn`; it matters where `strides` is not 1.
        activation: Keras's name of the function at the end.
        epsilon: The normalisation's. TensorFlow's networks for phones have 1e-3, and torchvision's MobileNetV3 too.

    Returns:
        (B, ceil(H / strides), ceil(W / strides), filters or C).
    """
    padded = padding == "symmetric" and strides != 1
    if padded:
        x = keras.layers.ZeroPadding2D((kernel_size - 1) // 2, name=f"{name}_pad")(x)
    options: dict[str, Any] = {
        "strides": strides, "padding": "valid" if padded else "same", "use_bias": False, "name": name,
    }  # fmt: skip
    if filters is None:
        layer = DilatedDepthwiseConv2D if dilation > 1 else keras.layers.DepthwiseConv2D
        x = layer(kernel_size, dilation_rate=dilation, depthwise_initializer=_kernel_initializer(), **options)(x)
    else:
        x = keras.layers.Conv2D(filters, kernel_size, kernel_initializer=_kernel_initializer(), **options)(x)
    # The original's epsilon, which its weights need, but not its momentum of 0.99: with that the running statistics
    # follow so slowly that after a few hundred steps evaluation is far behind training.
    x = BatchNorm(epsilon=epsilon, name=f"{name}_bn")(x)
    return keras.layers.Activation(activation, name=f"{name}_{activation}")(x) if activation else x


def squeeze_and_excite(x: Any, channels: int, *, activation: str, gate: str, name: str) -> Any:
    """Scales the channels of (B, H, W, C) by factors that two layers draw from their means.

    Hu et al., Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507.

    Args:
        x: (B, H, W, C) floating point.
        channels: Channels between the two layers.
        activation: Keras's name of the function between them.
        gate: Of the function that makes the factors, from 0 to 1.
        name: Prefix: `name_pool`, `name_conv1`, …

    Returns:
        (B, H, W, C).
    """
    y = AdaptiveAveragePooling(1, name=f"{name}_pool")(x)
    y = _dense(y, channels, name=f"{name}_conv1")
    y = keras.layers.Activation(activation, name=f"{name}_{activation}")(y)
    y = _dense(y, x.shape[-1], name=f"{name}_conv2")
    y = keras.layers.Activation(gate, name=f"{name}_{gate}")(y)
    return keras.layers.Multiply(name=f"{name}_multiply")([x, y])


def multiple_of_8(channels: float) -> int:
    """The multiple of 8 that is nearest, or the one above if that would lose more than a tenth; at least 8."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _dense(x: Any, filters: int, *, name: str) -> Any:
    """1x1 convolution with a bias, (B, H, W, C) -> (B, H, W, filters)."""
    return keras.layers.Conv2D(filters, 1, kernel_initializer=_kernel_initializer(), name=name)(x)


def _kernel_initializer() -> keras.initializers.Initializer:
    """Standard deviation sqrt(2 / (kernel height * kernel width * output channels)), 1 instead of all if depthwise.

    Torchvision counts all channels of a depthwise convolution too. Such values are so small that the normalisation's
    epsilon, which is large here, would damp the first steps of a training from random weights.
    """
    return keras.initializers.VarianceScaling(scale=2.0, mode="fan_out", distribution="untruncated_normal")
