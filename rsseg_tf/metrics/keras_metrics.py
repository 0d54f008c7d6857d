"""Scores as metrics for Keras's `compile` and `fit`: they count pixels in a confusion matrix.

    model.compile(optimizer, loss=..., metrics={"main": [MeanIoU(7), PixelAccuracy(7)]})

Their numbers are those of `SegmentationScores` over all pixels since the last reset, with PaddleSeg's handling of
classes that do not occur.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from rsseg_tf.errors import ConfigError

__all__ = ["Kappa", "MeanDice", "MeanIoU", "PixelAccuracy"]

_registered = keras.saving.register_keras_serializable(package="rsseg_tf")


class _Score(keras.metrics.Metric):
    """Base of these metrics: a confusion matrix, row = label, column = prediction."""

    usual_name: ClassVar[str]

    def __init__(self, num_classes: int, *, ignore_index: int = 255, name: str | None = None) -> None:
        """Prepares an empty matrix.

        Args:
            num_classes: Number of classes C, at least 1.
            ignore_index: Label of pixels that do not count; any integer, inside or outside of [0, C).
            name: Name in logs; None for the usual one, such as `miou`.

        Raises:
            ConfigError: If `num_classes` is below 1.
        """
        if num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1; got {num_classes}. Give the number of classes.")
        super().__init__(name=name or self.usual_name)
        self.num_classes, self.ignore_index = num_classes, ignore_index
        # The last place counts pixels whose label is neither a class nor the ignored value.
        self.counts = self.add_variable((num_classes**2 + 1,), "zeros", dtype="int64", name="counts")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Counts a batch.

        Args:
            y_true: Labels (B, H, W) or (B, H, W, 1), class ids or `ignore_index`.
            y_pred: Logits or probabilities (B, H, W, C); the class of the largest counts, the first of equals.
            sample_weight: None; pixels are left out by `ignore_index`.

        Raises:
            ConfigError: For a `sample_weight`, or logits of another number of classes.
        """
        if sample_weight is not None:
            raise ConfigError(
                f"The metric '{self.name}' counts pixels and takes no sample_weight. Leave pixels out by ignore_index."
            )
        size = self.num_classes
        if y_pred.shape[-1] != size:
            raise ConfigError(
                f"The metric '{self.name}' is of {size} classes, and the model gives {y_pred.shape[-1]}; both must be "
                "equal. Give num_classes the dataset's number of classes."
            )
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        predicted = ops.reshape(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), (-1,))
        is_class = ops.logical_and(labels >= 0, labels < size)
        places = ops.where(is_class, labels * size + predicted, size**2)
        counted = ops.cast(ops.not_equal(labels, self.ignore_index), "int32")
        found = ops.segment_sum(counted, places, num_segments=size**2 + 1)
        self.counts.assign_add(ops.cast(found, self.counts.dtype))

    def result(self) -> Any:
        """Returns the score of all pixels so far, a scalar.

        It is NaN while no pixel was counted, and where a label is neither a class nor the ignored value.
        """
        # JAX has no float64 unless it is told so; float32 is exact to seven digits.
        counts = ops.cast(self.counts, "float32" if keras.config.backend() == "jax" else "float64")
        matrix = ops.reshape(counts[:-1], (self.num_classes, self.num_classes))
        total = ops.sum(matrix)
        score = self._score(ops.diagonal(matrix), ops.sum(matrix, axis=1), ops.sum(matrix, axis=0), total)
        return ops.where(ops.logical_and(total > 0, counts[-1] == 0), score, float("nan"))

    def _score(self, hits: Any, labelled: Any, predicted: Any, total: Any) -> Any:
        """Returns the score from pixels by class (C,), of which `hits` are correct, and of their total."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"name": self.name, "num_classes": self.num_classes, "ignore_index": self.ignore_index}


@_registered
class MeanIoU(_Score):
    """Mean over the classes of intersection over union; a class that is nowhere has 1, as in PaddleSeg."""

    usual_name = "miou"

    def __init__(
        self, num_classes: int, *, ignore_index: int = 255, present: bool = False, name: str | None = None
    ) -> None:
        """Prepares the metric.

        Args:
            num_classes: Number of classes C.
            ignore_index: Label of pixels that do not count.
            present: Whether classes that occur in neither label nor prediction are left out of the mean, as in
                `SegmentationScores.miou_present`.
            name: Name in logs; None for `miou`.
        """
        super().__init__(num_classes, ignore_index=ignore_index, name=name)
        self.present = present

    def _score(self, hits: Any, labelled: Any, predicted: Any, total: Any) -> Any:
        union = labelled + predicted - hits
        occurs = ops.cast(union > 0, union.dtype)
        iou = hits / ops.maximum(union, 1.0)
        if self.present:
            return ops.sum(iou * occurs) / ops.sum(occurs)
        return ops.mean(iou + (1.0 - occurs))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "present": self.present}


@_registered
class PixelAccuracy(_Score):
    """Share of correct pixels.

    Its arguments are those of `MeanIoU`, without `present`.
    """

    usual_name = "acc"

    def _score(self, hits: Any, labelled: Any, predicted: Any, total: Any) -> Any:
        return ops.sum(hits) / total


@_registered
class Kappa(_Score):
    """Cohen's kappa; NaN where label and prediction are wholly one class, as in PaddleSeg.

    Its arguments are those of `MeanIoU`, without `present`.
    """

    usual_name = "kappa"

    def _score(self, hits: Any, labelled: Any, predicted: Any, total: Any) -> Any:
        observed = ops.sum(hits) / total
        chance = ops.sum((labelled / total) * (predicted / total))
        one_class = ops.max(labelled / total) * ops.max(predicted / total) >= 1.0
        return ops.where(ops.logical_and(one_class, chance >= 1.0), float("nan"), (observed - chance) / (1.0 - chance))


@_registered
class MeanDice(_Score):
    """Mean over the classes of twice the intersection over the sum of both areas; a class that is nowhere has 0.

    Its arguments are those of `MeanIoU`, without `present`.
    """

    usual_name = "dice"

    def _score(self, hits: Any, labelled: Any, predicted: Any, total: Any) -> Any:
        return ops.mean(2.0 * hits / ops.maximum(labelled + predicted, 1.0))
