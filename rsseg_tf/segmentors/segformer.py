"""The head of SegFormer: a linear layer on the features of each stride, joined at the finest.

Xie et al., SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers,
https://arxiv.org/abs/2105.15203.
Source: SegformerDecodeHead in models/segformer of Hugging Face's transformers.
"""

from __future__ import annotations

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import BatchNorm, ResizeLike, classifier, kernel_initializer
from rsseg_tf.segmentors.requirements import require_backbone

__all__ = ["segformer"]


@takes_weights
def segformer(
    backbone: keras.Model,
    *,
    num_classes: int,
    channels: int = 256,
    dropout: float = 0.1,
    channel_dropout: bool = False,
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds SegFormer's head on all features of a backbone.

    The model shares the backbone's layers and variables. The original resizes the features, joins them and takes one
    linear layer of all; here each has its part of that layer before it is resized, and they are added, which gives the
    same sums with a third of that layer's operations.

    Args:
        backbone: Model from an image to features `"c2"`…, of which all are used.
        num_classes: Channels of the logits.
        channels: Channels to which features are brought; 256 for MiT-B0 and B1 and 768 for larger ones in released
            models.
        dropout: Share of the values that are dropped before the classifier in training.
        channel_dropout: Whether dropout takes away whole channels, as in PaddleSeg, or single values.
        align_corners: How features and logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits}`, (B, H, W, num_classes) float32.

    Raises:
        ConfigError: If the backbone has no features named `"c1"`, `"c2"`, ….
    """
    names = require_backbone(backbone, "segformer")
    if not names:
        raise ConfigError(f"segformer needs features named c2 to c5; backbone '{backbone.name}' has none of them.")
    finest = backbone.output[names[0]]
    parts = []
    for number, name in enumerate(names, start=1):
        x = _linear(channels, f"head_linear{number}")(backbone.output[name])
        x = _linear(channels, f"head_fuse{number}", use_bias=False)(x)
        if number > 1:
            x = ResizeLike(align_corners=align_corners, name=f"head_resize{number}")(x, finest)
        parts.append(x)
    x = keras.layers.Add(name="head_add")(parts) if len(parts) > 1 else parts[0]
    x = keras.layers.ReLU(name="head_relu")(BatchNorm(name="head_norm")(x))
    kind = keras.layers.SpatialDropout2D if channel_dropout else keras.layers.Dropout
    x = kind(dropout, name="head_dropout")(x)
    x = classifier(x, num_classes, name="head_classifier")
    logits = ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)
    return keras.Model(backbone.input, {"main": logits}, name="segformer")


def _linear(channels: int, name: str, *, use_bias: bool = True) -> keras.layers.Layer:
    return keras.layers.Conv2D(channels, 1, use_bias=use_bias, kernel_initializer=kernel_initializer(), name=name)
