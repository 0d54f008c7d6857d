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
from rsseg_tf.training.average import WeightAverage

__all__ = ["AccumulatingTrainStep", "PretrainStep", "TrainStep", "mean_over_replicas", "synchronise_batch_norm"]

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

    def _step(self) -> tf.Tensor:
        """Returns the number of steps taken, int32."""
        # Counted from the beginning of the run, also where it was resumed: random draws depend on it, so they repeat.
        return tf.cast(self.optimizer.iterations.value, tf.int32)

    def _distributed(self, batch: dict[str, Any]) -> dict[str, tf.Tensor]:
        step = self._step()
        self._before(step)
        values, memory = self.strategy.run(self._replica, args=(batch, step))
        self._after(step, {name: self.strategy.experimental_local_results(x)[0] for name, x in memory.items()})
        return self._means(values)

    def _means(self, values: dict[str, Any]) -> dict[str, tf.Tensor]:
        """Returns the means of the devices' values."""
        reduce = tf.distribute.ReduceOp.MEAN
        return {name: self.strategy.reduce(reduce, value, axis=None) for name, value in values.items()}

    def _replica(self, batch: dict[str, Any], step: tf.Tensor) -> tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        pairs, values, memory = self._gradients(batch, step, parts=1)
        self.optimizer.apply_gradients(pairs)
        return values, memory

    def _gradients(
        self, batch: dict[str, Any], step: tf.Tensor, *, parts: int
    ) -> tuple[list[tuple[tf.Tensor, keras.Variable]], dict[str, tf.Tensor], dict[str, tf.Tensor]]:
        """Returns gradients with their variables, values to log, and tensors for `_after`.

        Added up over all devices and over `parts` batches, the gradients are those of the mean loss (times the scale of
        the loss, which the optimizer takes off). Variables that have no part in the loss are left out.
        """
        variables = self.model.trainable_variables
        # Nothing is recorded for frozen parts, so that none of their activations is kept.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([variable.value for variable in variables])
            total, values, memory = self._forward(batch, step)
            # The optimizer adds up the gradients of the devices; this division turns their sum into their mean.
            scaled = self.optimizer.scale_loss(total / (self.strategy.num_replicas_in_sync * parts))
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        return pairs, {"loss": total, **values}, memory


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
        *,
        average: WeightAverage | None = None,
    ) -> None:
        """Prepares the step; the optimizer must be built.

        Args:
            model: What is trained.
            optimizer: Takes the gradients.
            losses: Loss and weight of each head.
            strategy: The devices.
            spec: How images are normalised.
            average: Moves after each step.
        """
        super().__init__(model, optimizer, strategy)
        self.losses, self.spec, self.average = losses, spec, average

    def _forward(self, batch: dict[str, Any], step: tf.Tensor) -> tuple[tf.Tensor, dict[str, Any], dict[str, Any]]:
        outputs = self.model(normalise(batch["image"], self.spec), training=True)
        values = {
            head: loss(outputs[head], batch["label"], mean=mean_over_replicas, seed=step)
            for head, (loss, _) in self.losses.items()
        }
        total = sum(weight * values[head] for head, (_, weight) in self.losses.items())
        return total, {f"loss_{head}": value for head, value in values.items()}, {}

    def _after(self, step: tf.Tensor, memory: dict[str, tf.Tensor]) -> None:
        if self.average is not None:
            self.average.move(self._step(), self.strategy)


class AccumulatingTrainStep(TrainStep):
    """A step of a segmentation model that takes its batch in equal parts, one after the other.

    It follows the mean of the parts' gradients, and needs the memory of one part, beside the sums of gradients. Each
    part's loss is normalised by its own pixels. So the step is that of the whole batch where the parts have equally
    many pixels that count (and nothing else looks at a whole batch, as batch normalisation does); a part with fewer of
    them counts as much as the others.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        losses: Losses,
        strategy: tf.distribute.Strategy,
        spec: DatasetSpec,
        *,
        parts: int,
        average: WeightAverage | None = None,
    ) -> None:
        """Prepares the step; see `TrainStep`.

        Args:
            model: As there.
            optimizer: As there.
            losses: As there.
            strategy: As there.
            spec: As there.
            parts: Of a batch; each device's share must be a multiple of it.
            average: As there.
        """
        super().__init__(model, optimizer, losses, strategy, spec, average=average)
        self.parts, self._sums = parts, _GradientSums(model, strategy)
        self._add_part, self._apply = tf.function(self._add), tf.function(self._take_step)

    def __call__(self, batch: dict[str, Any], learning_rate: float) -> dict[str, tf.Tensor]:
        """Takes one step; arguments and result as in `TrainStep`."""
        self.optimizer.learning_rate = learning_rate
        rows = [self._add_part(batch, tf.constant(part)) for part in range(self.parts)]
        self._apply()
        return {name: tf.reduce_mean([row[name] for row in rows]) for name in rows[0]}

    def _add(self, batch: dict[str, Any], part: tf.Tensor) -> dict[str, tf.Tensor]:
        """Adds the gradients of a part of the batch to the sums."""
        seed = self._step() * self.parts + part  # other random pixels in each part

        def replica(batch: dict[str, Any]) -> dict[str, tf.Tensor]:
            # A device's rows of the part; their number stays known where the batch's is.
            rows = {name: tf.reshape(x, (self.parts, -1, *x.shape[1:]))[part] for name, x in batch.items()}
            pairs, values, _ = self._gradients(rows, seed, parts=self.parts)
            self._sums.add(pairs)
            return values

        return self._means(self.strategy.run(replica, args=(batch,)))

    def _take_step(self) -> None:
        """Takes the step that the sums of the parts' gradients ask for."""

        def replica() -> None:
            self.optimizer.apply_gradients(self._sums.take())

        step = self._step()
        self.strategy.run(replica)
        self._after(step, {})


class _GradientSums:
    """Sums of gradients of several batches, on each device for itself.

    They are zero between two steps, and no part of a checkpoint.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy) -> None:
        with strategy.scope():
            self._sums = {
                variable.path: tf.Variable(
                    tf.zeros(variable.shape, variable.dtype),
                    trainable=False,
                    # A device's own value, read by no other device: the optimizer adds up gradients once for a step.
                    synchronization=tf.VariableSynchronization.ON_READ,
                    aggregation=tf.VariableAggregation.SUM,
                )
                for variable in model.trainable_variables
            }
        self._variables: list[keras.Variable] = []

    def add(self, pairs: list[tuple[tf.Tensor, keras.Variable]]) -> None:
        """Adds gradients; call it inside of `strategy.run`."""
        self._variables = [variable for _, variable in pairs]  # the same ones each time
        for gradient, variable in pairs:
            self._sums[variable.path].assign_add(gradient)

    def take(self) -> list[tuple[tf.Tensor, keras.Variable]]:
        """Returns the sums with their variables, and makes them zero; call it inside of `strategy.run`."""
        sums = [self._sums[variable.path] for variable in self._variables]
        values = [tf.identity(total) for total in sums]
        for total in sums:
            total.assign(tf.zeros_like(total))
        return list(zip(values, self._variables, strict=True))


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
