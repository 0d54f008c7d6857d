"""PSPNet: the deepest features together with their means over grids of several sizes.

Zhao et al., Pyramid Scene Parsing Network, https://arxiv.org/abs/1612.01105.
Source: paddleseg/models/pspnet.py of PaddleSeg; for the other variants PSPHead and FCNHead in
mmseg/models/decode_heads of mmsegmentation, and decoders/pspnet of segmentation_models_pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import ResizeLike, auxiliary_head, classifier, pyramid_pooling
from rsseg_tf.segmentors.requirements import VariantOrSmp, require_backbone, require_variant

__all__ = ["pspnet"]


@takes_weights
def pspnet(
    backbone: keras.Model,
    *,
    num_classes: int,
    pyramid_channels: int = 1024,
    bin_sizes: Sequence[int] = (1, 2, 3, 6),
    aux_head: bool = True,
    feature: str | None = None,
    variant: VariantOrSmp = "paddleseg",
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a PSPNet on the deepest features of a backbone, with an auxiliary head on those before.

    The model shares the backbone's layers and variables.

    Args:
        backbone: Model from an image to features `"c2"`…; with `aux_head` one before those that are pooled.
        num_classes: Channels of the logits.
        pyramid_channels: Channels of the pyramid's result.
        bin_sizes: Cells per side of each grid of the pyramid.
        aux_head: Whether the model has the output `"aux"`, which helps the training of deep backbones.
        feature: Name of the features that are pooled; by default the deepest, in the variant of
            segmentation_models_pytorch those of stride 8, "c3".
        variant: Whose computation it is. In mmsegmentation's each mean has `pyramid_channels` channels (512 in its
            configs, 128 on ResNet-18), and in training whole channels are dropped. segmentation_models_pytorch ("smp")
            drops them too; it joins the pyramid by a 1x1 convolution, normalises no grid of one cell, and classifies by
            a 3x3 convolution. It has no auxiliary head, 512 `pyramid_channels` and aligned corners.
        align_corners: How means and logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits, "aux": logits}`, (B, H, W, num_classes) float32.

    Raises:
        ConfigError: If the backbone lacks features, a bin size is below 1, or there is no such variant.
    """
    require_variant(variant, "pspnet", smp=True)
    names = require_backbone(backbone, "pspnet")
    if len(names) < 1 + aux_head:
        raise ConfigError(
            f"pspnet needs {'two features' if aux_head else 'a feature'} named c2 to c5; backbone '{backbone.name}' "
            f"has {', '.join(names) or 'none'}. Use a resnet" + (", or set aux_head to false." if names else ".")
        )
    of_smp = variant == "smp"
    feature = feature or ("c3" if of_smp else names[-1])
    if feature not in names[aux_head:]:
        raise ConfigError(
            f"pspnet pools the features {feature}{' and has aux_head on those before' if aux_head else ''}; backbone "
            f"'{backbone.name}' has {', '.join(names)}. Name another feature, or set aux_head to false."
        )
    x = pyramid_pooling(
        backbone.output[feature],
        pyramid_channels,
        bin_sizes=bin_sizes,
        align_corners=align_corners,
        branch_channels=pyramid_channels if variant == "mmsegmentation" else None,
        project_kernel=1 if of_smp else 3,
        normalise_mean=not of_smp,
    )
    of_channels = variant != "paddleseg"
    dropout = keras.layers.SpatialDropout2D if of_channels else keras.layers.Dropout
    x = dropout(0.2 if of_smp else 0.1, name="head_dropout")(x)
    logits = {"main": classifier(x, num_classes, kernel_size=3 if of_smp else 1, name="head_classifier")}
    if aux_head:
        features = backbone.output[names[names.index(feature) - 1]]
        logits["aux"] = auxiliary_head(
            features, features.shape[-1] // 4, num_classes, dropout=0.1, of_channels=of_channels
        )
    outputs = {
        head: ResizeLike(align_corners=align_corners, dtype="float32", name=head)(x, backbone.input)
        for head, x in logits.items()
    }
    return keras.Model(backbone.input, outputs, name="pspnet")
