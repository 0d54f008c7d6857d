"""Other people's files: readers, names of their tensors, strict assignment, and `pretrained` of a config."""

from __future__ import annotations

from rsseg_tf.files.cache import cache_dir, cached
from rsseg_tf.weights.assign import assign_variables, assign_weights
from rsseg_tf.weights.layouts import inflate_bands, match_names
from rsseg_tf.weights.names import (
    c2fnet_names,
    danet_names,
    deeplabv3plus_names,
    efficientnet_names,
    fcn_names,
    hrnet_contrast_names,
    hrnet_names,
    lraspp_names,
    mobilenet_v3_names,
    ocrnet_names,
    pspnet_names,
    resnet_names,
    resnet_vd_names,
    upernet_names,
)
from rsseg_tf.weights.tensors import TensorFile, read_tensors

__all__ = [
    "TensorFile",
    "assign_variables",
    "assign_weights",
    "c2fnet_names",
    "cache_dir",
    "cached",
    "danet_names",
    "deeplabv3plus_names",
    "efficientnet_names",
    "fcn_names",
    "hrnet_contrast_names",
    "hrnet_names",
    "inflate_bands",
    "lraspp_names",
    "match_names",
    "mobilenet_v3_names",
    "ocrnet_names",
    "pspnet_names",
    "read_tensors",
    "resnet_names",
    "resnet_vd_names",
    "upernet_names",
]
