"""Predict callables: what turns a batch of pixels into logits, whatever runs it."""

from rsseg_tf.data.augment import normalise
from rsseg_tf.predictors.artifacts import Loaded, load_onnx, load_openvino, load_savedmodel, load_tflite
from rsseg_tf.predictors.models import checkpoint_predictor, keras_predictor
from rsseg_tf.predictors.opening import Predictor, find_model, open_predictor

__all__ = [
    "Loaded",
    "Predictor",
    "checkpoint_predictor",
    "find_model",
    "keras_predictor",
    "load_onnx",
    "load_openvino",
    "load_savedmodel",
    "load_tflite",
    "normalise",
    "open_predictor",
]
