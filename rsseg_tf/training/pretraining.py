"""Self-supervised pre-training: what the loop runs, and the lengths and rates of a run."""

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
from rsseg_tf.training.folder import Notify
from rsseg_tf.training.loop import TrainingPlan, TrainResult, run_training
from rsseg_tf.training.optimizers import build_optimizer
from rsseg_tf.training.remat import rematerialise
from rsseg_tf.training.schedules import learning_rate
from rsseg_tf.training.step import PretrainStep, synchronise_batch_norm
from rsseg_tf.training.workers import Workers
from rsseg_tf.weights.named import normalisation_note
from rsseg_tf.weights.presets import with_preset
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
        config: The whole run. `train.total_batch_size` counts images over all devices.
        save_dir: Where `iter_N/` go; no other run may write there meanwhile.
        samples: Images; labels are not read.
        strategy: The devices; None for the default one.
        resume: A checkpoint to go on from.
        overwrite: Whether a new run may replace an earlier one in `save_dir`, which is removed once the first
            checkpoint is written.
        callbacks: Keras callbacks; `training.callbacks` describes the calls.
        offline: Whether pre-trained weights must be in the cache already.
        notify: Called with a line for everything about the run that its log does not show.

    Returns:
        How it ended.

    Raises:
        ConfigError: When the batch fits neither the images, the devices, nor the queue; when `save_dir` is in use or
            holds an earlier run.
        TrainingError: When a loss is NaN or infinite; the message names the step and the files of the batch.
        DataError: When an image turns out to be wrong; what was trained before is saved.
        WeightsError: When a checkpoint cannot be read or written.
    """
    config = with_preset(config, offline=offline)

    def make_plan(strategy: tf.distribute.Strategy, resume: Path | None, notify: Notify) -> TrainingPlan:
        workers = Workers(strategy)
        workers.require_equal(images=len(samples))
        iters = steps_in_all(config, len(samples))
        if missing := rgb_only(config.views, config.dataset.bands):
            notify(
                f"views: {', '.join(missing)} need RGB and are left out, because the images have "
                f"{config.dataset.bands} band{'s' if config.dataset.bands != 1 else ''}; all other changes stay."
            )
        method, optimizer = _build(config, iters, len(samples), strategy, resume, offline=offline, notify=notify)
        state = TrainState() if resume is None else _state_to_resume(resume, iters)
        reader = ImageReader(samples, config.dataset.spec, cache_mb=config.data.cache_mb, trust=config.data.trust)
        return TrainingPlan(
            config=config,
            iters=iters,
            early_stop_intervals=None,
            batch_size=config.train.total_batch_size,
            model=method,
            optimizer=optimizer,
            state=state,
            reader=reader,
            dataset=view_batches(
                reader,
                config.views,
                batch_size=config.train.total_batch_size,
                seed=config.train.seed,
                start=state.samples_seen,
                workers=config.data.workers,
                share=workers.share,
            ),
            take_step=PretrainStep(method, optimizer, strategy),
            learning_rate=lambda step: rate_of_step(step, config, iters, len(samples)),
        )

    return run_training(
        config,
        save_dir,
        make_plan,
        strategy=strategy,
        resume=resume,
        overwrite=overwrite,
        callbacks=callbacks,
        notify=notify,
    )


def steps_in_all(config: PretrainConfig, images: int) -> int:
    """Returns the steps of a run over so many images.

    Raises:
        ConfigError: When a batch has more images than there are.
    """
    batch = config.train.total_batch_size
    if batch > images:
        raise ConfigError(
            f"train.total_batch_size is {batch}, but there are {images} images: a batch would hold some of them twice. "
            "Lower --total_batch_size, or add images."
        )
    # Batches run on over the ends of epochs, so that no image is left out and the last batch is a full one.
    return config.train.iters or config.train.epochs * images // batch


def rate_of_step(step: int, config: PretrainConfig, iters: int, images: int) -> float:
    """Returns the learning rate of a step: warm-up and cosine, scaled with the batch.

    Args:
        step: Steps taken so far (0 for the first one).
        config: The run.
        iters: Steps in all.
        images: Images in an epoch.
    """
    schedule, batch = config.lr_schedule, config.train.total_batch_size
    # The linear scaling rule of Goyal et al., https://arxiv.org/abs/1706.02677.
    scale = batch / schedule.base_batch_size if schedule.base_batch_size else 1.0
    in_steps = CosineSchedule(
        name="cosine",
        learning_rate=scale * schedule.learning_rate,
        end_lr=scale * schedule.end_lr,
        warmup_steps=round(schedule.warmup_epochs * images / batch),
        warmup_start_lr=scale * schedule.warmup_start_lr,
    )
    if schedule.by_epoch and step >= in_steps.warmup_steps:
        # The rate of an epoch's first step holds for the whole epoch.
        step = max(in_steps.warmup_steps, math.ceil(step * batch // images * images / batch))
    return learning_rate(step, in_steps, iters)


def _build(
    config: PretrainConfig,
    iters: int,
    images: int,
    strategy: tf.distribute.Strategy,
    resume: Path | None,
    *,
    offline: bool,
    notify: Notify,
) -> tuple[Method, keras.optimizers.Optimizer]:
    """Builds method and optimizer on the devices, with the config's weights or those of the checkpoint to resume."""
    if resume is not None:
        _require_same_method(config, resume)
    keras.utils.set_random_seed(config.train.seed)
    devices = strategy.num_replicas_in_sync
    with strategy.scope():
        method = build_method(config, steps=iters, devices=devices, precision=config.train.precision)
        if devices > 1:
            synchronise_batch_norm(method)
        if config.train.remat:
            rematerialise(method)
        # SimSiam's predictor keeps the highest rate of the run, the one right after the warm-up.
        no_warmup = config.lr_schedule.model_copy(update={"warmup_epochs": 0.0})
        optimizer = build_optimizer(
            config.optimizer,
            precision=config.train.precision,
            constant_paths=method.constant_rate_paths,
            constant_rate=rate_of_step(0, config.model_copy(update={"lr_schedule": no_warmup}), iters, images),
        )
        # Variables must exist before the first step: a checkpoint to resume is loaded into them.
        optimizer.build(method.trainable_variables)
        if resume is not None:
            load_weights(method, resume)
            restore_training(method, optimizer, resume)
        elif (source := config.backbone.pretrained) is not None:
            notify(load_backbone(method, config.backbone, source, offline=offline).summary())
            if note := normalisation_note(config):
                notify(note)
            method.restart()  # the momentum encoder begins as a copy of the encoder
    return method, optimizer


def _state_to_resume(resume: Path, iters: int) -> TrainState:
    """Returns where the run goes on.

    Raises:
        ConfigError: When nothing is left to do.
    """
    state = read_state(resume)
    if state.step >= iters:
        raise ConfigError(
            f"{resume} is at step {state.step}, and the run has {iters} steps: nothing is left to do. "
            "Raise --iters or --epochs."
        )
    return state


def _require_same_method(config: PretrainConfig, checkpoint: Path) -> None:
    # Weights of another method would be refused as well, but by a list of tensors that says nothing to the user.
    before = load_any_config(config_file(checkpoint))
    kind = before.method.name if isinstance(before, PretrainConfig) else f"the segmentation model {before.model.name}"
    if kind != config.method.name:
        raise ConfigError(
            f"{checkpoint} is a checkpoint of {kind}, but the config says method {config.method.name}. Resume with "
            f"--config {config_file(checkpoint)}, or begin anew from its backbone with "
            f"--set backbone.pretrained={checkpoint}."
        )
