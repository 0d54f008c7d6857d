"""Prediction of images and scenes with a predict callable: Keras model, SavedModel, TFLite, ONNX or a server."""

from __future__ import annotations

from rsseg_tf.predict.engine import augmented_logits, predict_labels, predict_logits
from rsseg_tf.predict.image import ImageJob, PredictionResult, discard_partial, predict_image
from rsseg_tf.predict.model import Predict, require_finite, resize_bilinear
from rsseg_tf.predict.options import InferenceOptions, OutputOptions, SceneOptions, usual_stride
from rsseg_tf.predict.pictures import as_rgb, colour_table, colourise, montage, overlay
from rsseg_tf.predict.plan import (
    PredictionPlan,
    attempt,
    collect_images,
    collect_sources,
    image_size,
    palette_with,
    pixel_count,
    predict_paths,
)
from rsseg_tf.predict.settings import PredictionSettings
from rsseg_tf.predict.tiles import any_size
from rsseg_tf.rasters.scenes import Scene, open_scene

__all__ = [
    "ImageJob",
    "InferenceOptions",
    "OutputOptions",
    "Predict",
    "PredictionPlan",
    "PredictionResult",
    "PredictionSettings",
    "Scene",
    "SceneOptions",
    "any_size",
    "as_rgb",
    "attempt",
    "augmented_logits",
    "collect_images",
    "collect_sources",
    "colour_table",
    "colourise",
    "discard_partial",
    "image_size",
    "montage",
    "open_scene",
    "overlay",
    "palette_with",
    "pixel_count",
    "predict_image",
    "predict_labels",
    "predict_logits",
    "predict_paths",
    "require_finite",
    "resize_bilinear",
    "usual_stride",
]
