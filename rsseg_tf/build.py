"""From a config to objects: the only place where names meet functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from rsseg_tf import backbones, segmentors
from rsseg_tf.config import Config
from rsseg_tf.config.schema import Backbone
from rsseg_tf.errors import ConfigError
from rsseg_tf.losses import cross_entropy

__all__ = ["BACKBONES", "LOSSES", "POLICIES", "SEGMENTORS", "build_backbone", "build_losses", "build_model"]

BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "resnet18": backbones.resnet18,
    "resnet50": backbones.resnet50,
    "resnet101": backbones.resnet101,
    "resnet18_vd": backbones.resnet18_vd,
    "resnet50_vd": backbones.resnet50_vd,
    "resnet101_vd": backbones.resnet101_vd,
    "hrnet_w18": backbones.hrnet_w18,
    "hrnet_w48": backbones.hrnet_w48,
}
SEGMENTORS: dict[str, Callable[..., keras.Model]] = {
    "fcn": segmentors.fcn,
    "deeplabv3plus": segmentors.deeplabv3plus,
}
LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy,
}
POLICIES = {"fp32": "float32", "fp16": "mixed_float16", "bf16": "mixed_bfloat16"}


def build_backbone(config: Backbone, *, in_channels: int = 3) -> keras.Model:
    """Returns the backbone of a config: `(B, H, W, in_channels)` to features keyed "c2".."c5"."""
    options = config.model_dump(exclude={"name"})
    return BACKBONES[config.name](in_channels=in_channels, **options)


def build_model(config: Config, *, precision: str = "fp32") -> keras.Model:
    """Returns the segmentor of a config, with random weights.

    Args:
        config: a checked config; bands and number of classes come from its dataset.
        precision: `fp32`, `fp16` or `bf16`: the type of activations. Weights and outputs stay float32.

    Returns:
        A functional model: `(B, H, W, bands)` float32 normalised pixels to `{"main": (B, H, W, classes) logits, …}`.

    Raises:
        ConfigError: when a loss is configured for a head that the model does not have, or the other way round.
    """
    spec = config.dataset.spec
    options = config.model.model_dump(exclude={"name", "backbone", "num_classes"})
    with _dtype_policy(POLICIES[precision]):
        backbone = build_backbone(config.model.backbone, in_channels=spec.bands)
        model = SEGMENTORS[config.model.name](backbone, num_classes=spec.num_classes, **options)
    heads, losses = sorted(model.output), sorted(config.loss)
    if heads != losses:
        raise ConfigError(
            f"loss names the heads {', '.join(losses)}, but {config.model.name} has the heads {', '.join(heads)}; "
            "write one loss for each head."
        )
    return model


def build_losses(config: Config) -> dict[str, tuple[Callable[..., Any], float]]:
    """Returns for each head its loss `(logits, labels, mean=…) -> scalar` and the loss's weight in the sum."""
    ignore_index = config.dataset.spec.ignore_index

    def bind(head: str) -> Callable[..., Any]:
        section = config.loss[head]
        options = section.model_dump(exclude={"name", "weight"})
        return lambda logits, labels, mean=keras.ops.mean: LOSSES[section.name](
            logits, labels, ignore_index=ignore_index, mean=mean, **options
        )

    return {head: (bind(head), section.weight) for head, section in config.loss.items()}


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
