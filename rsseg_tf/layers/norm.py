"""Batch normalisation with PaddleSeg's momentum and epsilon, and normalisation of each pixel by itself."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

from rsseg_tf.layers.constants import shared_constant

__all__ = ["BatchNorm", "LayerNorm"]

_FUSED_DTYPES = ("float32", "float16", "bfloat16")


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
        if not (training and self.trainable):
            return super().call(inputs, training=training)
        if self.splits > 1:
            return self._normalise_parts(inputs)
        if self.synchronized:
            return super().call(inputs, training=training)
        if all(size == 1 for size in inputs.shape[1:-1]):
            return self._normalise_pooled(inputs)
        if keras.config.backend() == "tensorflow" and len(inputs.shape) == 4 and inputs.dtype in _FUSED_DTYPES:
            return self._normalise_fused(inputs)
        return super().call(inputs, training=training)

    def _normalise_pooled(self, inputs: Any) -> Any:
        """Normalises pooled features, or passes those of one image on."""
        x = ops.cast(inputs, "float32")
        axes = tuple(range(len(x.shape) - 1))
        mean, variance = ops.moments(x, axes=axes)
        single = ops.equal(ops.size(x), x.shape[-1])
        momentum = ops.where(single, 1.0, self.momentum)
        self._move(mean, variance, momentum, 1.0 - momentum)
        y = ops.batch_normalization(
            x, mean, variance, axis=-1, offset=self.beta, scale=self.gamma, epsilon=self.epsilon
        )
        return ops.cast(ops.where(single, x, y), self.compute_dtype)

    def _normalise_fused(self, inputs: Any) -> Any:
        """Normalises by one operation of TensorFlow, which keeps less for the gradient than what Keras composes."""
        import tensorflow as tf

        channels = inputs.shape[-1]
        none = shared_constant(())
        y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.convert_to_tensor(self.gamma) if self.scale else tf.ones((channels,)),
            offset=ops.convert_to_tensor(self.beta) if self.center else tf.zeros((channels,)),
            mean=none,
            variance=none,
            epsilon=self.epsilon,
            is_training=True,
        )
        momentum, rest = shared_constant(self.momentum), shared_constant(1.0 - self.momentum)
        self._move(mean, variance * _biased(inputs), momentum, rest)
        return ops.cast(y, self.compute_dtype)

    def _move(self, mean: Any, variance: Any, momentum: Any, rest: Any) -> None:
        """Moves the running statistics towards those of a batch, each (C,); `rest` is 1 - momentum."""
        self.moving_mean.assign(self.moving_mean * momentum + mean * rest)
        self.moving_variance.assign(self.moving_variance * momentum + variance * rest)

    def _normalise_parts(self, inputs: Any) -> Any:
        """Normalises each of the `splits` parts of the batch by itself."""
        x = ops.cast(inputs, "float32")
        shape = ops.shape(x)
        parts = ops.reshape(x, (self.splits, shape[0] // self.splits, *shape[1:]))
        mean, variance = ops.moments(parts, axes=tuple(range(1, len(parts.shape) - 1)), keepdims=True)
        means, variances = (ops.reshape(ops.mean(values, axis=0), (-1,)) for values in (mean, variance))
        self._move(means, variances, self.momentum, 1.0 - self.momentum)
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


def _biased(inputs: Any) -> Any:
    """Returns what makes a biased variance over all axes but the last of an unbiased one, which TensorFlow gives."""
    sizes = inputs.shape[:-1]
    if None not in sizes:  # a number costs a graph less than operations for it
        count = math.prod(sizes)
        return shared_constant((count - 1) / count)
    number = ops.cast(ops.prod(ops.shape(inputs)[:-1]), "float32")
    return (number - 1.0) / number


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
