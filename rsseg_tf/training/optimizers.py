"""Optimizers, built from a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras

from rsseg_tf.config.pretrain import LARSSection
from rsseg_tf.config.schema import SGD, AdamW
from rsseg_tf.errors import ConfigError

__all__ = ["LARS", "MomentumSGD", "build_optimizer"]


def build_optimizer(
    config: SGD | AdamW | LARSSection,
    *,
    precision: str = "fp32",
    constant_paths: Sequence[str] = (),
    constant_rate: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Returns the optimizer of a config; the loop sets its learning rate before each step.

    Args:
        config: Kind and numbers.
        precision: `fp16` adds loss scaling, which starts at 1024 as in PaddleSeg; other types do not need it.
        constant_paths: Prefixes of the paths of variables that do not follow the loop's learning rate.
        constant_rate: The learning rate of those.

    Raises:
        ConfigError: For constant rates with AdamW, which gives all variables one rate.
    """
    constant: dict[str, Any] = {"constant_paths": tuple(constant_paths), "constant_rate": constant_rate}
    # All begin with a rate of 0: the loop sets the rate before each step, and a step without one would show.
    optimizer: keras.optimizers.Optimizer
    if isinstance(config, SGD):
        optimizer = MomentumSGD(0.0, momentum=config.momentum, l2=config.weight_decay, **constant)
    elif isinstance(config, LARSSection):
        optimizer = LARS(0.0, **config.model_dump(exclude={"name", "weight_decay"}), l2=config.weight_decay, **constant)
    elif constant_paths:
        raise ConfigError(
            f"optimizer.name is {config.name}, which gives all weights one learning rate, but the method keeps that of "
            f"{', '.join(constant_paths)} constant. Use sgd or lars, or set method.constant_predictor_lr to false."
        )
    else:
        optimizer = keras.optimizers.AdamW(
            0.0, beta_1=config.beta_1, beta_2=config.beta_2, weight_decay=config.weight_decay
        )
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0) if precision == "fp16" else optimizer


class _Momentum(keras.optimizers.Optimizer):
    """A velocity for each variable; the variables below `constant_paths` keep a learning rate of their own."""

    def __init__(
        self,
        learning_rate: float,
        *,
        momentum: float,
        l2: float,
        constant_paths: Sequence[str] = (),
        constant_rate: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, **options)
        self.momentum = momentum
        self.l2 = l2
        self.constant_paths = tuple(constant_paths)
        self.constant_rate = constant_rate
        self._constant: set[int] = set()
        self._velocities: list[keras.Variable] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates one velocity for each variable."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")
        self._constant = {i for i, v in enumerate(variables) if v.path.startswith(self.constant_paths)}

    def _rate(self, index: int, learning_rate: Any, dtype: Any) -> Any:
        return keras.ops.cast(self.constant_rate if index in self._constant else learning_rate, dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        own = ("momentum", "l2", "constant_paths", "constant_rate")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


class MomentumSGD(_Momentum):
    """SGD with momentum and coupled L2 decay, in the arithmetic of Paddle, which the benchmark was trained with.

        g = gradient + l2 * w
        v = momentum * v + g
        w = w - learning_rate * v

    Two things differ from `keras.optimizers.SGD`: the learning rate is outside of the velocity, so a decaying rate
    acts on past gradients too (Paddle's `Momentum` and PyTorch's `SGD` do so), and the decay goes through the momentum,
    where Keras's `weight_decay` is decoupled. Every trained parameter decays, batch-norm scales and biases included;
    one without a gradient does not.
    """

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.9, l2: float = 0.0, **options: Any) -> None:
        super().__init__(learning_rate, momentum=momentum, l2=l2, **options)

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Takes one step for one variable."""
        index = self._get_variable_index(variable)
        velocity = self._velocities[index]
        gradient = keras.ops.cast(gradient, variable.dtype)
        if self.l2:
            gradient = gradient + self.l2 * variable
        self.assign(velocity, self.momentum * velocity + gradient)
        # The rate stays outside of the velocity, see the class.
        self.assign_sub(variable, self._rate(index, learning_rate, variable.dtype) * velocity)


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
        super().__init__(learning_rate, momentum=momentum, l2=l2, **options)
        self.variant, self.trust, self.epsilon, self.exclude_1d = variant, trust, epsilon, exclude_1d

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Takes one step for one variable."""
        index = self._get_variable_index(variable)
        velocity = self._velocities[index]
        rate = self._rate(index, learning_rate, variable.dtype)
        gradient = keras.ops.cast(gradient, variable.dtype)
        if not (self.exclude_1d and len(variable.shape) <= 1):
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
        own = ("variant", "trust", "epsilon", "exclude_1d")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _norm(x: Any) -> Any:
    return keras.ops.sqrt(keras.ops.sum(keras.ops.square(x)))
