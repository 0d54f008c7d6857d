"""The folder that a prepared dataset is: tiles, lists and a description, written whole or not at all.

img_dir/{train,val}/…    images
ann_dir/{train,val}/…    labels: class ids in one band
train.txt, val.txt       one line per tile, image and label
labels.txt               class names, one a line, in the order of their ids
dataset.json             the spec, and what was counted on the way
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rsseg_tf
from rsseg_tf.datasets.images import write_png
from rsseg_tf.datasets.listing import Sample, write_list
from rsseg_tf.datasets.spec import DatasetSpec, custom_spec
from rsseg_tf.datasets.tiling import windows
from rsseg_tf.errors import DataError

__all__ = ["SPLITS", "PrepareReport", "PreparedFolder", "SplitReport", "read_dataset_json", "staged_output"]

SPLITS = ("train", "val")

_WRITER = "rsseg_tf"
_OUR_NAMES = frozenset({"img_dir", "ann_dir", "labels.txt", "dataset.json", *(f"{split}.txt" for split in SPLITS)})


@dataclass(frozen=True)
class SplitReport:
    """What one split holds.

    Attributes:
        scenes: Number of source scenes.
        tiles: Number of tiles, that is of lines in the list file.
        pixels: Source pixels of each class, by class name; pixels in two tiles count once, padding not at all.
        ignored_pixels: Source pixels without a class.
    """

    scenes: int
    tiles: int
    pixels: Mapping[str, int]
    ignored_pixels: int


@dataclass(frozen=True)
class PrepareReport:
    """What was prepared: the dataset's name, its folder, and the counts of each split."""

    name: str
    output: Path
    splits: Mapping[str, SplitReport]


class PreparedFolder:
    """Fills a folder with the tiles of a dataset and, in the end, its lists and description.

    Args:
        folder: An existing empty folder.
        spec: The dataset.

    Raises:
        OSError: From every method, when a file cannot be written (`staged_output` turns it into a DataError).
    """

    def __init__(self, folder: Path, spec: DatasetSpec) -> None:
        self.folder = folder
        self.spec = spec
        self._samples: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        self._scenes = dict.fromkeys(SPLITS, 0)
        self._pixels = {split: np.zeros(256, np.int64) for split in SPLITS}
        for kind in ("img_dir", "ann_dir"):
            for split in SPLITS:
                (folder / kind / split).mkdir(parents=True)

    def add_sample(self, split: str, image_name: str, label_name: str) -> tuple[Path, Path]:
        """Enters a tile into the list of its split and returns where to write its two files."""
        image = self.folder / "img_dir" / split / image_name
        label = self.folder / "ann_dir" / split / label_name
        self._samples[split].append(Sample(image, label))
        return image, label

    def count_scene(self, split: str, label: np.ndarray, name: str) -> None:
        """Counts a scene and the pixels of its ``(H, W)`` uint8 label.

        Raises:
            DataError: When the label holds a value that is neither a class id nor the ignore index.
        """
        counts = np.bincount(label.ravel(), minlength=256)
        strangers = [
            value
            for value in np.flatnonzero(counts)
            if value >= self.spec.num_classes and value != self.spec.ignore_index
        ]
        if strangers:
            raise DataError(
                f"{name} holds label {strangers[0]} ({counts[strangers[0]]} pixels); dataset '{self.spec.name}' allows "
                f"0..{self.spec.num_classes - 1} and {self.spec.ignore_index}."
            )
        self._scenes[split] += 1
        self._pixels[split] += counts

    def add_scene(
        self, split: str, stem: str, image: np.ndarray, label: np.ndarray, *, tile_size: int, overlap: int
    ) -> None:
        """Cuts a scene into tiles and writes them as PNG, the labels with the palette.

        A scene smaller than a tile is padded at the right and the bottom, with 0 in the image and the ignore index in
        the label. Files are named ``{stem}_{y0}_{x0}.png``: the first row, then the first column of the tile.

        Args:
            split: ``"train"`` or ``"val"``.
            stem: Name of the scene.
            image: ``(H, W, C)`` uint8 or uint16.
            label: ``(H, W)`` uint8 class ids.
            tile_size: Side of a tile in pixels.
            overlap: Pixels that neighbouring tiles share.

        Raises:
            DataError: When image and label differ in size, or a label value is not allowed.
        """
        if image.shape[:2] != label.shape:
            raise DataError(
                f"{stem}: the image is {image.shape[0]}x{image.shape[1]} and its mask {label.shape[0]}x"
                f"{label.shape[1]} pixels (rows x columns); they must be equal. Check that they belong together."
            )
        self.count_scene(split, label, stem)
        rows, columns = (max(tile_size - size, 0) for size in label.shape)
        image = np.pad(image, ((0, rows), (0, columns), (0, 0)))
        label = np.pad(label, ((0, rows), (0, columns)), constant_values=self.spec.ignore_index)
        for y0, x0, y1, x1 in windows(label.shape[0], label.shape[1], tile_size, overlap):
            name = f"{stem}_{y0}_{x0}.png"
            image_path, label_path = self.add_sample(split, name, name)
            write_png(image_path, image[y0:y1, x0:x1])
            write_png(label_path, label[y0:y1, x0:x1], self.spec.palette)

    def finish(self, facts: Mapping[str, Any]) -> dict[str, SplitReport]:
        """Writes the lists, ``labels.txt`` and ``dataset.json``.

        Args:
            facts: More entries for ``dataset.json``, such as the tile size.

        Returns:
            The counts of each split.

        Raises:
            DataError: When a split is empty.
        """
        splits: dict[str, SplitReport] = {}
        for split, samples in self._samples.items():
            if not samples:
                raise DataError(
                    f"Dataset '{self.spec.name}' would have no {split} tiles; both splits need some. "
                    "Check that the source is complete."
                )
            samples.sort(key=lambda sample: sample.image)
            write_list(self.folder / f"{split}.txt", samples, self.folder)
            counts = self._pixels[split]
            splits[split] = SplitReport(
                scenes=self._scenes[split],
                tiles=len(samples),
                pixels={name: int(counts[position]) for position, name in enumerate(self.spec.classes)},
                ignored_pixels=int(counts[self.spec.ignore_index]),
            )
        (self.folder / "labels.txt").write_text("".join(f"{name}\n" for name in self.spec.classes), encoding="utf-8")
        content = {
            "written_by": _WRITER,
            "version": rsseg_tf.__version__,
            **dataclasses.asdict(self.spec),
            **facts,
            "splits": {split: dataclasses.asdict(report) for split, report in splits.items()},
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (self.folder / "dataset.json").write_text(text, encoding="utf-8")
        return splits


@contextlib.contextmanager
def staged_output(output: Path) -> Iterator[Path]:
    """Gives an empty folder beside `output` that takes its place when the block ends well.

    On any error the folder is removed and `output` stays as it was.

    Args:
        output: The folder to appear. Parents are made. It may exist if it is empty or a prepared dataset of this
            package with nothing else in it; that is then replaced.

    Yields:
        The folder to fill.

    Raises:
        DataError: When `output` holds anything else, or cannot be written.
    """
    output = Path(os.path.abspath(output))  # a name is needed, which "." has not
    staged = output.with_name(f".{output.name}.{secrets.token_hex(6)}.tmp")
    try:
        _check_replaceable(output)
        staged.mkdir(parents=True)
        yield staged
        _check_replaceable(output)  # once more: minutes may have gone by
        _replace_folder(staged, output)
    except OSError as error:
        raise DataError(
            f"Cannot write {output}: {error.strerror or error}. Check the permissions and the free space."
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def read_dataset_json(path: Path) -> tuple[DatasetSpec, dict[str, Any]]:
    """Reads the ``dataset.json`` of a prepared dataset.

    Returns:
        The spec, and the whole content of the file.

    Raises:
        DataError: When the file is missing, is no such description, or contradicts itself.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist. Prepare the dataset first.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}. Prepare the dataset again.") from error
    if not isinstance(content, dict) or content.get("written_by") != _WRITER:
        raise DataError(f"{path} does not describe a dataset prepared by {_WRITER}. Prepare the dataset again.")
    names = [field.name for field in dataclasses.fields(DatasetSpec)]
    absent = [name for name in names if name not in content]
    if absent:
        raise DataError(f"{path} lacks the entry '{absent[0]}'. Prepare the dataset again.")
    try:
        return custom_spec(**{name: content[name] for name in names}), content
    except TypeError as error:
        raise DataError(f"{path} holds an entry of a wrong type ({error}). Prepare the dataset again.") from error


def _check_replaceable(output: Path) -> None:
    """Raises unless `output` is absent, an empty folder, or a prepared dataset without anything else in it."""
    if not os.path.lexists(output):
        return
    if output.is_symlink() or not output.is_dir():
        raise DataError(f"{output} exists and is not a folder; a new folder is expected. Choose another output.")
    names = {path.name for path in output.iterdir()}
    if not names:
        return
    strangers = sorted(names - _OUR_NAMES)
    if strangers:
        raise DataError(f"{output} holds '{strangers[0]}', which is not ours to replace. Choose another output folder.")
    try:
        read_dataset_json(output / "dataset.json")
    except DataError as error:
        raise DataError(
            f"{output} exists, and nothing shows that {_WRITER} wrote it ({error}) Choose another output folder."
        ) from error


def _replace_folder(staged: Path, output: Path) -> None:
    """Renames `staged` to `output`, an old folder being set aside until that has worked."""
    if not output.exists():
        staged.rename(output)
        return
    old = output.with_name(f".{output.name}.{secrets.token_hex(6)}.old")
    output.rename(old)
    try:
        staged.rename(output)
    except OSError:
        old.rename(output)
        raise
    shutil.rmtree(old)
