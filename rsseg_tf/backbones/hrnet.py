"""HRNet: parallel branches of strides 4, 8, 16 and 32 that exchange features after every module.

Wang et al., Deep High-Resolution Representation Learning for Visual Recognition, https://arxiv.org/abs/1908.07919.
Source: paddleseg/models/backbones/hrnet.py of PaddleSeg, without its options for squeeze-and-excitation and polarised
attention. Strided convolutions pad as TensorFlow's SAME does, which is PaddleSeg's default. For the other variants
mmseg/models/backbones/hrnet.py of mmsegmentation and timm/models/hrnet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import ResizeLike, conv_bn, conv_bn_relu
from rsseg_tf.layers.conv import Padding
from rsseg_tf.layers.resize import Interpolation

__all__ = ["hrnet", "hrnet_w18", "hrnet_w18_small", "hrnet_w48"]

# Standard deviation with which PaddleSeg draws every kernel.
_STDDEV = 0.001
Variant = Literal["paddleseg", "mmsegmentation", "timm"]
# Variant -> how strided convolutions pad.
_PADDINGS: dict[Variant, Padding] = {"paddleseg": "same", "mmsegmentation": "symmetric", "timm": "symmetric"}


def hrnet(
    width: int,
    *,
    stem_width: int = 64,
    modules: Sequence[int] = (1, 4, 3),
    blocks: int = 4,
    in_channels: int = 3,
    variant: Variant = "paddleseg",
    name: str = "hrnet",
) -> keras.Model:
    """Builds an HRNet from its width.

    Args:
        width: Channels of the branch of stride 4; each further branch has twice as many.
        stem_width: Channels of the stem and width of the bottleneck blocks of stage 1.
        modules: Modules of stages 2, 3 and 4, which have two, three and four branches.
        blocks: Residual blocks in stage 1 and in every branch of a module.
        in_channels: Channels of the input image.
        variant: Whose computation it is. mmsegmentation's strided convolutions pad one pixel on every side, and its
            branches are enlarged by a power of two before they are brought to the size of another branch. Timm's pad so
            too, and enlarge by repeating pixels. Weights of one variant lose accuracy in the others.
        name: Name of the model.

    Returns:
        A model from images (B, H, W, in_channels) to `{"c1", "c2"}`. `c1` is the stem's first result, of stride 2 and
        stem_width channels; `c2` the concatenation of the four branches at stride 4, 15 * width channels. Sides are
        rounded up.

    Raises:
        ConfigError: If an argument is outside of what is described here.
    """
    if min(width, stem_width, blocks) < 1:
        raise ConfigError(f"width, stem_width and blocks must be at least 1; got {width}, {stem_width} and {blocks}.")
    if len(modules) != 3 or min(modules) < 1:
        raise ConfigError(f"modules must be three integers of at least 1; got {tuple(modules)}.")
    if variant not in _PADDINGS:
        raise ConfigError(f"variant must be {' or '.join(_PADDINGS)}; got {variant}.")
    image = keras.Input((None, None, in_channels), name="image")
    # Stem: stride 4, stem_width channels.
    padding = _PADDINGS[variant]
    c1 = conv_bn_relu(image, stem_width, 3, strides=2, padding=padding, stddev=_STDDEV, name="stem_conv1")
    x = conv_bn_relu(c1, stem_width, 3, strides=2, padding=padding, stddev=_STDDEV, name="stem_conv2")
    # Stage 1: one branch of stride 4, 4 * stem_width channels.
    for block in range(1, blocks + 1):
        x = _bottleneck(x, stem_width, project=block == 1, name=f"stage1_block{block}")
    branches = [x]
    # Stages 2, 3 and 4: branches of strides [4, 8], [4, 8, 16] and [4, 8, 16, 32]; channels width * [1, 2, 4, 8].
    for stage, num_modules in enumerate(modules, start=2):
        branches = _transition(branches, width, padding=padding, name=f"transition{stage - 1}")
        for module in range(1, num_modules + 1):
            prefix = f"stage{stage}_module{module}"
            branches = [
                _branch(branch, blocks, name=f"{prefix}_branch{index}") for index, branch in enumerate(branches, 1)
            ]
            branches = _fuse(branches, variant=variant, name=f"{prefix}_fuse")
    # All branches at stride 4, one behind the other: 15 * width channels.
    resized = [
        ResizeLike(name=f"c2_resize{index}")(branch, branches[0]) for index, branch in enumerate(branches[1:], 2)
    ]
    features = keras.layers.Concatenate(name="c2")([branches[0], *resized])
    return keras.Model(image, {"c1": c1, "c2": features}, name=name)


@takes_weights
def hrnet_w18(
    *,
    in_channels: int = 3,
    variant: Variant = "paddleseg",
    weights: StrPath | None = None,
) -> keras.Model:
    """HRNet-W18, 270 channels. See `hrnet`."""
    return hrnet(18, in_channels=in_channels, variant=variant, name="hrnet_w18")


@takes_weights
def hrnet_w18_small(
    *,
    in_channels: int = 3,
    variant: Variant = "paddleseg",
    weights: StrPath | None = None,
) -> keras.Model:
    """HRNet-W18 with fewer modules and blocks, 270 channels: HRNetV2p-W18-Small-v1. See `hrnet`."""
    return hrnet(18, modules=(1, 3, 2), blocks=2, in_channels=in_channels, variant=variant, name="hrnet_w18_small")


@takes_weights
def hrnet_w48(
    *,
    in_channels: int = 3,
    variant: Variant = "paddleseg",
    weights: StrPath | None = None,
) -> keras.Model:
    """HRNet-W48, 720 channels. See `hrnet`."""
    return hrnet(48, in_channels=in_channels, variant=variant, name="hrnet_w48")


def _bottleneck(x: Any, width: int, *, project: bool, name: str) -> Any:
    """Bottleneck block of stage 1, (B, H, W, C) -> (B, H, W, 4 * width)."""
    y = conv_bn_relu(x, width, 1, stddev=_STDDEV, name=f"{name}_conv1")
    y = conv_bn_relu(y, width, 3, stddev=_STDDEV, name=f"{name}_conv2")
    y = conv_bn(y, width * 4, 1, stddev=_STDDEV, name=f"{name}_conv3")
    if project:
        x = conv_bn(x, width * 4, 1, stddev=_STDDEV, name=f"{name}_shortcut")
    y = keras.layers.Add(name=f"{name}_add")([y, x])
    return keras.layers.ReLU(name=f"{name}_relu")(y)


def _transition(branches: list[Any], width: int, *, padding: Padding, name: str) -> list[Any]:
    """Adapts the channels of the branches and adds one of half the resolution."""
    adapted = []
    for index, branch in enumerate(branches):
        channels = width * 2**index
        if branch.shape[-1] != channels:
            branch = conv_bn_relu(branch, channels, 3, stddev=_STDDEV, name=f"{name}_branch{index + 1}")
        adapted.append(branch)
    new = len(branches)
    lowest = conv_bn_relu(
        branches[-1], width * 2**new, 3, strides=2, padding=padding, stddev=_STDDEV, name=f"{name}_branch{new + 1}"
    )
    return [*adapted, lowest]


def _branch(x: Any, blocks: int, *, name: str) -> Any:
    """Basic residual blocks that keep the shape (B, H, W, C)."""
    channels = x.shape[-1]
    for block in range(1, blocks + 1):
        prefix = f"{name}_block{block}"
        y = conv_bn_relu(x, channels, 3, stddev=_STDDEV, name=f"{prefix}_conv1")
        y = conv_bn(y, channels, 3, stddev=_STDDEV, name=f"{prefix}_conv2")
        y = keras.layers.Add(name=f"{prefix}_add")([y, x])
        x = keras.layers.ReLU(name=f"{prefix}_relu")(y)
    return x


def _fuse(branches: list[Any], *, variant: Variant, name: str) -> list[Any]:
    """Adds to every branch all the others, brought to its shape."""
    fused = []
    for target, branch in enumerate(branches):
        terms = [branch]
        for source, other in enumerate(branches):
            prefix = f"{name}_{source + 1}to{target + 1}"
            if source > target:  # coarser: a 1x1 convolution to the target's channels, then upsampling
                y = conv_bn(other, branch.shape[-1], 1, stddev=_STDDEV, name=prefix)
                factor = 2 ** (source - target) if variant == "mmsegmentation" else 1
                interpolation: Interpolation = "nearest" if variant == "timm" else "bilinear"
                terms.append(ResizeLike(factor=factor, interpolation=interpolation, name=f"{prefix}_resize")(y, branch))
            elif source < target:  # finer: one strided convolution for each halving
                terms.append(
                    _downsample(other, target - source, branch.shape[-1], padding=_PADDINGS[variant], name=prefix)
                )
        y = keras.layers.Add(name=f"{name}_{target + 1}_add")(terms)
        fused.append(keras.layers.ReLU(name=f"{name}_{target + 1}_relu")(y))
    return fused


def _downsample(x: Any, steps: int, channels: int, *, padding: Padding, name: str) -> Any:
    """Halves the resolution `steps` times; only the last convolution changes the channels and has no ReLU."""
    for step in range(1, steps):
        x = conv_bn_relu(x, x.shape[-1], 3, strides=2, padding=padding, stddev=_STDDEV, name=f"{name}_conv{step}")
    return conv_bn(x, channels, 3, strides=2, padding=padding, stddev=_STDDEV, name=f"{name}_conv{steps}")
