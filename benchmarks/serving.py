"""Load on `rsseg-tf serve` over loopback: throughput, latency, failures and memory, with and without batching.

    python -m benchmarks.serving --requests 300 --clients 8 --sides 64 256

The server runs in a process of its own and the clients are threads of this one, on the same processors, so that the
figures are lower than those of a server with a machine to itself. Each client sends its next request when it has the
answer to the last; each request is one image of random bytes, for the signature serving_default. The weights are
random, which does not change the time. Needs the extras `serving` and `test`.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil

from benchmarks.measuring import Figures, parser_of

CONFIG = "deeplabv3plus/deeplabv3plus_resnet18_vd_synthetic_256x256_quick.yml"
WARM_UP = 16


def export(folder: Path) -> None:
    """Exports a model with random weights as version 1."""
    from rsseg_tf import build_model, load_config
    from rsseg_tf.checkpoint import TrainState, save_checkpoint
    from rsseg_tf.export import load_trained, write_savedmodel

    config = load_config(CONFIG, ["model.backbone.pretrained=null"])
    save_checkpoint(folder / "checkpoint", build_model(config), None, TrainState(), config)
    write_savedmodel(load_trained(folder / "checkpoint"), folder / "model" / "1")


class Served:
    """`rsseg-tf serve` in a process of its own."""

    def __init__(self, folder: Path, batch: int, threads: int, timeout_micros: int) -> None:
        options = ["--rest-port", "0", "--grpc-port", "0", "--max-batch-size", str(batch)]
        options += ["--num-batch-threads", str(threads), "--batch-timeout-micros", str(timeout_micros)]
        command = [sys.executable, "-m", "rsseg_tf.cli", "serve", str(folder), "--model-name", "model", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        told = ""
        for line in self.process.stdout or ():
            told += line
            if line.startswith("Ctrl-C"):
                break
        found = re.search(r"REST: http://127\.0\.0\.1:(\d+)/.*gRPC: 127\.0\.0\.1:(\d+)", told, re.S)
        if found is None:
            raise SystemExit(f"The server did not start:\n{told}")
        self.rest_port, self.grpc_port = int(found[1]), int(found[2])

    def memory_mib(self) -> float:
        """Returns the resident memory of the server."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def stop(self) -> None:
        """Ends the server."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()


def grpc_client(served: Served, pixels: np.ndarray) -> Callable[[], None]:
    """Returns a function that makes one request over gRPC."""
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each client, as clients elsewhere would have
    channel = grpc.insecure_channel(f"127.0.0.1:{served.grpc_port}", options)
    predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
    request = predict_pb2.PredictRequest(output_filter=["class_map"])
    request.model_spec.name = "model"

    def ask() -> None:
        request.inputs["pixels"].CopyFrom(tf.make_tensor_proto(pixels))
        answer = tf.make_ndarray(predict(request, timeout=60).outputs["class_map"])
        if answer.shape != pixels.shape[:3]:
            raise ValueError(f"a class map {answer.shape} for {pixels.shape}")

    return ask


def rest_client(served: Served, pixels: np.ndarray) -> Callable[[], None]:
    """Returns a function that makes one request over REST."""
    connection = http.client.HTTPConnection("127.0.0.1", served.rest_port, timeout=60)
    body = json.dumps({"instances": pixels.tolist()})  # once: what is measured is the server

    def ask() -> None:
        connection.request("POST", "/v1/models/model:predict", body)
        response = connection.getresponse()
        answer = orjson.loads(response.read())
        if response.status != 200 or len(answer["predictions"][0]["class_map"]) != pixels.shape[1]:
            raise ValueError(f"HTTP {response.status}: {str(answer)[:200]}")

    return ask


def load(asks: list[Callable[[], None]], requests: int) -> tuple[list[float], int, float]:
    """Sends requests from several threads.

    Returns:
        Seconds of each request that succeeded, the number that failed, and seconds in all.
    """
    times: list[float] = []
    failed = 0
    left = iter(range(requests))
    lock = threading.Lock()

    def work(ask: Callable[[], None]) -> None:
        nonlocal failed
        while True:
            with lock:
                if next(left, None) is None:
                    return
            began = time.perf_counter()
            try:
                ask()
            except Exception as error:
                with lock:
                    failed += 1
                    if failed == 1:
                        print(f"the first failure: {type(error).__name__}: {error}", file=sys.stderr)
            else:
                with lock:
                    times.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work, args=(ask,)) for ask in asks]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, failed, time.perf_counter() - began


def measure(folder: Path, arguments: argparse.Namespace, api: str, side: int, batch: int, threads: int) -> list[str]:
    """Returns a row of the table."""
    served = Served(folder / "model", batch, threads, arguments.batch_timeout_micros)
    try:
        pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
        make: Any = grpc_client if api == "gRPC" else rest_client
        asks = [make(served, pixels) for _ in range(arguments.clients)]
        load(asks, WARM_UP * arguments.clients)
        before = served.memory_mib()
        times, failed, seconds = load(asks, arguments.requests)
        after = served.memory_mib()
    finally:
        served.stop()
    p50, p95, p99 = np.percentile(times, [50, 95, 99]) * 1000
    figures = [f"{len(times) / seconds:.1f}", f"{p50:.0f}", f"{p95:.0f}", f"{p99:.0f}", str(failed)]
    return [api, str(side), str(batch), str(threads), *figures, f"{before:.0f}", f"{after:.0f}"]


def main() -> None:
    """Prints a Markdown table."""
    parser = parser_of(__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--sides", type=int, nargs="+", default=(64, 256), help="height and width of the images")
    parser.add_argument("--batch", type=int, default=8, help="largest batch, where batches are formed")
    parser.add_argument("--batch-timeout-micros", type=int, default=2000)
    parser.add_argument("--apis", nargs="+", choices=("gRPC", "REST"), default=("gRPC", "REST"))
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    figures = Figures("serving")
    figures.table(
        *("", "side", "largest batch", "batch threads", "images/s", "p50 ms", "p95 ms", "p99 ms", "failed"),
        *("MiB before", "MiB after"),
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(folder)
        for api, side in itertools.product(arguments.apis, arguments.sides):
            for batch, threads in ((1, 2), (arguments.batch, 1), (arguments.batch, 2)):
                figures.row(*measure(folder, arguments, api, side, batch, threads))
    figures.add(f"\nLoad at the end: {os.getloadavg()[0]:.1f}.")
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
