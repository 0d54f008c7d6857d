"""Soft Dice loss.

Milletari et al., V-Net, https://arxiv.org/abs/1606.04797.
Source: paddleseg/models/losses/dice_loss.py of PaddleSeg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from keras import ops

from rsseg_tf.errors import ConfigError

__all__ = ["dice"]

_EPSILON = 1e-8


def dice(
    logits: Any,
    labels: Any,
    *,
    ignore_index: int,
    class_weights: Sequence[float] | None = None,
    smooth: float = 1.0,
    mean: Callable[[Any], Any] = ops.mean,
) -> Any:
    """One minus the Dice score of probabilities and labels, averaged over the classes and images.

    Per class and image it is 1 - (2 * sum(p * y) + smooth) / (sum(p) + sum(y) + smooth + 1e-8) over the pixels that are
    not ignored. An image without labels gives 0 (with a `smooth` above 0) and gradients of 0.

    Args:
        logits: (B, H, W, C) floating point; computed in float32.
        labels: (B, H, W) integers in [0, C) or `ignore_index`.
        ignore_index: Label of pixels that do not count.
        class_weights: C factors of the classes' losses, or None for 1 everywhere. The sum is divided by C in any case.
        smooth: Added above and below the fraction.
        mean: Has no effect: an image's loss needs no other image, so the replicas' mean is that of the whole batch.

    Returns:
        A float32 scalar.

    Raises:
        ConfigError: If there are not as many class weights as classes.
    """
    num_classes = logits.shape[-1]
    if class_weights is not None and len(class_weights) != num_classes:
        raise ConfigError(
            f"class_weights must have one value for each of {num_classes} classes; got {len(class_weights)}."
        )
    labels = ops.cast(labels, "int32")
    counted = ops.cast(ops.not_equal(labels, ignore_index), "float32")[..., None]
    # one_hot is all 0 for a label that is no class; the product with `counted` covers an ignored id that is one.
    truth = ops.one_hot(labels, num_classes, dtype="float32") * counted
    probability = ops.softmax(ops.cast(logits, "float32"), axis=-1) * counted
    intersection = ops.sum(probability * truth, axis=(1, 2))
    cardinality = ops.sum(probability + truth, axis=(1, 2))
    losses = 1.0 - (2.0 * intersection + smooth) / (cardinality + smooth + _EPSILON)
    if class_weights is not None:
        losses = losses * ops.convert_to_tensor(class_weights, dtype="float32")
    return ops.mean(losses)
