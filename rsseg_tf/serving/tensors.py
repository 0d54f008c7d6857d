"""Values of requests and answers: protocol buffers and JSON on one side, arrays on the other.

The size that a message claims is compared with the bytes that it brings before anything is allocated. JSON follows the
rules of TensorFlow Serving's REST API: row format (`instances`) and columnar format (`inputs`), `{"b64": …}` for bytes,
and base64 for outputs whose names end in `_bytes`.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.errors import DataError, reason
from rsseg_tf.rasters.headers import encoded_size
from rsseg_tf.serving.limits import Limits
from rsseg_tf.serving.status import Code, RequestError

__all__ = [
    "DEFAULT_SIGNATURE",
    "Checked",
    "JsonRequest",
    "Layout",
    "check_inputs",
    "decode_base64",
    "dump",
    "dump_array",
    "from_json",
    "from_proto",
    "parse",
    "to_json",
]

Layout = Literal["row", "columnar"]

_FROM_PROTO = {
    *(tf.bool, tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64),
    *(tf.half, tf.bfloat16, tf.float32, tf.float64, tf.string),
}

_B64 = "b64"
_BYTES_SUFFIX = "_bytes"
DEFAULT_SIGNATURE = "serving_default"
_KEYS = {"signature_name", "instances", "inputs"}
_NO_BASE64 = re.compile(r"[^A-Za-z0-9+/]")
_WHITE = re.compile(r"[ \t\n\v\f\r]")
_MOST_AXES = 8
_OBJECTS_OF_AN_IMAGE = 4  # {"image_bytes": {"b64": …}} are two
_LISTS_OF_A_PIXEL = 2  # one, and in an image of one column another for the row


class Checked(NamedTuple):
    """Facts about values that suit a signature.

    Attributes:
        alike: Sizes that requests must share to be computed together: all but the first.
        pixels: Sum over all images, including those that a decoder makes on the way.
    """

    alike: tuple[object, ...]
    pixels: int


class JsonRequest(NamedTuple):
    """A request to predict as it came in JSON: values are still lists.

    Attributes:
        signature: Name of the signature.
        layout: Arrangement of the values, and of the answer.
        value: Value of `instances` or `inputs`.
    """

    signature: str
    layout: Layout
    value: Any

    def arrays(self, inputs: Mapping[str, Any]) -> dict[str, NDArray]:
        """Returns an array for each input of a signature.

        Args:
            inputs: `tensorflow.TensorInfo` by name.

        Raises:
            RequestError: When names or values do not fit.
        """
        columns = _columns_of_rows(self.value, inputs) if self.layout == "row" else _columns(self.value, inputs)
        return {name: _array(columns[name], name, inputs[name]) for name in inputs}


def _refuse(message: str) -> RequestError:
    return RequestError(Code.INVALID_ARGUMENT, message)


def from_json(body: bytes | bytearray, limits: Limits) -> JsonRequest:
    """Reads the body of a REST request to predict.

    Raises:
        RequestError: When it is no JSON object with `instances` or `inputs`, or has more objects and lists than any
            request within the limits.
    """
    # An empty list of two bytes takes sixty in memory, an empty object more, and each is counted before it is made.
    objects, lists = body.count(b"{"), body.count(b"[")
    if objects > _OBJECTS_OF_AN_IMAGE * (limits.max_images + 1) or lists > _LISTS_OF_A_PIXEL * limits.max_pixels + 1000:
        raise _refuse(
            f"the body has {objects} objects and {lists} lists, more than {limits.max_images} images of together "
            f"{limits.max_pixels} pixels take"
        )
    try:
        document = parse(body)
    except ValueError as error:
        raise _refuse(f"JSON Parse error: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(document, dict):
        raise _refuse('the body must be a JSON object such as {"instances": [...]}')
    unknown = sorted(set(document) - _KEYS)
    if unknown:
        raise _refuse(f"unknown key {unknown[0]!r:.100}; allowed: signature_name, and one of instances and inputs")
    if ("instances" in document) == ("inputs" in document):
        raise _refuse("exactly one of 'instances' (one entry per image) and 'inputs' (one batch) is needed")
    signature = document.get("signature_name") or DEFAULT_SIGNATURE
    if not isinstance(signature, str):
        raise _refuse("'signature_name' key must be a string value.")
    if "inputs" in document:
        return JsonRequest(signature, "columnar", document["inputs"])
    if not isinstance(document["instances"], list) or not document["instances"]:
        raise _refuse("'instances' must be a list with at least one entry")
    return JsonRequest(signature, "row", document["instances"])


def _columns_of_rows(rows: list[Any], inputs: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Turns row format into one list per input; a signature with one input may leave out its name."""
    names = set(inputs)
    named = [isinstance(row, dict) and set(row) != {_B64} for row in rows]
    if any(named) != all(named):
        raise _refuse("'instances' mixes entries with and without names of inputs; write all of them the same way")
    if not named[0]:
        if len(names) != 1:
            raise _refuse(f"the signature has several inputs; each instance must name {', '.join(sorted(names))}")
        return {next(iter(names)): rows}
    for position, row in enumerate(rows):
        if set(row) != names:
            raise _refuse(f"instance {position} has the keys {_keys(row)}; they must be {', '.join(sorted(names))}")
    return {name: [row[name] for row in rows] for name in names}


def _columns(value: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Turns columnar format into one value per input."""
    names = set(inputs)
    if not isinstance(value, dict) or set(value) == {_B64}:
        if len(names) != 1:
            raise _refuse(f"the signature has several inputs; 'inputs' must name {', '.join(sorted(names))}")
        return {next(iter(names)): value}
    if set(value) != names:
        raise _refuse(f"'inputs' has the keys {_keys(value)}; they must be {', '.join(sorted(names))}")
    return value


def _keys(mapping: Mapping[str, Any]) -> str:
    return ", ".join(sorted(key[:40] for key in list(mapping)[:10])) or "none"


def _array(value: Any, name: str, info: Any) -> NDArray:
    """Turns lists of one input into an array of its dtype."""
    dtype = tf.as_dtype(info.dtype)
    if dtype == tf.string:
        return _byte_array(value, name)
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError, RecursionError) as error:
        raise _refuse(f"{name} must be a list of equally long lists; its rows differ in length") from error
    if found.dtype.kind == "f" and dtype.is_floating:
        with np.errstate(over="ignore"):  # an infinity is found and refused later
            return found.astype(dtype.as_numpy_dtype)
    if found.dtype.kind in "iu":
        if dtype.is_integer and found.size and not (dtype.min <= found.min() and found.max() <= dtype.max):
            raise _refuse(
                f"{name} must be {dtype.name}, so {dtype.min} to {dtype.max}; got {found.min()} to {found.max()}"
            )
        return found.astype(dtype.as_numpy_dtype)
    if found.dtype.kind == "f" and found.size:
        raise _refuse(f"{name} must be whole numbers of type {dtype.name}; got fractions, NaN or infinity")
    raise _refuse(f"{name} must be numbers of type {dtype.name} in equally long lists; got something else")


def _byte_array(value: Any, name: str) -> NDArray:
    """Decodes `{"b64": …}`, or a list of them; plain strings stand for their UTF-8 bytes."""
    # Filled and not converted: NumPy would make an array of fixed-width bytes of them, which loses trailing zeros.
    many = isinstance(value, list)
    values = [_bytes(one, name) for one in (value if many else [value])]
    array = np.empty(len(values), object)
    array[:] = values
    return array if many else array.reshape(())


def _bytes(value: Any, name: str) -> bytes:
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise _refuse(f"{name} has text that is not valid Unicode") from error
    if not (isinstance(value, dict) and set(value) == {_B64} and isinstance(value[_B64], str)):
        raise _refuse(f'{name} must be {{"b64": "..."}} or a list of such; got {type(value).__name__}')
    try:
        return decode_base64(value[_B64])
    except ValueError as error:
        raise _refuse(f"{name} is not valid base64: {error}") from error


def decode_base64(text: str) -> bytes:
    """Decodes base64 as TensorFlow Serving does: white space counts nowhere, and padding may be left out.

    Source: `absl::Base64Unescape`.

    Raises:
        ValueError: For other characters, among them those of the alphabet for URLs; for padding that is not at the end
            or not as long as it should be; and for a single character too many.
    """
    packed = _WHITE.sub("", text)
    data = packed.rstrip("=.")  # a dot stands for an equals sign there
    padding, missing = len(packed) - len(data), -len(data) % 4
    if other := _NO_BASE64.search(data):
        hint = " of the alphabet for URLs; use + and /" if other[0] in "-_" else ""
        raise ValueError(f"it has the character {other[0]!r}{hint}")
    if missing == 3:
        raise ValueError(f"its {len(data)} characters are no whole number of bytes; it was cut off")
    if padding not in (0, missing):
        raise ValueError(f"it ends in {padding} '='; {missing} or none belong there")
    return base64.b64decode(data + "=" * missing)


def from_proto(name: str, proto: Any) -> NDArray:
    """Turns a `tensorflow.TensorProto` into an array.

    Raises:
        RequestError: When it has no known type, or brings other values than its shape needs. A single value for a whole
            shape, which the format allows, is refused too: a message of 50 bytes could claim gigabytes.
    """
    name = f"{name:.100}"
    if len(proto.tensor_shape.dim) > _MOST_AXES:
        raise _refuse(f"{name} has {len(proto.tensor_shape.dim)} axes; at most {_MOST_AXES} are taken")
    shape = [dimension.size for dimension in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise _refuse(f"{name} has an unknown or negative size in its shape {shape}")
    count = math.prod(shape)
    try:
        dtype = tf.as_dtype(proto.dtype)
    except TypeError as error:
        raise _refuse(f"{name} has an unknown dtype, number {proto.dtype}") from error
    if dtype not in _FROM_PROTO:
        raise _refuse(f"{name} cannot be read: it is {dtype.name}; send numbers or strings")
    if dtype == tf.string:
        found = len(proto.string_val)
    elif proto.tensor_content:
        # The values' bytes, packed; a number of bytes that is no multiple of the type's size fits no shape.
        found, rest = divmod(len(proto.tensor_content), dtype.size)
        found = -1 if rest else found
    else:
        # One value after another in the field of their type: float_val, int_val, half_val and so on.
        found = sum(len(value) for field, value in proto.ListFields() if field.name.endswith("_val"))
    if found != count:
        raise _refuse(f"{name} has the shape {shape}, so {count} values of {dtype.name}; the message brings {found}")
    try:
        return tf.make_ndarray(proto)
    except Exception as error:  # whatever is in the message came from outside
        raise _refuse(f"{name} cannot be read as {dtype.name}: {reason(error)}") from error


def check_inputs(arrays: Mapping[str, NDArray], definition: Any, limits: Limits) -> Checked:
    """Checks values against a signature and the limits.

    Args:
        arrays: Arrays by name of input.
        definition: `tensorflow.SignatureDef`.
        limits: Images, and their pixels.

    Raises:
        RequestError: When anything does not fit.
    """
    wanted = definition.inputs
    if set(arrays) != set(wanted):
        raise _refuse(f"the inputs are {_keys(arrays)}; the signature takes {', '.join(sorted(wanted))}")
    alike: list[object] = []
    rows = set()
    pixels = 0
    for name in sorted(wanted):
        array = arrays[name]
        _check_type_and_shape(name, array, wanted[name])
        rows.add(len(array))
        if len(array) > limits.max_images:
            raise _refuse(f"{name} has {len(array)} images; at most {limits.max_images} are taken in one request")
        if array.dtype == object:
            is_images = name.endswith(_BYTES_SUFFIX)
            size, found = _check_images(name, array, limits) if is_images else (None, 0)
            pixels += found
            alike.append(size)
            continue
        pixels += math.prod(array.shape[:3])  # (images, height, width)
        _check_pixels(pixels, limits)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise _refuse(f"{name} has values that are not finite (NaN or infinity); every pixel must be a number")
        alike.append(array.shape[1:])
    if len(rows) != 1:
        raise _refuse(f"all inputs must have the same number of images; got {sorted(rows)}")
    return Checked(tuple(alike), pixels)


def _check_type_and_shape(name: str, array: NDArray, info: Any) -> None:
    dtype = tf.as_dtype(info.dtype)
    sizes = [dimension.size for dimension in info.tensor_shape.dim]
    shown = ", ".join(str(size) if size >= 0 else "any" for size in sizes)
    found = "string" if array.dtype == object else array.dtype.name
    if tf.as_dtype(array.dtype) != dtype:
        raise _refuse(f"{name} must be {dtype.name} of the shape ({shown}); got {found} of the shape {array.shape}")
    fits = len(array.shape) == len(sizes) and all(
        got >= 1 and wanted in (-1, got) for got, wanted in zip(array.shape, sizes, strict=True)
    )
    if not fits or not sizes:
        raise _refuse(f"{name} must have the shape ({shown}), each at least 1; got {array.shape}")


def _check_images(name: str, images: NDArray, limits: Limits) -> tuple[tuple[int, int], int]:
    """Reads the headers of encoded images, which a request must give in one size; returns that and all pixels."""
    sizes = []
    for position, data in enumerate(images):
        try:
            sizes.append(encoded_size(data))
        except DataError as error:
            raise _refuse(f"{name}, image {position}: {error}") from error
        # After every header, so that a request with many images is refused at the first that is too much.
        _check_pixels(sum(size.pixels for size in sizes), limits)
    different = sorted({(size.width, size.height) for size in sizes})
    if len(different) != 1:
        raise _refuse(f"{name}: the images of one request must have one size; got {different[:4]}")
    return different[0], sum(size.pixels for size in sizes)


def _check_pixels(pixels: int, limits: Limits) -> None:
    if pixels > limits.max_pixels:
        raise _refuse(
            f"the images of the request have {pixels} pixels; at most {limits.max_pixels} are taken. Send tiles, as "
            "`rsseg-tf predict --server` does."
        )


def to_json(outputs: Mapping[str, NDArray], layout: Layout, limits: Limits) -> bytes:
    """Writes the body of the answer to a REST request.

    Raises:
        RequestError: When it would be larger than `max_body_bytes`.
    """
    # A number takes at least a digit and a comma; most requests that are too large are refused by that alone.
    fewest_bytes = 2 * sum(array.size for array in outputs.values() if array.dtype != object)
    if fewest_bytes > limits.max_body_bytes:
        raise RequestError(
            Code.TOO_LARGE,
            f"the answer would be larger than {limits.max_body_bytes} bytes of JSON. Ask for the signature "
            "serving_default, send smaller images, or use gRPC.",
        )
    names = sorted(outputs)
    columns: list[list[bytes]] = []
    size = 0
    for name in names:
        columns.append([])
        for value in outputs[name]:  # image by image, so that not all numbers are Python objects at once
            columns[-1].append(_dump(value, name))
            size += len(columns[-1][-1])
            if size > limits.max_body_bytes:
                raise RequestError(
                    Code.TOO_LARGE,
                    f"the answer is larger than {limits.max_body_bytes} bytes of JSON. Send smaller images, or use "
                    "gRPC.",
                )
    if layout == "row":
        return b'{"predictions": %s}' % _list(_by_name(names, row) for row in zip(*columns, strict=True))
    return b'{"outputs": %s}' % _by_name(names, [_list(column) for column in columns])


def _list(items: Iterable[bytes]) -> bytes:
    return b"[%s]" % b", ".join(items)


def _by_name(names: Sequence[str], values: Sequence[bytes]) -> bytes:
    """Writes an object, or the value alone where there is one output."""
    if len(names) == 1:
        return values[0]
    return b"{%s}" % b", ".join(b'"%s": %s' % (name.encode(), value) for name, value in zip(names, values, strict=True))


def _dump(value: Any, name: str) -> bytes:
    if isinstance(value, bytes):
        return dump({_B64: base64.b64encode(value).decode()} if name.endswith(_BYTES_SUFFIX) else value.decode())
    return dump_array(value)


# === JSON with arrays in it, quickly ===


def parse(text: bytes | bytearray) -> Any:
    """Reads JSON; NaN and infinities too.

    Raises:
        ValueError: When it is not JSON, or its lists are nested too deeply.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:  # also for NaN and infinities, which the standard library reads
        pass
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None


def dump(value: Any) -> bytes:
    """Writes dictionaries, lists, texts and numbers."""
    return orjson.dumps(value)


def dump_array(array: NDArray) -> bytes:
    """Writes an array of numbers of any rank, floats with no more digits than their type needs."""
    array = np.asarray(array, order="C")
    if array.ndim and (array.dtype.kind in "iub" or (array.dtype.kind == "f" and np.isfinite(array).all())):
        return orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(array.tolist()).encode()  # NaN, where orjson would write null
