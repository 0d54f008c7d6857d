"""HRNet with pixel contrast: an FCN with a 3x3 convolution, and an embedding that the contrastive loss trains.

Wang et al., Exploring Cross-Image Pixel Contrast for Semantic Segmentation, https://arxiv.org/abs/2101.11939.
Source: paddleseg/models/hrnet_contrast.py of PaddleSeg.
"""

from __future__ import annotations

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.files import StrPath
from rsseg_tf.layers import ResizeLike, classifier, conv_bn_relu
from rsseg_tf.segmentors.requirements import deepest_feature

__all__ = ["hrnet_contrast"]


@takes_weights
def hrnet_contrast(
    backbone: keras.Model,
    *,
    num_classes: int,
    projection_channels: int = 256,
    dropout: float = 0.1,
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a segmentor with an embedding of every pixel, on the deepest features of a backbone.

    The model shares the backbone's layers and variables. The embedding serves training only.

    Args:
        backbone: Model from an image to features `"c2"`…; the last name in order of depth is used (an HRNet in
            PaddleSeg).
        num_classes: Channels of the logits.
        projection_channels: Channels D of the embedding.
        dropout: Share of channels that are dropped before the classifier.
        align_corners: How the logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits, "contrast": {"logits", "embedding"}}`. `main` is
        (B, H, W, num_classes) float32. `contrast` has the size (h, w) of the features: the same logits before they
        are resized, and vectors of length 1, (B, h, w, D); both float32. See `rsseg_tf.losses.pixel_contrast`.

    Raises:
        ConfigError: If the backbone has no features named `"c1"`, `"c2"`, ….
    """
    features = deepest_feature(backbone, "hrnet_contrast")
    x = conv_bn_relu(features, features.shape[-1], 3, use_bias=True, name="head_conv")
    x = keras.layers.SpatialDropout2D(dropout, name="head_dropout")(x)
    x = classifier(x, num_classes, use_bias=False, name="head_classifier")
    main = ResizeLike(align_corners=align_corners, dtype="float32", name="main")(x, backbone.input)

    embedding = conv_bn_relu(features, features.shape[-1], 1, use_bias=True, name="projection_conv")
    embedding = classifier(embedding, projection_channels, name="projection")
    contrast = {
        "logits": keras.layers.Activation("linear", dtype="float32", name="contrast_logits")(x),
        "embedding": keras.layers.UnitNormalization(axis=-1, dtype="float32", name="contrast_embedding")(embedding),
    }
    return keras.Model(backbone.input, {"main": main, "contrast": contrast}, name="hrnet_contrast")
