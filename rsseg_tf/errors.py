"""Errors that a user can act on.

Every message is one line: what is wrong, what was received, what is allowed, and the remedy. The command line prints
the message alone and exits with code 2; a traceback means a bug in this package.

    RssegError
    ├── ConfigError    a config file or an option on the command line
    ├── DataError      images, labels, list files, datasets
    ├── TrainingError  a training run that cannot go on (a loss that is not finite)
    ├── WeightsError   checkpoints and released weights
    ├── ExportError    SavedModel, TFLite and ONNX artifacts
    ├── ServingError   requests to a model server
    └── NotFiniteError a model that answers with NaN or infinity

Each error has a `code` for programs, which stays the same when a message is worded anew: that of its class, or a finer
one of `CODES`.
"""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Iterable, Iterator
from difflib import get_close_matches

__all__ = [
    "CODES",
    "INTERRUPTS",
    "ConfigError",
    "DataError",
    "ExportError",
    "NotFiniteError",
    "OldKeyWarning",
    "RssegError",
    "ServingError",
    "TrainingError",
    "WeightsError",
    "address_hint",
    "did_you_mean",
    "naming",
    "reason",
    "show_traceback",
]


CODES = {
    "error": "anything else",
    "config": "a config or an option is wrong",
    "data": "an image, a label, a list or a dataset is wrong",
    "training": "a training run cannot go on",
    "weights": "a checkpoint or a file of weights cannot be used",
    "export": "an exported model cannot be written or used",
    "serving": "a model server refused a request or gave a wrong answer",
    "not-finite": "a model gave values that are NaN or infinite",
    "not-found": "a file, a folder or a shipped config does not exist",
    "exists": "results would replace what is there",
    "not-written": "a file or a folder cannot be written: the disk is full, or nothing may be written there",
    "label-values": "labels hold ids that are neither a class nor ignored",
    "in-use": "another run writes to the folder",
    "finished": "the run to resume has reached its last step",
    "damaged": "a file is cut off or was changed",
    "mismatch": "weights belong to another model",
    "missing-extra": "an optional package is not installed",
    "no-gpu": "a GPU was asked for and there is none",
    "diverged": "the loss of a training became NaN or infinite",
    "collapsed": "the features of a pre-training became all the same",
    "unreachable": "a server does not answer",
}
"""Meaning of each code that an error may have."""


class RssegError(Exception):
    """Base of every error that this package raises on purpose.

    Attributes:
        code: What is wrong, for programs: one of `CODES`.
    """

    code = "error"

    def __init__(self, message: str = "", *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code  # in the instance's dict, which pickling keeps


class ConfigError(RssegError):
    """A config file or a command-line option is wrong."""

    code = "config"


class DataError(RssegError):
    """An image, a label, a list file or a dataset is wrong."""

    code = "data"


class TrainingError(RssegError):
    """A training run cannot go on."""

    code = "training"


class WeightsError(RssegError):
    """A checkpoint or a file of weights cannot be used."""

    code = "weights"


class ExportError(RssegError):
    """An exported artifact cannot be written or used."""

    code = "export"


class ServingError(RssegError):
    """A model server refused a request or gave a wrong answer."""

    code = "serving"


class NotFiniteError(RssegError):
    """A model gave values that are not finite, which name no class.

    Attributes:
        index: Index of the image in the batch.
    """

    code = "not-finite"

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple[type[NotFiniteError], tuple[str, int]]:
        """Makes the error picklable with its index, for worker processes."""
        return type(self), (str(self), self.index)


class OldKeyWarning(FutureWarning):
    """A config has a key by a name of earlier versions, which still works."""


INTERRUPTS = (KeyboardInterrupt, SystemExit, GeneratorExit)
"""Exceptions that end a run over many images. Any other exception concerns the image that raised it."""


@contextlib.contextmanager
def naming(*files: object) -> Iterator[None]:
    """Adds the name of a file to the errors that the block raises.

    Args:
        *files: The file to name, and others, such as its label: a message that names one of them stays as it is.

    Raises:
        RssegError: Of the same type, with the file in its message.
        DataError: In place of any other exception, except interrupts.
    """
    try:
        yield
    except RssegError as error:
        if any(str(file) in str(error) for file in files if file is not None):
            raise
        reworded = type(error)(f"{files[0]}: {error}")
        reworded.code = error.code
        raise reworded from error
    except INTERRUPTS:
        raise
    except BaseException as error:  # extension modules may raise what is no Exception
        show_traceback(error)
        raise DataError(
            f"{files[0]} cannot be used: {reason(error)}. Repair it, or remove it from the list."
        ) from error


def show_traceback(error: BaseException) -> None:
    """Prints the traceback of an error if the environment variable RSSEG_TF_TRACEBACK is set, for bug reports."""
    if os.environ.get("RSSEG_TF_TRACEBACK"):
        traceback.print_exception(error)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the allowed name nearest to `name`, or an empty string."""
    near = get_close_matches(name, list(allowed), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


# `Path` turns the two slashes of an address into one. A single letter before the colon is a drive of Windows.
_ADDRESS = re.compile(r"(?:.*/)?[A-Za-z][A-Za-z0-9+.-]+:/|/vsi\w+/")


def address_hint(path: object) -> str:
    """Returns a hint for a missing file whose path is a network address, or an empty string."""
    if not _ADDRESS.match(str(path)):
        return ""
    return " That is a network address; only local files are read here: download it, and name the file."


_LONGEST_REASON = 400
# Libraries write this instead of the cause; the cause is the exception that theirs was raised from.
_POINTERS = re.compile(r"\.?\s*See previous exception for details\.?", re.IGNORECASE)


def reason(error: BaseException) -> str:
    """Returns why something failed, in one line without a full stop, with the causes in the libraries below.

    GDAL's errors reach Python as a chain whose first link often only points to the next. Each link's message appears
    once. The types of exceptions of other libraries are named, since their messages are often meaningless without.

    Args:
        error: Any exception.
    """
    found: list[str] = []
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        message = _message(link)
        if message and not any(message in earlier for earlier in found):
            found.append(message)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    line = ": ".join(found) or type(error).__name__
    line += _proj_hint(line)
    return line if len(line) <= _LONGEST_REASON else line[: _LONGEST_REASON - 1] + "…"


# Another GIS sets these variables to its own data, which PROJ here cannot read; these are PROJ's complaints.
_PROJ_VARIABLES = ("PROJ_DATA", "PROJ_LIB")
_PROJ_COMPLAINTS = re.compile(r"proj\.db|PROJ: |EPSG code is unknown", re.IGNORECASE)


def _proj_hint(line: str) -> str:
    """Returns which variables to unset, for a failure that they may have caused."""
    given = [f"{name}={os.environ[name]}" for name in _PROJ_VARIABLES if os.environ.get(name)]
    if not given or not _PROJ_COMPLAINTS.search(line):
        return ""
    return f" (set in the environment: {', '.join(given)}; unset it if it belongs to another GIS)"


def _message(error: BaseException) -> str:
    """Returns the message of one exception, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = _without_preamble(text)
    text = " ".join(_POINTERS.sub("", text).split()).rstrip(".: ")
    known = isinstance(error, RssegError | OSError) or type(error).__module__.partition(".")[0] in (
        "rasterio",
        "pyogrio",
    )
    if known:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


# TensorFlow and Keras surround the cause with the layer, node and line of the program where it happened.
_GRAPH_PREAMBLE = re.compile(
    r"^(Graph execution error:|Detected at node|Exception encountered when calling|Node: '|  \s*File )"
)
_GRAPH_NODE = re.compile(r"\[\[.*?\]\]|\{\{(function_node|node) .*?\}\}|\[Op:[^\]]*\]( name: *)?|\x1b\[[0-9;]*m")
_GRAPH_TAIL = re.compile(
    r"\n\s*(Arguments received by |Errors may have originated from|Input Source operations|Original stack trace|"
    r"Function call stack|Call arguments received)",
)
_ROOT_ERRORS = re.compile(r"^\d+ root error\(s\) found\.\s*\(0\) [A-Z_]+: (.*?)(?=\s*\(1\) |\Z)", re.DOTALL)


def _without_preamble(text: str) -> str:
    """Returns the message of TensorFlow or Keras without the stack and the nodes that surround it."""
    text = _GRAPH_TAIL.split(text, maxsplit=1)[0]
    if _GRAPH_PREAMBLE.match(text):
        lines = text.splitlines()
        stack = max((i for i, line in enumerate(lines) if _GRAPH_PREAMBLE.match(line)), default=-1)
        # Below the line of the last file stands its source line, indented.
        kept = [line for i, line in enumerate(lines) if i > stack and not (i == stack + 1 and line.startswith("    "))]
        text = "\n".join(kept).strip() or text
    text = _GRAPH_NODE.sub("", text)
    several = _ROOT_ERRORS.match(text.strip())
    return several[1] if several else text
