"""Building blocks that two or more models share."""

from __future__ import annotations

from rsseg_tf.layers.conv import classifier, conv_bn, conv_bn_relu, kernel_initializer, separable_conv_bn_relu
from rsseg_tf.layers.norm import BatchNorm
from rsseg_tf.layers.pooling import AdaptiveAveragePooling, average_pool_ceil, max_pool_3x3
from rsseg_tf.layers.resize import ResizeLike

__all__ = [
    "AdaptiveAveragePooling",
    "BatchNorm",
    "ResizeLike",
    "average_pool_ceil",
    "classifier",
    "conv_bn",
    "conv_bn_relu",
    "kernel_initializer",
    "max_pool_3x3",
    "separable_conv_bn_relu",
]
