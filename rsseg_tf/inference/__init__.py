"""Prediction of images and scenes with a predict callable: Keras model, SavedModel, TFLite, ONNX or a server."""

from __future__ import annotations

from rsseg_tf.inference.logits import (
    Predict,
    augmented_logits,
    normalise,
    plain_logits,
    predict_labels,
    predict_logits,
    resize_bilinear,
    slide_logits,
)
from rsseg_tf.inference.options import InferenceOptions

__all__ = [
    "InferenceOptions",
    "Predict",
    "augmented_logits",
    "normalise",
    "plain_logits",
    "predict_labels",
    "predict_logits",
    "resize_bilinear",
    "slide_logits",
]
