"""A model as `rsseg-tf export` writes it, of five bands with sixteen bits, behind the server."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from rsseg_tf.export import load_trained, write_savedmodel
from rsseg_tf.predict import predict_logits
from rsseg_tf.predictors import open_predictor
from tests.fixtures.checkpoints import write_checkpoint
from tests.fixtures.configs import use_tiny_backbone
from tests.fixtures.http import Server, ask, grpc, request_of, rest
from tests.fixtures.tiffs import tiff

from rsseg_tf.serving.client import remote_predictor  # isort: skip
from rsseg_tf.serving.server import ServerOptions  # isort: skip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("deep")
    model = folder / "deep"
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        checkpoint, config = write_checkpoint(
            folder, "dataset.bands=5", "dataset.max_value=10000.0",
            "augment={saturation_range: 0.0, hue_range: 0.0}",
        )  # fmt: skip
        write_savedmodel(load_trained(checkpoint, config), model / "1")
    with Server(model, options=ServerOptions(rest_port=0, grpc_port=0)) as server:
        yield server, model


def scene(height: int = 80, width: int = 70) -> np.ndarray:
    """Noise that is dark on the left and bright on the right, so that logits differ."""
    ramp = np.linspace(0, 10_000, width)[:, np.newaxis] * np.random.default_rng(2).random((height, width, 5))
    return ramp.astype(np.uint16)


@pytest.mark.parametrize("scheme", ["", "http://"])
def test_a_scene_gets_the_logits_that_it_gets_locally(served: tuple[Server, Path], scheme: str) -> None:
    server, model = served
    port = server.rest_port if scheme else server.grpc_port
    remote, local = remote_predictor(f"{scheme}127.0.0.1:{port}", "deep"), open_predictor(model)
    assert remote.spec == local.spec and remote.manifest == local.manifest
    image = scene()
    found = predict_logits(remote.predict, image, remote.spec, remote.options)
    expected = predict_logits(local.predict, image, local.spec, remote.options)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.ptp(expected[..., 0]) > 0.1, "the logits do not depend on the image"
    np.testing.assert_allclose(remote.predict(image[np.newaxis]), local.predict(image[np.newaxis]), atol=1e-4)


def test_encoded_tiffs_get_the_same_labels(served: tuple[Server, Path]) -> None:
    server, model = served
    image = scene(24, 30)
    expected = open_predictor(model).predict(image[np.newaxis]).argmax(-1)[0]
    (encoded,) = ask(server, request_of({"image_bytes": [tiff(image)]}, "predict_bytes", "deep")).values()
    assert np.array_equal(cv2.imdecode(np.frombuffer(encoded[0], np.uint8), -1), expected)
    value = {"b64": base64.b64encode(tiff(image)).decode()}
    status, answer = rest(server, "/v1/models/deep:predict", {"signature_name": "predict_bytes", "instances": [value]})
    assert status == 200
    decoded = np.frombuffer(base64.b64decode(answer["predictions"][0]["b64"]), np.uint8)
    assert np.array_equal(cv2.imdecode(decoded, -1), expected)


def test_hostile_tiffs_and_values_are_refused_and_the_server_goes_on(served: tuple[Server, Path]) -> None:
    server, _ = served
    sound = tiff(scene(24, 30))
    claims = struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 273, 4, 2**31, 8)  # two thousand million strips
    for data, message in (
        (claims, "claims 2147483648 values"),
        (sound[:100], "cut off|claims|refuses"),
        (sound[: len(sound) // 2], "refuses the input"),
        (cv2.imencode(".png", scene(8, 8)[..., :3])[1].tobytes(), 'input: the model needs 5 bands; the image has 3"'),
    ):
        with pytest.raises(grpc.RpcError, match=message) as caught:
            ask(server, request_of({"image_bytes": [data]}, "predict_bytes", "deep"))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for value in (float("nan"), float("inf"), 1e39):
        body = {"instances": [[[[value, 0, 0, 0, 0]]]]}
        status, answer = rest(server, "/v1/models/deep:predict", body)
        assert status == 400 and "not finite" in answer["error"]
    assert ask(server, request_of({"image_bytes": [sound]}, "predict_bytes", "deep"))


def test_altered_tiffs_do_no_harm(served: tuple[Server, Path]) -> None:
    server, _ = served
    sound = tiff(scene(6, 5))
    rng = np.random.default_rng(11)
    for _ in range(60):
        data = bytearray(sound)
        for at in rng.integers(0, len(data), 4):
            data[at] = rng.integers(256)
        try:
            ask(server, request_of({"image_bytes": [bytes(data)]}, "predict_bytes", "deep"))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
