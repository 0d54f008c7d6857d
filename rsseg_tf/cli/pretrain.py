"""`rsseg-tf pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.options import ManyValues, config_option, device_options, load_pretraining

__all__ = ["command"]

_COUNT = click.IntRange(min=1)


@click.command(name="pretrain", cls=ManyValues)
@config_option(required=True)
@click.option("--epochs", type=_COUNT, metavar="N", help="Times that every image is seen.")
@click.option("--iters", type=_COUNT, metavar="N", help="Optimizer steps in all, instead of epochs.")
@click.option("--total-batch-size", type=_COUNT, metavar="N", help="Images per step, over all devices.")
@click.option("--batch-size", type=_COUNT, hidden=True)  # the name of --total-batch-size in earlier versions
@click.option(
    "--learning-rate", type=click.FloatRange(min=0, min_open=True), metavar="LR", help="Highest learning rate."
)
@click.option("--save-dir", type=Path, default=Path("output"), show_default=True, help="Where checkpoints and logs go.")
@click.option("--save-interval", type=_COUNT, metavar="N", help="Steps between checkpoints.")
@click.option("--log-iters", type=_COUNT, metavar="N", help="Steps between log lines.")
@click.option("--resume-model", type=Path, metavar="DIR", help="Go on from a checkpoint, e.g. output/iter_1000.")
@click.option("--keep-checkpoint-max", type=_COUNT, metavar="N", help="How many iter_N/ to keep; the oldest go first.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of weights, order and views.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Type of activations.")
@click.option("--deterministic", is_flag=True, help="Equal runs give equal weights, to the bit.")
@click.option("--num-workers", type=_COUNT, metavar="N", help="Images prepared in parallel; default: as many as help.")
@click.option("--offline", is_flag=True, help="Never use the network; pre-trained weights must be in the cache.")
@click.option("--overwrite", is_flag=True, help="Replace the checkpoints of an earlier run in --save-dir.")
@device_options
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

    Checkpoints go to --save-dir as iter_N/, TensorBoard events to its folder tensorboard/. To train a segmentation
    model from one, set model.backbone.pretrained to its folder. After each epoch a line tells the monitors of collapse.
    Ctrl-C, SIGTERM and SIGHUP write a checkpoint before they end the run. Options replace what the config says.
    """
    config = load_pretraining(
        config_path,
        overrides,
        train__epochs=settings["epochs"],
        train__iters=settings["iters"],
        train__batch_size=settings["batch_size"],
        train__total_batch_size=settings["total_batch_size"],
        lr_schedule__learning_rate=settings["learning_rate"],
        train__save_interval=settings["save_interval"],
        train__log_iters=settings["log_iters"],
        train__keep_checkpoint_max=settings["keep_checkpoint_max"],
        train__seed=settings["seed"],
        train__precision=settings["precision"],
        train__deterministic=settings["deterministic"] or None,
        data__workers=settings["num_workers"],
    )
    from rsseg_tf.cli.quiet import load_tensorflow, say
    from rsseg_tf.cli.samples import checked_images
    from rsseg_tf.errors import ConfigError, TrainingError

    if settings["epochs"] and settings["iters"]:
        raise ConfigError("--epochs and --iters both say how long to train; give one of them.")
    load_tensorflow()
    samples = checked_images(config)

    from rsseg_tf.training import make_strategy, pretrain
    from rsseg_tf.training.callbacks import CollapseMonitor, ConsoleLog, TensorBoardLog
    from rsseg_tf.training.pretraining import steps_in_all

    iters = steps_in_all(config, len(samples))
    strategy = make_strategy(device, gpus or None)
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
        callbacks=[log, monitor, TensorBoardLog(save_dir / "tensorboard")],
    )
    if monitor.has_stopped_the_run:
        raise TrainingError(
            f"The run collapsed: train.stop_after_collapsed={config.train.stop_after_collapsed} epochs in a row had a "
            f"spread below {config.train.collapse_spread:g}. All of it up to iter {result.state.step} is in "
            f"{result.checkpoint}; earlier checkpoints are in {save_dir}."
        )
    if result.stopped == "signal":
        say(f"Stopped by a signal at iter {result.state.step}; go on with --resume_model {result.checkpoint}")
        return
    say(f"TrainedModel to iter {result.state.step}; the last checkpoint is {result.checkpoint}")
    say(f"To train a model from it: rsseg-tf train --set model.backbone.pretrained={result.checkpoint}")
