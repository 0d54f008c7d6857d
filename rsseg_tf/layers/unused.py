"""Weights that released files hold and no output depends on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

__all__ = ["UnusedWeights"]


@keras.saving.register_keras_serializable(package="rsseg_tf")
class UnusedWeights(keras.layers.Layer):
    """Passes a tensor on, and carries layers that are never called.

    Some of PaddleSeg's models have layers without influence on any output. Their tensors are in its files and in
    its parameter counts. This layer gives them a place: their variables are among the weights of the model and are
    saved and loaded with it, and no time is spent on them. They have no gradient, so that training leaves them as they
    are; PaddleSeg moves the batch statistics of some of them, which nothing reads.

    Put it on an output that only training needs: a model cut down to the others is free of the dead weight.

    Args:
        unused: Built layers.
        name: Name of the layer.
        trainable: Whether the variables count as trainable.
        dtype: Name of a dtype or a `keras.DTypePolicy`, for the tensor that is passed on.
    """

    def __init__(
        self,
        unused: Sequence[keras.layers.Layer],
        *,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype)
        self.unused = list(unused)

    def call(self, x: Any) -> Any:
        """Returns `x`."""
        return x

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of `x`."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "unused": [keras.saving.serialize_keras_object(layer) for layer in self.unused]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> UnusedWeights:
        """Returns a layer with the arguments of `get_config`."""
        return cls(**{**config, "unused": [keras.saving.deserialize_keras_object(layer) for layer in config["unused"]]})
