"""Mix Transformer (MiT), the encoder of SegFormer: attention between all pixels and a few of them, at four strides.

Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers,
https://arxiv.org/abs/2105.15203.
Source: models/segformer of Hugging Face's transformers; initial values are those of mmsegmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import LayerNorm, MultiHeadAttention, ReducingConv2D, StochasticDepth, kernel_initializer

__all__ = ["mit", "mit_b0", "mit_b1", "mit_b2", "mit_b3", "mit_b4", "mit_b5"]

# By stage: width of a head's channels is the same in all, and keys are of maps that are all about as coarse (1/32).
_HEADS = (1, 2, 5, 8)
_REDUCTIONS = (8, 4, 2, 1)
_EXPANSION = 4
_B0_WIDTHS, _WIDTHS = (32, 64, 160, 256), (64, 128, 320, 512)


def mit(
    depths: Sequence[int],
    widths: Sequence[int],
    *,
    heads: Sequence[int] = _HEADS,
    in_channels: int = 3,
    drop_path: float = 0.1,
    norm_epsilon: float = 1e-5,
    embed_epsilon: float | None = None,
    name: str = "mit",
) -> keras.Model:
    """Builds a Mix Transformer from its numbers of blocks.

    Keys and values are of a map that a convolution makes coarser, 8, 4, 2 and 1 times by stage. Rows and columns that
    do not fill one of its steps have no part in them, as in the original. The original refuses images below 29 pixels,
    whose maps are smaller than one step; here zeros fill them up.

    Args:
        depths: Blocks of the four stages, each >= 1.
        widths: Channels of the four stages, multiples of the stage's `heads`.
        heads: Heads of the attention in the four stages.
        in_channels: Channels of the input image.
        drop_path: Probability, in training, that the last block's branches are left out; it rises from 0 at the first.
        norm_epsilon: What the normalisations add to the variance: 1e-5 in Hugging Face's models, 1e-6 in
            mmsegmentation's and PaddleSeg's. Files of weights do not say.
        embed_epsilon: The same of the normalisations behind patches and behind the coarser maps of keys and values;
            None for `norm_epsilon`. 1e-5 in PaddleSeg's models.
        name: Name of the model.

    Returns:
        A model from images (B, H, W, in_channels) to `{"c2", "c3", "c4", "c5"}` with strides 4, 8, 16 and 32, each
        after a normalisation; sides are rounded up.

    Raises:
        ConfigError: If `depths`, `widths` or `heads` does not have four entries of at least 1, or heads do not divide
            the channels.
    """
    for what, values in (("depths", depths), ("widths", widths), ("heads", heads)):
        if len(values) != 4 or min(values) < 1:
            raise ConfigError(f"{what} must be four integers of at least 1; got {tuple(values)}.")
    if any(width % parts for width, parts in zip(widths, heads, strict=True)):
        raise ConfigError(f"widths must be multiples of heads {tuple(heads)}, stage by stage; got {tuple(widths)}.")
    last = max(sum(depths) - 1, 1)
    embed_epsilon = norm_epsilon if embed_epsilon is None else embed_epsilon
    image = keras.Input((None, None, in_channels), name="image")
    x, features, done = image, {}, 0
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
        prefix = f"stage{stage}"
        x = _embed(x, width, patch=7 if stage == 1 else 3, strides=4 if stage == 1 else 2, name=f"{prefix}_embed")
        x = LayerNorm(epsilon=embed_epsilon, name=f"{prefix}_embed_norm")(x)
        for block in range(1, depth + 1):
            rate, done = drop_path * done / last, done + 1
            name_of_block = f"{prefix}_block{block}"
            y = LayerNorm(epsilon=norm_epsilon, name=f"{name_of_block}_attention_norm")(x)
            y = _attend(y, heads[stage - 1], _REDUCTIONS[stage - 1], embed_epsilon, name=f"{name_of_block}_attention")
            x = _add(x, y, rate, name=f"{name_of_block}_attention")
            y = LayerNorm(epsilon=norm_epsilon, name=f"{name_of_block}_mlp_norm")(x)
            x = _add(x, _mix(y, name=f"{name_of_block}_mlp"), rate, name=f"{name_of_block}_mlp")
        x = LayerNorm(epsilon=norm_epsilon, name=f"{prefix}_norm")(x)
        features[f"c{stage + 1}"] = x
    return keras.Model(image, features, name=name)


@takes_weights
def mit_b0(
    *,
    in_channels: int = 3,
    drop_path: float = 0.1,
    norm_epsilon: float = 1e-5,
    embed_epsilon: float | None = None,
    weights: StrPath | None = None,
) -> keras.Model:
    """MiT-B0, 8 blocks, 32 to 256 channels. See `mit`."""
    return _named("mit_b0", (2, 2, 2, 2), _B0_WIDTHS, in_channels, drop_path, (norm_epsilon, embed_epsilon))


@takes_weights
def mit_b1(
    *,
    in_channels: int = 3,
    drop_path: float = 0.1,
    norm_epsilon: float = 1e-5,
    embed_epsilon: float | None = None,
    weights: StrPath | None = None,
) -> keras.Model:
    """MiT-B1, 8 blocks, 64 to 512 channels. See `mit`."""
    return _named("mit_b1", (2, 2, 2, 2), _WIDTHS, in_channels, drop_path, (norm_epsilon, embed_epsilon))


@takes_weights
def mit_b2(
    *,
    in_channels: int = 3,
    drop_path: float = 0.1,
    norm_epsilon: float = 1e-5,
    embed_epsilon: float | None = None,
    weights: StrPath | None = None,
) -> keras.Model:
    """MiT-B2, 16 blocks, 64 to 512 channels. See `mit`."""
    return _named("mit_b2", (3, 4, 6, 3), _WIDTHS, in_channels, drop_path, (norm_epsilon, embed_epsilon))


@takes_weights
def mit_b3(
    *,
    in_channels: int = 3,
    drop_path: float = 0.1,
    norm_epsilon: float = 1e-5,
    embed_epsilon: float | None = None,
    weights: StrPath | None = None,
) -> keras.Model:
    """MiT-B3, 28 blocks, 64 to 512 channels. See `mit`."""
    return _named("mit_b3", (3, 4, 18, 3), _WIDTHS, in_channels, drop_path, (norm_epsilon, embed_epsilon))


@takes_weights
def mit_b4(
    *,
    in_channels: int = 3,
    drop_path: float = 0.1,
    norm_epsilon: float = 1e-5,
    embed_epsilon: float | None = None,
    weights: StrPath | None = None,
) -> keras.Model:
    """MiT-B4, 41 blocks, 64 to 512 channels. See `mit`."""
    return _named("mit_b4", (3, 8, 27, 3), _WIDTHS, in_channels, drop_path, (norm_epsilon, embed_epsilon))


@takes_weights
def mit_b5(
    *,
    in_channels: int = 3,
    drop_path: float = 0.1,
    norm_epsilon: float = 1e-5,
    embed_epsilon: float | None = None,
    weights: StrPath | None = None,
) -> keras.Model:
    """MiT-B5, 52 blocks, 64 to 512 channels. See `mit`."""
    return _named("mit_b5", (3, 6, 40, 3), _WIDTHS, in_channels, drop_path, (norm_epsilon, embed_epsilon))


def _named(
    name: str,
    depths: Sequence[int],
    widths: Sequence[int],
    in_channels: int,
    drop_path: float,
    epsilons: tuple[float, float | None],
) -> keras.Model:
    return mit(
        depths,
        widths,
        in_channels=in_channels,
        drop_path=drop_path,
        norm_epsilon=epsilons[0],
        embed_epsilon=epsilons[1],
        name=name,
    )


def _embed(x: Any, width: int, *, patch: int, strides: int, name: str) -> Any:
    """Overlapping patches: (B, H, W, C) -> (B, ceil(H / strides), ceil(W / strides), width)."""
    x = keras.layers.ZeroPadding2D(patch // 2, name=f"{name}_pad")(x)
    return keras.layers.Conv2D(width, patch, strides=strides, kernel_initializer=_of_convolutions(), name=name)(x)


def _attend(x: Any, heads: int, reduction: int, epsilon: float, *, name: str) -> Any:
    """Attention between the pixels of a map and those of the same map made coarser, (B, H, W, C) -> the same."""
    width = x.shape[-1]
    coarse = x
    if reduction > 1:
        coarse = ReducingConv2D(
            width, reduction, strides=reduction, kernel_initializer=_of_convolutions(), name=f"{name}_reduce"
        )(x)
        coarse = LayerNorm(epsilon=epsilon, name=f"{name}_reduce_norm")(coarse)
    query = _linear(x, width, f"{name}_query")
    key, value = _linear(coarse, width, f"{name}_key"), _linear(coarse, width, f"{name}_value")
    mixed = MultiHeadAttention(heads, name=name)(query, key, value)
    return _linear(mixed, width, f"{name}_project")


def _mix(x: Any, *, name: str) -> Any:
    """Mix-FFN: two linear layers with a depthwise convolution between, which tells where pixels are; same shape."""
    width = x.shape[-1]
    x = _linear(x, _EXPANSION * width, f"{name}_expand")
    x = keras.layers.DepthwiseConv2D(
        3, padding="same", depthwise_initializer=_of_convolutions(), name=f"{name}_depthwise"
    )(x)
    x = keras.layers.Activation("gelu", name=f"{name}_gelu")(x)
    return _linear(x, width, f"{name}_project")


def _linear(x: Any, width: int, name: str) -> Any:
    """A linear layer on each pixel; as a convolution it is quantised for each channel by itself."""
    return keras.layers.Conv2D(width, 1, kernel_initializer=kernel_initializer(0.02), name=name)(x)


def _add(x: Any, branch: Any, rate: float, *, name: str) -> Any:
    """The sum of a map and a branch, which training leaves out at a rate."""
    if rate > 0:
        branch = StochasticDepth(rate, name=f"{name}_drop")(branch)
    return keras.layers.Add(name=f"{name}_add")([x, branch])


def _of_convolutions() -> keras.initializers.Initializer:
    """Normal with variance 2 / (kernel height * kernel width * outputs that each input has)."""
    return keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
