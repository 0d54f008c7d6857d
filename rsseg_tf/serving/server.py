"""A server for a laptop or a test, with the interface of TensorFlow Serving; for production, use the latter."""

from __future__ import annotations

import contextlib
import gc
import re
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import grpc
import uvicorn

from rsseg_tf.errors import ConfigError, ServingError
from rsseg_tf.serving.http_limits import connection_factory
from rsseg_tf.serving.limits import BatchOptions, Limits
from rsseg_tf.serving.rest import METRICS_PATH, rest_app
from rsseg_tf.serving.rpc import rpc_server
from rsseg_tf.serving.service import Service
from rsseg_tf.serving.versions import Versions, check_model_name, version_folders

__all__ = ["Server", "ServerOptions"]

_GC_THRESHOLDS = (50_000, 20, 20)  # Python's own are (700, 10, 10), see `Server.run`
_STOP_S = 10.0  # for requests that run; orchestrators kill after 30 seconds
_BACKLOG = 128  # connections that the system keeps until they are accepted
_MOST_HEADER_BYTES = 16 * 2**10
# As browsers write it: no path, not even a slash. They leave out ports 80 and 443.
_ORIGIN = re.compile(r"(?!http://.*:80$|https://.*:443$)https?://(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[1-9]\d{0,4})?")


@dataclass(frozen=True)
class ServerOptions:
    """How a model is served.

    Attributes:
        host: Address to listen on; 127.0.0.1 is reached from this machine alone.
        rest_port: 0 for any free one.
        grpc_port: 0 for any free one.
        keep: How many of the newest versions are served; 0 for all.
        labels: Version by label; these are served too.
        poll_s: Seconds between looks at the folder.
        threads: How many one operation of the model may use; None leaves it to TensorFlow.
        metrics_path: Path that Prometheus reads.
        cors_origins: Origins whose pages may ask over REST, such as `https://example.org`; `*` for every page.
        limits: What is accepted.
        batching: How requests are grouped.

    Raises:
        ConfigError: When a value is out of range.
    """

    host: str = "127.0.0.1"
    rest_port: int = 8501
    grpc_port: int = 8500
    keep: int = 1
    labels: Mapping[str, int] = field(default_factory=dict)
    poll_s: float = 2.0
    threads: int | None = None
    metrics_path: str = METRICS_PATH
    cors_origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    batching: BatchOptions = field(default_factory=BatchOptions)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)+", self.metrics_path):
            raise ConfigError(f"metrics_path must look like {METRICS_PATH}; got {self.metrics_path!r:.100}.")
        for label in self.labels:
            check_model_name(label)
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"An origin is http:// or https://, a host in lower case and a port if it is not the usual one, "
                    f"such as https://example.org or http://localhost:3000, or * for every page; got {origin!r:.200}."
                )


class Server:
    """Serves the versions of one model over REST and gRPC, from `start` to `stop`.

    Args:
        folder: Folder of the model; versions are subfolders with numbers for names.
        name: Name of the model; the folder's if None.
        options: How it is served.
        report: Called with a line when a version comes, goes or fails.

    Attributes:
        rest_port: The port in use, once started.
        grpc_port: The same for gRPC.

    Raises:
        ConfigError: When the name or an option is wrong.
        ServingError: When the folder holds no versions.
    """

    def __init__(
        self,
        folder: Path,
        name: str | None = None,
        options: ServerOptions | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.options = options or ServerOptions()
        folder = folder.absolute()
        if (folder / "saved_model.pb").is_file() and folder.name.isdecimal():
            raise ConfigError(f"{folder} is one version of a model; name the folder of the model: {folder.parent}")
        if not version_folders(folder):
            raise ServingError(
                f"{folder} has no version of a model; versions are subfolders such as {folder / '1'} with a "
                "saved_model.pb. Make them with `rsseg-tf export --format savedmodel`."
            )
        self.name = check_model_name(name or folder.name)
        self.rest_port = self.grpc_port = 0
        versions = Versions(
            self.name,
            folder,
            keep=self.options.keep,
            labels=self.options.labels,
            threads=self.options.threads,
            report=report,
        )
        self._service = Service(versions, self.options.limits, self.options.batching)
        self._rpc: grpc.Server | None = None
        self._rest: uvicorn.Server | None = None
        self._rest_thread: threading.Thread | None = None

    def start(self) -> None:
        """Loads the model and answers requests; returns when it does.

        Raises:
            ServingError: When no version can be loaded, or a port cannot be had.
        """
        options = self.options
        with contextlib.ExitStack() as undo:
            undo.callback(self._service.close)
            self._service.versions.start(options.poll_s)
            listener = undo.enter_context(_listen(options.host, options.rest_port))
            self.rest_port = listener.getsockname()[1]
            self._rpc, self.grpc_port = rpc_server(self._service, options.host, options.grpc_port)
            # From here on `stop` releases all of it.
            undo.pop_all()
        self._rpc.start()
        self._rest = uvicorn.Server(
            uvicorn.Config(
                rest_app(self._service, options.metrics_path, options.cors_origins),
                http=connection_factory(options.limits.client_timeout_s, options.limits.max_connections),  # type: ignore[arg-type]
                # Everything that the interface does not have is off.
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
                timeout_graceful_shutdown=int(_STOP_S),
            )
        )
        self._rest_thread = threading.Thread(
            target=self._rest.run, kwargs={"sockets": [listener]}, name="rest", daemon=True
        )
        self._rest_thread.start()

    def stop(self) -> None:
        """Answers what has arrived, refuses what comes, and releases the model."""
        if self._rest is not None and self._rest_thread is not None:
            self._rest.should_exit = True
            self._rest_thread.join()
        if self._rpc is not None:
            self._rpc.stop(grace=_STOP_S).wait()
        self._service.close()

    def run(self, started: Callable[[], None]) -> None:
        """Serves until SIGTERM or SIGINT; for the main thread of a process, whose garbage collector it tunes.

        Args:
            started: Called when requests are answered.
        """
        stop = threading.Event()

        def request_stop(number: int, frame: FrameType | None) -> None:
            stop.set()

        # An image in JSON is ten thousands of lists, which made the collector go over all objects of the process again
        # and again, half a million of TensorFlow's among them: three quarters of a REST request's time.
        gc.collect()
        gc.freeze()  # objects made before the model is loaded stay for good
        gc.set_threshold(*_GC_THRESHOLDS)
        before = {number: signal.signal(number, request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            self.start()
            started()
            stop.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        self.stop()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Raises:
        ServingError: When the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        # The port of a server that ended a moment ago is free at once.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ServingError(
            f"The REST port {port} of {host} cannot be had: {error.strerror}. Choose another with --rest-port, or 0 "
            "for any free one."
        ) from error
    return listener
