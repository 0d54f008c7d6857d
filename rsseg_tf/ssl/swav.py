"""SwAV: a view's soft assignment to prototypes is predicted from the other views, small ones included.

Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments,
https://arxiv.org/abs/2006.09882. Source: facebookresearch/swav, main_swav.py; PASSL, configs/swav/swav_r50_100ep.yaml.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from rsseg_tf.ssl.heads import l2_normalise, mlp, pool
from rsseg_tf.ssl.method import BackboneBuilder, Batch, Devices, Method, Outcome, deepest
from rsseg_tf.ssl.monitors import alignment, spread, usage
from rsseg_tf.ssl.queue import Queue

__all__ = ["SwAV", "sinkhorn", "swapped_prediction"]

_ASSIGNED = 2  # the large views are assigned, the small ones only predict


def sinkhorn(scores: Any, *, epsilon: float = 0.05, iterations: int = 3) -> Any:
    """Returns soft assignments that use all prototypes alike.

    Columns and rows of exp(scores / epsilon) are scaled in turn, in logarithms: exp(1 / 0.05) does not fit into half
    precision. No gradient goes through.

    Args:
        scores: (N, K) similarities of samples and prototypes.
        epsilon: How soft the assignments are.
        iterations: Rounds of scaling.

    Returns:
        (N, K), rows that sum to 1.
    """
    logits = ops.stop_gradient(scores) / epsilon
    for _ in range(iterations):
        # Columns: every prototype gets the same mass. Rows: every sample gives a mass of 1.
        # Sums of 1/K and 1/N as in the paper would be undone by the next line, and by the rows at the end.
        logits = logits - ops.logsumexp(logits, axis=0, keepdims=True)
        logits = logits - ops.logsumexp(logits, axis=1, keepdims=True)
    return ops.exp(logits)


def swapped_prediction(scores: Sequence[Any], assignments: Sequence[Any], *, temperature: float) -> Any:
    """Mean over the assigned views of the mean over all other views of the cross entropy.

    Args:
        scores: Of each view, (N, K) similarities; the assigned ones first.
        assignments: Of each assigned view, (N, K) rows that sum to 1; they take no gradient.
        temperature: Divides the scores.

    Returns:
        A scalar.
    """
    predictions = [ops.log_softmax(score / temperature, axis=1) for score in scores]
    losses = [
        -ops.mean(ops.sum(ops.stop_gradient(assigned) * prediction, axis=1))
        for i, assigned in enumerate(assignments)
        for j, prediction in enumerate(predictions)
        if i != j
    ]
    return sum(losses) / len(losses)


class SwAV(Method):
    """Each view predicts how the others are assigned to prototypes; assignments use all prototypes alike.

    The two large views are assigned, small views only predict. No encoder follows another one, and no negatives are
    needed: that all prototypes are used alike keeps the features from collapsing.
    """

    def __init__(
        self,
        build_backbone: BackboneBuilder,
        *,
        dim: int = 128,
        hidden: int = 2048,
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        freeze_prototypes_steps: int = 313,
        queue_size: int = 0,
        queue_start_step: int = 0,
    ) -> None:
        """Builds the encoder, the prototypes and the queues.

        Args:
            build_backbone: Gives a new backbone.
            dim: Channels of the projections.
            hidden: Channels inside the projector.
            prototypes: How many.
            temperature: Of the predictions.
            epsilon: Of the assignments, see `sinkhorn`.
            sinkhorn_iterations: See `sinkhorn`.
            freeze_prototypes_steps: First steps in which the prototypes take no gradient.
            queue_size: Past projections of each assigned view that take part in the assignment, for batches smaller
                than the prototypes are many; 0 for none. The batch must divide it.
            queue_start_step: Step from which on they are kept; they are used once the queue is full.
        """
        super().__init__(name="swav")
        self.temperature, self.epsilon, self.sinkhorn_iterations = temperature, epsilon, sinkhorn_iterations
        self.freeze_prototypes_steps, self.queue_start_step = freeze_prototypes_steps, queue_start_step
        self.backbone = build_backbone()
        self.encoder = _encoder(self.backbone)
        self.projector = _projector(deepest(self.backbone).shape[-1], hidden, dim)
        self.prototypes = self.add_weight(
            name="prototypes",
            shape=(dim, prototypes),
            initializer=keras.initializers.VarianceScaling(scale=1.0 / 3.0, mode="fan_in", distribution="uniform"),
            autocast=False,
        )
        self.queues = [
            Queue(queue_size, dim, empty=True, name=f"queue{i}") for i in range(_ASSIGNED * (queue_size > 0))
        ]

    def before_step(self, step: Any) -> None:
        """Gives every prototype length 1."""
        self.prototypes.assign(ops.transpose(l2_normalise(ops.transpose(self.prototypes.value))))

    def objective(self, batch: Batch, *, step: Any, devices: Devices) -> Outcome:
        """Assigns the large views and predicts the assignments from all others."""
        count = ops.shape(batch["views"])[0]
        # One pass for each resolution, and one of the projector for all of them: its batch statistics are of all views.
        features = [self.encoder(_view_by_view(batch[name]), training=True) for name in _resolutions(batch)]
        projection = l2_normalise(self.projector(ops.concatenate(features, axis=0), training=True))
        # Similarities of all views to the prototypes, (views * B, K).
        frozen = step < self.freeze_prototypes_steps
        prototypes = ops.where(frozen, ops.stop_gradient(self.prototypes.value), self.prototypes.value)
        scores = ops.matmul(projection, prototypes)

        views = sum(batch[name].shape[1] for name in _resolutions(batch))
        by_view = [scores[i * count : (i + 1) * count] for i in range(views)]
        projections = [ops.stop_gradient(projection[i * count : (i + 1) * count]) for i in range(_ASSIGNED)]
        assignments = [self._assign(i, by_view[i], devices) for i in range(_ASSIGNED)]
        loss = swapped_prediction(by_view, assignments, temperature=self.temperature)
        values = {
            "spread": spread(projections[0]),
            "alignment": alignment(*projections),
            "usage": usage(ops.softmax(by_view[0] / self.temperature, axis=1)),
        }
        memory = {f"queue{i}": devices.gather(projections[i]) for i in range(len(self.queues))}
        return Outcome(loss, values, memory)

    def after_step(self, step: Any, memory: dict[str, Any]) -> None:
        """Enqueues the projections of the assigned views once their time has come."""
        for i, queue in enumerate(self.queues):
            queue.push(memory[f"queue{i}"], when=step >= self.queue_start_step)

    def _assign(self, view: int, scores: Any, devices: Devices) -> Any:
        """Returns the assignments of this device's samples, which those of all devices and of the queue bear on."""

        def of(rows: Any) -> Any:
            return sinkhorn(rows, epsilon=self.epsilon, iterations=self.sinkhorn_iterations)

        everywhere = devices.gather(ops.stop_gradient(scores))
        if not self.queues:
            return devices.mine(of(everywhere))
        queue = self.queues[view]
        past = ops.matmul(queue.keys.value, ops.stop_gradient(self.prototypes.value))
        both = ops.concatenate([past, everywhere], axis=0)
        return devices.mine(ops.cond(queue.full(), lambda: of(both)[queue.size :], lambda: of(everywhere)))


def _resolutions(batch: Batch) -> list[str]:
    return [name for name in ("views", "small_views") if name in batch]


def _view_by_view(views: Any) -> Any:
    """(B, V, H, W, C) to (V * B, H, W, C): the first view of all images, then the second one."""
    return ops.reshape(ops.swapaxes(views, 0, 1), (-1, *ops.shape(views)[2:]))


def _encoder(backbone: keras.Model) -> keras.Model:
    return keras.Model(backbone.input, pool(deepest(backbone)), name="encoder")


def _projector(channels: int, hidden: int, dim: int) -> keras.Model:
    features = keras.Input((channels,), name="features")
    return keras.Model(features, mlp(features, hidden, dim, name="projector", batch_norm=True), name="projector")
