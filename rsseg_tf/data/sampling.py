"""Which crops are drawn: a share of them holds given or rare classes, and none holds ignored pixels alone.

Without this, each sample is cropped at a random place, as in PaddleSeg. What is drawn here is still a pure function of
the seed and the position in the stream: places of the classes are looked up once, when a run begins.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.config.schema import RARE, Sampling
from rsseg_tf.data.augment import Augmentation, Draw, draw_changes, uniform_numbers
from rsseg_tf.data.geometry import scaled_size, turn_of
from rsseg_tf.data.reader import SampleReader
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.files.parallel import in_threads

__all__ = ["CropSampler", "Crops", "look_for_classes", "rare_classes"]

Labels = NDArray[np.uint8]

_TRIES = 10  # crops that are drawn at most for one sample
_PLACES = 8  # pixels that are remembered of each class in each label
_TRIAL_CROPS = 8000  # crops from which the natural share of a class is counted: at most 0.6 points of standard error
_TRIAL_SEED = 2**32  # above all seeds of runs, so that trials are none of a run's crops
# Uses of the spare numbers of a draw, see `augment.draw_changes`.
_CLASS, _SAMPLE, _PLACE = 24, 25, 26
# Multiples of the golden ratio, as a part of 2 ** 64, fill the circle most evenly; and another start for each seed.
_GOLDEN, _SPREAD = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03


class _Found(NamedTuple):
    """What a look at one label found.

    Attributes:
        counts: `(classes,)` int64, pixels of each class.
        places: Of each class that is there and may be wanted, `(8,)` uint32 pixels, counted row by row.
        held: `(crops, classes)` bool, the classes in trial crops.
    """

    counts: NDArray[np.int64]
    places: dict[int, NDArray[np.uint32]]
    held: NDArray[np.bool_]


class Crops:
    """Draws crops of samples, again where one has nothing but ignored pixels and the config asks for it."""

    def __init__(self, changes: Augmentation, sampling: Sampling) -> None:
        """Prepares the draws.

        Args:
            changes: The changes of samples.
            sampling: Which crops are wanted.
        """
        self.changes, self.sampling = changes, sampling

    def draw(
        self, label: Labels, seed: int, position: int, target: tuple[int, NDArray[np.uint32]] | None = None
    ) -> tuple[Draw, Labels]:
        """Draws the changes of a sample.

        Args:
            label: `(H, W)` ids of the sample.
            seed: Seed of the run.
            position: Position in the stream of samples.
            target: A class that the crop is to hold, and pixels of it, counted row by row.

        Returns:
            The draw, and the label that it gives.
        """
        numbers = uniform_numbers(seed, position)
        for _ in range(_TRIES):
            now = next(numbers)
            draw = draw_changes(self.changes.augment, now)
            if target is not None:
                pixel = divmod(int(target[1][int(now[_PLACE] * len(target[1]))]), label.shape[1])
                draw = dataclasses.replace(draw, place=self._place_with(pixel, label.shape, draw))
            ids = self.changes.label(label, draw)
            if target is not None:
                # The pixel may be left out when a label shrinks, or be turned out of the crop.
                if (ids == target[0]).any():
                    break
            elif not self.sampling.redraw_ignored or (ids != self.changes.ignore_index).any():
                break
        return draw, ids

    def _place_with(self, pixel: tuple[int, int], size: tuple[int, ...], draw: Draw) -> tuple[float, float]:
        """Returns a place of the crop that holds a pixel: the drawn one, of all that do."""
        places = []
        whole_size = scaled_size((size[0], size[1]), draw.factor)
        found = [
            min(int((at + 0.5) * whole / stored), whole - 1)
            for at, stored, whole in zip(pixel, size, whole_size, strict=True)
        ]
        if self.changes.augment.rotate_whole and draw.degrees is not None:
            matrix, whole_size = turn_of(whole_size, draw.degrees)
            x, y = matrix @ (found[1], found[0], 1.0)
            found = [min(max(round(at), 0), whole - 1) for at, whole in zip((y, x), whole_size, strict=True)]
        for there, whole, side, drawn in zip(found, whole_size, self.changes.augment.crop, draw.place, strict=True):
            last = max(whole - side, 0)
            low, high = max(there - side + 1, 0), min(there, last)
            places.append((low + int(drawn * (high - low + 1)) + 0.5) / (last + 1))
        return places[0], places[1]


@dataclasses.dataclass(frozen=True)
class CropSampler:
    """Chooses samples and classes, so that a share of all crops holds one of the wanted classes.

    Attributes:
        classes: The ids that are wanted.
        natural: The share of crops that hold one of them without any help.
        chance: The share of crops that are placed on one of them.
        holders: For each class the samples that hold it, by their places in the list.
        places: For each class `(samples, 8)` pixels of it in these samples, counted row by row.
        summary: What was found, in a line.
    """

    classes: tuple[int, ...]
    natural: float
    chance: float
    holders: tuple[NDArray[np.int64], ...]
    places: tuple[NDArray[np.uint32], ...]
    summary: str

    def choose(self, seed: int, position: int, index: int) -> tuple[int, tuple[int, NDArray[np.uint32]] | None]:
        """Chooses the sample of a position and what its crop is to hold.

        Args:
            seed: Seed of the run.
            position: Position in the stream of samples.
            index: The sample that is due at this position.

        Returns:
            The sample, which is another one where the due one does not hold the chosen class, and the class with
            pixels of it; None for the latter where the crop lies anywhere.
        """
        # Evenly spread over the stream instead of by lot, so that each batch has nearly its share.
        if (int(position) * _GOLDEN + seed * _SPREAD) % 2**64 >= self.chance * 2**64:
            return index, None
        numbers = next(uniform_numbers(seed, position))
        number = int(numbers[_CLASS] * len(self.classes))
        holders = self.holders[number]
        row = int(np.searchsorted(holders, index))
        if row == len(holders) or holders[row] != index:
            row = int(numbers[_SAMPLE] * len(holders))
        return int(holders[row]), (self.classes[number], self.places[number][row])


def look_for_classes(
    reader: SampleReader,
    crops: Crops,
    seed: int,
    *,
    workers: int | None = None,
    notify: Callable[[str], object] = lambda line: None,
) -> CropSampler | None:
    """Reads all labels once and prepares the choice of crops.

    Of each class in each label eight pixels are remembered, 32 bytes. The natural share is counted in 8000 trial
    crops, or in one of each sample if there are more.

    Args:
        reader: The samples.
        crops: Draws crops, and knows what is wanted.
        seed: Seed of the run.
        workers: Labels read at once; None for one per processor.
        notify: Called with a line about what was found.

    Returns:
        The choice; None where no classes are wanted.

    Raises:
        DataError: When a label is damaged, a wanted class is nowhere, or no class is rare.
    """
    sampling, spec, count = crops.sampling, reader.spec, len(reader.samples)
    if not sampling.classes:
        return None
    trials = -(-_TRIAL_CROPS // count)

    def look(index: int) -> _Found:
        return _look(reader.label(index), crops, spec, range(index * trials, (index + 1) * trials), seed)

    counts, held = np.zeros(spec.num_classes, np.int64), []
    found: list[dict[int, NDArray[np.uint32]]] = []
    for one in in_threads(look, range(count), workers or os.cpu_count() or 1):
        counts += one.counts
        held.append(np.packbits(one.held, axis=1))
        found.append(one.places)
    classes = wanted_classes(sampling, spec, counts)
    all_held = np.unpackbits(np.concatenate(held), axis=1, count=spec.num_classes)
    natural = float(all_held[:, list(classes)].any(axis=1).mean())
    chance = max(sampling.wish - natural, 0.0) / (1.0 - natural) if natural < 1 else 0.0
    holders = tuple(np.array([i for i, one in enumerate(found) if number in one], np.int64) for number in classes)
    sampler = CropSampler(
        classes,
        natural,
        chance,
        holders,
        tuple(np.stack([found[i][number] for i in rows]) for number, rows in zip(classes, holders, strict=True)),
        _summary(_names(classes, spec), sampling.wish, natural, chance),
    )
    notify(sampler.summary)
    return sampler


def _summary(names: str, share: float, natural: float, chance: float) -> str:
    wish = f"{100 * share:.1f} % are wanted; {100 * chance:.1f} % are placed on them"
    return (
        f"Sampling: {100 * natural:.1f} % of crops hold {names} by chance; "
        + (wish if chance else f"{100 * share:.1f} % are wanted, so none is placed")
        + "."
    )


def _look(label: Labels, crops: Crops, spec: DatasetSpec, trials: Sequence[int], seed: int) -> _Found:
    """Looks at one label; `trials` are the positions of its trial crops."""
    counts = np.bincount(label.ravel(), minlength=256)[: spec.num_classes].astype(np.int64)
    wanted, numbers = crops.sampling.classes, uniform_numbers(_TRIAL_SEED + seed, trials[0])
    places: dict[int, NDArray[np.uint32]] = {}
    for number in np.flatnonzero(counts).tolist():
        if wanted == RARE or spec.classes[number] in wanted:
            pixels = np.flatnonzero(label == number).astype(np.uint32)
            places[number] = pixels[(next(numbers)[-_PLACES:] * len(pixels)).astype(np.int64)]
    held = np.zeros((len(trials), spec.num_classes), np.bool_)
    for row, position in zip(held, trials, strict=True):
        _, ids = crops.draw(label, _TRIAL_SEED + seed, position)
        row[...] = np.bincount(ids.ravel(), minlength=256)[: spec.num_classes] > 0
    return _Found(counts, places, held)


def wanted_classes(sampling: Sampling, spec: DatasetSpec, counts: NDArray[np.int64]) -> tuple[int, ...]:
    """Returns the ids of the classes that crops are to hold, of those that are there.

    Args:
        sampling: Names the classes, or asks for rare ones.
        spec: The dataset.
        counts: Pixels of each class in all labels.

    Raises:
        DataError: When a named class is nowhere, or no class is rare.
    """
    if sampling.classes == RARE:
        return rare_classes(spec, counts)
    classes = tuple(spec.classes.index(name) for name in sampling.classes)
    absent = [number for number in classes if not counts[number]]
    if absent:
        raise DataError(
            f"sampling.classes names {_names(absent, spec)}, but no label of the training samples holds "
            f"{'it' if len(absent) == 1 else 'them'}. Remove {'it' if len(absent) == 1 else 'them'} there."
        )
    return classes


def rare_classes(spec: DatasetSpec, counts: NDArray[np.int64]) -> tuple[int, ...]:
    """Returns the classes with less than half of the pixels that they had if all classes were equally frequent.

    Args:
        spec: The dataset.
        counts: Pixels of each class; classes without any are left out.

    Raises:
        DataError: When there is none.
    """
    limit = counts.sum() / spec.num_classes / 2
    rare = tuple(int(number) for number in np.flatnonzero((counts > 0) & (counts < limit)))
    if not rare:
        raise DataError(
            f"sampling.classes is {RARE}, but no class of '{spec.name}' has less than half of an equal share of the "
            f"pixels ({50 / spec.num_classes:.1f} %). Name the classes, or remove sampling."
        )
    return rare


def _names(classes: Sequence[int], spec: DatasetSpec) -> str:
    return ", ".join(spec.classes[number] for number in classes)
