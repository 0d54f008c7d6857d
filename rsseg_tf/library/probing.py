"""How much a backbone knows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath, several
from rsseg_tf.library.devices import choose_device
from rsseg_tf.library.listening import Notify, listener_of
from rsseg_tf.library.startup import load_tensorflow

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.evaluate.probe import ProbeRow

__all__ = ["ProbeResult", "probe"]

_LEAST = {"patch_size": 8, "patches": 10, "neighbours": 1, "seeds": 1}


@dataclass(frozen=True)
class ProbeResult:
    """Scores of simple classifiers on frozen features.

    Attributes:
        dataset: Name of the dataset.
        classes: Names of its classes.
        backbone: Name of the backbone.
        patch_size: Side of a patch in pixels.
        train_patches: Patches to learn from.
        val_patches: Patches to score on.
        neighbours: Neighbours that voted.
        rows: The scores of each kind of features: colour statistics, random weights, each source of weights.
    """

    dataset: str
    classes: tuple[str, ...]
    backbone: str
    patch_size: int
    train_patches: int
    val_patches: int
    neighbours: int
    rows: tuple[ProbeRow, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns all fields but the names of classes, as `rsseg-tf probe --json` writes them."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "classes"}


def probe(
    config: StrPath | Mapping[str, Any] | Config,
    *,
    backbone: StrPath | Sequence[StrPath] = (),
    overrides: Sequence[str] | Mapping[str, Any] = (),
    patch_size: int = 64,
    patches: int = 2000,
    labels: Sequence[int] = (),
    neighbours: int = 20,
    seeds: int = 3,
    normalisation: Literal["auto", "dataset", "imagenet"] = "auto",
    offline: bool = False,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    gpus: Sequence[int] = (),
    notify: Notify | None = None,
) -> ProbeResult:
    """Measures how well simple classifiers learn the classes from a frozen backbone, as `rsseg-tf probe` does.

    Args:
        config: Names dataset and backbone: a YAML file, the name of a shipped one, or a plain mapping.
        backbone: Weights of the backbone: a checkpoint (of `pretrain` or `train`), file, URL or preset; or several.
        overrides: Changes of the config.
        patch_size: Side of a patch in pixels, at least 8.
        patches: Most patches of each split, at least 10.
        labels: Numbers of labelled patches for the linear probe, each at least 2; all patches come last. None named
            takes 40 and 200.
        neighbours: Neighbours that vote.
        seeds: Draws of labelled patches and of random weights.
        normalisation: Mean and std of pixels. `auto` takes those that the weights were trained with, ImageNet's for
            released weights.
        offline: Never use the network; take downloads from the cache.
        device: `auto` takes a GPU if there is one, else the CPU.
        gpus: Number of the GPU.
        notify: Called with a line for each source that was loaded.

    Returns:
        The scores, as `.rows`. Features that do not beat colours and random weights are worth nothing.

    Raises:
        ConfigError: When the config is wrong or has no backbone, and for numbers that are too small or too large.
        DataError: When a sample cannot be used.
        WeightsError: When weights cannot be had, or do not fit.
    """
    given = {"patch_size": patch_size, "patches": patches, "neighbours": neighbours, "seeds": seeds}
    for name, least in _LEAST.items():
        if given[name] < least:
            raise ConfigError(f"--{name} must be at least {least}; got {given[name]}.")
    from rsseg_tf.config import load_config

    listener, checked = listener_of(notify), load_config(config, overrides)
    from rsseg_tf.library.samples import checked_samples

    load_tensorflow()
    from rsseg_tf.weights.presets import with_preset

    checked = with_preset(checked, offline=offline)
    splits = checked_samples(checked, "train", "val", listener=listener)
    from rsseg_tf.config.pretrain import IMAGENET_MEAN, IMAGENET_STD
    from rsseg_tf.evaluate import probe as engine

    spec, section = checked.dataset.spec, checked.model.backbone
    if section is None:
        raise ConfigError(f"The model of --config, {checked.model.label}, has no backbone of its own.")
    choose_device(device, gpus)
    if normalisation == "imagenet" and spec.bands != 3:
        raise ConfigError(f"--normalisation imagenet is for 3 bands; the dataset '{spec.name}' has {spec.bands}.")
    statistics = {"dataset": (spec.mean, spec.std), "imagenet": (IMAGENET_MEAN, IMAGENET_STD), "auto": None}
    if normalisation not in statistics:
        raise ConfigError(f"--normalisation is '{normalisation}'. Allowed: auto, dataset, imagenet.")
    train, val = (
        engine.cut_patches(samples, spec, size=patch_size, max_count=patches, trust=checked.data.trust)
        for samples in splits
    )
    count = len(train.labels)
    asked = tuple(labels) or tuple(usual for usual in (40, 200) if usual < count)
    if asked and max(asked) > count:
        raise ConfigError(
            f"--labels asks for {max(asked)} labelled patches, but the training tiles give {count}. Ask for fewer, "
            "raise --patches, or choose a smaller --patch_size."
        )
    if asked and min(asked) < 2:
        raise ConfigError(f"--labels must be at least 2; got {min(asked)}.")
    sources = [str(one) for one in several(backbone)]
    settings = engine.ProbeSettings(sorted({*asked, count}), range(seeds), neighbours, statistics[normalisation])
    rows = engine.probe(section, sources, spec, train, val, settings, offline=offline, notify=listener.say)
    return ProbeResult(
        dataset=spec.name,
        classes=spec.classes,
        backbone=section.name,
        patch_size=patch_size,
        train_patches=count,
        val_patches=len(val.labels),
        neighbours=neighbours,
        rows=tuple(rows),
    )
