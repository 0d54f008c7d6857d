"""How fast a machine trains: the input pipeline, the step and the evaluation, each alone, then all as training does.

What fills buffers, starts threads or compiles is not counted. A rate is the median of several stretches of time, so
that a pause of the machine does not change it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from rsseg_tf.config import Config
from rsseg_tf.data import SampleReader, train_batches
from rsseg_tf.errors import DataError, reason
from rsseg_tf.evaluate.evaluation import plan_evaluation
from rsseg_tf.export.timing import PeakMemory
from rsseg_tf.files.lists import Sample
from rsseg_tf.predict import InferenceOptions
from rsseg_tf.predict.model import device_count
from rsseg_tf.predictors import keras_predictor
from rsseg_tf.training.segmentation import Learner, build_learner

__all__ = ["Rate", "TrainingSpeed", "Verdict", "measure_training", "verdict"]

_STRETCHES = 5  # of which a rate is the median
_SHARES = {"disk": 0.2, "memory": 0.2, "step": 0.2, "training": 0.25, "evaluation": 0.15}  # of the time to measure


@dataclass(frozen=True)
class Rate:
    """How fast something goes.

    Attributes:
        per_s: Samples (images of an evaluation) per second.
        cpu_ms: Processor time of the whole process for each, in milliseconds.
        count: How many were measured.
    """

    per_s: float
    cpu_ms: float
    count: int


@dataclass(frozen=True)
class TrainingSpeed:
    """What `measure_training` found.

    Attributes:
        device: What computes: the GPUs' names, or the CPU.
        cores: Processors that this process may use.
        batch_size: Samples of a step, over all devices.
        train_samples: How many the list has.
        val_images: How many the list has; 0 without one.
        decoded_mb: MiB of all training samples, decoded.
        cache_mb: The config's `data.cache_mb`.
        workers: The config's `data.workers`.
        iters: The config's `train.iters`.
        save_interval: The config's `train.save_interval`: steps between evaluations.
        disk: The pipeline alone, reading files. What the system keeps of them in memory it does not read again.
        memory: The pipeline alone, from decoded samples in memory.
        step: The step alone, on a batch that is there.
        training: Both, as training runs them.
        waiting: Share of that time in which the step waited for data, 0..1.
        evaluation: Of images; None without a validation list.
        evaluation_mpx_per_s: The same in million pixels.
        free_mb: MiB of memory that were free before; None where the system does not say.
        host_mb: MiB of memory that the process took at most.
        gpu_mb: MiB that TensorFlow took at most on each GPU.
    """

    device: str
    cores: int
    batch_size: int
    train_samples: int
    val_images: int
    decoded_mb: float
    cache_mb: int
    workers: int | None
    iters: int
    save_interval: int
    disk: Rate
    memory: Rate
    step: Rate
    training: Rate
    waiting: float
    evaluation: Rate | None
    evaluation_mpx_per_s: float | None
    free_mb: float | None
    host_mb: float
    gpu_mb: tuple[float, ...]

    @property
    def cached(self) -> bool:
        """Whether all decoded samples stay in memory after the first epoch."""
        return self.decoded_mb <= self.cache_mb

    @property
    def pipeline(self) -> Rate:
        """The pipeline alone, as it is after the first epoch."""
        return self.memory if self.cached else self.disk

    @property
    def interval_s(self) -> float:
        """Seconds of training between two evaluations."""
        return self.save_interval * self.batch_size / self.training.per_s

    @property
    def evaluation_s(self) -> float:
        """Seconds of an evaluation on the whole validation list; 0 without one."""
        return self.val_images / self.evaluation.per_s if self.evaluation else 0.0

    @property
    def hours(self) -> float:
        """Hours of a run of `iters` steps, with its evaluations."""
        intervals = self.iters / self.save_interval
        return (intervals * self.interval_s + np.ceil(intervals) * self.evaluation_s) / 3600


@dataclass(frozen=True)
class Verdict:
    """What holds training up.

    Attributes:
        part: Which part.
        why: The figures behind it, a sentence.
        remedies: What to try, the most promising first.
    """

    part: Literal["pipeline", "step", "evaluation"]
    why: str
    remedies: tuple[str, ...]


# === The measurement ===


def measure_training(
    config: Config,
    train_samples: Sequence[Sample],
    val_samples: Sequence[Sample] = (),
    *,
    strategy: tf.distribute.Strategy | None = None,
    seconds: float = 40.0,
    notify: Callable[[str], object] = lambda line: None,
) -> TrainingSpeed:
    """Measures how fast this machine would train; weights begin at random, and nothing is written.

    Args:
        config: The run.
        train_samples: What it would train on.
        val_samples: What it would evaluate on; empty for no evaluation.
        strategy: The devices; None for the default one.
        seconds: For how long to measure; building and compiling the model comes on top.
        notify: Called with the name of each part that begins.

    Raises:
        DataError: For a sample that cannot be read.
    """
    strategy = strategy or tf.distribute.get_strategy()
    budget = {part: share * seconds for part, share in _SHARES.items()}
    free, peak = _free_mb(), PeakMemory()
    notify("the model")
    learner = build_learner(config, strategy, pretrained=False)

    # To look for classes takes a pass over all labels, and changes where a crop lies, not what it costs.
    sampling = config.sampling.model_copy(update={"classes": (), "share": None})

    def batches(reader: SampleReader) -> tf.data.Dataset:
        return train_batches(
            reader,
            config.augment,
            batch_size=learner.batch_size,
            seed=config.train.seed,
            workers=config.data.workers,
            sampling=sampling,
        )

    def reader_of(samples: Sequence[Sample], cache_mb: int) -> SampleReader:
        return SampleReader(samples, config.dataset.spec, cache_mb=cache_mb, trust=config.data.trust)

    notify("the pipeline, from disk")
    from_disk = reader_of(train_samples, 0)
    disk = _pipeline_rate(from_disk, batches(from_disk), learner.batch_size, budget["disk"], warm_up=3)
    notify("the pipeline, from memory")
    few = [train_samples[i] for i in range(min(len(train_samples), max(16, 2 * learner.batch_size)))]
    in_memory = reader_of(few, 2**20)
    decoded_mb = _decoded_mb(in_memory) * len(train_samples) / len(few)
    memory = _pipeline_rate(in_memory, batches(in_memory), learner.batch_size, budget["memory"], warm_up=3)
    notify("the step")
    step = _step_rate(learner, batches(in_memory), strategy, budget["step"])
    notify("training")
    # A later epoch finds in memory what the cache holds.
    reader = in_memory if decoded_mb <= config.data.cache_mb else from_disk
    training, waiting = _training_rate(learner, reader, batches(reader), strategy, budget["training"])
    evaluation, mpx_per_s = None, None
    if val_samples:
        notify("the evaluation")
        evaluation, mpx_per_s = _evaluation_rate(config, learner, val_samples, strategy, budget["evaluation"])
    return TrainingSpeed(
        device=_device(strategy),
        cores=_cores(),
        batch_size=learner.batch_size,
        train_samples=len(train_samples),
        val_images=len(val_samples),
        decoded_mb=decoded_mb,
        cache_mb=config.data.cache_mb,
        workers=config.data.workers,
        iters=config.train.iters,
        save_interval=config.train.save_interval,
        disk=disk,
        memory=memory,
        step=step,
        training=training,
        waiting=waiting,
        evaluation=evaluation,
        evaluation_mpx_per_s=mpx_per_s,
        free_mb=free,
        host_mb=peak.total_mib(),
        gpu_mb=_gpu_mb(),
    )


def _rate(advance: Callable[[], object], samples: int, seconds: float, *, warm_up: int) -> Rate:
    """Returns how fast `advance` goes, each call of which deals with so many samples."""
    for _ in range(warm_up):
        advance()
    times: list[float] = []
    cpu, began = time.process_time(), time.perf_counter()
    while len(times) < 2 or sum(times) < seconds:
        advance()
        now = time.perf_counter()
        times.append(now - began)
        began = now
    cpu_ms = (time.process_time() - cpu) * 1000 / (samples * len(times))
    # Batches come in bursts, so that single times say little.
    stretches = [float(np.mean(part)) for part in np.array_split(times, min(_STRETCHES, len(times)))]
    return Rate(samples / float(np.median(stretches)), cpu_ms, samples * len(times))


@contextlib.contextmanager
def _reading(reader: SampleReader) -> Iterator[None]:
    """Raises the reader's own error instead of TensorFlow's rendering of it."""
    try:
        yield
    except tf.errors.OpError as error:
        if reader.failure is not None:
            raise reader.failure from error
        raise DataError(f"A batch could not be prepared: {reason(error)}.") from error


def _pipeline_rate(
    reader: SampleReader, dataset: tf.data.Dataset, batch_size: int, seconds: float, *, warm_up: int
) -> Rate:
    with _reading(reader):
        batches = iter(dataset)
        return _rate(lambda: next(batches), batch_size, seconds, warm_up=warm_up)


class _Steps:
    """Takes steps that change nothing, at a learning rate of 0, without waiting for the one that was begun last."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._pending: Any = None

    def __call__(self, batch: dict[str, Any]) -> None:
        loss = self._learner.take_step(batch, 0.0)["loss"]
        if self._pending is not None:
            float(self._pending)  # a GPU has taken that step when its loss is there
        self._pending = loss


def _step_rate(learner: Learner, dataset: tf.data.Dataset, strategy: tf.distribute.Strategy, seconds: float) -> Rate:
    batch = next(iter(strategy.experimental_distribute_dataset(dataset)))
    step = _Steps(learner)
    return _rate(lambda: step(batch), learner.batch_size, seconds, warm_up=2)


def _training_rate(
    learner: Learner,
    reader: SampleReader,
    dataset: tf.data.Dataset,
    strategy: tf.distribute.Strategy,
    seconds: float,
) -> tuple[Rate, float]:
    """Returns the rate of training, and the share of its time in which it waited for data."""
    step, waits = _Steps(learner), list[tuple[float, float]]()
    with _reading(reader):
        batches = iter(strategy.experimental_distribute_dataset(dataset))

        def advance() -> None:
            began = time.perf_counter()
            batch = next(batches)
            read = time.perf_counter()
            step(batch)
            waits.append((read - began, time.perf_counter() - began))

        # The first steps find the batches that were made while nothing waited for them.
        warm_up = 4
        rate = _rate(advance, learner.batch_size, seconds, warm_up=warm_up)
    waited, total = np.sum(waits[warm_up:], axis=0)
    return rate, float(waited / total)


def _evaluation_rate(
    config: Config,
    learner: Learner,
    samples: Sequence[Sample],
    strategy: tf.distribute.Strategy,
    seconds: float,
) -> tuple[Rate, float]:
    """Returns the rate of images and of million pixels, on as many images as there is time for."""
    predict = keras_predictor(learner.evaluated, config.dataset.spec, strategy=strategy)
    options = dataclasses.replace(InferenceOptions.of(config), batch_size=config.eval.batch_size)

    def evaluate(count: int) -> tuple[float, float, int]:
        """Returns wall time and processor time in seconds, and pixels."""
        evaluation, pixels = plan_evaluation(config, [samples[i] for i in range(count)]), list[int]()
        cpu, began = time.process_time(), time.perf_counter()
        evaluation.run(
            predict,
            options,
            observe=lambda index, image, label, labels: pixels.append(label.size),
            workers=config.data.workers,
        )
        return time.perf_counter() - began, time.process_time() - cpu, sum(pixels)

    count, spent = min(len(samples), options.batch_size * device_count(predict)), 0.0
    evaluate(count)  # compiles
    while True:
        elapsed, cpu, pixels = evaluate(count)
        spent += elapsed
        if spent >= seconds / 2 or count == len(samples):
            return Rate(count / elapsed, cpu * 1000 / count, count), pixels / elapsed / 1e6
        count = min(len(samples), 2 * count)  # so that the last one has more than half of the time


# === The machine ===


def _decoded_mb(reader: SampleReader) -> float:
    """Reads all samples, which fills the reader's memory, and returns their size in MiB."""
    arrays = (array for i in range(len(reader.samples)) for array in reader(i))
    return sum(array.nbytes for array in arrays) / 2**20


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _free_mb() -> float | None:
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    # "MemAvailable:    5123456 kB", what programs can have, with what the system's cache of files would give up
    (line,) = (line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) / 2**10


def _device(strategy: tf.distribute.Strategy) -> str:
    gpus = tf.config.get_visible_devices("GPU")
    if not gpus:
        return "CPU"
    name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
    return f"{strategy.num_replicas_in_sync} x {name}"


def _gpu_mb() -> tuple[float, ...]:
    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    return tuple(tf.config.experimental.get_memory_info(name)["peak"] / 2**20 for name in names)


# === What holds training up ===


def verdict(speed: TrainingSpeed, config: Config) -> Verdict:
    """Tells which part holds training up, and what may help.

    Args:
        speed: The figures.
        config: The run; says which remedies it has taken already.
    """
    if speed.evaluation_s > speed.interval_s:
        return Verdict(
            "evaluation",
            f"An evaluation of {speed.val_images} images takes {speed.evaluation_s:.0f} s, and the "
            f"{speed.save_interval} steps between two of them take {speed.interval_s:.0f} s.",
            _evaluation_remedies(config),
        )
    waiting = f"training waits for data {100 * speed.waiting:.0f} % of the time"
    rates = (
        f"The pipeline alone gives {speed.pipeline.per_s:.1f} samples/s, the step alone takes {speed.step.per_s:.1f}"
    )
    if speed.waiting >= 0.1 or speed.pipeline.per_s < speed.step.per_s:
        return Verdict("pipeline", f"{rates}; {waiting}.", _pipeline_remedies(speed))
    return Verdict("step", f"{rates}; {waiting}.", _step_remedies(speed, config))


def _pipeline_remedies(speed: TrainingSpeed) -> tuple[str, ...]:
    remedies = []
    wanted = int(np.ceil(1.05 * speed.decoded_mb))
    fits = speed.free_mb is None or wanted < 0.8 * speed.free_mb
    if not speed.cached and fits and speed.memory.per_s > 1.1 * speed.disk.per_s:
        remedies.append(
            f"data.cache_mb={wanted} keeps all decoded samples in memory: {speed.memory.per_s:.1f} samples/s instead "
            f"of {speed.disk.per_s:.1f}"
        )
    busy = speed.pipeline.per_s * speed.pipeline.cpu_ms / 1000
    if busy < 0.7 * speed.cores:
        workers = max(2 * speed.cores, 2 * (speed.workers or 0))
        remedies.append(
            f"data.workers={workers}: the pipeline alone keeps {busy:.1f} of {speed.cores} cores busy, so its threads "
            "wait for files"
        )
    else:
        remedies.append(
            f"more processors, or less work for each sample ({speed.pipeline.cpu_ms:.0f} ms of processor time): tiles "
            "of the crop's size, fewer changes in augment"
        )
    return tuple(remedies)


def _step_remedies(speed: TrainingSpeed, config: Config) -> tuple[str, ...]:
    if not speed.gpu_mb:
        return ("a GPU", "a smaller augment.crop_size or backbone")
    precision = ("train.precision=bf16 (fp16 on older GPUs)",) if config.train.precision == "fp32" else ()
    return (
        *precision,
        f"a larger train.batch_size: {max(speed.gpu_mb):.0f} MiB of a GPU's memory were used",
        "more GPUs (--gpus)",
    )


def _evaluation_remedies(config: Config) -> tuple[str, ...]:
    remedies = [f"train.save_interval above {config.train.save_interval}, for fewer evaluations"]
    if len(config.eval.scales) > 1 or config.eval.flip_horizontal or config.eval.flip_vertical:
        remedies.append("no eval.scales and flips while training; rsseg-tf eval --aug_eval once afterwards")
    if config.eval.is_slide:
        remedies.append("an eval.stride as large as eval.crop_size while training")
    return (*remedies, "fewer images in dataset.val_list")
