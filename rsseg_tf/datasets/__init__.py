"""Datasets: what they are, how their archives become tiles and lists, and how images are read and written."""

from __future__ import annotations

from rsseg_tf.datasets.dubai import DUBAI, prepare_dubai
from rsseg_tf.datasets.images import (
    ImageHeader,
    image_header,
    read_image,
    read_label,
    write_image,
    write_png,
)
from rsseg_tf.datasets.isaid import ISAID, prepare_isaid
from rsseg_tf.datasets.isprs import POTSDAM, VAIHINGEN, prepare_isprs
from rsseg_tf.datasets.listing import Sample, Samples, missing_files, read_list, write_list
from rsseg_tf.datasets.loveda import LOVEDA, prepare_loveda
from rsseg_tf.datasets.prepared import PrepareReport, SplitReport, read_dataset_json, read_description
from rsseg_tf.datasets.preparers import (
    OUTPUTS,
    PREPARERS,
    SPECS,
    PrepareOptions,
    Preparer,
    dataset_spec,
    prepare_dataset,
)
from rsseg_tf.datasets.rgb_masks import rgb_to_ids
from rsseg_tf.datasets.spec import RGB, DatasetSpec, custom_spec, default_palette
from rsseg_tf.datasets.synthetic import SYNTHETIC, generate_synthetic
from rsseg_tf.datasets.tile_names import TILE_NAME_PATTERNS, parse_tile_name, tile_name
from rsseg_tf.datasets.tiling import Window, sliding_windows, windows
from rsseg_tf.datasets.unlabelled import UNLABELLED, list_images, prepare_unlabelled

__all__ = [
    "DUBAI",
    "ISAID",
    "LOVEDA",
    "OUTPUTS",
    "POTSDAM",
    "PREPARERS",
    "RGB",
    "SPECS",
    "SYNTHETIC",
    "TILE_NAME_PATTERNS",
    "UNLABELLED",
    "VAIHINGEN",
    "DatasetSpec",
    "ImageHeader",
    "PrepareOptions",
    "PrepareReport",
    "Preparer",
    "Sample",
    "Samples",
    "SplitReport",
    "Window",
    "custom_spec",
    "dataset_spec",
    "default_palette",
    "generate_synthetic",
    "image_header",
    "list_images",
    "missing_files",
    "parse_tile_name",
    "prepare_dataset",
    "prepare_dubai",
    "prepare_isaid",
    "prepare_isprs",
    "prepare_loveda",
    "prepare_unlabelled",
    "read_dataset_json",
    "read_description",
    "read_image",
    "read_label",
    "read_list",
    "rgb_to_ids",
    "sliding_windows",
    "tile_name",
    "windows",
    "write_image",
    "write_list",
    "write_png",
]
