"""Focal loss over classes.

Lin et al., Focal Loss for Dense Object Detection, https://arxiv.org/abs/1708.02002.
Source: MultiClassFocalLoss in paddleseg/models/losses/focal_loss.py of PaddleSeg.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from rsseg_tf.losses.cross_entropy import pixel_losses

__all__ = ["focal"]

_EPSILON = 1e-10


def focal(
    logits: Any,
    labels: Any,
    *,
    ignore_index: int,
    alpha: float = 1.0,
    gamma: float = 2.0,
    pixel_weights: Any = None,
    mean: Callable[[Any], Any] = ops.mean,
) -> Any:
    """Mean of alpha * (1 - p)^gamma * -log p over the pixels that are not ignored, p for the true class.

    Without labels the loss and its gradients are 0.

    Args:
        logits: (B, H, W, C) floating point; computed in float32.
        labels: (B, H, W) integers in [0, C) or `ignore_index`.
        ignore_index: Label of pixels that do not count.
        alpha: Factor of the loss.
        gamma: How much less easy pixels count; 0 is the cross entropy.
        pixel_weights: (B, H, W) factors of the pixels, at least 0, or None for 1 everywhere: a pixel of weight 2 counts
            as two, one of weight 0 as one that is ignored.
        mean: Averages the counted pixels (B, H, W) to a scalar, see `rsseg_tf.losses.cross_entropy`.

    Returns:
        A float32 scalar >= 0.
    """
    losses, counted = pixel_losses(logits, labels, ignore_index=ignore_index)
    # Powers below 1 have no derivative at 0.
    doubt = ops.maximum(1.0 - ops.exp(-losses), _EPSILON)
    weights = ops.cast(counted, "float32")
    if pixel_weights is not None:
        weights = weights * pixel_weights
    return ops.mean(alpha * doubt**gamma * losses * weights) / (mean(weights) + _EPSILON)
