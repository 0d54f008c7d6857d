"""Does an exported model still see what the checkpoint saw? IoU on labelled images, before and after."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.evaluate.evaluation import evaluate
from rsseg_tf.files.lists import Sample
from rsseg_tf.metrics import SegmentationScores
from rsseg_tf.predict import InferenceOptions, Predict, tile_options
from rsseg_tf.predictors import Predictor
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust

__all__ = ["CHECKPOINT", "Accuracy", "measure_accuracy"]

CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Accuracy:
    """Scores of a checkpoint and of what was exported from it.

    Attributes:
        scores: by `checkpoint` and the names of artifacts; all of the same images.
        max_miou_drop: how many points of mIoU (0..100) an artifact may lose.
        images: how many were predicted.
    """

    scores: Mapping[str, SegmentationScores]
    max_miou_drop: float
    images: int

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
            "scores": {name: scores.to_json() for name, scores in self.scores.items()},
        }


def measure_accuracy(
    checkpoint: Predict,
    artifacts: Mapping[str, Predictor],
    samples: Sequence[Sample],
    spec: DatasetSpec,
    options: InferenceOptions,
    *,
    max_miou_drop: float,
    trust: Trust = TRUSTING_NOBODY,
    progress: Callable[[str], object] = lambda name: None,
) -> Accuracy:
    """Counts the pixels of labelled images for the checkpoint and for each artifact, by the same code.

    Args:
        checkpoint: the Keras model.
        artifacts: opened artifacts by name.
        samples: images with labels.
        spec: classes and ignored id.
        options: how images are predicted.
        max_miou_drop: points of mIoU that an artifact may lose.
        trust: how large images may be, and what a VRT may name.
        progress: called with the name of what was just predicted, after each image.

    Raises:
        DataError: as `rsseg_tf.evaluate.evaluation.evaluate`.
    """
    scores = {}
    candidates: dict[str, tuple[Predict, tuple[int, int] | None]] = {CHECKPOINT: (checkpoint, None)}
    candidates |= {name: (predictor.predict, predictor.tile) for name, predictor in artifacts.items()}
    for name, (predict, tile) in candidates.items():

        def observe(*_: object, name: str = name) -> None:
            progress(name)

        scores[name] = evaluate(predict, samples, spec, tile_options(options, tile), observe=observe, trust=trust)
    return Accuracy(scores, max_miou_drop, len(samples))
