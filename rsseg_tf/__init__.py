"""Semantic segmentation of remote sensing images with TensorFlow and Keras."""

__version__ = "0.1.0"
