"""`rsseg-tf check-data`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rsseg_tf.assets import find_config
from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.options import json_file_option, reading_options, set_option
from rsseg_tf.cli.output import fitting, progress_line, write_json

# These imports take half a second at most, since they load no TensorFlow; the help names the limits.
from rsseg_tf.doctor import MAX_DISTANCE, SEVERITIES
from rsseg_tf.errors import ConfigError
from rsseg_tf.library.listening import Listener

if TYPE_CHECKING:
    from rich.console import Console

    from rsseg_tf.doctor import Finding, Report
    from rsseg_tf.doctor.report import SplitSummary

__all__ = ["command"]

_COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


@click.command(name="check-data", cls=ManyValues)
@click.argument("source", metavar="[CONFIG|FOLDER]", required=False)
@click.option("--config", "config_path", metavar="FILE", help="The same as CONFIG, for those who know it from train.")
@set_option
@click.option("--strict", is_flag=True, help="Exit with 1 on warnings too.")
@click.option("--show", type=click.IntRange(min=0), default=5, show_default=True, metavar="N",
              help="Findings of each kind to print; -o and --json have all.")  # fmt: skip
@json_file_option("Also write the whole report as JSON there.", "-o", "--output")
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
    from rsseg_tf.library.checking import check_data

    _check_options(sheet, as_json)
    if (source is None) == (config_path is None):
        got = "both" if source else "neither"
        raise ConfigError(
            f"Name one thing to check: a folder or a config, e.g. rsseg-tf check-data data/dubai; got {got}."
        )
    show, strict = options.pop("show"), options.pop("strict")
    if config_path is not None:
        find_config(config_path)  # a folder of that name is not meant
    listener = _Later()
    report = check_data(
        source or config_path or "",
        overrides=overrides,
        ignore=leave_out,
        sheet=sheet,
        notify=listener,
        **options,
    )
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2, allow_nan=False))
    else:
        _print(report, show)
    if output is not None:
        write_json(output, report.to_json(), err=as_json)
    for line in listener.lines:
        click.echo(line, err=as_json or line.startswith("Not "))
    if report.count("error") or (strict and report.count("warning")):
        raise SystemExit(1)


class _Later(Listener):
    """Shows the progress, and keeps lines until the tables are printed."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, description: str) -> Any:
        return progress_line(description)


def _check_options(sheet: Path | None, as_json: bool) -> None:
    """Refuses options without effect."""
    for name, option, needed, has_effect in (
        ("sheet_count", "--sheet-count", "with --sheet", sheet is not None),
        ("seed", "--seed", "with --sheet", sheet is not None),
        ("show", "--show", "without --json", not as_json),
    ):
        if not has_effect and click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise ConfigError(f"{option} has an effect {needed} only; leave it out.")


# --- tables -------------------------------------------------------------------------------------------------------


def _print(report: Report, show: int) -> None:
    from rich.console import Console

    console = Console()
    # No title, which the table would wrap in the middle of a path.
    _line(console, _printable(f"{report.dataset.expected.name}: {report.dataset.root}"))
    console.print(_splits_table(report))
    if report.class_weights or any(split.classes for split in report.splits):
        console.print(*_classes_tables(report, console.width), sep="\n")
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

    table = Table()
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


_CLASS_WIDTH = 24  # characters of a line of a class's name


def _classes_tables(report: Report, width: int) -> list[Any]:
    """Returns a table of the classes; several, if the splits need more than `width` characters beside each other."""
    splits = {split.name: split for split in report.splits if split.labels}
    if not splits:
        return []
    names = [_printable(entry.name) for entry in next(iter(splits.values())).classes]
    others = "unknown ids" if any(split.unknown_pixels for split in splits.values()) else "ignored"
    first = min(_CLASS_WIDTH, max(map(len, [*names, others])))
    room = {}
    for name, split in splits.items():
        pixels = [entry.pixels for entry in split.classes] + [split.ignored_pixels, split.unknown_pixels]
        images = [entry.images for entry in split.classes]
        wanted = max(len(name), len("pixels"), *(len(f"{count:,}") for count in pixels)) + len("100.00") + 9  # borders
        room[name] = wanted + max(len("images"), *(len(f"{count:,}") for count in images))
    groups = fitting(list(splits), room, width - first - 9)  # of the ids, and borders
    return [_classes_table([splits[name] for name in group], first) for group in groups]


def _classes_table(splits: Sequence[SplitSummary], class_width: int) -> Any:
    from rich.table import Table

    table = Table(title="Pixels of each class, and images that hold it")
    table.add_column("\nid", justify="right", no_wrap=True)
    table.add_column("\nclass", overflow="fold", min_width=class_width)
    for split in splits:
        for column in (f"{split.name}\npixels", "\n%", "\nimages"):
            table.add_column(column, justify="right", no_wrap=True)
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
