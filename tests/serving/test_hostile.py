"""What a server must survive: each is answered with a 4xx that says why, or cut off, and the next request works."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import select
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import tensorflow as tf

from tests.fixtures.formats import foreign_files
from tests.fixtures.gifs import gif
from tests.fixtures.http import Server, ask, grpc, raw, read_all, request_of, rest
from tests.fixtures.models import pixels

from rsseg_tf.serving.limits import Budget, Limits, Work  # isort: skip
from rsseg_tf.serving.rest import _Answer  # isort: skip
from rsseg_tf.serving.server import ServerOptions  # isort: skip
from rsseg_tf.serving.status import RequestError  # isort: skip

PREDICT = "/v1/models/tiny:predict"
HEAD = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: x\r\n"
PNG = cv2.imencode(".png", pixels(1)[0])[1].tobytes()


@pytest.fixture(autouse=True)
def alive(server: Server) -> Iterator[None]:
    """After each of these tests the server answers as before."""
    yield
    assert rest(server, PREDICT, {"instances": pixels(1).tolist()})[0] == 200
    assert ask(server, request_of({"pixels": pixels(1)}))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(side: int) -> bytes:
    """A sound PNG of black pixels: one bit each, and a thousandth of that after compression."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def encoded(*images: bytes) -> dict[str, Any]:
    values = [{"b64": base64.b64encode(image).decode()} for image in images]
    return {"signature_name": "predict_bytes", "instances": values}


def refused(server: Server, request: Any) -> tuple[Any, str]:
    with pytest.raises(grpc.RpcError) as caught:
        ask(server, request)
    return caught.value.code(), caught.value.details()


# === Requests that ask for too much or for the wrong thing ===


def test_a_decompression_bomb_is_refused_before_it_is_decoded(server: Server) -> None:
    data = bomb(16_000)
    assert len(data) < 100_000, "32 MB of pixels, 768 MB once they are RGB floats"
    process = psutil.Process()
    before = process.memory_info().rss
    status, answer = rest(server, PREDICT, encoded(data))
    assert status == 400 and "256000000 pixels; at most 200000" in answer["error"]
    code, details = refused(server, request_of({"image_bytes": [data]}, "predict_bytes"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "256000000 pixels" in details
    assert process.memory_info().rss - before < 50 * 2**20


@pytest.mark.parametrize("frames", [[(3000, 3000)], [(1, 1), (2500, 2500)], [(300, 300)] * 3], ids=str)
def test_a_gif_whose_frames_are_larger_than_its_screen_is_refused(
    server: Server, frames: list[tuple[int, int]]
) -> None:
    data = gif((8, 8), frames)
    assert len(data) < 10_000
    process = psutil.Process()
    before = process.memory_info().rss
    status, answer = rest(server, PREDICT, encoded(data))
    assert status == 400 and "pixels; at most 200000" in answer["error"]
    code, details = refused(server, request_of({"image_bytes": [data]}, "predict_bytes"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "pixels; at most 200000" in details
    assert process.memory_info().rss - before < 50 * 2**20


def test_a_format_that_only_the_decoder_knows_is_refused(server: Server) -> None:
    webp = cv2.imencode(".webp", pixels(1)[0])[1].tobytes()
    status, answer = rest(server, PREDICT, encoded(webp))
    assert status == 400 and "must be one of PNG, JPEG, BMP, GIF and TIFF" in answer["error"]


def test_formats_that_local_commands_read_are_refused(server: Server, tmp_path: Path) -> None:
    for kind, data in foreign_files(tmp_path / "made").items():
        status, answer = rest(server, PREDICT, encoded(data))
        assert status == 400 and "must be one of PNG, JPEG, BMP, GIF and TIFF" in answer["error"], kind
        disguised = b"II*\0" + data  # the bytes by which a TIFF is told
        status, answer = rest(server, PREDICT, encoded(disguised))
        assert status == 400, kind


def test_requests_beyond_the_pixels_in_work_are_told_to_come_again(server: Server) -> None:
    service = server._service
    work = service._work
    service._work = Work(1000)
    try:
        service._work.take(900)
        status, answer = rest(server, PREDICT, {"instances": pixels(1).tolist()})
        assert status == 429 and "the requests in work have 900 pixels" in answer["error"]
        code, details = refused(server, request_of({"pixels": pixels(1)}))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED and "Try again later" in details
        service._work.give_back(900)
        for _ in range(20):  # each gives back what it took, also one that fails
            assert rest(server, PREDICT, {"instances": pixels(5).tolist()})[0] == 200
            assert ask(server, request_of({"pixels": pixels(5)}))
            assert rest(server, PREDICT, encoded(PNG[:-20]))[0] == 400
        with pytest.raises(RequestError):
            service._work.take(0)
            service._work.take(1001)
            service._work.take(1)
    finally:
        service._work = work


def test_many_small_images_are_counted_together(server: Server) -> None:
    status, answer = rest(server, PREDICT, encoded(*[bomb(400)] * 4))
    assert status == 400 and "at most 200000" in answer["error"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([PNG[: len(PNG) // 2]], "the model refuses the input"),
        ([PNG[:20]], "its header is cut short"),
        ([b""], "begins with the bytes nothing"),
        ([b"<svg/>"], "must be one of PNG, JPEG"),
        ([PNG, cv2.imencode(".png", pixels(1, 20, 20)[0])[1].tobytes()], "must have one size"),
    ],
)
def test_damaged_and_unfitting_images_are_refused(server: Server, images: list[bytes], message: str) -> None:
    status, answer = rest(server, PREDICT, encoded(*images))
    assert status == 400 and message in answer["error"]
    code, details = refused(server, request_of({"image_bytes": images}, "predict_bytes"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and message in details


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"instances": np.zeros((1, 8, 8, 4), int).tolist()}, "must have the shape (any, any, any, 3)"),
        ({"instances": np.zeros((8, 8, 3), int).tolist()}, "must have the shape"),
        ({"instances": [[[[0.5, 0, 0]]]]}, "whole numbers of type uint8"),
        ({"instances": [[[[float("nan"), 0, 0]]]]}, "whole numbers of type uint8"),
        ({"instances": "x" * 1000}, "at least one entry"),
        ({"instances": pixels(17, 4, 4).tolist()}, "17 images; at most 16"),
        ({"signature_name": "../logits", "instances": [1]}, "not found in signature def"),
        ({"signature_name": "__saved_model_init_op", "instances": [1]}, "not found in signature def"),
    ],
)
def test_wrong_values_are_refused(server: Server, body: dict[str, Any], message: str) -> None:
    status, answer = rest(server, PREDICT, body)
    assert status == 400 and message in answer["error"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models/other:predict", 404, "Servable not found"),
        ("/v1/models/tiny/versions/7:predict", 404, "Specific(tiny, 7); available versions: 1"),
        ("/v1/models/tiny/versions/99999999999999999999:predict", 400, "a version is a whole number"),
        ("/v1/models/tiny/versions/-1:predict", 400, "a version is a whole number"),
        ("/v1/models/tiny/labels/none:predict", 400, "Unrecognized servable version label"),
        ("/v1/models/..%2F..%2Fetc%2Fpasswd:predict", 404, "Malformed request"),
        ("/v1/models/..:predict", 404, "Servable not found"),
        ("/v1/models/tiny/../../etc/passwd", 405, "Malformed request"),
        ("/v1/models/%00:predict", 404, "Servable not found"),
        ("/v1/models/tiny/versions/..%2f1:predict", 404, "Malformed request"),
        ("/v1/models/tiny:classify", 405, "Malformed request"),
        ("/", 404, "Malformed request"),
    ],
)
def test_wrong_places_are_refused(server: Server, path: str, status: int, message: str) -> None:
    found, answer = rest(server, path, {"instances": [1]})
    assert found in (status, 404) and message in answer["error"]


def test_a_browser_is_told_what_predict_takes(server: Server) -> None:
    for place in ("", "/versions/1"):
        status, answer = rest(server, f"/v1/models/tiny{place}:predict")
        assert status == 405 and "it takes POST with a body of JSON" in answer["error"]


def test_wrong_grpc_requests_are_refused(server: Server) -> None:
    good = {"pixels": pixels(1)}
    status = grpc.StatusCode
    for request, code, message in (
        (request_of(good, model="../tiny"), status.NOT_FOUND, "Servable not found"),
        (request_of(good, "none"), status.INVALID_ARGUMENT, "the model has logits"),
        (request_of(good, outputs=["none"]), status.INVALID_ARGUMENT, "the outputs are class_map, confidence"),
        (request_of({}), status.INVALID_ARGUMENT, "the signature takes pixels"),
        (request_of(good | {"more": 1}), status.INVALID_ARGUMENT, "the signature takes pixels"),
        (request_of({"pixels": pixels(1).astype(np.float32)}), status.INVALID_ARGUMENT, "must be uint8"),
        (request_of({"pixels": pixels(1)[0]}), status.INVALID_ARGUMENT, "must have the shape"),
        (request_of({"pixels": pixels(1, 600, 600)}), status.INVALID_ARGUMENT, "360000 pixels"),
        (request_of({"pixels": pixels(1, 1500, 1500)}), status.RESOURCE_EXHAUSTED, "larger than max"),
    ):
        found, details = refused(server, request)
        assert found is code and message in details, details
    hollow = request_of({"pixels": pixels(1, 1, 1)})
    hollow.inputs["pixels"].tensor_content = b""
    hollow.inputs["pixels"].int_val.append(7)
    hollow.inputs["pixels"].tensor_shape.CopyFrom(tf.TensorShape((1, 40_000, 40_000, 3)).as_proto())
    found, details = refused(server, hollow)
    assert found is status.INVALID_ARGUMENT and "the message brings 1" in details


def test_altered_messages_do_no_harm(server: Server) -> None:
    """Random changes of a sound request end in an answer or in an error of the request, never of the server."""
    sound = request_of({"pixels": pixels(1, 4, 4)}).SerializeToString()
    rng = np.random.default_rng(7)
    call = "/tensorflow.serving.PredictionService/Predict"
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        send = channel.unary_unary(call)
        for _ in range(200):
            data = bytearray(sound)
            for at in rng.integers(0, len(data), 3):
                data[at] = rng.integers(256)
            try:
                send(bytes(data), timeout=30)
            except grpc.RpcError as error:
                known = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
                # What cannot even be parsed never reaches the service; gRPC itself calls that internal.
                unparsed = error.code() is grpc.StatusCode.INTERNAL and "deserializing" in error.details()
                assert error.code() in known or unparsed, (error.code(), error.details())


# === Bodies ===


def test_a_body_that_is_declared_too_large_is_refused_before_it_is_read(server: Server) -> None:
    answer = raw(server, HEAD + b"Content-Length: 100000000000\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ") and b"the body is larger than 4000000 bytes" in answer


def test_a_body_that_grows_too_large_is_cut_off(server: Server) -> None:
    part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    began, answer = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=30) as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):  # the connection ends, however much more there is
            while time.monotonic() - began < 15:
                connection.sendall(part)
                if select.select([connection], [], [], 0)[0]:
                    answer += connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ") and b"the body is larger than" in answer
    assert time.monotonic() - began < 12


def test_bodies_in_another_coding_are_refused(server: Server) -> None:
    status, answer = rest(server, PREDICT, zlib.compress(b" " * 1000), Content_Encoding="gzip")
    assert status == 415 and "must not be compressed" in answer["error"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"\x00" * 1000,
        b"[" * 500_000,
        b'{"a":' * 100_000,
        b'{"instances": [' + b"[]," * 300_000 + b"[]]}",
    ],
)
def test_bodies_that_are_no_requests_are_refused(server: Server, body: bytes) -> None:
    status, answer = rest(server, PREDICT, body)
    assert status == 400 and answer["error"]


# === HTTP itself ===


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 this is how TLS begins \r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_not_http_is_refused(server: Server, data: bytes) -> None:
    try:
        answer = raw(server, data)
    except ConnectionResetError:  # it was closed while we sent more
        return
    told = b'"error": ' in answer or b"Invalid HTTP request received." in answer
    assert answer == b"" or (answer.split()[1].startswith(b"4") and told), answer


SOUND = json.dumps({"instances": pixels(1).tolist()}).encode()


@pytest.mark.parametrize(
    "data",
    [
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"X: y\rContent-Length: %d\r\n\r\n" % len(SOUND) + SOUND,
        HEAD + b"Content-Length : %d\r\n\r\n" % len(SOUND) + SOUND,
        HEAD + b"Content-Length: +%d\r\n\r\n" % len(SOUND) + SOUND,
        HEAD + b"X: y\r\n folded\r\nTransfer-Encoding: chunked\r\n\r\n0\n\n",
    ],
    ids=range(9),
)
def test_a_request_whose_end_could_be_in_doubt_is_refused(server: Server, data: bytes) -> None:
    """What follows it is not answered either: to another program it could have been its body."""
    answer = raw(server, data + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.split()[1].startswith((b"4", b"5")) and answer.count(b"HTTP/1.1 ") == 1, answer
    assert b'"status": "ok"' not in answer


def test_more_connections_than_allowed_are_closed_at_once(exported: Path) -> None:
    options = ServerOptions(rest_port=0, grpc_port=0, limits=Limits(max_connections=4))
    with Server(exported, options=options) as server, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.rest_port)
        held = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(4)]
        more = stack.enter_context(socket.create_connection(address, timeout=30))
        assert b"503 Service Unavailable" in read_all(more)
        for connection in held:
            connection.close()
        time.sleep(0.2)
        assert rest(server, "/healthz")[0] == 200


def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    budget = Budget(1000, "answers that their clients do not read fill the memory")
    written: list[int] = []

    async def send(message: Any) -> None:
        written.append(budget.held)
        if len(written) == 1:
            with pytest.raises(RequestError, match="do not read"):
                await _Answer(b"x" * 200, budget)({}, receive, send)

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    answer = _Answer(b"x" * 900, budget)
    assert answer.headers["content-length"] == "900"
    asyncio.run(answer({}, receive, send))
    assert written == [900, 900, 900] and budget.held == 0


@pytest.mark.parametrize(
    "start",
    [
        b"POST /v1/mod",
        HEAD,
        HEAD + b"Content-Length: 1000\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/mod",
    ],
    ids=["request line", "header", "body", "second request"],
)
def test_a_client_that_dawdles_is_cut_off(server: Server, start: bytes) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
        connection.sendall(start)
        connection.settimeout(0.1)
        received = b""
        while time.monotonic() - began < 20:
            try:
                connection.sendall(b"a")
                part = connection.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                break
            received += part
            if not part:
                break
    assert time.monotonic() - began < 10, "the limit of this server is one second"
    assert b"HTTP/1.1 408 " in received and b"did not arrive within 1 seconds" in received


def test_many_slow_clients_do_not_keep_others_out(server: Server) -> None:
    connections = []
    for _ in range(100):
        connections.append(socket.create_connection(("127.0.0.1", server.rest_port), timeout=20))
        connections[-1].sendall(HEAD + b"Content-Length: 1000\r\n\r\n{")
    assert rest(server, PREDICT, {"instances": pixels(1).tolist()})[0] == 200
    for connection in connections:
        assert b" 408 " in read_all(connection)
        connection.close()


def test_a_client_that_does_not_read_is_cut_off(server: Server) -> None:
    body = json.dumps({"signature_name": "logits", "instances": pixels(1, 110, 300).tolist()}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    asked, received = 8, 0  # answers of 2 MB each: more than the system keeps for a client
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(6)
        connection.connect(("127.0.0.1", server.rest_port))
        with contextlib.suppress(OSError):
            connection.sendall(asked * request)
        time.sleep(6)  # one second to read is what this server gives, once it has computed an answer
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                received += len(part)
    assert received < (asked - 1) * 2_000_000


def test_requests_sent_ahead_of_answers_are_answered_in_order(server: Server) -> None:
    body = json.dumps({"instances": pixels(1).tolist()}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    end = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = raw(server, 3 * request + end)
    assert answer.count(b"HTTP/1.1 200 OK") == 4 and answer.count(b"predictions") == 3
    assert answer.endswith(b'"status": "ok"\n}')


def test_a_client_that_leaves_costs_nothing(server: Server) -> None:
    body = json.dumps({"instances": pixels(1).tolist()}).encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.rest_port), timeout=20) as connection:
            connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    deadline = time.monotonic() + 20
    while server._service.batcher.waiting and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server._service.batcher.waiting == 0
