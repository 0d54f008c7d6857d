"""Inspects each sample of a list before training: the header of the image, the ids of the label, the range of values.

Pixels of one byte are not decoded, since their range is known; those of other types are. A summary takes a few dozen
bytes, so that a million samples fit into memory, and is remembered for the next start.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray

import rsseg_tf
from rsseg_tf.datasets.rules import check_label_ids, check_same_size, check_type, ids_of, label_of
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError, reason
from rsseg_tf.files.lists import Sample, Samples
from rsseg_tf.files.parallel import in_processes, in_threads
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.images import read_label, require_end
from rsseg_tf.rasters.memory import Memory, Stamps, stamp_pairs
from rsseg_tf.rasters.scenes import Pixels, read_pixels, scene_header

__all__ = [
    "Inspection",
    "ListSummary",
    "SampleKind",
    "SampleSummary",
    "ValueSummary",
    "memory_file",
    "require_fit",
    "share_without_data",
    "summarise",
]

_AT_ONCE = 4096  # pairs of files whose status one thread reads in one go
_CHUNK = 32  # samples that a worker inspects in one go
_WORTH_PROCESSES = 1000  # samples below which starting processes takes longer than they save
_VALUES_OF_AN_IMAGE = 4096  # for its median; sorting all values would take longer than reading them


class SampleKind(NamedTuple):
    """Size, type and ids of a sample; many samples of a list are of the same kind.

    Attributes:
        height: Rows of the image.
        width: Columns.
        bands: Bands.
        dtype: NumPy name of the pixel type.
        label_size: (height, width) of the label; None without one.
        ids: The ids that occur in the label, in order.
        notes: Phrases for the user about how the image is read.
    """

    height: int
    width: int
    bands: int
    dtype: str
    label_size: tuple[int, int] | None
    ids: tuple[int, ...]
    notes: tuple[str, ...] = ()


class ValueSummary(NamedTuple):
    """The range of an image's values; NaN where pixels were not decoded.

    Attributes:
        low: The lowest value that is data.
        high: The highest.
        middle: The median of some of them.
        above: Share of them above `max_value`.
        sentinel: A value that stands for no data although nothing declares it; NaN without one.
        unseen: Share of the pixels whose label is a class where the image has no data, 0..1.
    """

    low: float = math.nan
    high: float = math.nan
    middle: float = math.nan
    above: float = math.nan
    sentinel: float = math.nan
    unseen: float = math.nan


_WIDTH = 1 + len(ValueSummary._fields)  # of a row in the memory: the kind, and the values


class SampleSummary(NamedTuple):
    """The result of the inspection of a sample."""

    kind: SampleKind
    values: ValueSummary


@dataclass(frozen=True)
class ListSummary:
    """The result of the inspection of a list.

    Attributes:
        samples: The samples.
        kinds: Their kinds, each once.
        kind_of: For each sample, its place in `kinds`.
        values: `(N, 6)` float32, the fields of `ValueSummary`.
        images: `(N,)` uint64, equal for paths that lead to one file.
    """

    samples: Sequence[Sample]
    kinds: tuple[SampleKind, ...]
    kind_of: NDArray[np.int64]
    values: NDArray[np.float32]
    images: NDArray[np.uint64]

    @property
    def has_labels(self) -> bool:
        """Whether there are labels."""
        return self.kinds[self.kind_of[0]].label_size is not None

    @property
    def ids(self) -> set[int]:
        """The ids that occur in any label."""
        used = set(np.unique(self.kind_of).tolist())
        return {value for place in used for value in self.kinds[place].ids}

    def notes(self) -> list[str]:
        """Returns notes for the user about how images are read, each with the first image that has the note."""
        found: dict[str, list[int]] = {}  # the first sample, and the number of samples
        for place, first, count in zip(*np.unique(self.kind_of, return_index=True, return_counts=True), strict=True):
            for note in self.kinds[place].notes:
                known = found.setdefault(note, [int(first), 0])
                found[note] = [min(known[0], int(first)), known[1] + int(count)]
        return [
            f"{self.samples[first].image} {note}" + (f" (and {count - 1} more)" if count > 1 else "")
            for note, (first, count) in found.items()
        ]


def summarise(
    sample: Sample, spec: DatasetSpec, *, trust: Trust = TRUSTING_NOBODY, repeat_grey: bool = False
) -> SampleSummary:
    """Inspects one sample.

    Args:
        sample: An image, and its label or None.
        spec: The dataset, which defines the bands of the image and the range of its values.
        trust: Limits for files and for the sources of a VRT.
        repeat_grey: Whether an image of one band may stand for one of three.

    Raises:
        DataError: When a file is missing, damaged, of a kind that cannot be read, or has other bands than the spec.
    """
    try:
        header, notes, may_lack_data = scene_header(sample.image, spec, trust=trust, repeat_grey=repeat_grey)
        label = None if sample.label is None else read_label(sample.label, trust)
        label_size = None if label is None else (label.shape[0], label.shape[1])
        ids = () if label is None else ids_of(label)
        values = ValueSummary()
        # The range of bytes is known, so that their pixels need decoding only where some may be no data.
        if header.dtype != "uint8" or may_lack_data:
            pixels = read_pixels(sample.image, spec, trust=trust, repeat_grey=repeat_grey)
            notes, values = pixels.notes, _values(pixels, label, spec)
        else:
            require_end(sample.image)
        return SampleSummary(
            SampleKind(header.height, header.width, header.bands, header.dtype, label_size, ids, notes), values
        )
    except DataError:
        raise
    except Exception as error:  # a file must not end the check of all others, whatever a decoder makes of it
        raise DataError(f"{sample.image} or its label cannot be read: {reason(error)}. Export it again.") from error


def share_without_data(label: np.ndarray | None, nodata: NDArray[np.bool_] | None, ignore_index: int) -> float:
    """Returns which share of the pixels that a label gives a class lies where the image has no data; 0..1.

    Args:
        label: `(H, W)`; None if there is none.
        nodata: `(H, W)`, True where the image has no data; None if it has data everywhere.
        ignore_index: Label value of pixels that do not count.
    """
    if label is None or nodata is None or label.shape != nodata.shape:
        return 0.0
    labelled = label != ignore_index
    return float(np.count_nonzero(labelled & nodata)) / max(1, int(np.count_nonzero(labelled)))


def _values(pixels: Pixels, label: np.ndarray | None, spec: DatasetSpec) -> ValueSummary:
    """Summarises the pixels of an image that are data, and its label where there are none."""
    flat = pixels.values.reshape(-1) if pixels.nodata is None else pixels.values[~pixels.nodata].reshape(-1)
    values = ValueSummary(
        sentinel=pixels.sentinels[0][0] if pixels.sentinels else math.nan,
        unseen=share_without_data(label, pixels.nodata, spec.ignore_index),
    )
    if not flat.size:
        return values
    some = flat[:: max(1, flat.size // _VALUES_OF_AN_IMAGE)]
    above = np.count_nonzero(flat > spec.max_value) / flat.size
    return values._replace(low=float(flat.min()), high=float(flat.max()), middle=float(np.median(some)), above=above)


def require_fit(sample: Sample, kind: SampleKind, spec: DatasetSpec, first: tuple[Path, str], *, labels: bool) -> None:
    """Raises DataError when a sample does not fit the dataset.

    Args:
        sample: The sample.
        kind: Size, type and ids of the sample.
        spec: The dataset that it should fit.
        first: The first image, and its type.
        labels: Whether it must have a label.
    """
    check_type(sample.image, np.dtype(kind.dtype), first[0], np.dtype(first[1]))
    if labels:
        label = label_of(sample)
        check_same_size(sample, (kind.height, kind.width), kind.label_size or (0, 0))
        check_label_ids(kind.ids, label, spec)


class _Chunks(Sequence[tuple[int, list[Sample]]]):
    """The samples at some places, in parts that are made on access."""

    def __init__(self, samples: Sequence[Sample], places: NDArray[np.int64], size: int) -> None:
        self._samples, self._places, self._size = samples, places, size

    def __len__(self) -> int:
        return -(-len(self._places) // self._size)

    def __getitem__(self, index: int) -> tuple[int, list[Sample]]:  # type: ignore[override]  # slices are not needed
        if index >= len(self):
            raise IndexError(index)
        places = self._places[index * self._size : (index + 1) * self._size]
        return index, [self._samples[place] for place in places.tolist()]


def _summarise_chunk(
    chunk: tuple[int, list[Sample]], spec: DatasetSpec, trust: Trust, repeat_grey: bool
) -> tuple[int, list[SampleSummary | DataError]]:
    def one(sample: Sample) -> SampleSummary | DataError:
        try:
            return summarise(sample, spec, trust=trust, repeat_grey=repeat_grey)
        except DataError as error:
            return DataError(str(error))  # without its cause, which may not travel between processes

    return chunk[0], [one(sample) for sample in chunk[1]]


class Inspection:
    """Inspects the samples of a list, each file once, and remembers the summaries.

    Args:
        samples: The samples of a list or a folder.
        spec: The dataset that they should fit.
        memory: File that keeps the summaries; without it everything is inspected.
        workers: Threads, unless processes are started.
        processes: Processes to start where many samples must be inspected; more than 1 needs a program whose main
            module may be imported.
        labels: Whether each must have a label. If not, an image of one band may stand for one of three.
        trust: Limits for files and for the sources of a VRT.

    Attributes:
        missing: Paths of files that do not exist, each with the position of its sample.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        spec: DatasetSpec,
        *,
        memory: Path | None = None,
        workers: int = 8,
        processes: int = 1,
        labels: bool = True,
        trust: Trust = TRUSTING_NOBODY,
    ) -> None:
        self._trust = trust
        self._samples, self._spec, self._memory, self._labels = samples, spec, memory, labels
        self._workers, self._processes = workers, processes
        self._stamps = _ask_for_files(samples, workers)
        self.missing = self._stamps.missing
        known = Memory.recalled(memory, _WIDTH) if memory is not None else Memory.empty(_WIDTH)
        rows = known.find(self._stamps.pairs, self._stamps.stamps)
        hits = rows >= 0
        self._kinds = {_kind_of_word(word): place for place, word in enumerate(known.words)}
        self._kind_of = np.full(len(samples), -1, np.int64)
        self._values = np.full((len(samples), len(ValueSummary._fields)), np.nan, np.float32)
        self._kind_of[hits] = known.rows[rows[hits], 0].astype(np.int64)
        self._values[hits] = known.rows[rows[hits], 1:]

    def errors(self, progress: Callable[[int, int], None] | None = None) -> Generator[DataError, None, None]:
        """Inspects the samples that are not remembered, and yields errors of single samples in the order of the list.

        A caller that has enough may stop; the summaries that were made until then are remembered.

        Args:
            progress: Called with (samples done, samples in all).
        """
        remembered = self._kind_of >= 0
        fresh = np.flatnonzero(~remembered)
        # A list may name a pair of files in several lines; one line of each pair is inspected.
        _, chosen, group_of = np.unique(self._stamps.pairs[fresh], return_index=True, return_inverse=True)
        order = np.argsort(chosen)
        places = fresh[chosen[order]]  # one of each pair of files, in the order of the list
        done = len(self._samples) - len(places)
        # Whether a remembered sample fits depends on the first image, which perhaps is inspected only now. So the
        # remembered misfits are worked out once it is known (None until then), last first for `pop`.
        misfits: list[tuple[int, DataError]] | None = None
        first = self._first()
        try:
            for place, found in zip(places.tolist(), self._summaries(places), strict=True):
                error = found if isinstance(found, DataError) else None
                if isinstance(found, SampleSummary):
                    first = first or (self._samples[place].image, found.kind.dtype)
                    self._kind_of[place] = self._kinds.setdefault(found.kind, len(self._kinds))
                    self._values[place] = found.values
                    error = self._misfit(place, found.kind, first)
                if misfits is None and first is not None:
                    misfits = self._known_misfits(first, remembered)
                while misfits and misfits[-1][0] < place:
                    yield misfits.pop()[1]
                if error is not None:
                    yield error
                done += 1
                if progress is not None and error is None:
                    progress(done, len(self._samples))
            if misfits is None and first is not None:
                misfits = self._known_misfits(first, remembered)
            yield from (error for _, error in reversed(misfits or ()))
        finally:
            # The summary of a pair of files holds for each line that names the pair.
            leaders = places[np.argsort(order)[group_of]]
            self._kind_of[fresh], self._values[fresh] = self._kind_of[leaders], self._values[leaders]
            self._keep()

    def raise_first(self, progress: Callable[[int, int], None] | None = None) -> ListSummary:
        """Returns the summary of the list if each sample is sound and fits.

        Args:
            progress: Called with (samples done, samples in all).

        Raises:
            DataError: For the first sample in the order of the list that is wrong.
        """
        with contextlib.closing(self.errors(progress)) as errors:
            for error in errors:
                raise error
        return self.summary()

    def raise_count(self, progress: Callable[[int, int], None] | None = None) -> ListSummary:
        """As `raise_first`, but inspects all samples; the error names the first wrong one and counts all."""
        wrong = list(self.errors(progress))
        if wrong:
            raise DataError(
                f"{len(wrong)} of {len(self._samples)} images cannot be used. The first: {wrong[0]} "
                "Mend or remove these files, or leave them out of a list that dataset.train_list names."
            )
        return self.summary()

    def summary(self) -> ListSummary:
        """Returns the summary of the list; call it after `errors` ended without an error."""
        return ListSummary(self._samples, tuple(self._kinds), self._kind_of, self._values, self._stamps.images)

    def _first(self) -> tuple[Path, str] | None:
        """Returns the first image and its type, if it is remembered."""
        if self._kind_of[0] < 0:
            return None
        return self._samples[0].image, tuple(self._kinds)[self._kind_of[0]].dtype

    def _misfit(self, place: int, kind: SampleKind, first: tuple[Path, str]) -> DataError | None:
        try:
            require_fit(self._samples[place], kind, self._spec, first, labels=self._labels)
        except DataError as error:
            return error
        return None

    def _known_misfits(self, first: tuple[Path, str], remembered: NDArray[np.bool_]) -> list[tuple[int, DataError]]:
        """Returns the positions of remembered samples that do not fit, from the last to the first, and why."""
        # One sample of a kind stands for all: a million samples are of a few kinds.
        kinds = tuple(self._kinds)
        wrong: list[tuple[int, DataError]] = []
        for number in np.unique(self._kind_of[remembered]).tolist():
            places = np.flatnonzero(remembered & (self._kind_of == number)).tolist()
            if self._misfit(places[0], kinds[number], first) is not None:
                wrong += [(place, error) for place in places if (error := self._misfit(place, kinds[number], first))]
        return sorted(wrong, key=lambda found: -found[0])

    def _summaries(self, places: NDArray[np.int64]) -> Iterator[SampleSummary | DataError]:
        """Yields summaries of the samples at some positions, in their order."""
        # Small parts for short lists, so that each worker has several and none waits long for the last.
        size = max(1, min(_CHUNK, len(places) // (8 * self._workers)))
        chunks = _Chunks(self._samples, places, size)
        work = functools.partial(_summarise_chunk, spec=self._spec, trust=self._trust, repeat_grey=not self._labels)
        if self._processes <= 1 or len(places) < _WORTH_PROCESSES:
            for _, summaries in in_threads(work, chunks, self._workers):
                yield from summaries
            return
        # Processes answer in any order; parts that come early wait for those before them.
        waiting: dict[int, list[SampleSummary | DataError]] = {}
        upcoming = 0
        for number, summaries in in_processes(work, chunks, self._processes, kept="what was seen is remembered"):
            waiting[number] = summaries
            while upcoming in waiting:
                yield from waiting.pop(upcoming)
                upcoming += 1

    def _keep(self) -> None:
        """Writes the summaries to the memory."""
        if self._memory is None:
            return
        # Files that changed a moment ago have the stamp 0: a second change might keep the time.
        worth = np.flatnonzero((self._kind_of >= 0) & (self._stamps.stamps != 0))
        if not len(worth):
            return
        pairs, first = np.unique(self._stamps.pairs[worth], return_index=True)
        rows = np.column_stack([self._kind_of[worth[first]].astype(np.float32), self._values[worth[first]]])
        Memory(pairs, self._stamps.stamps[worth[first]], rows, tuple(map(json.dumps, self._kinds))).keep(self._memory)


def _kind_of_word(word: str) -> SampleKind:
    height, width, bands, dtype, label_size, ids, notes = json.loads(word)
    size = None if label_size is None else tuple(label_size)
    return SampleKind(height, width, bands, dtype, size, tuple(ids), tuple(notes))


def _ask_for_files(samples: Sequence[Sample], workers: int) -> Stamps:
    """Asks the file system about the files of all samples, in threads, because a share takes long to answer."""
    started = time.time_ns()
    ranges = [(start, min(start + _AT_ONCE, len(samples))) for start in range(0, len(samples), _AT_ONCE)]
    found = list(in_threads(lambda part: stamp_pairs(_paths(samples, *part), started), ranges, workers))
    return Stamps(
        np.concatenate([one.pairs for one in found]),
        np.concatenate([one.stamps for one in found]),
        np.concatenate([one.images for one in found]),
        [(start + place, path) for (start, _), one in zip(ranges, found, strict=True) for place, path in one.missing],
    )


def _paths(samples: Sequence[Sample], start: int, stop: int) -> Sequence[tuple[str, str | None]]:
    if isinstance(samples, Samples):  # without a `Sample` and two `Path`s for each of a million lines
        return samples.paths_of(start, stop)
    return [(str(one.image), None if one.label is None else str(one.label)) for one in samples[start:stop]]


def memory_file(
    folder: Path, list_file: Path, root: Path, spec: DatasetSpec, *, labels: bool, trust: Trust = TRUSTING_NOBODY
) -> Path:
    """Returns the file for the summaries of a list.

    Its name is a digest of everything that the summaries depend on, except the files that the list names.
    """
    # The versions of this package, GDAL and Python are among it: another one may read a file in another way.
    facts = [
        os.path.abspath(list_file), os.path.abspath(root), labels, spec.max_value, spec.ignore_index,
        spec.name, spec.bands, spec.band_names, spec.mean, spec.std, trust.max_bytes, trust.vrt_sources,
        rsseg_tf.__version__, rasterio.__gdal_version__, sys.version_info[:2], sys.maxsize,
    ]  # fmt: skip
    return folder / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.npz"
