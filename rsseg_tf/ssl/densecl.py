"""DenseCL: MoCo for images, and once more for the cells of their feature maps.

Wang et al., Dense Contrastive Learning for Self-Supervised Visual Pre-Training, https://arxiv.org/abs/2011.09157.
Source: WXinlong/DenseCL, openselfsup/models/densecl.py; PASSL, configs/densecl/densecl_r50.yaml.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from rsseg_tf.ssl.contrast import contrast, info_nce
from rsseg_tf.ssl.heads import l2_normalise, mlp, pool
from rsseg_tf.ssl.method import BackboneBuilder, Batch, Devices, Method, Outcome, deepest
from rsseg_tf.ssl.moco_v2 import KeyBN, follow_with_key_bn
from rsseg_tf.ssl.monitors import alignment, spread
from rsseg_tf.ssl.queue import Queue

__all__ = ["DenseCL", "dense_contrast", "match_cells"]


def match_cells(query_features: Any, key_features: Any) -> Any:
    """Returns for each cell of the query's view the most similar cell of the key's.

    Args:
        query_features: (B, S, C), rows of length 1: the backbone's features, cell by cell.
        key_features: (B, S, C), rows of length 1.

    Returns:
        (B, S) int32 in [0, S).
    """
    similarity = ops.matmul(query_features, ops.transpose(key_features, (0, 2, 1)))
    return ops.cast(ops.argmax(similarity, axis=2), "int32")


def dense_contrast(query: Any, key: Any, match: Any, queue: Any, *, temperature: float) -> Any:
    """`info_nce` of every cell with the cell that it matches, averaged over all cells.

    Args:
        query: (B, S, D), rows of length 1.
        key: (B, S, D), rows of length 1; takes no gradient.
        match: (B, S) as from `match_cells`.
        queue: (K, D), rows of length 1; takes no gradient.
        temperature: Divides the similarities.

    Returns:
        A scalar.
    """
    dim = query.shape[-1]
    matched = ops.take_along_axis(key, match[..., None], axis=1)
    return info_nce(ops.reshape(query, (-1, dim)), ops.reshape(matched, (-1, dim)), queue, temperature=temperature)


class DenseCL(Method):
    """MoCo v2 for whole images, and the same contrast once more for the cells of their feature maps.

    A cell of the query's view is compared with the most similar cell of the key's. The options of `MoCoV2` mean the
    same here.
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
        dense_weight: float = 0.5,
        dense_warmup_steps: int = 0,
    ) -> None:
        """Builds both encoders and both queues.

        Args:
            build_backbone: Gives a new backbone.
            dim: As in `MoCoV2`.
            hidden: As in `MoCoV2`.
            queue_size: As in `MoCoV2`, for each of both queues.
            momentum: As in `MoCoV2`.
            temperature: As in `MoCoV2`.
            key_bn: As in `MoCoV2`.
            key_bn_splits: As in `MoCoV2`.
            dense_weight: Share of the cells' loss in the sum, 0..1; the rest is the images'.
            dense_warmup_steps: First steps in which that share is 0.
        """
        super().__init__(name="densecl")
        self.momentum, self.temperature, self.key_bn = momentum, temperature, key_bn
        self.dense_weight, self.dense_warmup_steps = dense_weight, dense_warmup_steps
        self.backbone = build_backbone()
        self.encoder = _encoder(self.backbone, hidden, dim)
        self.key_encoder, self.follower = follow_with_key_bn(
            self.encoder, lambda: _encoder(build_backbone(), hidden, dim), key_bn, key_bn_splits
        )
        self.queue = Queue(queue_size, dim, name="queue")
        self.dense_queue = Queue(queue_size, dim, name="dense_queue")

    def restart(self) -> None:
        """Makes the key encoder equal to the encoder."""
        self.follower.catch_up()

    def before_step(self, step: Any) -> None:
        """Moves the key encoder."""
        self.follower.move(1.0 - self.momentum)

    def objective(self, batch: Batch, *, step: Any, devices: Devices) -> Outcome:
        """Contrasts the first views, as queries, with the second ones, as keys."""
        outputs = self.encoder(batch["views"][:, 0], training=True)
        keys = self.key_encoder(batch["views"][:, 1], training=self.key_bn == "split")
        keys = {name: ops.stop_gradient(value) for name, value in keys.items()}

        query, key = l2_normalise(outputs["projection"]), l2_normalise(keys["projection"])
        image_loss, values = contrast(query, key, self.queue.keys.value, temperature=self.temperature)
        match = match_cells(ops.stop_gradient(_cells(outputs["features"])), _cells(keys["features"]))
        cell_loss = dense_contrast(
            _cells(outputs["dense"]), _cells(keys["dense"]), match, self.dense_queue.keys.value,
            temperature=self.temperature,
        )  # fmt: skip
        share = ops.where(step < self.dense_warmup_steps, 0.0, self.dense_weight)
        loss = (1.0 - share) * image_loss + share * cell_loss
        values |= {
            "loss_image": image_loss,
            "loss_cells": cell_loss,
            "spread": spread(outputs["projection"]),
            "alignment": alignment(query, key),
        }
        # One key of an image for all its cells, as in the official code: the mean of the output, then normalised.
        dense_key = l2_normalise(ops.mean(ops.cast(keys["dense"], "float32"), axis=(1, 2)))
        return Outcome(loss, values, {"keys": devices.gather(key), "dense_keys": devices.gather(dense_key)})

    def after_step(self, step: Any, memory: dict[str, Any]) -> None:
        """Enqueues the keys."""
        self.queue.push(memory["keys"])
        self.dense_queue.push(memory["dense_keys"])


def _cells(x: Any) -> Any:
    """(B, H, W, C) to (B, H * W, C), rows of length 1."""
    _, height, width, channels = ops.shape(x)
    return l2_normalise(ops.reshape(x, (-1, height * width, channels)))


def _encoder(backbone: keras.Model, hidden: int | None, dim: int) -> keras.Model:
    features = deepest(backbone)
    inside = hidden or features.shape[-1]
    outputs = {
        "features": features,
        "projection": mlp(pool(features), inside, dim, name="projector", batch_norm=False),
        "dense": mlp(features, inside, dim, name="dense_projector", batch_norm=False),
    }
    return keras.Model(backbone.input, outputs, name="encoder")
