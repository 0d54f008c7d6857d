"""Predict callables: what turns a batch of normalised pixels into logits, whatever runs it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from rsseg_tf.build import build_model
from rsseg_tf.checkpoint import load_weights
from rsseg_tf.config import Config
from rsseg_tf.inference import Predict

__all__ = ["checkpoint_predictor", "keras_predictor"]


def keras_predictor(model: keras.Model) -> Predict:
    """Returns a predict callable over a model; it is traced once and takes any batch, height and width."""
    bands = model.input_shape[-1]

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, bands), tf.float32)])
    def main_logits(images: tf.Tensor) -> tf.Tensor:
        return model(images, training=False)["main"]

    def predict(images: np.ndarray) -> np.ndarray:
        return main_logits(tf.constant(images, tf.float32)).numpy()

    return predict


def checkpoint_predictor(folder: Path, config: Config, *, precision: str = "fp32") -> Predict:
    """Returns a predict callable over the weights of a checkpoint.

    Raises:
        WeightsError: when `folder` is no checkpoint, is damaged, or belongs to another model than `config`.
    """
    model = build_model(config, precision=precision)
    load_weights(model, folder)
    return keras_predictor(model)
