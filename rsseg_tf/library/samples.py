"""Reads the lists of a config and checks their samples, with a progress line where that takes a while."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rsseg_tf.config import Config, PretrainConfig
from rsseg_tf.config.loader import root_hint
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.datasets.unlabelled import list_images
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.files import readable_name
from rsseg_tf.files.lists import Sample, Samples, missing_files, read_list
from rsseg_tf.library.listening import Listener
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.inspection import Inspection, ListSummary, memory_file
from rsseg_tf.rasters.windows import Size

if TYPE_CHECKING:
    from rsseg_tf.doctor.first_look import FindingCount

__all__ = ["checked_eval_list", "checked_images", "checked_list", "checked_samples"]

Split = Literal["train", "val"]

_NOBODY = Listener()

_REMEDY = "`rsseg-tf check-data` with this config lists everything that is wrong."


def checked_samples(
    config: Config, *splits: Split, crop_size: Size | None = None, listener: Listener = _NOBODY
) -> tuple[Sequence[Sample], ...]:
    """Returns the samples of splits after a check of every image's header and every label's ids.

    Findings about the samples as a whole, such as two equal splits, are errors where training would be meaningless, and
    notes elsewhere.

    Args:
        config: Names the lists and the dataset.
        *splits: The splits to read.
        crop_size: Size that training crops to.
        listener: Hears notes, and how far the checks are.

    Raises:
        DataError: For the first problem, with the file and the command that lists all problems.
    """
    dataset = config.dataset
    root = Path(dataset.root)
    lists = {"train": root / dataset.train_list, "val": root / dataset.val_list}
    parts: dict[str, ListSummary] = {}
    try:
        for split in splits:
            parts[split] = checked_list(
                lists[split], root, dataset.spec, what=f"{split} samples", trust=config.data.trust, listener=listener
            )
    except DataError as error:
        raise DataError(f"{error}{root_hint(dataset.root) or f' {_REMEDY}'}", code=error.code) from error
    from rsseg_tf.doctor.first_look import known_leaks, start_findings

    findings = start_findings(parts, dataset.spec, root, crop_size=crop_size)
    if splits == ("val",):
        findings += known_leaks(lists["train"], parts["val"], root)
    _report(findings, listener, refuse="train" in splits)
    if "train" in parts and config.model.name != "c2fnet":  # its fine model has other classes
        _check_weights(config, parts["train"].ids)
    return tuple(summary.samples for summary in parts.values())


def checked_eval_list(
    list_file: Path, spec: DatasetSpec, *, trust: Trust = TRUSTING_NOBODY, listener: Listener = _NOBODY
) -> Sequence[Sample]:
    """Returns the samples of a list to evaluate an export on, after the checks of `checked_samples`.

    Raises:
        DataError: For the first problem.
    """
    summary = checked_list(list_file, list_file.parent, spec, what="samples", trust=trust, listener=listener)
    from rsseg_tf.doctor.first_look import start_findings

    _report(start_findings({"val": summary}, spec, list_file.parent), listener, refuse=False)
    return summary.samples


def checked_images(config: PretrainConfig, listener: Listener = _NOBODY) -> Sequence[Sample]:
    """Returns the images of a pre-training config after a check of every header.

    Raises:
        DataError: For unusable images: their number, and what is wrong with the first one.
    """
    dataset = config.dataset
    root = Path(dataset.root)
    if hint := root_hint(dataset.root):
        raise DataError(f"The folder of images {root} does not exist.{hint}")
    samples = None if dataset.train_list else list_images(root, notify=lambda line: _note(line, listener))
    list_file = root / (dataset.train_list or "*")
    summary = checked_list(
        list_file,
        root,
        dataset.spec,
        what="images",
        labels=False,
        trust=config.data.trust,
        samples=samples,
        listener=listener,
    )
    from rsseg_tf.doctor.first_look import start_findings

    _report(start_findings({"train": summary}, dataset.spec, root), listener, refuse=True)
    return summary.samples


def checked_list(
    list_file: Path,
    root: Path,
    spec: DatasetSpec,
    *,
    what: str,
    labels: bool = True,
    trust: Trust = TRUSTING_NOBODY,
    samples: Sequence[Sample] | None = None,
    listener: Listener = _NOBODY,
) -> ListSummary:
    """Reads a list and checks all its samples; unchanged files are not checked again the next time.

    Args:
        list_file: The list.
        root: The folder that its paths are relative to.
        spec: The dataset that the samples belong to.
        what: The name of the samples in the progress line.
        labels: Whether the samples must have labels.
        trust: How large files may be, and what a VRT may name.
        samples: Samples that were found without a list; `list_file` then only tells their memory from others.
        listener: Hears notes, and how far the check is.

    Raises:
        DataError: For the first wrong sample; without labels, with the number of wrong images.
    """
    from rsseg_tf.files.cache import cache_dir

    if samples is None:
        samples = read_list(list_file, root, labels=labels, must_exist=False)
    with listener.progress(f"Checking {len(samples)} {what}") as progress:
        try:
            memory = memory_file(cache_dir() / "samples", list_file, root, spec, labels=labels, trust=trust)
        except RuntimeError:  # a user without a home folder has no cache
            memory = None
        inspection = Inspection(samples, spec, memory=memory, processes=os.cpu_count() or 1, labels=labels, trust=trust)
        # One message with the number of missing files says more than an error about the first of them.
        if inspection.missing and isinstance(samples, Samples):
            raise missing_files(list_file, root, len(inspection.missing), inspection.missing[0][1])
        summary = inspection.raise_first(progress) if labels else inspection.raise_count(progress)
    for line in summary.notes():
        _note(line, listener)
    return summary


def _check_weights(config: Config, present: set[int]) -> None:
    """Refuses class weights that are 0 for all classes of the training labels.

    Args:
        config: Names the losses.
        present: The ids in the labels.

    Raises:
        ConfigError: When a loss would be 0 for every prediction.
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


def _report(findings: list[FindingCount], listener: Listener, *, refuse: bool) -> None:
    """Raises the first finding that makes training meaningless, or prints all as notes."""
    for found in findings:
        code = found.finding.code
        if code == "value-range" or (refuse and found.finding.severity == "error" and not code.startswith("leak-")):
            raise DataError(f"{readable_name(str(found))} {_REMEDY}")
    for found in findings:
        _note(str(found), listener)


def _note(text: str, listener: Listener) -> None:
    listener.note(readable_name(text))
