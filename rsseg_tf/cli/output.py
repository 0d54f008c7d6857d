"""What commands print and write: lines, notes, tables, progress, JSON reports."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.library.listening import Listener
from rsseg_tf.library.startup import load_tensorflow

if TYPE_CHECKING:
    from rich.table import Table

    from rsseg_tf.library.evaluating import EvalResult
    from rsseg_tf.predict import ImageJob, PredictionPlan
    from rsseg_tf.prepare.output import OwnDataReport, PrepareReport, SplitReport

__all__ = [
    "CONSOLE",
    "fitting",
    "load_tensorflow",
    "narrow_table",
    "print_errors_alone",
    "print_note",
    "print_own_data",
    "print_prepared",
    "progress_line",
    "say",
    "write_json",
]

_errors_alone = False


def print_errors_alone() -> None:
    """Drops lines, notes and progress from here on: another process of the same run prints them."""
    global _errors_alone
    _errors_alone = True


def say(line: str) -> None:
    """Prints a line about finished work; a full disk under a log file, or a closed terminal, is no error."""
    if not _errors_alone:
        with contextlib.suppress(OSError):
            click.echo(line)


def print_note(line: str) -> None:
    """Prints a note on standard error."""
    if not _errors_alone:
        click.echo(f"Note: {line}", err=True)


def narrow_table(title: str) -> Table:
    """Returns an empty table without lines between its columns, for many columns in 80 characters."""
    from rich import box
    from rich.table import Table

    return Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)


def fitting(names: Sequence[str], room: Mapping[str, int], left: int) -> list[list[str]]:
    """Deals columns out to as many tables as they need.

    Args:
        names: Of the columns, in order.
        room: Characters that each takes.
        left: Characters that a table has for them; a column that is wider has a table of its own.
    """
    groups: list[list[str]] = [[]]
    for name in names:
        if groups[-1] and sum(room[one] for one in groups[-1]) + room[name] > left:
            groups.append([])
        groups[-1].append(name)
    return groups


def print_prepared(report: PrepareReport) -> None:
    """Prints the counts of a prepared dataset as a table."""
    from rich.console import Console
    from rich.table import Table

    ending = " (already there, nothing to do)" if report.up_to_date else ""
    # No title, which the table would wrap in the middle of a path.
    click.echo(f"{report.name}: {report.output}{ending}")
    table = Table()
    # Own polygons have no palette, and few archives a mask that leaves theirs.
    off_palette = any(split.off_palette_pixels for split in report.splits.values())
    for column in ("split", "scenes", "tiles", *(["off-palette pixels"] if off_palette else [])):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in report.splits.items():
        more = [f"{split.off_palette_pixels:,}"] if off_palette else []
        table.add_row(name, str(split.scenes), str(split.tiles), *more)
    Console().print(table)


def print_own_data(result: OwnDataReport) -> None:
    """Prints what became of a user's own data, and the command that trains on them."""
    print_prepared(result.report)
    for name, split in result.report.splits.items():
        click.echo(f"{name}: {_shares(split)}")
    if result.config is not None:
        click.echo(f"Train with: rsseg-tf train --config {shlex.quote(str(result.config))} --do_eval")


def _shares(split: SplitReport) -> str:
    """Returns the share of each class in the pixels of a split that have one, and what is ignored of all of them."""
    counted = sum(split.pixels.values())
    everything = max(counted + split.ignored_pixels, 1)
    shares = ", ".join(f"{name} {100 * count / max(counted, 1):.1f} %" for name, count in split.pixels.items())
    ignored = f"; {100 * split.ignored_pixels / everything:.1f} % of all pixels ignored"
    return shares + (ignored if split.ignored_pixels else "")


@contextlib.contextmanager
def progress_line(description: str) -> Iterator[Callable[[int, int], None]]:
    """Shows a progress line on standard error while the block runs.

    Yields:
        A function to call with (items done, items in all).
    """
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True, quiet=_errors_alone)
    # In a log file the bar would leave an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        task = progress.add_task(description, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def write_json(path: Path, value: dict[str, Any], *, err: bool = False) -> None:
    """Writes JSON whole or not at all, and prints the file's name.

    Args:
        path: The file.
        value: What to write.
        err: Whether to print the name on standard error.

    Raises:
        ConfigError: When it cannot be written.
    """
    from rsseg_tf.library.folders import write_report

    write_report(path, value)
    click.echo(f"Written: {path}", err=err)


class _Console(Listener):
    """Prints lines, and shows bars on standard error."""

    def say(self, line: str) -> None:
        say(line)

    def note(self, line: str) -> None:
        print_note(line)

    def fail(self, line: str) -> None:
        click.echo(line, err=True)

    def mute(self) -> None:
        print_errors_alone()

    def progress(self, description: str) -> contextlib.AbstractContextManager[Callable[[int, int], None]]:
        return progress_line(description)

    def download(self) -> Callable[[int, int | None], None] | None:
        if not sys.stderr.isatty():
            return None
        return lambda received, expected: click.echo(
            f"\r{received / 2**20:.1f} MiB" + (f" of {expected / 2**20:.1f}" if expected else ""), err=True, nl=False
        )

    @contextlib.contextmanager
    def bars(self, total: int) -> Iterator[Callable[[str], None]]:
        from rich.console import Console
        from rich.progress import MofNCompleteColumn, Progress, TaskID

        tasks: dict[str, TaskID] = {}
        with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:

            def advance(name: str) -> None:
                if name not in tasks:
                    tasks[name] = progress.add_task(f"Evaluating {name}", total=total)
                progress.advance(tasks[name])

            yield advance

    @contextlib.contextmanager
    def pixels(
        self, plan: PredictionPlan
    ) -> Iterator[tuple[Callable[[ImageJob, int], None], Callable[[ImageJob], None]]]:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        from rsseg_tf.predict import pixel_count

        sizes = {job: pixel_count(job.path) for job in plan.jobs}
        seen = dict.fromkeys(plan.jobs, 0)
        columns = (
            TextColumn("{task.description}", markup=False),  # names of files may have brackets
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[images]}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        started = time.monotonic()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("Predicting", total=sum(sizes.values()), images=f"0/{len(plan.jobs)} images", rate="")
            finished = 0

            def advance(job: ImageJob, pixels: int) -> None:
                seen[job] += pixels
                rate = sum(seen.values()) / 1e6 / max(time.monotonic() - started, 1e-3)
                bar.update(task, advance=pixels, description=job.path.name, rate=f"{rate:.2f} Mpx/s")

            def finish(job: ImageJob) -> None:
                nonlocal finished
                finished += 1
                # Pixels that a job did not report, such as after an error, count as done now.
                bar.update(task, advance=sizes[job] - seen[job], images=f"{finished}/{len(plan.jobs)} images")

            yield advance, finish

    def scores(self, result: EvalResult) -> None:
        from rich.console import Console

        from rsseg_tf.cli.evaluate import scores_table

        console = Console()
        console.print(result.summary(), soft_wrap=True, markup=False, highlight=False)
        console.print(scores_table(result.scores, result.protocol))

    def training_log(self, iters: int, **how: Any) -> Any:
        from rsseg_tf.training.callbacks import ConsoleLog

        return ConsoleLog(iters, **how)


CONSOLE = _Console()
"""What commands give to the functions of `rsseg_tf.library` as `notify`."""
