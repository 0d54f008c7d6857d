"""The client: equal to a local model, in order, through busy, broken and restarted servers."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.errors import ConfigError, DataError, ExportError, NotFiniteError, ServingError
from rsseg_tf.manifest import Inference
from rsseg_tf.predict import InferenceOptions, predict_logits
from rsseg_tf.rasters.windows import Size
from tests.fixtures.http import Server
from tests.fixtures.models import SPEC, manifest, pixels, reference, write_model
from tests.fixtures.processes import Process

from rsseg_tf.serving.transports import Address  # isort: skip
from rsseg_tf.serving.client import RemotePredict, Retry, remote_predictor  # isort: skip
from rsseg_tf.serving.server import ServerOptions  # isort: skip
from rsseg_tf.serving.transports import RefusedError, RetryableError, open_transport  # isort: skip

NO_PATIENCE = Retry(timeout_s=20, patience_s=0)


def address_of(server: Server, api: str) -> str:
    return f"127.0.0.1:{server.grpc_port}" if api == "grpc" else f"http://127.0.0.1:{server.rest_port}"


# === Against a server ===


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_a_scene_is_predicted_as_with_the_model_itself(server: Server, api: str) -> None:
    predictor = remote_predictor(address_of(server, api), "tiny", in_flight=3)
    assert predictor.kind == "server" and predictor.spec == SPEC and predictor.manifest == manifest()
    assert predictor.options == InferenceOptions(
        is_slide=True, crop_size=Size(32, 32), stride=Size(24, 24), batch_size=3, tile=Size(32, 32)
    )
    (scene,) = pixels(1, 75, 91)
    remote = predict_logits(predictor.predict, scene, SPEC, predictor.options)
    local = predict_logits(reference, scene, SPEC, predictor.options)
    np.testing.assert_allclose(remote, local, atol=1e-5)
    batch = pixels(5, 20, 30)
    np.testing.assert_allclose(predictor.predict(batch), reference(batch), atol=1e-5)
    assert predictor.predict(batch).dtype == np.float32


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_resized_pixels_are_sent_as_bytes(server: Server, api: str) -> None:
    predictor = remote_predictor(address_of(server, api), "tiny")
    batch = pixels(1)
    np.testing.assert_allclose(predictor.predict(batch + np.float32(0.3)), reference(batch), atol=1e-5)
    with pytest.raises(DataError, match="takes bytes"):
        predictor.predict(batch.astype(np.float32) * 100)


def test_answers_may_exceed_the_usual_limit_of_grpc(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    with Server(tmp_path, "tiny", ServerOptions(rest_port=0, grpc_port=0)) as server:
        predictor = remote_predictor(f"127.0.0.1:{server.grpc_port}", "tiny")
        image = pixels(1, 700, 600)
        assert predictor.predict(image).nbytes > 4 * 2**20
        with pytest.raises(ServingError, match="RESOURCE_EXHAUSTED: .*larger than max"):
            predictor.predict(pixels(1, 4000, 4000))


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_what_the_server_refuses_is_an_error_at_once(server: Server, api: str, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="Servable not found"):
        remote_predictor(address_of(server, api), "other")
    predictor = remote_predictor(address_of(server, api), "tiny")
    with pytest.raises(RefusedError, match=r"360000 pixels; at most 200000|413: the body is larger"):
        predictor.predict(pixels(1, 600, 600))
    with pytest.raises(RefusedError, match="must have the shape"):
        predictor.predict(np.zeros((1, 8, 8, 4), np.uint8))


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_a_model_without_the_signature_manifest_needs_the_file(tmp_path: Path, api: str) -> None:
    write_model(tmp_path / "1", with_manifest=False)
    path = tmp_path / "manifest.json"
    path.write_text(manifest().to_json(), "utf-8")
    with Server(tmp_path, "tiny", ServerOptions(rest_port=0, grpc_port=0)) as server:
        with pytest.raises(ServingError, match="--manifest FILE"):
            remote_predictor(address_of(server, api), "tiny")
        predictor = remote_predictor(address_of(server, api), "tiny", manifest=path)
        assert predictor.spec == SPEC and predictor.predict(pixels(1)).shape == (1, 12, 9, 3)
        assert predictor.options.temperature == 1.0
        heated = manifest().model_copy(update={"inference": Inference(temperature=3.0)})
        path.write_text(heated.to_json(), "utf-8")
        assert remote_predictor(address_of(server, api), "tiny", manifest=path).options.temperature == 3.0
        with pytest.raises(ConfigError, match="cannot be read"):
            remote_predictor(address_of(server, api), "tiny", manifest=tmp_path / "none")
        path.write_text("{}", "utf-8")
        with pytest.raises(ExportError, match="cannot be used"):
            remote_predictor(address_of(server, api), "tiny", manifest=path)


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_nobody_listening_is_an_error_that_says_so(scheme: str) -> None:
    with pytest.raises(ServingError, match="did not answer in 1 try .* Is it running, and is the address right"):
        remote_predictor(f"{scheme}127.0.0.1:9", "tiny", retry=NO_PATIENCE)


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_the_status_of_versions(server: Server, api: str) -> None:
    transport = open_transport(Address.parse(address_of(server, api)), "tiny")
    assert transport.statuses(20) == [(1, "AVAILABLE")]
    with pytest.raises(ServingError, match="no signature none"):
        transport.input_dtype("none", "pixels", 20)
    transport.close()


# === Without one ===


class Flaky:
    """Answers late, and fails every third time."""

    def __init__(self) -> None:
        self.calls = 0
        self.most = self.running = 0
        self._lock = threading.Lock()

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray], output: str, timeout_s: float) -> np.ndarray:
        with self._lock:
            self.calls += 1
            fails = self.calls % 3 == 0
            self.running += 1
            self.most = max(self.most, self.running)
        image = inputs["pixels"]
        time.sleep(0.02 if image[0, 0, 0, 0] % 2 else 0.001)
        with self._lock:
            self.running -= 1
        if fails:
            raise RetryableError("busy")
        return np.repeat(image[..., :1].astype(np.float32), 2, axis=-1)

    def input_dtype(self, signature: str, name: str, timeout_s: float) -> str:
        return "uint8"

    def statuses(self, timeout_s: float) -> list[tuple[int, str]]:
        return []

    def close(self) -> None:
        pass


def test_answers_are_in_order_and_failures_are_tried_again() -> None:
    flaky = Flaky()
    predict = RemotePredict(flaky, "uint8", in_flight=4, retry=Retry(patience_s=30))
    batch = np.zeros((20, 2, 2, 3), np.uint8)
    batch[..., 0] = np.arange(20)[:, None, None]
    assert np.array_equal(predict(batch)[:, 0, 0, 0], np.arange(20))
    assert flaky.calls > 20 and 1 < flaky.most <= 4
    predict.close()


def test_values_that_are_not_finite_are_refused() -> None:
    class Broken(Flaky):
        def predict(self, signature: str, inputs: Mapping[str, np.ndarray], *_: object) -> np.ndarray:
            return np.full(inputs["pixels"].shape, np.nan, np.float32)

    predict = RemotePredict(Broken(), "uint8")
    with pytest.raises(NotFiniteError, match="the server's model gives values that are not finite"):
        predict(np.zeros((2, 4, 4, 3), np.uint8))
    predict.close()


def test_patience_ends_and_refusals_are_not_tried_again() -> None:
    tries: list[float] = []
    told: list[str] = []

    def busy(timeout_s: float) -> None:
        tries.append(timeout_s)
        raise RetryableError("busy")

    began = time.monotonic()
    with pytest.raises(ServingError, match=r"did not answer in \d+ tries over \d+ seconds: busy"):
        Retry(timeout_s=7, patience_s=0.5).call(busy, told.append)
    assert 0.4 < time.monotonic() - began < 10 and len(tries) > 2 and set(tries) == {7}
    assert told == ["No answer yet: busy. It is asked again for 0.5 seconds."]

    tries.clear()

    def refused(timeout_s: float) -> None:
        tries.append(timeout_s)
        raise RefusedError("no")

    with pytest.raises(RefusedError):
        Retry(patience_s=30).call(refused)
    assert len(tries) == 1


def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def busy(timeout_s: float) -> str:
        if len(pauses) < 12:
            raise RetryableError("busy")
        return "answer"

    assert Retry(patience_s=1000).call(busy) == "answer"
    bounds = [min(0.1 * 2**i, 5.0) for i in range(12)]
    assert all(0 <= pause <= bound for pause, bound in zip(pauses, bounds, strict=True))
    assert len(set(pauses)) == 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:8500", ("grpc", "localhost", 8500)),
        ("grpc://10.0.0.1:1", ("grpc", "10.0.0.1", 1)),
        ("http://a-b.example:8501/", ("rest", "a-b.example", 8501)),
        ("[::1]:8500", ("grpc", "::1", 8500)),
    ],
)
def test_addresses(text: str, expected: tuple[str, str, int]) -> None:
    address = Address.parse(text)
    assert address == expected and Address.parse(address.netloc).port == expected[2]


@pytest.mark.parametrize(
    "text", ["", "localhost", "localhost:0", "localhost:99999", "https://x:1", "http://x:1/v1", "a b:1"]
)
def test_wrong_addresses_are_errors(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        Address.parse(text)


def test_wrong_numbers_are_errors() -> None:
    with pytest.raises(ConfigError, match="At least 1 request"):
        RemotePredict(Flaky(), "uint8", in_flight=0)
    with pytest.raises(ConfigError, match="above 0 seconds"):
        Retry(timeout_s=0)


# === A server that dies ===


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


@pytest.mark.slow
def test_clients_finish_their_scenes_although_the_server_is_killed(tmp_path: Path, processes: list[Process]) -> None:
    write_model(tmp_path / "1")
    slow = ["--max_batch_size", "64", "--batch_timeout_micros", "60000"]  # each answer takes as long as a real model's
    first = Process(tmp_path, "--rest_port", "0", "--grpc_port", "0", *slow)
    processes.append(first)
    retry = Retry(timeout_s=20, patience_s=120)
    (scene,) = pixels(1, 200, 200)
    done = {"grpc": 0, "rest": 0}
    results: dict[str, np.ndarray] = {}

    def predict_scene(api: str) -> None:
        address = f"127.0.0.1:{first.grpc_port}" if api == "grpc" else f"http://127.0.0.1:{first.rest_port}"
        predictor = remote_predictor(address, "tiny", in_flight=2, retry=retry)

        def counting(batch: np.ndarray) -> np.ndarray:
            logits = predictor.predict(batch)
            done[api] += len(batch)
            return logits

        results[api] = predict_logits(counting, scene, SPEC, predictor.options)

    clients = [threading.Thread(target=predict_scene, args=(api,)) for api in done]
    for client in clients:
        client.start()
    while min(done.values()) < 6:
        time.sleep(0.01)
    assert first.end(signal.SIGKILL)[0] == -signal.SIGKILL
    before = dict(done)
    second = Process(tmp_path, "--rest_port", str(first.rest_port), "--grpc_port", str(first.grpc_port), *slow)
    processes.append(second)
    options = InferenceOptions(is_slide=True, crop_size=Size(32, 32), stride=Size(24, 24))
    expected = predict_logits(reference, scene, SPEC, options)
    for client, api in zip(clients, done, strict=True):
        client.join(120)
        assert not client.is_alive() and before[api] < done[api] == 8 * 8
        np.testing.assert_allclose(results[api], expected, atol=1e-5)
    code, told = second.end(signal.SIGTERM)
    assert code == 0 and "The server has stopped." in told and "Traceback" not in told
