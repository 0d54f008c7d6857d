from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from rsseg_tf.serving.limits import Limits
from rsseg_tf.serving.status import Code, RequestError
from rsseg_tf.serving.tensors import check_inputs, decode_base64, from_json, from_proto, to_json


def info(dtype: tf.DType, *sizes: int) -> Any:
    shape = tf.TensorShape([None if size < 0 else size for size in sizes]).as_proto()
    return tf.compat.v1.TensorInfo(dtype=dtype.as_datatype_enum, tensor_shape=shape)


PIXELS = {"pixels": info(tf.uint8, -1, -1, -1, 3)}
FLOATS = {"pixels": info(tf.float32, -1, -1, -1, 3)}
BYTES = {"image_bytes": info(tf.string, -1)}
IMAGE = np.arange(24).reshape(1, 2, 4, 3).astype(np.uint8)


def arrays(body: Any, inputs: dict[str, Any] = PIXELS) -> dict[str, np.ndarray]:
    return from_json(json.dumps(body).encode(), Limits()).arrays(inputs)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": IMAGE.tolist()},
        {"instances": [{"pixels": IMAGE[0].tolist()}]},
        {"inputs": IMAGE.tolist()},
        {"inputs": {"pixels": IMAGE.tolist()}},
    ],
)
def test_rows_and_columns_with_and_without_names_are_the_same(body: dict[str, Any]) -> None:
    found = arrays(body)["pixels"]
    assert found.dtype == np.uint8 and np.array_equal(found, IMAGE)


def test_whole_numbers_suit_inputs_of_floats() -> None:
    assert arrays({"inputs": [[[[1, 2, 3]]]]}, FLOATS)["pixels"].dtype == np.float32


def test_bytes_come_as_base64() -> None:
    value = {"b64": base64.b64encode(b"\x00\xff").decode()}
    for body in ({"instances": [value]}, {"instances": [{"image_bytes": value}]}, {"inputs": [value]}):
        assert arrays(body, BYTES)["image_bytes"].tolist() == [b"\x00\xff"]


@pytest.mark.parametrize(
    ("body", "inputs", "message"),
    [
        (b"", PIXELS, "JSON Parse error"),
        (b"\xff\xfe", PIXELS, "JSON Parse error"),
        (b"[" * 100_000, PIXELS, "JSON Parse error"),
        (b"[1]", PIXELS, "must be a JSON object"),
        (b'{"instances": [1], "inputs": [1]}', PIXELS, "exactly one of"),
        (b"{}", PIXELS, "exactly one of"),
        (b'{"instances": [1], "evil": 1}', PIXELS, "unknown key 'evil'"),
        (b'{"instances": 7}', PIXELS, "at least one entry"),
        (b'{"instances": []}', PIXELS, "at least one entry"),
        (b'{"instances": [1], "signature_name": 7}', PIXELS, "must be a string"),
        (b'{"instances": [[1, 2], [3]]}', PIXELS, "differ in length"),
        (b'{"instances": ["a"]}', PIXELS, "numbers of type uint8"),
        (b'{"instances": [null]}', PIXELS, "numbers of type uint8"),
        (b'{"instances": [true]}', PIXELS, "numbers of type uint8"),
        (b'{"instances": [256]}', PIXELS, "0 to 255; got 256"),
        (b'{"instances": [-1]}', PIXELS, "0 to 255; got -1"),
        (b'{"instances": [1.5]}', PIXELS, "whole numbers"),
        (b'{"instances": [NaN]}', PIXELS, "whole numbers"),
        (b'{"instances": [1000000000000000000000000]}', PIXELS, "numbers of type uint8"),
        (b'{"instances": [{"pixel": 1}]}', PIXELS, "instance 0 has the keys pixel; they must be pixels"),
        (b'{"instances": [{"pixels": 1}, 1]}', PIXELS, "mixes"),
        (b'{"inputs": {"a": 1}}', PIXELS, "they must be pixels"),
        (b'{"instances": [1]}', PIXELS | BYTES, "each instance must name image_bytes, pixels"),
        (b'{"inputs": [1]}', PIXELS | BYTES, "must name image_bytes, pixels"),
        (b'{"instances": [{"b64": "*"}]}', BYTES, "not valid base64"),
        (b'{"instances": [{"b64": 7}]}', BYTES, "must be"),
        (b'{"instances": [7]}', BYTES, "must be"),
        (b'{"instances": ["\\ud800"]}', BYTES, "not valid Unicode"),
    ],
)
def test_wrong_json_is_refused_with_its_reason(body: bytes, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        from_json(body, Limits()).arrays(inputs)
    assert caught.value.status is Code.INVALID_ARGUMENT


def test_messages_are_read_in_all_their_forms() -> None:
    packed = tf.make_tensor_proto(IMAGE)
    spread = TensorProto(dtype=packed.dtype, tensor_shape=packed.tensor_shape, int_val=IMAGE.ravel().tolist())
    for proto in (packed, spread):
        assert np.array_equal(from_proto("pixels", proto), IMAGE)
    assert from_proto("image_bytes", tf.make_tensor_proto([b"a", b"b"])).tolist() == [b"a", b"b"]


def hollow(**fields: Any) -> Any:
    """A message that claims a billion values."""
    return TensorProto(tensor_shape=tf.TensorShape((1000, 1000, 1000)).as_proto(), **fields)


@pytest.mark.parametrize(
    ("proto", "message"),
    [
        (hollow(dtype=4, int_val=[7]), "1000000000 values of uint8; the message brings 1"),
        (hollow(dtype=1), "brings 0"),
        (hollow(dtype=1, tensor_content=b"abc"), "brings -1"),
        (hollow(dtype=7, string_val=[b""]), "brings 1"),
        (hollow(dtype=99), "unknown dtype"),
        (TensorProto(dtype=1, tensor_shape={"unknown_rank": True}), "unknown or negative size"),
        (TensorProto(dtype=1, tensor_shape={"dim": [{"size": -5}]}), "unknown or negative size"),
        (TensorProto(dtype=20, tensor_shape={}, resource_handle_val=[{}]), "cannot be read"),
    ],
)
def test_messages_that_claim_more_than_they_bring_are_refused(proto: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        from_proto("pixels", proto)


def signature(inputs: dict[str, Any]) -> Any:
    return tf.compat.v1.saved_model.signature_def_utils.build_signature_def(inputs=inputs)


def test_what_may_be_computed_together_has_equal_sizes() -> None:
    def group(*shape: int) -> object:
        return check_inputs({"pixels": np.zeros(shape, np.uint8)}, signature(PIXELS), Limits()).alike

    assert group(1, 8, 9, 3) == group(5, 8, 9, 3) != group(1, 9, 8, 3)


@pytest.mark.parametrize(
    ("values", "inputs", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.float32), PIXELS, "must be uint8 .* got float32"),
        (np.zeros((8, 8, 3), np.uint8), PIXELS, "must have the shape"),
        (np.zeros((1, 8, 8, 4), np.uint8), PIXELS, "must have the shape"),
        (np.zeros((1, 0, 8, 3), np.uint8), PIXELS, "each at least 1"),
        (np.zeros((1, 101, 100, 3), np.uint8), PIXELS, "10100 pixels; at most 10000"),
        (np.zeros((9, 1, 1, 3), np.uint8), PIXELS, "9 images; at most 8"),
        (np.full((1, 1, 1, 3), np.nan, np.float32), FLOATS, "not finite"),
        (np.full((1, 1, 1, 3), np.inf, np.float32), FLOATS, "not finite"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: np.ndarray, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_inputs({"pixels": values}, signature(inputs), Limits(max_pixels=10_000, max_images=8))


def test_answers_are_rows_or_columns() -> None:
    outputs: dict[str, np.ndarray] = {"a": np.array([[1], [2]], np.uint8), "b": np.array([0.5, 1.5], np.float32)}
    assert json.loads(to_json(outputs, "row", Limits())) == {
        "predictions": [{"a": [1], "b": 0.5}, {"a": [2], "b": 1.5}]
    }
    assert json.loads(to_json(outputs, "columnar", Limits())) == {"outputs": {"a": [[1], [2]], "b": [0.5, 1.5]}}
    alone = {"a": outputs["a"]}
    assert json.loads(to_json(alone, "row", Limits())) == {"predictions": [[1], [2]]}
    assert json.loads(to_json(alone, "columnar", Limits())) == {"outputs": [[1], [2]]}


@pytest.mark.parametrize("layout", ["row", "columnar"])
def test_numbers_are_as_short_as_they_may_be_and_what_json_has_not_is_written_as_tensorflow_serving_does(
    layout: Any,
) -> None:
    key = b"predictions" if layout == "row" else b"outputs"
    short = to_json({"logits": np.array([[0.1, -3.0]], np.float32)}, layout, Limits())
    assert short == b'{"%s": [[0.1,-3.0]]}' % key
    turned = np.arange(6, dtype=np.uint8).reshape(1, 2, 3).transpose(0, 2, 1)  # not contiguous
    assert json.loads(to_json({"class_map": turned}, layout, Limits()))[key.decode()] == turned.tolist()
    odd = to_json({"logits": np.array([[np.nan, np.inf, 1.0]], np.float32)}, layout, Limits())
    assert odd == b'{"%s": [[NaN, Infinity, 1.0]]}' % key


def test_bytes_are_encoded_and_text_is_not() -> None:
    for name, expected in (("png_bytes", {"b64": "/w=="}), ("text", "ä")):
        value = np.array([b"\xff" if name == "png_bytes" else "ä".encode()], object)
        assert json.loads(to_json({name: value}, "row", Limits())) == {"predictions": [expected]}


def test_answers_have_a_limit() -> None:
    for size in (1000, 400):  # found before and while writing
        with pytest.raises(RequestError, match="use gRPC"):
            to_json({"logits": np.full((1, size), 0.123, np.float32)}, "row", Limits(max_body_bytes=1000))


# === Base64, as TensorFlow Serving takes it ===


@pytest.mark.parametrize("length", range(7))
def test_base64_may_have_white_space_and_lack_padding(length: int) -> None:
    data = bytes(range(251, 251 - length, -1))
    plain = base64.b64encode(data).decode()
    wrapped = "".join(f"{letter}\r\n \t" for letter in plain)
    for text in (plain, plain.rstrip("="), wrapped, wrapped.replace("=", ""), plain.replace("=", ".")):
        assert decode_base64(text) == data


def test_long_base64_with_line_breaks_is_read() -> None:
    data = np.random.default_rng(0).integers(0, 256, 10_000, np.uint8).tobytes()
    assert decode_base64(base64.encodebytes(data).decode()) == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-_-_", "'-' of the alphabet for URLs"),
        ("AAA*", "has the character '\\*'"),
        ("AA\u00a0AA", "has the character"),
        ("AAAAA", "no whole number of bytes"),
        ("AA=", "ends in 1 '='; 2 or none"),
        ("AAAA=", "ends in 1 '='; 0 or none"),
        ("AA==AA", "has the character '='"),
        ("====", "ends in 4 '='"),
    ],
)
def test_what_tensorflow_serving_does_not_decode_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_base64(text)


# === Bounds ===


@pytest.mark.parametrize(
    "body", [b'{"instances": [' + b"{}," * 5000 + b"{}]}", b'{"instances": [' + b"[]," * 30_000 + b"[]]}"]
)
def test_more_lists_and_objects_than_pixels_are_refused_before_they_are_made(body: bytes) -> None:
    with pytest.raises(RequestError, match="objects and .* lists, more than 8 images of together 10000 pixels"):
        from_json(body, Limits(max_pixels=10_000, max_images=8))


def test_odd_tensors_are_refused_as_the_requests_fault() -> None:
    axes = TensorProto(dtype=tf.uint8.as_datatype_enum, int_val=[1])
    for _ in range(1000):
        axes.tensor_shape.dim.add(size=1)
    too_large = TensorProto(dtype=tf.uint8.as_datatype_enum, int_val=[256])
    half = TensorProto(dtype=tf.half.as_datatype_enum, half_val=[70_000])
    variant = TensorProto(dtype=tf.variant.as_datatype_enum)
    for proto in (axes, too_large, half, variant):
        with pytest.raises(RequestError) as caught:
            from_proto("x" * 10_000, proto)
        assert caught.value.status is Code.INVALID_ARGUMENT and len(str(caught.value)) < 500
