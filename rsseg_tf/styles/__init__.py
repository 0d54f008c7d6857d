"""Styles of layers: names and colours of classes, read from and written for QGIS and GDAL."""

from rsseg_tf.styles.entries import PaletteEntry
from rsseg_tf.styles.matching import class_palette
from rsseg_tf.styles.palettes import read_palette

__all__ = ["PaletteEntry", "class_palette", "read_palette"]
