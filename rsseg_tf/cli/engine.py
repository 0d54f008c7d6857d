"""--engine and its kin of eval and predict: what runs the model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rsseg_tf.cli.commands import group
from rsseg_tf.cli.models import locate_model
from rsseg_tf.cli.options import trust_option
from rsseg_tf.rasters.windows import Size

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.rasters.sources import Source

__all__ = ["ModelSource", "choose_engine", "engine_options", "locate_engine"]

_ENGINES = ("keras", "savedmodel", "tflite", "onnx", "openvino")  # as `rsseg_tf.engines`, whose import takes seconds
_DEFAULT_SIDE = 512  # of images without a size in their header


@dataclass(frozen=True)
class ModelSource:
    """A model and the way to open it.

    Attributes:
        kind: `checkpoint`, or anything else for an export.
        path: Path for `open_predictor`; with a tolerance, the folder to choose from.
        precision: Precision for `open_predictor`.
        threads: Threads for `open_predictor`; None leaves the engine the choice.
        tolerance: Points that the engine may lose, which is still to be chosen; None where it is known.
        engine: Name of the engine where one was chosen.
    """

    kind: str
    path: Path
    precision: str
    threads: int | None = None
    tolerance: float | None = None
    engine: str | None = None


engine_options = group(
    "Engine",
    click.option("--engine", type=click.Choice(["auto", *_ENGINES]),
                 help="What runs the model, of all that the folder of an export or a checkpoint offers. auto: the "
                      "fastest here within --tolerance; each is timed on a few images first. Default: what "
                      "--model-path names; a folder's SavedModel."),
    click.option("--tolerance", type=click.FloatRange(0, 100), metavar="POINTS",
                 help="With --engine auto: how many points of mIoU the engine may lose, where the export measured "
                      "it, or else how many of 100 pixels may get another class than in Keras.  [default: 0.05]"),
    click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", show_default=True,
                 help="Type of activations; of checkpoints and OpenVINO models only."),
    trust_option,
)  # fmt: skip


def locate_engine(model_path: str, engine: str | None, tolerance: float | None, precision: str) -> ModelSource:
    """Finds the model, and what runs it unless that must be measured first.

    Raises:
        ConfigError: For options that would have no effect.
        WeightsError: When there is no model.
        ExportError: When it does not offer the engine.
    """
    from rsseg_tf.errors import ConfigError

    if tolerance is not None and engine != "auto":
        raise ConfigError("--tolerance has an effect with --engine auto only; add it or leave --tolerance out.")
    if engine is None:
        return ModelSource(*locate_model(model_path), precision)
    from rsseg_tf.cli.output import load_tensorflow

    load_tensorflow()
    from rsseg_tf.engines import DEFAULT_TOLERANCE, available_threads, find_candidates, named_candidate

    if engine != "auto":
        candidate = named_candidate(Path(model_path), engine)
        kind = "checkpoint" if engine == "keras" else engine
        return ModelSource(kind, candidate.path, precision, available_threads(), engine=candidate.name)
    if click.get_current_context().get_parameter_source("precision") is click.core.ParameterSource.COMMANDLINE:
        raise ConfigError("--precision has no effect with --engine auto, which chooses it; leave it out.")
    place, candidates = find_candidates(Path(model_path))
    kind = "checkpoint" if any(one.engine == "keras" for one in candidates) else "export"
    limit = DEFAULT_TOLERANCE if tolerance is None else tolerance
    return ModelSource(kind, place, precision, available_threads(), limit)


def choose_engine(located: ModelSource, config: Config | None, image: Source, window: Size | None) -> ModelSource:
    """Chooses for --engine auto and prints the choice; returns any other source as it is.

    Args:
        located: From `locate_engine`.
        config: Config of a checkpoint.
        image: One of those that will be predicted.
        window: Size of windows, if it will be cut into some.

    Raises:
        ExportError: When nothing runs here within the tolerance.
    """
    if located.tolerance is None:
        return located
    from rsseg_tf.engines import choose
    from rsseg_tf.predict import image_size

    size = window or image_size(image)
    if not size.pixels:
        size = Size(_DEFAULT_SIDE, _DEFAULT_SIDE)
    config = config if located.kind == "checkpoint" else None
    choice = choose(located.path, config=config, size=size, tolerance=located.tolerance)
    click.echo(str(choice))
    chosen = choice.candidate
    return ModelSource(located.kind, chosen.path, chosen.precision, located.threads, engine=chosen.name)
