"""The training loop: straight-line, iteration-based, resumable.

A checkpoint is written before anything that may fail at its step: the evaluation, its pictures, the log. No error in
these, nor in a sample, costs a step that was trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rsseg_tf.build import build_losses, build_model
from rsseg_tf.checkpoint import TrainState, load_weights, read_state, restore_training
from rsseg_tf.config import AnyConfig, Config
from rsseg_tf.config.schema import Eval
from rsseg_tf.config.zoo import C2FNet
from rsseg_tf.data import ImageReader, SampleReader, train_batches
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ConfigError, DataError, RssegError, TrainingError, WeightsError, reason
from rsseg_tf.evaluate.evaluation import Evaluation, plan_evaluation
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import Sample
from rsseg_tf.metrics import SegmentationScores
from rsseg_tf.predict import InferenceOptions, Predict, as_rgb, overlay
from rsseg_tf.predictors import keras_predictor
from rsseg_tf.training.folder import Notify, RunFolder, open_run, safely
from rsseg_tf.training.optimizers import build_optimizer
from rsseg_tf.training.schedules import learning_rate
from rsseg_tf.training.step import TrainStep, synchronise_batch_norm
from rsseg_tf.training.strategy import make_deterministic
from rsseg_tf.weights.pretrained import load_pretrained

__all__ = ["Job", "TrainResult", "Validated", "inference_options", "run_job", "train"]

_PICTURES = 4  # validation overlays for TensorBoard at each evaluation


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        state: step, samples seen and best score.
        stopped: `finished`, `early` (no better score for a while), `signal`, or `callback`.
        checkpoint: the last one that was written.
    """

    state: TrainState
    stopped: str
    checkpoint: Path


def train(
    config: Config,
    save_dir: StrPath,
    train_samples: Sequence[Sample],
    val_samples: Sequence[Sample] = (),
    *,
    strategy: tf.distribute.Strategy | None = None,
    resume: StrPath | None = None,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    offline: bool = False,
    notify: Notify = lambda line: None,
) -> TrainResult:
    """Trains a model and keeps checkpoints in `save_dir`.

    Args:
        config: the whole run.
        save_dir: where `iter_N/` and `best_model/` go; no other run may write there meanwhile.
        train_samples: what to train on.
        val_samples: what to evaluate on every `save_interval` steps, by the config's `eval.protocol`; empty for no
            evaluation. All of them are read once before the first step.
        strategy: the devices; None for the default one.
        resume: a checkpoint to go on from.
        overwrite: whether a new run may replace an earlier one in `save_dir`, which is removed once the first
            checkpoint is written.
        callbacks: Keras callbacks, called as `training.callbacks` says. What one raises ends the run, after the steps
            so far were saved.
        offline: whether pre-trained weights must be in the cache already.
        notify: called with a line for everything about the run that its log does not show: each file of pre-trained
            weights that was loaded, what became of the best score of the run to resume, what could not be removed.

    Returns:
        How it ended.

    Raises:
        ConfigError: when `save_dir` is in use or holds an earlier run, or nothing is left to do.
        TrainingError: when a loss is NaN or infinite; the message names the step and the files of the batch.
        DataError: when a sample turns out to be wrong, or the protocol does not fit the dataset. What was trained
            before is saved.
        WeightsError: when a checkpoint cannot be read or written.
    """
    save_dir = Path(save_dir)
    resume = None if resume is None else Path(resume)
    strategy, notify = strategy or tf.distribute.get_strategy(), safely(notify)
    if config.train.deterministic:
        make_deterministic()
    with open_run(save_dir, resume=resume, overwrite=overwrite, notify=notify) as folder:
        evaluation = plan_evaluation(config, val_samples) if val_samples else None
        if evaluation is not None:
            evaluation.read_once()
        job = _job(config, train_samples, evaluation, strategy, resume, offline=offline, notify=notify)
        return run_job(job, folder, strategy=strategy, callbacks=callbacks)


def _job(
    config: Config,
    train_samples: Sequence[Sample],
    evaluation: Evaluation | None,
    strategy: tf.distribute.Strategy,
    resume: Path | None,
    *,
    offline: bool,
    notify: Notify,
) -> Job:
    """Builds what the loop runs."""
    model, optimizer, state = _start(
        config, strategy, resume, evaluated=evaluation is not None, offline=offline, notify=notify
    )
    batch_size = config.train.batch_size * strategy.num_replicas_in_sync
    reader = SampleReader(train_samples, config.dataset.spec, cache_mb=config.data.cache_mb, trust=config.data.trust)
    dataset = train_batches(
        reader,
        config.augment,
        batch_size=batch_size,
        seed=config.train.seed,
        start=state.samples_seen,
        workers=config.data.workers,
    )
    predict = keras_predictor(model, config.dataset.spec)

    def validate(state: TrainState, stop_requested: threading.Event) -> Validated | None:
        if evaluation is None:
            return None
        scored = _evaluate(predict, evaluation, inference_options(config.eval), stop_requested, notify)
        if scored is None:
            return None
        scores, pictures = scored
        state, improved = _with_score(state, scores.miou)
        return Validated(state, improved, _eval_logs(scores, state, evaluation, pictures))

    return Job(
        config=config,
        iters=config.train.iters,
        early_stop_intervals=config.train.early_stop_intervals,
        batch_size=batch_size,
        model=model,
        optimizer=optimizer,
        state=state,
        reader=reader,
        dataset=dataset,
        take_step=TrainStep(model, optimizer, build_losses(config), strategy),
        rate=lambda step: learning_rate(step, config.lr_schedule, config.train.iters),
        validate=validate if evaluation else None,
    )


@dataclass(frozen=True)
class Validated:
    """What an evaluation gave: the state with its score, whether it is the best so far, logs for `on_test_end`."""

    state: TrainState
    improved: bool
    logs: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What the loop needs to know of a run, whatever it trains.

    Attributes:
        config: of the run; lies beside every checkpoint.
        iters: steps in all.
        early_stop_intervals: evaluations without a better score that end the run; None for never.
        batch_size: samples per step, over all devices.
        model: all of whose weights go into checkpoints.
        optimizer: likewise.
        state: where the run begins.
        reader: gives the samples; keeps the error that one raised.
        dataset: endless batches, with `index`, the places of the samples in the reader's list.
        take_step: takes a batch and a learning rate; returns `loss` and other float32 scalars.
        rate: the learning rate of a step.
        validate: evaluates; gives None when it is asked to stop meanwhile. None for no evaluation.
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
    rate: Callable[[int], float]
    validate: Callable[[TrainState, threading.Event], Validated | None] | None = None


def run_job(
    job: Job, folder: RunFolder, *, strategy: tf.distribute.Strategy, callbacks: Sequence[keras.callbacks.Callback]
) -> TrainResult:
    """Runs a job to its end and keeps checkpoints; errors as `train`."""
    state = folder.begin(job.state, scored=job.validate is not None)
    hooks = keras.callbacks.CallbackList(list(callbacks), model=job.model)
    job.model.stop_training = False
    with _stop_signals() as stop_requested, _closing(hooks, state):
        return _Loop(job, folder, strategy, hooks, state, stop_requested).run()


class _Loop:
    """A run on its way."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        strategy: tf.distribute.Strategy,
        hooks: keras.callbacks.CallbackList,
        state: TrainState,
        stop_requested: threading.Event,
    ) -> None:
        self.job, self.folder, self.strategy, self.hooks, self.state = job, folder, strategy, hooks, state
        self.stop_requested = stop_requested
        self.window = _Window(job.reader.samples, job.batch_size)
        self._safe = state.step  # the step up to which all is saved

    def run(self) -> TrainResult:
        """Trains to the end, after the evaluation that the run to resume has left to do."""
        batches = iter(self.strategy.experimental_distribute_dataset(self.job.dataset))
        result = None
        if self.state.to_evaluate:
            if not self._kept().exists():  # it was resumed from another folder
                self._save()
            result = self._after_saving()
        while result is None:
            self._step(batches)
            finished = self.state.step >= self.job.iters
            due = finished or self.state.step % self.job.config.train.save_interval == 0
            if due or self.stop_requested.is_set() or self.job.model.stop_training:
                result = self._checkpoint(due)
        return result

    def _step(self, batches: Iterator[dict[str, Any]]) -> None:
        job, log_iters = self.job, self.job.config.train.log_iters
        rate = job.rate(self.state.step)
        began = time.perf_counter()
        with self._nothing_lost():
            batch = _next(batches, job.reader)
        read = time.perf_counter()
        try:
            losses = job.take_step(batch, rate)
        except tf.errors.OpError as error:
            raise self._failed(error) from error
        step = self.state.step + 1
        self.state = dataclasses.replace(
            self.state, step=step, samples_seen=self.state.samples_seen + job.batch_size, to_evaluate=False
        )
        self.window.add(step, losses, self.strategy.experimental_local_results(batch["index"]))
        if step == 1 or step % log_iters == 0:
            self.window.require_finite()  # fetching the losses waits for the devices, so the time below is the step's
        self.window.time(read - began, time.perf_counter() - began)
        if step % log_iters == 0:
            epoch = (self.state.samples_seen - 1) // len(job.reader.samples) + 1
            logs = {"epoch": epoch, "lr": rate, **self.window.averages()}
            with self._nothing_lost():
                self.hooks.on_train_batch_end(step, logs)

    def _checkpoint(self, due: bool) -> TrainResult | None:
        """Saves, evaluates, and tells whether that was the end.

        Args:
            due: whether the step is one at which every run saves and evaluates.
        """
        self.window.require_finite()
        evaluates = self.job.validate is not None and (due or self.job.model.stop_training)
        self.state = dataclasses.replace(self.state, to_evaluate=evaluates)
        self._save()
        return self._after_saving()

    def _after_saving(self) -> TrainResult | None:
        if self.state.to_evaluate and not self.stop_requested.is_set():
            with self._nothing_lost():
                self._evaluate()
        job, state = self.job, self.state
        self.folder.prune(job.config.train.keep_checkpoint_max)
        if self.stop_requested.is_set():
            stopped = "signal"
        elif job.model.stop_training:
            stopped = "callback"
        elif state.step >= job.iters:
            stopped = "finished"
        elif state.stale_intervals >= (job.early_stop_intervals or math.inf):
            stopped = "early"
        else:
            return None
        return TrainResult(state, stopped, self.folder.path / f"iter_{state.step}")

    def _evaluate(self) -> None:
        """Scores the checkpoint that was just written; `best_model` comes before the state that claims it."""
        job = self.job
        if job.validate is None:
            return
        self.hooks.on_test_begin()
        try:
            validated = job.validate(self.state, self.stop_requested)
        except RssegError:
            raise
        except Exception as error:
            raise TrainingError(f"The evaluation at step {self.state.step} failed: {reason(error)}.") from error
        if validated is None:
            return
        self.state = dataclasses.replace(validated.state, to_evaluate=False)
        if validated.improved:
            self.folder.save_best(job.model, self.state, job.config)
        self.folder.save_score(job.model, job.optimizer, self.state, job.config)
        self.hooks.on_test_end(validated.logs)

    def _save(self) -> None:
        self.folder.save(self.job.model, self.job.optimizer, self.state, self.job.config)
        self._safe = self.state.step

    @contextlib.contextmanager
    def _nothing_lost(self) -> Iterator[None]:
        """Saves what was trained before an error in the block; the error says where it is."""
        try:
            yield
        except Exception as error:
            self.window.require_finite()
            if self.state.step == self.job.state.step:
                raise
            try:
                if self.state.step != self._safe:
                    self._save()
                kept = f"What was trained before is kept: go on with --resume_model {self._kept()}."
            except WeightsError as unsaved:
                kept = str(unsaved)
            if isinstance(error, RssegError):
                error.args = (f"{error} {kept}",)
            else:
                error.add_note(kept)
            raise

    def _kept(self) -> Path:
        return self.folder.path / f"iter_{self.state.step}"

    def _failed(self, error: tf.errors.OpError) -> TrainingError:
        less = (
            " Lower --batch_size or augment.crop_size." if isinstance(error, tf.errors.ResourceExhaustedError) else ""
        )
        last = f" The last checkpoint is of step {self._safe}." if self._safe else ""
        return TrainingError(f"Step {self.state.step + 1} failed: {reason(error)}.{less}{last}")


def _start(
    config: Config,
    strategy: tf.distribute.Strategy,
    resume: Path | None,
    *,
    evaluated: bool,
    offline: bool,
    notify: Notify,
) -> tuple[keras.Model, keras.optimizers.Optimizer, TrainState]:
    """Builds model and optimizer on the devices, with pre-trained weights or those of the checkpoint to resume."""
    if resume is None and isinstance(config.model, C2FNet) and config.model.coarse.pretrained is None:
        raise ConfigError(
            "c2fnet learns on the predictions of a trained coarse model; there are no weights of one. Name them with "
            "--coarse_model (or model.coarse.pretrained): a checkpoint folder, a file or a URL."
        )
    keras.utils.set_random_seed(config.train.seed)
    with strategy.scope():
        model = build_model(config, precision=config.train.precision)
        if strategy.num_replicas_in_sync > 1:
            synchronise_batch_norm(model)
        optimizer = build_optimizer(config.optimizer, precision=config.train.precision)
        optimizer.build(model.trainable_variables)
        if resume is None:
            for report in load_pretrained(model, config, offline=offline):
                notify(report.summary())
            return model, optimizer, TrainState(protocol=config.eval.protocol)
        load_weights(model, resume)
        restore_training(model, optimizer, resume)
    state = read_state(resume)
    state = dataclasses.replace(_with_protocol(state, config, notify), to_evaluate=state.to_evaluate and evaluated)
    if state.step >= config.train.iters and not state.to_evaluate:
        raise ConfigError(
            f"{resume} is at step {state.step}, and train.iters is {config.train.iters}: nothing is left to do. "
            "Raise --iters."
        )
    return model, optimizer, state


def inference_options(section: Eval) -> InferenceOptions:
    """Returns how to predict, from a config's `eval` section."""
    return InferenceOptions(**section.inference())


@dataclass
class _Window:
    """Losses and times since the last log line.

    Losses stay on the device until they are needed. Every one of them is looked at before anything is saved.
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

    def time(self, reader_seconds: float, batch_seconds: float) -> None:
        self.reader_seconds += reader_seconds
        self.batch_seconds += batch_seconds
        self.steps += 1

    def require_finite(self) -> None:
        """Fetches the losses and raises TrainingError for the first that is NaN or infinite."""
        for step, tensors, indices in self.unchecked:
            losses = {name: float(value) for name, value in tensors.items()}
            bad = [name for name, value in losses.items() if not np.isfinite(value)]
            if bad:
                names = [str(self.samples[int(i)].image) for part in indices for i in np.asarray(part)]
                raise TrainingError(
                    f"The loss is {losses[bad[0]]} at step {step} ({bad[0]}); the files in the batch: "
                    f"{', '.join(names)}. Look at these images, lower the learning rate, or train with "
                    "--precision fp32 or bf16. No checkpoint was written from this step on."
                )
            self.losses.append(losses)
        self.unchecked.clear()

    def averages(self) -> dict[str, float]:
        """Returns mean losses and costs since the last call and starts afresh."""
        self.require_finite()
        means = {name: float(np.mean([row[name] for row in self.losses])) for name in self.losses[0]}
        steps = self.steps
        costs = {
            "batch_cost": self.batch_seconds / steps,
            "reader_cost": self.reader_seconds / steps,
            "ips": self.batch_size * steps / self.batch_seconds,
        }
        self.losses.clear()
        self.reader_seconds, self.batch_seconds, self.steps = 0.0, 0.0, 0
        return {**means, **costs}


def _next(batches: Iterator[dict[str, Any]], reader: SampleReader | ImageReader) -> dict[str, Any]:
    """Returns the next batch; an error of the reader comes through as itself, not as TensorFlow's rendering of it."""
    try:
        return next(batches)
    except tf.errors.OpError as error:
        if reader.failure is not None:
            raise reader.failure from error
        raise DataError(f"A batch could not be prepared: {reason(error)}.") from error


def _evaluate(
    predict: Predict,
    evaluation: Evaluation,
    options: InferenceOptions,
    stop_requested: threading.Event,
    notify: Notify,
) -> tuple[SegmentationScores, list[np.ndarray]] | None:
    """Returns scores and pictures, or None when the run was asked to stop meanwhile: saving cannot wait then."""
    spec = evaluation.spec
    pictures: list[np.ndarray] = []
    last = len(evaluation.samples) - 1
    shown = {round(i * last / max(1, _PICTURES - 1)) for i in range(_PICTURES)}

    def observe(index: int, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        if index in shown:
            try:
                pictures.append(_picture(image, label, prediction, spec))
            except Exception as error:  # a score counts more than any picture
                notify(f"There is no picture of {evaluation.samples[index].image}: {reason(error)}.")
        if stop_requested.is_set():
            raise _StopRequestedError

    try:
        return evaluation.run(predict, options, observe=observe), pictures
    except _StopRequestedError:
        return None


def _picture(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """Returns image, label and prediction side by side."""
    rgb = as_rgb(image, spec)
    return np.hstack([rgb, overlay(rgb, label, spec.palette), overlay(rgb, prediction, spec.palette)])


class _StopRequestedError(Exception):
    """Leaves an evaluation in the middle."""


def _with_protocol(state: TrainState, config: Config, notify: Notify) -> TrainState:
    """Forgets the best score of a run that is resumed with another protocol: the two cannot be compared."""
    if state.protocol == config.eval.protocol:
        return state
    if state.best_step:
        notify(
            f"The best mIoU so far, {state.best_miou:.4f}, was counted by protocol {state.protocol}; from here on "
            f"{config.eval.protocol} counts, and the best model is looked for anew."
        )
    return dataclasses.replace(state, best_miou=-1.0, best_step=0, stale_intervals=0, protocol=config.eval.protocol)


def _with_score(state: TrainState, miou: float) -> tuple[TrainState, bool]:
    """Returns the state with the score of its step, and whether that is the best so far.

    The best step may lie ahead, where a run was resumed from before it, or be this very one, where a run was killed
    before it could note its score.
    """
    again = state.best_step == state.step and miou >= state.best_miou
    if miou > state.best_miou or again:
        return dataclasses.replace(state, best_miou=miou, best_step=state.step, stale_intervals=0), True
    stale = 0 if state.best_step == state.step else state.stale_intervals + (state.best_step < state.step)
    return dataclasses.replace(state, stale_intervals=stale), False


def _eval_logs(
    scores: SegmentationScores, state: TrainState, evaluation: Evaluation, pictures: list[np.ndarray]
) -> dict[str, Any]:
    return {
        "step": state.step,
        "images": len(evaluation.samples),
        "protocol": evaluation.summary,
        "miou": scores.miou,
        "acc": scores.acc,
        "kappa": scores.kappa,
        "dice": scores.dice,
        **{f"iou/{name}": float(iou) for name, iou in zip(scores.classes, scores.class_iou, strict=True)},
        "best_miou": state.best_miou,
        "best_step": state.best_step,
        "pictures": pictures,
    }


@contextlib.contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Turns SIGTERM, SIGHUP and Ctrl-C into a request to save and stop; a second Ctrl-C interrupts at once.

    A checkpoint is whole or not there whenever that happens. SIGHUP, the end of the terminal, is left alone where it
    was ignored, as `nohup` does.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def request(number: int, frame: FrameType | None) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in wanted}
    taken = [n for n in wanted if n != getattr(signal, "SIGHUP", None) or before[n] != signal.SIG_IGN]
    for number in taken:
        signal.signal(number, request)
    try:
        yield requested
    finally:
        for number in taken:
            signal.signal(number, before[number])


@contextlib.contextmanager
def _closing(hooks: keras.callbacks.CallbackList, state: TrainState) -> Iterator[None]:
    hooks.on_train_begin({"step": state.step})
    try:
        yield
    finally:
        hooks.on_train_end()
