"""Reads and checks the samples of a config, with a progress line where that takes a while."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from rsseg_tf.config import Config, PretrainConfig
from rsseg_tf.datasets import Sample, list_images, read_list
from rsseg_tf.errors import DataError

__all__ = ["checked_images", "checked_samples"]


def checked_samples(config: Config, split: Literal["train", "val"]) -> tuple[Sample, ...]:
    """Returns the samples of a split after a look at every image's header and every label's ids.

    Raises:
        DataError: for the first thing that is wrong, naming the file and the command that finds the others.
    """
    from rsseg_tf.data.reader import check_samples

    dataset = config.dataset
    root = Path(dataset.root)
    samples = read_list(root / (dataset.train_list if split == "train" else dataset.val_list), root)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"Checking {len(samples)} {split} samples", total=len(samples))
        try:
            check_samples(samples, dataset.spec, progress=lambda done, _: progress.update(task, completed=done))
        except DataError as error:
            remedy = "`rsseg-tf check-data` with this config lists everything that is wrong."
            raise DataError(f"{error} {remedy}") from error
    return samples


def checked_images(config: PretrainConfig) -> tuple[Sample, ...]:
    """Returns the images of a pre-training config after a look at every header.

    Raises:
        DataError: for images that cannot be used: how many, and what is wrong with the first one.
    """
    from rsseg_tf.data.reader import check_images

    dataset = config.dataset
    root = Path(dataset.root)
    samples = read_list(root / dataset.train_list, root, labels=False) if dataset.train_list else list_images(root)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"Checking {len(samples)} images", total=len(samples))
        check_images(samples, dataset.spec, progress=lambda done, _: progress.update(task, completed=done))
    return samples
