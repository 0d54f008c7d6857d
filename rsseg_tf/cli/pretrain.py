"""`rsseg-tf pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.options import (
    checkpoint_options,
    config_option,
    load_pretraining,
    offline_option,
    run_options,
    run_settings,
    speed_options,
)

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
    resume_model: Path | None,
    offline: bool,
    overwrite: bool,
    device: str,
    gpus: tuple[int, ...],
    **settings: Any,
) -> None:
    """Train a backbone on images without labels, by MoCo v2, DenseCL, SimSiam, SwAV, PixPro or MoCo-BYOL.

    Checkpoints go to --output as iter_N/, TensorBoard events to its folder tensorboard/. To train a segmentation
    model from a checkpoint, set model.backbone.pretrained to its folder. After each epoch a line shows the monitors of
    collapse. Ctrl-C, SIGTERM and SIGHUP write a checkpoint before they end the run. Options override the config.
    """
    config = load_pretraining(config_path, overrides, run_settings(settings))
    from rsseg_tf.cli.output import say
    from rsseg_tf.cli.sample_lists import checked_images
    from rsseg_tf.cli.workers import open_devices
    from rsseg_tf.errors import ConfigError, TrainingError

    if settings["epochs"] and settings["iters"]:
        raise ConfigError("--epochs and --iters both set the length of the run; give one of them.")
    strategy, is_chief = open_devices(device, gpus, deterministic=config.train.deterministic)
    samples = checked_images(config)

    from rsseg_tf.training import pretrain
    from rsseg_tf.training.callbacks import CollapseMonitor, ConsoleLog, TensorBoardLog
    from rsseg_tf.training.pretraining import steps_in_all

    iters = steps_in_all(config, len(samples))
    log = ConsoleLog(iters, title="pretrain", scored=False)
    monitor = CollapseMonitor(
        config.train.collapse_spread, stop_after=config.train.stop_after_collapsed, console=log.console
    )
    result = pretrain(
        config,
        save_dir,
        samples,
        strategy=strategy,
        resume=resume_model,
        overwrite=overwrite,
        offline=offline,
        notify=say,
        callbacks=[log, monitor, TensorBoardLog(save_dir / "tensorboard")] if is_chief else [],
    )
    if monitor.has_stopped_the_run:
        raise TrainingError(
            f"The run collapsed: train.stop_after_collapsed={config.train.stop_after_collapsed} epochs in a row had a "
            f"spread below {config.train.collapse_spread:g}. The last checkpoint is {result.checkpoint}; earlier ones "
            f"are in {save_dir}."
        )
    say(result.summary())
    if result.stopped != "signal":
        say(f"To train a model from it: rsseg-tf train --set model.backbone.pretrained={result.checkpoint}")
