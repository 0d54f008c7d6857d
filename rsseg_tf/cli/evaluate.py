"""`rsseg-tf eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.engine import engine_options, given_precision
from rsseg_tf.cli.options import (
    NameOf,
    config_option,
    device_options,
    model_option,
    prediction_options,
    save_dir_option,
)
from rsseg_tf.cli.output import CONSOLE
from rsseg_tf.datasets.protocols import PROTOCOLS

if TYPE_CHECKING:
    from rsseg_tf.metrics import SegmentationScores

__all__ = ["command"]


@click.command(name="eval", cls=ManyValues)
@model_option(required=True)
@save_dir_option("Folder for eval.json.  [default: beside the model]")
@config_option(required=False)
@click.option("--protocol", type=NameOf(list(PROTOCOLS)),
              help="Pixels that count. benchmark: every pixel of every image. stitched: tiles put back "
                   "into their scenes, each pixel once. isprs5: the same on eroded labels of potsdam or "
                   "vaihingen, means without clutter.  [default: the config's eval.protocol]")  # fmt: skip
@click.option("--report", "report_path", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.html",
              help="Also write a page that shows where the model fails: confusion, outlines, objects by size, "
                   "confidence, worst and best tiles.")  # fmt: skip
@click.option("--calibrate", is_flag=True,
              help="Fit a temperature to the validation list, so that confidence is as often right as it says, and "
                   "store it in the checkpoint. No label changes. Exports take it along.")  # fmt: skip
@device_options
@group(
    "Windows and augmentation",
    prediction_options("aug-eval"),
    click.option("--batch-size", type=click.IntRange(min=1), metavar="N",
                 help="Images of one size, or windows, that each device predicts at a time.  [default: the config's "
                      "eval.batch_size]"),
    click.option("--num-workers", type=click.IntRange(min=1), metavar="N",
                 help="Images read in parallel.  [default: the config's data.workers, or 4]"),
)  # fmt: skip
@engine_options
def command(
    model_path: str,
    config_path: str | None,
    overrides: tuple[str, ...],
    precision: str,
    save_dir: Path | None,
    report_path: Path | None,
    **values: Any,
) -> None:
    """Score a model's predictions on the validation list: mIoU, Acc, Kappa, Dice, and each class.

    Prints a table and writes eval.json with the protocol, the confusion matrix, ignored pixels, and macro and micro
    averages; with --report also what the page shows.

    Images of up to 2048 x 2048 pixels are predicted whole; with --is-slide they are scaled and then cut into windows.
    Larger images are cut first, and each window is scaled; without --is-slide their windows have the model's size and
    are blended. `rsseg-tf predict` writes the same labels. Several GPUs share the images of a checkpoint, and several
    machines those of any model (docs/several_machines.md).
    """
    from rsseg_tf.library.evaluating import evaluate
    from rsseg_tf.library.folders import check_save_dir

    place = Path(model_path)
    if save_dir is None and place.exists():  # eval.json goes beside the model
        check_save_dir(place if place.is_dir() else place.parent)
    result = evaluate(
        model_path,
        config=config_path,
        overrides=overrides,
        precision=given_precision(precision),
        aug_eval=values.pop("augmented"),
        save_dir=save_dir,
        report=report_path,
        notify=CONSOLE,
        **values,
    )
    if save_dir is None and result.beside is not None:
        CONSOLE.say(f"Written: {result.write(result.beside)}")


def scores_table(scores: SegmentationScores, protocol: str) -> Any:
    """Returns a rich table of the per-class scores in percent, and their means.

    Args:
        scores: The scores.
        protocol: The protocol, for the title.
    """
    from rich.table import Table

    table = Table(title=f"Scores of each class, %; protocol {protocol}")
    table.add_column("class", overflow="fold", min_width=12)  # a name on several lines is whole, numbers are on one
    for column in ("IoU", "precision", "recall", "Dice", "pixels"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = zip(
        scores.classes, scores.in_means, scores.class_iou, scores.class_precision, scores.class_recall,
        scores.class_dice, scores.label_pixels, strict=True,
    )  # fmt: skip
    for name, in_means, *values, count in rows:
        table.add_row(
            name if in_means else f"{name} (not in the means)",
            *(f"{100 * value:.2f}" for value in values),
            f"{count:,}",
            style=None if in_means else "dim",
        )
    table.add_section()
    means = (scores.miou, scores.macro_precision, scores.macro_recall, scores.dice)
    table.add_row(f"mean of {int(scores.in_means.sum())}", *(f"{100 * mean:.2f}" for mean in means), "")
    return table
