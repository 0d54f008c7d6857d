"""`rsseg-tf train`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.options import ManyValues, config_option, device_options, load

__all__ = ["command"]

_COUNT = click.IntRange(min=1)


@click.command(name="train", cls=ManyValues)
@config_option(required=True)
@click.option("--iters", type=_COUNT, metavar="N", help="Optimizer steps in all.")
@click.option("--batch-size", type=_COUNT, metavar="N", help="Samples per device and step.")
@click.option(
    "--learning-rate", type=click.FloatRange(min=0, min_open=True), metavar="LR", help="Initial learning rate."
)
@click.option("--save-dir", type=Path, default=Path("output"), show_default=True, help="Where checkpoints and logs go.")
@click.option("--save-interval", type=_COUNT, metavar="N", help="Steps between checkpoints.")
@click.option("--log-iters", type=_COUNT, metavar="N", help="Steps between log lines.")
@click.option(
    "--do-eval",
    is_flag=True,
    help="Evaluate at each checkpoint, by eval.protocol, and keep the best as best_model/.",
)
@click.option("--resume-model", type=Path, metavar="DIR", help="Go on from a checkpoint, e.g. output/iter_1000.")
@click.option("--keep-checkpoint-max", type=_COUNT, metavar="N", help="How many iter_N/ to keep; the oldest go first.")
@click.option(
    "--early-stop-intervals", type=_COUNT, metavar="N", help="Stop after this many evaluations without a better mIoU."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of weights, order and augmentation.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Type of activations.")
@click.option("--deterministic", is_flag=True, help="Equal runs give equal weights, to the bit.")
@click.option("--num-workers", type=_COUNT, metavar="N", help="Samples prepared in parallel; default: as many as help.")
@click.option("--coarse-model", metavar="SRC", help="Weights of the coarse model of c2fnet: checkpoint, file or URL.")
@click.option("--offline", is_flag=True, help="Never use the network; pre-trained weights must be in the cache.")
@click.option("--overwrite", is_flag=True, help="Replace the checkpoints of an earlier run in --save-dir.")
@device_options
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

    Checkpoints go to --save-dir as iter_N/ and, with --do-eval, best_model/; TensorBoard events to its folder
    tensorboard/. Ctrl-C, SIGTERM and SIGHUP write a checkpoint before they end the run. Options replace what the config
    says.
    """
    config = load(
        config_path,
        overrides,
        train__iters=settings["iters"],
        train__batch_size=settings["batch_size"],
        lr_schedule__learning_rate=settings["learning_rate"],
        train__save_interval=settings["save_interval"],
        train__log_iters=settings["log_iters"],
        train__keep_checkpoint_max=settings["keep_checkpoint_max"],
        train__early_stop_intervals=settings["early_stop_intervals"],
        train__seed=settings["seed"],
        train__precision=settings["precision"],
        train__deterministic=settings["deterministic"] or None,
        data__workers=settings["num_workers"],
        model__coarse__pretrained=settings["coarse_model"],
    )
    from rsseg_tf.cli.quiet import load_tensorflow, say
    from rsseg_tf.cli.samples import checked_samples
    from rsseg_tf.errors import ConfigError

    if config.train.early_stop_intervals is not None and not do_eval:
        raise ConfigError("--early_stop_intervals counts evaluations; add --do_eval.")
    load_tensorflow()
    train_samples, *others = checked_samples(
        config, "train", *(("val",) if do_eval else ()), crop_size=config.augment.crop_size
    )
    val_samples = others[0] if do_eval else ()

    from rsseg_tf.training import make_strategy, train
    from rsseg_tf.training.callbacks import ConsoleLog, TensorBoardLog

    strategy = make_strategy(device, gpus or None)
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
        callbacks=[ConsoleLog(config.train.iters), TensorBoardLog(save_dir / "tensorboard")],
    )
    step = result.state.step
    match result.stopped:
        case "signal":
            say(f"Stopped by a signal at iter {step}; go on with --resume_model {result.checkpoint}")
        case "early":
            say(
                f"Stopped early at iter {step}: no better mIoU than {result.state.best_miou:.4f} "
                f"(iter {result.state.best_step}) in {result.state.stale_intervals} evaluations."
            )
        case _:
            say(f"TrainedModel to iter {step}; the last checkpoint is {result.checkpoint}")
    if do_eval and result.state.best_step:
        say(f"The best model (mIoU {result.state.best_miou:.4f}) is {save_dir / 'best_model'}")
    # For a command that goes on after this one; as the exit code of this one a saved run is no failure.
    return 128 + signal.SIGTERM if result.stopped == "signal" else None
