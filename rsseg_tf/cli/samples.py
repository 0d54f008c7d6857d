"""Reads and checks the samples of a config, with a progress line where that takes a while."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console
from rich.progress import Progress

from rsseg_tf.config import Config, PretrainConfig
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.datasets.unlabelled import list_images
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.files import readable_name
from rsseg_tf.files.lists import Sample, Samples, missing_files, read_list
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.looking import Inspection, Looks, memory_file

if TYPE_CHECKING:
    from rsseg_tf.doctor.starting import Told

__all__ = ["checked_eval_list", "checked_images", "checked_list", "checked_samples"]

Split = Literal["train", "val"]

_REMEDY = "`rsseg-tf check-data` with this config lists everything that is wrong."


def checked_samples(
    config: Config, *splits: Split, crop_size: tuple[int, int] | None = None
) -> tuple[Sequence[Sample], ...]:
    """Returns the samples of splits after a look at every image's header and every label's ids.

    What the samples together show is said before anything is done with them: as an error where training would be
    meaningless, else as a note.

    Args:
        config: says where they are and what they should be.
        *splits: which.
        crop_size: width and height that training crops to.

    Raises:
        DataError: for the first thing that is wrong, naming the file and the command that finds the others.
    """
    dataset = config.dataset
    root = Path(dataset.root)
    lists = {"train": root / dataset.train_list, "val": root / dataset.val_list}
    parts: dict[str, Looks] = {}
    try:
        for split in splits:
            parts[split] = checked_list(
                lists[split], root, dataset.spec, what=f"{split} samples", trust=config.data.trust
            )
    except DataError as error:
        raise DataError(f"{error} {_REMEDY}") from error
    from rsseg_tf.doctor.starting import known_leaks, start_findings

    told = start_findings(parts, dataset.spec, root, crop_size=crop_size)
    if splits == ("val",):
        told += known_leaks(lists["train"], parts["val"], root)
    _tell(told, refuse="train" in splits)
    if "train" in parts and config.model.name != "c2fnet":  # whose fine model has classes of its own
        _check_weights(config, parts["train"].ids)
    return tuple(looks.samples for looks in parts.values())


def checked_eval_list(list_file: Path, spec: DatasetSpec, *, trust: Trust = TRUSTING_NOBODY) -> Sequence[Sample]:
    """Returns the samples of a list that an export is to be evaluated on, checked as `checked_samples` does.

    Raises:
        DataError: for the first thing that is wrong.
    """
    looks = checked_list(list_file, list_file.parent, spec, what="samples", trust=trust)
    from rsseg_tf.doctor.starting import start_findings

    _tell(start_findings({"val": looks}, spec, list_file.parent), refuse=False)
    return looks.samples


def checked_images(config: PretrainConfig) -> Sequence[Sample]:
    """Returns the images of a pre-training config after a look at every header.

    Raises:
        DataError: for images that cannot be used: how many, and what is wrong with the first one.
    """
    dataset = config.dataset
    root = Path(dataset.root)
    if dataset.train_list:
        looks = checked_list(
            root / dataset.train_list, root, dataset.spec, what="images", labels=False, trust=config.data.trust
        )
    else:
        samples = list_images(root, notify=_note)
        looks = _looked_at(samples, dataset.spec, root / "*", root, "images", labels=False, trust=config.data.trust)
    from rsseg_tf.doctor.starting import start_findings

    _tell(start_findings({"train": looks}, dataset.spec, root), refuse=True)
    return looks.samples


def checked_list(
    list_file: Path,
    root: Path,
    spec: DatasetSpec,
    *,
    what: str,
    labels: bool = True,
    trust: Trust = TRUSTING_NOBODY,
) -> Looks:
    """Reads a list and looks at all that it names; what was seen is remembered for the next time.

    Args:
        list_file: the list.
        root: folder to which it is relative.
        spec: what the samples should be.
        what: what to call them in the progress line.
        labels: whether they must have labels.
        trust: how large files may be, and what a VRT may name.

    Raises:
        DataError: for the first thing that is wrong with a sample; without labels, counting all.
    """
    samples = read_list(list_file, root, labels=labels, must_exist=False)
    return _looked_at(samples, spec, list_file, root, what, labels=labels, trust=trust)


def _looked_at(
    samples: Sequence[Sample],
    spec: DatasetSpec,
    list_file: Path,
    root: Path,
    what: str,
    *,
    labels: bool,
    trust: Trust,
) -> Looks:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"Checking {len(samples)} {what}", total=len(samples))
        memory = _memory(list_file, root, spec, labels=labels, trust=trust)
        inspection = Inspection(samples, spec, memory=memory, processes=os.cpu_count() or 1, labels=labels, trust=trust)
        if inspection.missing and isinstance(samples, Samples):
            raise missing_files(list_file, root, len(inspection.missing), inspection.missing[0][1])
        look = inspection.raise_first if labels else inspection.raise_count
        looks = look(lambda done, _: progress.update(task, completed=done))
    for line in looks.notes():
        _note(line)
    return looks


def _check_weights(config: Config, present: set[int]) -> None:
    """Refuses class weights that are 0 for all classes of the training labels.

    Args:
        config: says the losses.
        present: the ids that occur.

    Raises:
        ConfigError: when a loss would be 0 whatever the model says.
    """
    spec = config.dataset.spec
    ids = {value for value in present if value < spec.num_classes and value != spec.ignore_index}
    for head, loss in config.loss.items():
        for part in getattr(loss, "losses", (loss,)):
            weights = getattr(part, "class_weights", None)
            if ids and weights is not None and not any(weights[number] for number in ids):
                names = ", ".join(spec.classes[number] for number in sorted(ids))
                raise ConfigError(
                    f"loss.{head}.class_weights are 0 for all classes that the training labels hold ({names}), so that "
                    "nothing would be learnt. Give one of them a weight above 0."
                )


def _memory(list_file: Path, root: Path, spec: DatasetSpec, *, labels: bool, trust: Trust) -> Path | None:
    """Returns where looks at a list are kept; None for a user without a folder of their own."""
    from rsseg_tf.files.cache import cache_dir

    try:
        return memory_file(cache_dir() / "samples", list_file, root, spec, labels=labels, trust=trust)
    except RuntimeError:
        return None


def _tell(told: list[Told], *, refuse: bool) -> None:
    """Says what was found, and ends the command where nothing could be learnt."""
    for one in told:
        code = one.finding.code
        if code == "value-range" or (refuse and one.finding.severity == "error" and not code.startswith("leak-")):
            raise DataError(f"{readable_name(str(one))} {_REMEDY}")
    for one in told:
        _note(str(one))


def _note(text: str) -> None:
    click.echo(f"Note: {readable_name(text)}", err=True)
