"""What is to be checked: the samples of each split and what they should be, from a config or from a folder.

A folder may be a prepared dataset (``dataset.json``), hold list files (``train.txt``, ``val.txt``), or plain folders of
images and labels, which `rsseg_tf.doctor.folders` pairs by name. Lists and pairs that are wrong become findings; only
what leaves nothing to check is an error.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rsseg_tf.config import Config
from rsseg_tf.datasets.spec import MAX_CLASSES, RGB, DatasetSpec, default_palette
from rsseg_tf.doctor.findings import Finding, listing
from rsseg_tf.doctor.folders import FolderSplit, find_folders
from rsseg_tf.errors import DataError, address_hint
from rsseg_tf.files import readable_name
from rsseg_tf.files.lists import Sample, list_lines
from rsseg_tf.prepare.output import read_dataset_json, read_description
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust

__all__ = ["CheckedDataset", "Expected", "Split", "dataset_from_config", "dataset_from_folder", "shown"]

LISTS = ("train", "val", "test")
"""Names of splits, in the order of a report; ``NAME.txt`` lists each."""


@dataclass(frozen=True)
class Expected:
    """What a dataset should be, as far as that is known.

    Attributes:
        name: How to call it.
        classes: Class names by id; None where nothing says how many there are.
        palette: A colour for each class.
        ignore_index: Label value of pixels that do not count.
        spec: All facts of a dataset that is known as a whole; None where only labels are.
    """

    name: str
    classes: tuple[str, ...] | None = None
    palette: tuple[RGB, ...] = ()
    ignore_index: int = 255
    spec: DatasetSpec | None = None

    @staticmethod
    def of(spec: DatasetSpec) -> Expected:
        """Returns what a spec says."""
        return Expected(spec.name, spec.classes, spec.palette, spec.ignore_index, spec)


@dataclass(frozen=True)
class Split:
    """The samples of a split in the order of its list, as often as it names them; None for labels if it has none."""

    name: str
    samples: tuple[Sample, ...]
    labelled: bool


@dataclass(frozen=True)
class CheckedDataset:
    """What is to be checked.

    Attributes:
        source: What the user named.
        root: Folder to which files are relative.
        expected: What the data should be.
        splits: The samples.
        crop_size: Width and height that training crops to, None if no config says.
        findings: What is wrong with the lists or pairs.
        trust: How large files may be, and what a VRT may name.
    """

    source: str
    root: Path
    expected: Expected
    splits: tuple[Split, ...]
    crop_size: tuple[int, int] | None = None
    findings: tuple[Finding, ...] = ()
    trust: Trust = TRUSTING_NOBODY

    @property
    def labelled(self) -> bool:
        """Whether any split has labels."""
        return any(split.labelled for split in self.splits)


def shown(path: Path, root: Path) -> str:
    """Returns how a file is named in findings: relative to the root if it lies below it."""
    return readable_name(path.relative_to(root).as_posix() if path.is_relative_to(root) else path)


def dataset_from_config(config: Config, source: str) -> CheckedDataset:
    """Returns what a config trains and validates on.

    Args:
        config: The config.
        source: What the user named.

    Raises:
        DataError: When its root folder does not exist.
    """
    dataset = config.dataset
    root = Path(dataset.root)
    if not root.is_dir():
        raise DataError(
            f"The folder {root} (dataset.root of {source}) does not exist. Set dataset.root, or write the data: "
            + (f"rsseg-tf prepare {dataset.name}." if dataset.name != "custom" else "images, labels and two lists.")
            + address_hint(root)
        )
    lists = _Lists(root)
    splits = (
        lists.read("train", root / dataset.train_list, labels="needed"),
        lists.read("val", root / dataset.val_list, labels="needed"),
    )
    findings = [*_differences(dataset.spec, root), *lists.findings]
    return CheckedDataset(
        source, root, Expected.of(dataset.spec), splits, config.augment.crop_size, tuple(findings), config.data.trust
    )


def dataset_from_folder(
    folder: Path, *, num_classes: int | None = None, ignore_index: int | None = None, unlabelled: bool = False
) -> CheckedDataset:
    """Returns what a folder holds.

    Args:
        folder: A prepared dataset, a folder with list files, or folders of images and labels.
        num_classes: Number of classes where the folder does not say.
        ignore_index: Label value of pixels that do not count where the folder does not say; 255 if left out.
        unlabelled: Whether to check images alone.

    Raises:
        DataError: When there is nothing to check, or the folder says what an argument says otherwise.
    """
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
    if any((folder / f"{name}.txt").is_file() for name in LISTS):
        return _listed(folder, expected, unlabelled)
    found = find_folders(folder, unlabelled=unlabelled)
    splits = tuple(Split(part.name, part.samples, part.labelled) for part in found)
    return _without_validation(
        CheckedDataset(str(folder), folder, expected, splits, findings=tuple(_pairing_findings(found, folder)))
    )


def _prepared(folder: Path, unlabelled: bool) -> CheckedDataset:
    """A folder that this package prepared."""
    labelled = bool(read_description(folder / "dataset.json").get("labelled", True))
    if labelled:
        expected = Expected.of(read_dataset_json(folder / "dataset.json")[0])
    else:
        expected = Expected(str(read_description(folder / "dataset.json").get("name", folder.name)))
    lists = _Lists(folder)
    names = [name for name in LISTS if name != "test" or (folder / "test.txt").is_file()] if labelled else ["train"]
    kinds = {"train": "needed", "val": "needed", "test": "allowed"} if labelled and not unlabelled else {}
    splits = [lists.read(name, folder / f"{name}.txt", labels=kinds.get(name, "none")) for name in names]
    return CheckedDataset(str(folder), folder, expected, tuple(splits), findings=tuple(lists.findings))


def _listed(folder: Path, expected: Expected, unlabelled: bool) -> CheckedDataset:
    """A folder with list files and no description."""
    lists = _Lists(folder)
    names = [name for name in LISTS if (folder / f"{name}.txt").is_file()]
    kinds = {} if unlabelled else {"train": "needed", "val": "needed", "test": "allowed"}
    splits = [lists.read(name, folder / f"{name}.txt", labels=kinds.get(name, "none")) for name in names]
    return _without_validation(
        CheckedDataset(str(folder), folder, expected, tuple(splits), findings=tuple(lists.findings))
    )


def _without_validation(found: CheckedDataset) -> CheckedDataset:
    """Notes that a labelled dataset has no validation split."""
    if not found.labelled or any(split.name == "val" for split in found.splits):
        return found
    names = tuple(split.name for split in found.splits)
    message = f"{found.root} has no split named val, only {listing(names)}"
    finding = Finding("no-validation", names, (), message)
    return replace(found, findings=(*found.findings, finding))


def _expected(folder: Path, num_classes: int | None, ignore_index: int) -> Expected:
    """Takes the classes from ``labels.txt``, or their number from the user, or leaves them open."""
    names: tuple[str, ...] | None = None
    file = folder / "labels.txt"
    if file.is_file():
        try:
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
    return Expected(folder.name, names, default_palette(len(names)) if names is not None else (), ignore_index)


def _differences(spec: DatasetSpec, root: Path) -> list[Finding]:
    """Compares the config's dataset with the description in its folder, if it has one."""
    file = root / "dataset.json"
    if not file.is_file():
        return []
    try:
        described, _ = read_dataset_json(file)
    except DataError as error:
        return [Finding("spec-differs", (), ("dataset.json",), str(error).rstrip("."))]
    fields = ("classes", "ignore_index", "bands", "max_value")
    different = [field for field in fields if getattr(spec, field) != getattr(described, field)]
    return [
        Finding(
            "spec-differs",
            (),
            ("dataset.json",),
            f"{field} is {_brief(getattr(spec, field))} in the config, {_brief(getattr(described, field))} in "
            "dataset.json",
        )
        for field in different
    ]


def _brief(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 100 else text[:99] + "…"


# --- lists --------------------------------------------------------------------------------------------------------


class _Lists:
    """Reads list files and collects everything that is wrong with them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.findings: list[Finding] = []

    def read(self, split: str, path: Path, *, labels: str) -> Split:
        """Reads one list; lines that are wrong are left out.

        Args:
            split: Name of the split.
            path: The file.
            labels: ``"needed"`` on each line, ``"allowed"`` (the split is labelled if all lines have one), or
                ``"none"``: second columns are not looked at.
        """
        before = len(self.findings)
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
            sample = Sample(self.root / columns[0], self.root / columns[1] if labelled else None)
            samples.append(sample)
            numbers[sample].append(number)
        for sample, where in numbers.items():
            if len(where) > 1:
                message = f"{self._name(path)}, lines {', '.join(map(str, where[:8]))}"
                message += f"{', …' if len(where) > 8 else ''}: {self._name(sample.image)}"
                self._note("list-repeated", split, path, message)
        if not samples and len(self.findings) == before:
            self._note("list-empty", split, path, f"{self._name(path)} names no sample")
        self._reused(split, samples)
        return Split(split, tuple(samples), labelled)

    def _reused(self, split: str, samples: Sequence[Sample]) -> None:
        images: defaultdict[Path, Counter[Path]] = defaultdict(Counter)
        for sample in samples:
            if sample.label is not None:
                images[sample.label][sample.image] += 1
        for label, beside in images.items():
            if len(beside) > 1:
                names = [self._name(path) for path in beside]
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
            *(("image-without-label", (path,), "has no label") for path in part.lonely_images),
            *(("label-without-image", (path,), "has no image") for path in part.lonely_labels),
            *(("pair-ambiguous", paths, "and {} could be the same half of a pair") for paths in part.ambiguous),
        ):
            names = tuple(shown(path, folder) for path in paths)
            findings.append(Finding(code, (part.name,), names, f"{names[0]} {message.format(', '.join(names[1:]))}"))
        if part.left_out:
            findings.append(Finding("left-out", (part.name,), (), part.left_out.replace(f"{folder}{os.sep}", "")))
        if not part.samples:
            findings.append(Finding("list-empty", (part.name,), (), f"{part.name} has no pair of image and label"))
    return findings
