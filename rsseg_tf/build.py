"""From a config to objects: the only place where names meet functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import keras

from rsseg_tf import backbones, losses, segmentors, ssl, weights
from rsseg_tf.config import Config, PretrainConfig
from rsseg_tf.config import pretrain as pretrain_schema
from rsseg_tf.config.schema import Backbone, C2FNet, Loss, Mixed, Model, PixelContrast
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.segmentors.c2fnet import window_labels
from rsseg_tf.ssl.queue import check_queue

__all__ = [
    "BACKBONES",
    "BACKBONE_NAMES",
    "LOSSES",
    "METHODS",
    "POLICIES",
    "SEGMENTORS",
    "SEGMENTOR_NAMES",
    "HeadLoss",
    "backbone_names",
    "build_backbone",
    "build_losses",
    "build_method",
    "build_model",
    "weight_names",
]

_Names = TypeVar("_Names", bound=Callable[..., dict[str, str]])

BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "resnet18": backbones.resnet18,
    "resnet50": backbones.resnet50,
    "resnet101": backbones.resnet101,
    "resnet18_vd": backbones.resnet18_vd,
    "resnet50_vd": backbones.resnet50_vd,
    "resnet101_vd": backbones.resnet101_vd,
    "hrnet_w18": backbones.hrnet_w18,
    "hrnet_w48": backbones.hrnet_w48,
    "mobilenet_v3_large": backbones.mobilenet_v3_large,
    "mobilenet_v3_small": backbones.mobilenet_v3_small,
}
# Names of the original's tensors, from the names of a backbone's tensors and the section of the model. One without
# released weights needs none.
BACKBONE_NAMES: dict[str, Callable[[], dict[str, str]]] = {
    "resnet18": lambda: weights.resnet_names((2, 2, 2, 2), bottleneck=False),
    "resnet50": weights.resnet_names,
    "resnet101": lambda: weights.resnet_names((3, 4, 23, 3)),
    "resnet18_vd": lambda: weights.resnet_vd_names((2, 2, 2, 2), bottleneck=False),
    "resnet50_vd": weights.resnet_vd_names,
    "resnet101_vd": lambda: weights.resnet_vd_names((3, 4, 23, 3)),
    "hrnet_w18": weights.hrnet_names,
    "hrnet_w48": weights.hrnet_names,
    "mobilenet_v3_large": weights.mobilenet_v3_names,
    "mobilenet_v3_small": lambda: weights.mobilenet_v3_names(11, squeezed=(1, *range(4, 12))),
}
SEGMENTOR_NAMES: dict[str, Callable[[dict[str, str], Any], dict[str, str]]] = {
    "fcn": lambda names, _: weights.fcn_names(names),
    "deeplabv3plus": lambda names, section: weights.deeplabv3plus_names(names, section.aspp_rates),
    "pspnet": lambda names, section: weights.pspnet_names(names, section.bin_sizes, aux_head=section.aux_head),
    "upernet": lambda names, section: weights.upernet_names(names, aux_head=section.aux_head),
    "danet": lambda names, _: weights.danet_names(names),
    "ocrnet": lambda names, _: weights.ocrnet_names(names),
    "hrnet_contrast": lambda names, _: weights.hrnet_contrast_names(names),
    "lraspp": lambda names, _: weights.lraspp_names(names),
    "c2fnet": lambda names, _: weights.c2fnet_names(names),
}
SEGMENTORS: dict[str, Callable[..., keras.Model]] = {
    "fcn": segmentors.fcn,
    "deeplabv3plus": segmentors.deeplabv3plus,
    "pspnet": segmentors.pspnet,
    "upernet": segmentors.upernet,
    "danet": segmentors.danet,
    "ocrnet": segmentors.ocrnet,
    "hrnet_contrast": segmentors.hrnet_contrast,
    "lraspp": segmentors.lraspp,
    "c2fnet": segmentors.c2fnet,
}
LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": losses.cross_entropy,
    "ohem_cross_entropy": losses.ohem_cross_entropy,
    "dice": losses.dice,
    "focal": losses.focal,
    "lovasz_softmax": losses.lovasz_softmax,
    "pixel_contrast": losses.pixel_contrast,
}
METHODS: dict[str, Callable[..., ssl.Method]] = {
    "moco_v2": ssl.MoCoV2,
    "densecl": ssl.DenseCL,
    "simsiam": ssl.SimSiam,
    "swav": ssl.SwAV,
    "pixpro": ssl.PixPro,
    "moco_byol": ssl.MoCoBYOL,
}
POLICIES = {"fp32": "float32", "fp16": "mixed_float16", "bf16": "mixed_bfloat16"}


def build_backbone(config: Backbone, *, in_channels: int = 3) -> keras.Model:
    """Returns the backbone of a config: `(B, H, W, in_channels)` to features keyed "c2".."c5"."""
    options = config.model_dump(exclude={"name", "pretrained"})
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
    with _dtype_policy(POLICIES[precision]):
        model = _build_segmentor(config.model, config.dataset.spec)
    # The coarse logits of c2fnet are its main output; they do not learn.
    heads = ["fine"] if isinstance(config.model, C2FNet) else sorted(model.output)
    with_loss = sorted(config.loss)
    if heads != with_loss:
        raise ConfigError(
            f"loss names the heads {', '.join(with_loss)}, but {config.model.name} has the heads {', '.join(heads)}; "
            "write one loss for each head."
        )
    return model


def _build_segmentor(section: Model, spec: DatasetSpec) -> keras.Model:
    options = section.model_dump(exclude={"name", "backbone", "pretrained", "num_classes", "coarse"})
    if not isinstance(section, C2FNet):
        backbone = build_backbone(section.backbone, in_channels=spec.bands)
        return SEGMENTORS[section.name](backbone, num_classes=spec.num_classes, **options)
    # Both parts have layers of the same names; the scopes keep the paths of their variables apart.
    with keras.name_scope("coarse"):
        coarse = _build_segmentor(section.coarse, spec)
    with keras.name_scope("fine"):
        backbone = build_backbone(section.backbone, in_channels=spec.bands)
    return SEGMENTORS[section.name](
        backbone, coarse=coarse, num_classes=spec.num_classes, small_classes=spec.small_class_ids, **options
    )


def build_method(config: PretrainConfig, *, steps: int, devices: int = 1, precision: str = "fp32") -> ssl.Method:
    """Returns the self-supervised method of a config around a new backbone.

    Args:
        config: a checked config.
        steps: of the whole run, which schedules of momentum go by.
        devices: how many share a batch.
        precision: `fp32`, `fp16` or `bf16`: the type of activations. Weights, queues and losses stay float32.

    Raises:
        ConfigError: when the batch does not fit the devices, the queue or the parts in which keys are normalised.
    """
    section, batch = config.method, config.train.total_batch_size
    if batch % devices:
        raise ConfigError(
            f"train.total_batch_size is {batch}, the images of a step on all devices, and {devices} devices cannot "
            f"share it equally. Use a multiple of {devices}."
        )
    _check_memory(section, batch, batch // devices)
    options = section.model_dump(exclude={"name"})
    if isinstance(section, pretrain_schema.PixPro | pretrain_schema.MoCoBYOL):
        options["steps"] = steps
    with _dtype_policy(POLICIES[precision]):
        return METHODS[section.name](
            lambda: build_backbone(config.backbone, in_channels=config.dataset.bands), **options
        )


def _check_memory(section: pretrain_schema.Method, batch: int, share: int) -> None:
    if isinstance(section, pretrain_schema.MoCoV2 | pretrain_schema.DenseCL):
        check_queue(section.queue_size, batch)
        splits = section.key_bn_splits
        if section.key_bn == "split" and (share % splits or share // splits < 2):
            raise ConfigError(
                f"method.key_bn is split: a device's {share} images are normalised in {splits} equal parts, of at "
                "least two images each. Change method.key_bn_splits or --total_batch_size, or set method.key_bn to "
                "ema_stats."
            )
    elif isinstance(section, pretrain_schema.MoCoBYOL):
        check_queue(section.queue_size, batch, keys_per_sample=2)
    elif isinstance(section, pretrain_schema.SwAV) and section.queue_size:
        check_queue(section.queue_size, batch)


def backbone_names(section: Backbone) -> dict[str, str]:
    """Returns the names of the tensors in released weights of a backbone, each with the path of our variable.

    Raises:
        WeightsError: when there is no map of them.
    """
    return _map_of(BACKBONE_NAMES, section.name, "BACKBONE_NAMES")()


def weight_names(section: Model) -> dict[str, str]:
    """Returns the names of the tensors in released weights of a model, each with the path of our variable.

    For c2fnet these are the fine model's; the coarse model's are `weight_names(section.coarse)`, with paths that lie
    under `coarse/`.

    Raises:
        WeightsError: when there is no map of them.
    """
    return _map_of(SEGMENTOR_NAMES, section.name, "SEGMENTOR_NAMES")(backbone_names(section.backbone), section)


def _map_of(table: dict[str, _Names], name: str, table_name: str) -> _Names:
    if name not in table:
        raise WeightsError(
            f"There is no map of released weights for {name}, only for {', '.join(table)}. Leave `pretrained` out, or "
            f"add a map to {table_name} in rsseg_tf/build.py."
        )
    return table[name]


class HeadLoss(Protocol):
    """The loss of one head."""

    def __call__(self, output: Any, labels: Any, *, mean: Callable[[Any], Any] = ..., seed: Any = ...) -> Any:
        """Returns the loss as a float32 scalar.

        Args:
            output: what the model returns for the head.
            labels: (B, H, W) integer class ids, or the dataset's `ignore_index`.
            mean: mean over all elements of all devices, see `rsseg_tf.losses.cross_entropy`.
            seed: integer that draws of random pixels follow from; another one for each step.
        """


def build_losses(config: Config) -> dict[str, tuple[HeadLoss, float]]:
    """Returns for each head its loss and the loss's weight in the sum."""
    spec = config.dataset.spec
    by_head = {head: _build_loss(section, spec.ignore_index) for head, section in config.loss.items()}
    if isinstance(config.model, C2FNet):
        by_head = {head: _on_windows(loss, config.model, spec) for head, loss in by_head.items()}
    return {head: (loss, config.loss[head].weight) for head, loss in by_head.items()}


def _build_loss(section: Loss, ignore_index: int) -> HeadLoss:
    if isinstance(section, Mixed):
        return _sum_of([(_build_loss(part, ignore_index), part.weight) for part in section.losses])
    function = LOSSES[section.name]
    options = section.model_dump(exclude={"name", "weight"})
    draws = isinstance(section, PixelContrast)

    def loss(output: Any, labels: Any, *, mean: Callable[[Any], Any] = keras.ops.mean, seed: Any = 0) -> Any:
        drawn = {"seed": seed} if draws else {}
        return function(output, labels, ignore_index=ignore_index, mean=mean, **drawn, **options)

    return loss


def _sum_of(parts: list[tuple[HeadLoss, float]]) -> HeadLoss:
    def mixed(output: Any, labels: Any, *, mean: Callable[[Any], Any] = keras.ops.mean, seed: Any = 0) -> Any:
        return sum(weight * part(output, labels, mean=mean, seed=seed) for part, weight in parts)

    return mixed


def _on_windows(loss: HeadLoss, section: C2FNet, spec: DatasetSpec) -> HeadLoss:
    """Returns the loss of c2fnet's fine head, whose labels are cut out of those of the images."""

    def of_windows(output: Any, labels: Any, *, mean: Callable[[Any], Any] = keras.ops.mean, seed: Any = 0) -> Any:
        targets = window_labels(
            labels,
            output["windows"],
            window_size=section.window_size,
            small_classes=spec.small_class_ids,
            ignore_index=spec.ignore_index,
        )
        return loss(output["logits"], targets, mean=mean, seed=seed)

    return of_windows


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
