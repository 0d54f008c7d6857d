"""Cross entropy over the pixels that have a label.

Source: paddleseg/models/losses/cross_entropy_loss.py of PaddleSeg, without hard pixel mining.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from rsseg_tf.errors import ConfigError

__all__ = ["cross_entropy", "pixel_losses"]

# PaddleSeg's guard against a batch without a label: its loss is 0 / epsilon = 0.
_EPSILON = 1e-8


def cross_entropy(
    logits: Any,
    labels: Any,
    *,
    ignore_index: int,
    class_weights: Sequence[float] | None = None,
    pixel_weights: Any = None,
    mean: Callable[[Any], Any] = ops.mean,
) -> Any:
    """Mean cross entropy of the pixels whose label is not `ignore_index`.

    With w the weight of a pixel's class times its own (each 1 where not given, 0 where ignored) the loss is
    mean(w * -log p) / (mean(w) + 1e-8). A batch without any label gives exactly 0 and gradients of 0.

    Args:
        logits: (B, H, W, C) floating point; computed in float32.
        labels: (B, H, W) integers in [0, C) or `ignore_index`; the data pipeline refuses others.
        ignore_index: Label of pixels that do not count; any integer, inside or outside of [0, C).
        class_weights: C weights, or None for 1 everywhere.
        pixel_weights: (B, H, W) factors of the pixels, at least 0, or None for 1 everywhere: a pixel of weight 2 counts
            as two, one of weight 0 as one that is ignored.
        mean: Averages the pixel weights (B, H, W) to a scalar. In training over several replicas it averages over all
            of them, so that the mean of the replicas' losses is the loss of the whole batch although the replicas
            have different numbers of labelled pixels.

    Returns:
        A float32 scalar >= 0.

    Raises:
        ConfigError: If there are not as many class weights as classes.
    """
    num_classes = logits.shape[-1]
    if class_weights is not None and len(class_weights) != num_classes:
        raise ConfigError(
            f"class_weights must have one value for each of {num_classes} classes; got {len(class_weights)}."
        )
    losses, counted = pixel_losses(logits, labels, ignore_index=ignore_index)
    weights = ops.cast(counted, "float32")
    if class_weights is not None:
        of_labels = ops.where(counted, ops.cast(labels, "int32"), 0)
        weights = weights * ops.take(ops.convert_to_tensor(class_weights, dtype="float32"), of_labels)
    if pixel_weights is not None:
        weights = weights * pixel_weights
    return ops.mean(losses * weights) / (mean(weights) + _EPSILON)


def pixel_losses(logits: Any, labels: Any, *, ignore_index: int) -> tuple[Any, Any]:
    """Returns the cross entropy of each pixel (B, H, W) float32, and whether it counts (bool).

    Where a pixel does not count, its value is finite but meaningless.
    """
    labels = ops.cast(labels, "int32")
    counted = ops.not_equal(labels, ignore_index)
    # An ignored label need not be a class, and the look-up is undefined for other ids.
    labels = ops.where(counted, labels, 0)
    return ops.sparse_categorical_crossentropy(labels, ops.cast(logits, "float32"), from_logits=True), counted
