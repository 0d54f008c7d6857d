"""One optimizer step on all devices."""

from __future__ import annotations

import abc
from typing import Any

import keras
import tensorflow as tf

from rsseg_tf.build import HeadLoss
from rsseg_tf.data.augment import normalise
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.layers import BatchNorm
from rsseg_tf.ssl import Method

__all__ = ["PretrainStep", "TrainStep", "mean_over_replicas", "synchronise_batch_norm"]

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
        # MoCo normalises keys in parts of a device's batch on purpose: statistics of the whole batch leak the answer.
        in_parts = isinstance(layer, BatchNorm) and layer.splits > 1
        if isinstance(layer, keras.layers.BatchNormalization) and not in_parts:
            layer.synchronized = True


class _Step(abc.ABC):
    """Forward, backward and update, compiled once.

    One call takes one step. Several steps in a call would hide from the loop which files a batch came from and how long
    it waited for them; beside a segmentation network the time that they save is too small to measure.
    """

    def __init__(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer, strategy: tf.distribute.Strategy
    ) -> None:
        self.model, self.optimizer, self.strategy = model, optimizer, strategy
        self._run = tf.function(self._distributed)

    def __call__(self, batch: dict[str, Any], learning_rate: float) -> dict[str, tf.Tensor]:
        """Takes one step.

        Args:
            batch: One element of the (distributed) dataset.
            learning_rate: Learning rate of this step.

        Returns:
            Float32 scalars to log: `loss`, which is minimised, and its parts.
        """
        self.optimizer.learning_rate = learning_rate
        return self._run(batch)

    @abc.abstractmethod
    def _forward(self, batch: dict[str, Any], step: tf.Tensor) -> tuple[tf.Tensor, dict[str, Any], dict[str, Any]]:
        """Runs on each device; returns the loss, values to log, and tensors for `_after`."""

    def _before(self, step: tf.Tensor) -> None:
        """Runs once before the devices do; does nothing by default."""
        return None  # AutoGraph warns about functions that hold a docstring only

    def _after(self, step: tf.Tensor, memory: dict[str, tf.Tensor]) -> None:
        """Runs once after the devices, with the tensors of the first one; does nothing by default."""
        return None

    def _distributed(self, batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        # Counted from the beginning of the run, also where it was resumed: random draws depend on it, so they repeat.
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        self._before(step)
        values, memory = self.strategy.run(self._replica, args=(batch, step))
        self._after(step, {name: self.strategy.experimental_local_results(x)[0] for name, x in memory.items()})
        reduce = tf.distribute.ReduceOp.MEAN
        return {name: self.strategy.reduce(reduce, value, axis=None) for name, value in values.items()}

    def _replica(self, batch: dict[str, Any], step: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        with tf.GradientTape() as tape:
            total, values, memory = self._forward(batch, step)
            # The optimizer adds up the gradients of the devices; this division turns their sum into their mean.
            scaled = self.optimizer.scale_loss(total / self.strategy.num_replicas_in_sync)
        variables = self.model.trainable_variables
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        self.optimizer.apply_gradients(pairs)
        return {"loss": total, **values}, memory


class TrainStep(_Step):
    """A step of a segmentation model; batches are those of `rsseg_tf.data.train_batches`, normalised on the device.

    Losses are normalised by the pixels of the whole batch, not of each device's share, so that the number of devices
    does not change the result. The heads' losses are logged unweighted.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        losses: Losses,
        strategy: tf.distribute.Strategy,
        spec: DatasetSpec,
    ) -> None:
        """Prepares the step; the optimizer must be built, and `spec` says how images are normalised."""
        super().__init__(model, optimizer, strategy)
        self.losses, self.spec = losses, spec

    def _forward(self, batch: dict[str, Any], step: tf.Tensor) -> tuple[tf.Tensor, dict[str, Any], dict[str, Any]]:
        outputs = self.model(normalise(batch["image"], self.spec), training=True)
        values = {
            head: loss(outputs[head], batch["label"], mean=mean_over_replicas, seed=step)
            for head, (loss, _) in self.losses.items()
        }
        total = sum(weight * values[head] for head, (_, weight) in self.losses.items())
        return total, {f"loss_{head}": value for head, value in values.items()}, {}


class PretrainStep(_Step):
    """A step of a self-supervised method; batches are those of `rsseg_tf.data.view_batches`."""

    def __init__(self, method: Method, optimizer: keras.optimizers.Optimizer, strategy: tf.distribute.Strategy) -> None:
        """Prepares the step; the optimizer must be built."""
        super().__init__(method, optimizer, strategy)
        self.devices = _Replicas()

    def _before(self, step: tf.Tensor) -> None:
        self.model.before_step(step)

    def _forward(self, batch: dict[str, Any], step: tf.Tensor) -> tuple[tf.Tensor, dict[str, Any], dict[str, Any]]:
        outcome = self.model.objective(batch, step=step, devices=self.devices)
        return outcome.loss, outcome.values, outcome.memory

    def _after(self, step: tf.Tensor, memory: dict[str, tf.Tensor]) -> None:
        self.model.after_step(step, memory)


class _Replicas:
    """Lets a device reach the others inside of `strategy.run`; see `rsseg_tf.ssl.method.Devices`."""

    def gather(self, x: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return x if context.num_replicas_in_sync == 1 else context.all_gather(x, axis=0)

    def mine(self, x: tf.Tensor) -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        rows = tf.shape(x)[0] // context.num_replicas_in_sync
        place = context.replica_id_in_sync_group
        return x[place * rows : (place + 1) * rows]
