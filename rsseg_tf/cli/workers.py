"""The devices of a command that several machines may run together, and the processes on them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rsseg_tf.cli.output import load_tensorflow, print_errors_alone, say

__all__ = ["expect_workers", "join_workers", "open_devices"]


def expect_workers() -> None:
    """Leaves a lost worker to the command's own error, which is one line; call it before TensorFlow is imported.

    TensorFlow reports it in many lines, several times.
    """
    several = os.environ.get("TF_CONFIG") or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    if several and os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "2":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def join_workers(device: str, gpus: Sequence[int]) -> tuple[Any, Any]:
    """Finds the other workers, if there are any.

    Args:
        device: As in `make_strategy`.
        gpus: As there; empty for all.

    Returns:
        The `tf.distribute.Strategy` and its `Workers`. One that is not the chief prints errors alone from here on.
    """
    from rsseg_tf.training import make_strategy
    from rsseg_tf.training.workers import Workers

    strategy = make_strategy(device, gpus or None, notify=say)
    workers = Workers(strategy)
    if not workers.is_chief:
        print_errors_alone()
    return strategy, workers


def open_devices(device: str, gpus: Sequence[int], *, deterministic: bool) -> tuple[Any, bool]:
    """Imports TensorFlow, and finds the devices and the other workers of a training.

    Args:
        device: As in `make_strategy`.
        gpus: As there; empty for all.
        deterministic: Whether to call `make_deterministic`.

    Returns:
        The `tf.distribute.Strategy`, and whether this process writes log and checkpoints.
    """
    expect_workers()
    load_tensorflow()
    from rsseg_tf.training import make_deterministic

    if deterministic:
        make_deterministic()  # before the devices, which start TensorFlow's threads
    strategy, workers = join_workers(device, gpus)
    return strategy, workers.is_chief
