"""The dataset to check: the samples of each split and the expectations on them, from a config or from a folder.

A folder is a prepared dataset (`dataset.json`), has list files (`train.txt`, `val.txt`), or has plain folders of images
and labels, which `rsseg_tf.doctor.folders` pairs by name. Wrong lists and pairs become findings; only a dataset without
anything to check is an error.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rsseg_tf.config import Config
from rsseg_tf.config.loader import root_hint
from rsseg_tf.datasets.spec import MAX_CLASSES, RGB, DatasetSpec, default_palette
from rsseg_tf.doctor.findings import Finding, first_values, listing, shortened
from rsseg_tf.doctor.folders import FolderSplit, find_folders
from rsseg_tf.errors import DataError, address_hint
from rsseg_tf.files import StrPath, readable_name
from rsseg_tf.files.lists import Sample, list_lines
from rsseg_tf.prepare.output import read_dataset_json, read_description
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.windows import Size

__all__ = ["CheckedDataset", "Expectation", "Split", "dataset_from_config", "dataset_from_folder", "shown"]

LISTS = ("train", "val", "test")
"""Names of splits, in the order of a report; the list file of each is `NAME.txt`."""


@dataclass(frozen=True)
class Expectation:
    """What is known in advance about a dataset.

    Attributes:
        name: Name in messages.
        classes: Class names by id; None where their number is unknown.
        palette: A colour for each class.
        ignore_index: Label value of ignored pixels.
        spec: The complete spec, if there is one.
    """

    name: str
    classes: tuple[str, ...] | None = None
    palette: tuple[RGB, ...] = ()
    ignore_index: int = 255
    spec: DatasetSpec | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None where it is unknown."""
        return None if self.classes is None else len(self.classes)

    @staticmethod
    def of(spec: DatasetSpec) -> Expectation:
        """Returns the expectation on a dataset with this spec."""
        return Expectation(spec.name, spec.classes, spec.palette, spec.ignore_index, spec)


@dataclass(frozen=True)
class Split:
    """The samples of a split, in the order of its list and with its repetitions; without labels if it has none."""

    name: str
    samples: tuple[Sample, ...]
    labelled: bool


@dataclass(frozen=True)
class CheckedDataset:
    """A dataset to check.

    Attributes:
        source: The config or folder that the user named.
        root: Folder to which files are relative.
        expected: What is known in advance.
        splits: The samples.
        crop_size: Size that training crops to; None without a config.
        findings: Findings about the lists or pairs.
        trust: Limits for files and for the sources of a VRT.
    """

    source: str
    root: Path
    expected: Expectation
    splits: tuple[Split, ...]
    crop_size: Size | None = None
    findings: tuple[Finding, ...] = ()
    trust: Trust = TRUSTING_NOBODY

    @property
    def labelled(self) -> bool:
        """Whether any split has labels."""
        return any(split.labelled for split in self.splits)


def shown(path: Path, root: Path) -> str:
    """Returns the name of a file in findings: relative to the root if the file lies below the root."""
    return readable_name(path.relative_to(root).as_posix() if path.is_relative_to(root) else path)


def dataset_from_config(config: Config, source: str) -> CheckedDataset:
    """Returns the dataset of a config.

    Args:
        config: The config.
        source: The config's name, as the user gave it.

    Raises:
        DataError: When the root folder of the dataset does not exist.
    """
    dataset = config.dataset
    root = Path(dataset.root)
    if not root.is_dir():
        raise DataError(
            f"The folder {root} (dataset.root of {source}) does not exist. Set dataset.root, or write the data: "
            + (f"rsseg-tf prepare {dataset.name}." if dataset.name != "custom" else "images, labels and two lists.")
            + (address_hint(root) or root_hint(dataset.root))
        )
    lists = _Lists(root)
    splits = (
        lists.read("train", root / dataset.train_list, labels="needed"),
        lists.read("val", root / dataset.val_list, labels="needed"),
    )
    findings = [*_differences(dataset.spec, root), *lists.findings]
    return CheckedDataset(
        source, root, Expectation.of(dataset.spec), splits, config.augment.crop, tuple(findings), config.data.trust
    )


def dataset_from_folder(
    folder: StrPath, *, num_classes: int | None = None, ignore_index: int | None = None, unlabelled: bool = False
) -> CheckedDataset:
    """Returns the dataset in a folder.

    Args:
        folder: A prepared dataset, a folder with list files, or folders of images and labels.
        num_classes: Number of classes, where the folder does not give it.
        ignore_index: Label value of ignored pixels, where the folder does not give it; None for 255.
        unlabelled: Whether to check images without labels.

    Raises:
        DataError: When there is nothing to check, or an argument contradicts the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"The folder {folder} does not exist. Check the path.{address_hint(folder)}")
    if unlabelled and (num_classes is not None or ignore_index is not None):
        raise DataError("Images without labels have no classes: leave out the number of classes and the ignored id.")
    if (folder / "dataset.json").is_file():
        if num_classes is not None or ignore_index is not None:
            raise DataError(
                f"The classes and the ignored id of {folder} stand in its dataset.json; leave out the number of "
                "classes and the ignored id."
            )
        return _prepared(folder, unlabelled)
    expected = _expected(folder, num_classes, 255 if ignore_index is None else ignore_index)
    lists = [name for name in LISTS if (folder / f"{name}.txt").is_file()]
    if lists:
        return _without_validation(_listed(folder, expected, lists, unlabelled=unlabelled))
    found = find_folders(folder, unlabelled=unlabelled)
    splits = tuple(Split(part.name, part.samples, part.labelled) for part in found)
    return _without_validation(
        CheckedDataset(str(folder), folder, expected, splits, findings=tuple(_pairing_findings(found, folder)))
    )


def _prepared(folder: Path, unlabelled: bool) -> CheckedDataset:
    """Returns the dataset in a folder that this package prepared."""
    content = read_description(folder / "dataset.json")
    # `prepare` also writes images without labels for pre-training; they have one list and no classes.
    if not content.get("labelled", True):
        return _listed(folder, Expectation(str(content.get("name", folder.name))), ["train"], unlabelled=True)
    expected = Expectation.of(read_dataset_json(folder / "dataset.json")[0])
    names = [name for name in LISTS if name != "test" or (folder / "test.txt").is_file()]
    return _listed(folder, expected, names, unlabelled=unlabelled)


def _listed(folder: Path, expected: Expectation, names: Sequence[str], *, unlabelled: bool) -> CheckedDataset:
    """Returns the dataset of the list files with these names."""
    lists = _Lists(folder)
    kinds = {} if unlabelled else {"train": "needed", "val": "needed", "test": "allowed"}
    splits = tuple(lists.read(name, folder / f"{name}.txt", labels=kinds.get(name, "none")) for name in names)
    return CheckedDataset(str(folder), folder, expected, splits, findings=tuple(lists.findings))


def _without_validation(dataset: CheckedDataset) -> CheckedDataset:
    """Adds a finding to a labelled dataset without a validation split."""
    if not dataset.labelled or any(split.name == "val" for split in dataset.splits):
        return dataset
    names = tuple(split.name for split in dataset.splits)
    message = f"{dataset.root} has no split named val, only {listing(names)}"
    return replace(dataset, findings=(*dataset.findings, Finding("no-validation", names, (), message)))


def _expected(folder: Path, num_classes: int | None, ignore_index: int) -> Expectation:
    """Returns the expectation on a folder without a description.

    The classes come from `labels.txt`, or their number from the user; otherwise they stay unknown.
    """
    names: tuple[str, ...] | None = None
    file = folder / "labels.txt"
    if file.is_file():
        try:
            # Editors on Windows put a byte-order mark before the text.
            names = tuple(line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read: {error}. It holds one class name a line, as UTF-8.") from error
        if num_classes not in (None, len(names)):
            raise DataError(f"{file} names {len(names)} classes; got {num_classes}. Leave the number out.")
    elif num_classes is not None:
        names = tuple(f"class {number}" for number in range(num_classes))
    if names is not None and not 1 <= len(names) <= MAX_CLASSES:
        raise DataError(f"A dataset has 1 to {MAX_CLASSES} classes; got {len(names)} for {folder}.")
    if names is not None and ignore_index < len(names):
        raise DataError(
            f"The ignored id {ignore_index} is also a class of {folder}: its {len(names)} classes have the ids "
            f"0..{len(names) - 1}. Choose another ignored id; 255 is usual."
        )
    return Expectation(folder.name, names, default_palette(len(names)) if names is not None else (), ignore_index)


def _differences(spec: DatasetSpec, root: Path) -> list[Finding]:
    """Compares the spec of a config with the description in the folder, if the folder has one."""
    file = root / "dataset.json"
    if not file.is_file():
        return []
    try:
        described, _ = read_dataset_json(file)
    except DataError as error:
        return [Finding("spec-differs", (), ("dataset.json",), str(error).rstrip("."))]
    # These fields are facts about the files. Mean and std are a choice of the config.
    fields = ("classes", "ignore_index", "bands", "max_value")
    findings = []
    for field in fields:
        stated, written = getattr(spec, field), getattr(described, field)
        if stated != written:
            message = f"{field} is {_shown(stated)} in the config, {_shown(written)} in dataset.json"
            findings.append(Finding("spec-differs", (), ("dataset.json",), message))
    return findings


def _shown(value: object) -> str:
    return shortened(", ".join(map(str, value)) if isinstance(value, tuple) else str(value), 100)


# --- lists --------------------------------------------------------------------------------------------------------


class _Lists:
    """Reads list files and collects findings about them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.findings: list[Finding] = []

    def read(self, split: str, path: Path, *, labels: str) -> Split:
        """Reads one list without its wrong lines.

        Args:
            split: Name of the split.
            path: The file.
            labels: `"needed"`: each line must name a label. `"allowed"`: the split is labelled if all lines name one.
                `"none"`: labels are disregarded.
        """
        before = len(self.findings)  # an empty list whose lines are all wrong needs no second finding
        if not path.is_file():
            self._note("list-missing", split, path, f"{self._name(path)} does not exist")
            return Split(split, (), labels == "needed")
        try:
            lines = list(list_lines(path, self.root))
        except DataError as error:
            self._note("list-unreadable", split, path, str(error).split(". ")[0].rstrip("."))
            return Split(split, (), labels == "needed")
        labelled = labels == "needed" or (labels == "allowed" and all(len(columns) == 2 for _, columns in lines))
        samples: list[Sample] = []
        numbers: defaultdict[Sample, list[int]] = defaultdict(list)
        for number, columns in lines:
            if not (len(columns) == 2 or (len(columns) == 1 and not labelled)):
                plural = "s" if len(columns) != 1 else ""
                self._note(
                    "list-columns", split, path, f"{self._name(path)}, line {number}: {len(columns)} column{plural}"
                )
                continue
            # An absolute path in the list replaces the root.
            sample = Sample(self.root / columns[0], self.root / columns[1] if labelled else None)
            samples.append(sample)
            numbers[sample].append(number)
        for sample, where in numbers.items():
            if len(where) > 1:
                message = f"{self._name(path)}, lines {first_values(where)}: {self._name(sample.image)}"
                self._note("list-repeated", split, path, message)
        if not samples and len(self.findings) == before:
            self._note("list-empty", split, path, f"{self._name(path)} names no sample")
        self._reused(split, samples)
        return Split(split, tuple(samples), labelled)

    def _reused(self, split: str, samples: Sequence[Sample]) -> None:
        """Adds a finding for each label that stands beside several images."""
        images: defaultdict[Path | None, list[Path]] = defaultdict(list)
        for sample in samples:
            images[sample.label].append(sample.image)
        for label, beside in images.items():
            if label is not None and len(set(beside)) > 1:
                names = [self._name(path) for path in dict.fromkeys(beside)]
                message = f"{self._name(label)} stands beside {listing(names)}"
                self.findings.append(Finding("label-reused", (split,), (self._name(label), *names), message))

    def _note(self, code: str, split: str, path: Path, message: str) -> None:
        self.findings.append(Finding(code, (split,), (self._name(path),), message))

    def _name(self, path: Path) -> str:
        return shown(path, self.root)


# --- folders ------------------------------------------------------------------------------------------------------


def _pairing_findings(found: Sequence[FolderSplit], folder: Path) -> list[Finding]:
    findings: list[Finding] = []
    for part in found:
        for code, paths, message in (
            *(("image-without-label", (path,), "has no label") for path in part.unpaired_images),
            *(("label-without-image", (path,), "has no image") for path in part.unpaired_labels),
            *(("pair-ambiguous", paths, "and {} could be the same half of a pair") for paths in part.ambiguous),
        ):
            names = tuple(shown(path, folder) for path in paths)
            findings.append(Finding(code, (part.name,), names, f"{names[0]} {message.format(', '.join(names[1:]))}"))
        if part.left_out:
            findings.append(Finding("left-out", (part.name,), (), part.left_out.replace(f"{folder}{os.sep}", "")))
        if not part.samples:
            findings.append(Finding("list-empty", (part.name,), (), f"{part.name} has no pair of image and label"))
    return findings
