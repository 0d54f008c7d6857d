"""The server as its clients see it: TensorFlow Serving's own client, curl, and plain HTTP."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from rsseg_tf.assets import asset_dir
from rsseg_tf.errors import ConfigError, ServingError
from tests.fixtures.http import ask, grpc, request_of, rest
from tests.fixtures.models import pixels, reference, write_model

from rsseg_tf.serving.limits import BatchOptions, Limits  # isort: skip
from rsseg_tf.serving.server import Server, ServerOptions  # isort: skip

PREDICT = "/v1/models/tiny:predict"


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


# === gRPC ===


def test_the_client_of_tensorflow_serving_gets_what_the_model_computes(server: Server) -> None:
    images = pixels(2)
    expected = reference(images)
    answer = ask(server, request_of({"pixels": images}))
    assert set(answer) == {"class_map", "confidence"} and answer["class_map"].dtype == np.uint8
    assert np.array_equal(answer["class_map"], expected.argmax(-1))
    logits = ask(server, request_of({"pixels": images}, "logits"))["logits"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_outputs_can_be_chosen(server: Server) -> None:
    assert set(ask(server, request_of({"pixels": pixels(1)}, outputs=["class_map"]))) == {"class_map"}


def test_encoded_images_come_back_as_png(server: Server) -> None:
    images = pixels(2)
    answer = ask(server, request_of({"image_bytes": [png(image) for image in images]}, "predict_bytes"))
    found = [cv2.imdecode(np.frombuffer(data, np.uint8), -1) for data in answer["class_map_png_bytes"]]
    assert np.array_equal(found, reference(images).argmax(-1))


def test_versions_and_labels_can_be_asked_for(server: Server) -> None:
    request = request_of({"pixels": pixels(1)})
    request.model_spec.version.value = 1
    assert ask(server, request)
    request.model_spec.version_label = "stable"
    assert ask(server, request)


def test_metadata_status_and_health_over_grpc(server: Server) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_service_pb2_grpc,
        prediction_service_pb2_grpc,
    )

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "tiny"
        response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=60)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(signatures)
        assert {"serving_default", "logits", "predict_bytes"} <= set(signatures.signature_def)
        assert response.model_spec.version.value == 1

        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "tiny"
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        (found,) = models.GetModelStatus(status, timeout=60).model_version_status
        assert (found.version, found.state, found.status.error_code) == (1, found.State.AVAILABLE, 0)
        with pytest.raises(grpc.RpcError) as caught:
            models.HandleReloadConfigRequest(_reload(), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", "tiny"):
            assert health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60).status == 1
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == 1
        watch.cancel()
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=60)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def _reload() -> object:
    from tensorflow_serving.apis import model_management_pb2

    return model_management_pb2.ReloadConfigRequest()


# === REST ===


def test_rows_and_columns(server: Server) -> None:
    images = pixels(2)
    classes, logits = reference(images).argmax(-1), reference(images)
    status, answer = rest(server, PREDICT, {"instances": images.tolist()})
    assert status == 200
    assert np.array_equal([one["class_map"] for one in answer["predictions"]], classes)
    status, answer = rest(server, PREDICT, {"inputs": {"pixels": images.tolist()}})
    assert status == 200 and np.array_equal(answer["outputs"]["class_map"], classes)
    status, answer = rest(server, PREDICT, {"signature_name": "logits", "instances": [{"pixels": images[0].tolist()}]})
    assert status == 200
    np.testing.assert_allclose(answer["predictions"], logits[:1], atol=1e-5)


def test_encoded_images_over_rest(server: Server) -> None:
    images = pixels(2)
    named = [{"image_bytes": b64(png(image))} for image in images]
    for values in ({"instances": named}, {"inputs": [one["image_bytes"] for one in named]}):
        status, answer = rest(server, PREDICT, {"signature_name": "predict_bytes", **values})
        assert status == 200
        (encoded,) = answer.values()
        found = [cv2.imdecode(np.frombuffer(base64.b64decode(one["b64"]), np.uint8), -1) for one in encoded]
        assert np.array_equal(found, reference(images).argmax(-1))


def test_text_comes_back_as_text(server: Server) -> None:
    status, answer = rest(server, PREDICT, {"signature_name": "manifest", "instances": [""]})
    assert status == 200 and json.loads(answer["predictions"][0])["model"] == "tiny"


@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/stable"])
def test_status_metadata_and_predictions_of_versions_and_labels(server: Server, place: str) -> None:
    status, answer = rest(server, f"/v1/models/tiny{place}")
    assert status == 200
    assert answer == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    status, answer = rest(server, f"/v1/models/tiny{place}/metadata")
    assert status == 200 and answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
    signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["pixels"]["dtype"] == "DT_UINT8"
    assert [one["size"] for one in signature["inputs"]["pixels"]["tensor_shape"]["dim"]] == ["-1", "-1", "-1", "3"]
    assert rest(server, f"/v1/models/tiny{place}:predict", {"instances": pixels(1).tolist()})[0] == 200


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_works(server: Server, tmp_path: Path) -> None:
    body = tmp_path / "body.json"  # large enough that curl waits for "100 Continue"
    body.write_text(json.dumps({"instances": np.tile(pixels(1, 100, 100), (12, 1, 1, 1)).tolist()}), "utf-8")
    assert body.stat().st_size > 1_100_000
    url = f"http://127.0.0.1:{server.rest_port}{PREDICT}"
    command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--data", f"@{body}", url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert len(json.loads(result.stdout)["predictions"]) == 12


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_line_sends_an_image_of_any_size(server: Server, tmp_path: Path) -> None:
    """As an argument of curl, 128 kB would be too long."""
    image = np.random.default_rng(0).integers(0, 256, (440, 440, 3), np.uint8)
    (tmp_path / "tile.png").write_bytes(png(image))
    assert (tmp_path / "tile.png").stat().st_size > 500_000
    run_documented("base64 < tile.png", server, tmp_path)
    found = cv2.imread(str(tmp_path / "labels.png"), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(found, reference(image[np.newaxis])[0].argmax(-1))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_line_sends_the_pixels_of_a_whole_tile(exported: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    (tmp_path / "tile.png").write_bytes(png(image))
    with Server(exported, options=ServerOptions(rest_port=0, grpc_port=0)) as usual:  # with the usual limits
        run_documented("json.dumps", usual, tmp_path)
    (answer,) = json.loads((tmp_path / "answer.json").read_bytes())["predictions"]
    assert np.array_equal(answer["class_map"], reference(image[np.newaxis])[0].argmax(-1))


def run_documented(words: str, server: Server, folder: Path) -> None:
    """Runs the command of the README that has these words, with the server's port and model."""
    blocks = (asset_dir("serving") / "README.md").read_text("utf-8").split("```")[1::2]
    (command,) = (block for block in blocks if words in block)
    command = command.replace("http://127.0.0.1:8501", f"http://127.0.0.1:{server.rest_port}")
    command = command.replace("example_model", "tiny").replace("curl ", "curl --silent --fail --noproxy '*' ")
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-ec", command], cwd=folder, env=environment, capture_output=True, timeout=60, check=True)


@pytest.mark.parametrize("change", [lambda text: text.rstrip("="), lambda text: "\n".join(re.findall(".{1,76}", text))])
def test_base64_as_tools_write_it(server: Server, change: Callable[[str], str]) -> None:
    images = pixels(1, 20, 20)
    body = {"signature_name": "predict_bytes", "instances": [{"b64": change(b64(png(images[0]))["b64"])}]}
    assert rest(server, PREDICT, body)[0] == 200
    body["instances"] = [{"b64": "-_-_"}]
    status, answer = rest(server, PREDICT, body)
    assert status == 400 and "alphabet for URLs" in answer["error"]


def test_health_and_metrics(server: Server) -> None:
    assert rest(server, "/healthz")[0] == 200
    assert rest(server, "/readyz") == (200, {"available": [1]})
    before = metric(server, 'requests_total{api="rest",signature="logits",status="OK"}')
    rest(server, PREDICT, {"signature_name": "logits", "instances": pixels(1).tolist()})
    assert metric(server, 'requests_total{api="rest",signature="logits",status="OK"}') == before + 1
    assert metric(server, 'version_available{version="1"}') == 1
    assert metric(server, "queued_images") == 0


def metric(server: Server, name: str) -> float:
    import urllib.request

    url = f"http://127.0.0.1:{server.rest_port}/monitoring/prometheus/metrics"
    with urllib.request.urlopen(url, timeout=60) as page:
        lines = page.read().decode().splitlines()
    found = [line for line in lines if line.startswith(f"rsseg_tf_serving_{name} ")]
    return float(found[0].split()[-1]) if found else 0.0


def test_made_up_names_do_not_grow_the_metrics(server: Server) -> None:
    rest(server, PREDICT, {"signature_name": "none", "instances": [1]})
    size = len(server._service.metrics.page().splitlines())
    for i in range(50):
        rest(server, PREDICT, {"signature_name": f"none{i}", "instances": [1]})
        rest(server, f"/v1/models/none{i}:predict", {"instances": [1]})
    assert len(server._service.metrics.page().splitlines()) - size <= 2  # the line of NOT_FOUND, and when it began


# === Batching ===


def test_requests_that_are_computed_together_give_what_they_give_alone(server: Server) -> None:
    images = [pixels(1 + seed % 2, 12 + seed % 3, seed=seed) for seed in range(24)]
    before = metric(server, "batch_images_count")

    def one(values: np.ndarray) -> np.ndarray:
        return ask(server, request_of({"pixels": values}, "logits"))["logits"]

    with ThreadPoolExecutor(24) as pool:
        together = list(pool.map(one, images))
    runs = metric(server, "batch_images_count") - before
    assert runs < len(images), "nothing was batched"
    for values, logits in zip(images, together, strict=True):
        np.testing.assert_allclose(logits, reference(values), atol=1e-5)
        np.testing.assert_allclose(logits, one(values), atol=1e-5)


# === Starting and stopping ===


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    listening = [one.laddr for one in psutil.Process().net_connections("inet") if one.status == psutil.CONN_LISTEN]
    ports = {server.rest_port, server.grpc_port}
    mine = [address for address in listening if address.port in ports]
    assert {address.port for address in mine} == ports
    assert {address.ip for address in mine} <= {"127.0.0.1", "::ffff:127.0.0.1"}


def test_requests_that_run_are_answered_before_it_stops(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    batching = BatchOptions(max_batch_size=64, batch_timeout_micros=1_000_000)
    server = Server(tmp_path, "tiny", ServerOptions(rest_port=0, grpc_port=0, batching=batching))
    server.start()
    with ThreadPoolExecutor(2) as pool:
        over_grpc = pool.submit(ask, server, request_of({"pixels": pixels(1)}))
        over_rest = pool.submit(rest, server, PREDICT, {"instances": pixels(1).tolist()})
        while server._service.batcher.waiting < 2:
            threading.Event().wait(0.01)
        server.stop()
        assert over_grpc.result()["class_map"].shape == (1, 12, 9) and over_rest.result()[0] == 200
    with pytest.raises(OSError):
        rest(server, "/healthz")


def test_a_busy_server_refuses_and_recovers(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    limits = Limits(max_concurrent=2)
    batching = BatchOptions(max_batch_size=64, batch_timeout_micros=1_000_000)
    with Server(tmp_path, "tiny", ServerOptions(rest_port=0, grpc_port=0, limits=limits, batching=batching)) as server:
        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(ask, server, request_of({"pixels": pixels(1)})) for _ in range(2)]
            while server._service.batcher.waiting < 2:
                threading.Event().wait(0.01)
            status, answer = rest(server, PREDICT, {"instances": pixels(1).tolist()})
            assert status == 503 and "busy with 2 requests" in answer["error"]
            with pytest.raises(grpc.RpcError) as caught:
                ask(server, request_of({"pixels": pixels(1)}))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert all(answer.result() for answer in answers)
        assert ask(server, request_of({"pixels": pixels(1)}))


def test_an_answer_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    limits = Limits(request_timeout_s=0.2)
    batching = BatchOptions(max_batch_size=64, batch_timeout_micros=1_000_000)
    with Server(tmp_path, "tiny", ServerOptions(rest_port=0, grpc_port=0, limits=limits, batching=batching)) as server:
        status, answer = rest(server, PREDICT, {"instances": pixels(1).tolist()})
        assert status == 504 and "no answer within 0.2 seconds" in answer["error"]
        with pytest.raises(grpc.RpcError) as caught:
            ask(server, request_of({"pixels": pixels(1)}))
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("port", ["rest_port", "grpc_port"])
def test_a_port_in_use_is_an_error_that_says_so(server: Server, exported: Path, port: str) -> None:
    options = {"rest_port": 0, "grpc_port": 0, port: getattr(server, port)}
    with pytest.raises(ServingError, match=f"{getattr(server, port)} of 127.0.0.1 cannot be had"):
        Server(exported, options=ServerOptions(**options)).start()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: Server(folder / "none"), "none cannot be read"),
        (lambda folder: Server(folder), "has no version of a model"),
        (lambda folder: Server(folder, "../x"), "has no version of a model"),
    ],
)
def test_a_folder_without_a_model_is_an_error(make: Callable[[Path], Server], message: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=message):
        make(tmp_path)


def test_a_name_that_leaves_its_place_is_an_error(exported: Path) -> None:
    for name in ("../x", "a/b", "", "a b", ".hidden", "x" * 65):
        with pytest.raises(ConfigError, match="name must be"):
            Server(exported, name or "/")
    with pytest.raises(ConfigError, match="one version of a model; name the folder of the model"):
        Server(exported / "1")
    with pytest.raises(ConfigError, match="metrics_path"):
        ServerOptions(metrics_path="metrics")


def test_memory_stays_flat(server: Server) -> None:
    image = pixels(1, 40, 40)
    body = json.dumps({"instances": image.tolist()}).encode()
    process = psutil.Process()

    def some(count: int) -> int:
        for i in range(count):
            assert rest(server, PREDICT, body)[0] == 200
            ask(server, request_of({"pixels": pixels(1, 64 + i % 4)}, "logits"))
            assert rest(server, PREDICT, {"instances": "nonsense"})[0] == 400
        return process.memory_info().rss

    some(40)
    before = some(10)
    assert some(80) - before < 10 * 2**20
