"""Findings about single samples, and about what all images and all labels have in common."""

from __future__ import annotations

import contextlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from rsseg_tf.datasets.label_codings import ColourCoding
from rsseg_tf.datasets.rules import looks_like_a_mask, mask_words, misfit
from rsseg_tf.datasets.spec import RGB, unknown_ids
from rsseg_tf.datasets.table import RECIPES, SPECS
from rsseg_tf.doctor.dataset import Expectation
from rsseg_tf.doctor.evidence import Evidence
from rsseg_tf.doctor.findings import Finding, first_values, listing
from rsseg_tf.doctor.samples import ImageFacts, LabelFacts
from rsseg_tf.rasters.statistics import Moments
from rsseg_tf.rasters.windows import Size

__all__ = [
    "below_findings",
    "class_findings",
    "ignored_label",
    "image_findings",
    "label_findings",
    "mask_findings",
    "range_findings",
    "sample_findings",
    "sentinel_finding",
    "size_findings",
    "unseen_findings",
    "value_findings",
]

Value = TypeVar("Value", int, str)

# A few bright roofs above max_value are no reason to change it.
_SHARE_ABOVE = 0.01
# A border of nodata, one pixel wide, that the label calls background is no mistake.
_SHARE_UNSEEN = 0.001
# With all values in the lowest eighth of the range, data use at most five of eight bits, or are in other units.
_SHARE_BELOW = 1 / 8
# A larger shift of the normalised data dominates the first layer. The benchmark's mean and std of 0.5 bring the Dubai
# tiles to mean 0.1 and deviation 0.6, which must pass.
_LARGEST_SHIFT = 1.5
_DEVIATIONS = (0.1, 3.0)
_LEAST_COLOURS = 3  # black and white alone identify no dataset


def sample_findings(evidence: Evidence) -> Iterator[Finding]:
    """Yields findings about single samples: files, sizes, pixels that are not finite."""
    folders: dict[Path, dict[str, str]] = {}
    seen: set[tuple[str, Path]] = set()
    for position, (sample, facts) in enumerate(zip(evidence.samples, evidence.facts, strict=True)):
        for problem in facts.problems:
            both = problem.code in ("size-mismatch", "misplaced-label")
            # A problem of one file counts once; a problem of a pair counts for each pair.
            if (problem.code, problem.path) in seen and not both:
                continue
            seen.add((problem.code, problem.path))
            files = [problem.path, *([sample.label] if both and sample.label else [])]
            message = f"{evidence.name(problem.path)} {problem.message}"
            if problem.code == "file-missing":
                message += _hint(problem.path, folders)
            names = tuple(evidence.name(path) for path in files)
            yield Finding(problem.code, evidence.splits_of([position]), names, message)


def _hint(path: Path, folders: dict[Path, dict[str, str]]) -> str:
    """Returns a hint at the file that a missing one may stand for: other suffix, capital letters or slashes."""
    if "\\" in str(path):
        return "; paths are written with /, not \\"
    if path.parent not in folders:
        names: list[str] = []
        with contextlib.suppress(OSError):
            names = sorted(os.listdir(path.parent))
        folders[path.parent] = {os.path.splitext(name)[0].lower(): name for name in names}
    other = folders[path.parent].get(path.stem.lower())
    return f"; there is {other}" if other is not None and other != path.name else ""


# --- images -------------------------------------------------------------------------------------------------------


def image_findings(evidence: Evidence, measured: Sequence[Moments] | None) -> Iterator[Finding]:
    """Yields images that differ from the expectation or from the other images.

    Args:
        evidence: Facts about the dataset.
        measured: Moments of each band of the training images in units of `max_value`; None if they are not comparable.
    """
    images = [(position, facts.image) for position, facts in enumerate(evidence.facts) if facts.image is not None]
    if not images:
        return
    spec = evidence.dataset.expected.spec
    usual_bands = _commonest(image.bands for _, image in images)
    usual_type = _commonest(image.dtype for _, image in images)
    wanted = f"{spec.bands} are expected" if spec else f"most images have {usual_bands}"
    seen: set[Path] = set()
    # A finding about values means that max_value is wrong; then the units of mean and std are wrong too.
    values: list[Finding] = []
    for position, image in images:
        path = evidence.samples[position].image
        if path in seen:  # a list names the image again beside another label
            continue
        seen.add(path)
        splits, name = evidence.splits_of([position]), evidence.name(path)
        if image.bands != (spec.bands if spec else usual_bands):
            plural = "s" if image.bands != 1 else ""
            yield Finding("band-count", splits, (name,), f"{name} has {image.bands} band{plural}; {wanted}")
        if image.dtype != usual_type:
            yield Finding("pixel-type", splits, (name,), f"{name} is {image.dtype}; most images are {usual_type}")
        if spec:
            share = image.above / max(1, sum(band.count for band in image.moments))
            low, high = min(band.low for band in image.moments), max(band.high for band in image.moments)
            values += value_findings(name, splits, low, high, share, spec.max_value)
        yield from unseen_findings(name, splits, evidence.facts[position].unseen)
        if "train" in splits:
            yield from size_findings(name, image.width, image.height, evidence.dataset.crop_size)
    yield from values
    if not spec:
        return
    pictures = [image for _, image in images]
    unfit = list(_unfit(evidence, pictures, usual_type, spec.max_value))
    yield from unfit
    if not values and not unfit:
        below = list(_below(evidence, pictures, spec.max_value))
        yield from below
        if not below and measured is not None:
            yield from _normalisation(measured, spec.mean, spec.std)


def _commonest(values: Iterable[Value]) -> Value:
    """Returns the most frequent value, the first of equally frequent ones."""
    return Counter(values).most_common(1)[0][0]


def value_findings(
    name: str, splits: tuple[str, ...], low: float, high: float, share: float, max_value: float
) -> Iterator[Finding]:
    """Yields findings about the values of one image.

    Args:
        name: The image.
        splits: The splits that contain it.
        low: The lowest value that is data.
        high: The highest.
        share: Share of the values above `max_value`, 0..1.
        max_value: Pixel value that becomes 1.0.
    """
    if share > _SHARE_ABOVE:
        message = f"{name} reaches {high:g}; {share:.1%} of its values are above max_value {max_value:g}"
        yield Finding("above-max-value", splits, (name,), message)
    if low < -max_value:
        message = f"{name} reaches {low:g}, further below 0 than max_value {max_value:g} is above it"
        yield Finding("nodata-values", splits, (name,), message)


def sentinel_finding(name: str, splits: tuple[str, ...], value: float) -> Finding:
    """Returns the finding about an image whose nodata value is not declared."""
    return Finding("nodata-values", splits, (name,), f"{name} holds {value:.9g} and does not declare it as nodata")


def unseen_findings(name: str, splits: tuple[str, ...], share: float) -> Iterator[Finding]:
    """Yields a finding if an image has no data in many of its labelled pixels.

    Args:
        name: The image.
        splits: The splits that contain it.
        share: Share of the labelled pixels without data, 0..1.
    """
    if share > _SHARE_UNSEEN:
        message = f"{name} has no data in {share:.1%} of the pixels that its label gives a class"
        yield Finding("label-on-nodata", splits, (name,), message)


def size_findings(name: str, width: int, height: int, crop_size: Size | None) -> Iterator[Finding]:
    """Yields a finding if a training image is smaller than the crops of training; None where the crops are unknown."""
    if crop_size is not None and (width < crop_size.width or height < crop_size.height):
        message = f"{name} is {width}x{height} pixels; training crops to {crop_size}"
        yield Finding("small-image", ("train",), (name,), message)


def range_findings(
    dtype: str, largest: float, middle: float, max_value: float, splits: tuple[str, ...]
) -> Iterator[Finding]:
    """Yields a finding if the type or the values of all images contradict `max_value`; see `misfit`."""
    if values := misfit(np.dtype(dtype), max_value, largest, middle):
        yield Finding("value-range", splits, (), f"the images are {values}; max_value is {max_value:g}")


def _unfit(evidence: Evidence, images: Sequence[ImageFacts], dtype: str, max_value: float) -> Iterator[Finding]:
    # Images of another type have a finding of their own and must not decide the range of all.
    seen = [image for image in images if image.dtype == dtype and any(band.count for band in image.moments)]
    if seen:
        largest = max(band.high for image in seen for band in image.moments)
        middle = median(image.middle for image in seen)
        yield from range_findings(dtype, largest, middle, max_value, tuple(evidence.members))


def _below(evidence: Evidence, images: Sequence[ImageFacts], max_value: float) -> Iterator[Finding]:
    highest = max((band.high for image in images for band in image.moments if band.count), default=None)
    # Constant images hold no contrast, whatever max_value is; each has a finding of its own.
    if highest is not None and not all(image.is_constant for image in images):
        yield from below_findings(highest, len(images), max_value, tuple(evidence.members))


def below_findings(highest: float, count: int, max_value: float, splits: tuple[str, ...]) -> Iterator[Finding]:
    """Yields a finding if the highest value of all images is far below `max_value`."""
    if highest < _SHARE_BELOW * max_value:
        message = f"the highest value of all {count} images is {highest:g}; max_value is {max_value:g}"
        yield Finding("below-max-value", splits, (), message)


def _normalisation(measured: Sequence[Moments], mean: Sequence[float], std: Sequence[float]) -> Iterator[Finding]:
    if len(measured) != len(mean):  # most images have other bands than the spec, which is a finding of its own
        return
    for number, (band, wanted_mean, wanted_std) in enumerate(zip(measured, mean, std, strict=True)):
        shift, deviation = (band.mean - wanted_mean) / wanted_std, band.std / wanted_std
        if abs(shift) > _LARGEST_SHIFT or not _DEVIATIONS[0] <= deviation <= _DEVIATIONS[1]:
            message = (
                f"band {number} (from 0) has mean {band.mean:.4g} and deviation {band.std:.4g} in units of max_value; "
                f"normalised with mean {wanted_mean:g} and std {wanted_std:g} that is {shift:.2f} and {deviation:.2f}"
            )
            yield Finding("normalisation", (), (), message)


# --- labels -------------------------------------------------------------------------------------------------------


def label_findings(evidence: Evidence) -> Iterator[Finding]:
    """Yields labels with unknown ids, and findings about the ids of all labels together."""
    expected = evidence.dataset.expected
    labels: dict[Path, tuple[int, LabelFacts]] = {}
    for position, (sample, facts) in enumerate(zip(evidence.samples, evidence.facts, strict=True)):
        if facts.label is not None and sample.label is not None:
            labels.setdefault(sample.label, (position, facts.label))
    present = {value for _, label in labels.values() for value in label.counts}
    is_mask = _is_mask(present, expected)
    object_id = max(present, default=0)  # of a mask, 255 as a rule
    with_unknown_ids: list[Path] = []
    for path, (position, label) in labels.items():
        splits, name = evidence.splits_of([position]), evidence.name(path)
        if set(label.counts) == {expected.ignore_index}:
            yield ignored_label(name, expected.ignore_index, splits)
        elif is_mask and object_id in label.counts:
            share = label.counts[object_id] / sum(label.counts.values())
            message = f"{name} holds {object_id} in {share:.1%} of its pixels, else 0"
            yield Finding("label-0-255", splits, (name,), message)
        elif wrong := _unknown_in(label, expected):
            with_unknown_ids.append(path)
            yield Finding("label-out-of-range", splits, (name,), f"{name} {wrong}")
    if with_unknown_ids:
        yield from _shifted(present, evidence)
    if labels and not is_mask:  # the ids of a mask are no classes, so that counting them would mislead
        found = {
            split: {value for facts in labelled for value in facts.counts}
            for split, members in evidence.members.items()
            if (labelled := [held for position in members if (held := evidence.facts[position].label)])
        }
        yield from class_findings(found, expected)
    yield from _palette_conflicts(labels, evidence)
    yield from _known_colours(evidence, with_unknown_ids, labels)


def ignored_label(name: str, ignore_index: int, splits: tuple[str, ...]) -> Finding:
    """Returns the finding about a label of ignored pixels alone."""
    return Finding("all-ignored", splits, (name,), f"{name} holds the ignored id {ignore_index} alone")


def _unknown_in(label: LabelFacts, expected: Expectation) -> str:
    """Describes the ids of a label that are neither a class nor ignored; empty if there are none."""
    count = expected.num_classes or 256  # where the number of classes is unknown, any id of eight bits may be one
    wrong = unknown_ids(label.counts, count, expected.ignore_index)
    if not wrong:
        return ""
    pixels = sum(label.counts[value] for value in wrong)
    text = (
        f"holds the id{'s' if len(wrong) > 1 else ''} {first_values(wrong)} in {pixels} pixels; "
        f"0..{count - 1} and {expected.ignore_index} are allowed"
    )
    is_mask = looks_like_a_mask(label.counts, expected.num_classes)
    return f"{text}; {mask_words(label.counts)}" if is_mask else text


def _shifted(present: set[int], evidence: Evidence) -> Iterator[Finding]:
    """Yields a finding if the ids would be right after subtracting 1."""
    count = evidence.dataset.expected.num_classes
    ids = present - {evidence.dataset.expected.ignore_index}
    if count is None or max(ids) != count:
        return
    message = (
        f"labels hold the ids 0 to {count}, one more than there are classes ({count}); 0 may mean 'no label'"
        if 0 in ids
        else f"labels hold ids up to {count} and never 0; those of the {count} classes are 0..{count - 1}"
    )
    yield Finding("ids-shifted", tuple(evidence.members), (), message)


def class_findings(present: Mapping[str, set[int]], expected: Expectation) -> Iterator[Finding]:
    """Yields a finding if the labels to train on hold one class at most, and the classes that other splits lack.

    Args:
        present: The ids that occur, by split.
        expected: The dataset.
    """
    classes = expected.classes or ()
    training = ("train",) if "train" in present else tuple(present)
    ids = {value for split in training for value in present[split]} - {expected.ignore_index}
    known = sorted(value for value in ids if value < len(classes))
    # Other ids than classes are reported on their own.
    one_class = len(classes) > 1 and bool(present) and len(known) < 2 and len(ids) == len(known)
    if one_class:
        what = f"class {known[0]} ({classes[known[0]]})" if known else "no class"
        message = f"the labels of {listing(training)} hold {what} and nothing else but the ignored id"
        yield Finding("one-class", training, (), message)
    # Nobody trains or tunes on a test split, so a class may be absent there.
    splits = [split for split in present if split != "test" and not (one_class and split in training)]
    for number, name in enumerate(classes):
        if lacking := tuple(split for split in splits if number not in present[split]):
            message = f"class {number} ({name}) does not occur in {listing(lacking)}"
            yield Finding("class-absent", lacking, (), message)


def mask_findings(present: set[int], splits: tuple[str, ...], expected: Expectation) -> Iterator[Finding]:
    """Yields one finding for all labels if they are black-and-white masks; see `looks_like_a_mask`."""
    if _is_mask(present, expected):
        message = f"all labels of {listing(splits)} together hold 0 and {max(present)} alone"
        yield Finding("label-0-255", splits, (), message)


def _is_mask(present: set[int], expected: Expectation) -> bool:
    """Tells whether labels are black-and-white masks."""
    # A dataset of one class has nothing but 0 and the ignored id.
    is_one_class = expected.num_classes == 1 and expected.ignore_index in present
    return looks_like_a_mask(present, expected.num_classes) and not is_one_class


def _palette_conflicts(labels: Mapping[Path, tuple[int, LabelFacts]], evidence: Evidence) -> Iterator[Finding]:
    """Yields the ids that have several colours in palette PNGs, or the colour of another class."""
    expected = evidence.dataset.expected
    holders: defaultdict[int, dict[RGB, Path]] = defaultdict(dict)  # the first label with each colour of each id
    for path, (_, label) in labels.items():
        for value, colour in label.colours.items():
            holders[value].setdefault(colour, path)
    classes = dict(zip(expected.spec.palette, expected.spec.classes, strict=True)) if expected.spec else {}
    for value, colours in sorted(holders.items()):
        if value == expected.ignore_index:
            continue
        if len(colours) > 1:
            shown = [f"{colour} in {evidence.name(path)}" for colour, path in colours.items()]
            files = tuple(dict.fromkeys(evidence.name(path) for path in colours.values()))
            yield Finding("palette-conflict", (), files, f"id {value} is {listing(shown)}")
        for colour, path in colours.items():
            # The order of the palette is the order of the ids.
            other = list(classes).index(colour) if colour in classes else value
            if other != value:
                name = evidence.name(path)
                message = f"id {value} has the colour of class {other} ({classes[colour]}) in {name}"
                yield Finding("palette-conflict", (), (name,), message)


def _known_colours(
    evidence: Evidence, with_unknown_ids: Sequence[Path], labels: Mapping[Path, tuple[int, LabelFacts]]
) -> Iterator[Finding]:
    """Yields a finding if the colours of masks, or of a label with unknown ids, are those of a known dataset."""
    colours = {colour for facts in evidence.facts for colour in facts.mask_colours}
    if known := _datasets_with(colours):
        yield Finding("label-colours", (), (), f"the colours of the masks are those of {known}")
    for path in with_unknown_ids[:1]:  # labels of one origin share a palette, so that one message is enough
        if known := _datasets_with(set(labels[path][1].colours.values())):
            name = evidence.name(path)
            message = f"{name} is a palette PNG; the colours of its ids are those of {known}, in another order"
            yield Finding("label-colours", (), (name,), message)


def _datasets_with(colours: set[RGB]) -> str:
    """Returns the names of the datasets that have all of the colours; empty for too few colours."""
    codings = [recipe.coding for recipe in RECIPES.values() if isinstance(recipe.coding, ColourCoding)]
    ignored = {colour for coding in codings for colour in coding.ignored}
    names = [
        name
        for name, spec in SPECS.items()
        if colours <= {*spec.palette, *ignored} and len(colours & set(spec.palette)) >= _LEAST_COLOURS
    ]
    return " or ".join(names)
