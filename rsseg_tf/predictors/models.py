"""Predict callables over Keras models."""

from __future__ import annotations

import contextlib
from pathlib import Path

import keras
import tensorflow as tf

from rsseg_tf.build import build_model
from rsseg_tf.checkpoint import load_weights
from rsseg_tf.config import Config
from rsseg_tf.data.augment import normalise
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.files import StrPath
from rsseg_tf.predictors.device import DevicePredictor

__all__ = ["checkpoint_predictor", "keras_predictor"]


def keras_predictor(
    model: keras.Model,
    spec: DatasetSpec,
    *,
    name: str = "the model",
    strategy: tf.distribute.Strategy | None = None,
) -> DevicePredictor:
    """Returns a predict callable over a model; it is traced once and takes any batch, height and width.

    The callable raises `NotFiniteError` when a logit is NaN or infinite. It also answers with labels, see
    `rsseg_tf.predict.model.LabelModel`.

    Args:
        model: Normalised `(B, H, W, bands)` float32 to `{"main": (B, H, W, classes) logits, ...}`.
        spec: How pixels are normalised.
        name: What to call the model in errors.
        strategy: The strategy in whose scope the model was built, whose devices share the images of a batch; None for
            one device.
    """

    def forward(pixels: tf.Tensor) -> tf.Tensor:
        return model(normalise(pixels, spec), training=False)["main"]

    return DevicePredictor(forward, bands=spec.bands, name=name, strategy=strategy)


def checkpoint_predictor(
    folder: StrPath, config: Config, *, precision: str = "fp32", strategy: tf.distribute.Strategy | None = None
) -> DevicePredictor:
    """Returns a predict callable over the weights of a checkpoint.

    Args:
        folder: The checkpoint.
        config: Its model and dataset.
        precision: `fp32`, `fp16` or `bf16`: type of activations.
        strategy: The devices that share the images of a batch; None for one device.

    Raises:
        WeightsError: When `folder` is no checkpoint, is damaged, or belongs to another model than `config`.
    """
    folder = Path(folder)
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        model = build_model(config, precision=precision)
        load_weights(model, folder)
    return keras_predictor(model, config.dataset.spec, name=f"the checkpoint {folder}", strategy=strategy)
