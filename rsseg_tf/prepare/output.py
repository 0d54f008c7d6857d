"""The folder of a prepared dataset: tiles, lists and a description, written whole or not at all.

img_dir/{train,val,test}/…    images; test only where the owners hand out images without labels
ann_dir/{train,val}/…         labels: class ids in one band
train.txt, val.txt, test.txt  one line per tile, image and label (test: image)
train_GROUP.txt               the tiles of a group of scenes, where the dataset has groups
labels.txt                    class names, one per line, in the order of their ids
dataset.json                  the spec and the counts of scenes, tiles and pixels
*.yml                         configs; they stay when the dataset is prepared again

A dataset for pre-training has images and `train.txt` alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rsseg_tf
from rsseg_tf.datasets.spec import DatasetSpec, custom_spec, unknown_ids
from rsseg_tf.errors import DataError, reason
from rsseg_tf.files import SIDE_SUFFIX, StrPath, atomic_folder, hold, read_json
from rsseg_tf.files.lists import Sample, write_list
from rsseg_tf.files.writing import partial_folder, recover_folder
from rsseg_tf.prepare.cutting import SceneRecord

__all__ = [
    "SPLITS",
    "WORK",
    "OwnDataReport",
    "PrepareReport",
    "PreparedFolder",
    "SplitReport",
    "check_replaceable",
    "held_output",
    "keep_configs",
    "needed_splits",
    "read_dataset_json",
    "read_description",
    "replaced_dataset",
    "staged_output",
]

SPLITS = ("train", "val")
"""The splits of every labelled dataset."""

_WRITER = "rsseg_tf"
_MARK = ".prepared"
_CONFIGS = ".yml"
WORK = ".work"
"""Subfolder of an unfinished run with its journal and its scratch files."""
# Earlier versions wrote descriptions without these.
_LATER_FIELDS = frozenset({"band_names", "gsd", "tile_names"})
# Entries that earlier versions wrote under another name or with another value.
_EARLIER_ENTRIES = {
    ("protocol", "seed"): ("cutting", "benchmark"),
    ("protocol", "overlap"): ("cutting", "overlap"),
}
# Entries that say what a user chose, and not what came of it.
_CHOSEN = ("classes", "tile_size", "overlap", "cutting", "labels", "image_format", "split", "seed", "touching",
           "background", "skip_empty")  # fmt: skip
_OUR_NAMES = frozenset({"img_dir", "ann_dir", "labels.txt", "dataset.json", _MARK, "train.txt", "val.txt", "test.txt"})


@dataclass(frozen=True)
class SplitReport:
    """The counts of one split.

    Attributes:
        scenes: Number of source scenes.
        tiles: Number of tiles, that is of lines in the list file.
        pixels: Source pixels of each class, by class name; pixels in two tiles count once, padding not at all.
        ignored_pixels: Source pixels without a class.
        off_palette_pixels: Those of them whose colour or value stands for nothing.
    """

    scenes: int
    tiles: int
    pixels: Mapping[str, int]
    ignored_pixels: int
    off_palette_pixels: int = 0


@dataclass(frozen=True)
class PrepareReport:
    """The result of preparing a dataset.

    Attributes:
        name: The dataset's name.
        output: Its folder.
        splits: The counts of each split.
        up_to_date: Whether everything existed before.
        left_out: A sentence about possible images in the sources that were left out; empty for none.
        replaced: A sentence about another dataset that stood in the folder before; empty for none.
    """

    name: str
    output: Path
    splits: Mapping[str, SplitReport]
    up_to_date: bool = False
    left_out: str = ""
    replaced: str = ""

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}: {split.scenes} scenes, {split.tiles} tiles" for name, split in self.splits.items())
        return f"<{self.name} in {self.output}; {counts}>"


@dataclass(frozen=True)
class OwnDataReport:
    """The result of preparing a user's own scenes or annotated images.

    Attributes:
        report: What was written.
        config: The config to train with; None without validation tiles.
        notes: Sentences for the user.
    """

    report: PrepareReport
    config: Path | None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{repr(self.report)[:-1]}; config: {self.config}>"


class PreparedFolder:
    """Collects the tiles of a dataset in a folder and, in the end, writes its lists and its description.

    Args:
        folder: An existing folder.
        spec: The spec; for images without labels, the dataset's name.
        needed: Splits that must not be empty; None for the usual ones, see `needed_splits`.

    Raises:
        OSError: From every method, when a file cannot be written (`staged_output` turns it into a DataError).
    """

    def __init__(self, folder: Path, spec: DatasetSpec | str, needed: Sequence[str] | None = None) -> None:
        self.folder = folder
        self.spec = spec
        self._needed = needed_splits(spec, needed)
        self._samples: dict[str, list[Sample]] = {split: [] for split in self._needed}
        self._groups: dict[str, list[Sample]] = {}
        self._scenes: dict[str, set[str]] = {}
        self._off_palette: Counter[str] = Counter()
        self._pixels: dict[str, np.ndarray] = {}
        for split in self._needed:
            self.open_split(split)

    def open_split(self, split: str) -> None:
        """Makes the folders of a split."""
        self._samples.setdefault(split, [])
        self._pixels.setdefault(split, np.zeros(256, np.int64))
        for kind in ("img_dir",) if isinstance(self.spec, str) else ("img_dir", "ann_dir"):
            (self.folder / kind / split).mkdir(parents=True, exist_ok=True)

    def add_sample(self, split: str, image_name: str, label_name: str | None) -> Sample:
        """Adds a tile to the list of its split and returns the paths of its files, which may still be missing."""
        image = self.folder / "img_dir" / split / image_name
        label = None if label_name is None else self.folder / "ann_dir" / split / label_name
        self._samples[split].append(Sample(image, label))
        return self._samples[split][-1]

    def add_record(self, record: SceneRecord) -> None:
        """Adds the tiles of a scene, whose files exist, and its counts."""
        for image_name, label_name in record.tiles:
            sample = self.add_sample(record.split, image_name, label_name)
            if record.group:
                self._groups.setdefault(f"{record.split}_{record.group}", []).append(sample)
        if record.pixels:
            self._pixels[record.split] += np.array(record.pixels)
        self._off_palette[record.split] += record.off_palette.pixels
        if record.tiles or not record.scene:
            self._scenes.setdefault(record.split, set()).add(record.scene or record.stem)

    def count_scene(self, split: str, label: np.ndarray, name: str) -> None:
        """Counts a scene and the pixels of its `(H, W)` uint8 label.

        Raises:
            DataError: When the label holds a value that is neither a class id nor the ignore index.
        """
        if isinstance(self.spec, str):
            raise DataError(f"Dataset '{self.spec}' has no labels; got one for {name}.")
        counts = np.bincount(label.ravel(), minlength=256)
        unknown = unknown_ids(np.flatnonzero(counts), self.spec.num_classes, self.spec.ignore_index)
        if unknown:
            raise DataError(
                f"{name} holds label {unknown[0]} ({counts[unknown[0]]} pixels); dataset '{self.spec.name}' allows "
                f"0..{self.spec.num_classes - 1} and {self.spec.ignore_index}."
            )
        self._scenes.setdefault(split, set()).add(name)
        self._pixels[split] += counts

    def sweep(self) -> None:
        """Removes files that no list names: halves that a kill left, and tiles of scenes that are gone."""
        named = {path for samples in self._samples.values() for sample in samples for path in _files_of(sample)}
        # GDAL keeps beside an image what its format cannot hold, such as an unusual CRS.
        named |= {path.with_name(path.name + SIDE_SUFFIX) for path in named}
        for kind in ("img_dir", "ann_dir"):
            for directory, _, names in os.walk(self.folder / kind):
                for name in names:
                    path = Path(directory, name)
                    if path not in named:
                        path.unlink()

    def mark(self, digest: str) -> None:
        """Writes the digest of everything that the folder depends on."""
        (self.folder / _MARK).write_text(digest + "\n", encoding="utf-8")

    @staticmethod
    def unmark(folder: Path) -> None:
        """Removes the digest, before the folder changes."""
        (folder / _MARK).unlink(missing_ok=True)

    @staticmethod
    def marked(folder: Path) -> str | None:
        """Returns the digest that `mark` wrote; None without one."""
        try:
            return (folder / _MARK).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return None

    def finish(self, facts: Mapping[str, Any]) -> dict[str, SplitReport]:
        """Writes the lists, `labels.txt` and `dataset.json`.

        Args:
            facts: More entries for `dataset.json`, such as the tile size.

        Returns:
            The counts of each split.

        Raises:
            DataError: When a split is empty.
        """
        splits: dict[str, SplitReport] = {}
        name = self.spec if isinstance(self.spec, str) else self.spec.name
        for split, samples in self._samples.items():
            if not samples:
                raise DataError(
                    f"Dataset '{name}' would have no {split} tiles; {' and '.join(self._needed)} need some. "
                    "Check that the source is complete."
                )
            samples.sort(key=lambda sample: sample.image)
            write_list(self.folder / f"{split}.txt", samples, self.folder)
            splits[split] = self._report(split)
        for group, samples in self._groups.items():
            write_list(self.folder / f"{group}.txt", sorted(samples, key=lambda sample: sample.image), self.folder)
        content: dict[str, Any] = {"written_by": _WRITER, "version": rsseg_tf.__version__}
        if isinstance(self.spec, str):
            content |= {"name": self.spec, "labelled": False}
        else:
            values = dataclasses.asdict(self.spec)
            del values["ignore_nodata"]  # a config decides
            if self.spec.tile_names is None:  # whole scenes have no names of tiles
                del values["tile_names"]
            content |= {**values, "labelled": True}
            (self.folder / "labels.txt").write_text(
                "".join(f"{line}\n" for line in self.spec.classes), encoding="utf-8"
            )
        if self._groups:
            content["groups"] = {group: len(samples) for group, samples in self._groups.items()}
        content |= {**facts, "splits": {split: dataclasses.asdict(report) for split, report in splits.items()}}
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (self.folder / "dataset.json").write_text(text, encoding="utf-8")
        return splits

    def _report(self, split: str) -> SplitReport:
        counts = self._pixels[split]
        classes = () if isinstance(self.spec, str) or split not in SPLITS else self.spec.classes
        return SplitReport(
            scenes=len(self._scenes.get(split, ())),
            tiles=len(self._samples[split]),
            pixels={name: int(counts[position]) for position, name in enumerate(classes)},
            ignored_pixels=int(counts[self.spec.ignore_index]) if not isinstance(self.spec, str) else 0,
            off_palette_pixels=self._off_palette[split],
        )


def needed_splits(spec: DatasetSpec | str, chosen: Sequence[str] | None = None) -> tuple[str, ...]:
    """Returns the splits that a dataset must have: those that the user chose, else train, and val with labels."""
    if chosen is not None:
        return tuple(chosen)
    return ("train",) if isinstance(spec, str) else SPLITS


def _files_of(sample: Sample) -> tuple[Path, ...]:
    return (sample.image,) if sample.label is None else (sample.image, sample.label)


@contextlib.contextmanager
def staged_output(output: Path) -> Iterator[Path]:
    """Gives an empty folder that takes the place of `output` when the block ends without an error.

    On any error the folder is removed and `output` stays as it was.

    Args:
        output: The folder to appear. Parents are made. It may exist if it is empty or a prepared dataset of this
            package with nothing else in it; that is then replaced.

    Yields:
        The folder to fill.

    Raises:
        DataError: When `output` holds anything else, cannot be written, or is being prepared by another process.
    """
    output = Path(os.path.abspath(output))  # a name is needed, which "." has not
    try:
        check_replaceable(output)
        with held_output(output):
            if (unfinished := partial_folder(output) / WORK).exists():
                raise DataError(
                    f"{unfinished.parent} holds an unfinished run of another dataset. Finish it, or delete that folder."
                )
            with atomic_folder(output) as folder:
                yield folder
                check_replaceable(output)  # once more: minutes may have gone by
                keep_configs(output, folder)
    except OSError as error:
        raise DataError(f"Cannot write {output}: {reason(error)}. Check the permissions and the free space.") from error


@contextlib.contextmanager
def held_output(output: Path) -> Iterator[None]:
    """Locks `output` against other processes, and removes what a kill of one has left beside it.

    Raises:
        DataError: When another process holds the lock.
        OSError: When nothing can be written there.
    """
    if output.parent.exists() and not output.parent.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    output.parent.mkdir(parents=True, exist_ok=True)
    lock_file = output.with_name(f".{output.name}.lock")
    lock = hold(lock_file)
    if lock is None:
        raise DataError(
            f"Another process is preparing {output} (its lock is {lock_file}). Wait for it, or choose another output."
        )
    with lock:
        recover_folder(output)
        yield


def replaced_dataset(output: Path, name: str, facts: Mapping[str, Any]) -> str:
    """Returns a sentence, without its full stop, about the dataset in a folder that another one is about to replace.

    Args:
        output: The folder.
        name: The name of the dataset to come.
        facts: Entries of its `dataset.json`.

    Returns:
        The sentence; nothing where no dataset is there, or one of the same name and choices.
    """
    try:
        earlier = read_description(output / "dataset.json")
    except DataError:
        return ""
    if earlier.get("name") != name:
        return f"{output} held the dataset '{earlier.get('name')}', which this one has replaced"
    now = json.loads(json.dumps(facts))
    changed = next((key for key in _CHOSEN if key in earlier and key in now and earlier[key] != now[key]), None)
    if changed is None:
        return ""
    return f"The tiles of {output} were made anew: {changed} {now[changed]}, not {earlier[changed]} as before"


def keep_configs(output: Path, folder: Path) -> None:
    """Copies the configs in `output` to the folder that is about to take its place.

    Raises:
        OSError: When one cannot be copied.
    """
    for path in output.glob(f"*{_CONFIGS}"):
        if not (folder / path.name).exists():
            shutil.copy2(path, folder / path.name)


def read_description(path: StrPath) -> dict[str, Any]:
    """Reads the `dataset.json` of a prepared dataset, labelled or not.

    Raises:
        DataError: When the file is missing or is no such description.
    """
    path = Path(path)
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist. Prepare the dataset first.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Prepare the dataset again.") from error
    if not isinstance(content, dict) or content.get("written_by") != _WRITER:
        raise DataError(f"{path} does not describe a dataset prepared by {_WRITER}. Prepare the dataset again.")
    return _present_entries(content)


def _present_entries(content: dict[str, Any]) -> dict[str, Any]:
    """Returns a description with today's names for the entries of earlier versions."""
    for (name, value), (present, present_value) in _EARLIER_ENTRIES.items():
        if content.get(name) == value:
            content = {present if key == name else key: entry for key, entry in content.items()}
            content[present] = present_value
    return content


def read_dataset_json(path: StrPath) -> tuple[DatasetSpec, dict[str, Any]]:
    """Reads the `dataset.json` of a prepared dataset with labels.

    Returns:
        The spec, and the whole content of the file.

    Raises:
        DataError: When the file is missing, is no such description, or contradicts itself.
    """
    path = Path(path)
    content = read_description(path)
    fields = [field.name for field in dataclasses.fields(DatasetSpec) if field.name != "ignore_nodata"]
    names = [name for name in fields if name in content or name not in _LATER_FIELDS]
    absent = [name for name in names if name not in content]
    if absent:
        raise DataError(f"{path} lacks the entry '{absent[0]}'. Prepare the dataset again.")
    try:
        return custom_spec(**{name: content[name] for name in names}), content
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path} holds an entry of a wrong type ({error}). Prepare the dataset again.") from error


def check_replaceable(output: Path) -> None:
    """Raises DataError unless `output` is absent, an empty folder, or a prepared dataset with nothing but configs."""
    if not os.path.lexists(output):
        return
    if output.is_symlink() or not output.is_dir():
        raise DataError(
            f"{output} exists and is not a folder; a new folder is expected. Choose another output.", code="exists"
        )
    names = {path.name for path in output.iterdir()}
    if not names:
        return
    groups: frozenset[str] = frozenset()
    unreadable: DataError | None = None
    try:
        groups = frozenset(f"{group}.txt" for group in read_description(output / "dataset.json").get("groups", {}))
    except DataError as error:
        unreadable = error
    foreign = sorted(name for name in names - _OUR_NAMES - groups if not name.endswith(_CONFIGS))
    if foreign:
        raise DataError(
            f"{output} holds '{foreign[0]}', which {_WRITER} did not write. Choose another output folder.",
            code="exists",
        )
    if unreadable is not None:
        raise DataError(
            f"{output} exists, and nothing shows that {_WRITER} wrote it ({unreadable}) Choose another output folder.",
            code="exists",
        ) from unreadable
