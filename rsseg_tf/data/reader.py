"""Reads samples from disk, checks them, and keeps decoded ones in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import numpy as np

from rsseg_tf.datasets import DatasetSpec, Sample, read_label
from rsseg_tf.datasets.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.datasets.images import ImageHeader
from rsseg_tf.datasets.rasters import Pixels, read_pixels, scene_header
from rsseg_tf.datasets.spec import unknown_ids
from rsseg_tf.errors import DataError

__all__ = ["ImageReader", "Notes", "SampleReader", "check_images", "check_label_ids", "check_samples"]


class Notes:
    """What users should know of how images are read, each once with the first image that it is true of.

    Args:
        notify: called with a line at the first image; None to count them for `lines`.
    """

    def __init__(self, notify: Callable[[str], object] | None = None) -> None:
        self._notify = notify
        self._found: dict[str, list[Path]] = {}
        self._lock = threading.Lock()

    def add(self, path: Path, notes: Sequence[str]) -> None:
        """Takes in the notes of an image."""
        for note in notes:
            with self._lock:
                paths = self._found.setdefault(note, [])
                paths.append(path)
            if self._notify is not None and len(paths) == 1:
                self._notify(f"Note: {path} {note}; other images of the same kind are not named.")

    def lines(self) -> list[str]:
        """Returns a line for each note."""
        return [
            f"Note: {paths[0]} {note}" + (f" (and {len(paths) - 1} more)" if len(paths) > 1 else "")
            for note, paths in self._found.items()
        ]


class _Reader:
    """Arrays by index, with a memory for those that were read; safe to call from several threads.

    They are kept first come first served until `cache_mb` is full: training visits all of them equally often, so
    throwing one out to let another in would gain nothing.

    Attributes:
        failure: the first error that a read raised. `tf.data` turns exceptions into its own; this is the original.
        dtype: the images' type on disk, taken from the first one; all must have it.
    """

    # Grey images among RGB ones get three equal bands where this is set.
    _repeats_grey = False

    def __init__(
        self,
        samples: Sequence[Sample],
        spec: DatasetSpec,
        *,
        cache_mb: int = 0,
        trust: Trust = TRUSTING_NOBODY,
        notify: Callable[[str], object] = lambda line: None,
    ) -> None:
        """Takes note of the samples and of the type of the first image.

        Args:
            samples: what the list files name.
            spec: says how many bands there are, which ids, and which values are data.
            cache_mb: MiB of decoded pixels to keep.
            trust: how large images may be, and what a VRT may name.
            notify: called with a line for what a user should know of how images are read.

        Raises:
            DataError: when the first image cannot be opened.
        """
        self.samples = tuple(samples)
        self.spec = spec
        self.trust = trust
        header, _ = scene_header(self.samples[0].image, spec, trust=trust, repeat_grey=self._repeats_grey)
        self.dtype = np.dtype(header.dtype)
        self._notes = Notes(notify)
        self.failure: DataError | None = None
        self._kept: dict[int, tuple[np.ndarray, ...]] = {}
        self._room = cache_mb * 2**20
        self._lock = threading.Lock()

    def _get(self, index: int) -> tuple[np.ndarray, ...]:
        kept = self._kept.get(int(index))
        if kept is not None:
            return kept
        try:
            arrays = self._read(self.samples[index])
        except DataError as error:
            self.failure = self.failure or error
            raise
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if size <= self._room and index not in self._kept:
                self._room -= size
                self._kept[int(index)] = arrays
        return arrays

    def _read(self, sample: Sample) -> tuple[np.ndarray, ...]:
        return (self._pixels(sample.image).values,)

    def _pixels(self, path: Path) -> Pixels:
        pixels = read_pixels(path, self.spec, trust=self.trust, repeat_grey=self._repeats_grey)
        _check_type(path, pixels.values.dtype, self.samples[0].image, self.dtype)
        self._notes.add(path, pixels.notes)
        return pixels


class SampleReader(_Reader):
    """Images with labels by index, checked; see `_Reader` for attributes and memory."""

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns image `(H, W, bands)` in its own type and label `(H, W)` uint8 of sample `index`.

        Where the image has no data (see `Scene.read`), the label is the ignored id: prediction gives it there too.

        Raises:
            DataError: for a file that is missing, truncated, of another size, type or number of bands than it should
                be, or a label with an id that is neither a class nor ignored.
        """
        return cast("tuple[np.ndarray, np.ndarray]", self._get(index))

    def _read(self, sample: Sample) -> tuple[np.ndarray, ...]:
        pixels = self._pixels(sample.image)
        label = _label_of(sample)
        ids = read_label(label, self.trust)
        check_same_size(sample, pixels.values.shape[:2], ids.shape)
        check_label_ids(ids, label, self.spec)
        ids = ids.astype(np.uint8)
        if pixels.nodata is not None:
            ids[pixels.nodata] = self.spec.ignore_index
        return pixels.values, ids


class ImageReader(_Reader):
    """Images without labels by index, checked; see `_Reader` for attributes and memory.

    Grey images among RGB ones, as ImageNet has some, get three equal bands.
    """

    _repeats_grey = True

    def __call__(self, index: int) -> np.ndarray:
        """Returns image `(H, W, bands)` in its own type.

        Raises:
            DataError: for a file that is missing, truncated, or of another type or number of bands than it should be.
        """
        return self._get(index)[0]


def _label_of(sample: Sample) -> Path:
    if sample.label is None:
        raise DataError(f"{sample.image} has no label beside it in the list; write 'image label' on each line.")
    return sample.label


def _check_type(path: Path, dtype: np.dtype, first: Path, first_dtype: np.dtype) -> None:
    if dtype != first_dtype:
        raise DataError(
            f"{path} is {dtype}, but {first} is {first_dtype}; all images of a data set must have one type. "
            "Convert one of them."
        )


def check_same_size(sample: Sample, image_size: Sequence[int], label_size: Sequence[int]) -> None:
    """Raises DataError unless image and label have the same (height, width)."""
    if tuple(image_size) != tuple(label_size):
        raise DataError(
            f"{sample.image} is {image_size[1]}x{image_size[0]} pixels, but its label {sample.label} is "
            f"{label_size[1]}x{label_size[0]}; both must have one size."
        )


def check_label_ids(label: np.ndarray, path: Path, spec: DatasetSpec) -> None:
    """Raises DataError when the label holds an id that is neither a class nor the ignored one."""
    top = int(label.max(initial=0))
    if top < spec.num_classes:
        return
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=top + 1))
    wrong = unknown_ids(present, spec.num_classes, spec.ignore_index)
    if wrong:
        shown = ", ".join(map(str, wrong[:8])) + (", …" if len(wrong) > 8 else "")
        remedy = (
            "0 and 255 alone look like a black-and-white mask: write class ids instead."
            if set(present.tolist()) == {0, 255}
            else "Correct the label, or the class list of the dataset."
        )
        raise DataError(
            f"{path} holds the ids {shown}; the dataset '{spec.name}' allows 0..{spec.num_classes - 1} and "
            f"{spec.ignore_index} (ignored). {remedy}"
        )


def check_images(
    samples: Sequence[Sample],
    spec: DatasetSpec,
    *,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
    trust: Trust = TRUSTING_NOBODY,
) -> list[str]:
    """Looks at the header of every image without a label: can it be read, its bands, its type.

    Args:
        samples: what a list or a folder names.
        spec: how many bands there should be.
        workers: threads.
        progress: called with (images done, images in all).
        trust: how large images may be, and what a VRT may name.

    Returns:
        Lines about how images are read that a user should know.

    Raises:
        DataError: that counts all images that are wrong and says what is wrong with the first of them.
    """
    first: tuple[Path, np.dtype] | None = None
    notes = Notes()

    def header(sample: Sample) -> ImageHeader | DataError:
        try:
            found, noted = scene_header(sample.image, spec, trust=trust, repeat_grey=True)
        except DataError as error:
            return error
        notes.add(sample.image, noted)
        return found

    wrong: list[DataError] = []
    with ThreadPoolExecutor(workers) as pool:
        for done, (sample, found) in enumerate(zip(samples, pool.map(header, samples), strict=True), 1):
            if progress:
                progress(done, len(samples))
            if isinstance(found, DataError):
                wrong.append(found)
                continue
            first = first or (sample.image, np.dtype(found.dtype))
            try:
                _check_type(sample.image, np.dtype(found.dtype), *first)
            except DataError as error:
                wrong.append(error)
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(samples)} images cannot be used. The first: {wrong[0]} "
            "Mend or remove these files, or leave them out of a list that dataset.train_list names."
        )
    return notes.lines()


def check_samples(
    samples: Sequence[Sample],
    spec: DatasetSpec,
    *,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
    trust: Trust = TRUSTING_NOBODY,
) -> list[str]:
    """Looks at every sample before training: image header (bands, type, size) and the ids in its label.

    Args:
        samples: what the list files name.
        spec: what they should be.
        workers: threads.
        progress: called with (samples done, samples in all).
        trust: how large images may be, and what a VRT may name.

    Returns:
        Lines about how images are read that a user should know.

    Raises:
        DataError: for the first sample in list order that is wrong.
    """
    first = samples[0].image
    first_dtype = np.dtype(scene_header(first, spec, trust=trust)[0].dtype)
    notes = Notes()

    def check(sample: Sample) -> None:
        header, noted = scene_header(sample.image, spec, trust=trust)
        notes.add(sample.image, noted)
        _check_type(sample.image, np.dtype(header.dtype), first, first_dtype)
        label = _label_of(sample)
        ids = read_label(label, trust)
        check_same_size(sample, (header.height, header.width), ids.shape)
        check_label_ids(ids, label, spec)

    with ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(check, sample) for sample in samples]
        try:
            for done, future in enumerate(futures, 1):
                future.result()
                if progress:
                    progress(done, len(samples))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return notes.lines()
