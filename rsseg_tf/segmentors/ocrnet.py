"""OCRNet: every pixel attends to the mean features of the image's classes.

Yuan et al., Object-Contextual Representations for Semantic Segmentation, https://arxiv.org/abs/1909.11065.
Source: paddleseg/models/ocrnet.py of PaddleSeg.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.layers import AttendRegions, GatherRegions, ResizeLike, UnusedWeights, classifier, conv_bn_relu
from rsseg_tf.segmentors.requirements import require_backbone

__all__ = ["ocrnet"]

# Standard deviation with which PaddleSeg draws the head's kernels.
_STDDEV = 0.001


@takes_weights
def ocrnet(
    backbone: keras.Model,
    *,
    num_classes: int,
    features: Sequence[str] | None = None,
    ocr_channels: int = 512,
    key_channels: int = 256,
    align_corners: bool = False,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds an OCRNet on one or two features of a backbone.

    The model shares the backbone's layers and variables. Layers of the backbone behind the deepest of `features` have
    no influence on any output. PaddleSeg computes them nevertheless; here they are never called. Their weights lie
    on the output `"aux"` as `rsseg_tf.layers.UnusedWeights`.

    Args:
        backbone: Model from an image to features `"c2"`….
        num_classes: Channels of the logits, and number of object regions.
        features: One feature for both heads, or the auxiliary head's and the main head's. By default the two deepest,
            or the only one. (The benchmark uses `("c2",)`.)
        ocr_channels: Channels of the pixel and object representations.
        key_channels: Channels in which pixels and objects are compared.
        align_corners: How the logits are resized, see `rsseg_tf.layers.ResizeLike`.
        weights: Of the whole model, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, C) to `{"main": logits, "aux": logits}`, (B, H, W, num_classes) float32;
        `aux` are the soft object regions.

    Raises:
        ConfigError: If the backbone lacks a feature, or the two features differ in size.
    """
    available = require_backbone(backbone, "ocrnet")
    chosen = tuple(features if features is not None else available[-2:])
    if not 1 <= len(chosen) <= 2 or any(name not in available for name in chosen):
        raise ConfigError(
            f"ocrnet needs one or two features of backbone '{backbone.name}'; it has "
            f"{', '.join(available) or 'none named c2 to c5'}; features is {', '.join(chosen) or 'empty'}."
        )
    shallow, deep = backbone.output[chosen[0]], backbone.output[chosen[-1]]

    # Soft object regions, (B, H, W, num_classes): the auxiliary head's logits.
    regions = conv_bn_relu(shallow, shallow.shape[-1], 1, use_bias=True, stddev=_STDDEV, name="aux_conv")
    regions = classifier(regions, num_classes, stddev=_STDDEV, name="aux_classifier")
    # Pixel representations, (B, H, W, ocr_channels).
    pixels = conv_bn_relu(deep, ocr_channels, 3, use_bias=True, stddev=_STDDEV, name="ocr_conv")
    if chosen[0] != chosen[-1]:
        # At output stride 8 both have the same size and this changes nothing; PaddleSeg works for those only.
        at_pixels = ResizeLike(align_corners=align_corners, name="ocr_regions")(regions, pixels)
    else:
        at_pixels = regions
    x = _object_context(pixels, at_pixels, ocr_channels, key_channels)
    x = classifier(x, num_classes, stddev=_STDDEV, name="head_classifier")

    outputs = {
        head: ResizeLike(align_corners=align_corners, dtype="float32", name=head)(logits, backbone.input)
        for head, logits in (("main", x), ("aux", regions))
    }
    used = {id(layer) for layer in keras.Model(backbone.input, [shallow, deep]).layers}
    unused = [layer for layer in backbone.layers if layer.weights and id(layer) not in used]
    if unused:
        outputs["aux"] = UnusedWeights(unused, dtype="float32", name="unused")(outputs["aux"])
    return keras.Model(backbone.input, outputs, name="ocrnet")


def _object_context(pixels: Any, regions: Any, channels: int, key_channels: int) -> Any:
    """Joins pixels (B, H, W, channels) with a mixture of the classes' mean features; same shape."""

    def block(x: Any, filters: int, name: str) -> Any:
        return conv_bn_relu(x, filters, 1, use_bias=True, stddev=_STDDEV, name=name)

    # One mean feature for each class, (B, num_classes, 1, channels); each pixel then attends to the classes.
    objects = GatherRegions(name="ocr_gather")(pixels, regions)
    query = block(block(pixels, key_channels, "ocr_pixel1"), key_channels, "ocr_pixel2")
    key = block(block(objects, key_channels, "ocr_object1"), key_channels, "ocr_object2")
    value = block(objects, key_channels, "ocr_down")
    context = AttendRegions(name="ocr_attend")(query, key, value)
    context = block(context, channels, "ocr_up")
    x = keras.layers.Concatenate(name="ocr_concat")([context, pixels])
    x = block(x, channels, "ocr_project")
    return keras.layers.SpatialDropout2D(0.1, name="ocr_dropout")(x)
