"""Training of a segmentation model: what the loop runs, and its evaluation on validation images."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from rsseg_tf.build import build_losses, build_model, own_model_section
from rsseg_tf.checkpoint import TrainState, load_weights, read_state, restore_training
from rsseg_tf.config import Config
from rsseg_tf.config.zoo import C2FNet
from rsseg_tf.data import SampleReader, train_batches
from rsseg_tf.data.own_changes import Change
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ConfigError, reason
from rsseg_tf.evaluate.evaluation import Evaluation, plan_evaluation
from rsseg_tf.files import StrPath
from rsseg_tf.files.lists import Sample
from rsseg_tf.layers import StochasticDepth
from rsseg_tf.metrics import SegmentationScores
from rsseg_tf.predict import InferenceOptions, as_rgb, overlay
from rsseg_tf.predictors import keras_predictor
from rsseg_tf.segmentors.keras_model import copy_weights
from rsseg_tf.training.average import WeightAverage
from rsseg_tf.training.folder import Notify
from rsseg_tf.training.loop import TrainingPlan, TrainResult, Validation, run_training
from rsseg_tf.training.optimizers import build_optimizer
from rsseg_tf.training.remat import rematerialise
from rsseg_tf.training.schedules import learning_rate
from rsseg_tf.training.step import AccumulatingTrainStep, TrainStep, synchronise_batch_norm
from rsseg_tf.training.workers import Workers
from rsseg_tf.weights.named import normalisation_note, random_note
from rsseg_tf.weights.presets import with_preset
from rsseg_tf.weights.pretrained import backbone_paths, load_pretrained

__all__ = ["Learner", "build_learner", "train", "with_own_model"]

_PICTURES = 4  # validation overlays for TensorBoard at each evaluation


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
    augmentation: Change | None = None,
    model: keras.Model | None = None,
    offline: bool = False,
    notify: Notify = lambda line: None,
) -> TrainResult:
    """Trains a model and keeps checkpoints in `save_dir`.

    Args:
        config: The whole run. `train.batch_size` counts samples per device; an iter is a step of the optimizer, which
            takes `optimizer.accumulate_steps` such batches. With `train.ema` the averaged weights are evaluated and
            kept as `best_model`.
        save_dir: Where `iter_N/` and `best_model/` go; no other run may write there meanwhile.
        train_samples: What to train on.
        val_samples: What to evaluate on every `save_interval` steps, by the config's `eval.protocol`; empty for no
            evaluation. All of them are read once before the first step.
        strategy: The devices; None for the default one.
        resume: A checkpoint to go on from.
        overwrite: Whether a new run may replace an earlier one in `save_dir`, which is removed once the first
            checkpoint is written.
        callbacks: Keras callbacks; `training.callbacks` describes the calls. What one raises ends the run, after the
            steps so far were saved.
        augmentation: A change of one's own to training samples, see `rsseg_tf.data.own_changes`. Checkpoints do not
            hold it: give it again where a run is resumed, or name it by `augment.custom` of the config.
        model: A Keras model of one's own, normalised `(B, H, W, bands)` to logits `(B, H, W, classes)`, alone or in a
            dict as "main"; it takes the place of the config's. Training begins with its weights and leaves those of the
            last step in it (with `train.ema` the averaged ones). Checkpoints hold all that is needed to build it.
        offline: Whether pre-trained weights must be in the cache already.
        notify: Called with a line for everything about the run that its log does not show: each file of pre-trained
            weights that was loaded, what became of the best score of the run to resume, what could not be removed.

    Returns:
        How it ended.

    Raises:
        ConfigError: When `save_dir` is in use or holds an earlier run, or nothing is left to do.
        TrainingError: When a loss is NaN or infinite; the message names the step and the files of the batch.
        DataError: When a sample turns out to be wrong, or the protocol does not fit the dataset. What was trained
            before is saved.
        WeightsError: When a checkpoint cannot be read or written.
    """
    config = with_preset(config, offline=offline) if model is None else with_own_model(config, model)
    learners: list[Learner] = []

    def make_plan(strategy: tf.distribute.Strategy, resume: Path | None, notify: Notify) -> TrainingPlan:
        workers = Workers(strategy)
        workers.require_equal(training_images=len(train_samples), validation_images=len(val_samples))
        # A damaged validation image must show before hours of training, not at the first evaluation after them.
        evaluation = plan_evaluation(config, val_samples) if val_samples else None
        if evaluation is not None:
            evaluation.share(*workers.share).read_once()
        learner = build_learner(config, strategy, resume, initial=model, offline=offline, notify=notify)
        learners.append(learner)
        if resume is None:
            state = TrainState(protocol=config.eval.protocol, validation=_validation(config, val_samples))
        else:
            state = _state_to_resume(config, resume, _validation(config, val_samples), notify=notify)
        reader = SampleReader(
            train_samples, config.dataset.spec, cache_mb=config.data.cache_mb, trust=config.data.trust
        )
        return TrainingPlan(
            config=config,
            iters=config.train.iters,
            early_stop_intervals=config.train.early_stop_intervals,
            batch_size=learner.batch_size,
            model=learner.model,
            optimizer=learner.optimizer,
            state=state,
            reader=reader,
            dataset=train_batches(
                reader,
                config.augment,
                batch_size=learner.batch_size,
                seed=config.train.seed,
                start=state.samples_seen,
                workers=config.data.workers,
                sampling=config.sampling,
                augmentation=augmentation,
                notify=notify,
                share=workers.share,
            ),
            take_step=learner.take_step,
            learning_rate=lambda step: learning_rate(step, config.lr_schedule, config.train.iters),
            average=learner.average,
            validate=None if evaluation is None else _Validator(config, learner.evaluated, evaluation, workers, notify),
        )

    result = run_training(
        config,
        save_dir,
        make_plan,
        strategy=strategy,
        resume=resume,
        overwrite=overwrite,
        callbacks=callbacks,
        notify=notify,
    )
    if model is not None:
        copy_weights(model, learners[0].evaluated, back=True)
    return result


def with_own_model(config: Config, model: keras.Model) -> Config:
    """Returns a config with a Keras model of one's own in the place of its section `model`.

    Raises:
        ConfigError: When Keras cannot write and read the model, or it does not fit the dataset.
    """
    return config.model_copy(update={"model": own_model_section(model, config.dataset.spec)})


@dataclasses.dataclass(frozen=True)
class Learner:
    """A model and what trains it.

    Attributes:
        model: What the steps change.
        optimizer: Built on the model.
        take_step: Takes a batch and a learning rate; see `TrainStep`.
        batch_size: Samples of such a batch, over all devices.
        average: A model with averages of the weights; None without `train.ema`.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    take_step: TrainStep
    batch_size: int
    average: keras.Model | None = None

    @property
    def evaluated(self) -> keras.Model:
        """The model that is evaluated and kept as the best one."""
        return self.model if self.average is None else self.average


def build_learner(
    config: Config,
    strategy: tf.distribute.Strategy,
    resume: Path | None = None,
    *,
    pretrained: bool = True,
    initial: keras.Model | None = None,
    offline: bool = False,
    notify: Notify = lambda line: None,
) -> Learner:
    """Builds model, optimizer and step on the devices.

    Args:
        config: The whole run.
        strategy: The devices.
        resume: The checkpoint whose weights and optimizer are loaded.
        pretrained: Whether a model that resumes nothing begins with the config's pre-trained weights, or at random.
        initial: A model of one's own, the config's, whose weights it begins with.
        offline: Whether pre-trained weights must be in the cache already.
        notify: Called with a line for each file of weights that was loaded.

    Raises:
        ConfigError: When the model needs pre-trained weights and the config names none.
        WeightsError: When weights cannot be read or do not fit.
    """
    model, optimizer, average = _build(
        config, strategy, resume, pretrained=pretrained, initial=initial, offline=offline, notify=notify
    )
    # Per device in the config, as in PaddleSeg, so that the learning rate of a recipe fits its number of GPUs.
    parts = config.optimizer.accumulate_steps
    learner = (model, optimizer, build_losses(config), strategy, config.dataset.spec)
    take_step = (
        TrainStep(*learner, average=average)
        if parts == 1
        else AccumulatingTrainStep(*learner, parts=parts, average=average)
    )
    batch_size = config.train.batch_size * strategy.num_replicas_in_sync * parts
    return Learner(model, optimizer, take_step, batch_size, None if average is None else average.model)


def _build(
    config: Config,
    strategy: tf.distribute.Strategy,
    resume: Path | None,
    *,
    offline: bool,
    notify: Notify,
    initial: keras.Model | None = None,
    pretrained: bool = True,
) -> tuple[keras.Model, keras.optimizers.Optimizer, WeightAverage | None]:
    """Builds all on the devices, with pre-trained weights or those of the checkpoint to resume."""
    pretrained = pretrained and resume is None
    if pretrained and isinstance(config.model, C2FNet) and config.model.coarse.pretrained is None:
        raise ConfigError(
            "c2fnet learns on the predictions of a trained coarse model; there are no weights of one. Name them with "
            "--coarse_model (or model.coarse.pretrained): a checkpoint folder, a file or a URL."
        )
    precision = config.train.precision
    # Before the model is built: initial weights and the seeds of dropout come from it.
    keras.utils.set_random_seed(config.train.seed)
    with strategy.scope():
        model = build_model(config, precision=precision)
        if strategy.num_replicas_in_sync > 1:
            synchronise_batch_norm(model)
        if config.model.freeze_backbone:
            _freeze(model, backbone_paths(config, model))
        if config.train.remat:
            rematerialise(model)
        optimizer = build_optimizer(
            config.optimizer,
            precision=precision,
            # Paths are looked up only where they are asked for: that may build a backbone once more.
            backbone_paths=backbone_paths(config, model) if config.optimizer.backbone_lr_factor != 1.0 else (),
        )
        # Variables must exist before the first step: a checkpoint to resume is loaded into them.
        optimizer.build(model.trainable_variables)
        if resume is not None:
            load_weights(model, resume)
        elif initial is not None:
            copy_weights(initial, model)
        elif pretrained:
            reports = load_pretrained(model, config, offline=offline)
            for report in reports:
                notify(report.summary())
            if config.model.freeze_backbone and not {"model", "model.backbone"} & {r.section for r in reports}:
                notify(
                    "model.freeze_backbone keeps the backbone as it was built: no weights are named for it, by "
                    "model.backbone.pretrained or model.pretrained."
                )
            elif note := random_note(config):
                notify(note)
            if note := normalisation_note(config):
                notify(note)
        average = None
        if config.train.ema is not None:
            average = WeightAverage(model, build_model(config, precision=precision), config.train.ema)
        if resume is not None:  # after the average took what the checkpoint holds as the weights
            restore_training(model, optimizer, resume)
    return model, optimizer, average


def _freeze(model: keras.Model, paths: Collection[str]) -> None:
    """Makes the layers that own these variables keep them.

    Normalisations then keep their running statistics too, and stochastic depth leaves nothing out.
    """
    frozen = set(paths)
    for layer in model._flatten_layers():  # models may lie within models (c2fnet)
        # Stochastic depth has no weights; it is found in backbones alone.
        if isinstance(layer, StochasticDepth) or (layer.weights and {v.path for v in layer.weights} <= frozen):
            layer.trainable = False


def _validation(config: Config, samples: Sequence[Sample]) -> str:
    """Returns a digest of the samples' names below the dataset's folder; an empty text for no samples."""
    root = config.dataset.root
    names = sorted(
        os.path.relpath(path, root) for sample in samples for path in (sample.image, sample.label) if path is not None
    )
    return hashlib.sha256(os.fsencode("\n".join(names))).hexdigest()[:16] if names else ""


def _state_to_resume(config: Config, resume: Path, validation: str, *, notify: Notify) -> TrainState:
    """Returns where the run goes on.

    Args:
        config: Of the run.
        resume: The checkpoint.
        validation: What the run evaluates on, see `TrainState`; empty where it does not.
        notify: Called where the best score so far no longer counts.

    Raises:
        ConfigError: When nothing is left to do.
    """
    stored = read_state(resume)
    state = dataclasses.replace(
        stored,
        protocol=config.eval.protocol,
        validation=validation or stored.validation,
        to_evaluate=stored.to_evaluate and bool(validation),
    )
    if not state.scored_like(stored):
        if stored.best_step:
            other = stored.protocol != state.protocol
            how = f"by protocol {stored.protocol}" if other else "on other validation images"
            now = f"{state.protocol} counts" if other else "these count"
            notify(
                f"The best mIoU so far, {stored.best_miou:.4f}, was counted {how}; from here on {now}, and the best "
                "model is looked for anew."
            )
        state = dataclasses.replace(state, best_miou=-1.0, best_step=0, stale_intervals=0)
    if state.step >= config.train.iters and not state.to_evaluate:
        raise ConfigError(
            f"{resume} is at step {state.step}, and train.iters is {config.train.iters}: nothing is left to do. "
            "Raise --iters.",
            code="finished",
        )
    return state


class _Validator:
    """Evaluates the model while it is trained, and compares the score with the best so far; workers share the work."""

    def __init__(
        self, config: Config, model: keras.Model, evaluation: Evaluation, workers: Workers, notify: Notify
    ) -> None:
        # The devices of one process share each batch; processes share the samples.
        self.predict = keras_predictor(model, config.dataset.spec, strategy=workers.strategy)
        self.options = dataclasses.replace(InferenceOptions.of(config), batch_size=config.eval.batch_size)
        self.readers = config.data.workers
        self.evaluation, self.workers, self.notify = evaluation, workers, notify

    def __call__(self, state: TrainState, stop_requested: threading.Event) -> Validation | None:
        own = self.evaluation.share(*self.workers.share)
        run = functools.partial(own.run, self.predict, self.options, workers=self.readers)
        scored = _evaluate(run, self.evaluation, stop_requested, self.workers, self.notify)
        if scored is None:
            return None
        scores, pictures = scored
        state, improved = _with_score(state, scores.miou)
        logs = {
            "step": state.step,
            "images": len(self.evaluation.samples),
            "protocol": self.evaluation.summary,
            "miou": scores.miou,
            "acc": scores.acc,
            "kappa": scores.kappa,
            "dice": scores.dice,
            **{f"iou/{name}": float(iou) for name, iou in zip(scores.classes, scores.class_iou, strict=True)},
            "best_miou": state.best_miou,
            "best_step": state.best_step,
            "pictures": pictures,
        }
        return Validation(state, improved, logs)


def _evaluate(
    run: Callable[..., SegmentationScores],
    evaluation: Evaluation,
    stop_requested: threading.Event,
    workers: Workers,
    notify: Notify,
) -> tuple[SegmentationScores, list[np.ndarray]] | None:
    """Returns scores, and pictures of this worker's share; None when a worker was asked to stop meanwhile.

    Saving cannot wait then.
    """
    spec, evaluation = evaluation.spec, evaluation.share(*workers.share)
    pictures: list[np.ndarray] = []
    places = evaluation.places
    shown = {places[round(i * (len(places) - 1) / max(1, _PICTURES - 1))] for i in range(_PICTURES) if places}

    def observe(index: int, image: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> None:
        if index in shown:
            try:
                pictures.append(_picture(image, label, prediction, spec))
            except Exception as error:  # a score is worth more than its pictures
                notify(f"There is no picture of {evaluation.samples[index].image}: {reason(error)}.")
        if stop_requested.is_set():
            leave_together()

    def leave_together() -> None:
        if workers.any(stop_requested.is_set(), False)[0]:
            raise _StopRequestedError

    def total(confusion: np.ndarray, ignored: int) -> tuple[np.ndarray, int]:
        leave_together()
        return workers.total(confusion, ignored)

    try:
        return run(observe=observe, total=total), pictures
    except _StopRequestedError:
        return None


class _StopRequestedError(Exception):
    """Leaves an evaluation in the middle."""


def _picture(image: np.ndarray, label: np.ndarray, prediction: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """Returns image, label and prediction side by side."""
    rgb = as_rgb(image, spec)
    return np.hstack([rgb, overlay(rgb, label, spec.palette), overlay(rgb, prediction, spec.palette)])


def _with_score(state: TrainState, miou: float) -> tuple[TrainState, bool]:
    """Returns the state with the score of its step, and whether that is the best so far.

    `state.best_step` may lie ahead of `state.step`: the run was resumed from a checkpoint before its best one. It may
    equal `state.step`: the run was killed after it wrote `best_model` and before it noted the score.
    """
    again = state.best_step == state.step and miou >= state.best_miou
    if miou > state.best_miou or again:
        return dataclasses.replace(state, best_miou=miou, best_step=state.step, stale_intervals=0), True
    # A best step that lies ahead is none of this branch's: evaluations before it do not count as stale.
    stale = 0 if state.best_step == state.step else state.stale_intervals + (state.best_step < state.step)
    return dataclasses.replace(state, stale_intervals=stale), False
