"""Requests that nobody should send, to a server in a process of its own; it must answer sound ones all the while.

Three kinds: bytes to the HTTP port, bodies to the REST interface, messages to the gRPC interface. A request survives if
the server answers it with a status (or closes the connection, where it is no HTTP), and never with 500. After every
hundred a sound request must be answered, readiness must hold, and memory must not have grown beyond a bound.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.figures import Figure
from tests.torture.mutations import mutated

__all__ = ["ALL", "run"]

ALL = 2000
"""Requests of each kind where nobody says how many."""
_PATH = "/v1/models/tiny:predict"
_EVERY = 100
_MOST_GROWTH = 1500 * 2**20
_SHOWN = 5


class Served:
    """`rsseg-tf serve` with a model of a few weights."""

    def __init__(self, folder: Path) -> None:
        from tests.fixtures.models import write_model

        (folder / "tiny").mkdir()
        write_model(folder / "tiny" / "1")
        command = [sys.executable, "-m", "rsseg_tf.cli", "serve", str(folder / "tiny"), "--rest-port", "0"]
        command += ["--grpc-port", "0", "--client-timeout", "3", "--max-body-mb", "4", "--max-pixels", "400000"]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        assert self.process.stdout is not None
        told = ""
        for line in self.process.stdout:
            told += line
            if line.startswith("Ctrl-C"):
                break
        found = re.findall(r"127\.0\.0\.1:(\d+)", told)
        if len(found) != 2:
            raise RuntimeError(f"the server does not start: {told}")
        self.rest_port, self.grpc_port = map(int, found)
        self.sound()
        self.base = self.memory()

    def memory(self) -> int:
        """Returns the most memory that the process had so far, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])  # type: ignore[index]

    def raw(self, data: bytes, *, ends: bool = False) -> bytes:
        """Sends bytes and returns what comes back, until the server closes; `ends` says that no more will come."""
        with socket.create_connection(("127.0.0.1", self.rest_port), timeout=30) as connection:
            answer = b""
            with contextlib.suppress(ConnectionError, *((TimeoutError,) if ends else ())):
                connection.sendall(data)
                if ends:
                    connection.settimeout(0.3)  # to what is not whole there is no answer for seconds
                while part := connection.recv(65536):
                    answer += part
        return answer

    def post(self, body: bytes) -> int:
        """Sends a body and returns the status."""
        head = f"POST {_PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = self.raw(head.encode() + body)
        return int(answer.split()[1]) if answer.startswith(b"HTTP/1.1 ") else 0

    def sound(self) -> None:
        """Asks what must be answered, over both interfaces."""
        from tests.fixtures.models import pixels, reference

        body = json.dumps({"signature_name": "logits", "instances": pixels(1).tolist()}).encode()
        head = f"POST {_PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        answer = self.raw(head.encode() + body)
        found = np.array(json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"])
        np.testing.assert_allclose(found, reference(pixels(1)), atol=1e-4)
        if not self.raw(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200"):
            raise AssertionError("the server is not ready any more")

    def close(self) -> None:
        """Ends the process."""
        self.process.terminate()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


# === Requests ===


def _images() -> list[bytes]:
    import cv2

    from tests.fixtures.gifs import gif

    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    images = [cv2.imencode(suffix, pixels)[1].tobytes() for suffix in (".png", ".jpg", ".bmp", ".tif", ".gif", ".webp")]
    progressive = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    bombs = [gif((8, 8), [(5000, 5000)]), gif((8, 8), [(600, 600)] * 40), gif((8, 8), [(30, 20)] * 3, comments=50)]
    return [*images, progressive, *bombs]


def _body(rng: random.Random, images: list[bytes]) -> bytes:
    image = rng.choice(images)
    if rng.random() < 0.7:
        image = mutated(image, rng.choice(images), rng)
    encoded = base64.b64encode(image).decode()
    value: Any = {"b64": rng.choice([encoded, encoded.rstrip("="), encoded + "\n", encoded[:-1], "*" + encoded])}
    rows: Any = rng.choice(
        [[value], [{"image_bytes": value}] * rng.choice([1, 2, 70]), value, [[value]], [encoded], []]
    )
    whole = np.zeros((1, rng.randrange(4), 3, 3), int).tolist()
    requests: list[Any] = [
        {"signature_name": "predict_bytes", "instances": rows},
        {"signature_name": "predict_bytes", "inputs": rows},
        {"signature_name": rng.choice(["logits", "", "x" * 5000, "serving_default"]), "instances": whole},
        {"instances": rng.choice([[1e400], [[[[300, 0, 0]]]], [[[["x"]]]], [[[[None]]]], [{}], [[]], 3, None])},
    ]
    body = json.dumps(rng.choice([*requests, *requests[:1] * 4])).encode()
    return mutated(body, image, rng) if rng.random() < 0.4 else body


def _http(rng: random.Random) -> bytes:
    body = b'{"instances": [[[[1, 2, 3]]]]}'
    sound = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (_PATH.encode(), len(body), body)
    chunked = b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    start = rng.choice([sound, chunked % (_PATH.encode(), len(body), body), b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n"])
    extra = rng.choice(
        [b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"X: " + b"y" * 20_000 + b"\r\n"]
    )
    start = start.replace(b"Host: x\r\n", b"Host: x\r\n" + extra, 1)
    return mutated(start * rng.choice([1, 1, 3]), sound, rng)


def _message(rng: random.Random, images: list[bytes]) -> bytes:
    import tensorflow as tf

    from tests.fixtures.http import request_of
    from tests.fixtures.models import pixels

    image = mutated(rng.choice(images), images[0], rng)
    request = rng.choice(
        [
            request_of({"pixels": pixels(1, 4, 4)}, rng.choice(["", "logits", "none"])),
            request_of({"image_bytes": [image] * rng.choice([1, 3])}, "predict_bytes"),
            request_of({"pixels": pixels(1, 4, 4).astype(rng.choice(["float16", "float32", "int64", "complex64"]))}),
            request_of({"pixels": np.array([["a"]], object)}),
        ]
    )
    if rng.random() < 0.4:
        for tensor in request.inputs.values():
            change = rng.randrange(4)
            if change == 0:
                tensor.dtype = rng.choice([0, 1, 3, 4, 7, 14, 19, 20, 21, 22, 23, 101, 999])
            elif change == 1:
                sizes = [rng.choice([-1, 0, 1, 4, 2**31, 2**62]) for _ in range(rng.randrange(6))]
                tensor.tensor_shape.CopyFrom(tf.TensorShape(None).as_proto())
                tensor.tensor_shape.unknown_rank = False
                for size in sizes:
                    tensor.tensor_shape.dim.add(size=size)
            elif change == 2:
                tensor.half_val.extend([70_000, -1])
            else:
                tensor.tensor_content = rng.randbytes(rng.randrange(100))
    data = request.SerializeToString()
    return mutated(data, image, rng) if rng.random() < 0.5 else bytes(data)


# === What is asked of the server ===


def run(seed: int, limit: int | None = None) -> list[Figure]:
    """Sends requests of each kind, eight at a time; see `tests.torture.figures`."""
    import grpc

    count = ALL if limit is None else limit
    images = _images()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        served = Served(Path(folder))
        try:
            with grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}") as channel:
                send = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

                def http(rng: random.Random) -> str:
                    answer = served.raw(_http(rng), ends=True)
                    return "it was answered with 500" if re.match(rb"HTTP/1\.1 500", answer) else ""

                def rest(rng: random.Random) -> str:
                    status = served.post(_body(rng, images))
                    return "" if 200 <= status < 600 and status != 500 else f"it was answered with {status}"

                def messages(rng: random.Random) -> str:
                    try:
                        send(_message(rng, images), timeout=60)
                    except grpc.RpcError as error:
                        wrong = (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED)
                        if error.code() in wrong:
                            return f"it was answered with {error.code().name}: {str(error.details())[:100]}"
                    return ""

                kinds = {"bytes to the HTTP port": http, "bodies over REST": rest, "messages over gRPC": messages}
                return [_figure(served, name, ask, seed, count) for name, ask in kinds.items()]
        finally:
            served.close()


def _figure(served: Served, name: str, ask: Callable[[random.Random], str], seed: int, count: int) -> Figure:
    failures: list[str] = []

    def one(item: int) -> str:
        try:
            why = ask(random.Random(f"{seed}/{name}/{item}"))
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        return f"request {item} of seed {seed}: {why}" if why else ""

    with ThreadPoolExecutor(8) as pool:
        for start in range(0, count, _EVERY):
            failures += filter(None, pool.map(one, range(start, min(start + _EVERY, count))))
            try:
                served.sound()
            except Exception as error:
                failures.append(f"after request {start + _EVERY} of seed {seed} a sound one fails: {error}")
                break
    grown = served.memory() - served.base
    if grown > _MOST_GROWTH:
        failures.append(f"the server took {grown >> 20} MiB more than at its start")
    note = f"{len(failures)} failed: {'; '.join(failures[:_SHOWN])}" if failures else f"{grown >> 20} MiB more at most"
    return Figure(f"ask a server: {name}", count, count - len(failures), note)


if __name__ == "__main__":
    began = time.monotonic()
    for figure in run(int(sys.argv[1]), int(sys.argv[2])):
        print(figure)
    print(f"{time.monotonic() - began:.0f} s")
