"""Options that several commands share, and the one thing that click lacks: options that take many values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rsseg_tf.config import Config, PretrainConfig
    from rsseg_tf.inference import InferenceOptions

__all__ = [
    "ManyValues",
    "choose_device",
    "config_option",
    "device_options",
    "load",
    "load_beside",
    "load_pretraining",
    "prediction_options",
    "resolve_prediction",
    "weights_options",
]

F = TypeVar("F", bound=Callable[..., Any])


class ManyValues(click.Command):
    """A command whose repeatable options also take several values at once: `--scales 0.75 1.0 1.25`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spells such options out one value at a time."""
        repeatable = {
            option
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for option in parameter.opts
        }
        spelled: list[str] = []
        current: str | None = None
        for argument in args:
            if argument.startswith("-") and not _is_number(argument):
                name = argument.partition("=")[0].replace("_", "-")
                current = name if name in repeatable and "=" not in argument else None
                if current is None:
                    spelled.append(argument)
            elif current is not None:
                values = argument.split(",") if "=" not in argument else [argument]
                for value in values:
                    spelled += [current, value]
            else:
                spelled.append(argument)
        return super().parse_args(ctx, spelled)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def config_option(*, required: bool) -> Callable[[F], F]:
    """Adds --config and --set."""
    more = "" if required else " Default: the one beside the weights."

    def add(function: F) -> F:
        function = click.option(
            "--set",
            "overrides",
            multiple=True,
            metavar="KEY=VALUE",
            help="Change any value of the config, e.g. --set augment.flip_vertical=0.5.",
        )(function)
        return click.option(
            "--config",
            "config_path",
            required=required,
            metavar="FILE",
            help=f"YAML config: a file, or the name of a shipped one.{more}",
        )(function)

    return add


def device_options(function: F) -> F:
    """Adds --device and --gpus."""
    function = click.option(
        "--gpus", multiple=True, type=click.IntRange(min=0), metavar="N...", help="Which GPUs, e.g. --gpus 0 1."
    )(function)
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "gpu"]),
        default="auto",
        show_default=True,
        help="auto: GPUs if there are any, else the CPU.",
    )(function)


def weights_options(function: F) -> F:
    """Adds what eval and predict need to find and run a model: --model-path, --config, --set, --precision, devices."""
    function = device_options(function)
    function = click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        default="fp32",
        show_default=True,
        help="Type of activations.",
    )(function)
    function = config_option(required=False)(function)
    return click.option("--model-path", required=True, metavar="DIR", help="A checkpoint, e.g. output/best_model.")(
        function
    )


def prediction_options(switch: str) -> Callable[[F], F]:
    """Adds test-time augmentation (behind the flag `switch`) and sliding windows."""
    size: dict[str, Any] = {"nargs": 2, "type": click.IntRange(min=1), "metavar": "W H"}
    options = [
        click.option(f"--{switch}", "augmented", is_flag=True, help="Average over scales and flips."),
        click.option(
            "--scales",
            multiple=True,
            type=click.FloatRange(min=0, min_open=True),
            metavar="S...",
            help=f"With --{switch}: resize factors, e.g. --scales 0.75 1.0 1.25.",
        ),
        click.option("--flip-horizontal", is_flag=True, help=f"With --{switch}: also mirrored left-right."),
        click.option("--flip-vertical", is_flag=True, help=f"With --{switch}: also mirrored top-bottom."),
        click.option("--is-slide", is_flag=True, help="Predict overlapping windows and average them."),
        click.option("--crop-size", **size, help="With --is-slide: window size, width first."),
        click.option("--stride", **size, help="With --is-slide: step between windows, width first."),
    ]

    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def resolve_prediction(config: Config, switch: str, values: dict[str, Any]) -> InferenceOptions:
    """Returns the prediction options: those of the config's `eval` section, replaced by what the command line says.

    Args:
        config: the run's config.
        switch: name of the augmentation flag, for messages.
        values: what `prediction_options` added.

    Raises:
        ConfigError: for options that would have no effect, or windows without a size.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.inference import InferenceOptions

    options = config.eval.model_dump()
    augmentation = {name: values[name] for name in ("scales", "flip_horizontal", "flip_vertical")}
    if values["augmented"]:
        options |= augmentation | {"scales": values["scales"] or (1.0,)}
    elif any(augmentation.values()):
        given = next(name for name, value in augmentation.items() if value)
        raise ConfigError(f"--{given} has an effect with --{switch} only; add --{switch} or leave it out.")
    if values["is_slide"]:
        options |= {"is_slide": True, "crop_size": values["crop_size"], "stride": values["stride"]}
    elif values["crop_size"] or values["stride"]:
        raise ConfigError("--crop_size and --stride have an effect with --is_slide only; add it or leave them out.")
    return InferenceOptions(**options)


def load(config_path: str, overrides: tuple[str, ...], **changes: Any) -> Config:
    """Reads a config file, or a shipped one of that name, with overrides.

    Args:
        config_path: value of --config.
        overrides: values of --set.
        **changes: `train__iters=100` and so on: what dedicated options set; None leaves the config's value.
    """
    from rsseg_tf.config import load_config

    return load_config(config_path, [*overrides, *_assignments(changes)])


def load_pretraining(config_path: str, overrides: tuple[str, ...], **changes: Any) -> PretrainConfig:
    """Reads a config of pre-training; otherwise as `load`."""
    from rsseg_tf.config import load_pretrain_config

    return load_pretrain_config(config_path, [*overrides, *_assignments(changes)])


def _assignments(changes: dict[str, Any]) -> list[str]:
    return [f"{key.replace('__', '.')}={value}" for key, value in changes.items() if value is not None]


def load_beside(model_path: str, config_path: str | None, overrides: tuple[str, ...]) -> Config:
    """Reads --config if given, else the config in the checkpoint folder `model_path`."""
    from rsseg_tf.cli.quiet import load_tensorflow

    load_tensorflow()
    from rsseg_tf.checkpoint import config_file

    beside = config_file(Path(model_path))  # also when --config is given: this is the check that it is a checkpoint
    return load(config_path or str(beside), overrides)


def choose_device(device: str, gpus: tuple[int, ...]) -> None:
    """Makes the chosen device the one that eval and predict run on; see `make_strategy`.

    Raises:
        ConfigError: for a device that is not there, or for more than one.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.training import make_strategy

    if len(gpus) > 1:
        raise ConfigError(f"eval and predict run on one GPU; got --gpus {' '.join(map(str, gpus))}. Name one of them.")
    make_strategy(device, gpus or None)
