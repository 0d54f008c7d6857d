"""`rsseg-tf probe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.options import config_option, device_options, json_file_option, offline_option
from rsseg_tf.cli.output import CONSOLE, narrow_table, write_json

if TYPE_CHECKING:
    from rsseg_tf.evaluate.probe import ProbeRow

__all__ = ["command"]


@click.command(name="probe", cls=ManyValues)
@config_option(required=True)
@click.option("--backbone", "sources", multiple=True, metavar="SRC...",
              help="Weights of the config's backbone: a checkpoint (of pretrain or train), file, URL or "
                   "preset.")  # fmt: skip
@json_file_option("Also write all scores here, as JSON.")
@offline_option
@device_options
@group(
    "Patches and classifiers",
    click.option("--patch-size", type=click.IntRange(min=8), default=64, show_default=True, metavar="N",
                 help="Side of a patch."),
    click.option("--patches", type=click.IntRange(min=10), default=2000, show_default=True, metavar="N",
                 help="Most patches of each split."),
    click.option("--labels", multiple=True, type=click.IntRange(min=2), metavar="N...",
                 help="Numbers of labelled patches for the linear probe; all patches come last.  [default: 40 200]"),
    click.option("--neighbours", type=click.IntRange(min=1), default=20, show_default=True, metavar="N",
                 help="Neighbours that vote."),
    click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, metavar="N",
                 help="Draws of labelled patches and of random weights."),
    click.option("--normalisation", type=click.Choice(["auto", "dataset", "imagenet"]), default="auto",
                 show_default=True,
                 help="Mean and std of pixels. auto: those that the weights were trained with, ImageNet's for "
                      "released weights."),
)  # fmt: skip
def command(
    config_path: str,
    overrides: tuple[str, ...],
    sources: tuple[str, ...],
    patch_size: int,
    patches: int,
    labels: tuple[int, ...],
    neighbours: int,
    seeds: int,
    normalisation: Literal["auto", "dataset", "imagenet"],
    json_path: Path | None,
    offline: bool,
    device: Literal["auto", "cpu", "gpu"],
    gpus: tuple[int, ...],
) -> None:
    """Measure how well simple classifiers learn the classes from a frozen backbone's features.

    --config names dataset and backbone. Its training tiles are cut into patches to learn from, its validation tiles
    into patches to score on; a patch's class is that of most of its pixels. The table shows the mean recall of the
    classes, for colour statistics, random weights with calibrated normalisations, and each --backbone; once for the
    deepest feature and once for those of strides 8 to 32 together. Features that do not beat colours and random weights
    are worth nothing.
    """
    from rich.console import Console

    from rsseg_tf.library.probing import probe

    result = probe(
        config_path,
        backbone=sources,
        overrides=overrides,
        patch_size=patch_size,
        patches=patches,
        labels=labels,
        neighbours=neighbours,
        seeds=seeds,
        normalisation=normalisation,
        offline=offline,
        device=device,
        gpus=gpus,
        notify=CONSOLE,
    )
    title = (
        f"Mean recall of {len(result.classes)} classes, %; {result.val_patches} patches of {patch_size}x{patch_size}"
    )
    Console().print(table(result.rows, f"{title}, {seeds} seed{'s' if seeds > 1 else ''}", neighbours))
    if json_path is not None:
        write_json(json_path, result.to_json())


def table(rows: Sequence[ProbeRow], title: str, neighbours: int) -> Any:
    """Returns a rich table: a row for each kind of features, a column for each probe; mean ± deviation over seeds."""
    import numpy as np

    result = narrow_table(title)
    result.add_column("features", overflow="fold", min_width=10)
    result.add_column("levels")
    result.add_column("dim", justify="right", no_wrap=True)
    for score in rows[0].scores:
        between = " " if score.labels < 10_000 else "\n"  # so that four columns fit 80 characters
        linear = f"linear\n{score.labels}{between}labels"
        name = linear if score.probe == "linear" else f"{neighbours}\nnearest"
        result.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = []
        for score in row.scores:
            values = 100 * np.array(score.balanced_accuracy)
            cells.append(f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""))
        # Only the end of a path, such as output/iter_1000; the lines above and the JSON hold the whole path.
        result.add_row("/".join(row.features.split("/")[-2:]), row.levels, str(row.dim), *cells)
    return result
