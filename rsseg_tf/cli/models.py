"""Opens the model that the options of eval, predict and the like name, and says how it predicts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.options import load, picked
from rsseg_tf.rasters.windows import Size

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.predict import InferenceOptions
    from rsseg_tf.predictors import Predictor

__all__ = [
    "changed_options",
    "choose_device",
    "choose_devices",
    "load_beside",
    "locate_model",
    "open_model",
    "open_server",
    "prediction_changes",
    "windows_note",
]


def locate_model(model_path: str) -> tuple[str, Path]:
    """Returns kind and path of a model; see `rsseg_tf.predictors.find_model`."""
    from rsseg_tf.cli.output import load_tensorflow

    load_tensorflow()
    from rsseg_tf.predictors import find_model

    return find_model(Path(model_path))


def load_beside(path: Path, config_path: str | None, overrides: tuple[str, ...]) -> Config:
    """Reads --config, or without it the config in a checkpoint or beside an exported model.

    Raises:
        ConfigError: When there is none.
    """
    from rsseg_tf.errors import ConfigError

    beside = (path if path.is_dir() else path.parent) / "config.yml"
    if config_path is None and not beside.is_file():
        raise ConfigError(
            f"{path} was exported and its config.yml is not beside it, so the labelled images are unknown. Name a "
            "config with the dataset: --config."
        )
    return load(config_path or str(beside), overrides)


def open_model(
    path: Path,
    config: Config | None,
    precision: str,
    changes: dict[str, Any],
    threads: int | None = None,
    strategy: Any = None,
) -> Predictor:
    """Opens what `locate_model` found, with the options that the command line changes.

    Raises:
        ConfigError: When the classes of an exported model are not those of the config.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.predictors import open_predictor

    predictor = open_predictor(path, config=config, precision=precision, threads=threads, strategy=strategy)
    if config is not None and config.dataset.spec.classes != predictor.spec.classes:
        raise ConfigError(
            f"{path} has the classes {', '.join(predictor.spec.classes)}; the dataset '{config.dataset.spec.name}' of "
            f"the config has {', '.join(config.dataset.spec.classes)}. Name a config with the model's classes."
        )
    return dataclasses.replace(predictor, options=changed_options(predictor.options, changes))


def open_server(model_path: str | None, values: dict[str, Any]) -> Predictor | None:
    """Opens the model that --server names; None where --model-path names one.

    Args:
        model_path: Value of --model-path.
        values: All other values; this function removes those of `server_options`.

    Raises:
        ConfigError: When both or neither are given, or an option has no effect.
        ServingError: When the server does not answer, or has no such model.
    """
    from rsseg_tf.errors import ConfigError

    names = ("server", "model_name", "in_flight", "timeout", "patience", "manifest")
    given = {name: value for name in names if (value := values.pop(name)) is not None}
    if "server" not in given:
        if given:
            raise ConfigError(f"--{next(iter(given))} has an effect with --server only; add it or leave it out.")
        if model_path is None:
            raise ConfigError("--model_path is missing: a checkpoint or an exported model; or --server HOST:PORT.")
        return None
    if model_path is not None:
        raise ConfigError(f"--model_path {model_path} and --server {given['server']} both name a model; leave out one.")
    if "model_name" not in given:
        raise ConfigError("--server needs --model_name: what the model is called there, such as the export's folder.")
    context = click.get_current_context()
    for name in ("config_path", "overrides", "precision", "device", "gpus", "engine", "tolerance"):
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = {"config_path": "config", "overrides": "set"}.get(name, name)
            raise ConfigError(f"--{option} has no effect with --server, which has its own model; leave it out.")
    from rsseg_tf.extras import require

    require("tensorflow_serving", "serving")
    from rsseg_tf.cli.output import load_tensorflow

    load_tensorflow()
    from rsseg_tf.serving.client import Retry, remote_predictor

    defaults = Retry()
    retry = Retry(given.get("timeout", defaults.timeout_s), given.get("patience", defaults.patience_s))
    return remote_predictor(
        given["server"],
        given["model_name"],
        manifest=given.get("manifest"),
        in_flight=given.get("in_flight", 4),
        retry=retry,
    )


def prediction_changes(switch: str, values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of `InferenceOptions` that the command line sets; the model decides all others.

    Args:
        switch: Name of the augmentation flag, for messages.
        values: Values of the options that `prediction_options` added.

    Raises:
        ConfigError: For options without effect, or windows without a size.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.predict import InferenceOptions

    changes: dict[str, Any] = {}
    augmentation = picked(values, "scales", "flip_horizontal", "flip_vertical", "rotate90")
    if values["augmented"]:
        changes |= augmentation | {"scales": values["scales"] or (1.0,)}
    elif any(augmentation.values()):
        given = next(name for name, value in augmentation.items() if value)
        raise ConfigError(f"--{given} has an effect with --{switch} only; add --{switch} or leave it out.")
    if values["is_slide"]:
        sizes = {name: Size.from_width_height(values[name]) for name in ("crop_size", "stride") if values[name]}
        changes |= {"is_slide": True, **sizes}
    elif values["crop_size"] or values["stride"]:
        raise ConfigError("--crop_size and --stride have an effect with --is_slide only; add it or leave them out.")
    if values["blend"]:
        changes["blend"] = values["blend"]
    InferenceOptions(**changes)  # raises for wrong values before a model is loaded
    return changes


def changed_options(options: InferenceOptions, changes: dict[str, Any]) -> InferenceOptions:
    """Returns a model's options with the fields of `prediction_changes`; a blend implies windows."""
    options = dataclasses.replace(options, **changes)
    return options.with_blend(changes["blend"]) if "blend" in changes else options


def windows_note(predictor: Predictor, changes: dict[str, Any]) -> str | None:
    """Returns a note for a model that cuts images into windows which a checkpoint would predict whole, or None.

    Args:
        predictor: The opened model.
        changes: From `prediction_changes`.
    """
    manifest = predictor.manifest
    if manifest is None or changes.get("is_slide") or manifest.inference.is_slide:
        return None
    if predictor.kind == "server":
        size = manifest.crop_size
        why = "a server gets one window per request"
    elif predictor.tile is not None:
        size = predictor.tile
        why = "the file takes images of that size only"
    else:
        return None
    return (
        f"images larger than {size} pixels are predicted by windows of that size, because {why}. A "
        "checkpoint, and an export of any size, predicts images of up to 2048x2048 pixels whole, with other labels "
        "here and there."
    )


def choose_device(device: str, gpus: tuple[int, ...]) -> None:
    """Selects the device that predict and the like run on; see `make_strategy`.

    Raises:
        ConfigError: For a device that does not exist, or for more than one.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.training import make_strategy

    if len(gpus) > 1:
        raise ConfigError(
            f"this command runs on one GPU; got --gpus {' '.join(map(str, gpus))}. Name one of them. (rsseg-tf eval "
            "takes several.)"
        )
    make_strategy(device, gpus or None, alone=True)


def choose_devices(device: str, gpus: tuple[int, ...], kind: str) -> tuple[Any, Any]:
    """Selects the devices, and finds the other workers, that share the images of eval; see `make_strategy`.

    Args:
        device: Value of --device.
        gpus: Value of --gpus.
        kind: Kind of the model.

    Returns:
        The strategy of this process's devices, None for one device, and the `Workers`.

    Raises:
        ConfigError: For a device that does not exist, or for several of a model that is no checkpoint; when another
            worker does not start.
    """
    from rsseg_tf.cli.workers import join_workers
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.training.strategy import own_devices

    if len(gpus) > 1 and kind != "checkpoint":
        raise ConfigError(
            f"several GPUs share the images of a checkpoint only; got --gpus {' '.join(map(str, gpus))} for an "
            "exported model. Name one of them, or evaluate the checkpoint."
        )
    strategy, workers = join_workers(device, gpus)
    return own_devices(strategy), workers
