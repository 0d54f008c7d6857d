"""Export of trained models: SavedModel, TFLite, ONNX and OpenVINO, with a manifest in each."""

from rsseg_tf.export.onnx import write_onnx, write_openvino
from rsseg_tf.export.savedmodel import write_savedmodel
from rsseg_tf.export.tflite import write_tflite
from rsseg_tf.export.trained import Trained, load_trained

__all__ = ["Trained", "load_trained", "write_onnx", "write_openvino", "write_savedmodel", "write_tflite"]
