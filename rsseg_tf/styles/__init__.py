"""Styles of layers: names and colours of classes, read from and written for QGIS and GDAL."""

from rsseg_tf.styles.entries import PaletteEntry
from rsseg_tf.styles.layer_styles import STYLE_TABLE, put_layer_style, users_styles
from rsseg_tf.styles.matching import class_palette, plain_palette
from rsseg_tf.styles.palettes import read_palette
from rsseg_tf.styles.qml import confidence_qml, labels_qml, polygons_qml, write_qml
from rsseg_tf.styles.side_files import side_file, with_side_table

__all__ = [
    "STYLE_TABLE",
    "PaletteEntry",
    "class_palette",
    "confidence_qml",
    "labels_qml",
    "plain_palette",
    "polygons_qml",
    "put_layer_style",
    "read_palette",
    "side_file",
    "users_styles",
    "with_side_table",
    "write_qml",
]
