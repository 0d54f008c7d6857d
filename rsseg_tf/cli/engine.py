"""Which model eval and predict run, and what runs it: --engine, --tolerance, --server."""

from __future__ import annotations

from typing import Any

import click

from rsseg_tf.cli.commands import group
from rsseg_tf.cli.options import trust_option

__all__ = ["engine_options", "given_precision", "named_model"]

_ENGINES = ("auto", "keras", "savedmodel", "tflite", "onnx", "openvino")  # as `rsseg_tf.library.opening.Engine`

engine_options = group(
    "Engine",
    click.option("--engine", type=click.Choice(_ENGINES),
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


def _is_given(name: str) -> bool:
    """Whether an option stands on the command line."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def given_precision(precision: str) -> Any:
    """Returns the value of --precision, or None where it is the default."""
    return precision if _is_given("precision") else None


def named_model(model_path: str | None, values: dict[str, Any]) -> Any:
    """Returns what --model-path or --server names, as functions of `rsseg_tf.library` take it.

    Args:
        model_path: Value of --model-path.
        values: All other values; this function removes those of `server_options`.

    Raises:
        ConfigError: When both or neither are given, or an option has no effect.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.library.models import Served

    names = ("server", "model_name", "in_flight", "timeout", "patience", "manifest")
    given = {name: value for name in names if (value := values.pop(name)) is not None}
    if "server" not in given:
        if given:
            raise ConfigError(f"--{next(iter(given))} has an effect with --server only; add it or leave it out.")
        if model_path is None:
            raise ConfigError("--model_path is missing: a checkpoint or an exported model; or --server HOST:PORT.")
        return model_path
    if model_path is not None:
        raise ConfigError(f"--model_path {model_path} and --server {given['server']} both name a model; leave out one.")
    if "model_name" not in given:
        raise ConfigError("--server needs --model_name: what the model is called there, such as the export's folder.")
    for name in ("config_path", "overrides", "precision", "device", "gpus", "engine", "tolerance"):
        if _is_given(name):
            option = {"config_path": "config", "overrides": "set"}.get(name, name)
            raise ConfigError(f"--{option} has no effect with --server, which has its own model; leave it out.")
    return Served(**given)
