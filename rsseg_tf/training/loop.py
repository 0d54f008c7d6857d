"""The training loop: straight-line, counted in steps, resumable.

`train` and `pretrain` each make a `TrainingPlan`, and `run_training` runs it.

A checkpoint is written before anything that may fail at its step: the evaluation, its pictures, the log. So an error in
one of these, or in a sample, loses no step that was trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from rsseg_tf.checkpoint import TrainState
from rsseg_tf.config import AnyConfig
from rsseg_tf.data import ImageReader, SampleReader
from rsseg_tf.errors import DataError, RssegError, TrainingError, WeightsError, reason
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import Sample
from rsseg_tf.moved import moved_name
from rsseg_tf.training.folder import Notify, RunFolder, ignoring_write_errors, open_run
from rsseg_tf.training.strategy import make_deterministic
from rsseg_tf.training.workers import (
    SpectatorFolder,
    WorkerLostError,
    Workers,
    config_digest,
    end_when_stuck,
    is_lost,
    lost_worker,
)

__all__ = ["TrainResult", "TrainingPlan", "Validation", "run_training"]

if not TYPE_CHECKING:  # a type checker shall report wrong names

    def __getattr__(name: str) -> Any:
        return moved_name(__name__, name)


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        state: Step, samples seen and best score.
        stopped: `finished`, `early` (no better score for a while), `signal`, or `callback`.
        checkpoint: The last one that was written.
    """

    state: TrainState
    stopped: str
    checkpoint: Path

    def summary(self) -> str:
        """Returns a line about how the run ended."""
        state = self.state
        if self.stopped == "signal":
            return f"Stopped by a signal at iter {state.step}; go on with --resume_model {self.checkpoint}"
        if self.stopped == "early":
            return (
                f"Stopped early at iter {state.step}: no better mIoU than {state.best_miou:.4f} "
                f"(iter {state.best_step}) in {state.stale_intervals} evaluations."
            )
        return f"Trained to iter {state.step}; the last checkpoint is {self.checkpoint}"


@dataclass(frozen=True)
class Validation:
    """The outcome of an evaluation.

    Attributes:
        state: The run's state with the score.
        improved: Whether the score is the best so far.
        logs: Goes to the callbacks' `on_test_end`.
    """

    state: TrainState
    improved: bool
    logs: dict[str, Any]


@dataclass(frozen=True)
class TrainingPlan:
    """All that the loop needs to know of a run, whatever is trained.

    Attributes:
        config: Of the run; it lies beside every checkpoint.
        iters: Steps in all.
        early_stop_intervals: Evaluations without a better score that end the run; None for never.
        batch_size: Samples per step, over all devices.
        model: All of its weights go into checkpoints.
        optimizer: All of its variables go into checkpoints.
        state: Where the run begins.
        reader: Gives the samples; keeps the error that one raised.
        dataset: Endless batches, this worker's share of each; `index` holds the places of the samples in the reader's
            list.
        take_step: Takes a batch and a learning rate; returns `loss` and other float32 scalars.
        learning_rate: Gives the learning rate of a step.
        average: A model with averages of the weights, which checkpoints then hold as well; None for none.
        validate: Evaluates the model, in all workers at once; returns None in all when one is asked to stop meanwhile.
            None for no evaluation.
    """

    config: AnyConfig
    iters: int
    early_stop_intervals: int | None
    batch_size: int
    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    state: TrainState
    reader: SampleReader | ImageReader
    dataset: tf.data.Dataset
    take_step: Callable[[dict[str, Any], float], dict[str, Any]]
    learning_rate: Callable[[int], float]
    average: keras.Model | None = None
    validate: Callable[[TrainState, threading.Event], Validation | None] | None = None


def run_training(
    config: AnyConfig,
    save_dir: StrPath,
    make_plan: Callable[[tf.distribute.Strategy, Path | None, Notify], TrainingPlan],
    *,
    strategy: tf.distribute.Strategy | None,
    resume: StrPath | None,
    overwrite: bool,
    callbacks: Sequence[keras.callbacks.Callback],
    notify: Notify,
) -> TrainResult:
    """Runs a plan to its end and keeps checkpoints in `save_dir`.

    `make_plan` takes the devices, the checkpoint to resume, and `notify`. For all else see `train`.
    """
    resume = None if resume is None else Path(resume)
    strategy, notify = strategy or tf.distribute.get_strategy(), ignoring_write_errors(notify)
    # Before the first operation: it changes how graphs are built.
    if config.train.deterministic and not make_deterministic():
        notify(
            "train.deterministic: TensorFlow has run something before and keeps its number of threads, so this run "
            "equals to the bit only runs with as many. training.make_deterministic() before anything else fixes it."
        )
    workers = Workers(strategy)
    workers.require_equal(number_of_devices=strategy.num_replicas_in_sync, config=config_digest(config))
    run = open_run(Path(save_dir), resume=resume, overwrite=overwrite, iters=config.train.iters, notify=notify)
    with end_when_stuck(workers), contextlib.ExitStack() as stack:
        with workers.reporting():
            folder = stack.enter_context(run) if workers.is_chief else SpectatorFolder(Path(save_dir))
        workers.any(False, False)  # all have come so far
        plan = make_plan(strategy, resume, notify)
        state = _begin(plan, folder, workers)
        hooks = keras.callbacks.CallbackList(list(callbacks), model=plan.model)
        plan.model.stop_training = False
        with _stop_signals() as stop_requested:
            hooks.on_train_begin({"step": state.step})
            try:
                return _Loop(plan, folder, strategy, workers, hooks, state, stop_requested).run()
            finally:
                hooks.on_train_end()


def _begin(plan: TrainingPlan, folder: RunFolder | SpectatorFolder, workers: Workers) -> TrainState:
    """Returns where the run begins, the same for all workers."""
    workers.require_equal(step=plan.state.step, samples_seen=plan.state.samples_seen)
    scored = plan.validate is not None
    with workers.reporting():
        state = folder.begin(plan.model, plan.optimizer, plan.config, plan.state, scored=scored, average=plan.average)
    workers.any(False, False)
    return TrainState(**json.loads(workers.from_chief(json.dumps(dataclasses.asdict(state)))))


class _Loop:
    """Steps, log lines, checkpoints and evaluations of one run."""

    def __init__(
        self,
        plan: TrainingPlan,
        folder: RunFolder | SpectatorFolder,
        strategy: tf.distribute.Strategy,
        workers: Workers,
        hooks: keras.callbacks.CallbackList,
        state: TrainState,
        stop_requested: threading.Event,
    ) -> None:
        self.plan, self.folder, self.strategy, self.hooks, self.state = plan, folder, strategy, hooks, state
        self.workers, self.stop_requested = workers, stop_requested
        self.interval = _LogInterval(plan.reader.samples, plan.batch_size)
        self.saved_step = state.step

    def run(self) -> TrainResult:
        """Trains to the end, or until something stops the run."""
        try:
            return self._run()
        except WorkerLostError as error:  # wherever it was noticed, the user wants to know from where to go on
            error.args = (f"{error}{self._last_checkpoint()}",)
            raise

    def _run(self) -> TrainResult:
        plan, stopped = self.plan, None
        # The data go on from `state.samples_seen`: the plan's dataset begins there.
        batches = iter(self._distributed(plan.dataset))
        if self.state.to_evaluate:  # the run to resume ended before the evaluation of its last step
            if not self.checkpoint.exists():  # it was resumed from another folder
                self._save()
            stopped = self._after_checkpoint()
        while stopped is None:
            began = time.perf_counter()
            batch, stopped = self._next(batches)
            if stopped is None:
                self._step(batch, began)
                step = self.state.step
                if step >= plan.iters or step % plan.config.train.save_interval == 0:
                    stopped = self._checkpoint(evaluates=True)
            elif self.state.step != self.saved_step:
                stopped = self._checkpoint(evaluates=stopped == "callback")
        return TrainResult(self.state, stopped, self.checkpoint)

    def _distributed(self, dataset: tf.data.Dataset) -> Any:
        """Returns the batches of this worker, each in as many parts as it has devices."""
        devices = self.strategy.num_replicas_in_sync // self.workers.count
        if self.workers.count == 1:
            return self.strategy.experimental_distribute_dataset(dataset)
        part = self.plan.batch_size // self.strategy.num_replicas_in_sync
        parts = dataset.rebatch(part, drop_remainder=True) if devices > 1 else dataset
        return self.strategy.distribute_datasets_from_function(lambda context: parts)

    def _next(self, batches: Iterator[dict[str, Any]]) -> tuple[dict[str, Any], str | None]:
        """Returns the next batch, or why no further step is taken; the same for all workers.

        At least one step is taken, so that a run that is stopped each time gets on nevertheless.
        """
        first = self.state.step == self.plan.state.step
        with self._saving_before_errors():
            batch = {} if self._wishes_to_stop() and not first else _next_batch(batches, self.plan.reader)
            stopped = self._agree()
        return batch, None if first else stopped

    def _wishes_to_stop(self) -> bool:
        return self.stop_requested.is_set() or bool(self.plan.model.stop_training)

    def _agree(self) -> str | None:
        """Returns whether a signal or a callback of any worker wants the run to stop; waits for all workers."""
        by_signal, by_callback = self.workers.any(self.stop_requested.is_set(), bool(self.plan.model.stop_training))
        return "signal" if by_signal else "callback" if by_callback else None

    def _checkpoint(self, *, evaluates: bool) -> str | None:
        """Saves and evaluates; returns why the run ends here, None where it goes on."""
        with self.workers.reporting():
            self.interval.require_finite()  # NaN never gets into a checkpoint
            self.state = dataclasses.replace(self.state, to_evaluate=evaluates and self.plan.validate is not None)
            self._save()
        return self._after_checkpoint()

    def _step(self, batch: dict[str, Any], began: float) -> None:
        plan, log_iters = self.plan, self.plan.config.train.log_iters
        rate = plan.learning_rate(self.state.step)
        read = time.perf_counter()
        try:
            losses = plan.take_step(batch, rate)
        except tf.errors.OpError as error:
            # Nothing is saved here: some variables may have taken the step and others not.
            raise self._failed_step(error) from error
        step = self.state.step + 1
        samples_seen = self.state.samples_seen + plan.batch_size
        self.state = dataclasses.replace(self.state, step=step, samples_seen=samples_seen, to_evaluate=False)
        self.interval.add(step, losses, self.strategy.experimental_local_results(batch["index"]))
        if step == 1 or step % log_iters == 0:
            # Calls return before GPUs are done. Fetching the losses waits for the devices, so the time below is real.
            with self.workers.reporting():
                self.interval.require_finite()
        self.interval.add_time(read - began, time.perf_counter() - began)
        if step % log_iters == 0:
            epoch = (samples_seen - 1) // len(plan.reader.samples) + 1
            logs = {"epoch": epoch, "lr": rate, **self.interval.averages()}
            with self._saving_before_errors():
                self.hooks.on_train_batch_end(step, logs)

    def _after_checkpoint(self) -> str | None:
        """Evaluates, removes old checkpoints, and returns why the run ends here; None where it goes on."""
        plan = self.plan
        if self._agree() != "signal" and self.state.to_evaluate:
            with self._saving_before_errors():
                self._evaluate()
        with self.workers.reporting():
            self.folder.prune(plan.config.train.keep_checkpoint_max)
        if stopped := self._agree():
            return stopped
        if self.state.step >= plan.iters:
            return "finished"
        return "early" if self.state.stale_intervals >= (plan.early_stop_intervals or math.inf) else None

    def _evaluate(self) -> None:
        """Scores the checkpoint that was just written."""
        plan = self.plan
        if plan.validate is None:
            return
        self.hooks.on_test_begin()
        try:
            validation = plan.validate(self.state, self.stop_requested)
        except RssegError:
            raise
        except Exception as error:
            raise TrainingError(f"The evaluation at step {self.state.step} failed: {reason(error)}.") from error
        if validation is None:
            return
        self.state = dataclasses.replace(validation.state, to_evaluate=False)
        # `best_model` comes before the state that names it: a kill between the two leaves a score that is too low,
        # never one without its weights.
        if validation.improved:
            self.folder.save_best(self.state)
        self.folder.save_score(self.state)
        self.hooks.on_test_end(validation.logs)

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the step that was taken last."""
        return self.folder.path / f"iter_{self.state.step}"

    def _save(self) -> None:
        self.folder.save(self.state)
        self.saved_step = self.state.step

    @contextlib.contextmanager
    def _saving_before_errors(self) -> Iterator[None]:
        """Saves the steps so far before an error of the block leaves it; the error then names the checkpoint."""
        try:
            with self.workers.reporting():
                yield
        except Exception as error:
            self.interval.require_finite()
            if self.state.step == self.plan.state.step or not self.workers.is_chief:
                raise
            try:
                if self.state.step != self.saved_step:
                    self._save()
                if isinstance(error, WorkerLostError):
                    raise  # `run` says where it is
                kept = f"What was trained before is kept: go on with --resume_model {self.checkpoint}."
            except WeightsError as unsaved:
                kept = str(unsaved)
            if isinstance(error, RssegError):
                error.args = (f"{error} {kept}",)
            else:
                error.add_note(kept)
            raise

    def _failed_step(self, error: tf.errors.OpError) -> TrainingError:
        if is_lost(error):
            return lost_worker(error)
        out_of_memory = isinstance(error, tf.errors.ResourceExhaustedError)
        remedy = " Lower --batch_size or augment.crop_size." if out_of_memory else ""
        last = self._last_checkpoint()
        return TrainingError(f"Step {self.state.step + 1} failed: {reason(error)}.{remedy}{last}")

    def _last_checkpoint(self) -> str:
        """Returns a sentence that tells from where to go on; nothing where there is no checkpoint yet."""
        checkpoint = self.folder.path / f"iter_{self.saved_step}"
        if checkpoint.exists():
            return f" The last checkpoint is of step {self.saved_step}: go on with --resume_model {checkpoint}."
        return f" The last checkpoint is of step {self.saved_step}." if self.saved_step else ""


@dataclass
class _LogInterval:
    """Losses and times since the last log line.

    Losses stay on the device until they are needed, since fetching one waits for its step. All of them are fetched and
    checked before anything is saved.
    """

    samples: Sequence[Sample]
    batch_size: int
    unchecked: list[tuple[int, dict[str, Any], Any]] = field(default_factory=list)
    losses: list[dict[str, float]] = field(default_factory=list)
    reader_seconds: float = 0.0
    batch_seconds: float = 0.0
    steps: int = 0

    def add(self, step: int, losses: dict[str, Any], indices: Any) -> None:
        self.unchecked.append((step, losses, indices))

    def add_time(self, reader_seconds: float, batch_seconds: float) -> None:
        self.reader_seconds += reader_seconds
        self.batch_seconds += batch_seconds
        self.steps += 1

    def require_finite(self) -> None:
        """Fetches the losses and raises TrainingError for the first that is NaN or infinite."""
        for step, tensors, indices in self.unchecked:
            try:
                losses = {name: float(value) for name, value in tensors.items()}
            except tf.errors.OpError as error:  # of a step that was on its way
                raise lost_worker(error) if is_lost(error) else error from error
            bad = [name for name, value in losses.items() if not np.isfinite(value)]
            if bad:
                names = [str(self.samples[int(i)].image) for part in indices for i in np.asarray(part)]
                raise TrainingError(
                    f"The loss is {losses[bad[0]]} at step {step} ({bad[0]}); the files in the batch: "
                    f"{', '.join(names)}. Look at these images, lower the learning rate, or train with "
                    "--precision fp32 or bf16. No checkpoint was written from this step on.",
                    code="diverged",
                )
            self.losses.append(losses)
        self.unchecked.clear()

    def averages(self) -> dict[str, float]:
        """Returns mean losses and costs since the last call, and begins a new interval."""
        self.require_finite()
        means = {name: float(np.mean([row[name] for row in self.losses])) for name in self.losses[0]}
        costs = {
            "batch_cost": self.batch_seconds / self.steps,
            "reader_cost": self.reader_seconds / self.steps,
            "ips": self.batch_size * self.steps / self.batch_seconds,
        }
        self.losses.clear()
        self.reader_seconds, self.batch_seconds, self.steps = 0.0, 0.0, 0
        return {**means, **costs}


def _next_batch(batches: Iterator[dict[str, Any]], reader: SampleReader | ImageReader) -> dict[str, Any]:
    """Returns the next batch; raises the reader's own error instead of TensorFlow's rendering of it."""
    try:
        return next(batches)
    except tf.errors.OpError as error:
        if reader.failure is not None:
            raise reader.failure from error
        raise DataError(f"A batch could not be prepared: {reason(error)}.") from error


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turns SIGTERM, SIGHUP and Ctrl-C into a request to save and stop; a second Ctrl-C interrupts at once.

    No moment is bad for that: a checkpoint is written whole or not at all.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # Python lets the main thread alone handle signals
        yield requested
        return

    def request(number: int, frame: FrameType | None) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in wanted}
    # `nohup` ignores SIGHUP, the end of the terminal, and it must stay ignored.
    taken = [n for n in wanted if n != getattr(signal, "SIGHUP", None) or before[n] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        for number in taken:
            signal.signal(number, before[number])
