"""Loads TensorFlow without its complaints about a GPU that nobody asked for; prints without complaints of its own."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

__all__ = ["load_tensorflow", "say"]


def say(line: str) -> None:
    """Prints a line about work that is done; a full disk under a log file, or a terminal that is gone, is no error."""
    with contextlib.suppress(OSError):
        click.echo(line)


def load_tensorflow() -> None:
    """Imports TensorFlow and lets it look for devices.

    On a machine without an NVIDIA driver its C++ core prints several lines about that before any log level applies, so
    standard error is closed meanwhile. Where there is a driver nothing is hidden: there they may matter. Python errors
    come through in any case.
    """
    if Path("/proc/driver/nvidia").exists() or sys.platform != "linux":
        return
    from rsseg_tf.environment import muted_stderr

    with muted_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()
