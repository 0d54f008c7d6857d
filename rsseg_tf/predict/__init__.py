"""Prediction of images and scenes with a predict callable: Keras model, SavedModel, TFLite, ONNX or a server."""

from __future__ import annotations

from rsseg_tf.predict.jobs import Job, JobSettings, PredictionResult, discard_partial, run_job
from rsseg_tf.predict.logits import (
    Predict,
    augmented_logits,
    call_model,
    plain_logits,
    predict_labels,
    predict_logits,
    require_classes,
    require_finite,
    resize_bilinear,
    slide_logits,
)
from rsseg_tf.predict.options import InferenceOptions, OutputOptions, SceneOptions
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
from rsseg_tf.predict.tiles import any_size, tile_options, tile_stride
from rsseg_tf.rasters.scenes import Scene, open_scene

__all__ = [
    "InferenceOptions",
    "Job",
    "JobSettings",
    "OutputOptions",
    "Predict",
    "PredictionResult",
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
    "plain_logits",
    "predict_labels",
    "predict_logits",
    "predict_paths",
    "require_classes",
    "require_finite",
    "resize_bilinear",
    "run_job",
    "slide_logits",
    "tile_options",
    "tile_stride",
]
