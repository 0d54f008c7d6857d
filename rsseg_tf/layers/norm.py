"""Batch normalisation with PaddleSeg's momentum and epsilon, and normalisation of each pixel by itself."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["BatchNorm", "LayerNorm"]


@keras.saving.register_keras_serializable(package="rsseg_tf")
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis with momentum 0.9 and a biased running variance.

    The pooled features (B, 1, 1, C) of a training batch of one image have no variance. As in PaddleSeg, the layer
    then passes them on as they are and leaves its running statistics alone; Keras' own layer would return beta and
    pull the running variance towards zero. This needs the height and width of 1 to be known when the graph is built.

    Args:
        epsilon: What is added to the variance; 1e-5 is PaddleSeg's.
        synchronized: Whether training statistics are taken over all replicas of the batch. It may be switched on later
            by setting the attribute, before the first training step is traced. A batch is then taken to have more than
            one value per channel, so it is meant for two or more replicas.
        affine: Whether there are a scale and an offset to learn.
        splits: Number of equal parts of the batch, each normalised by its own statistics in training, as if they lay on
            that many devices; the batch must be a multiple of it. It may be set later, as `synchronized`.
        name: Name of the layer.
        trainable: Where it is False the layer normalises with its running statistics in training too.
        dtype: Name of a dtype or a `keras.DTypePolicy`. Statistics and variables are float32 in any case.
    """

    def __init__(
        self,
        *,
        epsilon: float = 1e-5,
        synchronized: bool = False,
        affine: bool = True,
        splits: int = 1,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            momentum=0.9,
            epsilon=epsilon,
            center=affine,
            scale=affine,
            synchronized=synchronized,
            name=name,
            trainable=trainable,
            dtype=dtype,
        )
        self.splits = splits

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Normalises (B, ..., C) floating point; the result has the dtype that the policy computes in."""
        if self.splits > 1 and training and self.trainable:
            return self._normalise_parts(inputs)
        pooled = all(size == 1 for size in inputs.shape[1:-1])
        if not (training and self.trainable and pooled) or self.synchronized:
            return super().call(inputs, training=training)
        x = ops.cast(inputs, "float32")
        axes = tuple(range(len(x.shape) - 1))
        mean, variance = ops.moments(x, axes=axes)
        single = ops.equal(ops.size(x), x.shape[-1])
        momentum = ops.where(single, 1.0, self.momentum)
        self.moving_mean.assign(self.moving_mean * momentum + mean * (1.0 - momentum))
        self.moving_variance.assign(self.moving_variance * momentum + variance * (1.0 - momentum))
        y = ops.batch_normalization(
            x, mean, variance, axis=-1, offset=self.beta, scale=self.gamma, epsilon=self.epsilon
        )
        return ops.cast(ops.where(single, x, y), self.compute_dtype)

    def _normalise_parts(self, inputs: Any) -> Any:
        """Normalises each of the `splits` parts of the batch by itself."""
        x = ops.cast(inputs, "float32")
        shape = ops.shape(x)
        parts = ops.reshape(x, (self.splits, shape[0] // self.splits, *shape[1:]))
        mean, variance = ops.moments(parts, axes=tuple(range(1, len(parts.shape) - 1)), keepdims=True)
        for moving, values in ((self.moving_mean, mean), (self.moving_variance, variance)):
            value = ops.reshape(ops.mean(values, axis=0), (-1,))
            moving.assign(moving * self.momentum + value * (1.0 - self.momentum))
        y = (parts - mean) * ops.rsqrt(variance + self.epsilon)
        if self.scale:
            y = y * self.gamma + self.beta
        return ops.cast(ops.reshape(y, shape), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "epsilon": self.epsilon,
            "synchronized": self.synchronized,
            "affine": self.scale,
            "splits": self.splits,
        }


@keras.saving.register_keras_serializable(package="rsseg_tf")
class LayerNorm(keras.layers.LayerNormalization):
    """Normalisation over the channels of each pixel, in float32, with the mean taken off before the scale.

    Keras's own multiplies a value and its mean by the scale and subtracts then, which loses digits where the mean is
    large beside the spread, most of all in whole numbers.

    Args:
        epsilon: What is added to the variance; 1e-5 is torch's default.
        name: Name of the layer.
        trainable: Whether scale and offset are trained.
        dtype: Name of a dtype or a `keras.DTypePolicy`. Statistics and variables are float32 in any case.
    """

    def __init__(
        self, *, epsilon: float = 1e-5, name: str | None = None, trainable: bool = True, dtype: Any = None
    ) -> None:
        super().__init__(epsilon=epsilon, name=name, trainable=trainable, dtype=dtype)

    def call(self, inputs: Any) -> Any:
        """Normalises (B, ..., C) floating point; the result has the dtype that the policy computes in."""
        x = ops.cast(inputs, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(x * x, axis=-1, keepdims=True)
        y = x * ops.rsqrt(variance + self.epsilon)
        return ops.cast(y * self.gamma + self.beta, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "epsilon": self.epsilon,
        }
