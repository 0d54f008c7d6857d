"""Errors that a user can act on.

Every message says what is wrong, what was received, what is allowed and how to mend it, in one line.
The command line prints the message alone and exits with code 2; a traceback means a bug in this package.

    RssegError
    ├── ConfigError    a config file or an option on the command line
    ├── DataError      images, labels, list files, data sets
    ├── TrainingError  a training run that cannot go on (a loss that is not finite)
    ├── WeightsError   checkpoints and released weights
    ├── ExportError    SavedModel, TFLite and ONNX artifacts
    └── ServingError   requests to a model server
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "ConfigError",
    "DataError",
    "ExportError",
    "RssegError",
    "ServingError",
    "TrainingError",
    "WeightsError",
    "did_you_mean",
]


class RssegError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(RssegError):
    """A config file or a command-line option is wrong."""


class DataError(RssegError):
    """An image, a label, a list file or a data set is wrong."""


class TrainingError(RssegError):
    """A training run cannot go on."""


class WeightsError(RssegError):
    """A checkpoint or a file of weights does not fit."""


class ExportError(RssegError):
    """An exported artifact cannot be written or is wrong."""


class ServingError(RssegError):
    """A model server refused a request or gave a wrong answer."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the allowed name nearest to `name`, or an empty string."""
    near = get_close_matches(name, list(allowed), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
