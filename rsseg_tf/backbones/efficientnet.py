"""EfficientNet, and EfficientNet-Lite, which leaves out what phones and 8-bit integers are bad at.

Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, https://arxiv.org/abs/1905.11946.
Lite has ReLU6 in place of SiLU and no squeeze-and-excitation; only what lies between its ends is scaled.
Source: models/official/efficientnet (and its folder lite) of github.com/tensorflow/tpu; timm/models/efficientnet.py and
segmentation_models_pytorch/encoders of the projects of these names, whose weights fit too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import conv_bn_activation, multiple_of_8, squeeze_and_excite
from rsseg_tf.layers.conv import Padding

__all__ = [
    "efficientnet",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
]

FirstFeature = Literal["block", "stem", "stem_alone"]
_STRIDES = (2, 4, 8, 16, 32)


class _Stage(NamedTuple):
    """Blocks of the same kind; the first has the stride and the others a shortcut."""

    blocks: int
    kernel_size: int
    strides: int
    expansion: int
    channels: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_STEM_CHANNELS = 32


class _Kind(NamedTuple):
    """What all blocks of a network share."""

    activation: str
    squeeze: bool
    epsilon: float
    paddings: tuple[Padding, ...]  # of the convolutions that reach the strides 2, 4, …


def efficientnet(
    width: float,
    depth: float,
    *,
    lite: bool = False,
    in_channels: int = 3,
    output_stride: int = 32,
    first_feature: FirstFeature = "block",
    padding: Padding | Sequence[Padding] = "same",
    epsilon: float = 1e-3,
    name: str = "efficientnet",
) -> keras.Model:
    """Builds an EfficientNet, without its last convolution and classifier.

    Args:
        width: Factor of the channels, which are rounded to multiples of 8.
        depth: Factor of the number of blocks in each stage, rounded up.
        lite: Whether it is an EfficientNet-Lite. Its stem, and the depth of its first and last stage, are not scaled.
        in_channels: Channels of the input image.
        output_stride: Stride of the deepest features, 8, 16 or 32; below 32 dilation replaces the last strides.
        first_feature: Where `c1` is taken: behind the last block of stride 2, as timm does, or behind the stem, as
            segmentation_models_pytorch does. Of B0, that one takes `c4` behind the first block of its last stage, and
            below stride 32 dilates the blocks behind that; so it is here with "stem", and not with "stem_alone", which
            its encoders `timm-*` want.
        padding: See `conv_bn`; of all convolutions with stride 2, or of those that reach the strides 2, 4, 8, 16 and 32
            one by one. Weights from TensorFlow want "same" (timm calls those `tf_*`), torchvision's and timm's own
            "symmetric". Networks that were made for images of one size want "symmetric" where a side is odd:
            segmentation_models_pytorch's efficientnet-b2, for 260 pixels, at the strides 8, 16 and 32.
        epsilon: Of the normalisations. Weights from TensorFlow want 1e-3, torchvision's and timm's own 1e-5.
        name: Name of the model.

    Returns:
        A model from images (B, H, W, in_channels) to `{"c1", "c2", "c3", "c4", "c5"}`, the results of the last blocks
        before each stride, and of the last block. None has a stride above `output_stride`. Sides are rounded up.

    Raises:
        ConfigError: If an argument is outside of what is described here.
    """
    kind = _kind(width, depth, lite, output_stride, padding, epsilon)
    stem_channels = _STEM_CHANNELS if lite else multiple_of_8(width * _STEM_CHANNELS)
    image = keras.Input((None, None, in_channels), name="image")
    x = conv_bn_activation(
        image, stem_channels, 3, strides=2, padding=kind.paddings[0], activation=kind.activation, epsilon=epsilon,
        name="stem_conv",
    )  # fmt: skip
    features = {"c1": x}
    takes_c4_early = first_feature == "stem" and not lite and depth == 1.0
    # The stride of the undilated network tells where features are taken.
    stride, dilation = 2, 1
    for number, stage in enumerate(_STAGES, 1):
        strides = stage.strides
        if strides == 2 and stride * 2 // dilation > output_stride:
            # The first block is dilated itself, as in segmentation_models_pytorch and torchvision's MobileNetV3.
            strides, dilation = 1, dilation * 2
        stride *= stage.strides
        channels = multiple_of_8(width * stage.channels)
        fixed = lite and number in (1, len(_STAGES))
        for block in range(1, (stage.blocks if fixed else math.ceil(depth * stage.blocks)) + 1):
            x = _block(
                x,
                stage,
                kind,
                channels=channels,
                strides=strides if block == 1 else 1,
                dilation=dilation * (2 if takes_c4_early and number == 5 and block > 1 and output_stride < 32 else 1),
                padding=kind.paddings[_STRIDES.index(stride)],
                shortcut=block > 1 or (stage.strides == 1 and x.shape[-1] == channels),
                name=f"stage{number}_block{block}",
            )
            if takes_c4_early and number == 5 and block == 1:
                features["c4"] = x
        if takes_c4_early and number == 5:
            continue
        if stride > 2 or first_feature == "block":
            features[f"c{stride.bit_length() - 1}"] = x
    return keras.Model(image, features, name=name)


def _named(name: str, width: float, depth: float, size: str, *, lite: bool = False) -> Callable[..., keras.Model]:
    """Returns the builder of a published network, which takes the options that do not belong to its size."""

    def build(
        *,
        in_channels: int = 3,
        output_stride: int = 32,
        first_feature: FirstFeature = "block",
        padding: Padding | Sequence[Padding] = "same",
        epsilon: float = 1e-3,
        weights: StrPath | None = None,
    ) -> keras.Model:
        return efficientnet(
            width,
            depth,
            lite=lite,
            in_channels=in_channels,
            output_stride=output_stride,
            first_feature=first_feature,
            padding=padding,
            epsilon=epsilon,
            name=name,
        )

    build.__name__ = build.__qualname__ = name
    build.__doc__ = f"EfficientNet-{name.partition('_')[2].title()}: {size}. See `efficientnet`."
    return takes_weights(build)


efficientnet_lite0 = _named("efficientnet_lite0", 1.0, 1.0, "16 to 320 channels, 3.0 million weights", lite=True)
efficientnet_lite1 = _named("efficientnet_lite1", 1.0, 1.1, "16 to 320 channels, 3.7 million weights", lite=True)
efficientnet_lite2 = _named("efficientnet_lite2", 1.1, 1.2, "16 to 352 channels, 4.4 million weights", lite=True)
efficientnet_b0 = _named("efficientnet_b0", 1.0, 1.0, "16 to 320 channels, 3.6 million weights")
efficientnet_b1 = _named("efficientnet_b1", 1.0, 1.1, "16 to 320 channels, 6.1 million weights")
efficientnet_b2 = _named("efficientnet_b2", 1.1, 1.2, "16 to 352 channels, 7.2 million weights")
efficientnet_b3 = _named("efficientnet_b3", 1.2, 1.4, "24 to 384 channels, 10.1 million weights")
efficientnet_b4 = _named("efficientnet_b4", 1.4, 1.8, "24 to 448 channels, 16.7 million weights")


def _kind(
    width: float, depth: float, lite: bool, output_stride: int, padding: Padding | Sequence[Padding], epsilon: float
) -> _Kind:
    """Checks the arguments of `efficientnet` and returns what its blocks share."""
    if not (width > 0 and depth > 0 and epsilon > 0):
        raise ConfigError(f"width, depth and epsilon must be above 0; got {width}, {depth} and {epsilon}.")
    if output_stride not in (8, 16, 32):
        raise ConfigError(
            f"output_stride must be 8, 16 or 32; got {output_stride}. "
            "32 is the network as it is; 16 gives finer features for more time and memory."
        )
    paddings = (padding,) * len(_STRIDES) if isinstance(padding, str) else tuple(padding)
    if len(paddings) != len(_STRIDES) or not set(paddings) <= {"same", "symmetric"}:
        raise ConfigError(
            f"padding must be same or symmetric, or a list of {len(_STRIDES)} of them, for the strides 2, 4, 8, 16 and "
            f"32; got {padding}."
        )
    return _Kind("relu6" if lite else "silu", not lite, epsilon, paddings)


def _block(
    x: Any,
    stage: _Stage,
    kind: _Kind,
    *,
    channels: int,
    strides: int,
    dilation: int,
    padding: Padding,
    shortcut: bool,
    name: str,
) -> Any:
    """One inverted residual block, (B, H, W, C) -> (B, ceil(H / strides), ceil(W / strides), channels)."""
    y, activation, epsilon = x, kind.activation, kind.epsilon
    if stage.expansion > 1:
        expanded = stage.expansion * x.shape[-1]
        y = conv_bn_activation(y, expanded, 1, activation=activation, epsilon=epsilon, name=f"{name}_expand")
    y = conv_bn_activation(
        y,
        None,
        stage.kernel_size,
        strides=strides,
        dilation=dilation,
        padding=padding,
        activation=activation,
        epsilon=epsilon,
        name=f"{name}_depthwise",
    )
    if kind.squeeze:
        # A quarter of the block's input, not of what it was widened to.
        y = squeeze_and_excite(
            y, max(1, x.shape[-1] // 4), activation=activation, gate="sigmoid", name=f"{name}_squeeze"
        )
    y = conv_bn_activation(y, channels, 1, epsilon=epsilon, name=f"{name}_project")
    return keras.layers.Add(name=f"{name}_add")([y, x]) if shortcut else y
