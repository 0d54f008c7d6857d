"""Counts a model's predictions against labels: by default exactly as the benchmark does, or by another protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.config import Config
from rsseg_tf.config.schema import CustomDataset, Dataset
from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.datasets.protocols import PROTOCOLS, Protocol
from rsseg_tf.datasets.spec import TILE_NAME_PATTERNS
from rsseg_tf.errors import DataError, naming
from rsseg_tf.evaluate.stitching import Stitcher, TiledScene, find_scenes
from rsseg_tf.files.lists import Sample
from rsseg_tf.files.parallel import in_threads
from rsseg_tf.metrics import SegmentationScores, confusion_matrix, count_ignored
from rsseg_tf.predict import InferenceOptions, Predict, predict_labels, predict_logits
from rsseg_tf.prepare.output import read_description
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust

__all__ = ["Evaluation", "evaluate", "evaluate_stitched", "plan_evaluation"]

_READERS = 4
"""Threads that read samples."""

Observer = Callable[[int, np.ndarray, np.ndarray, np.ndarray], None]
Counts = tuple[NDArray[np.int64], int]
"""Confusion matrix and ignored pixels."""
Total = Callable[[NDArray[np.int64], int], Counts]
"""Turns the counts of a share into those of all shares."""


def _own_counts(confusion: NDArray[np.int64], ignored: int) -> Counts:
    return confusion, ignored


@dataclass(frozen=True)
class Evaluation:
    """Samples, and the protocol by which predictions on them are counted; from `plan_evaluation`.

    Attributes:
        protocol: What is counted.
        spec: Classes, ignored id and statistics.
        samples: Images with labels.
        scenes: The same by the scene that they were cut from; empty where the protocol does not stitch.
        trust: How large images may be, and what a VRT may name.
    """

    protocol: Protocol
    spec: DatasetSpec
    samples: Sequence[Sample]
    scenes: tuple[TiledScene, ...] = ()
    trust: Trust = TRUSTING_NOBODY

    def run(
        self,
        predict: Predict,
        options: InferenceOptions,
        *,
        observe: Observer | None = None,
        total: Total = _own_counts,
    ) -> SegmentationScores:
        """Predicts every sample and counts by the protocol; see `evaluate` and `evaluate_stitched`."""
        more: dict[str, Any] = {"observe": observe, "trust": self.trust, "total": total}
        if self.protocol.stitched:
            scores = evaluate_stitched(predict, self.scenes, self.spec, options, **more)
        else:
            scores = evaluate(predict, self.samples, self.spec, options, **more)
        return dataclasses.replace(scores, left_out=self.protocol.left_out)

    def share(self, index: int, count: int) -> Evaluation:
        """Returns the part of one of several workers; the counts of all parts add up to those of the whole.

        Every `count`-th sample belongs to it, where the protocol stitches every `count`-th scene. It may be empty.
        `samples` stay whole where the protocol stitches, since the tiles of scenes name their places among them.

        Args:
            index: Place of the worker, 0..count-1.
            count: Workers in all.
        """
        if self.protocol.stitched:
            return dataclasses.replace(self, scenes=self.scenes[index::count])
        return dataclasses.replace(self, samples=self.samples[index::count])

    @property
    def places(self) -> list[int]:
        """What `observe` is called with as index, in order."""
        tiles = [tile.index for scene in self.scenes for tile in scene.tiles]
        return tiles if self.protocol.stitched else list(range(len(self.samples)))

    def read_once(self) -> None:
        """Reads every sample, as an evaluation does, so that a damaged one is known before hours of training.

        Raises:
            DataError: For a file that is unreadable or does not fit the dataset.
        """
        for _ in _pairs(self.samples, self.spec, self.trust):
            pass

    @property
    def summary(self) -> str:
        """The protocol in a few words, for log lines: `isprs5 (14 scenes, means without clutter)`."""
        details = [f"{len(self.scenes)} scene{'s' if len(self.scenes) != 1 else ''}"] if self.protocol.stitched else []
        details += [f"means without {', '.join(self.protocol.left_out)}"] if self.protocol.left_out else []
        return f"{self.protocol.name} ({', '.join(details)})" if details else self.protocol.name

    def to_json(self) -> dict[str, Any]:
        """Returns the protocol as plain values for reports.

        `tile_pixels`, those of all tiles, are more than the pixels that were counted and ignored by what tiles share.
        Where the protocol does not stitch, nothing is known of scenes, and both numbers are None.
        """
        windows = [tile.window for scene in self.scenes for tile in scene.tiles]
        pixels = sum((window.y1 - window.y0) * (window.x1 - window.x0) for window in windows)
        stitched = self.protocol.stitched
        return {
            "name": self.protocol.name,
            "description": self.protocol.description,
            "stitched": stitched,
            "left_out": list(self.protocol.left_out),
            "tiles": len(self.samples),
            "scenes": len(self.scenes) if stitched else None,
            "tile_pixels": pixels if stitched else None,
        }


def plan_evaluation(config: Config, samples: Sequence[Sample]) -> Evaluation:
    """Makes ready to count by the protocol that a config names, and finds out whether that is possible.

    Args:
        config: Its `eval.protocol` and `dataset` count. Of the folder `dataset.root`, `dataset.json` may be read.
        samples: What to evaluate on, of that dataset.

    Raises:
        DataError: Where the protocol stitches, when the naming of tiles is unknown or an image is named otherwise;
            when the dataset was prepared with other labels than the protocol wants.
    """
    protocol, dataset = PROTOCOLS[config.eval.protocol], config.dataset
    if protocol.labels is not None:
        _require_labels(protocol, protocol.labels, dataset)
    trust = config.data.trust
    scenes = find_scenes(samples, _tile_names(protocol, dataset), trust=trust) if protocol.stitched else ()
    return Evaluation(protocol, dataset.spec, samples, scenes, trust)


def evaluate(
    predict: Predict,
    samples: Sequence[Sample],
    spec: DatasetSpec,
    options: InferenceOptions,
    *,
    observe: Observer | None = None,
    trust: Trust = TRUSTING_NOBODY,
    total: Total = _own_counts,
) -> SegmentationScores:
    """Predicts every sample at its own size and counts the pixels: protocol `benchmark`.

    Args:
        predict: The model, see `Predict`.
        samples: Images with labels.
        spec: Classes, ignored id and statistics.
        options: Scales, flips and sliding windows.
        observe: Called with (index, image, label, prediction) after each sample; image in its own type. Where the
            image has no data, the label is the ignored id.
        trust: How large images may be, and what a VRT may name.
        total: Called once at the end, with what was counted here; returns what is scored.

    Raises:
        DataError: For a file that is unreadable or does not fit the dataset.
    """
    counts = np.zeros((spec.num_classes, spec.num_classes), np.int64)
    ignored = 0
    for index, (image, label) in enumerate(_pairs(samples, spec, trust)):
        with naming(samples[index].image, samples[index].label):
            prediction = predict_labels(predict, image, spec, options)
            counts += confusion_matrix(label, prediction, spec.num_classes, spec.ignore_index)
            ignored += count_ignored(label, spec.ignore_index)
        if observe:
            observe(index, image, label, prediction)
    counts, ignored = total(counts, ignored)
    return SegmentationScores(counts, spec.classes, ignored)


def evaluate_stitched(
    predict: Predict,
    scenes: Sequence[TiledScene],
    spec: DatasetSpec,
    options: InferenceOptions,
    *,
    observe: Observer | None = None,
    trust: Trust = TRUSTING_NOBODY,
    total: Total = _own_counts,
) -> SegmentationScores:
    """Predicts every tile, puts the logits of each scene back together and counts its pixels once: protocol `stitched`.

    Pixels that no tile covers are not counted. Padding, which `rsseg-tf prepare` labels with the ignored id, counts as
    ignored.

    Args:
        predict: As in `evaluate`.
        scenes: As `find_scenes` gives them.
        spec: As in `evaluate`.
        options: How each tile is predicted.
        observe: As in `evaluate`, called after each tile, scene by scene; index is the tile's, and the prediction is
            the tile's own, which differs from what is counted where other tiles overlap it.
        trust: As in `evaluate`.
        total: As in `evaluate`.

    Raises:
        DataError: As `evaluate`; when labels of overlapping tiles differ.
    """
    counts = np.zeros((spec.num_classes, spec.num_classes), np.int64)
    ignored = 0
    samples = [tile.sample for scene in scenes for tile in scene.tiles]
    pairs = _pairs(samples, spec, trust)
    for scene in scenes:
        stitcher = Stitcher(scene)
        for tile in scene.tiles:
            image, label = next(pairs)
            with naming(tile.sample.image, tile.sample.label):
                logits = predict_logits(predict, image, spec, options)
                for part, prediction in stitcher.add(tile, logits, label):
                    counts += confusion_matrix(part, prediction, spec.num_classes, spec.ignore_index)
                    ignored += count_ignored(part, spec.ignore_index)
            if observe:
                observe(tile.index, image, label, logits.argmax(axis=-1).astype(np.uint8))
    counts, ignored = total(counts, ignored)
    return SegmentationScores(counts, spec.classes, ignored)


def _pairs(samples: Sequence[Sample], spec: DatasetSpec, trust: Trust) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields image and label of all samples in order, while threads read the next ones; errors name the files."""
    if not samples:  # the share of a worker may be empty
        return iter(())
    reader = SampleReader(samples, spec, trust=trust)

    def read(index: int) -> tuple[np.ndarray, np.ndarray]:
        with naming(samples[index].image, samples[index].label):
            return reader(index)

    return in_threads(read, range(len(samples)), _READERS)


def _description(dataset: Dataset) -> dict[str, Any] | None:
    """Returns the `dataset.json` of a prepared dataset; None where there is no such file."""
    path = Path(dataset.root) / "dataset.json"
    return read_description(path) if path.exists() else None


def _require_labels(protocol: Protocol, wanted: str, dataset: Dataset) -> None:
    """Raises `DataError` unless the dataset was prepared with the labels that the protocol wants."""
    description = _description(dataset)
    path = Path(dataset.root) / "dataset.json"
    remedy = f"Prepare it with rsseg-tf prepare {dataset.name} SOURCE --labels {wanted} -o FOLDER (dataset.root)."
    if description is None:
        raise DataError(
            f"protocol {protocol.name} is for {wanted} labels; whether {dataset.root} has them is not known, because "
            f"there is no {path}. {remedy}"
        )
    if description.get("name") != dataset.name or description.get("labels") != wanted:
        raise DataError(
            f"protocol {protocol.name} is for {wanted} labels of {dataset.name}; according to {path} the folder has "
            f"{description.get('labels', 'unknown')} labels of {description.get('name', 'unknown')}. {remedy}"
        )


def _tile_names(protocol: Protocol, dataset: Dataset) -> str:
    """Returns the pattern of the tiles' names: from the config, the prepared folder, or the kind of dataset."""
    if isinstance(dataset, CustomDataset) and dataset.tile_names is not None:
        return dataset.tile_names
    description = _description(dataset) or {}
    pattern = description.get("tile_names", dataset.spec.tile_names)
    if pattern in TILE_NAME_PATTERNS:
        return str(pattern)
    known = f"{dataset.root} has no dataset.json with tile_names" if pattern is None else f"tile_names is {pattern!r}"
    remedy = "Choose" if not isinstance(dataset, CustomDataset) else "Set dataset.tile_names to one of them, or choose"
    raise DataError(
        f"protocol {protocol.name} puts images back into scenes by their names, and nothing says how those of the "
        f"dataset '{dataset.name}' are named ({known}); there are the patterns {', '.join(TILE_NAME_PATTERNS)}. "
        f"{remedy} protocol benchmark, which counts each pixel once if the images are whole scenes."
    )
