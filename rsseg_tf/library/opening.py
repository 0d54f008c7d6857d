"""From what names a model to what runs it: where it lies, which engine takes it, with which config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rsseg_tf.errors import ConfigError, did_you_mean
from rsseg_tf.files import StrPath
from rsseg_tf.library.listening import Listener
from rsseg_tf.library.startup import load_tensorflow
from rsseg_tf.rasters.windows import Size

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.predictors import Predictor
    from rsseg_tf.rasters.sources import Source

__all__ = [
    "Engine",
    "ModelSource",
    "Precision",
    "choose_engine",
    "config_of",
    "load_beside",
    "locate_engine",
    "locate_model",
    "open_model",
    "open_source",
    "precision_of",
]

Engine = Literal["auto", "keras", "savedmodel", "tflite", "onnx", "openvino"]  # `auto`, and `rsseg_tf.engines.ENGINES`
Precision = Literal["fp32", "fp16", "bf16", "float32", "float16", "bfloat16"]

Overrides = Sequence[str] | Mapping[str, Any]

_LONG_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
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


def precision_of(name: str | None) -> str:
    """Returns the type of activations, `fp32`, `fp16` or `bf16`; NumPy's names mean the same, None is `fp32`.

    Raises:
        ConfigError: For another name.
    """
    if name is None:
        return "fp32"
    if name not in get_args(Precision):
        allowed = get_args(Precision)
        raise ConfigError(f"precision is '{name}'.{did_you_mean(name, allowed)} Allowed: {', '.join(allowed)}.")
    return _LONG_NAMES.get(name, name)


def locate_model(path: StrPath) -> tuple[str, Path]:
    """Returns kind and path of a model; see `rsseg_tf.predictors.find_model`."""
    load_tensorflow()
    from rsseg_tf.predictors import find_model

    return find_model(Path(path))


def locate_engine(
    path: StrPath, engine: str | None = None, tolerance: float | None = None, precision: str | None = None
) -> ModelSource:
    """Finds the model, and what runs it unless that must be measured first.

    Args:
        path: A checkpoint, or what was exported.
        engine: One of `Engine`; None takes what the path names, of a folder its SavedModel.
        tolerance: With `auto`, how many points the engine may lose; None for the usual.
        precision: One of `Precision`.

    Raises:
        ConfigError: For an unknown name, or options that would have no effect.
        WeightsError: When there is no model.
        ExportError: When it does not offer the engine.
    """
    allowed = get_args(Engine)
    if engine is not None and engine not in allowed:
        raise ConfigError(f"--engine is '{engine}'.{did_you_mean(engine, allowed)} Allowed: {', '.join(allowed)}.")
    if tolerance is not None and engine != "auto":
        raise ConfigError("--tolerance has an effect with --engine auto only; add it or leave --tolerance out.")
    if engine is None:
        return ModelSource(*locate_model(path), precision_of(precision))
    load_tensorflow()
    from rsseg_tf.engines import DEFAULT_TOLERANCE, available_threads, find_candidates, named_candidate

    if engine != "auto":
        candidate = named_candidate(Path(path), engine)
        kind = "checkpoint" if engine == "keras" else engine
        return ModelSource(kind, candidate.path, precision_of(precision), available_threads(), engine=candidate.name)
    if precision is not None:
        raise ConfigError("--precision has no effect with --engine auto, which chooses it; leave it out.")
    place, candidates = find_candidates(Path(path))
    kind = "checkpoint" if any(one.engine == "keras" for one in candidates) else "export"
    limit = DEFAULT_TOLERANCE if tolerance is None else tolerance
    return ModelSource(kind, place, precision_of(None), available_threads(), limit)


def choose_engine(
    located: ModelSource,
    config: Config | None,
    image: Source | None = None,
    window: Size | None = None,
    *,
    listener: Listener | None = None,
) -> ModelSource:
    """Chooses for the engine `auto` and tells the choice; returns any other source as it is.

    Args:
        located: From `locate_engine`.
        config: Config of a checkpoint.
        image: One of those that will be predicted; None where they are not known.
        window: Size of windows, if it will be cut into some.
        listener: Hears the choice.

    Raises:
        ExportError: When nothing runs here within the tolerance.
    """
    if located.tolerance is None:
        return located
    from rsseg_tf.engines import choose
    from rsseg_tf.predict import image_size

    size = window or (Size(0, 0) if image is None else image_size(image))
    if not size.pixels:
        size = Size(_DEFAULT_SIDE, _DEFAULT_SIDE)
    config = config if located.kind == "checkpoint" else None
    choice = choose(located.path, config=config, size=size, tolerance=located.tolerance)
    (listener or Listener()).say(str(choice))
    chosen = choice.candidate
    return ModelSource(located.kind, chosen.path, chosen.precision, located.threads, engine=chosen.name)


def config_of(source: ModelSource, config: Any, overrides: Overrides) -> Config | None:
    """Returns the config of a checkpoint; None for an export, which needs none.

    Args:
        source: The model.
        config: As `rsseg_tf.load_config` takes it, instead of the one in the checkpoint; None for that.
        overrides: As there.

    Raises:
        ConfigError: When it is wrong, or given for an export.
    """
    if source.kind == "checkpoint":
        return load_beside(source.path, config, overrides)
    if config or overrides:
        raise ConfigError(
            f"{source.path} is an exported model and has a manifest instead of a config; --config and --set have no "
            "effect. Leave them out."
        )
    return None


def load_beside(path: Path, config: Any, overrides: Overrides) -> Config:
    """Reads a config, or without it the config in a checkpoint or beside an exported model.

    Args:
        path: The model.
        config: As `rsseg_tf.load_config` takes it; None for the one beside the model.
        overrides: As there.

    Raises:
        ConfigError: When there is none.
    """
    from rsseg_tf.config import load_config

    beside = (path if path.is_dir() else path.parent) / "config.yml"
    if config is None and not beside.is_file():
        raise ConfigError(
            f"{path} was exported and its config.yml is not beside it, so the labelled images are unknown. Name a "
            "config with the dataset: --config."
        )
    return load_config(config or str(beside), overrides)


def open_source(source: ModelSource, config: Config | None, strategy: Any = None) -> Predictor:
    """Opens a model on the chosen devices.

    Args:
        source: What runs it.
        config: Config of a checkpoint.
        strategy: The devices that share the images of a batch; None for one device.
    """
    from rsseg_tf.predictors import open_predictor

    return open_predictor(
        source.path, config=config, precision=source.precision, threads=source.threads, strategy=strategy
    )


def open_model(source: ModelSource, config: Config, changes: dict[str, Any], strategy: Any = None) -> Predictor:
    """Opens a model to evaluate it on the dataset of a config.

    Args:
        source: What runs it.
        config: Names the dataset.
        changes: Fields of `InferenceOptions`, from `prediction_changes`.
        strategy: As `open_source`.

    Raises:
        ConfigError: When the classes of an exported model are not those of the config.
    """
    from rsseg_tf.library.windowing import changed_options

    predictor = open_source(source, config, strategy)
    require_classes_of(predictor.spec.classes, config, str(source.path))
    return dataclasses.replace(predictor, options=changed_options(predictor.options, changes))


def require_classes_of(classes: Sequence[str], config: Config, what: str) -> None:
    """Raises `ConfigError` unless a model's classes are those of the config's dataset."""
    wanted = config.dataset.spec.classes
    if wanted != tuple(classes):
        raise ConfigError(
            f"{what} has the classes {', '.join(classes)}; the dataset '{config.dataset.spec.name}' of the config has "
            f"{', '.join(wanted)}. Name a config with the model's classes."
        )
