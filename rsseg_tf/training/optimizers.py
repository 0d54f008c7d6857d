"""Optimizers, built from a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from rsseg_tf.config.schema import SGD, AdamW

__all__ = ["MomentumSGD", "build_optimizer"]


def build_optimizer(config: SGD | AdamW, *, precision: str = "fp32") -> keras.optimizers.Optimizer:
    """Returns the optimizer of a config; the loop sets its learning rate before each step.

    Args:
        config: kind and numbers.
        precision: `fp16` adds loss scaling, starting at 1024 as the original; others do not need it.
    """
    optimizer: keras.optimizers.Optimizer
    if isinstance(config, SGD):
        optimizer = MomentumSGD(0.0, momentum=config.momentum, l2=config.weight_decay)
    else:
        optimizer = keras.optimizers.AdamW(
            0.0, beta_1=config.beta_1, beta_2=config.beta_2, weight_decay=config.weight_decay
        )
    return keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=1024.0) if precision == "fp16" else optimizer


class MomentumSGD(keras.optimizers.Optimizer):
    """SGD with momentum and coupled L2 decay, in the arithmetic that the benchmark was trained with.

        g = gradient + l2 * w
        v = momentum * v + g
        w = w - learning_rate * v

    Two things differ from `keras.optimizers.SGD`: the learning rate is outside of the velocity, so a decaying rate
    acts on past gradients too (Paddle's `Momentum` and PyTorch's `SGD` do so), and the decay goes through the momentum,
    where Keras's `weight_decay` is decoupled. Every trained parameter decays, batch-norm scales and biases included;
    one without a gradient does not.
    """

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.9, l2: float = 0.0, **options: Any) -> None:
        super().__init__(learning_rate=learning_rate, **options)
        self.momentum = momentum
        self.l2 = l2
        self._velocities: list[keras.Variable] = []

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Creates one velocity for each variable."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient: Any, variable: keras.Variable, learning_rate: Any) -> None:
        """Takes one step for one variable."""
        velocity = self._velocities[self._get_variable_index(variable)]
        rate = keras.ops.cast(learning_rate, variable.dtype)
        gradient = keras.ops.cast(gradient, variable.dtype)
        if self.l2:
            gradient = gradient + self.l2 * variable
        self.assign(velocity, self.momentum * velocity + gradient)
        self.assign_sub(variable, rate * velocity)

    def get_config(self) -> dict[str, Any]:
        """Returns what the constructor takes."""
        return {**super().get_config(), "momentum": self.momentum, "l2": self.l2}
