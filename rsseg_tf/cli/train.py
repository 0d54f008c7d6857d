"""`rsseg-tf train`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.options import checkpoint_options, config_option, offline_option, run_options, speed_options
from rsseg_tf.cli.output import CONSOLE

__all__ = ["command"]

_COUNT = click.IntRange(min=1)


@click.command(name="train", cls=ManyValues)
@config_option(required=True)
@click.option("--do-eval", is_flag=True,
              help="Evaluate at each checkpoint, by eval.protocol, and keep the best as best_model/.")  # fmt: skip
@click.option("--iters", type=_COUNT, metavar="N", help="Optimizer steps in all.")
@click.option("--batch-size", type=_COUNT, metavar="N", help="Samples per step on each device, as in PaddleSeg.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), metavar="LR",
              help="Initial learning rate.")  # fmt: skip
@run_options
@group(
    "Checkpoints and logs",
    checkpoint_options,
    click.option("--early-stop-intervals", type=_COUNT, metavar="N",
                 help="Stop after this many evaluations without a better mIoU."),
)  # fmt: skip
@group("Speed and repetition", speed_options)
@group(
    "Weights",
    click.option("--coarse-model", metavar="SRC",
                 help="Weights of the coarse model of c2fnet: checkpoint, file or URL."),
    offline_option,
)  # fmt: skip
def command(
    config_path: str,
    overrides: tuple[str, ...],
    save_dir: Path,
    **options: Any,
) -> int | None:
    """Train a model.

    Checkpoints go to --output as iter_N/ and, with --do-eval, best_model/; the logs of --logger beside them. Ctrl-C,
    SIGTERM and SIGHUP write a checkpoint before they end the run. Options override the config.
    """
    from rsseg_tf.library.training import train

    run = train(config_path, save_dir, overrides=overrides, notify=CONSOLE, **options)
    # quickstart goes on after this command, and stops at this value. The process itself exits with 0: a run that was
    # saved has not failed.
    return 128 + signal.SIGTERM if run.stopped == "signal" else None
