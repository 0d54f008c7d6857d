"""Datasets: what they are, how their archives become tiles and lists, and how images are read and written."""

from __future__ import annotations

from rsseg_tf.datasets.images import ImageHeader, atomic_path, image_header, read_image, read_label, write_png
from rsseg_tf.datasets.listing import Sample, read_list, write_list
from rsseg_tf.datasets.spec import RGB, DatasetSpec, custom_spec, default_palette
from rsseg_tf.datasets.tiling import Window, sliding_windows, windows

__all__ = [
    "RGB",
    "DatasetSpec",
    "ImageHeader",
    "Sample",
    "Window",
    "atomic_path",
    "custom_spec",
    "default_palette",
    "image_header",
    "read_image",
    "read_label",
    "read_list",
    "sliding_windows",
    "windows",
    "write_list",
    "write_png",
]
