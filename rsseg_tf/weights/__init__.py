"""Released weights: names of the original's tensors and their strict assignment."""

from __future__ import annotations

from rsseg_tf.weights.assign import assign_weights
from rsseg_tf.weights.names import (
    c2fnet_names,
    danet_names,
    deeplabv3plus_names,
    fcn_names,
    hrnet_contrast_names,
    hrnet_names,
    ocrnet_names,
    pspnet_names,
    resnet_names,
    resnet_vd_names,
    upernet_names,
)

__all__ = [
    "assign_weights",
    "c2fnet_names",
    "danet_names",
    "deeplabv3plus_names",
    "fcn_names",
    "hrnet_contrast_names",
    "hrnet_names",
    "ocrnet_names",
    "pspnet_names",
    "resnet_names",
    "resnet_vd_names",
    "upernet_names",
]
