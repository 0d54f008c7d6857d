"""Reads samples from disk, checks them, and keeps decoded ones in memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.datasets.rules import check_label_ids, check_same_size, check_type, ids_of, label_of
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample, Samples
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.images import read_label
from rsseg_tf.rasters.scenes import Pixels, read_pixels, scene_header

__all__ = ["ImageReader", "SampleReader"]


class _Reader:
    """Reads arrays by index and keeps decoded ones in memory; several threads may call it.

    The first arrays that fit into `cache_mb` stay. Training visits all samples equally often, so that evicting one for
    another would gain nothing.

    Attributes:
        failure: The first error that a read raised. `tf.data` raises errors of its own in its place.
        dtype: The images' type on disk, taken from the first one; all must have it.
    """

    # Whether grey images among RGB ones get three equal bands.
    _repeats_grey = False

    def __init__(
        self,
        samples: Sequence[Sample],
        spec: DatasetSpec,
        *,
        cache_mb: int = 0,
        trust: Trust = TRUSTING_NOBODY,
    ) -> None:
        """Reads the type of the first image.

        Args:
            samples: The samples.
            spec: Number of bands, allowed ids, and the values that are data.
            cache_mb: MiB of decoded pixels to keep.
            trust: How large images may be, and what a VRT may name.

        Raises:
            DataError: When the first image cannot be opened.
        """
        self.samples = samples if isinstance(samples, Samples) else tuple(samples)
        self.spec = spec
        self.trust = trust
        header = scene_header(self.samples[0].image, spec, trust=trust, repeat_grey=self._repeats_grey).read
        self.dtype = np.dtype(header.dtype)
        self.failure: DataError | None = None
        self._cache: dict[int, tuple[np.ndarray, ...]] = {}
        self._free_bytes = cache_mb * 2**20
        self._lock = threading.Lock()

    def _get(self, index: int) -> tuple[np.ndarray, ...]:
        cached = self._cache.get(int(index))
        if cached is not None:
            return cached
        try:
            arrays = self._read(self.samples[index])
        except DataError as error:
            # The first failure is the one that ends the run; threads that read ahead may meet others after it.
            self.failure = self.failure or error
            raise
        size = sum(array.nbytes for array in arrays)
        with self._lock:  # two threads may have read the same sample; it counts once
            if size <= self._free_bytes and index not in self._cache:
                self._free_bytes -= size
                self._cache[int(index)] = arrays
        return arrays

    def _read(self, sample: Sample) -> tuple[np.ndarray, ...]:
        return (self._pixels(sample.image).values,)

    def _pixels(self, path: Path) -> Pixels:
        pixels = read_pixels(path, self.spec, trust=self.trust, repeat_grey=self._repeats_grey)
        check_type(path, pixels.values.dtype, self.samples[0].image, self.dtype)
        return pixels


class SampleReader(_Reader):
    """Images with labels by index, checked; see `_Reader` for attributes and memory."""

    def __call__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns image `(H, W, bands)` in its own type and label `(H, W)` uint8 of sample `index`.

        Where the image has no data (see `Scene.read`), the label is the ignored id, as in predictions; not so where
        the spec's `ignore_nodata` is off.

        Raises:
            DataError: For a file that is missing, truncated, of another size, type or number of bands than it should
                be, or a label with an id that is neither a class nor ignored.
        """
        return cast("tuple[np.ndarray, np.ndarray]", self._get(index))

    def label(self, index: int) -> np.ndarray:
        """Returns the label `(H, W)` uint8 of sample `index` as stored, without looking at its image.

        Raises:
            DataError: As when the sample is read.
        """
        return self._ids(self.samples[index])

    def _ids(self, sample: Sample) -> np.ndarray:
        label = label_of(sample)
        ids = read_label(label, self.trust)
        check_label_ids(ids_of(ids), label, self.spec)
        return ids.astype(np.uint8)

    def _read(self, sample: Sample) -> tuple[np.ndarray, ...]:
        pixels, ids = self._pixels(sample.image), self._ids(sample)
        check_same_size(sample, pixels.values.shape[:2], ids.shape)
        # Padding at the border of a scene is often labelled as some class, which must not be learnt.
        if self.spec.ignore_nodata and pixels.nodata is not None:
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
            DataError: For a file that is missing, truncated, or of another type or number of bands than it should be.
        """
        return self._get(index)[0]
