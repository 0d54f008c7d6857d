"""Predict callables over Keras models."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from rsseg_tf.build import build_model
from rsseg_tf.checkpoint import load_weights
from rsseg_tf.config import Config
from rsseg_tf.data.augment import normalise
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.files import StrPath
from rsseg_tf.predict import Predict, require_finite

__all__ = ["checkpoint_predictor", "keras_predictor"]


def keras_predictor(model: keras.Model, spec: DatasetSpec, *, name: str = "the model") -> Predict:
    """Returns a predict callable over a model; it is traced once and takes any batch, height and width.

    The callable raises `NotFiniteError` when a logit is NaN or infinite.

    Args:
        model: Normalised `(B, H, W, bands)` float32 to `{"main": (B, H, W, classes) logits, ...}`.
        spec: How pixels are normalised.
        name: What to call the model in errors.
    """

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, spec.bands), tf.float32)])
    def main_logits(pixels: tf.Tensor) -> tf.Tensor:
        return model(normalise(pixels, spec), training=False)["main"]

    def predict(pixels: np.ndarray) -> np.ndarray:
        return require_finite(main_logits(tf.constant(pixels, tf.float32)).numpy(), pixels, name)

    return predict


def checkpoint_predictor(folder: StrPath, config: Config, *, precision: str = "fp32") -> Predict:
    """Returns a predict callable over the weights of a checkpoint.

    Raises:
        WeightsError: When `folder` is no checkpoint, is damaged, or belongs to another model than `config`.
    """
    folder = Path(folder)
    model = build_model(config, precision=precision)
    load_weights(model, folder)
    return keras_predictor(model, config.dataset.spec, name=f"the checkpoint {folder}")
