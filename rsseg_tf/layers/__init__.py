"""Building blocks that two or more models share."""

from __future__ import annotations

from rsseg_tf.layers.attention import (
    AttendRegions,
    ChannelAttention,
    GatherRegions,
    MultiHeadAttention,
    PositionAttention,
)
from rsseg_tf.layers.constants import shared_constant
from rsseg_tf.layers.conv import (
    DilatedConv2D,
    DilatedDepthwiseConv2D,
    ReducingConv2D,
    classifier,
    conv_bn,
    conv_bn_relu,
    kernel_initializer,
    separable_conv_bn_relu,
)
from rsseg_tf.layers.mobile import conv_bn_activation, multiple_of_8, squeeze_and_excite
from rsseg_tf.layers.naming import automatic_name, numbered_from_the_start
from rsseg_tf.layers.norm import BatchNorm, LayerNorm
from rsseg_tf.layers.padding import CropToStride, PadToMultiple
from rsseg_tf.layers.pooling import AdaptiveAveragePooling, HalvingMaxPool, average_pool_ceil, max_pool_3x3
from rsseg_tf.layers.pyramid import auxiliary_head, pyramid_pooling
from rsseg_tf.layers.residual import LayerScale, StochasticDepth
from rsseg_tf.layers.resize import ResizeLike
from rsseg_tf.layers.tracing import converting
from rsseg_tf.layers.unused import UnusedWeights
from rsseg_tf.layers.windows import JoinWindows, SplitWindows

__all__ = [
    "AdaptiveAveragePooling",
    "AttendRegions",
    "BatchNorm",
    "ChannelAttention",
    "CropToStride",
    "DilatedConv2D",
    "DilatedDepthwiseConv2D",
    "GatherRegions",
    "HalvingMaxPool",
    "JoinWindows",
    "LayerNorm",
    "LayerScale",
    "MultiHeadAttention",
    "PadToMultiple",
    "PositionAttention",
    "ReducingConv2D",
    "ResizeLike",
    "SplitWindows",
    "StochasticDepth",
    "UnusedWeights",
    "automatic_name",
    "auxiliary_head",
    "average_pool_ceil",
    "classifier",
    "conv_bn",
    "conv_bn_activation",
    "conv_bn_relu",
    "converting",
    "kernel_initializer",
    "max_pool_3x3",
    "multiple_of_8",
    "numbered_from_the_start",
    "pyramid_pooling",
    "separable_conv_bn_relu",
    "shared_constant",
    "squeeze_and_excite",
]
