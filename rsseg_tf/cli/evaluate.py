"""`rsseg-tf eval`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.options import (
    ManyValues,
    choose_device,
    load_beside,
    locate_model,
    open_model,
    prediction_changes,
    prediction_options,
    weights_options,
)

if TYPE_CHECKING:
    from rsseg_tf.metrics import SegmentationScores

__all__ = ["command"]


@click.command(name="eval", cls=ManyValues)
@weights_options
@prediction_options("aug-eval")
@click.option("--save-dir", type=Path, help="Where eval.json goes. Default: beside the model.")
def command(
    model_path: str,
    config_path: str | None,
    overrides: tuple[str, ...],
    save_dir: Path | None,
    precision: str,
    device: str,
    gpus: tuple[int, ...],
    **values: Any,
) -> None:
    """Count a model's predictions on the validation list: mIoU, Acc, Kappa, Dice, and each class.

    Prints a table and writes eval.json with the confusion matrix, ignored pixels, and macro and micro averages.
    """
    changes = prediction_changes("aug_eval", values)
    _, path = locate_model(model_path)
    config = load_beside(path, config_path, overrides)
    from rsseg_tf.cli.samples import checked_samples

    samples = checked_samples(config, "val")

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from rsseg_tf.evaluation import evaluate

    choose_device(device, gpus)
    model = open_model(path, config, precision, changes)
    console = Console()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("Evaluating", total=len(samples))
        scores = evaluate(model.predict, samples, model.spec, model.options, observe=lambda *_: progress.advance(task))
    console.print(
        f"[EVAL] #Images: {len(samples)} mIoU: {scores.miou:.4f} Acc: {scores.acc:.4f} Kappa: {scores.kappa:.4f} "
        f"Dice: {scores.dice:.4f}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip
    console.print(scores_table(scores))
    report = {
        "model_path": model_path,
        "dataset": config.dataset.name,
        "images": len(samples),
        "inference": dataclasses.asdict(model.options),
        "precision": precision,
        **scores.to_json(),
    }
    target = (save_dir or (path if path.is_dir() else path.parent)) / "eval.json"
    write_json(target, report)
    click.echo(f"Written: {target}")


def scores_table(scores: SegmentationScores) -> Any:
    """Returns a rich table of the per-class scores in percent."""
    from rich.table import Table

    table = Table(title="Scores of each class, %")
    table.add_column("class")
    for column in ("IoU", "precision", "recall", "Dice", "pixels"):
        table.add_column(column, justify="right")
    pixels = scores.confusion.sum(axis=1)
    rows = zip(
        scores.classes, scores.class_iou, scores.class_precision, scores.class_recall, scores.class_dice, pixels,
        strict=True,
    )  # fmt: skip
    for name, iou, precision, recall, dice, count in rows:
        table.add_row(name, *(f"{100 * value:.2f}" for value in (iou, precision, recall, dice)), f"{count:,}")
    return table


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    from rsseg_tf.datasets import atomic_path
    from rsseg_tf.errors import ConfigError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial:
            partial.write_text(json.dumps(value, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}. Choose another --save_dir.") from error
