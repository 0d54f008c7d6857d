"""Batch normalisation with the numbers of the original."""

from __future__ import annotations

from typing import Any

import keras

__all__ = ["BatchNorm"]


@keras.saving.register_keras_serializable(package="rsseg_tf")
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis with momentum 0.9, epsilon 1e-5 and a biased running variance.

    Args:
        synchronized: Whether training statistics are taken over all replicas of the batch.
        name: Name of the layer.
        trainable: Where it is False the layer normalises with its running statistics in training too.
        dtype: Name of a dtype or a `keras.DTypePolicy`. Statistics and variables are float32 in any case.
    """

    def __init__(
        self,
        *,
        synchronized: bool = False,
        name: str | None = None,
        trainable: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            momentum=0.9, epsilon=1e-5, synchronized=synchronized, name=name, trainable=trainable, dtype=dtype
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
            "synchronized": self.synchronized,
        }
