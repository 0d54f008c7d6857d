from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from rsseg_tf.datasets import custom_spec
from rsseg_tf.errors import ServingError
from rsseg_tf.manifest import TRUST_VARIABLE, Artifact, Classes, Inference, Manifest, Origin, Tensor, file_sha256
from rsseg_tf.rasters.windows import Size
from tests.fixtures.http import Server, ask, grpc, request_of, rest
from tests.fixtures.models import break_model, pixels, reference, write_model

from rsseg_tf.serving.versions import ModelVersion  # isort: skip
from rsseg_tf.serving.server import ServerOptions  # isort: skip
from rsseg_tf.serving.status import Code, RequestError  # isort: skip
from rsseg_tf.serving.versions import Versions  # isort: skip

IMAGE = pixels(1)


def logits(server: Server) -> np.ndarray:
    return ask(server, request_of({"pixels": IMAGE}, "logits"))["logits"]


def states(server: Server) -> dict[int, str]:
    _, answer = rest(server, f"/v1/models/{server.name}")
    return {int(one["version"]): one["state"] for one in answer["model_version_status"]}


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_a_new_version_replaces_the_old_one_without_a_gap(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    lines: list[str] = []
    options = ServerOptions(rest_port=0, grpc_port=0, poll_s=0.1)
    with Server(tmp_path, "tiny", options, lines.append) as server:
        np.testing.assert_allclose(logits(server), reference(IMAGE), atol=1e-5)
        stop, failures, seen = threading.Event(), [], set()

        def ask_all_the_time() -> None:
            while not stop.is_set():
                try:
                    seen.add(round(float((logits(server) - reference(IMAGE)).mean())))
                except grpc.RpcError as error:
                    failures.append(error)

        clients = [threading.Thread(target=ask_all_the_time) for _ in range(3)]
        for client in clients:
            client.start()
        write_model(tmp_path / "2", offset=5)
        wait_until(lambda: states(server) == {1: "END", 2: "AVAILABLE"})
        wait_until(lambda: 5 in seen)
        stop.set()
        for client in clients:
            client.join()
        assert not failures and seen == {0, 5}
        np.testing.assert_allclose(logits(server), reference(IMAGE, offset=5), atol=1e-5)
        assert [line.partition(": ")[2] for line in lines] == [
            "version 1 answers requests", "version 2 answers requests", "version 1 is released",
        ]  # fmt: skip
        assert server._service.versions.acquire(2).number == 2
        server._service.versions._loaded[2].release()


def test_a_broken_version_changes_nothing_but_the_status_until_it_is_mended(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    with Server(tmp_path, "tiny", ServerOptions(rest_port=0, grpc_port=0, poll_s=0.1)) as server:
        write_model(tmp_path / "other", offset=5)
        whole = tmp_path / "whole"
        shutil.copytree(tmp_path / "other", whole)
        break_model(tmp_path / "other")
        (tmp_path / "other").rename(tmp_path / "2")
        wait_until(lambda: states(server).get(2) == "END")
        _, answer = rest(server, "/v1/models/tiny/versions/2")
        status = answer["model_version_status"][0]["status"]
        assert status["error_code"] == "UNKNOWN" and "version 2 cannot be loaded" in status["error_message"]
        assert states(server)[1] == "AVAILABLE"
        np.testing.assert_allclose(logits(server), reference(IMAGE), atol=1e-5)

        shutil.copytree(whole / "variables", tmp_path / "2" / "variables")  # such as a copy that is done at last
        wait_until(lambda: states(server) == {1: "END", 2: "AVAILABLE"})
        np.testing.assert_allclose(logits(server), reference(IMAGE, offset=5), atol=1e-5)

        shutil.rmtree(tmp_path / "2")  # only the newest was wanted, but it is gone
        wait_until(lambda: states(server).get(1) == "AVAILABLE")
        np.testing.assert_allclose(logits(server), reference(IMAGE), atol=1e-5)
        shutil.rmtree(tmp_path / "1")  # nothing is left on disk; what is in memory goes on
        time.sleep(0.5)
        np.testing.assert_allclose(logits(server), reference(IMAGE), atol=1e-5)


@pytest.mark.parametrize("damage", ["variables", "graph", "warm-up"])
def test_damage_of_any_kind_is_an_error_of_the_version(tmp_path: Path, damage: str) -> None:
    write_model(tmp_path / "1")
    if damage == "variables":
        (path,) = (tmp_path / "1" / "variables").glob("*.data*")
        path.write_bytes(path.read_bytes()[:50])
    elif damage == "graph":
        path = tmp_path / "1" / "saved_model.pb"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        (tmp_path / "1" / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"nonsense" * 10)
    with pytest.raises(ServingError, match="version 1 cannot be loaded from"):
        Versions("tiny", tmp_path).start(60)


def test_a_version_that_is_not_what_was_exported_is_not_loaded(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    folder = tmp_path / "1"
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    tensor = Tensor(name="pixels", dtype="uint8", shape=(None,), meaning="")
    artifact = Artifact(
        format="savedmodel", path=".", input=tensor, outputs=(),
        sha256={name: file_sha256(folder / name) for name in names},
    )  # fmt: skip
    spec = custom_spec("two", ("a", "b"))
    manifest = Manifest(
        model="tiny", dataset=Classes.of(spec), crop_size=Size(8, 8), size_multiple=1, inference=Inference(),
        origin=Origin(checkpoint="c", step=1, weights_sha256="", config_sha256="", exported="", versions={}),
        artifacts=(artifact,),
    )  # fmt: skip
    (folder / "manifest.json").write_text(manifest.to_json())
    ModelVersion(folder, 1).retire(lambda: None)
    warmup = folder / "assets.extra" / "tf_serving_warmup_requests"
    warmup.write_bytes(b"")  # TensorFlow would load it
    with pytest.raises(ServingError, match=r"version 1 cannot be loaded .*warmup_requests is missing or is not what"):
        Versions("tiny", tmp_path).start(60)


def test_several_versions_and_labels(tmp_path: Path) -> None:
    for number in (1, 2, 3, 10):
        write_model(tmp_path / str(number), offset=number, warm_up=False)
    (tmp_path / "notes").mkdir()
    versions = Versions("tiny", tmp_path, keep=2, labels={"old": 1})
    versions.start(60)
    assert versions.available == [1, 3, 10]
    for number, asked in ((10, {}), (3, {"number": 3}), (1, {"label": "old"})):
        version = versions.acquire(**asked)
        assert version.number == number
        version.release()
    for asked, code in (({"number": 2}, Code.NOT_FOUND), ({"label": "new"}, Code.INVALID_ARGUMENT)):
        with pytest.raises(RequestError) as caught:
            versions.acquire(**asked)
        assert caught.value.status is code
    versions.close()
    assert versions.available == [] and {status.state for status in versions.statuses()} == {"END"}

    everything = Versions("tiny", tmp_path, keep=0)
    everything.start(60)
    assert everything.available == [1, 2, 3, 10]
    everything.close()


def test_a_version_is_released_when_its_last_request_has_ended(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    versions = Versions("tiny", tmp_path)
    versions.start(60)
    held = versions.acquire()
    write_model(tmp_path / "2")
    versions.refresh()
    assert {status.number: status.state for status in versions.statuses()} == {2: "AVAILABLE", 1: "UNLOADING"}
    assert held.run("logits", {"pixels": IMAGE}, ["logits"])["logits"].shape == (1, 12, 9, 3)
    held.release()
    assert {status.number: status.state for status in versions.statuses()} == {2: "AVAILABLE", 1: "END"}
    with pytest.raises(RequestError, match="the model failed"):
        held.run("logits", {"pixels": IMAGE}, ["logits"])
    versions.close()


def test_a_folder_that_vanishes_while_it_is_looked_at_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "1")
    versions = Versions("tiny", tmp_path)
    versions.start(60)
    (tmp_path / "2" / "variables").mkdir(parents=True)
    (tmp_path / "2" / "variables" / "x").write_bytes(b"x")
    scandir = os.scandir

    def vanishing(path: str) -> object:
        if str(path).endswith("variables"):
            shutil.rmtree(tmp_path / "2")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert "version 2 cannot be loaded" in versions.refresh()[0]
    monkeypatch.undo()
    assert versions.refresh() == [] and versions.available == [1]
    versions.close()


def test_the_watcher_survives_every_error_and_readiness_tells_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "1")
    lines: list[str] = []
    with Server(tmp_path, "tiny", ServerOptions(rest_port=0, grpc_port=0, poll_s=0.05), lines.append) as server:
        versions = server._service.versions
        refresh = versions.refresh
        calls = []

        def failing() -> list[str]:
            calls.append(1)
            if len(calls) < 4:
                raise (FileNotFoundError(2, "No such file or directory"), MemoryError(), KeyError("x"))[len(calls) - 1]
            return refresh()

        monkeypatch.setattr(versions, "refresh", failing)
        write_model(tmp_path / "2", offset=5)
        wait_until(lambda: states(server) == {1: "END", 2: "AVAILABLE"})
        assert sum("could not be read: " in line for line in lines) == 3
        assert rest(server, "/readyz") == (200, {"available": [2]})

        versions._stop.set()
        wait_until(lambda: not versions.is_watching)
        status, told = rest(server, "/readyz")
        assert status == 503 and told["available"] == [2] and "looks for new versions has ended" in told["error"]
        assert rest(server, "/healthz")[0] == 200
        np.testing.assert_allclose(logits(server), reference(IMAGE, offset=5), atol=1e-5)


def test_readiness_tells_of_a_thread_that_computes_no_more(tmp_path: Path) -> None:
    write_model(tmp_path / "1")
    with Server(tmp_path, "tiny", ServerOptions(rest_port=0, grpc_port=0)) as server:
        server._service.batcher.close()
        assert "a thread that computes has ended" in rest(server, "/readyz")[1]["error"]


def test_a_version_that_could_touch_files_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="path_bytes")])
    def read(path_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"content_bytes": tf.map_fn(tf.io.read_file, path_bytes)}

    tf.saved_model.save(module, str(tmp_path / "1"), signatures={"serving_default": read})
    with pytest.raises(ServingError, match=r"version 1 cannot be loaded .* the operation ReadFile .* --trust"):
        Versions("tiny", tmp_path).start(60)
    monkeypatch.setenv(TRUST_VARIABLE, "1")
    versions = Versions("tiny", tmp_path)
    versions.start(60)
    versions.close()
