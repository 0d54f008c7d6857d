"""Asks a running server, TensorFlow Serving or `rsseg-tf serve`, everything that clients will ask.

Exit code 1 where an answer is wrong.

    python smoke_test.py [--host 127.0.0.1] [--rest-port 8501] [--grpc-port 8500] [--model-name example_model]

The part over REST needs Python alone, and prints the curl command for each step; --bodies DIR writes what is too long
for a command to files, which the commands name. The part over gRPC needs tensorflow-serving-api;
--no-grpc leaves it out.
"""

from __future__ import annotations

import argparse
import base64
import json
import struct
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIDE = 64
LONGEST_START_S = 120


class Failure(Exception):
    """A step went wrong."""


class Smoke:
    """The steps; each raises Failure."""

    def __init__(self, host: str, rest_port: int, grpc_port: int, model: str, bodies: Path | None = None) -> None:
        self.base = f"http://{host}:{rest_port}/v1/models/{model}"
        self.grpc = f"{host}:{grpc_port}"
        self.model = model
        self.bodies = bodies
        self.written = 0
        self.dtype, self.bands = "DT_UINT8", 3

    def ask(self, url: str, body: Any = None) -> tuple[int, Any]:
        """Returns HTTP status and JSON of a request, and prints how curl makes it."""
        data = None if body is None else json.dumps(body).encode()
        print(f"  curl{'' if data is None else self.shown(data)} {url}")
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=120) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def shown(self, data: bytes) -> str:
        """Returns how curl sends a body: as an argument, or from a file, since an argument may have 128 kB at most."""
        if len(data) < 200:
            return f" -d '{data.decode()}'"
        if self.bodies is None:
            return f" -d @- < BODY ({len(data)} bytes, see --bodies)"
        self.written += 1
        path = self.bodies / f"body_{self.written}.json"
        path.write_bytes(data)
        return f" -d @{path}"

    def wait(self) -> None:
        """The model becomes available."""
        last: Any = None
        for _ in range(LONGEST_START_S):
            try:
                _, last = self.ask(self.base)
                if any(one["state"] == "AVAILABLE" for one in last.get("model_version_status", [])):
                    return
            except (OSError, ValueError) as error:
                last = error
            time.sleep(1)
        raise Failure(f"not available after {LONGEST_START_S} s: {last}")

    def metadata(self) -> None:
        """The signatures are those of `rsseg-tf export`."""
        status, answer = self.ask(f"{self.base}/metadata")
        require(status == 200, answer)
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        require({"serving_default", "logits", "predict_bytes"} <= set(signatures), sorted(signatures))
        pixels = signatures["serving_default"]["inputs"]["pixels"]
        self.dtype = pixels["dtype"]
        self.bands = int(pixels["tensor_shape"]["dim"][3]["size"])

    def image(self) -> list[list[list[int]]]:
        """Returns a test image as rows of pixels."""
        return [
            [[(3 * x + 5 * y + 50 * band) % 256 for band in range(self.bands)] for x in range(SIDE)]
            for y in range(SIDE)
        ]

    def predict_rest(self) -> None:
        """Row format, one image."""
        status, answer = self.ask(f"{self.base}:predict", {"instances": [self.image()]})
        require(status == 200, answer)
        labels = answer["predictions"][0]["class_map"]
        require((len(labels), len(labels[0])) == (SIDE, SIDE), "the class map has another size than the image")

    def predict_encoded(self) -> None:
        """An encoded image in, a PNG out."""
        if self.bands != 3:
            print(f"  the model has {self.bands} bands; PNG with three do not suit it")
            return
        body = {
            "signature_name": "predict_bytes",
            "instances": [{"image_bytes": {"b64": base64.b64encode(png(self.image())).decode()}}],
        }
        status, answer = self.ask(f"{self.base}:predict", body)
        require(status == 200, answer)
        encoded = base64.b64decode(answer["predictions"][0]["b64"])
        require(encoded.startswith(b"\x89PNG"), "the answer is no PNG")

    def refuse(self) -> None:
        """Nonsense is refused, and the server goes on."""
        for body in (
            {"instances": "nonsense"},
            {"instances": [[[[1, 2]]]]},
            {"signature_name": "none", "instances": [1]},
        ):
            status, answer = self.ask(f"{self.base}:predict", body)
            require(400 <= status < 500 and "error" in answer, (status, answer))
        status, _ = self.ask(self.base.replace(self.model, "no_such_model"))
        require(status == 404, status)

    def metrics(self) -> None:
        """Prometheus finds its page."""
        url = self.base.split("/v1/")[0] + "/monitoring/prometheus/metrics"
        print(f"  curl {url}")
        with urllib.request.urlopen(url, timeout=30) as response:
            require(b"# TYPE" in response.read(), "the page has no metrics")

    def predict_grpc(self) -> None:
        """Over gRPC, with the choice of one output."""
        import grpc
        import numpy as np
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

        request = predict_pb2.PredictRequest(output_filter=["class_map"])
        request.model_spec.name = self.model
        pixels = np.array([self.image()], np.uint8 if self.dtype == "DT_UINT8" else np.float32)
        request.inputs["pixels"].CopyFrom(tf.make_tensor_proto(pixels))
        with grpc.insecure_channel(self.grpc) as channel:
            answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=120)
        labels = tf.make_ndarray(answer.outputs["class_map"])
        require(labels.shape == (1, SIDE, SIDE) and labels.dtype == np.uint8, (labels.shape, labels.dtype))


def require(condition: bool, told: object) -> None:
    """Raises Failure unless the condition holds."""
    if not condition:
        raise Failure(str(told)[:500])


def png(rows: list[list[list[int]]]) -> bytes:
    """Encodes an image of three bands, without any library."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    raw = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def main() -> None:
    """Runs all steps and says which failed."""
    parser = argparse.ArgumentParser(description="Ask a running model server everything that clients will ask.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--rest-port", type=int, default=8501)
    parser.add_argument("--grpc-port", type=int, default=8500)
    parser.add_argument("--model-name", default="example_model")
    parser.add_argument("--bodies", type=Path, metavar="DIR", help="write long bodies of requests here, for curl")
    parser.add_argument("--no-grpc", action="store_true", help="leave out the step that needs tensorflow-serving-api")
    arguments = parser.parse_args()
    if arguments.bodies:
        arguments.bodies.mkdir(parents=True, exist_ok=True)
    smoke = Smoke(arguments.host, arguments.rest_port, arguments.grpc_port, arguments.model_name, arguments.bodies)
    steps: list[Callable[[], None]] = [smoke.wait, smoke.metadata, smoke.predict_rest, smoke.predict_encoded]
    steps += [smoke.refuse, smoke.metrics]
    if not arguments.no_grpc:
        steps.append(smoke.predict_grpc)
    for step in steps:
        print(step.__doc__)
        try:
            step()
        except Exception as error:
            sys.exit(f"FAILED: {step.__doc__} {type(error).__name__}: {error}")
    print(f"All {len(steps)} steps succeeded.")


if __name__ == "__main__":
    main()
