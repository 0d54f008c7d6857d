"""Keras callbacks for the loop.

The loop calls

- `on_train_begin(logs)`: `logs["step"]` is where the run begins;
- `on_train_batch_end(step, logs)` every `log_iters` steps, with the averages since the last call;
- `on_test_begin()` and `on_test_end(logs)` around each evaluation: `logs["step"]` is its step, `logs["protocol"]` the
  protocol that counted;
- `on_train_end()`.

Keras makes all numbers in `logs` floats. A callback may end the run by setting `self.model.stop_training = True`.

A log that cannot be written does not end a run: the callbacks here warn once on standard error, and try again later.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from rsseg_tf.errors import reason
from rsseg_tf.files.writing import replace_file
from rsseg_tf.ssl.monitors import MONITORS

__all__ = [
    "CollapseMonitor",
    "ConsoleLog",
    "History",
    "LineLog",
    "TensorBoardLog",
    "evaluated_scalars",
    "format_duration",
    "trained_scalars",
    "warn_once",
]

Logs = dict[str, Any]


def format_duration(seconds: float) -> str:
    """Returns `HH:MM:SS`."""
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


class LineLog(keras.callbacks.Callback):
    """PaddleSeg's log lines, each given to a function.

    Attributes:
        iters: Steps in all.
        write: What takes the lines.
    """

    def __init__(self, iters: int, write: Callable[[str], object]) -> None:
        """Takes the number of steps in all, and what to call with each line."""
        super().__init__()
        self.iters = iters
        self.write = write

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Writes one [TRAIN] line."""
        values = logs or {}
        eta = format_duration((self.iters - batch) * values["batch_cost"])
        self.write(
            f"[TRAIN] epoch: {values['epoch']:.0f}, iter: {batch}/{self.iters}, loss: {values['loss']:.4f}, "
            f"lr: {values['lr']:.6f}, batch_cost: {values['batch_cost']:.4f}, "
            f"reader_cost: {values['reader_cost']:.5f}, ips: {values['ips']:.4f} samples/sec | ETA {eta}"
        )

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Writes the [EVAL] lines."""
        values = logs or {}
        self.write(
            f"[EVAL] #Images: {values['images']:.0f} mIoU: {values['miou']:.4f} Acc: {values['acc']:.4f} "
            f"Kappa: {values['kappa']:.4f} Dice: {values['dice']:.4f} Protocol: {values['protocol']}"
        )
        self.write(
            f"[EVAL] The model with the best validation mIoU ({values['best_miou']:.4f}) was saved at iter "
            f"{values['best_step']:.0f}."
        )


class ConsoleLog(LineLog):
    """PaddleSeg's log lines, above one progress line."""

    def __init__(
        self, iters: int, start: int = 0, console: Console | None = None, *, title: str = "train", scored: bool = True
    ) -> None:
        """Prepares the progress line.

        Args:
            iters: Steps in all.
            start: The step where the run begins.
            console: Where to print; None for standard output.
            title: Begins the progress line.
            scored: Whether the progress line has a place for the mIoU.
        """
        super().__init__(iters, self._line)
        self.console = console or Console()
        self.start = start
        self._progress = Progress(
            TextColumn(f"[bold]{title}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}"),
            *([TextColumn("mIoU {task.fields[miou]}")] if scored else []),
            TimeElapsedColumn(),
            TextColumn("ETA {task.fields[eta]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=iters, completed=start, loss="–", miou="–", eta="–")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Shows the progress line."""
        if logs:
            self._progress.update(self._task, completed=logs["step"])
        with _warning_if_unwritable():
            self._progress.start()

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Prints one [TRAIN] line."""
        super().on_train_batch_end(batch, logs)
        values = logs or {}
        eta = format_duration((self.iters - batch) * values["batch_cost"])
        self._progress.update(self._task, completed=batch, loss=f"{values['loss']:.4f}", eta=eta)

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Prints the [EVAL] lines."""
        super().on_test_end(logs)
        self._progress.update(self._task, miou=f"{(logs or {})['miou']:.4f}")

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Takes the progress line away."""
        with _warning_if_unwritable():
            self._progress.stop()

    def _line(self, text: str) -> None:
        _print(self.console, text)


class History(keras.callbacks.Callback):
    """Keeps what a run logged.

    Attributes:
        entries: A mapping for each report of the training and each evaluation, in order: `step` and numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Logs] = []

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Keeps one report."""
        self._keep({"step": batch, **(logs or {})})

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Keeps the scores of one evaluation."""
        self._keep({**(logs or {}), "step": int((logs or {})["step"])})

    def _keep(self, entry: Logs) -> None:
        self.entries.append({name: value for name, value in entry.items() if isinstance(value, int | float | str)})


class CollapseMonitor(keras.callbacks.Callback):
    """One line for each epoch of pre-training with the means of its monitors; a warning where they show collapse.

    An epoch ends with the first report of the next one, or with the run. See `rsseg_tf.ssl.monitors.MONITORS` for the
    meaning of the monitors.

    Attributes:
        collapsed: Collapsed epochs in a row so far.
        write: What takes the lines.
    """

    def __init__(
        self, spread: float, *, stop_after: int | None = None, write: Callable[[str], object] | None = None
    ) -> None:
        """Sets the limits.

        Args:
            spread: An epoch with a smaller mean spread counts as collapsed.
            stop_after: Collapsed epochs in a row that end the run; None for never.
            write: Takes the lines; None for standard output.
        """
        super().__init__()
        self.write = write or functools.partial(_print, Console())
        self.collapsed = 0
        self._min_spread, self._stop_after = spread, stop_after
        self._epoch = 0
        self._rows: list[Logs] = []

    @property
    def has_stopped_the_run(self) -> bool:
        """Whether the run was ended for its collapse."""
        return self._stop_after is not None and self.collapsed >= self._stop_after

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Collects one report."""
        values = logs or {}
        if self._rows and values["epoch"] != self._epoch:
            self._report()
        # Keras makes a float of it.
        self._epoch = int(values["epoch"])
        self._rows.append({name: values[name] for name in (*MONITORS, "loss") if name in values})

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Reports the last epoch."""
        if self._rows:
            self._report()

    def _report(self) -> None:
        means = {name: float(np.mean([row[name] for row in self._rows])) for name in self._rows[0]}
        self._rows.clear()
        values = ", ".join(f"{name}: {value:.4f}" for name, value in means.items())
        self.write(f"[MONITOR] epoch: {self._epoch}, {values}")
        if means["spread"] >= self._min_spread:
            self.collapsed = 0
            return
        self.collapsed += 1
        self.write(
            f"[WARNING] epoch {self._epoch} looks collapsed: the spread of the projections is {means['spread']:.4f}, "
            f"below {self._min_spread:g}; 1 is healthy; at 0 all images look the same to the network. Lower the "
            "learning rate, raise the batch or the momentum, or go back to an earlier checkpoint.",
        )
        if self.has_stopped_the_run:
            self.model.stop_training = True


def _print(console: Console, text: str) -> None:
    # Time first, as PaddleSeg's logger has it; soft_wrap keeps a line whole in files and narrow terminals.
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    with _warning_if_unwritable():
        console.print(f"{stamp} {text}", soft_wrap=True, markup=False, highlight=False)


@contextlib.contextmanager
def _warning_if_unwritable() -> Iterator[None]:
    """Warns once where the console cannot be written: a full disk under a log file, a closed terminal or pipe."""
    try:
        yield
    except (OSError, SystemExit) as error:  # rich raises SystemExit where a pipe is closed
        why = "the pipe is closed" if isinstance(error, SystemExit) else reason(error)
        warn_once(f"The log cannot be written: {why}; training goes on.")


@functools.cache
def warn_once(text: str) -> None:
    """Prints a warning on standard error, the first time that it comes."""
    with contextlib.suppress(OSError):
        print(f"[WARNING] {text}", file=sys.stderr, flush=True)


def trained_scalars(logs: Logs) -> dict[str, float]:
    """Returns the numbers of a log line that loggers store: losses, rate, costs."""
    return {name: value for name, value in logs.items() if name not in ("epoch", "samples_seen")}


def evaluated_scalars(logs: Logs) -> dict[str, float]:
    """Returns the numbers of an evaluation that loggers store, by PaddleSeg's names: the scores, the IoU of classes."""
    scores = {tag: logs[name] for name, tag in (("miou", "mIoU"), ("acc", "Acc"), ("kappa", "Kappa"), ("dice", "Dice"))}
    return scores | {f"IoU/{name[4:]}": value for name, value in logs.items() if name.startswith("iou/")}


class TensorBoardLog(keras.callbacks.Callback):
    """Scalars under PaddleSeg's names, and a few overlay images at each evaluation.

    A run that is resumed from an earlier step writes the later ones once more. What the event files hold of these is
    moved to files that TensorBoard does not read, so that it shows no step twice.
    """

    def __init__(self, folder: Path) -> None:
        """Takes the folder for event files, which may hold those of an earlier run."""
        super().__init__()
        self._folder = folder
        self._step = 0  # the last one that is not written anew

    @functools.cached_property
    def _writer(self) -> Any:
        # Made at the first scalar, so that a run that fails before leaves no empty event file.
        files = _event_files(self._folder)
        for file in files:
            _set_later_events_aside(file, self._step)
        writer = tf.summary.create_file_writer(str(self._folder))
        if files:
            # A TensorBoard that is running has read the later steps. A START event makes it drop them.
            start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
            event = tf.compat.v1.Event(step=self._step + 1, wall_time=time.time(), session_log=start)
            for _ in range(2):  # TensorBoard ignores the first START event that it reads in a folder
                tf.raw_ops.ImportEvent(writer=writer._resource, event=event.SerializeToString())
        return writer

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Notes a step that was written; warns where nothing can be written: the next call begins a new file."""
        try:
            yield
            self._step = step
        except (OSError, tf.errors.OpError) as error:
            self.__dict__.pop("_writer", None)
            warn_once(f"{self._folder} cannot be written: {reason(error)}; training goes on.")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Notes where the run begins."""
        self._step = int((logs or {}).get("step", 0))

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Writes loss, rates and costs."""
        with self._writing(batch), self._writer.as_default(step=batch):
            for name, value in trained_scalars(logs or {}).items():
                tf.summary.scalar(f"Train/{name}", value)

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Writes scores and pictures."""
        values = logs or {}
        step = int(values["step"])
        with self._writing(step), self._writer.as_default(step=step):
            for name, value in evaluated_scalars(values).items():
                tf.summary.scalar(f"Evaluate/{name}", value)
            for i, picture in enumerate(values["pictures"]):
                tf.summary.image(f"Evaluate/sample_{i}", np.asarray(picture)[None])
            self._writer.flush()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Closes the event file."""
        if "_writer" in self.__dict__:
            with self._writing(self._step):
                self._writer.close()


_EVENTS = "tfevents"  # TensorBoard reads files with this in their name


def _event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{_EVENTS}*")) if folder.is_dir() else []


def _set_later_events_aside(file: Path, step: int) -> None:
    """Moves the events of later steps to a file beside this one, in whose name `later_than_N` stands for `tfevents`.

    Raises:
        OSError: When a file cannot be written; what was there before is unchanged.
    """
    if not any(later for later, _ in _events(file, step)):
        return
    # Neither name makes TensorBoard read the file, whenever a kill comes.
    aside, rest = (file.with_name(file.name.replace(_EVENTS, name)) for name in (f"later_than_{step}", "rest"))
    with tf.io.TFRecordWriter(str(aside)) as moved, tf.io.TFRecordWriter(str(rest)) as kept:
        for later, record in _events(file, step):
            (moved if later else kept).write(record)
    replace_file(rest, file)


def _events(file: Path, step: int) -> Iterator[tuple[bool, bytes]]:
    """Yields whether an event is of a later step, and its record; a kill may have cut the last one off."""
    with contextlib.suppress(tf.errors.DataLossError):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            yield tf.compat.v1.Event.FromString(record).step > step, record
