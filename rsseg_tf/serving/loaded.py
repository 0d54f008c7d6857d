"""One version of a model in memory: a SavedModel in a session of its own, as TensorFlow Serving loads it.

A session and not `tf.saved_model.load`, for three reasons: it is the loader that TensorFlow Serving uses, so what runs
here runs there; the signatures come as they are written in the file; and closing it gives all memory back, which
matters where versions come and go.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.errors import DataError, RssegError, ServingError, reason
from rsseg_tf.extras import require
from rsseg_tf.manifest import BYTES_INPUT, BYTES_OUTPUT, PIXELS, require_unchanged
from rsseg_tf.predictors.operations import check_operations
from rsseg_tf.serving.status import Code, RequestError
from rsseg_tf.serving.tiffs import decode_tiff, encode_labels, is_tiff

__all__ = ["LoadedVersion"]

_PREDICT = "tensorflow/serving/predict"
_DEFAULT_SIGNATURE, _BYTES_SIGNATURE = "serving_default", "predict_bytes"
_WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"


class LoadedVersion:
    """A SavedModel that is ready to run.

    Whoever uses it calls `acquire` before and `release` after; `retire` closes it as soon as nobody does.

    Args:
        folder: with `saved_model.pb`.
        number: its version.
        threads: how many one operation may use; None leaves it to TensorFlow.

    Attributes:
        signatures: `tensorflow.SignatureDef` by name; those of requests to predict only.

    Raises:
        ServingError: when it cannot be loaded, was changed since the export, or one of its warm-up requests fails.
    """

    def __init__(self, folder: Path, number: int, *, threads: int | None = None) -> None:
        self.folder = folder
        self.number = number
        self._users = 0
        self._retired: Callable[[], None] | None = None
        self._lock = threading.Lock()
        self._calls: dict[tuple[str, tuple[str, ...]], Any] = {}
        options = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads or 0)
        options.gpu_options.allow_growth = True
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=options)
        try:
            require_unchanged(folder)
            check_operations(folder)
            with self._graph.as_default(), _quiet():
                meta = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
            self.signatures = {
                name: signature for name, signature in meta.signature_def.items() if signature.method_name == _PREDICT
            }
            self._warm_up()
        # The loader raises what it pleases for damaged files: parsing, shapes and checksums each have their own.
        except Exception as error:
            self._session.close()
            line = str(error) if isinstance(error, RssegError) else _reason(error)
            raise ServingError(f"version {number} cannot be loaded from {folder}: {line}") from error

    def run(self, signature: str, inputs: Mapping[str, NDArray], outputs: Sequence[str]) -> dict[str, NDArray]:
        """Runs a signature.

        Args:
            signature: its name.
            inputs: a value for each of its inputs; bytes as an array of objects.
            outputs: names of the outputs to compute.

        Raises:
            RequestError: when the values do not suit the graph, or memory is short.
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
        info = self.signatures[_DEFAULT_SIGNATURE].inputs[PIXELS]
        bands, dtype = info.tensor_shape.dim[-1].size, tf.as_dtype(info.dtype).name
        try:
            pixels = decode_tiff(data, bands=bands, dtype=dtype)
        except DataError as error:
            raise RequestError(Code.INVALID_ARGUMENT, f"the model refuses the input: {error}") from error
        (class_map,) = self._run(_DEFAULT_SIGNATURE, {PIXELS: pixels[np.newaxis]}, ["class_map"])["class_map"]
        return encode_labels(class_map)

    def _run(self, signature: str, inputs: Mapping[str, NDArray], outputs: Sequence[str]) -> dict[str, NDArray]:
        definition = self.signatures[signature]
        names = sorted(definition.inputs)
        call = self._callable(signature, names, tuple(outputs))
        try:
            values = call(*(inputs[name] for name in names))
        except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError, tf.errors.FailedPreconditionError) as error:
            raise RequestError(Code.INVALID_ARGUMENT, f"the model refuses the input: {_reason(error)}") from error
        except (tf.errors.ResourceExhaustedError, MemoryError) as error:
            raise RequestError(Code.OUT_OF_MEMORY, f"not enough memory for the input: {_reason(error)}") from error
        except Exception as error:
            raise RequestError(Code.INTERNAL, f"the model failed: {_reason(error)}") from error
        return dict(zip(outputs, map(np.asarray, values), strict=True))

    def acquire(self) -> None:
        """Keeps the version in memory until `release`."""
        with self._lock:
            self._users += 1

    def release(self) -> None:
        """Undoes one `acquire`."""
        with self._lock:
            self._users -= 1
            closed = self._retired if self._users == 0 else None
        if closed is not None:
            self._close(closed)

    def retire(self, closed: Callable[[], None]) -> None:
        """Closes the version once nobody uses it, and then calls `closed`. No one may acquire it from now on."""
        with self._lock:
            self._retired = closed
            idle = self._users == 0
        if idle:
            self._close(closed)

    def _close(self, closed: Callable[[], None]) -> None:
        self._calls.clear()
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
            name = request.model_spec.signature_name or "serving_default"
            if name not in self.signatures:
                raise ServingError(f"the warm-up requests name a signature {name}, which the model does not have")
            values = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
            self.run(name, values, sorted(self.signatures[name].outputs))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow from advising against the loader that its own server uses."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _reason(error: Exception) -> str:
    """Returns what an error of TensorFlow says, without the names of nodes and the stack of the graph."""
    return reason(error).removeprefix(f"{type(error).__name__}: ")
