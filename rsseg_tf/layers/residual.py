"""What stands at the end of residual branches: random leaving-out, and a scale of each channel."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["LayerScale", "StochasticDepth"]


@keras.saving.register_keras_serializable(package="rsseg_tf")
class StochasticDepth(keras.layers.Dropout):
    """Leaves a whole branch out for some images of a training batch, and makes the others larger in return.

    Huang et al., Deep Networks with Stochastic Depth, https://arxiv.org/abs/1603.09382.

    Args:
        rate: Probability that an image's branch is left out, >= 0 and < 1; the others are divided by 1 - rate.
        seed: Of the random numbers; None draws one from Keras's generator.
        name: Name of the layer.
        trainable: Where it is False nothing is left out: a frozen backbone computes the same in training.
        dtype: Name of a dtype or a `keras.DTypePolicy`.
    """

    def __init__(
        self,
        rate: float,
        *,
        seed: int | None = None,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(rate, noise_shape=(None, 1, 1, 1), seed=seed, name=name, trainable=trainable, dtype=dtype)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """(B, H, W, C) to the same, with some images of the batch at 0."""
        return super().call(inputs, training=training and self.trainable)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config: dict[str, Any] = super().get_config()
        del config["noise_shape"]
        return config


@keras.saving.register_keras_serializable(package="rsseg_tf")
class LayerScale(keras.layers.Layer):
    """Multiplies each channel by a learned factor.

    Touvron et al., Going deeper with Image Transformers, https://arxiv.org/abs/2103.17239.

    Args:
        initial: The factors at first.
        name: Name of the layer.
        trainable: Whether the factors are trained.
        dtype: Name of a dtype or a `keras.DTypePolicy`.
    """

    def __init__(
        self, *, initial: float = 1e-6, name: str | None = None, trainable: bool = True, dtype: Any = None
    ) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.initial = initial

    def build(self, input_shape: Any) -> None:
        """Makes the factors `gamma` (C,)."""
        self.gamma = self.add_weight(
            name="gamma", shape=(input_shape[-1],), initializer=keras.initializers.Constant(self.initial)
        )

    def call(self, inputs: Any) -> Any:
        """(B, ..., C) to the same."""
        return inputs * self.gamma

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "initial": self.initial}
