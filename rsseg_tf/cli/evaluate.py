"""`rsseg-tf eval`."""

from __future__ import annotations

import dataclasses
import itertools
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.engine import ModelSource, choose_engine, engine_options, locate_engine
from rsseg_tf.cli.models import choose_devices, load_beside, open_model, prediction_changes, windows_note
from rsseg_tf.cli.options import (
    NameOf,
    check_save_dir,
    config_option,
    device_options,
    model_option,
    prediction_options,
    save_dir_option,
)
from rsseg_tf.cli.output import print_note, progress_line, write_json
from rsseg_tf.cli.workers import expect_workers
from rsseg_tf.datasets.protocols import PROTOCOLS

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.evaluate.details import Details
    from rsseg_tf.evaluate.evaluation import Evaluation, Look, Observer
    from rsseg_tf.metrics import Calibration, SegmentationScores
    from rsseg_tf.predictors import Predictor
    from rsseg_tf.training.workers import Workers

__all__ = ["command"]

_WEIGHTS = ("weights.npz", "saved_model.pb", "variables/*")
"""Files with the weights, in the folder of a checkpoint or a SavedModel."""


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
    protocol: str | None,
    batch_size: int | None,
    num_workers: int | None,
    save_dir: Path | None,
    report_path: Path | None,
    calibrate: bool,
    precision: str,
    engine: str | None,
    tolerance: float | None,
    device: str,
    gpus: tuple[int, ...],
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
    expect_workers()
    changes = prediction_changes("aug_eval", values)
    if save_dir is not None:
        check_save_dir(save_dir)
    if report_path is not None:
        _check_report_path(report_path)
    source = locate_engine(model_path, engine, tolerance, precision)
    if calibrate:
        _require_checkpoint(source, engine)
    settings = {"eval.protocol": protocol, "eval.batch_size": batch_size, "data.workers": num_workers}
    chosen = [f"{key}={value}" for key, value in settings.items() if value is not None]
    config = load_beside(source.path, config_path, (*overrides, *chosen))
    if calibrate or report_path is not None:
        _require_alone("calibrate" if calibrate else "report")
    strategy, workers = choose_devices(device, gpus, source.kind)
    from rsseg_tf.cli.sample_lists import checked_samples
    from rsseg_tf.evaluate.details import Details
    from rsseg_tf.evaluate.evaluation import plan_evaluation
    from rsseg_tf.metrics import Calibration, LogitSample
    from rsseg_tf.training.workers import end_when_stuck

    with end_when_stuck(workers):
        with workers.reporting():
            (samples,) = checked_samples(config, "val")
            evaluation = plan_evaluation(config, samples)
            if workers.is_chief:
                source = choose_engine(source, config, samples[0].image, changes.get("crop_size"))
        source = _agreed(workers, source, config, changes, len(samples))
        with workers.reporting():
            changes |= {"batch_size": config.eval.batch_size}
            model = open_model(source.path, config, source.precision, changes, source.threads, strategy)
            if line := windows_note(model, changes):
                print_note(line)
            drawn = LogitSample(evaluation.spec.num_classes) if calibrate else None
            detailed = report_path is not None
            details = Details(evaluation.spec, samples, model.options.temperature, drawn, detailed=detailed)
            look = details.look if calibrate or detailed else None
            scores = _scores(model, evaluation, details.observe, look, config.data.workers, workers)
    if not workers.is_chief:
        return
    calibration = None if drawn is None else Calibration.fit(drawn)
    _show(scores, evaluation)
    report = {"model_path": model_path, **_report(scores, evaluation, model, source)}
    if calibration is not None:
        report["calibration"] = calibration.to_json()
        _store(calibration, source.path, evaluation, len(samples))
    if report_path is not None:
        report["details"] = details.to_json()
        facts = {"model": model_path, "images": f"{len(samples):,} of {config.dataset.val_list}"}
        facts |= {"protocol": evaluation.summary, "engine": source.engine or source.kind, "precision": source.precision}
        _write_page(report_path, scores, details, facts, calibration)
    beside = source.path if source.path.is_dir() else source.path.parent
    write_json((save_dir or beside) / "eval.json", report)


def _report(
    scores: SegmentationScores, evaluation: Evaluation, model: Predictor, source: ModelSource
) -> dict[str, Any]:
    """Returns what eval.json says of the scores and of how they came about."""
    return {
        "dataset": evaluation.spec.name,
        "protocol": evaluation.to_json(),
        "images": len(evaluation.samples),
        "inference": model.options.to_json(),
        "precision": source.precision,
        "engine": source.engine,
        **scores.to_json(),
    }


def _require_checkpoint(source: ModelSource, engine: str | None) -> None:
    """Raises ConfigError where --calibrate has no checkpoint to store a temperature in."""
    from rsseg_tf.errors import ConfigError

    if engine == "auto":
        raise ConfigError(
            "--calibrate fits a checkpoint, and --engine auto may run another file; leave one of them out."
        )
    if source.kind != "checkpoint":
        raise ConfigError(
            f"--calibrate stores a temperature in a checkpoint; {source.path} was exported. Calibrate its checkpoint, "
            "and export it again."
        )


def _require_alone(option: str) -> None:
    """Raises ConfigError where several workers would share the images."""
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.training.cluster import read_cluster

    if cluster := read_cluster():
        raise ConfigError(
            f"--{option} looks at all images in one process, and here {len(cluster.addresses)} workers share them "
            "(docs/several_machines.md). Leave it out, or run one process without TF_CONFIG and SLURM_STEP_NUM_TASKS."
        )


def _agreed(
    workers: Workers, source: ModelSource, config: Config, changes: Mapping[str, Any], images: int
) -> ModelSource:
    """Returns what runs the model, the same in all workers; waits until all have come here.

    Args:
        workers: Of this run.
        source: What was chosen, in the chief; what to choose from, in the others.
        config: The config.
        changes: What the command line changes in the prediction.
        images: How many there are.

    Raises:
        ConfigError: When workers would evaluate different things.
    """
    from rsseg_tf.training.workers import config_digest

    if workers.count == 1:
        return source
    workers.any(False, False)
    told = json.dumps([str(source.path), source.precision, source.engine])
    path, precision, engine = json.loads(workers.from_chief(told))
    workers.require_equal(
        validation_images=images,
        config=config_digest(config),
        options=zlib.crc32(repr(sorted(changes.items())).encode()),
        weights=weights_digest(Path(path)),
    )
    return dataclasses.replace(source, path=Path(path), precision=precision, engine=engine, tolerance=None)


def weights_digest(path: Path) -> int:
    """Returns a number that differs between models.

    Args:
        path: A checkpoint, a SavedModel or the file of an exported model.
    """
    found = [path] if path.is_file() else [one for name in _WEIGHTS for one in sorted(path.glob(name))]
    digest = 0
    for file in found:
        digest = zlib.crc32(file.read_bytes(), digest)
    return digest


def _scores(
    model: Predictor,
    evaluation: Evaluation,
    observe: Observer,
    look: Look | None,
    readers: int | None,
    workers: Workers,
) -> SegmentationScores:
    """Predicts this worker's share of the images, and returns the scores of all of them."""
    own, evaluated = evaluation.share(*workers.share), itertools.count(1)
    images = len(own.places)
    with progress_line("Evaluating") as progress:

        def observe_and_count(*seen: Any) -> None:
            observe(*seen)
            progress(next(evaluated), images)

        return own.run(
            model.predict,
            model.options,
            observe=observe_and_count,
            workers=readers,
            total=workers.total,
            look=look,
        )


def _show(scores: SegmentationScores, evaluation: Evaluation) -> None:
    """Prints the scores in a line, and a table of the classes."""
    from rich.console import Console

    console = Console()
    console.print(
        f"[EVAL] #Images: {len(evaluation.samples)} mIoU: {scores.miou:.4f} Acc: {scores.acc:.4f} "
        f"Kappa: {scores.kappa:.4f} Dice: {scores.dice:.4f} Protocol: {evaluation.summary}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip
    console.print(scores_table(scores, evaluation.summary))


def _check_report_path(path: Path) -> None:
    """Finds out before the work whether the page can be written."""
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.evaluate.report import check_report_place

    if path.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--report writes an HTML page; got {path}. Name a file such as report.html.")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--report {path}: there is no folder {path.parent}. Make it first.")
    check_report_place(path)


def _write_page(
    path: Path, scores: SegmentationScores, details: Details, facts: dict[str, str], calibration: Calibration | None
) -> None:
    """Writes the page of --report; `facts` say what was evaluated and how."""
    from rsseg_tf.evaluate.report import write_report

    counted = {"pixels": f"{int(scores.confusion.sum()):,} counted, {scores.ignored_pixels:,} ignored"}
    write_report(path, scores, details, facts | counted, calibration)
    click.echo(f"Written: {path}")


def _store(calibration: Calibration, checkpoint: Path, evaluation: Evaluation, images: int) -> None:
    """Stores a fitted temperature in the checkpoint and prints what it changes."""
    from rsseg_tf.checkpoint import write_calibration
    from rsseg_tf.metrics.calibration import TEMPERATURES

    facts = {"dataset": evaluation.spec.name, "images": images, **calibration.to_json()}
    write_calibration(checkpoint, facts.pop("temperature"), facts)
    brier, brier_after = calibration.brier
    click.echo(
        f"[CALIBRATION] temperature: {calibration.temperature:g} ECE: {calibration.before.ece:.4f} -> "
        f"{calibration.after.ece:.4f} Brier: {brier:.4f} -> {brier_after:.4f}, on {calibration.pixels:,} of "
        f"{calibration.seen:,} pixels"
    )
    if calibration.temperature == 1:
        print_note("no temperature lowers the ECE of these tiles: confidence stays as it is.")
    if calibration.at_bound:
        low, high = TEMPERATURES
        print_note(
            f"the temperature is looked for in {low:g}..{high:g} and lies at the border: these labels are all right or "
            "all wrong, and say nothing about confidence."
        )


def scores_table(scores: SegmentationScores, protocol: str) -> Any:
    """Returns a rich table of the per-class scores in percent, and their means.

    Args:
        scores: The scores.
        protocol: The protocol, for the title.
    """
    from rich.table import Table

    table = Table(title=f"Scores of each class, %; protocol {protocol}")
    table.add_column("class")
    for column in ("IoU", "precision", "recall", "Dice", "pixels"):
        table.add_column(column, justify="right")
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
