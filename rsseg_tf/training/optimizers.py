"""Optimizers, built from a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from rsseg_tf.config import schema
from rsseg_tf.config.pretrain import LARSSection
from rsseg_tf.layers import shared_constant

__all__ = ["LARS", "DecoupledAdam", "MomentumSGD", "build_optimizer"]


def build_optimizer(
    config: schema.PlainSGD | schema.PlainAdamW | LARSSection,
    *,
    precision: str = "fp32",
    constant_paths: Sequence[str] = (),
    constant_rate: float = 0.0,
    backbone_paths: Sequence[str] = (),
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a config; the loop sets its learning rate before each step.

    Args:
        config: Kind and numbers.
        precision: `fp16` adds loss scaling, which starts at 1024 as in PaddleSeg; other types do not need it.
        constant_paths: Prefixes of the paths of variables that do not follow the loop's learning rate.
        constant_rate: The learning rate of those.
        backbone_paths: Paths of the variables whose rate is `backbone_lr_factor` times the loop's.
    """
    options: dict[str, Any] = {
        "constant_paths": tuple(constant_paths),
        "constant_rate": constant_rate,
        "clip_norm": config.clip_norm,
        "clip_value": config.clip_value,
    }
    factor = getattr(config, "backbone_lr_factor", 1.0)
    if factor != 1.0:
        options |= {"scaled_paths": tuple(backbone_paths), "rate_factor": factor}
    # All begin with a rate of 0: the loop sets the rate before each step, and a step without one would show.
    optimizer: keras.optimizers.Optimizer
    if isinstance(config, schema.PlainSGD):
        own = config.model_dump(include={"momentum", "exclude_1d"})
        optimizer = MomentumSGD(0.0, l2=config.weight_decay, **own, **options)
    elif isinstance(config, LARSSection):
        own = config.model_dump(include={"variant", "momentum", "trust", "epsilon", "exclude_1d"})
        optimizer = LARS(0.0, l2=config.weight_decay, **own, **options)
    else:
        numbers = config.model_dump(include={"beta_1", "beta_2", "weight_decay", "exclude_1d"})
        optimizer = DecoupledAdam(0.0, name="adamw", **numbers, **options)
    if precision == "fp16":
        return _LossScale(optimizer, name="loss_scale_optimizer", initial_scale=1024.0)
    return optimizer


class _Optimizer(keras.optimizers.Optimizer):
    """Rates of variables that are not the loop's, and limits of gradients; mixed into any of Keras's optimizers.

    The limits act on the gradient of the whole batch: after the devices' gradients are added up, after the scale of
    the loss is taken off them, before decay is added. Keras's own options (`global_clipnorm` and others) act on each
    device's gradients by themselves, so that the result would depend on the number of devices.
    """

    def __init__(
        self,
        learning_rate: float,
        *,
        constant_paths: Sequence[str] = (),
        constant_rate: float = 0.0,
        scaled_paths: Sequence[str] = (),
        rate_factor: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        exclude_1d: bool = False,
        **options: Any,
    ) -> None:
        """Sets rates, limits, and what does not decay.

        Args:
            learning_rate: For all variables but those below.
            constant_paths: Prefixes of the paths of variables that keep `constant_rate`.
            constant_rate: See `constant_paths`.
            scaled_paths: Prefixes of the paths of variables that follow `rate_factor` times the learning rate.
            rate_factor: See `scaled_paths`.
            clip_norm: Gradients whose norm over all variables is larger are made shorter, all by one factor.
            clip_value: Each number of a gradient is limited to -clip_value..clip_value, before its norm is taken.
            exclude_1d: Whether vectors (biases, scales and offsets of normalisations) do not decay.
            **options: Of the optimizer.
        """
        super().__init__(learning_rate=learning_rate, **options)
        self.constant_paths, self.constant_rate = tuple(constant_paths), constant_rate
        self.scaled_paths, self.rate_factor = tuple(scaled_paths), rate_factor
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.exclude_1d = exclude_1d
        self._constant: set[int] = set()
        self._scaled: set[int] = set()

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Notes which variables have rates of their own."""
        super().build(variables)
        self._constant = {i for i, v in enumerate(variables) if v.path.startswith(self.constant_paths)}
        self._scaled = {i for i, v in enumerate(variables) if v.path.startswith(self.scaled_paths)} - self._constant

    def _rate(self, variable: Any, learning_rate: Any) -> Any:
        """Returns the learning rate of a variable, in its dtype."""
        index = self._get_variable_index(variable)
        rate = keras.ops.cast(self.constant_rate if index in self._constant else learning_rate, variable.dtype)
        return rate * self.rate_factor if index in self._scaled else rate

    def _excluded(self, variable: Any) -> bool:
        """Whether a variable does not decay."""
        return self.exclude_1d and len(variable.shape) <= 1

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> list[tuple[Any, Any]]:
        """Adds up the gradients of the devices (Keras's part) and limits the sums."""
        pairs = grads_and_vars
        if self._distribution_strategy.num_replicas_in_sync > 1:  # Keras copies the gradients of one device
            pairs = super()._all_reduce_sum_gradients(pairs)
        if self.clip_value is not None:
            pairs = [(keras.ops.clip(g, -self.clip_value, self.clip_value), v) for g, v in pairs]
        if self.clip_norm is not None:
            squares = [keras.ops.sum(keras.ops.square(keras.ops.cast(g, "float32"))) for g, _ in pairs]
            norm = keras.ops.sqrt(keras.ops.sum(keras.ops.stack(squares)))
            # As Paddle's ClipGradByGlobalNorm: exactly 1 below the limit.
            factor = self.clip_norm / keras.ops.maximum(norm, self.clip_norm)
            pairs = [(g * keras.ops.cast(factor, g.dtype), v) for g, v in pairs]
        return list(pairs)

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        """Updates all variables; the learning rate is read once, where Keras reads it again for each of them."""
        super()._backend_update_step(grads, trainable_variables, tf.convert_to_tensor(learning_rate))

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        own = (
            "constant_paths",
            "constant_rate",
            "scaled_paths",
            "rate_factor",
            "clip_norm",
            "clip_value",
            "exclude_1d",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


class _LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras's loss scaling; a step is skipped where the gradients of any device overflow.

    Keras asks the first device alone, so that an overflow on another one would get into the weights.
    """

    def check_finite(self, grads: Any) -> Any:
        """Returns whether the gradients of all devices are finite."""
        overflows = keras.ops.cast(keras.ops.logical_not(super().check_finite(grads)), "float32")
        total = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, overflows)
        return keras.ops.equal(total, 0.0)


class DecoupledAdam(_Optimizer, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, whose decay of a variable follows that variable's own learning rate."""

    def _apply_weight_decay(self, variables: Any) -> None:
        """Does nothing: Keras would take one rate for all variables; `update_step` takes the variable's."""

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Takes one step for one variable."""
        rate = self._rate(variable, learning_rate)
        if not self._excluded(variable):
            decay = keras.ops.cast(self.weight_decay, variable.dtype)
            self.assign_sub(variable, variable * decay * rate)
        super().update_step(gradient, variable, rate)


class _Momentum(_Optimizer):
    """A velocity for each variable."""

    def __init__(self, learning_rate: float, *, momentum: float, l2: float, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.momentum = momentum
        self.l2 = l2
        self._velocities: list[keras.Variable] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates one velocity for each variable."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {**super().get_config(), "momentum": self.momentum, "l2": self.l2}


class MomentumSGD(_Momentum):
    """SGD with momentum and coupled L2 decay, in the arithmetic of Paddle, which the benchmark was trained with.

        g = gradient + l2 * w
        v = momentum * v + g
        w = w - learning_rate * v

    Two things differ from `keras.optimizers.SGD`: the learning rate is outside of the velocity, so a decaying rate
    acts on past gradients too (Paddle's `Momentum` and PyTorch's `SGD` do so), and the decay goes through the momentum,
    where Keras's `weight_decay` is decoupled. Every trained parameter decays, batch-norm scales and biases included
    unless `exclude_1d` is set; one without a gradient does not.
    """

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.9, l2: float = 0.0, **options: Any) -> None:
        super().__init__(learning_rate, momentum=momentum, l2=l2, **options)

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Takes one step for one variable."""
        velocity = self._velocities[self._get_variable_index(variable)]
        gradient = keras.ops.cast(gradient, variable.dtype)
        if self.l2 and not self._excluded(variable):
            gradient = gradient + shared_constant(self.l2, gradient.dtype) * variable
        # The rate stays outside of the velocity, see the class. One operation needs no arrays for what is in between.
        tf.raw_ops.ResourceApplyMomentum(
            var=_handle(variable),
            accum=_handle(velocity),
            lr=self._rate(variable, learning_rate),
            grad=gradient,
            momentum=shared_constant(self.momentum, gradient.dtype),
        )


def _handle(variable: Any) -> Any:
    """Returns the handle of a variable's copy on the device that updates it."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


class LARS(_Momentum):
    """Momentum SGD whose learning rate for each variable is proportional to |w| / |gradient|.

    You et al., Large Batch Training of Convolutional Networks, https://arxiv.org/abs/1708.03888, as three codes
    implement it (the ratio applies where both norms are above 0):

    - `pixpro` (zdaxie/PixPro): g = gradient + l2 * w; g *= trust * |w| / (|g| + epsilon), else unchanged;
      v = momentum * v + g; w -= rate * v.
    - `larc` (apex, used by SwAV): g = trust * |w| / (|gradient| + l2 * |w| + epsilon) * (gradient + l2 * w), else the
      gradient, without decay; v and w as above.
    - `paddle` (used by PASSL's MoCo-BYOL): the ratio of `larc`, but the rate lies inside of the velocity:
      v = momentum * v + rate * ratio * (gradient + l2 * w); w -= v. Without decay the ratio is 1.

    With `exclude_1d` vectors (biases, scales and offsets of normalisations) take plain steps without decay.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        *,
        variant: Literal["pixpro", "larc", "paddle"],
        momentum: float = 0.9,
        l2: float = 0.0,
        trust: float = 0.001,
        epsilon: float = 1e-8,
        exclude_1d: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate, momentum=momentum, l2=l2, exclude_1d=exclude_1d, **options)
        self.variant, self.trust, self.epsilon = variant, trust, epsilon

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Takes one step for one variable."""
        velocity = self._velocities[self._get_variable_index(variable)]
        rate = self._rate(variable, learning_rate)
        gradient = keras.ops.cast(gradient, variable.dtype)
        if not self._excluded(variable):
            gradient = self._adapted(gradient, keras.ops.convert_to_tensor(variable))
        if self.variant == "paddle":
            self.assign(velocity, self.momentum * velocity + rate * gradient)
            self.assign_sub(variable, velocity)
        else:
            self.assign(velocity, self.momentum * velocity + gradient)
            self.assign_sub(variable, rate * velocity)

    def _adapted(self, gradient: Any, weight: Any) -> Any:
        if self.variant == "paddle" and not self.l2:
            return gradient
        decayed = gradient + self.l2 * weight
        weight_norm = _norm(weight)
        if self.variant == "pixpro":
            gradient_norm = _norm(decayed)
            scaled, plain = self.trust * weight_norm / (gradient_norm + self.epsilon) * decayed, decayed
        else:
            gradient_norm = _norm(gradient)
            scaled = self.trust * weight_norm / (gradient_norm + self.l2 * weight_norm + self.epsilon) * decayed
            plain = gradient if self.variant == "larc" else decayed
        # New biases are 0 and unused weights have no gradient: a ratio of them would be 0 or infinite.
        return keras.ops.where(keras.ops.logical_and(weight_norm > 0, gradient_norm > 0), scaled, plain)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        own = ("variant", "trust", "epsilon")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _norm(x: Any) -> Any:
    return keras.ops.sqrt(keras.ops.sum(keras.ops.square(x)))
