"""Values that show whether the features collapse; none of them has a gradient."""

from __future__ import annotations

import math
from typing import Any

from keras import ops

from rsseg_tf.ssl.heads import l2_normalise

__all__ = ["MONITORS", "alignment", "queue_values", "spread", "usage"]

MONITORS = {
    "spread": "standard deviation of the L2-normalised projections times sqrt(d): about 1 is healthy, 0 is collapsed",
    "alignment": "mean cosine of the two views of an image",
    "gap": "mean cosine of a query with its key minus that with the queue",
    "acc1": "share of the queries whose key is nearer than the whole queue",
    "queue_mean": "length of the queue's mean vector: 0 is spread evenly, 1 is collapsed",
    "usage": "entropy of the prototypes that a batch uses, as a share of the largest possible",
}
"""Meaning of each value that methods log beside their losses."""


def spread(projection: Any) -> Any:
    """Returns the mean over channels of the standard deviation of the L2-normalised rows, times sqrt(d).

    Args:
        projection: (..., d).

    Returns:
        A scalar, about 1 for directions spread evenly and 0 where all are one.
    """
    dim = projection.shape[-1]
    rows = ops.reshape(l2_normalise(ops.stop_gradient(projection)), (-1, dim))
    return ops.mean(ops.std(rows, axis=0)) * math.sqrt(dim)


def alignment(one: Any, other: Any) -> Any:
    """Returns the mean cosine of two sets of rows (..., d)."""
    one, other = ops.stop_gradient(one), ops.stop_gradient(other)
    return ops.mean(ops.sum(l2_normalise(one) * l2_normalise(other), axis=-1))


def queue_values(positive: Any, negative: Any, queue: Any) -> dict[str, Any]:
    """Returns `gap`, `acc1` and `queue_mean`.

    Args:
        positive: (N,) cosines of queries and their keys.
        negative: (N, K) cosines of queries and the queue.
        queue: (K, D), rows of length 1.
    """
    positive, negative = ops.stop_gradient(positive), ops.stop_gradient(negative)
    first = ops.cast(positive > ops.max(negative, axis=1), "float32")
    mean = ops.mean(queue, axis=0)
    return {
        "gap": ops.mean(positive) - ops.mean(negative),
        "acc1": ops.mean(first),
        "queue_mean": ops.sqrt(ops.sum(ops.square(mean))),
    }


def usage(probabilities: Any) -> Any:
    """Returns the entropy of the mean of (N, K) distributions, divided by log K."""
    mean = ops.mean(ops.stop_gradient(probabilities), axis=0)
    return -ops.sum(mean * ops.log(ops.maximum(mean, 1e-12))) / math.log(mean.shape[0])
