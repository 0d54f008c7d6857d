"""Datasets of (x, y) for Keras's `fit` and `evaluate`: the samples of the training loop, normalised, with their labels.

    train, val = training_dataset(config), validation_dataset(config)
    model.fit(train, steps_per_epoch=100, epochs=10, validation_data=val, shuffle=False)

x is `(B, H, W, bands)` float32, normalised. y is `(B, H, W)` int32 for a model that gives logits alone, and the same by
head for one that gives a dict.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from rsseg_tf.config import Config, load_config
from rsseg_tf.config.schema import Augment, Data, Sampling
from rsseg_tf.data.augment import normalise
from rsseg_tf.data.calls import call_python
from rsseg_tf.data.own_changes import Change, own_change
from rsseg_tf.data.pipeline import first_sample, train_batches
from rsseg_tf.data.reader import SampleReader
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.files import StrPath, several
from rsseg_tf.files.lists import Sample, read_list

__all__ = ["Heads", "heads_of", "training_dataset", "validation_dataset"]

Source = StrPath | Mapping[str, Any] | Config | Sequence[Sample]
"""A config as `rsseg_tf.config.load_config` takes it, or samples."""
Heads = Sequence[str] | Mapping[str, Sequence[str]]
"""Names of a model's outputs; a mapping tells of each the names of its tensors, none where it is one tensor."""


def heads_of(config: Config) -> dict[str, tuple[str, ...]]:
    """Returns the outputs of a config's model, each with the names of its tensors; none where it is one tensor.

    Args:
        config: Its heads are those that have a loss, and "main".
    """
    return {head: tuple(config.model.parts_of_heads.get(head, ())) for head in dict.fromkeys(["main", *config.loss])}


def training_dataset(
    source: Source,
    spec: DatasetSpec | None = None,
    *,
    augment: Augment | None = None,
    sampling: Sampling | None = None,
    data: Data | None = None,
    batch_size: int | None = None,
    seed: int | None = None,
    heads: Heads | None = None,
    start: int = 0,
    augmentation: Change | None = None,
    notify: Callable[[str], object] = lambda line: None,
) -> tf.data.Dataset:
    """Returns endless batches of (x, y) for `fit`, which needs `steps_per_epoch`.

    They are those of the training loop: a pure function of samples, seed and position. Under a strategy of several
    devices the batch is what all of them share.

    Args:
        source: A config, whose training list is read (a file, the name of a shipped one, a mapping of the same keys, or
            a checked one); or samples, see `rsseg_tf.files.lists.read_list`.
        spec: Classes and statistics of the samples; None with a config.
        augment: Crop size and random changes; None for the config's, or the defaults.
        sampling: Which crops are drawn; None for the config's, or any.
        data: How samples are read; None for the config's, or the defaults.
        batch_size: Samples per batch; None for the config's `train.batch_size`, or 4.
        seed: Of order and changes; None for the config's `train.seed`, or 0.
        heads: Outputs of the model; None for the config's, or for a model that gives logits alone.
        start: How many samples were consumed before, to go on.
        augmentation: A change of one's own, the last one; see `rsseg_tf.data.own_changes`.
        notify: Called with a line about the classes that `sampling` found.

    Raises:
        ConfigError: When samples come without a spec or a config with one, or for `augment.custom` as in
            `rsseg_tf.data.train_batches`.
        DataError: When a list or the first sample cannot be read, or the augmentation fails on it.
    """
    source = _checked(source)
    plan = _plan(source, spec, "train", heads=heads, data=data)
    recipe = source if isinstance(source, Config) else None
    augment = augment or (recipe.augment if recipe else Augment())
    seed = seed if seed is not None else recipe.train.seed if recipe else 0
    reader = SampleReader(plan.samples, plan.spec, cache_mb=plan.data.cache_mb, trust=plan.data.trust)
    # `fit` shows errors of threads in many lines; what is wrong with the first sample is told at once, in one.
    first_sample(reader, augment, seed, start, own_change(augment, augmentation, plan.spec))
    batches = train_batches(
        reader,
        augment,
        batch_size=batch_size or (recipe.train.batch_size if recipe else 4),
        seed=seed,
        start=start,
        workers=plan.data.workers,
        sampling=sampling or (recipe.sampling if recipe else Sampling()),
        augmentation=augmentation,
        notify=notify,
    )

    def pair(batch: dict[str, tf.Tensor]) -> tuple[tf.Tensor, Any]:
        return normalise(batch["image"], plan.spec), _by_head(batch["label"], plan.heads)

    return batches.map(pair, num_parallel_calls=2, deterministic=True).prefetch(2)


def validation_dataset(
    source: Source,
    spec: DatasetSpec | None = None,
    *,
    data: Data | None = None,
    batch_size: int = 1,
    heads: Heads | None = None,
) -> tf.data.Dataset:
    """Returns batches of (x, y) with all samples once, whole and in order, for `validation_data` and `evaluate`.

    Args:
        source: A config, whose validation list is read; or samples; as in `training_dataset`.
        spec: Classes and statistics of the samples; None with a config.
        data: How samples are read; None for the config's, or the defaults.
        batch_size: Samples per batch, all of one size if it is above 1; the last batch may have fewer.
        heads: As in `training_dataset`.

    Raises:
        ConfigError: When samples come without a spec, or a config with one.
        DataError: When a list or the first sample cannot be read.
    """
    plan = _plan(_checked(source), spec, "val", heads=heads, data=data)
    spec, samples = plan.spec, plan.samples
    reader = SampleReader(samples, spec, trust=plan.data.trust)
    size = reader(0)[1].shape if batch_size > 1 else None

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        image, label = reader(index)
        if size is not None and label.shape != size:
            raise DataError(
                f"{samples[index].image} is {label.shape[1]}x{label.shape[0]} pixels and the first image "
                f"{size[1]}x{size[0]}; a batch needs images of one size. Use batch_size=1."
            )
        return image, label

    def load(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image, label = call_python(read, [index], [tf.as_dtype(reader.dtype), tf.uint8])
        image.set_shape((*(size or (None, None)), spec.bands))
        label.set_shape(size or (None, None))
        return normalise(image, spec), tf.cast(label, tf.int32)

    dataset = tf.data.Dataset.range(len(samples))
    dataset = dataset.map(load, num_parallel_calls=plan.data.workers or tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size).map(lambda x, label: (x, _by_head(label, plan.heads)))
    return dataset.prefetch(2)


@dataclass(frozen=True)
class _Plan:
    """What both datasets are made of."""

    samples: Sequence[Sample]
    spec: DatasetSpec
    data: Data
    heads: Mapping[str, Sequence[str]]


def _checked(source: Source) -> Config | Sequence[Sample]:
    """Reads a config that is not read yet."""
    return load_config(source) if isinstance(source, str | os.PathLike | Mapping) else source


def _plan(
    source: Config | Sequence[Sample], spec: DatasetSpec | None, split: str, *, heads: Heads | None, data: Data | None
) -> _Plan:
    known = heads if isinstance(heads, Mapping) else dict.fromkeys(several(heads or ()), ())
    if isinstance(source, Config):
        if spec is not None:
            raise ConfigError("A config has a dataset of its own; leave spec out, or give samples in its place.")
        dataset, root = source.dataset, Path(source.dataset.root)
        samples = read_list(root / (dataset.train_list if split == "train" else dataset.val_list), root)
        return _Plan(samples, dataset.spec, data or source.data, heads_of(source) if heads is None else known)
    if spec is None:
        raise ConfigError(
            "Samples need spec, their classes and statistics: rsseg_tf.datasets.custom_spec(name, classes)."
        )
    if not source:
        raise DataError("There is no sample to make a dataset of; at least one is needed. Check the list.")
    return _Plan(source, spec, data or Data(), known)


def _by_head(label: tf.Tensor, heads: Mapping[str, Sequence[str]]) -> Any:
    """Returns the labels in the structure of a model's outputs."""
    if not heads:
        return label
    return {head: dict.fromkeys(parts, label) if parts else label for head, parts in heads.items()}
