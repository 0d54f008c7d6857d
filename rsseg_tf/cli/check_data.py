"""`rsseg-tf check-data`."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.options import load, picked, reading_options, set_option
from rsseg_tf.cli.output import progress_line, write_json

# These imports take half a second at most, since they load no TensorFlow; the help names the limits.
from rsseg_tf.doctor import KINDS, MAX_DISTANCE, SEVERITIES, SHEET_SUFFIXES, check_data, write_sheet
from rsseg_tf.doctor.sheet import check_sheet_place, choose_samples
from rsseg_tf.errors import ConfigError, DataError, address_hint, did_you_mean
from rsseg_tf.rasters.gdal import Trust

if TYPE_CHECKING:
    from rich.console import Console

    from rsseg_tf.doctor import CheckedDataset, Finding, Report

__all__ = ["command"]

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command(name="check-data", cls=ManyValues)
@click.argument("source", metavar="[CONFIG|FOLDER]", required=False)
@click.option("--config", "config_path", metavar="FILE", help="The same as CONFIG, for those who know it from train.")
@set_option
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings too.")
@click.option("--show", type=click.IntRange(min=0), default=5, show_default=True, metavar="N",
              help="Findings of each kind to print; -o and --json have all.")  # fmt: skip
@click.option("-o", "--output", type=Path, metavar="FILE", help="Also write the whole report as JSON there.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON, and nothing else.")
@group(
    "Folders",
    click.option("--unlabelled", is_flag=True, help="FOLDER: check images without labels."),
    click.option("--num-classes", type=click.IntRange(1, 255), metavar="N",
                 help="FOLDER: number of classes, if neither dataset.json nor labels.txt gives it."),
    click.option("--ignore-index", type=click.IntRange(0, 255), metavar="ID",
                 help="FOLDER: label value of ignored pixels, if dataset.json does not give it  [default: 255]."),
)  # fmt: skip
@group(
    "Contact sheet",
    click.option("--sheet", type=Path, metavar="FILE",
                 help="Write a contact sheet of some images with their labels: .png, or a self-contained .html."),
    click.option("--sheet-count", type=click.IntRange(min=1), default=12, show_default=True, metavar="N",
                 help="With --sheet: pairs to show; every class is shown if there is room."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                 help="With --sheet: seed of the choice of pairs."),
)  # fmt: skip
@group(
    "Checks",
    click.option("--ignore", "leave_out", multiple=True, metavar="CODE...",
                 help="Leave out findings of these kinds, e.g. --ignore small-image near-duplicate."),
    click.option("--near", type=click.IntRange(0, MAX_DISTANCE), default=7, show_default=True, metavar="N",
                 help="Compare the pixels of images whose perceptual hashes differ in at most N of 63 bits; "
                      "more than 7 takes longer."),
    reading_options,
    click.option("--workers", type=click.IntRange(min=1), metavar="N",
                 help="Processes [default: one for each core]."),
)  # fmt: skip
def command(
    source: str | None,
    config_path: str | None,
    overrides: tuple[str, ...],
    leave_out: tuple[str, ...],
    as_json: bool,
    output: Path | None,
    sheet: Path | None,
    **options: Any,
) -> None:
    """Find problems in a dataset before hours of training.

    CONFIG is a YAML file or the name of a shipped config; its lists are checked against its dataset section. FOLDER
    is a prepared dataset, a folder with train.txt and val.txt, or a folder with images and labels in subfolders
    (images/ and labels/, img_dir/ and ann_dir/, each with train/ and val/ or without), which are paired by name.

    Every file is decoded. The checks cover damage, sizes, bands, types and values of pixels, ids of labels, masks in
    colours or of 0 and 255, absent classes, duplicates, and pictures or ground that two splits share, even where they
    were encoded again, brightened, mirrored or turned. The report suggests class weights, mean and std.

    Exit code 1 if there are errors, 0 if not.
    """
    _check_options(leave_out, sheet, as_json)
    folder_options = picked(options, "num_classes", "ignore_index", "unlabelled")
    dataset = _find_dataset(source, config_path, overrides, folder_options)
    max_image_mb, near, seed = options["max_image_mb"], options["near"], options["seed"]
    trust = Trust(
        dataset.trust.max_bytes if max_image_mb is None else max_image_mb * 2**20,
        options["allow_vrt_sources"] or dataset.trust.vrt_sources,
    )
    dataset = dataclasses.replace(dataset, trust=trust)
    workers = options["workers"] or os.cpu_count() or 1
    with progress_line(f"Checking {_printable(dataset.expected.name)}") as progress:
        report = check_data(dataset, near=near, leave_out=leave_out, workers=workers, progress=progress)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2, allow_nan=False))
    else:
        _print(report, options["show"])
    if output is not None:
        write_json(output, report.to_json(), err=as_json)
    if sheet is not None:
        if choose_samples(report.evidence, 1, seed):
            write_sheet(sheet, report, count=options["sheet_count"], seed=seed)
            click.echo(f"Written: {sheet}", err=as_json)
        else:
            click.echo(f"Not written: {sheet}, because no sample could be read.", err=True)
    if report.count("error") or (options["strict"] and report.count("warning")):
        raise SystemExit(1)


def _check_options(leave_out: Sequence[str], sheet: Path | None, as_json: bool) -> None:
    """Refuses options without effect, and a sheet that cannot be written, before hours of work."""
    for name, option, needed, has_effect in (
        ("sheet_count", "--sheet-count", "with --sheet", sheet is not None),
        ("seed", "--seed", "with --sheet", sheet is not None),
        ("show", "--show", "without --json", not as_json),
    ):
        if not has_effect and click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise ConfigError(f"{option} has an effect {needed} only; leave it out.")
    for code in leave_out:
        if code not in KINDS:
            raise ConfigError(
                f"--ignore {code}: there is no such kind of finding.{did_you_mean(code, KINDS)} Allowed: "
                f"{', '.join(KINDS)}."
            )
    if sheet is None:
        return
    if sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise ConfigError(f"--sheet writes {' or '.join(SHEET_SUFFIXES)} files; got {sheet}. Change the suffix.")
    check_sheet_place(sheet)
    try:
        sheet.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{sheet} cannot be written: {error.strerror or error}. Choose another place.") from error


def _find_dataset(
    source: str | None, config_path: str | None, overrides: tuple[str, ...], folder_options: dict[str, Any]
) -> CheckedDataset:
    """Returns the dataset to check."""
    from rsseg_tf.doctor import dataset_from_config, dataset_from_folder

    if (source is None) == (config_path is None):
        got = "both" if source else "neither"
        raise ConfigError(
            f"Name one thing to check, a folder or a config, e.g. rsseg-tf check-data data/dubai; got {got}."
        )
    named = source or config_path or ""
    if config_path is None and Path(named).is_dir():
        if overrides:
            raise ConfigError(f"--set changes a config; {named} is a folder. Leave it out.")
        return dataset_from_folder(Path(named), **folder_options)
    if config_path is None and not named.endswith((".yml", ".yaml")) and not os.path.lexists(named):
        raise DataError(
            f"There is no folder {named}, and no config of that name either.{address_hint(named)} Name a prepared "
            "folder, such as data/dubai, or a config; `rsseg-tf config list` names the shipped ones."
        )
    for name, value in folder_options.items():
        if value is not None and value is not False:
            option = name.replace("_", "-")
            raise ConfigError(f"--{option} goes with a folder; {named} is a config, which describes its dataset.")
    return dataset_from_config(load(named, overrides), named)


# --- tables -------------------------------------------------------------------------------------------------------


def _print(report: Report, show: int) -> None:
    from rich.console import Console

    console = Console()
    console.print(_splits_table(report))
    if report.class_weights or any(split.classes for split in report.splits):
        console.print(_classes_table(report))
    _print_suggestions(console, report)
    if report.findings:
        console.print(_findings_table(report))
    for code in dict.fromkeys(finding.code for finding in report.findings):
        _print_findings(console, [finding for finding in report.findings if finding.code == code], show)
    counts = ((report.count(severity), severity) for severity in SEVERITIES)
    line = ", ".join(f"{count} {severity}{'s' if count != 1 else ''}" for count, severity in counts)
    _line(console, f"\n{line}.", style="bold")


def _splits_table(report: Report) -> Any:
    from rich.table import Table

    table = Table(title=_printable(f"{report.dataset.expected.name}: {report.dataset.root}"))
    for column in ("split", "samples", "sizes", "bands", "type"):
        table.add_column(column, justify="right" if column == "samples" else "left")
    for split in report.splits:
        kinds = (split.sizes, split.bands, split.dtypes)
        table.add_row(split.name, f"{split.samples:,}", *(_kinds(values) for values in kinds))
    return table


def _kinds(values: Any) -> str:
    """Returns the one value of all images, or the most frequent values with their counts."""
    if len(values) == 1:
        return str(next(iter(values)))
    shown = [f"{value} ({count:,})" for value, count in list(values.items())[:3]]
    return ", ".join(shown) + (f", {len(values) - 3} more" if len(values) > 3 else "")


def _classes_table(report: Report) -> Any:
    from rich.table import Table

    splits = [split for split in report.splits if split.labels]
    table = Table(title="Pixels of each class, and images that hold it")
    table.add_column("\nid", justify="right")
    table.add_column("\nclass")
    for split in splits:
        for column in (f"{split.name}\npixels", "\n%", "\nimages"):
            table.add_column(column, justify="right")
    for row in zip(*(split.classes for split in splits), strict=True):
        cells = [str(row[0].id), _printable(row[0].name)]
        for split, entry in zip(splits, row, strict=True):
            share = 100 * entry.pixels / split.class_pixels if split.class_pixels else 0.0
            cells += [f"{entry.pixels:,}", f"{share:.2f}", f"{entry.images:,}"]
        table.add_row(*cells)
    extra = {"ignored": [split.ignored_pixels for split in splits]}
    if any(split.unknown_pixels for split in splits):
        extra["unknown ids"] = [split.unknown_pixels for split in splits]
    for name, counts in extra.items():
        # Each split has three columns; only the pixels are known of ids that are no class.
        table.add_row("", name, *(cell for count in counts for cell in (f"{count:,}", "", "")))
    return table


def _print_suggestions(console: Console, report: Report) -> None:
    """Prints lines that can be pasted into a config."""
    training = report.training
    bands = training.moments
    if bands and all(band.count for band in bands):
        mean, std = [round(band.mean, 4) for band in bands], [round(band.std, 4) for band in bands]
        _line(console, f"Mean and std of {training.name} for a config of custom data (max_value {report.max_value:g}):")
        _line(console, f"  dataset: {{mean: {mean}, std: {std}}}")
    formulas = {"median_frequency": "median(f) / f[c]", "inverse_log": "1 / ln(1.02 + p[c])"}
    for name, weights in report.class_weights.items():
        _line(console, f"Class weights of {training.name} by {name.replace('_', ' ')}, {formulas[name]}:")
        _line(console, f"  loss: {{main: {{name: cross_entropy, class_weights: {list(weights)}}}}}")


def _findings_table(report: Report) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Findings")
    for column in ("", "kind", "number", "where"):
        table.add_column(column, justify="right" if column == "number" else "left")
    for code in dict.fromkeys(finding.code for finding in report.findings):
        found = [finding for finding in report.findings if finding.code == code]
        severity = found[0].severity
        counts = {split.name: sum(split.name in finding.splits for finding in found) for split in report.splits}
        where = ", ".join(f"{split} {count:,}" for split, count in counts.items() if count)
        table.add_row(Text(severity, style=_COLOURS[severity]), code, f"{len(found):,}", where)
    return table


def _print_findings(console: Console, found: Sequence[Finding], show: int) -> None:
    """Prints the first findings of a kind, with its meaning and remedy."""
    kind = found[0].kind
    _line(console, f"\n{kind.severity}: {found[0].code}", style=f"bold {_COLOURS[kind.severity]}")
    _line(console, f"{kind.what} {kind.remedy}")
    for finding in found[:show]:
        _line(console, f"  {_printable(finding.message)}")
    if len(found) > show:
        _line(console, f"  … and {len(found) - show:,} more (--show {len(found)}, or --json)")


def _line(console: Console, text: str, style: str | None = None) -> None:
    """Prints a line unchanged: not wrapped, so that names can be copied, and without interpreting markup."""
    console.print(text, soft_wrap=True, markup=False, highlight=False, style=style)


def _printable(text: str) -> str:
    """Returns a text in which file names cannot move the cursor or break the output."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )
