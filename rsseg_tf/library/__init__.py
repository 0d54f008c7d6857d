"""What the commands do, as functions: `rsseg_tf.train(...)` is `rsseg-tf train`.

Their keyword arguments are the commands' options with underscores. They return objects, raise `rsseg_tf.errors`, and
print nothing: who wants the lines that a command prints passes `notify=print`. All of them can be had from `rsseg_tf`.
"""

from rsseg_tf.library.checking import check_data
from rsseg_tf.library.evaluating import EvalResult, evaluate
from rsseg_tf.library.exporting import export, export_model
from rsseg_tf.library.models import Model, Prediction, load_model, load_remote_model
from rsseg_tf.library.predicting import Predictions, predict
from rsseg_tf.library.preparing import prepare, prepare_annotations, prepare_scenes
from rsseg_tf.library.training import Run, pretrain, train

__all__ = [
    "EvalResult",
    "Model",
    "Prediction",
    "Predictions",
    "Run",
    "check_data",
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
    "train",
]
