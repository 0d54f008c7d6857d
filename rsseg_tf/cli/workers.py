"""The devices of a training command, on this machine and on others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rsseg_tf.cli.output import load_tensorflow, print_errors_alone, say

__all__ = ["open_devices"]


def open_devices(device: str, gpus: Sequence[int], *, deterministic: bool) -> tuple[Any, bool]:
    """Imports TensorFlow, and finds the other workers if there are any.

    Args:
        device: As in `make_strategy`.
        gpus: As there; empty for all.
        deterministic: Whether to call `make_deterministic`.

    Returns:
        The `tf.distribute.Strategy`, and whether this process writes log and checkpoints. Where it does not, it prints
        errors alone from here on.
    """
    several = os.environ.get("TF_CONFIG") or os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1"
    if several and os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "2":
        # TensorFlow reports a lost worker in many lines, several times; the command's own error is one line.
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    load_tensorflow()
    from rsseg_tf.training import make_deterministic, make_strategy
    from rsseg_tf.training.workers import Workers

    if deterministic:
        make_deterministic()  # before the devices, which start TensorFlow's threads
    strategy = make_strategy(device, gpus or None, notify=say)
    chief = Workers(strategy).is_chief
    if not chief:
        print_errors_alone()
    return strategy, chief
