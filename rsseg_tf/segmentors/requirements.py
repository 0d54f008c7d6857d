"""The requirements that every segmentor has of its backbone."""

from __future__ import annotations

from typing import Any, Literal, get_args

import keras

from rsseg_tf.errors import ConfigError

__all__ = ["Variant", "VariantOrSmp", "deepest_feature", "require_backbone", "require_variant"]

Variant = Literal["paddleseg", "mmsegmentation"]
"""Whose computation a segmentor repeats, where projects differ: weights of one lose accuracy in the other."""

VariantOrSmp = Literal[Variant, "smp"]
"""The same with segmentation_models_pytorch, which has some of the segmentors."""


def require_backbone(backbone: Any, segmentor: str) -> list[str]:
    """Checks that a backbone is a model from one image to features by name.

    Args:
        backbone: The argument to check.
        segmentor: Name of the segmentor, for messages.

    Returns:
        The names of the features, "c2" to "c5" or some of them, from the finest to the deepest. Those of stride 1 and 2
        are there to refine others; the deeper of them is given where there is nothing else.

    Raises:
        ConfigError: If it is none.
    """
    if not isinstance(backbone, keras.Model):
        what = "a function" if callable(backbone) and hasattr(backbone, "__name__") else f"{type(backbone).__name__}"
        raise ConfigError(
            f"{segmentor} needs a keras.Model as its backbone; got {what}. Pass what a builder returns, such as "
            "backbones.resnet50_vd()."
        )
    outputs, image = getattr(backbone, "output", None), getattr(backbone, "input", None)
    if not isinstance(outputs, dict):
        found = "a single tensor" if hasattr(outputs, "shape") else type(outputs).__name__
        raise ConfigError(
            f"{segmentor} needs a backbone whose output is a dictionary of features named c2 to c5, strides 4 to 32; "
            f"'{backbone.name}' gives {found}. Name them: keras.Model(image, {{'c2': ..., 'c5': ...}})."
        )
    shape = getattr(image, "shape", None)
    if shape is None or len(shape) != 4:
        raise ConfigError(
            f"{segmentor} needs a backbone with one input, images (B, H, W, bands); '{backbone.name}' has "
            f"{type(image).__name__ if shape is None else shape}."
        )
    names = sorted(name for name in outputs if name.startswith("c"))
    return [name for name in names if name > "c1"] or names[-1:]


def deepest_feature(backbone: Any, segmentor: str) -> Any:
    """Returns the deepest features (B, h, w, C) of a backbone; arguments and errors as `require_backbone`."""
    names = require_backbone(backbone, segmentor)
    if not names:
        raise ConfigError(f"{segmentor} needs features named c2 to c5; backbone '{backbone.name}' has none of them.")
    return backbone.output[names[-1]]


def require_variant(variant: str, segmentor: str, *, smp: bool = False) -> None:
    """Checks the argument `variant` of a segmentor.

    Args:
        variant: The argument.
        segmentor: Name of the segmentor, for messages.
        smp: Whether it is in segmentation_models_pytorch too.

    Raises:
        ConfigError: If it is none of `Variant`, or of `VariantOrSmp`.
    """
    known = get_args(VariantOrSmp if smp else Variant)
    if variant not in known:
        raise ConfigError(f"The variant of {segmentor} must be {' or '.join(known)}; got {variant}.")
