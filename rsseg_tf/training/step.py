"""One optimizer step on all devices."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from rsseg_tf.build import HeadLoss

__all__ = ["TrainStep", "mean_over_replicas", "synchronise_batch_norm"]

Losses = dict[str, tuple[HeadLoss, float]]


def mean_over_replicas(values: tf.Tensor) -> tf.Tensor:
    """Returns the mean of `values` over all elements of all devices; call it inside `strategy.run`."""
    mean = keras.ops.mean(values)
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, mean)


def synchronise_batch_norm(model: keras.Model) -> None:
    """Makes every batch normalisation take its statistics over the batch of all devices, not of each one."""
    # `model.layers` are the outer ones only; models may lie within models (c2fnet).
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True


class TrainStep:
    """Forward, backward and update, compiled once.

    One step is one call. Packing several into a call would hide from the loop which files a batch came from and how
    long it waited for them, and saves nothing that can be measured beside a segmentation network.

    Losses are normalised by the pixels of the whole batch, not of each device's share, so that the number of devices
    does not change the result.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        losses: Losses,
        strategy: tf.distribute.Strategy,
    ) -> None:
        """Takes what a step needs; the optimizer must be built."""
        self.model, self.optimizer, self.losses, self.strategy = model, optimizer, losses, strategy
        self._run = tf.function(self._distributed)

    def __call__(self, batch: dict[str, Any], learning_rate: float) -> dict[str, tf.Tensor]:
        """Takes one step.

        Args:
            batch: `image` and `label`, one element of the (distributed) dataset.
            learning_rate: of this step.

        Returns:
            Float32 scalars: `loss`, the weighted sum, and `loss_<head>` for each head, unweighted.
        """
        self.optimizer.learning_rate = learning_rate
        return self._run(batch["image"], batch["label"])

    def _distributed(self, image: Any, label: Any) -> dict[str, tf.Tensor]:
        values = self.strategy.run(self._replica, args=(image, label))
        reduce = tf.distribute.ReduceOp.MEAN
        return {name: self.strategy.reduce(reduce, value, axis=None) for name, value in values.items()}

    def _replica(self, image: tf.Tensor, label: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = self.model(image, training=True)
            # The step of the run, which a resumed one goes on counting: draws repeat.
            step = tf.cast(self.optimizer.iterations.value, tf.int32)
            values = {
                head: loss(outputs[head], label, mean=mean_over_replicas, seed=step)
                for head, (loss, _) in self.losses.items()
            }
            total = sum(weight * values[head] for head, (_, weight) in self.losses.items())
            # The optimizer adds up the gradients of the devices; dividing here makes that their mean.
            scaled = self.optimizer.scale_loss(total / self.strategy.num_replicas_in_sync)
        variables = self.model.trainable_variables
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        self.optimizer.apply_gradients(pairs)
        return {"loss": total, **{f"loss_{head}": value for head, value in values.items()}}
