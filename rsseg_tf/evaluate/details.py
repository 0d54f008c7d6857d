"""What an evaluation shows beyond its scores: outlines, objects, confidence, and the worst and the best tiles.

Everything is counted tile by tile as the model predicts it, in memory that does not grow with the number of tiles. What
several tiles show counts in each, also by protocols that put tiles back together.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.files import readable_name
from rsseg_tf.files.lists import Sample
from rsseg_tf.metrics import BoundaryCounts, ConfidenceCounts, LogitSample, ObjectCounts, confusion_matrix
from rsseg_tf.metrics.boundary import BOUNDARY_RATIO
from rsseg_tf.metrics.calibration import confidence_of
from rsseg_tf.metrics.objects import SIZE_EDGES
from rsseg_tf.predict.decoding import largest_class
from rsseg_tf.predict.pictures import as_rgb, colourise, resized

__all__ = ["TILES", "Details", "ShownTile"]

TILES = 6
"""How many of the worst and of the best tiles are shown."""

_SIDE = 288  # of a picture, in pixels
_WRONG = (214, 39, 40)
_ROWS = 512  # whose probabilities are computed at a time


@dataclass(frozen=True)
class ShownTile:
    """A tile as it is shown; pictures are `(height, width, 3)` uint8.

    Attributes:
        index: Its place among the samples.
        name: Its image.
        accuracy: Share of its pixels that are right, 0..1.
        miou: Mean IoU over the classes in its label or prediction.
        image: The picture.
        label: Colours of the label.
        prediction: Colours of the prediction; no data has the ignored colour.
        errors: The picture in grey, with wrong pixels in red.
    """

    index: int
    name: str
    accuracy: float
    miou: float
    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    errors: NDArray[np.uint8]


@dataclass
class Details:
    """Collects the details of an evaluation: its methods are what `Evaluation.run` calls.

    Attributes:
        spec: Classes, palette and ignored id.
        samples: The samples.
        temperature: The model's, for confidence.
        sample: Collects logits to fit a temperature to; None for none.
        detailed: Whether all else is collected, too.
        confidence: Pixels by confidence.
        boundaries: Pixels of boundaries.
        objects: Objects by size.
    """

    spec: DatasetSpec
    samples: Sequence[Sample]
    temperature: float = 1.0
    sample: LogitSample | None = None
    detailed: bool = True
    confidence: ConfidenceCounts = field(init=False)
    boundaries: BoundaryCounts = field(init=False)
    objects: ObjectCounts = field(init=False)
    _worst: list[tuple[float, int, ShownTile]] = field(init=False, default_factory=list)
    _best: list[tuple[float, int, ShownTile]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        classes = self.spec.num_classes
        self.confidence = ConfidenceCounts(classes)
        self.boundaries = BoundaryCounts(classes, self.spec.ignore_index)
        self.objects = ObjectCounts(classes)

    def look(self, label: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """Takes the logits of a part of a tile; see `rsseg_tf.evaluate.evaluation.Look`."""
        for top in range(0, len(label), _ROWS):
            ids, part = label[top : top + _ROWS], logits[top : top + _ROWS]
            counted = ids != self.spec.ignore_index
            if self.sample is not None:
                self.sample.add(part[counted], ids[counted])
            if self.detailed:
                chosen = np.ascontiguousarray(part[counted])
                found = largest_class(part)[counted]
                self.confidence.add(ids[counted], found, confidence_of(chosen, self.temperature))

    def observe(self, index: int, image: NDArray, label: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Takes a tile; see `rsseg_tf.evaluate.evaluation.Observer`."""
        if not self.detailed:
            return
        self.boundaries.add(label, prediction)
        self.objects.add(label, prediction)
        counts = confusion_matrix(label, prediction, self.spec.num_classes, self.spec.ignore_index)
        if not counts.sum():
            return
        accuracy = float(np.trace(counts) / counts.sum())
        # Heaps whose first entry is the one that gives way; of equal tiles, the earlier ones are shown.
        places = ((self._worst, -accuracy), (self._best, accuracy))
        if not any(len(heap) < TILES or (key, -index) > heap[0][:2] for heap, key in places):
            return
        shown = self._shown(index, image, label, prediction, counts)
        for heap, key in places:
            (heapq.heappush if len(heap) < TILES else heapq.heappushpop)(heap, (key, -index, shown))

    def _shown(
        self,
        index: int,
        image: NDArray,
        label: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
        counts: NDArray[np.int64],
    ) -> ShownTile:
        spec = self.spec
        ignored = label == spec.ignore_index
        picture = resized(as_rgb(image, spec, ignored if image.dtype != np.uint8 else None), _SIDE, smooth=True)
        side = max(label.shape)
        rows, columns = (np.arange(length) * side // max(picture.shape[:2]) for length in picture.shape[:2])
        place = np.ix_(np.minimum(rows, label.shape[0] - 1), np.minimum(columns, label.shape[1] - 1))
        ids, found = label[place], np.where(ignored, spec.ignore_index, prediction).astype(np.uint8)[place]
        grey = picture.mean(axis=2, keepdims=True) / 2 + 127
        errors = np.where((ids != found)[..., np.newaxis], _WRONG, grey).astype(np.uint8)
        union = counts.sum(axis=0) + counts.sum(axis=1) - np.diagonal(counts)
        return ShownTile(
            index,
            readable_name(self.samples[index].image.name),
            float(np.trace(counts) / counts.sum()),
            float((np.diagonal(counts)[union > 0] / union[union > 0]).mean()),
            picture,
            colourise(ids, spec.palette, ignore_index=spec.ignore_index),
            colourise(found, spec.palette, ignore_index=spec.ignore_index),
            errors,
        )

    @property
    def worst(self) -> list[ShownTile]:
        """The tiles with the largest share of wrong pixels, the worst first."""
        return [shown for *_, shown in sorted(self._worst, key=lambda entry: entry[:2], reverse=True)]

    @property
    def best(self) -> list[ShownTile]:
        """Those with the smallest, the best first; none that is among the worst."""
        taken = {shown.index for *_, shown in self._worst}
        ranked = sorted(self._best, key=lambda entry: entry[:2], reverse=True)
        return [shown for *_, shown in ranked if shown.index not in taken]

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers for eval.json; those that are nan become None."""
        boundary = self.boundaries.class_iou
        objects = self.objects
        pixels, confidence, accuracy = self.confidence.reliability()
        return {
            "boundary_iou": {
                "width": f"{BOUNDARY_RATIO:g} of a tile's diagonal",
                "mean_present": _plain(float(np.nanmean(boundary))) if np.isfinite(boundary).any() else None,
                "classes": [_plain(value) for value in boundary],
            },
            "objects": {
                "smallest_pixels": list(SIZE_EDGES),
                "count": objects.objects.tolist(),
                "found": objects.found.tolist(),
                "pixels": objects.pixels.tolist(),
                "hits": objects.hits.tolist(),
            },
            "confidence": {
                "temperature": self.temperature,
                "ece": self.confidence.ece,
                "bins": [
                    {"pixels": int(count), "confidence": _plain(mean), "accuracy": _plain(share)}
                    for count, mean, share in zip(pixels, confidence, accuracy, strict=True)
                ],
            },
            "worst": [_named(tile) for tile in self.worst],
            "best": [_named(tile) for tile in self.best],
        }


def _named(tile: ShownTile) -> dict[str, Any]:
    return {"image": tile.name, "accuracy": tile.accuracy, "miou_present": tile.miou}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
