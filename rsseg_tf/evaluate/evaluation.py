"""Counts a model's predictions against labels: by default exactly as the benchmark does, or by another protocol."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
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
from rsseg_tf.errors import DataError, NotFiniteError, RssegError, naming
from rsseg_tf.evaluate.stitching import Stitcher, TiledScene, find_scenes
from rsseg_tf.files.lists import Sample
from rsseg_tf.files.parallel import ahead, in_threads
from rsseg_tf.metrics import SegmentationScores, confusion_matrix, count_ignored
from rsseg_tf.predict import InferenceOptions, Predict
from rsseg_tf.predict.decoding import largest_class
from rsseg_tf.predict.engine import predict_many_labels, predict_many_logits, predict_parts
from rsseg_tf.predict.model import device_count
from rsseg_tf.prepare.output import read_description
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust

__all__ = ["Evaluation", "evaluate", "evaluate_stitched", "plan_evaluation"]

_READERS = 4
"""Threads that read samples, unless told otherwise."""

Observer = Callable[[int, np.ndarray, np.ndarray, np.ndarray], None]
Look = Callable[[np.ndarray, np.ndarray], None]
"""Takes labels `(rows, columns)` uint8 and logits `(rows, columns, classes)` float32 of a part of a sample, which are
valid until it returns."""
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
        workers: int | None = None,
        total: Total = _own_counts,
        look: Look | None = None,
    ) -> SegmentationScores:
        """Predicts every sample and counts by the protocol; see `evaluate` and `evaluate_stitched`."""
        how: dict[str, Any] = {"observe": observe, "workers": workers, "total": total, "look": look}
        how["trust"] = self.trust
        if self.protocol.stitched:
            scores = evaluate_stitched(predict, self.scenes, self.spec, options, **how)
        else:
            scores = evaluate(predict, self.samples, self.spec, options, **how)
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
        for _ in _read(self.samples, self.spec, self.trust):
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
    workers: int | None = None,
    total: Total = _own_counts,
    look: Look | None = None,
) -> SegmentationScores:
    """Predicts every sample at its own size and counts the pixels: protocol `benchmark`.

    Samples are read, predicted and counted at the same time, each in threads of its own. Neighbours of one size go to
    the model together.

    Args:
        predict: The model, see `Predict`. Of a `LabelModel` logits are fetched only where some must be blended.
        samples: Images with labels.
        spec: Classes, ignored id and statistics.
        options: Scales, flips and sliding windows; the batch size is that of each of the model's devices.
        observe: Called with (index, image, label, prediction) after each sample; image in its own type. Where the
            image has no data, the label is the ignored id.
        trust: How large images may be, and what a VRT may name.
        workers: Threads that read samples; None for a few.
        total: Called once at the end, with what was counted here; returns what is scored.
        look: Called with the logits of each part of each sample, before the observer, in another thread. The model is
            then asked for logits, from which the same labels follow.

    Raises:
        DataError: For a file that is unreadable or does not fit the dataset.
    """
    options = _for_all_devices(options, predict)

    def answer(images: list[np.ndarray], group: list[_Read]) -> list[np.ndarray]:
        return _labels(predict, images, group, spec, options, look)

    def counted(predicted: Iterator[_Predicted]) -> Iterator[_Counted]:
        for item in predicted:
            with naming(item.sample.image, item.sample.label):
                yield _count(item, item.position, item.answer, [(item.label, item.answer)], spec)

    groups = _groups(_read(samples, spec, trust, workers), options.batch_size)
    counts, ignored = total(*_sums(_predicted(groups, answer), counted, spec, observe, options.batch_size))
    return SegmentationScores(counts, spec.classes, ignored)


def evaluate_stitched(
    predict: Predict,
    scenes: Sequence[TiledScene],
    spec: DatasetSpec,
    options: InferenceOptions,
    *,
    observe: Observer | None = None,
    trust: Trust = TRUSTING_NOBODY,
    workers: int | None = None,
    total: Total = _own_counts,
    look: Look | None = None,
) -> SegmentationScores:
    """Predicts every tile, puts the logits of each scene back together and counts its pixels once: protocol `stitched`.

    Pixels that no tile covers are not counted. Padding, which `rsseg-tf prepare` labels with the ignored id, counts as
    ignored.

    Args:
        predict: As in `evaluate`. Logits are blended where tiles overlap.
        scenes: As `find_scenes` gives them.
        spec: As in `evaluate`.
        options: How each tile is predicted.
        observe: As in `evaluate`, called after each tile, scene by scene; index is the tile's, and the prediction is
            the tile's own, which differs from what is counted where other tiles overlap it.
        trust: As in `evaluate`.
        workers: As in `evaluate`.
        total: As in `evaluate`.
        look: As in `evaluate`, of the tiles' own logits.

    Raises:
        DataError: As `evaluate`; when labels of overlapping tiles differ.
    """
    options = _for_all_devices(options, predict)
    placed = [(stitcher, tile) for scene in scenes for stitcher in [Stitcher(scene)] for tile in scene.tiles]
    alone = [stitcher.stands_alone(tile) for stitcher, tile in placed]
    samples = [tile.sample for _, tile in placed]

    def answer(images: list[np.ndarray], group: list[_Read]) -> list[np.ndarray]:
        if alone[group[0].position]:
            return _labels(predict, images, group, spec, options, look)
        answers = predict_many_logits(predict, images, spec, options)
        if look is not None:
            for item, logits in zip(group, answers, strict=True):
                look(item.label, logits)
        return list(answers)

    def counted(predicted: Iterator[_Predicted]) -> Iterator[_Counted]:
        for item in predicted:
            stitcher, tile = placed[item.position]
            with naming(tile.sample.image, tile.sample.label):
                if alone[item.position]:
                    own, parts = item.answer, [(item.label, item.answer)]
                else:
                    own, parts = largest_class(item.answer), stitcher.add(tile, item.answer, item.label)
                yield _count(item, tile.index, own, parts, spec)

    groups = _groups(_read(samples, spec, trust, workers), options.batch_size, alike=alone.__getitem__)
    counts, ignored = total(*_sums(_predicted(groups, answer), counted, spec, observe, options.batch_size))
    return SegmentationScores(counts, spec.classes, ignored)


# === Reading, predicting and counting at the same time ===


@dataclass(frozen=True)
class _Read:
    """A sample that was read, and its position among all."""

    position: int
    sample: Sample
    image: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class _Predicted(_Read):
    """The same with the model's answer: labels `(H, W)`, or logits `(H, W, classes)`."""

    answer: np.ndarray


@dataclass(frozen=True)
class _Counted:
    """What a sample adds to the sums, and what the observer is called with."""

    counts: np.ndarray
    ignored: int
    seen: tuple[int, np.ndarray, np.ndarray, np.ndarray]


def _for_all_devices(options: InferenceOptions, predict: Predict) -> InferenceOptions:
    """Returns the options with a batch for all devices together."""
    return dataclasses.replace(options, batch_size=options.batch_size * device_count(predict))


def _read(samples: Sequence[Sample], spec: DatasetSpec, trust: Trust, workers: int | None = None) -> Iterator[_Read]:
    """Yields all samples in order, while threads read the next ones; errors name the files."""
    if not samples:  # the share of a worker may be empty
        return iter(())
    reader = SampleReader(samples, spec, trust=trust)

    def read(position: int) -> _Read:
        sample = samples[position]
        with naming(sample.image, sample.label):
            return _Read(position, sample, *reader(position))

    return in_threads(read, range(len(samples)), workers or _READERS)


def _groups(
    items: Iterator[_Read], size: int, *, alike: Callable[[int], object] = lambda position: None
) -> Iterator[list[_Read]]:
    """Yields neighbours in groups that go to the model together.

    Args:
        items: The samples in order.
        size: Samples in a group, at most.
        alike: Of a position, what all of a group must have in common beside the images' shape and type.
    """
    group: list[_Read] = []
    try:
        for item in items:
            if group and _kind(item, alike) != _kind(group[0], alike):
                yield group
                group = []
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    except RssegError:  # a sample is damaged; those before it come first
        if group:
            yield group
        raise
    if group:
        yield group


def _kind(item: _Read, alike: Callable[[int], object]) -> object:
    return item.image.shape, item.image.dtype, alike(item.position)


def _labels(
    predict: Predict,
    images: list[np.ndarray],
    group: list[_Read],
    spec: DatasetSpec,
    options: InferenceOptions,
    look: Look | None,
) -> list[np.ndarray]:
    """Predicts the labels of a group, by way of its logits where somebody looks at them."""
    if look is None:
        return list(predict_many_labels(predict, images, spec, options))
    answers = [np.empty(image.shape[:2], np.uint8) for image in images]
    for part in predict_parts(predict, images, spec, options):
        part.of(answers[part.index])[...] = largest_class(part.logits)
        look(part.of(group[part.index].label), part.logits)
    return answers


def _predicted(
    groups: Iterator[list[_Read]], answer: Callable[[list[np.ndarray], list[_Read]], list[np.ndarray]]
) -> Generator[_Predicted, None, None]:
    """Yields all samples with the model's answers; its errors name the files."""
    for group in groups:
        images = [item.image for item in group]
        try:
            answers = answer(images, group)
        except NotFiniteError as error:
            with naming(group[error.index].sample.image, group[error.index].sample.label):
                raise
        except BaseException:
            others = f" and the {len(group) - 1} after it" if len(group) > 1 else ""
            with naming(f"{group[0].sample.image}{others}", group[0].sample.label):
                raise
        for item, one in zip(group, answers, strict=True):
            yield _Predicted(item.position, item.sample, item.image, item.label, one)


def _count(
    item: _Predicted,
    index: int,
    prediction: np.ndarray,
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    spec: DatasetSpec,
) -> _Counted:
    """Counts the parts of labels and predictions that a sample makes ready."""
    counts = np.zeros((spec.num_classes, spec.num_classes), np.int64)
    ignored = 0
    for label, predicted in parts:
        counts += confusion_matrix(label, predicted, spec.num_classes, spec.ignore_index)
        ignored += count_ignored(label, spec.ignore_index)
    return _Counted(counts, ignored, (index, item.image, item.label, prediction))


def _sums(
    predicted: Generator[_Predicted, None, None],
    counted: Callable[[Iterator[_Predicted]], Iterator[_Counted]],
    spec: DatasetSpec,
    observe: Observer | None,
    batch_size: int,
) -> Counts:
    """Adds all counts up. One thread predicts, another one counts, and this one calls the observer."""
    counts = np.zeros((spec.num_classes, spec.num_classes), np.int64)
    ignored = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(predicted))
        answers = stack.enter_context(contextlib.closing(ahead(predicted, batch_size)))
        for item in stack.enter_context(contextlib.closing(ahead(counted(answers), 1))):
            counts += item.counts
            ignored += item.ignored
            if observe:
                observe(*item.seen)
    return counts, ignored


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
