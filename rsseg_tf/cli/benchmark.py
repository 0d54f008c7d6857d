"""`rsseg-tf benchmark` and `rsseg-tf benchmark train`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.commands import ManyValues, WithDefault, group, needed
from rsseg_tf.cli.options import (
    EXPORT_STEP,
    config_option,
    device_options,
    json_file_option,
    load,
    trust_option,
)
from rsseg_tf.rasters.windows import Size

if TYPE_CHECKING:
    from rsseg_tf.export.timing import Timing
    from rsseg_tf.training.measuring import TrainingSpeed

__all__ = ["command"]


@click.group(name="benchmark", cls=WithDefault)
def command() -> None:
    """Time everything in an exported version on the CPU, each in a process of its own.

    DIR is a version, or the folder of all versions, of which the newest is taken. Memory is what the process took at
    most beyond what it had before the model was loaded.

    `rsseg-tf benchmark train` tells instead how fast this machine trains a config, and what holds it up.
    """


@command.command(name=WithDefault.default, cls=ManyValues)
@needed(EXPORT_STEP, click.argument("folder", type=Path, metavar="DIR"))
@click.option("--checkpoint", type=Path, metavar="DIR", help="A checkpoint to time too, in Keras.")
@click.option("--size", nargs=2, type=click.IntRange(min=1), metavar="H W",
              help="Size of the image, height first. [default: that of the files of one size, else that of the "
                   "training]")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="That one operation may use. [default: all processors]")  # fmt: skip
@click.option("--runs", type=click.IntRange(min=1), default=20, show_default=True, metavar="N",
              help="Images to time.")  # fmt: skip
@json_file_option("Write all numbers there, as JSON.")
@trust_option
def time_exports(
    folder: Path,
    checkpoint: Path | None,
    size: tuple[int, int] | None,
    threads: int | None,
    runs: int,
    json_path: Path | None,
) -> None:
    """Time everything in an exported version on the CPU."""
    from rich.console import Console

    from rsseg_tf.cli.output import load_tensorflow, write_json

    load_tensorflow()
    from rsseg_tf.export.timing import time_in_process
    from rsseg_tf.export.verify import version_folder
    from rsseg_tf.manifest import read_manifest

    folder = version_folder(folder)
    manifest = read_manifest(folder)
    models = {artifact.name: folder / artifact.path for artifact in manifest.artifacts}
    if checkpoint:
        models = {"checkpoint (Keras)": checkpoint} | models
    # An image of another size than a file takes is padded or cut into tiles, which says little of the file.
    fixed = [artifact.tile for artifact in manifest.artifacts if artifact.tile]
    timed = Size(*size) if size else max(fixed, default=manifest.crop_size)
    timings = {}
    for name, path in models.items():
        click.echo(f"Timing {name}", err=True)
        timings[name] = time_in_process(path, timed, threads=threads or os.cpu_count() or 1, runs=runs)
    Console().print(timing_table(list(timings), list(timings.values()), timed))
    if json_path:
        rows = [{"name": name, **dataclasses.asdict(timing)} for name, timing in timings.items()]
        write_json(json_path, {"folder": str(folder), "size": list(timed), "models": rows})


def timing_table(names: Sequence[str], timings: Sequence[Timing], size: Size) -> Any:
    """Returns a rich table with a line for each model."""
    from rich.table import Table

    table = Table(title=f"{size.height}x{size.width} pixels, {timings[0].threads} threads, {timings[0].runs} runs")
    table.add_column("model", overflow="fold", min_width=18)
    for column in ("p50 ms", "p90 ms", "p99 ms", "first ms", "load s", "memory\nMiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, timing in zip(names, timings, strict=True):
        milliseconds = (timing.p50_ms, timing.p90_ms, timing.p99_ms, timing.first_ms)
        table.add_row(
            name, *(f"{value:.0f}" for value in milliseconds), f"{timing.load_s:.1f}", f"{timing.memory_mib:.0f}"
        )
    return table


@command.command(name="train", cls=ManyValues)
@config_option(required=True)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=40.0, show_default=True, metavar="S",
              help="For how long to measure; building and compiling the model comes on top.")  # fmt: skip
@json_file_option("Write all numbers there, as JSON.")
@device_options
@group(
    "What to train with",
    click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Samples per step on each device."),
    click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Type of activations."),
    click.option("--num-workers", type=click.IntRange(min=1), metavar="N",
                 help="Images prepared in parallel.  [default: chosen while measuring]"),
)  # fmt: skip
def measure(
    config_path: str,
    overrides: tuple[str, ...],
    seconds: float,
    device: str,
    gpus: tuple[int, ...],
    json_path: Path | None,
    **settings: Any,
) -> None:
    """Tell how fast this machine trains a config, and what holds it up.

    Measures on the config's own dataset, each alone and after a warm-up: the input pipeline from disk and from memory,
    the training step, the evaluation where there is a validation list; then pipeline and step as training runs them.
    Weights begin at random, and nothing is kept. Files that the system has in its memory are read from there, as in
    later epochs of a training.
    """
    from rsseg_tf.library.training import settings_of

    config = load(config_path, overrides, settings_of(settings))
    from rich.console import Console

    from rsseg_tf.cli.output import load_tensorflow, say, write_json
    from rsseg_tf.files.lists import read_list

    root = Path(config.dataset.root)
    train_samples = read_list(root / config.dataset.train_list, root)
    val_list = root / config.dataset.val_list
    val_samples = read_list(val_list, root) if val_list.exists() else ()
    load_tensorflow()
    from rsseg_tf.training import make_deterministic, make_strategy
    from rsseg_tf.training.measuring import measure_training, verdict
    from rsseg_tf.weights.presets import with_preset

    config = with_preset(config)
    if config.train.deterministic:
        make_deterministic()
    speed = measure_training(
        config,
        train_samples,
        val_samples,
        strategy=make_strategy(device, gpus or None, alone=True),
        seconds=seconds,
        notify=lambda part: click.echo(f"Measuring {part}", err=True),
    )
    judged = verdict(speed, config)
    Console().print(speed_table(speed))
    memory = f"{speed.host_mb:.0f} MiB of memory were used"
    if speed.gpu_mb:
        memory += f", and {', '.join(f'{mb:.0f}' for mb in speed.gpu_mb)} MiB of the GPU's"
    hours = f"{speed.hours:.1f} h" if speed.hours >= 1 else f"{60 * speed.hours:.0f} minutes"
    with_evaluations = f", with an evaluation of {speed.evaluation_s:.0f} s every {speed.save_interval} steps"
    say(f"{memory}. {speed.iters} steps would take {hours}{with_evaluations if speed.evaluation else ''}.")
    say(f"The {judged.part} holds training up. {judged.why}")
    say(f"What may help: {'; '.join(judged.remedies)}.")
    if json_path:
        derived = {"hours": speed.hours, "evaluation_s": speed.evaluation_s, "interval_s": speed.interval_s}
        write_json(json_path, {**dataclasses.asdict(speed), **derived, "verdict": dataclasses.asdict(judged)})


def speed_table(speed: TrainingSpeed) -> Any:
    """Returns a rich table with a line for each part."""
    from rich.table import Table

    table = Table(title=f"{speed.device}, {speed.cores} processors, {speed.batch_size} samples a step")
    table.add_column("part", no_wrap=True)
    for column in ("samples/s", "CPU ms each", "measured"):
        table.add_column(column, justify="right")
    rows = [
        ("pipeline, from disk", speed.disk),
        ("pipeline, from memory", speed.memory),
        ("step", speed.step),
        ("training: both", speed.training),
    ]
    if speed.evaluation:
        rows.append((f"evaluation ({speed.evaluation_mpx_per_s:.2f} Mpx/s)", speed.evaluation))
    for name, rate in rows:
        table.add_row(name, f"{rate.per_s:.1f}", f"{rate.cpu_ms:.1f}", str(rate.count))
    return table
