"""Semantic segmentation of remote sensing images with TensorFlow and Keras.

Everything that a program or a notebook starts from can be had from here:

    from rsseg_tf import backbones, build_model, load_config, segmentors

It is loaded at its first use, so that ``import rsseg_tf`` takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsseg_tf import backbones, losses, segmentors
    from rsseg_tf.build import build_model
    from rsseg_tf.config import load_config

__version__ = "0.1.0"

__all__ = ["__version__", "backbones", "build_model", "load_config", "losses", "segmentors"]

# Name -> module that defines it; a package stands for itself.
_LAZY = {
    "backbones": "rsseg_tf.backbones",
    "build_model": "rsseg_tf.build",
    "load_config": "rsseg_tf.config",
    "losses": "rsseg_tf.losses",
    "segmentors": "rsseg_tf.segmentors",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rsseg_tf' has no attribute '{name}'; it has {', '.join(__all__)}")
    module = importlib.import_module(_LAZY[name])
    return module if name == _LAZY[name].rpartition(".")[2] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
