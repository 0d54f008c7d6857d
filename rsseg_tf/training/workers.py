"""The processes that train or evaluate one model together, and what they tell each other.

What a step needs goes through the strategy. Here is the rest: whether to stop, whether one has failed, what each has
counted. All of it is a few integers that are added up on the CPUs, in one call that returns once all
workers have made it. The call raises `WorkerLostError` when one of them has died.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from rsseg_tf.checkpoint import TrainState
from rsseg_tf.config import AnyConfig
from rsseg_tf.errors import ConfigError, TrainingError, reason

__all__ = [
    "SpectatorFolder",
    "WorkerFailedError",
    "WorkerLostError",
    "Workers",
    "config_digest",
    "end_when_stuck",
    "is_lost",
    "lost_worker",
]

_GROUP = 1_000_000_000
"""Number of the group of processes; the strategy numbers its own groups from 1 on."""
_REPORT_S = 60.0
"""How long a worker that failed waits for the others to hear of it."""
_LOOK_S, _PATIENCE_S = 5.0, 20.0


class WorkerFailedError(TrainingError):
    """Another worker has reported an error; this one is sound, and all weights are those of the last step."""


class WorkerLostError(TrainingError):
    """Another worker has died, or cannot be reached."""


class Workers:
    """This process and the others of its run; also for a process that trains alone.

    Attributes:
        index: The place of this process among them.
        count: How many they are.
        strategy: The devices of a process that trains alone; None among several.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None) -> None:
        """Takes the processes of a strategy; None for a process alone."""
        self.index, self.count = 0, 1
        if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            self.index, self.count = strategy.extended._id_in_cluster, strategy.extended._num_workers
        self.strategy = strategy if self.count == 1 else None
        self._has_reported = False

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the log and the checkpoints."""
        return self.index == 0

    @property
    def share(self) -> tuple[int, int]:
        """Index and count, for who splits work by position."""
        return self.index, self.count

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Returns for each of two flags whether it is set in any worker; waits until all of them have come here.

        Raises:
            WorkerFailedError: When one has reported an error instead, see `reporting`.
            WorkerLostError: When one has died.
        """
        if self.count == 1:
            return flags
        totals = self.add(np.array([*(0 for _ in range(self.count)), *flags], np.int64))
        if totals[: self.count].any():
            failed = ", ".join(str(i) for i in np.flatnonzero(totals[: self.count]))
            raise WorkerFailedError(f"Worker {failed} failed, so this one ends too; the output of that one says why.")
        return tuple(bool(total) for total in totals[self.count :])

    @contextlib.contextmanager
    def reporting(self) -> Iterator[None]:
        """Lets an error of the block end the other workers too, at their next call of `any`.

        Steps and whatever else makes calls between workers must not be in the block, except calls of `any`: the others
        would wait for those, and not for this.
        """
        try:
            yield
        except Exception as error:
            if not isinstance(error, WorkerFailedError | WorkerLostError):
                self._report_failure()
            raise

    def _report_failure(self) -> None:
        if self.count == 1 or self._has_reported:
            return
        self._has_reported = True
        failed = [int(i == self.index) for i in range(self.count)]
        # They end in any case once this process has ended, and the error to report counts more.
        with contextlib.suppress(WorkerLostError):
            self._add(np.array([*failed, 0, 0], np.int64), timeout_s=_REPORT_S)

    def add(self, values: np.ndarray) -> np.ndarray:
        """Returns the sum over all workers.

        Args:
            values: `(N,)` int64, with the same N in all workers.

        Raises:
            WorkerLostError: When one has died.
        """
        return self._add(values) if self.count > 1 else values

    def _add(self, values: np.ndarray, timeout_s: float = 0.0) -> np.ndarray:
        try:
            with tf.device("CPU:0"):
                total: np.ndarray = _adding(values.size, self.count, timeout_s)(tf.constant(values, tf.int64)).numpy()
        except tf.errors.OpError as error:
            raise lost_worker(error) from error
        return total

    def total(self, confusion: np.ndarray, ignored: int) -> tuple[np.ndarray, int]:
        """Returns confusion matrix and ignored pixels of all workers, when all have come here.

        Args:
            confusion: What this one has counted, `(classes, classes)` int64.
            ignored: The same of ignored pixels.

        Raises:
            WorkerFailedError: When one has reported an error instead, see `reporting`.
            WorkerLostError: When one has died.
        """
        self.any(False, False)
        *counts, ignored = self.add(np.append(confusion, ignored)).tolist()
        return np.array(counts, np.int64).reshape(confusion.shape), ignored

    def gather(self, values: Sequence[int]) -> np.ndarray:
        """Returns what each worker gives, `(count, N)` int64."""
        table = np.zeros((self.count, len(values)), np.int64)
        table[self.index] = values
        return self.add(table.reshape(-1)).reshape(table.shape)

    def from_chief(self, text: str) -> str:
        """Returns the text that the chief gives."""
        if self.count == 1:
            return text
        content = np.frombuffer(text.encode(), np.uint8).astype(np.int64) * self.is_chief
        size = int(self.add(np.array([content.size * self.is_chief], np.int64))[0])
        sent = self.add(content if self.is_chief else np.zeros(size, np.int64))
        return bytes(sent.astype(np.uint8)).decode()

    def require_equal(self, **values: int) -> None:
        """Checks that all workers give the same numbers.

        Raises:
            ConfigError: In every worker, with the names of the values that differ.
        """
        if self.count == 1:
            return
        table = self.gather(list(values.values()))
        differing = [name.replace("_", " ") for name, row in zip(values, table.T, strict=True) if len(set(row)) > 1]
        if differing:
            raise ConfigError(
                f"The {self.count} workers do not run the same; they differ in: {', '.join(differing)}. Start all of "
                "them with the same command, on the same files."
            )


def config_digest(config: AnyConfig) -> int:
    """Returns a number that differs where workers would do different work; where the data lie may differ."""
    values = config.model_dump(mode="json", exclude={"data": True, "dataset": {"root"}})
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


@functools.cache
def _adding(size: int, count: int, timeout_s: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function that adds up int64 vectors of one size; all workers must call it. 0 seconds are forever."""

    # Bound to the size at once: TensorFlow would warn of a function that is traced anew for each call.
    @functools.partial(tf.function, input_signature=[tf.TensorSpec((size,), tf.int64)])
    def add(values: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.CollectiveReduceV2(
            input=values,
            group_size=count,
            group_key=_GROUP,
            instance_key=_GROUP + size,  # TensorFlow remembers the shape that belongs to the number of an instance
            ordering_token=[],
            merge_op="Add",
            final_op="Id",
            communication_hint="RING",
            timeout_seconds=timeout_s,
        )

    return add.get_concrete_function()


def is_lost(error: BaseException) -> bool:
    """Tells whether an error of TensorFlow says that another worker could not be reached."""
    kinds = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)
    return isinstance(error, kinds) or "ollective ops is aborted" in str(error)


def lost_worker(error: BaseException) -> WorkerLostError:
    """Returns the error to raise where TensorFlow could not reach a worker."""
    return WorkerLostError(_how_lost(error))


def _how_lost(error: BaseException) -> str:
    # TensorFlow names the task somewhere in many lines.
    named = re.search(r"/job:\w+/(?:replica:\d+/)?task:(\d+)", str(error))
    who = f"Worker {named[1]}" if named else "Another worker"
    why = "its own output may say why" if named else reason(error)
    return f"{who} of this run has ended or cannot be reached, so this one ends too ({why})."


@contextlib.contextmanager
def end_when_stuck(workers: Workers, *, look_s: float = _LOOK_S, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Ends this process during the block when another worker has died and nothing here takes notice.

    TensorFlow ends what waits for a dead worker with an error, and then this thread has nothing to do. But a call into
    a GPU's library that waits for a GPU of the dead one may never return.

    Args:
        workers: Of this run; a process alone is left alone.
        look_s: Seconds between two looks.
        patience_s: Seconds that this process may go on after a worker has died.
    """
    over = threading.Event()
    if workers.count == 1:
        yield
        return

    def look() -> None:
        noticed: float | None = None
        while not over.wait(look_s):
            if (why := _dead_worker(workers.count)) is None:
                continue
            noticed = noticed or time.monotonic()
            if time.monotonic() - noticed >= patience_s and not over.is_set():
                print(f"Error: {why}", file=sys.stderr, flush=True)
                os._exit(2)

    threading.Thread(target=look, name="workers", daemon=True).start()
    try:
        yield
    finally:
        over.set()  # workers may end one after the other now


class SpectatorFolder:
    """In place of the `RunFolder` of a run where this worker is not the one that writes.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        config: AnyConfig,
        state: TrainState,
        *,
        scored: bool,
        average: keras.Model | None = None,
    ) -> TrainState:
        """Returns the state as it is."""
        return state

    def save(self, state: TrainState) -> None:
        """Does nothing."""

    save_score = save_best = save

    def prune(self, keep: int) -> None:
        """Does nothing."""


def _dead_worker(count: int) -> str | None:
    """Returns why a worker counts as dead; None while all are alive."""
    try:
        states = context.context().get_task_states([("worker", count)])
    except tf.errors.OpError as error:  # the chief, who knows the states, is gone
        return _how_lost(error)
    return next((_how_lost(state) for state in states if state is not None), None)
