"""What the commands do, as functions: `rsseg_tf.train(...)` is `rsseg-tf train`.

Their keyword arguments are the commands' options with underscores. They return objects, raise `rsseg_tf.errors`, and
print nothing: who wants the lines that a command prints passes `notify=print`. All of them can be had from `rsseg_tf`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsseg_tf.library.building import build_model, compile_options
    from rsseg_tf.library.checking import check_data
    from rsseg_tf.library.converting import Conversion, convert
    from rsseg_tf.library.evaluating import EvalResult, evaluate
    from rsseg_tf.library.exporting import export, export_model, verify
    from rsseg_tf.library.listening import Listener
    from rsseg_tf.library.models import Model, Prediction, load_model, load_remote_model
    from rsseg_tf.library.predicting import Predictions, predict
    from rsseg_tf.library.preparing import prepare, prepare_annotations, prepare_scenes
    from rsseg_tf.library.probing import ProbeResult, probe
    from rsseg_tf.library.training import Run, pretrain, train

__all__ = [
    "Conversion",
    "EvalResult",
    "Listener",
    "Model",
    "Prediction",
    "Predictions",
    "ProbeResult",
    "Run",
    "build_model",
    "check_data",
    "compile_options",
    "convert",
    "evaluate",
    "export",
    "export_model",
    "load_model",
    "load_remote_model",
    "predict",
    "prepare",
    "prepare_annotations",
    "prepare_scenes",
    "pretrain",
    "probe",
    "train",
    "verify",
]

# Imported when they are asked for: `rsseg-tf --help` needs none of them.
_WHERE = {
    "building": ("build_model", "compile_options"),
    "checking": ("check_data",),
    "converting": ("Conversion", "convert"),
    "evaluating": ("EvalResult", "evaluate"),
    "exporting": ("export", "export_model", "verify"),
    "listening": ("Listener",),
    "models": ("Model", "Prediction", "load_model", "load_remote_model"),
    "predicting": ("Predictions", "predict"),
    "preparing": ("prepare", "prepare_annotations", "prepare_scenes"),
    "probing": ("ProbeResult", "probe"),
    "training": ("Run", "pretrain", "train"),
}


if not TYPE_CHECKING:  # a type checker shall report wrong names

    def __getattr__(name: str) -> Any:
        for module, names in _WHERE.items():
            if name in names:
                return getattr(importlib.import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
