"""Export of trained models: SavedModel, TFLite, ONNX, OpenVINO and a page for browsers, with a manifest in each."""

from rsseg_tf.export.accuracy import Accuracy, AccuracyLimit
from rsseg_tf.export.deepness import write_deepness
from rsseg_tf.export.onnx import write_onnx, write_openvino
from rsseg_tf.export.page_packages import find_page_packages
from rsseg_tf.export.publish import ExportOptions, ExportResult, check_output, export_model
from rsseg_tf.export.savedmodel import write_savedmodel
from rsseg_tf.export.tflite import write_tflite
from rsseg_tf.export.tiles import calibration_images
from rsseg_tf.export.trained import TrainedModel, load_trained, own_trained
from rsseg_tf.export.verify import TOLERANCES, Comparison, compare, verify, version_folder
from rsseg_tf.export.web import Page, write_web

__all__ = [
    "TOLERANCES",
    "Accuracy",
    "AccuracyLimit",
    "Comparison",
    "ExportOptions",
    "ExportResult",
    "Page",
    "TrainedModel",
    "calibration_images",
    "check_output",
    "compare",
    "export_model",
    "find_page_packages",
    "load_trained",
    "own_trained",
    "verify",
    "version_folder",
    "write_deepness",
    "write_onnx",
    "write_openvino",
    "write_savedmodel",
    "write_tflite",
    "write_web",
]
