"""`rsseg-tf benchmark`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.options import ManyValues, trust_option
from rsseg_tf.rasters.windows import Size

if TYPE_CHECKING:
    from rsseg_tf.export.timing import Timing

__all__ = ["command"]


@click.command(name="benchmark", cls=ManyValues)
@click.argument("folder", type=Path, metavar="DIR")
@click.option("--checkpoint", type=Path, metavar="DIR", help="A checkpoint to time too, in Keras.")
@click.option("--size", nargs=2, type=click.IntRange(min=1), metavar="H W",
              help="Size of the image, height first. [default: that of the files of one size, else that of the "
                   "training]")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), metavar="N",
              help="That one operation may use. [default: all processors]")  # fmt: skip
@click.option("--runs", type=click.IntRange(min=1), default=20, show_default=True, help="Images to time.")
@trust_option
@click.option("--json", "json_path", type=Path, metavar="FILE", help="Write all numbers there.")
def command(
    folder: Path,
    checkpoint: Path | None,
    size: tuple[int, int] | None,
    threads: int | None,
    runs: int,
    json_path: Path | None,
) -> None:
    """Time everything in an exported version on the CPU, each in a process of its own.

    DIR is a version, or the folder of all versions, of which the newest is taken. Memory is what the process took at
    most beyond what it had before the model was loaded.
    """
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
    table.add_column("model", no_wrap=True)
    for column in ("p50 ms", "p90 ms", "p99 ms", "first ms", "load s", "memory MiB"):
        table.add_column(column, justify="right")
    for name, timing in zip(names, timings, strict=True):
        milliseconds = (timing.p50_ms, timing.p90_ms, timing.p99_ms, timing.first_ms)
        table.add_row(
            name, *(f"{value:.0f}" for value in milliseconds), f"{timing.load_s:.1f}", f"{timing.memory_mib:.0f}"
        )
    return table
