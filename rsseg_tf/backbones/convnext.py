"""ConvNeXt: a convolutional network with the proportions of a transformer.

Liu et al., A ConvNet for the 2020s, https://arxiv.org/abs/2201.03545.
Source: torchvision/models/convnext.py and timm/models/convnext.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import LayerNorm, LayerScale, StochasticDepth, kernel_initializer

__all__ = ["convnext", "convnext_tiny"]

_EXPANSION = 4
_EPSILON = 1e-6


def convnext(
    depths: Sequence[int],
    widths: Sequence[int],
    *,
    in_channels: int = 3,
    drop_path: float = 0.1,
    name: str = "convnext",
) -> keras.Model:
    """Builds a ConvNeXt from its numbers of blocks.

    The features are what the stages give, without a normalisation behind them, as in timm's `features_only`. Where a
    side is no multiple of a stage's step it is filled up with zeros on both sides; the originals leave the rest of the
    pixels out.

    Args:
        depths: Blocks of the four stages, each >= 1.
        widths: Channels of the four stages.
        in_channels: Channels of the input image.
        drop_path: Probability, in training, that the last block is left out; it rises from 0 at the first.
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
    last = max(sum(depths) - 1, 1)
    image = keras.Input((None, None, in_channels), name="image")
    x = LayerNorm(epsilon=_EPSILON, name="stem_norm")(_reduce(image, widths[0], 4, "stem_conv"))
    features, done = {}, 0
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        if stage > 1:
            x = LayerNorm(epsilon=_EPSILON, name=f"stage{stage}_reduce_norm")(x)
            x = _reduce(x, width, 2, f"stage{stage}_reduce")
        for block in range(1, depth + 1):
            x = _block(x, drop_path * done / last, name=f"stage{stage}_block{block}")
            done += 1
        features[f"c{stage + 1}"] = x
    return keras.Model(image, features, name=name)


@takes_weights
def convnext_tiny(
    *,
    in_channels: int = 3,
    drop_path: float = 0.1,
    weights: StrPath | None = None,
) -> keras.Model:
    """ConvNeXt-Tiny, 96 to 768 channels. See `convnext`."""
    return convnext(
        (3, 3, 9, 3), (96, 192, 384, 768), in_channels=in_channels, drop_path=drop_path, name="convnext_tiny"
    )


def _reduce(x: Any, width: int, strides: int, name: str) -> Any:
    """Patches that do not overlap: (B, H, W, C) -> (B, ceil(H / strides), ceil(W / strides), width)."""
    return keras.layers.Conv2D(
        width, strides, strides=strides, padding="same", kernel_initializer=kernel_initializer(0.02), name=name
    )(x)


def _block(x: Any, rate: float, *, name: str) -> Any:
    """A depthwise convolution and two linear layers beside a shortcut; same shape."""
    width = x.shape[-1]
    y = keras.layers.DepthwiseConv2D(
        7, padding="same", depthwise_initializer=kernel_initializer(0.02), name=f"{name}_depthwise"
    )(x)
    y = LayerNorm(epsilon=_EPSILON, name=f"{name}_norm")(y)
    y = _linear(y, _EXPANSION * width, f"{name}_expand")
    y = keras.layers.Activation("gelu", name=f"{name}_gelu")(y)
    y = _linear(y, width, f"{name}_project")
    y = LayerScale(name=f"{name}_scale")(y)
    if rate > 0:
        y = StochasticDepth(rate, name=f"{name}_drop")(y)
    return keras.layers.Add(name=f"{name}_add")([x, y])


def _linear(x: Any, width: int, name: str) -> Any:
    """A linear layer on each pixel; as a convolution it is quantised for each channel by itself."""
    return keras.layers.Conv2D(width, 1, kernel_initializer=kernel_initializer(0.02), name=name)(x)
