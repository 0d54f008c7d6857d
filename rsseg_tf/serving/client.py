"""A model on a server as a predict callable, so that scenes are cut and blended as with a model of one's own.

    from rsseg_tf.serving.client import remote_predictor

    predictor = remote_predictor("127.0.0.1:8500", "dubai")
    logits = predictor.predict(pixels)  # (B, H, W, bands) -> (B, H, W, classes)

Works with TensorFlow Serving and with `rsseg-tf serve`, over gRPC and REST.
"""

from __future__ import annotations

import dataclasses
import random
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import ConfigError, ServingError
from rsseg_tf.files import StrPath
from rsseg_tf.manifest import Manifest
from rsseg_tf.predict import InferenceOptions, require_finite
from rsseg_tf.predictors import Predictor
from rsseg_tf.predictors.artifacts import as_input
from rsseg_tf.serving.transports import Address, RefusedError, RetryableError, Transport, open_transport

__all__ = ["RemotePredict", "Retry", "read_remote_manifest", "remote_predictor"]

Answer = TypeVar("Answer")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


@dataclasses.dataclass(frozen=True)
class Retry:
    """How long a client waits.

    Attributes:
        timeout_s: Longest wait for the answer to one try.
        patience_s: Longest wait for a server that is busy or away, over all tries of a request.

    Raises:
        ConfigError: When a value is not above 0.
    """

    timeout_s: float = 60.0
    patience_s: float = 120.0

    def __post_init__(self) -> None:
        if not (self.timeout_s > 0 and self.patience_s >= 0):
            raise ConfigError(
                f"A timeout must be above 0 seconds, patience at least 0; got {self.timeout_s} and {self.patience_s}."
            )

    def call(self, request: Callable[[float], Answer], notify: Callable[[str], object] = lambda line: None) -> Answer:
        """Makes a request until it succeeds, is refused, or patience ends.

        Pauses double from a tenth of a second to five, each a random part of that, so that clients which were cut off
        together do not come back together.

        Args:
            request: One try; takes its timeout in seconds.
            notify: Called with a line when the first try fails and others follow.

        Raises:
            ServingError: When the server refuses the request, or patience ends.
        """
        began, pause = time.monotonic(), _FIRST_PAUSE_S
        tries = 0
        while True:
            tries += 1
            try:
                return request(self.timeout_s)
            except RetryableError as error:
                waited = time.monotonic() - began
                if waited >= self.patience_s:
                    raise ServingError(
                        f"The server did not answer in {tries} {'try' if tries == 1 else 'tries'} over {waited:.0f} "
                        f"seconds: {error}. Is it running, and is the address right?",
                        code="unreachable",
                    ) from error
                if tries == 1:
                    notify(f"No answer yet: {error}. It is asked again for {self.patience_s:g} seconds.")
            time.sleep(random.uniform(0, min(pause, self.patience_s)))
            pause = min(2 * pause, _LONGEST_PAUSE_S)


class RemotePredict:
    """A predict callable over a server (see `rsseg_tf.predict.Predict`): each image of a batch is a request.

    Images go out as the dtype that the model takes, bytes where it takes bytes. Several are on their way at once, and
    answers come back in order whatever the order in which they arrive.

    Args:
        transport: Transport to the server.
        dtype: Type that the model takes.
        in_flight: Requests on their way at the same time.
        retry: How long to wait.

    Raises:
        ConfigError: When `in_flight` is below 1.
    """

    def __init__(self, transport: Transport, dtype: str, *, in_flight: int = 4, retry: Retry | None = None) -> None:
        if in_flight < 1:
            raise ConfigError(f"At least 1 request must be in flight; got {in_flight}. Use 1 to send one by one.")
        self._transport = transport
        self._dtype = dtype
        self._retry = retry or Retry()
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="in-flight")
        # Connections end also where nobody calls `close`.
        self._end = weakref.finalize(self, _end, self._pool, transport)  # a function that does not refer to `self`

    def __call__(self, pixels: NDArray) -> NDArray[np.float32]:
        """Returns the logits `(B, H, W, classes)` of `(B, H, W, bands)` pixels.

        Raises:
            DataError: When the pixels do not fit the dtype of the model.
            ServingError: When the server refuses them, or stays away for longer than patience lasts.
        """
        whole = as_input(pixels, self._dtype)
        # One image a request: a server forms batches of its own, and a large request could exceed its limits.
        logits = np.concatenate(list(self._pool.map(self._predict, np.split(whole, len(whole)))))
        return require_finite(logits, pixels, "the server's model")

    def _predict(self, image: NDArray) -> NDArray[np.float32]:
        logits = self._retry.call(
            lambda timeout_s: self._transport.predict("logits", {"pixels": image}, "logits", timeout_s)
        )
        if logits.ndim != 4 or logits.shape[:3] != image.shape[:3]:
            raise ServingError(
                f"The server answered an image {image.shape} with logits {logits.shape}; both must have the same "
                "height and width. Was the model exported by `rsseg-tf export`?"
            )
        return logits.astype(np.float32, copy=False)

    def close(self) -> None:
        """Ends threads and connections."""
        self._end()


def _end(pool: ThreadPoolExecutor, transport: Transport) -> None:
    pool.shutdown(wait=False, cancel_futures=True)
    transport.close()


def read_remote_manifest(transport: Transport, retry: Retry) -> Manifest:
    """Asks a server for the manifest, which exported SavedModels give through their signature `manifest`.

    Raises:
        ServingError: When the server does not answer, or the model has no such signature.
        ExportError: When the answer is no manifest.
    """
    query = np.array([""], object)
    try:
        found = retry.call(
            lambda timeout_s: transport.predict("manifest", {"query": query}, "manifest_json", timeout_s)
        )
    except RefusedError as error:
        raise ServingError(
            f"The server gives no manifest ({error}). Give the manifest.json of the export: --manifest FILE."
        ) from error
    return Manifest.from_json(found.ravel()[0], "the server")


def remote_predictor(
    server: str,
    model: str,
    *,
    manifest: StrPath | None = None,
    in_flight: int = 4,
    retry: Retry | None = None,
    notify: Callable[[str], object] = lambda line: None,
) -> Predictor:
    """Opens a model on a server.

    Args:
        server: `HOST:PORT` for gRPC, `http://HOST:PORT` for REST.
        model: Name of the model there.
        manifest: `manifest.json` of the export, for models whose server does not give it.
        in_flight: Requests on their way at the same time; also how many windows of a scene are predicted in one call.
        retry: How long to wait.
        notify: Called with a line when the server does not answer at once.

    Returns:
        A predictor whose options cut scenes into windows of the size that the model was trained with, unless the
        manifest says otherwise.

    Raises:
        ConfigError: When the address or a number is wrong.
        ServingError: When the server does not answer, or has another model.
        ExportError: When the manifest cannot be read.
    """
    manifest = None if manifest is None else Path(manifest)
    address = Address.parse(server)
    retry = retry or Retry()
    transport = open_transport(address, model)
    try:
        dtype = retry.call(lambda timeout_s: transport.input_dtype("logits", "pixels", timeout_s), notify)
        if manifest is None:
            known = read_remote_manifest(transport, retry)
        else:
            known = Manifest.from_json(_read(manifest), str(manifest))
        predict = RemotePredict(transport, dtype, in_flight=in_flight, retry=retry)
    except BaseException:
        transport.close()
        raise
    options = InferenceOptions.spelled(known.inference.model_dump(), tile=known.crop_size, batch_size=in_flight)
    if not options.is_slide:
        options = options.with_blend("mean")
    return Predictor("server", known.spec, predict, options, None, known)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"The manifest {path} cannot be read: {error.strerror}. Check --manifest.") from error
