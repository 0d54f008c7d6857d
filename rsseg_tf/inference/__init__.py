"""Prediction of images and scenes with a predict callable: Keras model, SavedModel, TFLite, ONNX or a server."""

from __future__ import annotations

from rsseg_tf.inference.logits import (
    Predict,
    augmented_logits,
    plain_logits,
    predict_labels,
    predict_logits,
    resize_bilinear,
    slide_logits,
)
from rsseg_tf.inference.options import InferenceOptions
from rsseg_tf.inference.pictures import as_rgb, colour_table, colourise, montage, overlay
from rsseg_tf.inference.predict import (
    PredictionResult,
    Progress,
    collect_images,
    iterate_predictions,
    palette_with,
    predict_paths,
)
from rsseg_tf.inference.raster import Scene, read_scene, write_labels
from rsseg_tf.inference.tiles import any_size, tile_options, tile_stride

__all__ = [
    "InferenceOptions",
    "Predict",
    "PredictionResult",
    "Progress",
    "Scene",
    "any_size",
    "as_rgb",
    "augmented_logits",
    "collect_images",
    "colour_table",
    "colourise",
    "iterate_predictions",
    "montage",
    "overlay",
    "palette_with",
    "plain_logits",
    "predict_labels",
    "predict_logits",
    "predict_paths",
    "read_scene",
    "resize_bilinear",
    "slide_logits",
    "tile_options",
    "tile_stride",
    "write_labels",
]
