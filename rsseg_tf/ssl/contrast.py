"""The contrastive loss of MoCo: a query, its key, and a queue of other keys."""

from __future__ import annotations

from typing import Any

from keras import ops

from rsseg_tf.ssl.monitors import queue_values

__all__ = ["contrast", "info_nce"]


def info_nce(query: Any, key: Any, queue: Any, *, temperature: float) -> Any:
    """Mean cross entropy of [query . key, query . queue] / temperature with the first as the truth.

    Oord et al., https://arxiv.org/abs/1807.03748; He et al., https://arxiv.org/abs/1911.05722.

    Args:
        query: (N, D), rows of length 1.
        key: (N, D), rows of length 1; takes no gradient.
        queue: (K, D), rows of length 1; takes no gradient.
        temperature: Divides the similarities.

    Returns:
        A scalar.
    """
    return _cross_entropy(*_similarities(query, key, queue), temperature)


def contrast(query: Any, key: Any, queue: Any, *, temperature: float) -> tuple[Any, dict[str, Any]]:
    """Returns `info_nce` and the monitors of the queue, see `rsseg_tf.ssl.monitors.queue_values`."""
    positive, negative = _similarities(query, key, queue)
    return _cross_entropy(positive, negative, temperature), queue_values(positive, negative, queue)


def _similarities(query: Any, key: Any, queue: Any) -> tuple[Any, Any]:
    """Returns (N,) and (N, K)."""
    key, queue = ops.stop_gradient(key), ops.stop_gradient(queue)
    return ops.sum(query * key, axis=-1), ops.matmul(query, ops.transpose(queue))


def _cross_entropy(positive: Any, negative: Any, temperature: float) -> Any:
    logits = ops.concatenate([positive[:, None], negative], axis=1) / temperature
    return ops.mean(ops.logsumexp(logits, axis=1) - logits[:, 0])
