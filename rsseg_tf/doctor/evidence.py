"""Facts about each distinct sample of a dataset, and the splits that contain the sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rsseg_tf.doctor.dataset import CheckedDataset, shown
from rsseg_tf.doctor.samples import SampleFacts
from rsseg_tf.files.lists import Sample

__all__ = ["Evidence", "distinct_samples"]


@dataclass(frozen=True)
class Evidence:
    """Facts about the samples of a dataset.

    Attributes:
        dataset: The dataset that was checked.
        samples: Each distinct pair of image and label, in the order in which the splits name them.
        facts: Facts about each.
        members: Positions in `samples` by split; a sample that the list repeats is repeated here.
    """

    dataset: CheckedDataset
    samples: tuple[Sample, ...]
    facts: tuple[SampleFacts, ...]
    members: Mapping[str, tuple[int, ...]]

    @cached_property
    def _splits(self) -> tuple[tuple[str, ...], ...]:
        found: list[list[str]] = [[] for _ in self.samples]
        for split, positions in self.members.items():
            for position in dict.fromkeys(positions):  # a repeated sample is in its split once
                found[position].append(split)
        return tuple(tuple(splits) for splits in found)

    def splits_of(self, positions: Iterable[int]) -> tuple[str, ...]:
        """Returns the splits that contain any of the samples, in the order of the dataset."""
        present = {split for position in positions for split in self._splits[position]}
        return tuple(split for split in self.members if split in present)

    def name(self, path: Path) -> str:
        """Returns the name of a file in findings."""
        return shown(path, self.dataset.root)

    def image_names(self, positions: Iterable[int]) -> tuple[str, ...]:
        """Returns the names of the images of samples, each once."""
        return tuple(dict.fromkeys(self.name(self.samples[position].image) for position in positions))


def distinct_samples(dataset: CheckedDataset) -> tuple[tuple[Sample, ...], dict[str, tuple[int, ...]]]:
    """Returns each distinct sample of a dataset once, and the positions of each split's samples among them."""
    positions: dict[Sample, int] = {}
    members = {
        split.name: tuple(positions.setdefault(sample, len(positions)) for sample in split.samples)
        for split in dataset.splits
    }
    return tuple(positions), members
