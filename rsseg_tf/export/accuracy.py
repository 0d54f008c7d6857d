"""Accuracy of exported models beside their checkpoint: IoU on labelled images."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from rsseg_tf.evaluate.evaluation import evaluate
from rsseg_tf.export.trained import TrainedModel
from rsseg_tf.files.lists import Sample
from rsseg_tf.metrics import SegmentationScores
from rsseg_tf.predictors import Predictor
from rsseg_tf.rasters.windows import Size

__all__ = ["CHECKPOINT", "Accuracy", "AccuracyLimit", "measure_accuracy"]

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class AccuracyLimit:
    """Accuracy that artifacts must keep to be published.

    Attributes:
        samples: Labelled images to measure on.
        max_miou_drop: Points of mIoU (0..100) that an artifact may lose.
        progress: Called with the name of a model after each image.
    """

    samples: Sequence[Sample]
    max_miou_drop: float = 1.0
    progress: Callable[[str], object] = lambda name: None


@dataclass(frozen=True)
class Accuracy:
    """Scores of a checkpoint and of the artifacts exported from it.

    Attributes:
        scores: By `checkpoint` and the names of artifacts; all of the same images.
        max_miou_drop: Points of mIoU (0..100) that an artifact may lose.
        images: How many were predicted.
        windows: The size of windows by which an artifact saw larger images, where the checkpoint saw them whole or in
            other windows. A part of its drop may be that.
    """

    scores: Mapping[str, SegmentationScores]
    max_miou_drop: float
    images: int
    windows: Mapping[str, Size]

    @property
    def drops(self) -> dict[str, float]:
        """Points of mIoU that each artifact loses; negative where it gains."""
        before = self.scores[CHECKPOINT].miou
        return {name: 100 * (before - after.miou) for name, after in self.scores.items() if name != CHECKPOINT}

    @property
    def refused(self) -> tuple[str, ...]:
        """Artifacts that lose more than they may."""
        return tuple(name for name, drop in self.drops.items() if drop > self.max_miou_drop)

    def to_json(self) -> dict[str, Any]:
        """Returns all scores for a report."""
        return {
            "images": self.images,
            "max_miou_drop": self.max_miou_drop,
            "miou_drop": self.drops,
            "refused": list(self.refused),
            "windows": {name: list(size) for name, size in self.windows.items()},
            "scores": {name: scores.to_json() for name, scores in self.scores.items()},
        }


def measure_accuracy(trained: TrainedModel, artifacts: Mapping[str, Predictor], limit: AccuracyLimit) -> Accuracy:
    """Counts the pixels of labelled images for the checkpoint and for each artifact, by the same code.

    Args:
        trained: The Keras model.
        artifacts: Opened artifacts by name.
        limit: The images and what may be lost.

    Raises:
        DataError: As `rsseg_tf.evaluate.evaluation.evaluate`.
    """
    options, trust = trained.options, trained.trust
    scores: dict[str, SegmentationScores] = {}
    windows: dict[str, Size] = {}
    candidates = {CHECKPOINT: (trained.predict, options)}
    for name, predictor in artifacts.items():
        # The config decides on windows and augmentation for all models; a file adds the size that it takes.
        own = predictor.options
        candidates[name] = predictor.predict, dataclasses.replace(options, tile=own.tile, fixed_tile=own.fixed_tile)
    for name, (predict, how) in candidates.items():
        shapes: set[tuple[int, ...]] = set()

        def observe(index: int, image: NDArray, *_: object, name: str = name, shapes: set = shapes) -> None:
            shapes.add(image.shape[:2])
            limit.progress(name)

        scores[name] = evaluate(predict, limit.samples, trained.spec, how, observe=observe, trust=trust)
        as_checkpoint = not how.fixed_tile or (options.is_slide and options.crop_size == how.tile)
        if not as_checkpoint and shapes - {how.tile}:
            windows[name] = how.tile
    return Accuracy(scores, limit.max_miou_drop, len(limit.samples), windows)
