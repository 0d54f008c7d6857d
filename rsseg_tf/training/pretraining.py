"""Self-supervised pre-training: builds the job that the one loop runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from rsseg_tf.build import build_method
from rsseg_tf.checkpoint import TrainState, config_file, load_weights, read_state, restore_training
from rsseg_tf.config import PretrainConfig, load_any_config
from rsseg_tf.config.schema import CosineSchedule
from rsseg_tf.data import ImageReader, view_batches
from rsseg_tf.data.views import rgb_only
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import Sample
from rsseg_tf.ssl import Method
from rsseg_tf.training.folder import Notify, open_run, safely
from rsseg_tf.training.loop import Job, TrainResult, run_job
from rsseg_tf.training.optimizers import build_optimizer
from rsseg_tf.training.schedules import learning_rate
from rsseg_tf.training.step import PretrainStep, synchronise_batch_norm
from rsseg_tf.training.strategy import make_deterministic
from rsseg_tf.weights.pretrained import load_backbone

__all__ = ["pretrain", "rate_of_step", "steps_in_all"]


def pretrain(
    config: PretrainConfig,
    save_dir: StrPath,
    samples: Sequence[Sample],
    *,
    strategy: tf.distribute.Strategy | None = None,
    resume: StrPath | None = None,
    overwrite: bool = False,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    offline: bool = False,
    notify: Notify = lambda line: None,
) -> TrainResult:
    """Trains a backbone on images without labels and keeps checkpoints in `save_dir`.

    A checkpoint holds the whole method: backbone, heads, momentum encoder and queues. As
    `model.backbone.pretrained` of a segmentation model it gives the trained backbone.

    Args:
        config: the whole run.
        save_dir: where `iter_N/` go; no other run may write there meanwhile.
        samples: images; labels are not looked at.
        strategy: the devices; None for the default one.
        resume: a checkpoint to go on from.
        overwrite: whether a new run may replace an earlier one in `save_dir`, which is removed once the first
            checkpoint is written.
        callbacks: Keras callbacks, called as `training.callbacks` says.
        offline: whether pre-trained weights must be in the cache already.
        notify: called with a line for everything about the run that its log does not show.

    Returns:
        How it ended.

    Raises:
        ConfigError: when the batch fits neither the images, the devices, nor the queue; when `save_dir` is in use or
            holds an earlier run.
        TrainingError: when a loss is NaN or infinite; the message names the step and the files of the batch.
        DataError: when an image turns out to be wrong; what was trained before is saved.
        WeightsError: when a checkpoint cannot be read or written.
    """
    save_dir = Path(save_dir)
    resume = None if resume is None else Path(resume)
    strategy, notify = strategy or tf.distribute.get_strategy(), safely(notify)
    if config.train.deterministic:
        make_deterministic()
    with open_run(save_dir, resume=resume, overwrite=overwrite, notify=notify) as folder:
        job = _job(config, samples, strategy, resume, offline=offline, notify=notify)
        return run_job(job, folder, strategy=strategy, callbacks=callbacks)


def _job(
    config: PretrainConfig,
    samples: Sequence[Sample],
    strategy: tf.distribute.Strategy,
    resume: Path | None,
    *,
    offline: bool,
    notify: Notify,
) -> Job:
    """Builds what the loop runs."""
    iters = steps_in_all(config, len(samples))
    if missing := rgb_only(config.views, config.dataset.bands):
        notify(
            f"views: {', '.join(missing)} need RGB and are left out, because the images have "
            f"{config.dataset.bands} band{'s' if config.dataset.bands != 1 else ''}; all other changes stay."
        )
    method, optimizer, state = _start(config, iters, len(samples), strategy, resume, offline=offline, notify=notify)
    reader = ImageReader(samples, config.dataset.spec, cache_mb=config.data.cache_mb, trust=config.data.trust)
    dataset = view_batches(
        reader,
        config.views,
        batch_size=config.train.batch_size,
        seed=config.train.seed,
        start=state.samples_seen,
        workers=config.data.workers,
    )
    return Job(
        config=config,
        iters=iters,
        early_stop_intervals=None,
        batch_size=config.train.batch_size,
        model=method,
        optimizer=optimizer,
        state=state,
        reader=reader,
        dataset=dataset,
        take_step=PretrainStep(method, optimizer, strategy),
        rate=lambda step: rate_of_step(step, config, iters, len(samples)),
    )


def steps_in_all(config: PretrainConfig, images: int) -> int:
    """Returns the steps of a run over so many images.

    Raises:
        ConfigError: when a batch has more images than there are.
    """
    batch = config.train.batch_size
    if batch > images:
        raise ConfigError(
            f"train.batch_size is {batch}, but there are {images} images: a batch would hold some of them twice. "
            "Lower --batch_size, or add images."
        )
    return config.train.iters or config.train.epochs * images // batch


def rate_of_step(step: int, config: PretrainConfig, iters: int, images: int) -> float:
    """Returns the learning rate of a step: warm-up and cosine, scaled with the batch.

    Args:
        step: steps taken so far (0 for the first one).
        config: the run.
        iters: steps in all.
        images: in an epoch.
    """
    schedule, batch = config.lr_schedule, config.train.batch_size
    scale = batch / schedule.base_batch_size if schedule.base_batch_size else 1.0
    in_steps = CosineSchedule(
        name="cosine",
        learning_rate=scale * schedule.learning_rate,
        end_lr=scale * schedule.end_lr,
        warmup_steps=round(schedule.warmup_epochs * images / batch),
        warmup_start_lr=scale * schedule.warmup_start_lr,
    )
    if schedule.by_epoch and step >= in_steps.warmup_steps:
        # The first step of the epoch that this one belongs to.
        step = max(in_steps.warmup_steps, math.ceil(step * batch // images * images / batch))
    return learning_rate(step, in_steps, iters)


def _start(
    config: PretrainConfig,
    iters: int,
    images: int,
    strategy: tf.distribute.Strategy,
    resume: Path | None,
    *,
    offline: bool,
    notify: Notify,
) -> tuple[Method, keras.optimizers.Optimizer, TrainState]:
    """Builds method and optimizer on the devices, with the weights that the config or the checkpoint says."""
    if resume is not None:
        _require_same_method(config, resume)
    keras.utils.set_random_seed(config.train.seed)
    devices = strategy.num_replicas_in_sync
    with strategy.scope():
        method = build_method(config, steps=iters, devices=devices, precision=config.train.precision)
        if devices > 1:
            synchronise_batch_norm(method)
        warmed_up = config.model_copy(
            update={"lr_schedule": config.lr_schedule.model_copy(update={"warmup_epochs": 0.0})}
        )
        optimizer = build_optimizer(
            config.optimizer,
            precision=config.train.precision,
            constant_paths=method.constant_rate_paths,
            constant_rate=rate_of_step(0, warmed_up, iters, images),
        )
        optimizer.build(method.trainable_variables)
        if resume is None:
            _load_backbone(method, config, offline=offline, notify=notify)
            return method, optimizer, TrainState()
        load_weights(method, resume)
        restore_training(method, optimizer, resume)
    state = read_state(resume)
    if state.step >= iters:
        raise ConfigError(
            f"{resume} is at step {state.step}, and the run has {iters} steps: nothing is left to do. "
            "Raise --iters or --epochs."
        )
    return method, optimizer, state


def _require_same_method(config: PretrainConfig, checkpoint: Path) -> None:
    before = load_any_config(config_file(checkpoint))
    kind = before.method.name if isinstance(before, PretrainConfig) else f"the segmentation model {before.model.name}"
    if kind != config.method.name:
        raise ConfigError(
            f"{checkpoint} is a checkpoint of {kind}, but the config says method {config.method.name}. Resume with "
            f"--config {config_file(checkpoint)}, or begin anew from its backbone with "
            f"--set backbone.pretrained={checkpoint}."
        )


def _load_backbone(method: Method, config: PretrainConfig, *, offline: bool, notify: Notify) -> None:
    source = config.backbone.pretrained
    if source is None:
        return
    notify(load_backbone(method, config.backbone, source, offline=offline).summary())
    method.restart()
