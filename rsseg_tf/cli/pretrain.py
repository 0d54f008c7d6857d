"""`rsseg-tf pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.options import checkpoint_options, config_option, offline_option, run_options, speed_options
from rsseg_tf.cli.output import CONSOLE

__all__ = ["command"]

_COUNT = click.IntRange(min=1)


@click.command(name="pretrain", cls=ManyValues)
@config_option(required=True, next_step="`rsseg-tf config list pretrain` names the shipped ones.")
@click.option("--epochs", type=_COUNT, metavar="N", help="Times that every image is seen.")
@click.option("--iters", type=_COUNT, metavar="N", help="Optimizer steps in all, instead of epochs.")
@click.option("--total-batch-size", type=_COUNT, metavar="N", help="Images per step, over all devices.")
@click.option("--batch-size", type=_COUNT, hidden=True, help="--total-batch-size as earlier versions called it.")
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), metavar="LR",
              help="Highest learning rate.")  # fmt: skip
@run_options
@group("Checkpoints and logs", checkpoint_options)
@group("Speed and repetition", speed_options, offline_option)
def command(
    config_path: str,
    overrides: tuple[str, ...],
    save_dir: Path,
    batch_size: int | None,
    **options: Any,
) -> None:
    """Train a backbone on images without labels, by MoCo v2, DenseCL, SimSiam, SwAV, PixPro or MoCo-BYOL.

    Checkpoints go to --output as iter_N/, the logs of --logger beside them. To train a segmentation
    model from a checkpoint, set model.backbone.pretrained to its folder. After each epoch a line shows the monitors of
    collapse. Ctrl-C, SIGTERM and SIGHUP write a checkpoint before they end the run. Options override the config.
    """
    from rsseg_tf.library.training import pretrain

    if batch_size is not None:
        overrides = (*overrides, f"train.batch_size={batch_size}")
    pretrain(config_path, save_dir, overrides=overrides, notify=CONSOLE, **options)
