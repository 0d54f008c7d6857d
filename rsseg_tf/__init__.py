"""Semantic segmentation of remote sensing images with TensorFlow and Keras.

    import rsseg_tf

    rsseg_tf.prepare("synthetic", output="data")
    run = rsseg_tf.train("unet/unet_efficientnet_lite0_synthetic_256x256_quick.yml", "output", do_eval=True)
    labels = rsseg_tf.load_model("output/best_model").predict(image)

Everything that a program or a notebook starts from can be had from here. It is loaded at its first use, so that
``import rsseg_tf`` takes no time. Layers are known to Keras as soon as both are imported, in whatever order, so that
``keras.saving.load_model`` reads a model that was saved with them.

``predict``, ``evaluate``, ``export`` and ``prepare`` are functions and packages at the same time:
``rsseg_tf.predict(...)`` predicts, and ``rsseg_tf.predict.engine`` is a module of that package.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rsseg_tf.environment import clean_environment
from rsseg_tf.moved import redirect_imports

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec

    from rsseg_tf import backbones, errors, losses, metrics, segmentors
    from rsseg_tf.config import load_config
    from rsseg_tf.data import training_dataset, validation_dataset
    from rsseg_tf.datasets import custom_spec
    from rsseg_tf.library import (
        Model,
        build_model,
        check_data,
        compile_options,
        convert,
        evaluate,
        export,
        export_model,
        load_model,
        load_remote_model,
        predict,
        prepare,
        prepare_annotations,
        prepare_scenes,
        pretrain,
        probe,
        train,
        verify,
    )

__version__ = "0.2.0"

__all__ = [
    "Model",
    "__version__",
    "backbones",
    "build_model",
    "check_data",
    "compile_options",
    "convert",
    "custom_spec",
    "errors",
    "evaluate",
    "export",
    "export_model",
    "load_config",
    "load_model",
    "load_remote_model",
    "losses",
    "metrics",
    "predict",
    "prepare",
    "prepare_annotations",
    "prepare_scenes",
    "pretrain",
    "probe",
    "segmentors",
    "train",
    "training_dataset",
    "validation_dataset",
    "verify",
]

# Name -> module that defines it; a package stands for itself.
_LAZY = {
    "Model": "rsseg_tf.library",
    "backbones": "rsseg_tf.backbones",
    "build_model": "rsseg_tf.library",
    "check_data": "rsseg_tf.library",
    "compile_options": "rsseg_tf.library",
    "convert": "rsseg_tf.library",
    "custom_spec": "rsseg_tf.datasets",
    "errors": "rsseg_tf.errors",
    "evaluate": "rsseg_tf.evaluate",
    "export": "rsseg_tf.export",
    "export_model": "rsseg_tf.library",
    "load_config": "rsseg_tf.config",
    "load_model": "rsseg_tf.library",
    "load_remote_model": "rsseg_tf.library",
    "losses": "rsseg_tf.losses",
    "metrics": "rsseg_tf.metrics",
    "predict": "rsseg_tf.predict",
    "prepare": "rsseg_tf.prepare",
    "prepare_annotations": "rsseg_tf.library",
    "prepare_scenes": "rsseg_tf.library",
    "pretrain": "rsseg_tf.library",
    "probe": "rsseg_tf.library",
    "segmentors": "rsseg_tf.segmentors",
    "train": "rsseg_tf.library",
    "training_dataset": "rsseg_tf.data",
    "validation_dataset": "rsseg_tf.data",
    "verify": "rsseg_tf.library",
}
# Packages that are also called.
_CALLABLE = frozenset({"evaluate", "export", "predict", "prepare"})


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rsseg_tf' has no attribute '{name}'; it has {', '.join(__all__)}")
    module = importlib.import_module(_LAZY[name])
    return module if name == _LAZY[name].rpartition(".")[2] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# === Packages that are also functions ===


class _CallablePackage(ModuleType):
    """A package of this one that calls the library's function of its name."""

    @property
    def _function(self) -> Callable[..., Any]:
        function: Callable[..., Any] = getattr(
            importlib.import_module("rsseg_tf.library"), self.__name__.rpartition(".")[2]
        )
        return function

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function(*args, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._function.__doc__

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, (self.__name__,)


class _Package(ModuleType):
    """This package: makes the packages callable as they become its attributes, which they do not know of."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _CALLABLE and type(value) is ModuleType:
            value.__class__ = _CallablePackage
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


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
