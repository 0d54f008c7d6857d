"""Options that several commands share, and commands whose options take several values, which click lacks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rsseg_tf.cli.paddleseg import as_here
from rsseg_tf.datasets.protocols import present_name

if TYPE_CHECKING:
    from rsseg_tf.config import Config, PretrainConfig
    from rsseg_tf.rasters.sources import Stack

__all__ = [
    "Grouped",
    "ManyValues",
    "NameOf",
    "WithDefault",
    "check_save_dir",
    "combined",
    "config_option",
    "device_options",
    "group",
    "load",
    "load_pretraining",
    "picked",
    "prediction_options",
    "reading_options",
    "run_options",
    "run_settings",
    "server_options",
    "set_option",
    "stack_options",
    "stacked",
    "trains_on_option",
    "trust_option",
    "vrt_option",
    "weights_options",
]

F = TypeVar("F", bound=Callable[..., Any])


_OF_FILES = ("FILE...", "PATH...")
"""Metavars of options whose values are names of files, which may have commas."""


class ManyValues(click.Command):
    """A command whose repeatable options also take several values at once: `--scales 0.75 1.0 1.25`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Spells such options out one value at a time."""
        args = as_here(self.name, args)
        repeatable = {
            option: parameter.metavar
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.multiple
            for option in parameter.opts
        }
        spelled: list[str] = []
        current: str | None = None
        for argument in args:
            # `--scales -0.5` gives a value that begins with a dash, not another option.
            if argument.startswith("-") and not _is_number(argument):
                name = argument.partition("=")[0].replace("_", "-")
                current = name if name in repeatable and "=" not in argument else None
                if current is None:
                    spelled.append(argument)
            elif current is not None:
                # `--scales 0.5,1.0` is two values; the value of `--set KEY=a,b` is one list, a,b.tif one file.
                whole = "=" in argument or repeatable[current] in _OF_FILES
                values = [argument] if whole else argument.split(",")
                for value in values:
                    spelled += [current, value]
            else:
                spelled.append(argument)
        return super().parse_args(ctx, spelled)


class Grouped(ManyValues):
    """A `ManyValues` command whose help lists options under the headings of `group`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes one section per heading, in the order of the options, after those without one."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}  # those without a heading come first
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                sections.setdefault(getattr(parameter, "heading", "Options"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def group(heading: str, *decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Returns a decorator that adds options under a heading in the help of a `Grouped` command."""

    def add(function: F) -> F:
        # Options that the function has already are told by identity: click's options compare by nothing else.
        known = {id(option) for option in getattr(function, "__click_params__", ())}
        function = combined(*decorators)(function)
        for option in getattr(function, "__click_params__", ()):
            if id(option) not in known:
                option.heading = heading
        return function

    return add


class WithDefault(click.Group):
    """Takes `serve EXPORT_DIR` beside `serve init`: arguments that begin with no subcommand go to a default command.

    Attributes:
        default: The default command's name, which nobody types.
    """

    default = "model"

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Returns the default command's context, under the group's own name, for arguments that name no other one."""
        names_help = bool(args) and parent is not None and args[0] in parent.help_option_names
        if names_help or (args and args[0] in self._others()) or (not args and self.no_args_is_help):
            return super().make_context(info_name, args, parent, **extra)
        return self.commands[self.default].make_context(info_name, args, parent, **extra)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes a line for each command."""
        for name in (self.default, *self._others()):
            with click.Context(self.commands[name], parent=ctx) as inner:
                pieces = self.commands[name].collect_usage_pieces(inner)
            formatter.write_usage(ctx.command_path, " ".join([*([name] if name != self.default else []), *pieces]))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the default command's options, and the other commands."""
        with click.Context(self.commands[self.default], parent=ctx) as inner:
            self.commands[self.default].format_options(inner, formatter)
        if others := self._others():
            with formatter.section("Commands"):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=80)) for name in others])

    def _others(self) -> list[str]:
        return [name for name in self.commands if name != self.default]


class NameOf(click.Choice[str]):
    """A choice among names that also takes the spelling of earlier versions; see `present_name`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns today's name."""
        return super().convert(present_name(value), param, ctx)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def combined(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Returns one decorator that adds all these options, in this order."""

    def add(function: F) -> F:
        # click lists in its help the decorator first that is applied last.
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return add


set_option = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                          help="Change any value of the config, e.g. --set dataset.root=data/mine.")  # fmt: skip


def picked(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Returns the values of some options by name, to be passed on as keyword arguments."""
    return {name: values[name] for name in names}


def config_option(*, required: bool) -> Callable[[F], F]:
    """Adds --config and --set."""
    default = "" if required else "  [default: the one beside the weights]"
    text = f"YAML config: a file, or the name of a shipped one.{default}"
    return combined(
        click.option("--config", "config_path", required=required, metavar="FILE", help=text),
        set_option,
    )


device_options = combined(
    click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True,
                 help="auto: GPUs if there are any, else the CPU."),
    click.option("--gpus", multiple=True, type=click.IntRange(min=0), metavar="N...",
                 help="Which GPUs, e.g. --gpus 0 1."),
)  # fmt: skip


_COUNT = click.IntRange(min=1)

# Option of train or pretrain -> the key of the config that it sets.
_RUN_KEYS = {
    "iters": "train.iters",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "total_batch_size": "train.total_batch_size",
    "learning_rate": "lr_schedule.learning_rate",
    "save_interval": "train.save_interval",
    "log_iters": "train.log_iters",
    "keep_checkpoint_max": "train.keep_checkpoint_max",
    "early_stop_intervals": "train.early_stop_intervals",
    "seed": "train.seed",
    "precision": "train.precision",
    "deterministic": "train.deterministic",
    "num_workers": "data.workers",
    "coarse_model": "model.coarse.pretrained",
}


run_options = combined(
    click.option("--save-dir", type=Path, default=Path("output"), show_default=True,
                 help="Folder for checkpoints and logs."),
    click.option("--save-interval", type=_COUNT, metavar="N", help="Steps between checkpoints."),
    click.option("--log-iters", type=_COUNT, metavar="N", help="Steps between log lines."),
    click.option("--resume-model", type=Path, metavar="DIR", help="Go on from a checkpoint, e.g. output/iter_1000."),
    click.option("--keep-checkpoint-max", type=_COUNT, metavar="N",
                 help="How many iter_N/ to keep; the oldest are removed first."),
    click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of weights, order and random changes."),
    click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Type of activations."),
    click.option("--deterministic", is_flag=True, default=None, help="Equal runs give equal weights, to the bit."),
    click.option("--num-workers", type=_COUNT, metavar="N",
                 help="Images prepared in parallel.  [default: chosen while training]"),
    click.option("--offline", is_flag=True, help="Never use the network; pre-trained weights must be in the cache."),
    click.option("--overwrite", is_flag=True, help="Replace the checkpoints of an earlier run in --save-dir."),
    device_options,
)  # fmt: skip
"""What train and pretrain share: checkpoints, logs, precision, devices."""


def run_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of the config that the options of train or pretrain set, with their values."""
    return {_RUN_KEYS[name]: value for name, value in options.items()}


def _trust(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from rsseg_tf.manifest import TRUST_VARIABLE

        os.environ[TRUST_VARIABLE] = "1"  # in the environment, so that child processes trust too


trust_option = click.option("--trust", is_flag=True, expose_value=False, callback=_trust,
                            help="Open SavedModels that could read or write files, too. Only if you trust their "
                                 "author.")  # fmt: skip

weights_options = combined(
    click.option("--model-path", required=True, metavar="PATH",
                 help="A checkpoint such as output/best_model, or an exported model: a folder, .tflite, .onnx or "
                      ".xml."),
    config_option(required=False),
    click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", show_default=True,
                 help="Type of activations; of checkpoints and OpenVINO models only."),
    trust_option,
    device_options,
)  # fmt: skip
"""Which model eval and predict run, and on what."""


def server_options(function: F) -> F:
    """Adds --server and its options, and makes --model-path, which `weights_options` added, optional."""
    function = combined(
        click.option("--server", metavar="ADDRESS",
                     help="Instead of --model-path: a model server; HOST:PORT for gRPC, http://HOST:PORT for REST."),
        click.option("--model-name", metavar="NAME", help="With --server: the model's name there."),
        click.option("--in-flight", type=click.IntRange(min=1), metavar="N",
                     help="With --server: most requests in flight at the same time.  [default: 4]"),
        click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS",
                     help="With --server: wait this long for an answer before the request is sent again.  "
                          "[default: 60]"),
        click.option("--patience", type=click.FloatRange(min=0), metavar="SECONDS",
                     help="With --server: give up when it is busy or unreachable for this long.  [default: 120]"),
        click.option("--manifest", type=Path, metavar="FILE",
                     help="With --server: manifest.json of the export, for servers that do not offer it."),
    )(function)  # fmt: skip
    parameters = function.__click_params__  # type: ignore[attr-defined]
    next(option for option in parameters if option.name == "model_path").required = False
    return function


def prediction_options(switch: str) -> Callable[[F], F]:
    """Adds test-time augmentation (enabled by the flag `switch`) and sliding windows."""
    size: dict[str, Any] = {"nargs": 2, "type": click.IntRange(min=1), "metavar": "W H"}
    return combined(
        click.option(f"--{switch}", "augmented", is_flag=True, help="Average over scales and flips."),
        click.option("--scales", multiple=True, type=click.FloatRange(min=0, min_open=True), metavar="S...",
                     help=f"With --{switch}: resize factors, e.g. --scales 0.75 1.0 1.25."),
        click.option("--flip-horizontal", is_flag=True, help=f"With --{switch}: also mirrored left-right."),
        click.option("--flip-vertical", is_flag=True, help=f"With --{switch}: also mirrored top-bottom."),
        click.option("--rotate90", is_flag=True, help=f"With --{switch}: also turned by 90, 180 and 270 degrees."),
        click.option("--is-slide", is_flag=True, help="Predict overlapping windows and average them."),
        click.option("--crop-size", **size, help="With --is-slide: window size, width first."),
        click.option("--stride", **size, help="With --is-slide: step between windows, width first."),
        click.option("--blend", type=click.Choice(["mean", "cosine"]),
                     help="Weights of windows.  [default: mean with --is-slide, else cosine]"),
    )  # fmt: skip


def check_save_dir(folder: Path) -> None:
    """Checks before the work that results can be written to a folder; the folder is not made.

    Raises:
        ConfigError: When a file has its name or that of a folder above it, or nothing may be written there.
    """
    from rsseg_tf.errors import ConfigError

    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    why = "it is a file" if place == folder else f"{place} is a file"
    if place.is_dir():
        if os.access(place, os.W_OK):
            return
        why = f"nothing may be written in {place}"
    raise ConfigError(f"--save_dir {folder} cannot be written: {why}. Choose another folder.")


def load(config_path: str, overrides: tuple[str, ...], settings: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Reads a config file, or a shipped one of that name, with overrides.

    Args:
        config_path: Value of --config.
        overrides: Values of --set.
        settings: Keys of the config with the values of other options, which win; None leaves the config's value.
    """
    from rsseg_tf.config import load_config

    return load_config(config_path, [*overrides, *_assignments(settings)])


def load_pretraining(config_path: str, overrides: tuple[str, ...], settings: Mapping[str, Any]) -> PretrainConfig:
    """Reads a config of pre-training; arguments as of `load`."""
    from rsseg_tf.config import load_pretrain_config

    return load_pretrain_config(config_path, [*overrides, *_assignments(settings)])


def _assignments(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in settings.items() if value is not None]


vrt_option = click.option("--allow-vrt-sources", is_flag=True,
                          help="Follow VRTs, HDF5 files and rasters of other formats to whatever they name: files "
                               "outside of their folder, servers.")  # fmt: skip

stack_options = combined(
    click.option("--stack", multiple=True, metavar="FILE...",
                 help="One image of the bands of several files, variables or addresses, in this order. Its grid is "
                      "that of the finest; bands on other grids are resampled to it."),
    click.option("--stack-resampling", type=click.Choice(["bilinear", "nearest"]),
                 help="With --stack: how.  [default: bilinear]"),
)  # fmt: skip
"""Bands of several files as one image; see `stacked`."""


def stacked(values: Mapping[str, Any]) -> Stack | None:
    """Returns the stack that `stack_options` ask for, or None.

    Raises:
        ConfigError: When one of them has no effect.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.rasters.sources import stack_of

    members, resampling = values["stack"], values["stack_resampling"]
    if members:
        return stack_of(members, resampling or "bilinear")
    if resampling is not None:
        raise ConfigError("--stack_resampling has an effect with --stack only; add it or leave it out.")
    return None


trains_on_option = click.option("--trains-on", type=click.Choice(["auto", "cpu", "gpu"]), default="auto",
                                show_default=True,
                                help="What the config to train with is written for; auto takes a GPU if the driver of "
                                     "one is loaded.")  # fmt: skip

reading_options = combined(
    click.option("--max-image-mb", type=click.IntRange(min=1), metavar="MIB",
                 help="Largest image that is decoded, in MiB of its pixels.  [default: 1024]"),
    vrt_option,
)  # fmt: skip
"""Limits of files: the size of images, and the sources of a VRT."""
