"""Models in any format behind one class, the `Predictor`."""

from rsseg_tf.data.augment import normalise
from rsseg_tf.predictors.artifacts import Predictor, load_onnx, load_openvino, load_savedmodel, load_tflite
from rsseg_tf.predictors.models import checkpoint_predictor, keras_predictor
from rsseg_tf.predictors.opening import find_model, open_predictor

__all__ = [
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
