"""Training from a config: of segmentation models, and of backbones on images without labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rsseg_tf.errors import ConfigError, RssegError, TrainingError, reason
from rsseg_tf.extras import require_loggers
from rsseg_tf.files import StrPath, several
from rsseg_tf.library.devices import open_devices
from rsseg_tf.library.listening import Notify, listener_of
from rsseg_tf.library.opening import Precision, precision_of

if TYPE_CHECKING:
    import keras

    from rsseg_tf.config import Config, PretrainConfig
    from rsseg_tf.data.own_changes import Change
    from rsseg_tf.library.models import Model
    from rsseg_tf.training import TrainResult

__all__ = ["Run", "pretrain", "train"]

_BEST = "best_model"

# Option of train or pretrain -> the key of the config that it sets.
_RUN_KEYS = {
    "iters": "train.iters",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "total_batch_size": "train.total_batch_size",
    "learning_rate": "lr_schedule.learning_rate",
    "save_interval": "train.save_interval",
    "log_iters": "train.log_iters",
    "loggers": "train.loggers",
    "keep_checkpoint_max": "train.keep_checkpoint_max",
    "early_stop_intervals": "train.early_stop_intervals",
    "seed": "train.seed",
    "precision": "train.precision",
    "deterministic": "train.deterministic",
    "num_workers": "data.workers",
    "coarse_model": "model.coarse.pretrained",
}


@dataclass(frozen=True)
class Run:
    """How a training ended.

    Attributes:
        save_dir: The folder with its checkpoints.
        step: Optimizer steps taken.
        stopped: `finished`, `early` (no better score for a while), `signal` (Ctrl-C too), or `callback`.
        checkpoint: The last checkpoint that was written.
        best_model: The checkpoint of the best score; None without evaluations.
        best_miou: That score, 0..1; nan without evaluations.
        history: What was logged, in order: a mapping for each `log_iters` steps (`step`, `loss`, `lr`, ...) and for
            each evaluation (`step`, `miou`, `acc`, `kappa`, `dice`, ...).
        result: The same for the functions of `rsseg_tf.training`.
    """

    save_dir: Path
    step: int
    stopped: str
    checkpoint: Path
    best_model: Path | None
    best_miou: float
    result: TrainResult = field(repr=False)
    history: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, result: TrainResult, save_dir: Path, history: Sequence[Mapping[str, Any]], *, scored: bool) -> Run:
        """Returns the same from what the loop returns."""
        state = result.state
        best = save_dir / _BEST if scored and state.best_step else None
        miou = state.best_miou if best else float("nan")
        return cls(save_dir, state.step, result.stopped, result.checkpoint, best, miou, result, tuple(history))

    def load(self, **options: Any) -> Model:
        """Loads the best model, or without evaluations the last; `options` are those of `rsseg_tf.load_model`."""
        from rsseg_tf.library.models import load_model

        return load_model(self.best_model or self.checkpoint, **options)


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of the config that the options of `train` or `pretrain` set, with their values."""
    found = {_RUN_KEYS[name]: value for name, value in options.items() if value is not None}
    if "train.loggers" in found:
        found["train.loggers"] = list(several(found["train.loggers"]))  # as YAML writes it
    if "train.precision" in found:
        found["train.precision"] = precision_of(found["train.precision"])
    return found


def with_settings(
    overrides: Sequence[str] | Mapping[str, Any], settings: Mapping[str, Any]
) -> Sequence[str] | Mapping[str, Any]:
    """Returns overrides of a config with those of options, which win."""
    if isinstance(overrides, Mapping):
        return {**overrides, **settings}
    return [*several(overrides), *(f"{k}={v}" for k, v in settings.items())]


def train(
    config: StrPath | Mapping[str, Any] | Config,
    save_dir: StrPath = "output",
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    iters: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    do_eval: bool = False,
    early_stop_intervals: int | None = None,
    coarse_model: str | None = None,
    save_interval: int | None = None,
    log_iters: int | None = None,
    loggers: Sequence[str] | None = None,
    resume_model: StrPath | None = None,
    keep_checkpoint_max: int | None = None,
    seed: int | None = None,
    precision: Precision | None = None,
    deterministic: bool | None = None,
    num_workers: int | None = None,
    offline: bool = False,
    overwrite: bool = False,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    gpus: Sequence[int] = (),
    model: keras.Model | Callable[..., keras.Model] | None = None,
    augmentation: Change | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    notify: Notify | None = None,
) -> Run:
    """Trains a model, as `rsseg-tf train` does, by the same names; None leaves a value to the config.

    Checkpoints go to `save_dir` as iter_N/ and, with `do_eval`, best_model/; the logs beside them. Ctrl-C, SIGTERM and
    SIGHUP write a checkpoint before they end the run.

    Args:
        config: A YAML file, the name of a shipped one, or a plain mapping with the same keys.
        save_dir: Folder for checkpoints and logs.
        overrides: Changes of the config: `["dataset.root=data/mine"]` or `{"dataset.root": "data/mine"}`.
        iters: Optimizer steps in all.
        batch_size: Samples per step on each device.
        learning_rate: Initial learning rate.
        do_eval: Evaluate at each checkpoint, by eval.protocol, and keep the best as best_model/.
        early_stop_intervals: Stop after this many evaluations without a better mIoU.
        coarse_model: Weights of the coarse model of c2fnet.
        save_interval: Steps between checkpoints.
        log_iters: Steps between log lines.
        loggers: Where losses and scores are logged: `tensorboard`, `csv`, `mlflow`, `wandb`; see
            `rsseg_tf.training.loggers`.
        resume_model: A checkpoint to go on from, such as `output/iter_1000`.
        keep_checkpoint_max: How many iter_N/ to keep; the oldest are removed first.
        seed: Seed of weights, order and random changes.
        precision: `fp32`, `fp16` or `bf16`: type of activations.
        deterministic: Whether equal runs give equal weights, to the bit.
        num_workers: Images prepared in parallel.
        offline: Never use the network; pre-trained weights must be in the cache.
        overwrite: Replace the checkpoints of an earlier run in `save_dir`.
        device: `auto` takes GPUs if there are any, else the CPU.
        gpus: Which GPUs.
        model: A Keras model of your own in place of the config's section `model`, which may then be missing: normalised
            `(B, H, W, bands)` to logits `(B, H, W, classes)`, alone or in a dict as "main". Or a function that returns
            one, called with those of `in_channels` and `num_classes` that it takes. A model is trained from the weights
            that it has and has the last ones afterwards; checkpoints hold what is needed to build it.
        augmentation: A change to training samples of your own, the last one, as a function of (image, label, seed); see
            `rsseg_tf.data.own_changes`. Give it again where a run is resumed, or name it by `augment.custom`.
        callbacks: More Keras callbacks; `rsseg_tf.training.callbacks` says what they hear.
        notify: Called with each line of the log, such as `print`.

    Returns:
        How it ended; `.load()` gives the model.

    Raises:
        ConfigError: When the config or an option is wrong, or `save_dir` is in use or holds an earlier run.
        DataError: When samples are wrong.
        TrainingError: When a loss is NaN or infinite.
        WeightsError: When a checkpoint cannot be read or written.
    """
    settings = settings_of({name: value for name, value in locals().items() if name in _RUN_KEYS})
    from rsseg_tf.config import load_config

    listener, folder = listener_of(notify), Path(save_dir)
    if model is not None:  # a section that fits any dataset stands for it until it is built
        settings["model"] = {"name": "keras_model", "architecture": ""}
    checked = load_config(config, with_settings(overrides, settings))
    if checked.train.early_stop_intervals is not None and not do_eval:
        raise ConfigError("--early_stop_intervals counts evaluations; add --do_eval.")
    require_loggers(checked.train.loggers)
    strategy, is_chief = open_devices(device, gpus, deterministic=checked.train.deterministic, listener=listener)
    from rsseg_tf.library.samples import checked_samples

    train_samples, *others = checked_samples(
        checked, "train", *(("val",) if do_eval else ()), crop_size=checked.augment.crop, listener=listener
    )
    val_samples = others[0] if do_eval else ()

    from rsseg_tf import training
    from rsseg_tf.training.callbacks import History
    from rsseg_tf.training.loggers import loggers_of

    history = History()
    logs = []
    if is_chief:
        logs = [history, listener.training_log(checked.train.iters), *loggers_of(checked, folder)]
    result = training.train(
        checked,
        folder,
        train_samples,
        val_samples,
        strategy=strategy,
        resume=resume_model,
        overwrite=overwrite,
        augmentation=augmentation,
        model=None if model is None else _built(model, checked),
        offline=offline,
        notify=listener.say,
        callbacks=[*logs, *callbacks],
    )
    run = Run.of(result, folder, history.entries, scored=do_eval)
    listener.say(result.summary())
    if run.best_model is not None:
        listener.say(f"The best model (mIoU {run.best_miou:.4f}) is {run.best_model}")
    return run


def _built(model: keras.Model | Callable[..., keras.Model], config: Config) -> keras.Model:
    """Returns a user's model, built now if it is a function that was given."""
    import keras

    if isinstance(model, keras.Model):
        return model
    if not callable(model):
        raise ConfigError(f"model must be a keras.Model or a function that returns one; got {type(model).__name__}.")
    spec = config.dataset.spec
    known = {"in_channels": spec.bands, "num_classes": spec.num_classes}
    wanted = inspect.signature(model).parameters
    keras.utils.set_random_seed(config.train.seed)
    try:
        built = model(**{name: value for name, value in known.items() if name in wanted})
    except RssegError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(
            f"The model's function {getattr(model, '__name__', model)} failed: {reason(error)}. It is called with "
            f"those of {' and '.join(known)} that it takes."
        ) from error
    if not isinstance(built, keras.Model):
        raise ConfigError(
            f"The model's function {getattr(model, '__name__', model)} must return a keras.Model; it returned "
            f"{type(built).__name__}."
        )
    return built


def pretrain(
    config: StrPath | Mapping[str, Any] | PretrainConfig,
    save_dir: StrPath = "output",
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    epochs: int | None = None,
    iters: int | None = None,
    total_batch_size: int | None = None,
    learning_rate: float | None = None,
    save_interval: int | None = None,
    log_iters: int | None = None,
    loggers: Sequence[str] | None = None,
    resume_model: StrPath | None = None,
    keep_checkpoint_max: int | None = None,
    seed: int | None = None,
    precision: Precision | None = None,
    deterministic: bool | None = None,
    num_workers: int | None = None,
    offline: bool = False,
    overwrite: bool = False,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    gpus: Sequence[int] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    notify: Notify | None = None,
) -> Run:
    """Trains a backbone on images without labels, as `rsseg-tf pretrain` does, by the same names.

    Args:
        config: A YAML file, the name of a shipped one, or a plain mapping with the same keys.
        save_dir: Folder for checkpoints and logs.
        overrides: Changes of the config.
        epochs: Times that every image is seen.
        iters: Optimizer steps in all, instead of epochs.
        total_batch_size: Images per step, over all devices.
        learning_rate: Highest learning rate.
        save_interval: As `train` takes it, and all that follow too.
        log_iters: As there.
        loggers: As there.
        resume_model: As there.
        keep_checkpoint_max: As there.
        seed: As there.
        precision: As there.
        deterministic: As there.
        num_workers: As there.
        offline: As there.
        overwrite: As there.
        device: As there.
        gpus: As there.
        callbacks: As there.
        notify: As there.

    Returns:
        How it ended. To train a model from it, set model.backbone.pretrained to `.checkpoint`.

    Raises:
        ConfigError: As `train`.
        DataError: As `train`.
        TrainingError: As `train`, and when the run was ended because its features collapsed.
        WeightsError: As `train`.
    """
    settings = {name: value for name, value in locals().items() if name in _RUN_KEYS}
    from rsseg_tf.config import load_pretrain_config

    listener, folder = listener_of(notify), Path(save_dir)
    checked = load_pretrain_config(config, with_settings(overrides, settings_of(settings)))
    if epochs and iters:
        raise ConfigError("--epochs and --iters both set the length of the run; give one of them.")
    require_loggers(checked.train.loggers)
    strategy, is_chief = open_devices(device, gpus, deterministic=checked.train.deterministic, listener=listener)
    from rsseg_tf.library.samples import checked_images

    samples = checked_images(checked, listener)
    from rsseg_tf import training
    from rsseg_tf.training.callbacks import CollapseMonitor, History
    from rsseg_tf.training.loggers import loggers_of
    from rsseg_tf.training.pretraining import steps_in_all

    history, limits = History(), checked.train
    log = listener.training_log(steps_in_all(checked, len(samples)), title="pretrain", scored=False)
    monitor = CollapseMonitor(limits.collapse_spread, stop_after=limits.stop_after_collapsed, write=log.write)
    logs = [history, log, monitor, *loggers_of(checked, folder)] if is_chief else []
    result = training.pretrain(
        checked,
        folder,
        samples,
        strategy=strategy,
        resume=resume_model,
        overwrite=overwrite,
        offline=offline,
        notify=listener.say,
        callbacks=[*logs, *callbacks],
    )
    if monitor.has_stopped_the_run:
        raise TrainingError(
            f"The run collapsed: train.stop_after_collapsed={limits.stop_after_collapsed} epochs in a row had a spread "
            f"below {limits.collapse_spread:g}. The last checkpoint is {result.checkpoint}; earlier ones are in "
            f"{folder}.",
            code="collapsed",
        )
    listener.say(result.summary())
    if result.stopped != "signal":
        listener.say(f"To train a model from it: rsseg-tf train --set model.backbone.pretrained={result.checkpoint}")
    return Run.of(result, folder, history.entries, scored=False)
