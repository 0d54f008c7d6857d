"""MoCo v2: a query is matched with its key, from a slowly moving encoder, among a queue of other keys.

Chen et al., Improved Baselines with Momentum Contrastive Learning, https://arxiv.org/abs/2003.04297.
Source: facebookresearch/moco, moco/builder.py; PASSL, configs/moco/moco_v2_r50.yaml.
"""

from __future__ import annotations

from typing import Any, Literal

import keras

from rsseg_tf.layers import BatchNorm
from rsseg_tf.ssl.contrast import contrast
from rsseg_tf.ssl.heads import l2_normalise, mlp, pool
from rsseg_tf.ssl.method import BackboneBuilder, Batch, Devices, Method, Outcome, deepest
from rsseg_tf.ssl.momentum import follow
from rsseg_tf.ssl.monitors import alignment, spread
from rsseg_tf.ssl.queue import Queue

__all__ = ["KeyBN", "MoCoV2", "follow_with_key_bn"]

KeyBN = Literal["ema_stats", "split"]


class MoCoV2(Method):
    """Queries from one view find their keys, from the other view, among a queue of earlier keys.

    The keys come from an encoder that follows the trained one slowly, so that the queue's keys stay comparable.

    The official code shuffles the batch over its devices before the keys are computed, so that the statistics of the
    batch do not give a query its key away. On one device there is nothing to shuffle. `key_bn` names two substitutes:

    - `split`: the keys are normalised in `key_bn_splits` parts of the batch, as on that many devices, and the queries
      all together, so that a query and its key never share their statistics.
    - `ema_stats`: the key encoder normalises with running statistics, which follow the query encoder's, as PASSL does.
    """

    def __init__(
        self,
        build_backbone: BackboneBuilder,
        *,
        dim: int = 128,
        hidden: int | None = None,
        queue_size: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        key_bn: KeyBN = "split",
        key_bn_splits: int = 8,
    ) -> None:
        """Builds both encoders and the queue.

        Args:
            build_backbone: Gives a new backbone.
            dim: Channels of queries and keys.
            hidden: Channels inside the head; None takes those of the backbone.
            queue_size: Keys to keep; the batch must divide it.
            momentum: Of the key encoder.
            temperature: Of the loss.
            key_bn: See the class.
            key_bn_splits: Parts of a device's batch for `split`, which they must divide.
        """
        super().__init__(name="moco_v2")
        self.momentum, self.temperature, self.key_bn = momentum, temperature, key_bn
        self.backbone = build_backbone()
        self.encoder = _encoder(self.backbone, hidden, dim)
        self.key_encoder, self.follower = follow_with_key_bn(
            self.encoder, lambda: _encoder(build_backbone(), hidden, dim), key_bn, key_bn_splits
        )
        self.queue = Queue(queue_size, dim, name="queue")

    def restart(self) -> None:
        """Makes the key encoder equal to the encoder."""
        self.follower.catch_up()

    def before_step(self, step: Any) -> None:
        """Moves the key encoder."""
        self.follower.move(1.0 - self.momentum)

    def objective(self, batch: Batch, *, step: Any, devices: Devices) -> Outcome:
        """Contrasts the first views, as queries, with the second ones, as keys."""
        projection = self.encoder(batch["views"][:, 0], training=True)
        query = l2_normalise(projection)
        key = l2_normalise(self.key_encoder(batch["views"][:, 1], training=self.key_bn == "split"))
        key = keras.ops.stop_gradient(key)
        loss, values = contrast(query, key, self.queue.keys.value, temperature=self.temperature)
        values |= {"spread": spread(projection), "alignment": alignment(query, key)}
        return Outcome(loss, values, {"keys": devices.gather(key)})

    def after_step(self, step: Any, memory: dict[str, Any]) -> None:
        """Enqueues the keys."""
        self.queue.push(memory["keys"])


def follow_with_key_bn(leader: keras.Model, build: BackboneBuilder, key_bn: KeyBN, splits: int) -> Any:
    """Returns a key encoder and its follower, with the batch normalisation that `MoCoV2` describes."""
    network, follower = follow(leader, build, statistics=key_bn == "ema_stats")
    if key_bn == "split":
        for layer in network.layers:
            if isinstance(layer, BatchNorm):
                layer.splits = splits
    return network, follower


def _encoder(backbone: keras.Model, hidden: int | None, dim: int) -> keras.Model:
    features = deepest(backbone)
    x = mlp(pool(features), hidden or features.shape[-1], dim, name="projector", batch_norm=False)
    return keras.Model(backbone.input, x, name="encoder")
