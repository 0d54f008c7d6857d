"""Lovász-softmax: a convex stand-in for one minus the IoU.

Berman et al., The Lovász-Softmax Loss, https://arxiv.org/abs/1705.08790.
Source: LovaszSoftmaxLoss in paddleseg/models/losses/lovasz_loss.py of PaddleSeg, with the classes that are present.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

__all__ = ["lovasz_softmax"]


def lovasz_softmax(logits: Any, labels: Any, *, ignore_index: int, mean: Callable[[Any], Any] = ops.mean) -> Any:
    """Mean over the classes present in the batch of the Lovász extension of one minus their IoU.

    Without labels the loss and its gradients are 0.

    Args:
        logits: (B, H, W, C) floating point; computed in float32.
        labels: (B, H, W) integers in [0, C) or `ignore_index`.
        ignore_index: Label of pixels that do not count.
        mean: Has no effect: the pixels of a batch are sorted together, which each replica does with its own share. The
            mean of the replicas' losses is therefore not exactly the loss of the whole batch, as in PaddleSeg.

    Returns:
        A float32 scalar in [0, 1].
    """
    num_classes = logits.shape[-1]
    labels = ops.reshape(ops.cast(labels, "int32"), (-1,))
    counted = ops.not_equal(labels, ignore_index)
    probability = ops.reshape(ops.softmax(ops.cast(logits, "float32"), axis=-1), (-1, num_classes))
    total, present = 0.0, 0.0
    for class_id in range(num_classes):
        truth = ops.logical_and(counted, ops.equal(labels, class_id))
        loss = _of_class(probability[:, class_id], truth, counted)
        occurs = ops.cast(ops.any(truth), "float32")
        total, present = total + occurs * loss, present + occurs
    return total / ops.maximum(present, 1.0)


def _of_class(probability: Any, truth: Any, counted: Any) -> Any:
    """The loss of one class over (P,) pixels; probability float32, truth and counted bool."""
    errors = ops.abs(ops.cast(truth, "float32") - probability) * ops.cast(counted, "float32")
    # From the largest error to the smallest, and the ignored pixels last, where they change nothing.
    order = ops.argsort(ops.where(counted, -ops.stop_gradient(errors), 1.0))
    true = ops.cast(ops.take(truth, order), "int32")
    total = ops.sum(true)
    intersection = total - ops.cumsum(true)
    union = total + ops.cumsum(1 - true)
    jaccard = 1.0 - ops.cast(intersection, "float32") / ops.cast(union, "float32")
    steps = jaccard - ops.concatenate([ops.zeros((1,), "float32"), jaccard[:-1]])
    # The weights go to the pixels rather than the errors to their ranks: that way the gradient is the weight.
    weights = ops.scatter(order[:, None], steps, ops.shape(errors))
    return ops.sum(errors * ops.stop_gradient(weights))
