"""`rsseg-tf train`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.options import (
    checkpoint_options,
    config_option,
    load,
    offline_option,
    run_options,
    run_settings,
    speed_options,
)

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
    do_eval: bool,
    resume_model: Path | None,
    offline: bool,
    overwrite: bool,
    device: str,
    gpus: tuple[int, ...],
    **settings: Any,
) -> int | None:
    """Train a model.

    Checkpoints go to --output as iter_N/ and, with --do-eval, best_model/; TensorBoard events to its folder
    tensorboard/. Ctrl-C, SIGTERM and SIGHUP write a checkpoint before they end the run. Options override the config.
    """
    config = load(config_path, overrides, run_settings(settings))
    from rsseg_tf.cli.output import say
    from rsseg_tf.cli.sample_lists import checked_samples
    from rsseg_tf.cli.workers import open_devices
    from rsseg_tf.errors import ConfigError

    if config.train.early_stop_intervals is not None and not do_eval:
        raise ConfigError("--early_stop_intervals counts evaluations; add --do_eval.")
    strategy, is_chief = open_devices(device, gpus, deterministic=config.train.deterministic)
    train_samples, *others = checked_samples(
        config, "train", *(("val",) if do_eval else ()), crop_size=config.augment.crop
    )
    val_samples = others[0] if do_eval else ()

    from rsseg_tf.training import train
    from rsseg_tf.training.callbacks import ConsoleLog, TensorBoardLog

    result = train(
        config,
        save_dir,
        train_samples,
        val_samples,
        strategy=strategy,
        resume=resume_model,
        overwrite=overwrite,
        offline=offline,
        notify=say,
        callbacks=[ConsoleLog(config.train.iters), TensorBoardLog(save_dir / "tensorboard")] if is_chief else [],
    )
    say(result.summary())
    if do_eval and result.state.best_step:
        say(f"The best model (mIoU {result.state.best_miou:.4f}) is {save_dir / 'best_model'}")
    # quickstart goes on after this command, and stops at this value. The process itself exits with 0: a run that was
    # saved has not failed.
    return 128 + signal.SIGTERM if result.stopped == "signal" else None
