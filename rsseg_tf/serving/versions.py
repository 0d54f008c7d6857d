"""The versions of a model in a folder: loaded when they appear, replaced without a gap, released when they are done.

    MODEL/1/saved_model.pb  MODEL/2/saved_model.pb  …

The folder is looked at every few seconds. A new version is loaded beside the old one, which goes once the new one
answers and the last request that runs on it has ended. A version that cannot be loaded changes nothing but the status;
it is tried again when its files change, such as when copying ends.

A version is loaded into a session and not by `tf.saved_model.load`, for three reasons: TensorFlow Serving uses this
loader, so what runs here runs there; the signatures come as they are written in the file; and closing a session gives
all memory back, which matters where versions come and go.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.errors import ConfigError, DataError, RssegError, ServingError, address_hint, reason
from rsseg_tf.extras import require
from rsseg_tf.manifest import BYTES_INPUT, BYTES_OUTPUT, PIXELS, require_unchanged
from rsseg_tf.predictors.operations import check_operations
from rsseg_tf.serving.status import Code, RequestError
from rsseg_tf.serving.tensors import DEFAULT_SIGNATURE
from rsseg_tf.serving.tiffs import decode_tiff, encode_labels, is_tiff

__all__ = ["ModelVersion", "VersionStatus", "Versions", "check_model_name", "version_folders"]

State = Literal["LOADING", "AVAILABLE", "UNLOADING", "END"]
_MOST_ENDED = 16  # statuses that are kept of versions that ended
_MOST_DIGITS = 18  # of a version, which is a 64-bit number
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ASSERTION = "assertion failed: "
_PREDICT = "tensorflow/serving/predict"
_BYTES_SIGNATURE = "predict_bytes"
_WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


def check_model_name(name: str) -> str:
    """Returns a model's name if it can stand in a URL and on disk.

    Raises:
        ConfigError: Otherwise.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            "A model's name must be 1 to 64 letters, digits, dots, dashes or underscores, and begin with a letter or "
            f"digit; got {name!r:.100}. Choose another with --model-name."
        )
    return name


@dataclass(frozen=True)
class VersionStatus:
    """State of a version, and the error that ended it, if any."""

    number: int
    state: State
    error: str = ""


def version_folders(folder: Path) -> dict[int, Path]:
    """Finds the versions of a model: subfolders whose names are numbers.

    Raises:
        ServingError: When the folder cannot be read.
    """
    try:
        children = list(folder.iterdir())
    except OSError as error:
        raise ServingError(
            f"{folder} cannot be read: {error.strerror}. Name a folder of `rsseg-tf export`.{address_hint(folder)}"
        ) from error
    return {
        int(path.name): path
        for path in children
        if path.name.isascii() and path.name.isdecimal() and len(path.name) <= _MOST_DIGITS and path.is_dir()
    }


class ModelVersion:
    """A SavedModel that is ready to run.

    Callers `acquire` it before use and `release` it after; `retire` closes it after the last release.

    Args:
        folder: Folder with `saved_model.pb`.
        number: Number of the version.
        threads: How many one operation may use; None leaves it to TensorFlow.

    Attributes:
        signatures: `tensorflow.SignatureDef` by name; those of requests to predict only.

    Raises:
        ServingError: When it cannot be loaded, was changed since the export, or one of its warm-up requests fails.
    """

    def __init__(self, folder: Path, number: int, *, threads: int | None = None) -> None:
        self.folder = folder
        self.number = number
        self._users = 0
        self._on_closed: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._calls: dict[tuple[str, tuple[str, ...]], Any] = {}
        options = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads or 0)  # 0 is TensorFlow's choice
        # Two versions share the GPU while one replaces the other.
        options.gpu_options.allow_growth = True
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph, config=options)
        try:
            require_unchanged(folder)
            check_operations(folder)
            with graph.as_default(), _without_advice():
                meta = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
            self.signatures = {
                name: signature for name, signature in meta.signature_def.items() if signature.method_name == _PREDICT
            }
            self._warm_up()
        # The loader has no error of its own: for damaged files it raises those of parsing, shapes and checksums.
        except Exception as error:
            self._session.close()
            line = str(error) if isinstance(error, RssegError) else _message(error)
            raise ServingError(f"version {number} cannot be loaded from {folder}: {line}") from error

    def definition(self, signature: str) -> Any:
        """Returns the `tensorflow.SignatureDef` of a name.

        Raises:
            RequestError: When the model has none of that name.
        """
        if signature not in self.signatures:
            known = ", ".join(sorted(self.signatures))
            raise RequestError(
                Code.INVALID_ARGUMENT,
                f'Serving signature name: "{signature:.100}" not found in signature def; the model has {known}',
            )
        return self.signatures[signature]

    def run(self, signature: str, inputs: Mapping[str, NDArray], outputs: Sequence[str]) -> dict[str, NDArray]:
        """Runs a signature.

        Args:
            signature: Name of the signature.
            inputs: A value for each of its inputs; bytes as an array of objects.
            outputs: Names of the outputs to compute.

        Raises:
            RequestError: When the values do not suit the graph, or memory is short.
        """
        images = inputs.get(BYTES_INPUT)
        if signature != _BYTES_SIGNATURE or images is None or not any(map(is_tiff, images)):
            return self._run(signature, inputs, outputs)
        # The graph takes pictures, the server TIFFs too.
        answers = np.empty(len(images), object)
        for index, data in enumerate(images):
            if is_tiff(data):
                answers[index] = self._run_tiff(data)
            else:
                (answers[index],) = self._run(signature, {BYTES_INPUT: images[index : index + 1]}, outputs)[
                    BYTES_OUTPUT
                ]
        return {BYTES_OUTPUT: answers}

    def _run_tiff(self, data: bytes) -> bytes:
        info = self.signatures[DEFAULT_SIGNATURE].inputs[PIXELS]
        bands, dtype = info.tensor_shape.dim[-1].size, tf.as_dtype(info.dtype).name
        try:
            pixels = decode_tiff(data, bands=bands, dtype=dtype)
        except DataError as error:
            raise RequestError(Code.INVALID_ARGUMENT, f"the model refuses the input: {error}") from error
        (class_map,) = self._run(DEFAULT_SIGNATURE, {PIXELS: pixels[np.newaxis]}, ["class_map"])["class_map"]
        return encode_labels(class_map)

    def _run(self, signature: str, inputs: Mapping[str, NDArray], outputs: Sequence[str]) -> dict[str, NDArray]:
        definition = self.signatures[signature]
        names = sorted(definition.inputs)
        call = self._callable(signature, names, tuple(outputs))
        try:
            values = call(*(inputs[name] for name in names))
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.FailedPreconditionError) as error:
            raise RequestError(Code.INVALID_ARGUMENT, f"the model refuses the input: {_message(error)}") from error
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise RequestError(Code.OUT_OF_MEMORY, f"not enough memory for the input: {_message(error)}") from error
        except Exception as error:
            raise RequestError(Code.INTERNAL, f"the model failed: {_message(error)}") from error
        return dict(zip(outputs, map(np.asarray, values), strict=True))

    def acquire(self) -> None:
        """Keeps the version in memory until `release`."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Undoes one `acquire`."""
        with self._lock:
            self._users -= 1
            closed = self._on_closed if self._users == 0 else None
        # Outside of the lock: closing a session takes a while, and `closed` takes locks of its own.
        if closed is not None:
            self._close(closed)

    def retire(self, closed: Callable[[], None]) -> None:
        """Closes the version after its last release, and then calls `closed`. It must not be acquired any more."""
        with self._lock:
            self._on_closed = closed
            idle = self._users == 0
        if idle:
            self._close(closed)

    def _close(self, closed: Callable[[], None]) -> None:
        self._calls.clear()  # each call refers to the session
        self._session.close()
        closed()

    def _callable(self, signature: str, names: Sequence[str], outputs: tuple[str, ...]) -> Any:
        """Returns a function of the inputs; it is made once, because names are looked up in the graph for it."""
        call = self._calls.get((signature, outputs))
        if call is None:
            definition = self.signatures[signature]
            call = self._session.make_callable(
                [definition.outputs[name].name for name in outputs],
                feed_list=[definition.inputs[name].name for name in names],
            )
            self._calls[signature, outputs] = call
        return call

    def _warm_up(self) -> None:
        """Runs the requests that were stored with the model, so that no client waits for the first run."""
        path = self.folder / _WARMUP
        if not path.is_file():
            return
        prediction_log = require("tensorflow_serving.apis.prediction_log_pb2", "serving")
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            log = prediction_log.PredictionLog.FromString(record)
            if not log.HasField("predict_log"):
                continue
            request = log.predict_log.request
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if name not in self.signatures:
                raise ServingError(f"the warm-up requests name a signature {name}, which the model does not have")
            values = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            self.run(name, values, sorted(self.signatures[name].outputs))


class Versions:
    """Keeps the right versions of one model in memory.

    Args:
        name: Name of the model.
        folder: The versions are subfolders of it.
        keep: How many of the newest versions are served; 0 for all.
        labels: Version by label.
        threads: How many one operation of a model may use; None leaves it to TensorFlow.
        report: Called with a line whenever a version comes, goes or fails.

    Raises:
        ConfigError: When `keep` is negative.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        *,
        keep: int = 1,
        labels: Mapping[str, int] | None = None,
        threads: int | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        if keep < 0:
            raise ConfigError(f"the number of versions to keep must be at least 0, for all; got {keep}.")
        self.name = name
        self.folder = folder
        self.keep = keep
        self.labels = dict(labels or {})
        self._threads = threads
        self._report = report
        self._loaded: dict[int, ModelVersion] = {}
        self._states: dict[int, VersionStatus] = {}
        self._failed: dict[int, object] = {}  # files of versions that failed
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None

    # === For requests ===

    def acquire(self, number: int | None = None, label: str | None = None) -> ModelVersion:
        """Returns a version, by default the newest; the caller releases it.

        Raises:
            RequestError: When there is no such version or label.
        """
        with self._lock:
            if label is not None:
                if label not in self.labels:
                    known = ", ".join(sorted(self.labels)) or "none"
                    raise RequestError(
                        Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {label:.100}; labels: {known}"
                    )
                number = self.labels[label]
            if number is None and self._loaded:
                number = max(self._loaded)
            version = self._loaded.get(number) if number is not None else None
            if version is None:
                wanted = f"Latest({self.name})" if number is None else f"Specific({self.name}, {number})"
                known = ", ".join(map(str, sorted(self._loaded))) or "none"
                raise RequestError(
                    Code.NOT_FOUND, f"Servable not found for request: {wanted}; available versions: {known}"
                )
            version.acquire()  # under the lock, so that the version cannot be retired in between
            return version

    def statuses(self, number: int | None = None, label: str | None = None) -> list[VersionStatus]:
        """Returns the status of all versions, newest first, or of one.

        Raises:
            RequestError: When there is no such version or label.
        """
        with self._lock:
            if label is not None:
                # An unknown label must find nothing, and None would find all; -1 is the number of no version.
                number = self.labels.get(label, -1)
            found = [status for status in self._states.values() if number in (None, status.number)]
        if not found:
            raise RequestError(Code.NOT_FOUND, f"Could not find version {label or number} of model {self.name}")
        return sorted(found, key=lambda status: -status.number)

    @property
    def available(self) -> list[int]:
        """Numbers of the versions that answer."""
        with self._lock:
            return sorted(self._loaded)

    @property
    def is_watching(self) -> bool:
        """Whether versions that appear would be seen."""
        return self._watcher is not None and self._watcher.is_alive()

    # === Keeping up with the folder ===

    def start(self, poll_s: float) -> None:
        """Loads what is there, and then watches the folder.

        Raises:
            ServingError: When no version can be loaded.
        """
        failures = self.refresh()
        if not self.available:
            raise ServingError(failures[0] if failures else f"{self.folder} has no version to serve.")
        self._watcher = threading.Thread(target=self._watch, args=(poll_s,), name="versions", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stops watching and releases all versions."""
        self._stop.set()
        if self._watcher is not None:
            self._watcher.join()
        for number in self.available:
            self._retire(number)

    def refresh(self) -> list[str]:
        """Looks at the folder once: loads new versions, retires those that are no longer wanted.

        Returns:
            Why versions failed to load, this time.

        Raises:
            ServingError: When the folder cannot be read.
        """
        found = version_folders(self.folder)
        newest = sorted(found, reverse=True)
        wanted = set(newest[: self.keep] if self.keep else newest) | (set(self.labels.values()) & set(found))
        failures = []
        for number in sorted(wanted - set(self.available)):
            files = _file_stats(found[number])  # before loading: what changes meanwhile makes for another try
            if self._failed.get(number) == files:
                continue
            self._failed.pop(number, None)
            failure = self._load(number, found[number])
            if failure:
                self._failed[number] = files
                failures.append(failure)
        # A version that was deleted and comes again is tried again.
        for number in set(self._failed) - set(found):
            del self._failed[number]
        available = set(self.available)
        # While none of the wanted versions answers, the old one goes on.
        if available & wanted:
            for number in available - wanted:
                self._retire(number)
        return failures

    def _watch(self, poll_s: float) -> None:
        reported = ""
        while not self._stop.wait(poll_s):
            try:
                self.refresh()
                reported = ""
            except Exception as error:  # a network drive may come back, and a folder vanish at any moment
                line = f"Model {self.name}: {self.folder} could not be read: {reason(error)}. It is tried again."
                line = str(error) if isinstance(error, ServingError) else line
                if line != reported:
                    self._report(line)
                reported = line

    def _load(self, number: int, folder: Path) -> str:
        """Loads a version; returns why it failed, or nothing."""
        self._set(VersionStatus(number, "LOADING"))
        try:
            version = ModelVersion(folder, number, threads=self._threads)
        except ServingError as error:
            self._set(VersionStatus(number, "END", str(error)))
            self._report(f"Model {self.name}: {error}")
            return str(error)
        with self._lock:
            self._loaded[number] = version
            self._states[number] = VersionStatus(number, "AVAILABLE")
        self._report(f"Model {self.name}: version {number} answers requests")
        return ""

    def _retire(self, number: int) -> None:
        with self._lock:
            version = self._loaded.pop(number)
            self._states[number] = VersionStatus(number, "UNLOADING")

        def closed() -> None:
            self._set(VersionStatus(number, "END"))
            self._report(f"Model {self.name}: version {number} is released")

        version.retire(closed)

    def _set(self, status: VersionStatus) -> None:
        with self._lock:
            self._states[status.number] = status
            ended = [number for number, known in self._states.items() if known.state == "END"]
            for number in ended[:-_MOST_ENDED]:
                del self._states[number]


def _file_stats(folder: Path) -> object:
    """Returns path, size and time of each file of a version: they differ once a file has changed."""
    stats = []
    # Not by rglob, which fails where a folder is removed meanwhile.
    for place, _, names in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in names)):
            try:
                stat = os.stat(path)
            except OSError:  # removed meanwhile
                continue
            stats.append((path, stat.st_size, stat.st_mtime_ns))
    return sorted(stats)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Mutes TensorFlow's advice against the loader that TensorFlow Serving uses."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _message(error: Exception) -> str:
    """Returns an error of TensorFlow without the names of nodes and the stack of the graph."""
    text = reason(error).removeprefix(f"{type(error).__name__}: ")
    if text.startswith(_ASSERTION):  # texts and values of the export's own sentence, each in brackets
        return " ".join(re.findall(r"\[([^\]]*)\]", text.removeprefix(_ASSERTION))) or text
    return text
