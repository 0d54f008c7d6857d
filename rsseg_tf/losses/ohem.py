"""Cross entropy of hard pixels only (online hard example mining).

Shrivastava et al., Training Region-based Object Detectors with Online Hard Example Mining,
https://arxiv.org/abs/1604.03540.
Source: paddleseg/models/losses/ohem_cross_entropy_loss.py of PaddleSeg.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from rsseg_tf.losses.cross_entropy import pixel_losses

__all__ = ["ohem_cross_entropy"]

# PaddleSeg's guard against a batch without a kept pixel.
_EPSILON = 1e-5


def ohem_cross_entropy(
    logits: Any,
    labels: Any,
    *,
    ignore_index: int,
    threshold: float = 0.7,
    min_kept: int = 10000,
    pixel_weights: Any = None,
    mean: Callable[[Any], Any] = ops.mean,
) -> Any:
    """Mean cross entropy of the pixels whose own class has a probability below a threshold.

    The threshold is raised to the probability of the `min_kept`-th hardest pixel where that is higher; that pixel
    itself is then not kept. A batch with at most `min_kept` labelled pixels keeps all of them. Without labels the loss
    and its gradients are 0. In training over several replicas each of them chooses among its own pixels.

    Args:
        logits: (B, H, W, C) floating point; computed in float32.
        labels: (B, H, W) integers in [0, C) or `ignore_index`.
        ignore_index: Label of pixels that do not count.
        threshold: Probability of the true class below which a pixel is hard, in (0, 1).
        min_kept: Pixels of the batch that are kept at least, but for the one at the threshold.
        pixel_weights: (B, H, W) factors of the pixels, at least 0, or None for 1 everywhere: a pixel of weight 2 that
            is kept counts as two, one of weight 0 is ignored.
        mean: Averages the kept pixels (B, H, W) to a scalar, see `rsseg_tf.losses.cross_entropy`.

    Returns:
        A float32 scalar >= 0.
    """
    losses, counted = pixel_losses(logits, labels, ignore_index=ignore_index)
    if pixel_weights is not None:
        counted = ops.logical_and(counted, pixel_weights > 0)
    # Ignored pixels are the easiest of all, so that they are never among the hardest.
    probability = ops.stop_gradient(ops.where(counted, ops.exp(-losses), 2.0))
    ordered = ops.sort(ops.reshape(probability, (-1,)))
    hardest = ordered[ops.minimum(ops.shape(ordered)[0], min_kept) - 1]
    all_are_few = ops.sum(ops.cast(counted, "int32")) <= min_kept
    kept = ops.logical_or(all_are_few, probability < ops.maximum(hardest, threshold))
    weights = ops.cast(ops.logical_and(counted, kept), "float32")
    if pixel_weights is not None:
        weights = weights * pixel_weights
    return ops.mean(losses * weights) / (mean(weights) + _EPSILON)
