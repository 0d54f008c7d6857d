"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from rsseg_tf.cli.commands import combined, needed
from rsseg_tf.datasets.protocols import present_name

if TYPE_CHECKING:
    from rsseg_tf.config import Config

__all__ = [
    "EXPORT_STEP",
    "NameOf",
    "checkpoint_options",
    "config_option",
    "device_options",
    "json_file_option",
    "load",
    "model_option",
    "offline_option",
    "picked",
    "prediction_options",
    "reading_options",
    "run_options",
    "save_dir_option",
    "server_options",
    "set_option",
    "speed_options",
    "stack_options",
    "trains_on_option",
    "trust_option",
    "vrt_option",
]

F = TypeVar("F", bound=Callable[..., Any])


class NameOf(click.Choice[str]):
    """A choice among names that also takes the spelling of earlier versions; see `present_name`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Returns today's name."""
        return super().convert(present_name(value), param, ctx)


set_option = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE...",
                          help="Change any value of the config, e.g. --set dataset.root=data/mine. Lists and mappings "
                               "in quotes: --set 'augment.crop_size=[256, 256]'.")  # fmt: skip


def picked(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Returns the values of some options by name, to be passed on as keyword arguments."""
    return {name: values[name] for name in names}


_CONFIG_STEP = "`rsseg-tf config list` names the shipped ones; `rsseg-tf prepare scenes` writes one for your images."
EXPORT_STEP = "`rsseg-tf export` writes such a folder."
"""What to do without an exported model."""


def config_option(*, required: bool, next_step: str = _CONFIG_STEP) -> Callable[[F], F]:
    """Adds --config and --set.

    Args:
        required: Whether --config must be given.
        next_step: Where a user gets one.
    """
    default = "" if required else "  [default: the one beside the weights]"
    text = f"YAML config: a file, or the name of a shipped one.{default}"
    option = click.option("--config", "config_path", required=required, metavar="FILE", help=text)
    return combined(needed(next_step, option), set_option)


def save_dir_option(text: str, default: Path | None = None) -> Callable[[F], F]:
    """Adds -o, which is also called --save-dir.

    Args:
        text: What goes there.
        default: The folder without it; None where `text` says what happens then.
    """
    return click.option("-o", "--output", "--save-dir", "save_dir", type=Path, metavar="DIR", default=default,
                        show_default=default is not None, help=text)  # fmt: skip


def _writable(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """Refuses a file that cannot be written before the work whose results it is for."""
    if value is not None:
        from rsseg_tf.library.folders import check_file_place

        check_file_place(value)
    return value


def json_file_option(text: str, *names: str) -> Callable[[F], F]:
    """Adds an option for a file with all numbers.

    Args:
        text: What goes there.
        names: Of the option; by default -o, which is also called --json.
    """
    names = names or ("-o", "--output", "--json", "json_path")
    return click.option(*names, type=Path, metavar="FILE", callback=_writable, help=text)


device_options = combined(
    click.option("--device", type=click.Choice(["auto", "cpu", "gpu"]), default="auto", show_default=True,
                 help="auto: GPUs if there are any, else the CPU."),
    click.option("--gpus", multiple=True, type=click.IntRange(min=0), metavar="N...",
                 help="Which GPUs, e.g. --gpus 0 1."),
)  # fmt: skip


_COUNT = click.IntRange(min=1)

run_options = combined(
    save_dir_option("Folder for checkpoints and logs.", Path("output")),
    click.option("--resume-model", type=Path, metavar="DIR", help="Go on from a checkpoint, e.g. output/iter_1000."),
    click.option("--overwrite", is_flag=True, help="Replace the checkpoints of an earlier run in the folder."),
    device_options,
)
"""What train and pretrain share: where results go, and where the run begins and takes place."""

checkpoint_options = combined(
    click.option("--save-interval", type=_COUNT, metavar="N", help="Steps between checkpoints."),
    click.option("--keep-checkpoint-max", type=_COUNT, metavar="N",
                 help="How many iter_N/ to keep; the oldest are removed first."),
    click.option("--log-iters", type=_COUNT, metavar="N", help="Steps between log lines."),
    click.option("--logger", "loggers", multiple=True, type=click.Choice(["tensorboard", "csv", "mlflow", "wandb"]),
                 metavar="NAME...", callback=lambda context, option, names: names or None,
                 help="Where losses and scores go beside the console: tensorboard, csv, mlflow, wandb.  [default: the "
                      "config's train.loggers, tensorboard if it names none]"),
)  # fmt: skip
"""What train and pretrain share: checkpoints and logs."""

speed_options = combined(
    click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Type of activations."),
    click.option("--num-workers", type=_COUNT, metavar="N",
                 help="Images prepared in parallel.  [default: chosen while training]"),
    click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of weights, order and random changes."),
    click.option("--deterministic", is_flag=True, default=None, help="Equal runs give equal weights, to the bit."),
)  # fmt: skip
"""What train and pretrain share: speed and repetition."""

offline_option = click.option("--offline", is_flag=True,
                              help="Never use the network; pre-trained weights must be in the cache.")  # fmt: skip


def _trust(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from rsseg_tf.manifest import TRUST_VARIABLE

        os.environ[TRUST_VARIABLE] = "1"  # in the environment, so that child processes trust too


trust_option = click.option("--trust", is_flag=True, expose_value=False, callback=_trust,
                            help="Open SavedModels that could read or write files, too. Only if you trust their "
                                 "author.")  # fmt: skip


def model_option(*, required: bool) -> Callable[[F], F]:
    """Adds --model-path: which model eval and predict run."""
    text = "A checkpoint such as output/best_model, or an exported model: a folder, .tflite, .onnx or .xml."
    return needed(
        "`rsseg-tf train --do_eval` writes output/best_model; exported models do as well.",
        click.option("--model-path", required=required, metavar="PATH", help=text),
    )


server_options = combined(
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
)  # fmt: skip
"""A server instead of a model."""


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


def load(config_path: str, overrides: tuple[str, ...], settings: Mapping[str, Any] = MappingProxyType({})) -> Config:
    """Reads a config file, or a shipped one of that name, with overrides.

    Args:
        config_path: Value of --config.
        overrides: Values of --set.
        settings: Keys of the config with the values of other options, which win; None leaves the config's value.
    """
    from rsseg_tf.config import load_config

    return load_config(config_path, [*overrides, *_assignments(settings)])


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
"""Bands of several files as one image."""


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
