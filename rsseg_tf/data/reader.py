"""Reads samples from disk, checks them, and keeps decoded ones in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from rsseg_tf.datasets import DatasetSpec, Sample, read_image, read_label
from rsseg_tf.datasets.images import image_header
from rsseg_tf.datasets.spec import unknown_ids
from rsseg_tf.errors import DataError

__all__ = ["SampleReader", "check_label_ids", "check_samples"]


class SampleReader:
    """Samples by index, checked, with a memory for decoded ones; safe to call from several threads.

    Samples are kept first come first served until `cache_mb` is full: training visits all of them equally often, so
    throwing one out to let another in would gain nothing.

    Attributes:
        failure: the first error that a read raised. `tf.data` turns exceptions into its own; this is the original.
        dtype: the images' type on disk, taken from the first one; all must have it.
    """

    def __init__(self, samples: Sequence[Sample], spec: DatasetSpec, *, cache_mb: int = 0) -> None:
        """Takes note of the samples and of the type of the first image.

        Args:
            samples: images with labels.
            spec: says how many bands, which ids and which ignored id there may be.
            cache_mb: MiB of decoded pixels to keep.

        Raises:
            DataError: when the first image cannot be opened.
        """
        self.samples = tuple(samples)
        self.spec = spec
        self.dtype = np.dtype(image_header(self.samples[0].image).dtype)
        self.failure: DataError | None = None
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._room = cache_mb * 2**20
        self._lock = threading.Lock()

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns image `(H, W, bands)` in its own type and label `(H, W)` uint8 of sample `index`.

        Raises:
            DataError: for a file that is missing, truncated, of another size, type or number of bands than it should
                be, or a label with an id that is neither a class nor ignored.
        """
        kept = self._kept.get(int(index))
        if kept is not None:
            return kept
        try:
            pair = self._read(self.samples[index])
        except DataError as error:
            self.failure = self.failure or error
            raise
        size = pair[0].nbytes + pair[1].nbytes
        with self._lock:
            if size <= self._room and index not in self._kept:
                self._room -= size
                self._kept[int(index)] = pair
        return pair

    def _read(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        image = read_image(sample.image)
        _check_bands(sample.image, image.shape[2], self.spec)
        _check_type(sample.image, image.dtype, self.samples[0].image, self.dtype)
        if not np.issubdtype(image.dtype, np.integer) and not np.isfinite(image).all():
            raise DataError(f"{sample.image} holds NaN or infinite pixels; replace them with a number before training.")
        label = _label_of(sample)
        ids = read_label(label)
        check_same_size(sample, image.shape[:2], ids.shape)
        check_label_ids(ids, label, self.spec)
        return image, ids.astype(np.uint8)


def _label_of(sample: Sample) -> Path:
    if sample.label is None:
        raise DataError(f"{sample.image} has no label beside it in the list; write 'image label' on each line.")
    return sample.label


def _check_bands(path: Path, bands: int, spec: DatasetSpec) -> None:
    if bands != spec.bands:
        raise DataError(
            f"{path} has {bands} bands, but the dataset '{spec.name}' has {spec.bands}. "
            "Set dataset.bands (name: custom), or write images with those bands alone."
        )


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


def check_samples(
    samples: Sequence[Sample],
    spec: DatasetSpec,
    *,
    workers: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Looks at every sample before training: image header (bands, type, size) and the ids in its label.

    Args:
        samples: what the list files name.
        spec: what they should be.
        workers: threads.
        progress: called with (samples done, samples in all).

    Raises:
        DataError: for the first sample in list order that is wrong.
    """
    first = samples[0].image
    first_dtype = np.dtype(image_header(first).dtype)

    def check(sample: Sample) -> None:
        header = image_header(sample.image)
        _check_bands(sample.image, header.bands, spec)
        _check_type(sample.image, np.dtype(header.dtype), first, first_dtype)
        label = _label_of(sample)
        ids = read_label(label)
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
