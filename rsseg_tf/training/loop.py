"""The training loop: straight-line, iteration-based, resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
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
from rsseg_tf.checkpoint import TrainState, load_weights, read_state, restore_training, save_checkpoint
from rsseg_tf.config import AnyConfig, Config
from rsseg_tf.config.schema import C2FNet, Eval
from rsseg_tf.data import ImageReader, SampleReader, train_batches
from rsseg_tf.datasets import Sample
from rsseg_tf.errors import ConfigError, DataError, TrainingError
from rsseg_tf.evaluation import Evaluation, plan_evaluation
from rsseg_tf.files import StrPath
from rsseg_tf.inference import InferenceOptions, Predict, as_rgb, overlay
from rsseg_tf.metrics import SegmentationScores
from rsseg_tf.predictors import keras_predictor
from rsseg_tf.pretrained import load_pretrained
from rsseg_tf.training.optimizers import build_optimizer
from rsseg_tf.training.schedules import learning_rate
from rsseg_tf.training.step import TrainStep, synchronise_batch_norm

__all__ = ["Job", "TrainResult", "checkpoints", "inference_options", "prepare_save_dir", "run_job", "train"]

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
    callbacks: Sequence[keras.callbacks.Callback] = (),
    offline: bool = False,
    notify: Callable[[str], object] = lambda line: None,
) -> TrainResult:
    """Trains a model and keeps checkpoints in `save_dir`.

    Args:
        config: the whole run.
        save_dir: where `iter_N/` and `best_model/` go.
        train_samples: what to train on.
        val_samples: what to evaluate on every `save_interval` steps, by the config's `eval.protocol`; empty for no
            evaluation.
        strategy: the devices; None for the default one.
        resume: a checkpoint to go on from.
        callbacks: Keras callbacks, called as `training.callbacks` says.
        offline: whether pre-trained weights must be in the cache already.
        notify: called with a line for each file of pre-trained weights that was loaded, and when the best score of the
            run to resume was counted by another protocol.

    Returns:
        How it ended.

    Raises:
        TrainingError: when a loss is NaN or infinite; the message names the step and the files of the batch.
        DataError: when a sample turns out to be wrong, or the protocol does not fit the dataset.
        WeightsError: when a checkpoint cannot be read or written.
    """
    save_dir = Path(save_dir)
    resume = None if resume is None else Path(resume)
    strategy = strategy or tf.distribute.get_strategy()
    evaluation = plan_evaluation(config, val_samples) if val_samples else None
    model, optimizer, state = _start(config, strategy, resume, offline=offline, notify=notify)
    batch_size = config.train.batch_size * strategy.num_replicas_in_sync
    reader = SampleReader(train_samples, config.dataset.spec, cache_mb=config.data.cache_mb)
    dataset = train_batches(
        reader,
        config.augment,
        batch_size=batch_size,
        seed=config.train.seed,
        start=state.samples_seen,
        workers=config.data.workers,
    )
    predict = keras_predictor(model, config.dataset.spec)

    def validate(state: TrainState, stop_requested: threading.Event) -> tuple[TrainState, dict[str, Any]] | None:
        if evaluation is None:
            return None
        scored = _evaluate(predict, evaluation, inference_options(config.eval), stop_requested)
        if scored is None:
            return None
        scores, pictures = scored
        state = _with_score(state, scores.miou)
        return state, _eval_logs(scores, state, evaluation, pictures)

    job = Job(
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
    return run_job(job, save_dir, strategy=strategy, callbacks=callbacks)


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
        rescue: whether to save when a sample turns out to be wrong. Training with labels has soon come by all of them;
            among millions of images without labels the first epoch takes days.
        validate: evaluates, unless it is asked to stop meanwhile: gives the state with the score, and logs for
            `on_test_end`; None for no evaluation.
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
    rescue: bool = False
    validate: Callable[[TrainState, threading.Event], tuple[TrainState, dict[str, Any]] | None] | None = None


def run_job(
    job: Job, save_dir: Path, *, strategy: tf.distribute.Strategy, callbacks: Sequence[keras.callbacks.Callback]
) -> TrainResult:
    """Runs a job to its end and keeps checkpoints; errors as `train`."""
    pace, state, batch_size = job.config.train, job.state, job.batch_size
    batches = iter(strategy.experimental_distribute_dataset(job.dataset))
    hooks = keras.callbacks.CallbackList(list(callbacks), model=job.model)
    job.model.stop_training = False
    window = _Window(job.reader.samples, batch_size)
    keeper = _Keeper(save_dir, job.config, job.model, job.optimizer, state)

    with _stop_signals() as stop_requested, _closing(hooks):
        while True:
            rate = job.rate(state.step)
            began = time.perf_counter()
            try:
                batch = _next(batches, job.reader)
            except DataError as error:
                if not job.rescue:
                    raise
                window.require_finite()
                raise keeper.rescue(state, error) from error
            read = time.perf_counter()
            losses = job.take_step(batch, rate)
            state = dataclasses.replace(state, step=state.step + 1, samples_seen=state.samples_seen + batch_size)
            window.add(state.step, losses, strategy.experimental_local_results(batch["index"]))
            if state.step == 1 or state.step % pace.log_iters == 0:
                window.require_finite()  # fetching the losses waits for the devices, so the time below is the step's
            window.time(read - began, time.perf_counter() - began)

            if state.step % pace.log_iters == 0:
                epoch = (state.samples_seen - 1) // len(job.reader.samples) + 1
                hooks.on_train_batch_end(state.step, {"epoch": epoch, "lr": rate, **window.averages()})
            finished = state.step == job.iters
            interrupted = stop_requested.is_set() or job.model.stop_training
            if not (finished or interrupted or state.step % pace.save_interval == 0):
                continue

            window.require_finite()
            improved = False
            if job.validate is not None:
                hooks.on_test_begin()
                validated = job.validate(state, stop_requested)
                if validated is not None:
                    improved = validated[0].best_step > state.best_step
                    state, logs = validated
                    hooks.on_test_end(logs)
            checkpoint = keeper.save(state, improved=improved)
            if stop_requested.is_set():
                return TrainResult(state, "signal", checkpoint)
            if interrupted:
                return TrainResult(state, "callback", checkpoint)
            if finished:
                return TrainResult(state, "finished", checkpoint)
            if state.stale_intervals >= (job.early_stop_intervals or math.inf):
                return TrainResult(state, "early", checkpoint)


def _start(
    config: Config,
    strategy: tf.distribute.Strategy,
    resume: Path | None,
    *,
    offline: bool,
    notify: Callable[[str], object],
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
    state = _with_protocol(read_state(resume), config, notify)
    if state.step >= config.train.iters:
        raise ConfigError(
            f"{resume} is at step {state.step}, and train.iters is {config.train.iters}: nothing is left to do. "
            "Raise --iters."
        )
    return model, optimizer, state


class _Keeper:
    """Writes checkpoints and removes the oldest of this run; those of an abandoned branch of it are left alone."""

    def __init__(
        self,
        save_dir: Path,
        config: AnyConfig,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        state: TrainState,
    ) -> None:
        self.save_dir, self.config, self.model, self.optimizer = save_dir, config, model, optimizer
        self._saved = [path for path in checkpoints(save_dir) if step_of(path) <= state.step]

    def save(self, state: TrainState, *, improved: bool) -> Path:
        """Writes `iter_N`, and `best_model` where the score is better than any before; returns the first."""
        folder = self.save_dir / f"iter_{state.step}"
        save_checkpoint(folder, self.model, self.optimizer, state, self.config)
        if improved:
            save_checkpoint(self.save_dir / "best_model", self.model, None, state, self.config)
        if folder not in self._saved:
            self._saved.append(folder)
        while len(self._saved) > self.config.train.keep_checkpoint_max:
            shutil.rmtree(self._saved.pop(0))
        return folder

    def rescue(self, state: TrainState, error: DataError) -> DataError:
        """Saves what was trained before a sample turned out to be wrong; returns the error with where it is."""
        if state.step == 0:
            return error
        folder = self.save_dir / f"iter_{state.step}"
        if folder not in self._saved:
            self.save(state, improved=False)
        return DataError(f"{error} What was trained before is kept: go on with --resume_model {folder}.")


def inference_options(section: Eval) -> InferenceOptions:
    """Returns how to predict, from a config's `eval` section."""
    return InferenceOptions(**section.inference())


def checkpoints(save_dir: Path) -> list[Path]:
    """Returns the `iter_N` folders in a save_dir, oldest first."""
    return sorted((path for path in save_dir.glob("iter_*") if path.name[5:].isdecimal()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Returns N of a folder `iter_N`."""
    return int(checkpoint.name.removeprefix("iter_"))


def prepare_save_dir(save_dir: StrPath, *, resume: bool, overwrite: bool) -> None:
    """Creates the folder, makes sure that it can be written, and that nobody's checkpoints are in the way.

    Raises:
        ConfigError: when it cannot be written, or holds checkpoints of a run that this one does not resume.
    """
    save_dir = Path(save_dir)
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        probe = save_dir / ".writable"
        probe.write_bytes(b"")
        probe.unlink()
        for leftover in save_dir.glob(".iter_*.partial"):  # of a run that was killed while it wrote
            shutil.rmtree(leftover)
    except OSError as error:
        raise ConfigError(
            f"--save_dir {save_dir} cannot be written: {error.strerror}. Choose another folder."
        ) from error
    there = [*checkpoints(save_dir), *(p for p in [save_dir / "best_model"] if p.exists())]
    if not there or resume:
        return
    if not overwrite:
        raise ConfigError(
            f"--save_dir {save_dir} holds {there[-1].name} of an earlier run. Go on from it with "
            f"--resume_model {there[-1]}, choose another folder, or replace it with --overwrite."
        )
    for folder in there:
        shutil.rmtree(folder)


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
        raise


def _evaluate(
    predict: Predict, evaluation: Evaluation, options: InferenceOptions, stop_requested: threading.Event
) -> tuple[SegmentationScores, list[np.ndarray]] | None:
    """Returns scores and pictures, or None when the run was asked to stop meanwhile: saving cannot wait then."""
    spec = evaluation.spec
    pictures: list[np.ndarray] = []
    last = len(evaluation.samples) - 1
    shown = {round(i * last / max(1, _PICTURES - 1)) for i in range(_PICTURES)}

    def observe(index: int, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        if index in shown:
            rgb = as_rgb(image, spec)
            pictures.append(np.hstack([rgb, overlay(rgb, label, spec.palette), overlay(rgb, prediction, spec.palette)]))

        if stop_requested.is_set():
            raise _StopRequestedError

    try:
        return evaluation.run(predict, options, observe=observe), pictures
    except _StopRequestedError:
        return None


class _StopRequestedError(Exception):
    """Leaves an evaluation in the middle."""


def _with_protocol(state: TrainState, config: Config, notify: Callable[[str], object]) -> TrainState:
    """Forgets the best score of a run that is resumed with another protocol: the two cannot be compared."""
    if state.protocol == config.eval.protocol:
        return state
    if state.best_step:
        notify(
            f"The best mIoU so far, {state.best_miou:.4f}, was counted by protocol {state.protocol}; from here on "
            f"{config.eval.protocol} counts, and the best model is looked for anew."
        )
    return dataclasses.replace(state, best_miou=-1.0, best_step=0, stale_intervals=0, protocol=config.eval.protocol)


def _with_score(state: TrainState, miou: float) -> TrainState:
    if miou > state.best_miou:
        return dataclasses.replace(state, best_miou=miou, best_step=state.step, stale_intervals=0)
    return dataclasses.replace(state, stale_intervals=state.stale_intervals + 1)


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
    """Turns SIGTERM and Ctrl-C into a request to save and stop; a second Ctrl-C interrupts at once."""
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return

    def request(number: int, frame: FrameType | None) -> None:
        if requested.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        requested.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _closing(hooks: keras.callbacks.CallbackList) -> Iterator[None]:
    hooks.on_train_begin()
    try:
        yield
    finally:
        hooks.on_train_end()
