"""Semantic segmentation of remote sensing images with TensorFlow and Keras.

Everything that a program or a notebook starts from can be had from here:

    from rsseg_tf import backbones, build_model, load_config, segmentors

It is loaded at its first use, so that ``import rsseg_tf`` takes no time. Layers are known to Keras as soon as both are
imported, in whatever order, so that ``keras.saving.load_model`` reads a model that was saved with them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from rsseg_tf.environment import clean_environment
from rsseg_tf.moved import redirect_imports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

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


def _register_layers() -> None:
    """Imports the modules that define layers, losses and metrics, which registers them with Keras."""
    for name in ("rsseg_tf.layers", "rsseg_tf.segmentors", "rsseg_tf.losses", "rsseg_tf.metrics.keras_metrics"):
        try:
            importlib.import_module(name)
        except ImportError:  # this very module is the one that imports Keras; it registers its layers by itself
            return


class _AfterKeras:
    """Registers the layers when Keras is imported; until then nothing is loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds Keras as everybody else does, and once only."""
        if fullname != "keras":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            loader = spec.loader
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register_layers()

            loader.exec_module = exec_module  # type: ignore[method-assign]  # of this one import
        return spec


def _tell(line: str) -> None:
    import logging

    logging.getLogger(__name__).warning(line)


clean_environment(_tell)
redirect_imports()
if "keras" in sys.modules:
    _register_layers()
else:
    sys.meta_path.insert(0, _AfterKeras())
