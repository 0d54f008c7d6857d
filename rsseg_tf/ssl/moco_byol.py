"""MoCo-BYOL, PASSL's own: BYOL's prediction of a moving target, with a little of MoCo's contrast beside it.

Grill et al., Bootstrap Your Own Latent, https://arxiv.org/abs/2006.07733, and MoCo (see `moco_v2`).
Source: PASSL, passl/modeling/architectures/MoCoBYOL.py, configs/moco_byol/moco_byol_r50_IM.yaml.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rsseg_tf.ssl.contrast import contrast, info_nce
from rsseg_tf.ssl.heads import l2_normalise, mlp, pool
from rsseg_tf.ssl.method import BackboneBuilder, Batch, Devices, Method, Outcome, deepest
from rsseg_tf.ssl.momentum import cosine_rate, follow
from rsseg_tf.ssl.monitors import alignment, spread
from rsseg_tf.ssl.queue import Queue
from rsseg_tf.ssl.simsiam import negative_cosine

__all__ = ["MoCoBYOL", "byol_loss"]


def byol_loss(prediction: Any, target: Any) -> Any:
    """Returns 2 - 2 * the mean cosine of the rows (N, D); `target` takes no gradient."""
    return 2.0 + 2.0 * negative_cosine(prediction, target)


class MoCoBYOL(Method):
    """Views predict each other's projection by a slowly moving target encoder, with a little contrast against a queue.

    The prediction goes through the predictor; the contrast compares the projections themselves.
    """

    def __init__(
        self,
        build_backbone: BackboneBuilder,
        *,
        steps: int,
        dim: int = 256,
        hidden: int = 4096,
        queue_size: int = 65536,
        momentum: float = 0.99,
        temperature: float = 0.2,
        contrast_weight: float = 0.03,
    ) -> None:
        """Builds the encoder, the one that follows it, the predictor and the queue.

        Args:
            build_backbone: Gives a new backbone.
            steps: Of the whole run; the momentum reaches 1 at its end.
            dim: Channels of projections and predictions.
            hidden: Channels inside projector and predictor.
            queue_size: Keys to keep; twice the batch must divide it, because both views are enqueued.
            momentum: Of the first step.
            temperature: Of the contrast.
            contrast_weight: Weight of each of both contrasts.
        """
        super().__init__(name="moco_byol")
        self.steps, self.momentum, self.temperature = steps, momentum, temperature
        self.contrast_weight = contrast_weight
        self.backbone = build_backbone()
        self.encoder = _encoder(self.backbone, hidden, dim)
        self.key_encoder, self.follower = follow(self.encoder, lambda: _encoder(build_backbone(), hidden, dim))
        self.predictor = _predictor(dim, hidden)
        self.queue = Queue(queue_size, dim, name="queue")

    def restart(self) -> None:
        """Makes the key encoder equal to the encoder."""
        self.follower.catch_up()

    def before_step(self, step: Any) -> None:
        """Moves the target encoder."""
        self.follower.move(cosine_rate(step, self.steps, self.momentum))

    def objective(self, batch: Batch, *, step: Any, devices: Devices) -> Outcome:
        """Predicts and contrasts both views, each with the other as the target encoder sees it."""
        one, other = batch["views"][:, 0], batch["views"][:, 1]
        count = ops.shape(one)[0]
        # One pass for both views, so that batch statistics are of both.
        projection = self.encoder(ops.concatenate([one, other], axis=0), training=True)
        target = ops.stop_gradient(self.key_encoder(ops.concatenate([other, one], axis=0), training=True))
        prediction_loss = byol_loss(self.predictor(projection, training=True), target)

        query, key = l2_normalise(projection), l2_normalise(target)
        queue, temperature = self.queue.keys.value, self.temperature
        first, values = contrast(query[:count], key[:count], queue, temperature=temperature)
        second = info_nce(query[count:], key[count:], queue, temperature=temperature)
        loss = prediction_loss + self.contrast_weight * (first + second)
        values |= {
            "loss_prediction": prediction_loss,
            "loss_contrast": first + second,
            "spread": spread(projection),
            "alignment": alignment(projection[:count], projection[count:]),
        }
        # View by view, so that the order of the queue does not depend on the number of devices.
        keys = ops.concatenate([devices.gather(key[:count]), devices.gather(key[count:])], axis=0)
        return Outcome(loss, values, {"keys": keys})

    def after_step(self, step: Any, memory: dict[str, Any]) -> None:
        """Enqueues the targets of both views."""
        self.queue.push(memory["keys"])


def _encoder(backbone: keras.Model, hidden: int, dim: int) -> keras.Model:
    x = mlp(pool(deepest(backbone)), hidden, dim, name="projector", batch_norm=True)
    return keras.Model(backbone.input, x, name="encoder")


def _predictor(dim: int, hidden: int) -> keras.Model:
    projection = keras.Input((dim,), name="projection")
    return keras.Model(projection, mlp(projection, hidden, dim, name="predictor", batch_norm=True), name="predictor")
