"""`rsseg-tf prepare`."""

from __future__ import annotations

from pathlib import Path

import click

# Not TensorFlow: half a second at most, and the help can name the datasets.
from rsseg_tf.datasets import PREPARERS, PrepareOptions, prepare_dataset

__all__ = ["command"]


@click.command(name="prepare")
@click.argument("dataset", type=click.Choice(sorted(PREPARERS)))
@click.argument("source", type=Path, required=False)
@click.option("-o", "--output", type=Path, required=True, help="The folder to write, e.g. data/dubai.")
@click.option("--tile-size", type=click.IntRange(min=1), metavar="N", help="Side of a tile in pixels [default: 512].")
@click.option(
    "--overlap", type=click.IntRange(min=0), metavar="N", help="Pixels that neighbouring tiles share [default: 0]."
)
@click.option(
    "--off-palette-fraction",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Share of a mask that may have unknown colours; they become ignored [default: 0].",
)
@click.option(
    "--scenes-train", type=click.IntRange(min=1), metavar="N", help="synthetic: training scenes to make [default: 18]."
)
@click.option(
    "--scenes-val", type=click.IntRange(min=1), metavar="N", help="synthetic: validation scenes to make [default: 6]."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="synthetic: seed of the scenes [default: 0].")
def command(dataset: str, source: Path | None, output: Path, **settings: int | float | None) -> None:
    """Make tiles, id masks and lists from a dataset as it was downloaded.

    SOURCE is the downloaded folder or zip file (synthetic scenes have none). Writes img_dir/ and ann_dir/ with train/
    and val/, train.txt and val.txt (`image label` per line), labels.txt and dataset.json. The folder appears when all
    is done; nothing half-written is left.
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress
    from rich.table import Table

    with Progress(
        *Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        task = progress.add_task(f"Preparing {dataset}", total=None)
        options = PrepareOptions(
            progress=lambda done, total: progress.update(task, completed=done, total=total),
            **settings,  # type: ignore[arg-type]
        )
        report = prepare_dataset(dataset, source, output, options)
    table = Table(title=f"{report.name}: {report.output}")
    for column in ("split", "scenes", "tiles"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in report.splits.items():
        table.add_row(name, str(split.scenes), str(split.tiles))
    Console().print(table)
