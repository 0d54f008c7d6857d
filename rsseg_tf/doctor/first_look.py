"""The findings of the check that need one look at each sample, which training prints before its first step."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.doctor.checks import (
    below_findings,
    class_findings,
    ignored_label,
    mask_findings,
    range_findings,
    sentinel_finding,
    size_findings,
    unseen_findings,
    value_findings,
)
from rsseg_tf.doctor.comparisons import leak_of
from rsseg_tf.doctor.dataset import Expectation, shown
from rsseg_tf.doctor.findings import Finding
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample, read_list
from rsseg_tf.rasters.inspection import ListSummary, SampleKind, ValueSummary
from rsseg_tf.rasters.windows import Size

__all__ = ["FindingCount", "known_leaks", "start_findings"]


@dataclass(frozen=True)
class FindingCount:
    """The first finding of a kind, and the number of findings of the kind."""

    finding: Finding
    count: int

    def __str__(self) -> str:
        """Returns the message, the number of further findings, and the remedy."""
        more = f" ({self.count - 1} more of the kind)" if self.count > 1 else ""
        message = self.finding.message
        if not message.startswith(self.finding.files[:1] or "\0"):  # names of files keep their case
            message = message[0].upper() + message[1:]
        return f"{message}{more}. {self.finding.kind.remedy}"


def start_findings(
    parts: Mapping[str, ListSummary], spec: DatasetSpec, root: Path, *, crop_size: Size | None = None
) -> list[FindingCount]:
    """Returns findings about the samples of each split, and about all of them together.

    Args:
        parts: The summary of the list of each split.
        spec: The dataset; that of images without labels has one class, which is not checked.
        root: Folder to which the names of files are relative.
        crop_size: Size that training crops to; None without training.
    """
    found = [*_about_values(parts, spec.max_value, root), *_about_labels(parts, Expectation.of(spec), root)]
    if crop_size is not None and "train" in parts:
        found += _first(_small(parts["train"], root, crop_size))
    if "train" in parts and "val" in parts:
        found += _leaks(parts["train"], parts["val"], root)
    return found


def _first(findings: Iterable[Finding]) -> list[FindingCount]:
    """Returns the first finding of each kind with the number of findings."""
    firsts: dict[str, Finding] = {}
    counts: dict[str, int] = {}
    for finding in findings:
        firsts.setdefault(finding.code, finding)
        counts[finding.code] = counts.get(finding.code, 0) + 1
    return [FindingCount(finding, counts[code]) for code, finding in firsts.items()]


def _name(summary: ListSummary, place: int, root: Path) -> str:
    return shown(summary.samples[place].image, root)


def _about_values(parts: Mapping[str, ListSummary], max_value: float, root: Path) -> list[FindingCount]:
    """Returns findings about types and values of the images."""
    values = np.concatenate([summary.values for summary in parts.values()])
    # Images of bytes are not decoded and have no values here: their range is known.
    seen = values[~np.isnan(values[:, 1])]
    dtype = next(summary.kinds[summary.kind_of[0]].dtype for summary in parts.values())
    largest, middle = (float(seen[:, 1].max()), float(np.median(seen[:, 2]))) if len(seen) else (0.0, 0.0)
    # With a wrong max_value each image would have a finding; one about all of them is the useful one.
    unfit = list(range_findings(dtype, largest, middle, max_value, tuple(parts)))
    if unfit:
        return _first(unfit)

    def of_single_images() -> Iterator[Finding]:
        for split, summary in parts.items():
            columns = ValueSummary(*summary.values.T)
            odd = (columns.above > 0) | (columns.low < -max_value) | ~np.isnan(columns.sentinel) | (columns.unseen > 0)
            for place in np.flatnonzero(odd).tolist():
                one, name = ValueSummary(*summary.values[place].tolist()), _name(summary, place, root)
                yield from value_findings(name, (split,), one.low, one.high, one.above, max_value)
                if not math.isnan(one.sentinel):
                    yield sentinel_finding(name, (split,), one.sentinel)
                yield from unseen_findings(name, (split,), one.unseen)

    found = _first(of_single_images())
    odd_values = any(one.finding.code != "label-on-nodata" for one in found)
    if not odd_values and len(seen) and (seen[:, 0] < seen[:, 1]).any():
        found += _first(below_findings(largest, len(seen), max_value, tuple(parts)))
    return found


def _about_labels(parts: Mapping[str, ListSummary], expected: Expectation, root: Path) -> list[FindingCount]:
    """Returns findings about the ids of all labels together."""
    present = {split: summary.ids for split, summary in parts.items() if summary.has_labels}
    if not present:
        return []
    masks = _first(mask_findings(set().union(*present.values()), tuple(present), expected))
    if masks:
        return masks
    return [*_first(class_findings(present, expected)), *_first(_ignored(parts, expected.ignore_index, root))]


def _places(summary: ListSummary, fits: Callable[[SampleKind], bool]) -> list[int]:
    """Returns the positions of the samples of some kinds; there are few kinds, and perhaps a million samples."""
    kinds = [number for number, kind in enumerate(summary.kinds) if fits(kind)]
    return np.flatnonzero(np.isin(summary.kind_of, kinds)).tolist()


def _ignored(parts: Mapping[str, ListSummary], ignore_index: int, root: Path) -> Iterator[Finding]:
    for split, summary in parts.items():
        for place in _places(summary, lambda kind: kind.ids == (ignore_index,)):
            label = summary.samples[place].label
            if label is not None:
                yield ignored_label(shown(label, root), ignore_index, (split,))


def _small(summary: ListSummary, root: Path, crop_size: Size) -> Iterator[Finding]:
    for place in _places(summary, lambda kind: kind.width < crop_size.width or kind.height < crop_size.height):
        kind = summary.kinds[summary.kind_of[place]]
        yield from size_findings(_name(summary, place, root), kind.width, kind.height, crop_size)


def _leaks(train: ListSummary, val: ListSummary, root: Path) -> list[FindingCount]:
    """Returns a finding about images with equal pixels in both splits."""
    # `images` identifies files by device and inode, so that links to one file are found as well.
    _, here, there = np.intersect1d(train.images, val.images, return_indices=True)
    if not len(here):
        return []
    first = int(here.argmin())
    names = (_name(train, int(here[first]), root), _name(val, int(there[first]), root))
    return [FindingCount(leak_of(tuple(dict.fromkeys(names)), ("train", "val")), len(here))]


def known_leaks(train_list: Path, val: ListSummary, root: Path) -> list[FindingCount]:
    """Returns a finding about validation images that the training list names too.

    Args:
        train_list: The training list. Its images are not read; a list that cannot be read gives no finding.
        val: The summary of the validation list.
        root: Folder to which both lists are relative.
    """
    try:
        train = read_list(train_list, root, must_exist=False)
    except DataError:
        return []
    _, _, places = np.intersect1d(_paths(train), _paths(val.samples), return_indices=True)
    if not len(places):
        return []
    return [FindingCount(leak_of((_name(val, int(places.min()), root),), ("train", "val")), len(places))]


def _paths(samples: Sequence[Sample]) -> NDArray[np.uint64]:
    """Returns a number for the path of each image: eight bytes each, where a million texts would take 100 MB."""
    numbers = np.empty(len(samples), np.uint64)
    for place, sample in enumerate(samples):
        path = os.path.abspath(sample.image).encode("utf-8", "surrogateescape")
        numbers[place] = int.from_bytes(hashlib.blake2b(path, digest_size=8).digest(), "little")
    return numbers
