"""The devices of a run, and the processes of several machines that share it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rsseg_tf.errors import ConfigError
from rsseg_tf.library.listening import Listener
from rsseg_tf.library.startup import load_tensorflow

__all__ = ["choose_device", "choose_devices", "expect_workers", "join_workers", "open_devices"]


def expect_workers() -> None:
    """Leaves a lost worker to an error of this package, which is one line; call it before TensorFlow is imported.

    TensorFlow reports it in many lines, several times.
    """
    several = os.environ.get("TF_CONFIG") or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    if several and os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "2":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def choose_device(device: str, gpus: Sequence[int]) -> None:
    """Selects the device that a model predicts on; see `make_strategy`.

    Raises:
        ConfigError: For a device that does not exist, or for more than one.
    """
    from rsseg_tf.training import make_strategy

    if len(gpus) > 1:
        raise ConfigError(
            f"this command runs on one GPU; got --gpus {' '.join(map(str, gpus))}. Name one of them. (rsseg-tf eval "
            "takes several.)"
        )
    make_strategy(device, gpus or None, alone=True)


def choose_devices(device: str, gpus: Sequence[int], kind: str, listener: Listener | None = None) -> tuple[Any, Any]:
    """Selects the devices, and finds the other workers, that share the images of an evaluation; see `make_strategy`.

    Args:
        device: `auto`, `cpu` or `gpu`.
        gpus: Numbers of GPUs; empty for all.
        kind: Kind of the model.
        listener: Hears of workers to wait for; is muted in all but the first.

    Returns:
        The strategy of this process's devices, None for one device, and the `Workers`.

    Raises:
        ConfigError: For a device that does not exist, or for several of a model that is no checkpoint; when another
            worker does not start.
    """
    from rsseg_tf.training.strategy import own_devices

    if len(gpus) > 1 and kind != "checkpoint":
        raise ConfigError(
            f"several GPUs share the images of a checkpoint only; got --gpus {' '.join(map(str, gpus))} for an "
            "exported model. Name one of them, or evaluate the checkpoint."
        )
    strategy, workers = join_workers(device, gpus, listener)
    return own_devices(strategy), workers


def join_workers(device: str, gpus: Sequence[int], listener: Listener | None = None) -> tuple[Any, Any]:
    """Finds the other workers, if there are any.

    Args:
        device: As in `make_strategy`.
        gpus: As there; empty for all.
        listener: Hears which workers to wait for; is muted in all but the first.

    Returns:
        The `tf.distribute.Strategy` and its `Workers`.
    """
    from rsseg_tf.training import make_strategy
    from rsseg_tf.training.workers import Workers

    listener = listener or Listener()
    strategy = make_strategy(device, gpus or None, notify=listener.say)
    workers = Workers(strategy)
    if not workers.is_chief:
        listener.mute()
    return strategy, workers


def open_devices(
    device: str, gpus: Sequence[int], *, deterministic: bool, listener: Listener | None = None
) -> tuple[Any, bool]:
    """Imports TensorFlow, and finds the devices and the other workers of a training.

    Args:
        device: As in `make_strategy`.
        gpus: As there; empty for all.
        deterministic: Whether to call `make_deterministic`.
        listener: As `join_workers` takes it.

    Returns:
        The `tf.distribute.Strategy`, and whether this process writes log and checkpoints.
    """
    expect_workers()
    load_tensorflow()
    from rsseg_tf.training import make_deterministic

    if deterministic:
        make_deterministic()  # before the devices, which start TensorFlow's threads
    strategy, workers = join_workers(device, gpus, listener)
    return strategy, workers.is_chief
