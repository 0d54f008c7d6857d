"""Predict callables over Keras models."""

from __future__ import annotations

import contextlib
from pathlib import Path

import keras
import tensorflow as tf

from rsseg_tf.build import as_segmentor, build_model
from rsseg_tf.checkpoint import load_weights
from rsseg_tf.config import Config
from rsseg_tf.data.augment import normalise
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.files import StrPath
from rsseg_tf.predict import InferenceOptions, any_size
from rsseg_tf.predictors.artifacts import Predictor
from rsseg_tf.predictors.device import DevicePredictor
from rsseg_tf.rasters.windows import Size

__all__ = ["checkpoint_predictor", "keras_predictor", "own_predictor"]


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

    return DevicePredictor(forward, bands=spec.bands, name=name, strategy=strategy, keras_model=model)


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


def own_predictor(
    model: keras.Model, spec: DatasetSpec, *, tile: Size | None = None, from_logits: bool = True
) -> Predictor:
    """Returns a predictor over a user's own Keras model.

    Args:
        model: Normalised `(B, H, W, bands)` to `(B, H, W, classes)`, alone or as the output `main`.
        spec: Its classes, and how pixels are normalised.
        tile: The only size of its input; None for what its shape tells.
        from_logits: Whether it gives logits; False for probabilities.

    Raises:
        ConfigError: When the model does not fit the spec.
    """
    segmentor = as_segmentor(model, spec, from_logits=from_logits)
    height, width = segmentor.inputs[0].shape[1:3]
    if tile is None and height and width:
        tile = Size(height, width)
    predict = keras_predictor(segmentor, spec, name=f"the model {model.name}")
    options = InferenceOptions() if tile is None else InferenceOptions(tile=tile, fixed_tile=True)
    if tile is None:
        return Predictor("keras", spec, predict, options)
    of_any_size = any_size(predict, tile, spec.num_classes)
    of_any_size.keras_model = segmentor  # type: ignore[attr-defined]  # for `Model.keras_model`
    return Predictor("keras", spec, of_any_size, options, tile)
