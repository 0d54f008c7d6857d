"""Prediction of images and scenes with a predict callable: Keras model, SavedModel, TFLite, ONNX or a server."""

from __future__ import annotations

from rsseg_tf.predict.engine import augmented_logits, predict_labels, predict_logits
from rsseg_tf.predict.jobs import Job, PredictionResult, discard_partial, run_job
from rsseg_tf.predict.model import Predict, call_model, require_classes, require_finite, resize_bilinear
from rsseg_tf.predict.options import InferenceOptions, OutputOptions, SceneOptions, usual_stride
from rsseg_tf.predict.pictures import as_rgb, colour_table, colourise, montage, overlay
from rsseg_tf.predict.predict import (
    Progress,
    Run,
    attempt,
    collect_images,
    image_size,
    iterate_predictions,
    palette_with,
    pixel_count,
    predict_paths,
)
from rsseg_tf.predict.settings import PredictionSettings
from rsseg_tf.predict.tiles import any_size
from rsseg_tf.rasters.scenes import Scene, open_scene

__all__ = [
    "InferenceOptions",
    "Job",
    "OutputOptions",
    "Predict",
    "PredictionResult",
    "PredictionSettings",
    "Progress",
    "Run",
    "Scene",
    "SceneOptions",
    "any_size",
    "as_rgb",
    "attempt",
    "augmented_logits",
    "call_model",
    "collect_images",
    "colour_table",
    "colourise",
    "discard_partial",
    "image_size",
    "iterate_predictions",
    "montage",
    "open_scene",
    "overlay",
    "palette_with",
    "pixel_count",
    "predict_labels",
    "predict_logits",
    "predict_paths",
    "require_classes",
    "require_finite",
    "resize_bilinear",
    "run_job",
    "usual_stride",
]
