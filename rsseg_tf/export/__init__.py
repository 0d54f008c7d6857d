"""Export of trained models: SavedModel, TFLite, ONNX and OpenVINO, with a manifest in each."""

from rsseg_tf.export.accuracy import Accuracy
from rsseg_tf.export.onnx import write_onnx, write_openvino
from rsseg_tf.export.publish import Exported, Gate, check_output, export_model
from rsseg_tf.export.savedmodel import write_savedmodel
from rsseg_tf.export.tflite import write_tflite
from rsseg_tf.export.tiles import calibration_images
from rsseg_tf.export.trained import Trained, load_trained
from rsseg_tf.export.verify import TOLERANCES, Comparison, compare, verify

__all__ = [
    "TOLERANCES",
    "Accuracy",
    "Comparison",
    "Exported",
    "Gate",
    "Trained",
    "calibration_images",
    "check_output",
    "compare",
    "export_model",
    "load_trained",
    "verify",
    "write_onnx",
    "write_openvino",
    "write_savedmodel",
    "write_tflite",
]
