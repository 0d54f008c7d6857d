"""The report of a check: counts of each split, findings and suggestions, also as JSON."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import rsseg_tf
from rsseg_tf.doctor.checks import image_findings, label_findings, sample_findings
from rsseg_tf.doctor.comparisons import duplicate_findings, near_duplicate_findings, overlap_findings
from rsseg_tf.doctor.dataset import CheckedDataset, Split
from rsseg_tf.doctor.evidence import Evidence, distinct_samples
from rsseg_tf.doctor.findings import KINDS, SEVERITIES, Finding, Severity
from rsseg_tf.doctor.fingerprints import MAX_DISTANCE
from rsseg_tf.doctor.samples import inspect_samples
from rsseg_tf.doctor.statistics import inverse_log_weights, median_frequency_weights
from rsseg_tf.errors import DataError, did_you_mean
from rsseg_tf.files import readable_name
from rsseg_tf.rasters.statistics import Moments

__all__ = ["FORMAT", "ClassCount", "Report", "SplitSummary", "check_data"]

FORMAT = 1
"""Version of the JSON form; it changes when programs that read the JSON must change."""

Value = TypeVar("Value", int, str)

_SHOWN_FINDINGS = 20
"""Findings that a notebook shows."""
_NEAR_CODES = {"near-duplicate", "leak-near-duplicate"}


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs in a split.

    Attributes:
        id: The label value.
        name: The class.
        pixels: Its pixels.
        images: The labels that hold it.
        pixels_around: All labelled pixels of those labels.
    """

    id: int
    name: str
    pixels: int
    images: int
    pixels_around: int


@dataclass(frozen=True)
class SplitSummary:
    """Counts of a split; a sample that its list names twice counts twice.

    Attributes:
        name: The split.
        samples: Lines of its list.
        labelled: Whether it has labels.
        images: Images that could be read.
        labels: Labels that could be read.
        sizes: Images by size, as `"512x512"` (width first), the most frequent first.
        bands: Images by number of bands.
        dtypes: Images by pixel type.
        classes: How often each class occurs.
        ignored_pixels: Pixels with the ignored id.
        unknown_pixels: Pixels with an id that is neither a class nor ignored.
        moments: Moments of each band, in units of the pixel value that becomes 1.0, over the images with the most
            frequent number of bands and type; empty without images.
    """

    name: str
    samples: int
    labelled: bool
    images: int
    labels: int
    sizes: Mapping[str, int]
    bands: Mapping[int, int]
    dtypes: Mapping[str, int]
    classes: tuple[ClassCount, ...]
    ignored_pixels: int
    unknown_pixels: int
    moments: tuple[Moments, ...]

    @property
    def class_pixels(self) -> int:
        """Pixels of all classes together."""
        return sum(entry.pixels for entry in self.classes)


@dataclass(frozen=True)
class Report:
    """The result of a check.

    Attributes:
        evidence: Facts about the dataset.
        splits: The splits, in their order.
        findings: The findings, errors first.
        max_value: The pixel value that becomes 1.0: the spec's, 255 for bytes, else the highest value seen.
        class_names: Names of the classes by id; where they are unknown, the ids up to the highest one seen.
        class_weights: Suggested weights by method, from the training split; empty without labels.
    """

    evidence: Evidence
    splits: tuple[SplitSummary, ...]
    findings: tuple[Finding, ...]
    max_value: float
    class_names: tuple[str, ...]
    class_weights: Mapping[str, tuple[float, ...]]

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.count(severity)} {severity}s" for severity in SEVERITIES)
        return f"<Report on {self.dataset.expected.name}: {counts}>"

    def _repr_html_(self) -> str:
        """Returns the findings as a table for a notebook."""
        rows = "".join(
            f"<tr><td>{finding.severity}</td><td>{finding.code}</td><td>{html.escape(finding.message)}</td></tr>"
            for finding in self.findings[:_SHOWN_FINDINGS]
        )
        more = len(self.findings) - _SHOWN_FINDINGS
        rows += f"<tr><td></td><td></td><td>… and {more:,} more</td></tr>" if more > 0 else ""
        return f"<table><caption>{html.escape(repr(self)[1:-1])}</caption><tbody>{rows}</tbody></table>"

    @property
    def dataset(self) -> CheckedDataset:
        """The dataset that was checked."""
        return self.evidence.dataset

    @property
    def training(self) -> SplitSummary:
        """The first split, from which statistics for training come."""
        return self.splits[0]

    def count(self, severity: Severity) -> int:
        """Returns the number of findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values; docs/check_data.md describes them."""
        expected = self.dataset.expected
        return {
            "format": FORMAT,
            "written_by": "rsseg_tf",
            "version": rsseg_tf.__version__,
            "source": readable_name(self.dataset.source),
            "root": readable_name(self.dataset.root),
            "dataset": {
                "name": expected.name,
                "labelled": self.dataset.labelled,
                "classes": None if expected.classes is None else list(expected.classes),
                "ignore_index": expected.ignore_index,
                "max_value": self.max_value,
            },
            "summary": {f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "splits": {split.name: _split_json(split) for split in self.splits},
            "class_weights": {name: list(weights) for name, weights in self.class_weights.items()},
            "findings": [
                {
                    "severity": finding.severity,
                    "code": finding.code,
                    "splits": list(finding.splits),
                    "files": list(finding.files),
                    "message": finding.message,
                    "remedy": finding.kind.remedy,
                }
                for finding in self.findings
            ],
        }


def _split_json(split: SplitSummary) -> dict[str, Any]:
    total = split.class_pixels
    return {
        "samples": split.samples,
        "labelled": split.labelled,
        "images": split.images,
        "labels": split.labels,
        "sizes": dict(split.sizes),
        "bands": {str(bands): count for bands, count in split.bands.items()},
        "dtypes": dict(split.dtypes),
        "ignored_pixels": split.ignored_pixels,
        "unknown_pixels": split.unknown_pixels,
        "classes": [
            {
                "id": entry.id,
                "name": entry.name,
                "pixels": entry.pixels,
                "share": entry.pixels / total if total else 0.0,
                "images": entry.images,
            }
            for entry in split.classes
        ],
        "band_statistics": [
            {"mean": band.mean, "std": band.std, "min": band.low, "max": band.high} if band.count else None
            for band in split.moments
        ],
    }


def check_data(
    dataset: CheckedDataset,
    *,
    near: int = 7,
    leave_out: Collection[str] = (),
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Reads every file of a dataset once and compares all samples.

    Args:
        dataset: The dataset; see `dataset_from_config` and `dataset_from_folder`.
        near: Images are compared whose perceptual hashes differ in at most so many bits, 0..11.
        leave_out: Codes of unwanted findings.
        workers: Number of processes; more than 1 needs a program whose main module may be imported.
        progress: Called with the number of samples done and of all.

    Raises:
        DataError: When an argument is out of range, or a worker process was killed.
    """
    if not 0 <= near <= MAX_DISTANCE or workers < 1:
        raise DataError(
            f"near must lie in 0..{MAX_DISTANCE} and workers be at least 1; got {near} and {workers}. 7 is usual."
        )
    for code in leave_out:
        if code not in KINDS:
            raise DataError(f"There is no kind of finding '{code}'.{did_you_mean(code, KINDS)}")
    samples, members = distinct_samples(dataset)
    spec = dataset.expected.spec
    facts = inspect_samples(
        samples,
        spec=spec,
        ignore_index=dataset.expected.ignore_index,
        trust=dataset.trust,
        workers=workers,
        progress=progress,
    )
    evidence = Evidence(dataset, samples, tuple(facts), members)
    max_value = spec.max_value if spec else _max_value(evidence)
    names = _class_names(evidence)
    splits = tuple(_summary(evidence, split, names, max_value) for split in dataset.splits)
    measured = splits[0].moments
    usable = measured if measured and all(band.count for band in measured) else None
    findings: list[Finding] = [
        *dataset.findings,
        *sample_findings(evidence),
        *image_findings(evidence, usable),
        *label_findings(evidence),
        *duplicate_findings(evidence),
        # The search for equal pictures is left out where nobody wants its findings.
        *(near_duplicate_findings(evidence, near) if not set(leave_out) >= _NEAR_CODES else ()),
        *overlap_findings(evidence),
    ]
    return Report(evidence, splits, _ordered(findings, leave_out), max_value, names, _weights(splits[0]))


def _ordered(findings: Iterable[Finding], leave_out: Collection[str]) -> tuple[Finding, ...]:
    """Sorts findings by severity and kind; findings of one kind keep their order."""
    ranks = {code: (SEVERITIES.index(kind.severity), place) for place, (code, kind) in enumerate(KINDS.items())}
    return tuple(
        sorted((one for one in findings if one.code not in leave_out), key=lambda finding: ranks[finding.code])
    )


def _max_value(evidence: Evidence) -> float:
    """Returns the pixel value that becomes 1.0 where there is no spec: 255 for bytes, else the highest value seen."""
    images = [facts.image for facts in evidence.facts if facts.image is not None]
    if all(image.dtype == "uint8" for image in images):
        return 255.0
    return max((band.high for image in images for band in image.moments if band.count and band.high > 0), default=1.0)


def _class_names(evidence: Evidence) -> tuple[str, ...]:
    """Returns the names of the classes; where they are unknown, the ids up to the highest one seen."""
    expected = evidence.dataset.expected
    if expected.classes is not None:
        return expected.classes
    return tuple(map(str, range(max(_occurring_ids(evidence), default=-1) + 1)))


def _occurring_ids(evidence: Evidence) -> set[int]:
    """Returns the ids of eight bits that occur in any label, without the ignored one."""
    # Larger values in labels of 16 bits are no ids, and would make a list of thousands of classes.
    present = {value for facts in evidence.facts if facts.label for value in facts.label.counts if value < 256}
    return present - {evidence.dataset.expected.ignore_index}


def _summary(evidence: Evidence, split: Split, names: tuple[str, ...], max_value: float) -> SplitSummary:
    members = evidence.members[split.name]
    images = [image for position in members if (image := evidence.facts[position].image)]
    labels = [label for position in members if (label := evidence.facts[position].label)]
    ignored = evidence.dataset.expected.ignore_index
    # Of each class: its pixels, the labels that hold it, and all labelled pixels of those labels.
    pixels, holders, around = Counter[int](), Counter[int](), Counter[int]()
    for label in labels:
        inside = {value: count for value, count in label.counts.items() if value < len(names) and value != ignored}
        total = sum(inside.values())
        for value, count in inside.items():
            pixels[value] += count
            holders[value] += 1
            around[value] += total
    occurring = _occurring_ids(evidence)
    everything = sum(sum(label.counts.values()) for label in labels)
    without = sum(label.counts.get(ignored, 0) for label in labels)
    # Moments of one mean band need images of one type; those of others have findings of their own.
    kinds = Counter((image.bands, image.dtype) for image in images).most_common(1)
    usual = [image for image in images if (image.bands, image.dtype) == kinds[0][0]]
    return SplitSummary(
        name=split.name,
        samples=len(members),
        labelled=split.labelled,
        images=len(images),
        labels=len(labels),
        sizes=_counted(f"{image.width}x{image.height}" for image in images),
        bands=_counted(image.bands for image in images),
        dtypes=_counted(image.dtype for image in images),
        classes=tuple(
            ClassCount(number, name, pixels[number], holders[number], around[number])
            for number, name in enumerate(names)
            if labels and (number in occurring or evidence.dataset.expected.classes is not None)
        ),
        ignored_pixels=without,
        unknown_pixels=everything - without - pixels.total(),
        moments=tuple(
            Moments.joined(image.moments[band] for image in usual).scaled(1 / max_value)
            for band in range(usual[0].bands if usual else 0)
        ),
    )


def _counted(values: Iterable[Value]) -> dict[Value, int]:
    return dict(sorted(Counter(values).items(), key=lambda entry: (-entry[1], entry[0])))


def _weights(training: SplitSummary) -> dict[str, tuple[float, ...]]:
    """Suggests class weights; none without labelled pixels, or with gaps between the ids."""
    # Unknown classes are listed by the ids that occur; weights are by position, which a gap would shift.
    if not training.class_pixels or [entry.id for entry in training.classes] != list(range(len(training.classes))):
        return {}
    pixels = [entry.pixels for entry in training.classes]
    return {
        "median_frequency": median_frequency_weights(pixels, [entry.pixels_around for entry in training.classes]),
        "inverse_log": inverse_log_weights(pixels),
    }
