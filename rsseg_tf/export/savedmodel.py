"""SavedModel: what TensorFlow Serving loads, and what any TensorFlow runs without Keras and without this package."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.export.trained import TrainedModel, WeightsHolder
from rsseg_tf.files import StrPath
from rsseg_tf.manifest import BYTES_INPUT, BYTES_OUTPUT, MANIFEST_FILE, PIXELS, Artifact
from rsseg_tf.rasters.headers import JPEG_SIGNATURE, PNG_SIGNATURE

__all__ = ["WARMUP_FILE", "decode_picture", "write_savedmodel", "write_warmup"]

_WARMUP_SIDE = 256
_MANIFEST = "manifest"
WARMUP_FILE = "tf_serving_warmup_requests"
# Numbers of fields in prediction_log.proto, predict.proto and model.proto of TensorFlow Serving. The messages are
# written by hand, because the package that defines them is only needed to talk to a server.
_PREDICT_LOG = 6  # of PredictionLog
_REQUEST = 1  # of PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # of PredictRequest
_SIGNATURE_NAME = 3  # of ModelSpec
_KEY, _VALUE = 1, 2  # of an entry of a map
_PNG_DEPTH = 24  # the byte with the bit depth: the IHDR chunk comes first


def write_savedmodel(trained: TrainedModel, folder: StrPath) -> Artifact:
    """Writes a SavedModel into `folder`, which may hold other files.

    Signatures, all for any batch, height and width:

    - `serving_default`: `pixels` to `class_map` (B, H, W) uint8 and `confidence` (B, H, W) float32, the probability
      of that class;
    - `probabilities` and `logits`: `pixels` to (B, H, W, classes) float32 of that name;
    - `predict_bytes`: `image_bytes` (B,) PNG, JPEG, BMP or GIF images of one size, to
      `class_map_png_bytes` (B,) grey PNGs of class ids;
    - `manifest`: `query` (B,) strings, which are ignored, to `manifest_json` (B,): the manifest, for clients that see a
      server and no files.

    All but `logits`, whose answer shows it, fail where a logit is NaN or infinite: no class follows from it.

    `pixels` are (B, H, W, bands), uint8 where the dataset's largest value is 255, else float32.

    The manifest is an asset, and warm-up requests lie in `assets.extra`, which TensorFlow Serving runs before it
    answers anyone.

    Raises:
        OSError: When it cannot be written.
    """
    folder = Path(folder)
    holder, signatures = _signatures(trained)
    artifact = trained.describe("savedmodel", ".", ("class_map", "confidence"))
    artifact = artifact.model_copy(update={"signatures": (*signatures, _MANIFEST)})
    text = trained.manifest_of(artifact)
    signatures[_MANIFEST] = _manifest_signature(text)
    with tempfile.TemporaryDirectory() as temporary:
        manifest = Path(temporary) / MANIFEST_FILE
        manifest.write_text(text, "utf-8")
        holder.manifest = tf.saved_model.Asset(str(manifest))
        tf.saved_model.save(holder, str(folder), signatures=signatures)
    side = min(_WARMUP_SIDE, *trained.manifest.crop_size)
    pixels = np.zeros((1, side, side, trained.spec.bands), trained.dtype)
    write_warmup(folder / "assets.extra", PIXELS, pixels, ["serving_default", "probabilities", "logits"])
    return artifact


def _signatures(trained: TrainedModel) -> tuple[Any, dict[str, Any]]:
    """Returns the object to save and its signatures; the network itself is in the file once."""
    spec = trained.spec
    holder: Any = WeightsHolder(trained.model)
    network = tf.function(trained.logits, input_signature=[trained.input_spec()]).get_concrete_function()
    pixels = [trained.input_spec()]

    def finite_logits(pixels: tf.Tensor) -> tf.Tensor:
        return tf.debugging.check_numerics(network(pixels), "the model gives values that are not finite")

    @tf.function(input_signature=pixels)
    def serving_default(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        class_map, confidence = trained.class_and_confidence(finite_logits(pixels))
        return {"class_map": class_map, "confidence": confidence}

    @tf.function(input_signature=pixels)
    def probabilities(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(trained.tempered(finite_logits(pixels)))}

    @tf.function(input_signature=pixels)
    def logits(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.identity(network(pixels))}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name=BYTES_INPUT)])
    def predict_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        decoded = tf.map_fn(
            lambda data: decode_picture(data, bands=spec.bands, dtype=trained.dtype),
            image_bytes,
            fn_output_signature=tf.TensorSpec((None, None, spec.bands), trained.dtype),
        )
        class_map, _ = trained.class_and_confidence(finite_logits(decoded))
        encoded = tf.map_fn(tf.io.encode_png, class_map[..., tf.newaxis], fn_output_signature=tf.string)
        return {BYTES_OUTPUT: encoded}

    functions = (serving_default, probabilities, logits, predict_bytes)
    # The keys are the names of signatures, which clients call: the functions above must keep their names.
    return holder, {function.__name__: function for function in functions}


def _manifest_signature(text: str) -> Any:
    """Returns the signature that gives the manifest; it takes strings because servers need something to batch."""

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="query")])
    def manifest(query: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"manifest_json": tf.fill(tf.shape(query), text)}

    return manifest


def decode_picture(data: tf.Tensor, *, bands: int, dtype: str) -> tf.Tensor:
    """Decodes an image in a graph.

    Args:
        data: Scalar string: a PNG, JPEG, BMP or GIF (first frame).
        bands: How many the image must have; an alpha band beyond them is dropped.
        dtype: `uint8` takes images of 8 bits only; `float32` takes PNGs of 16 bits too, with their values as stored.

    Returns:
        `(H, W, bands)` of `dtype`. At run time the graph fails with a message for anything else.
    """
    # Padded, so that files shorter than the compared bytes do not fail here but in the decoder, with its message.
    head = tf.strings.join([tf.strings.substr(data, 0, _PNG_DEPTH + 1), bytes(_PNG_DEPTH + 1)])
    is_png = tf.equal(tf.strings.substr(head, 0, len(PNG_SIGNATURE)), PNG_SIGNATURE)
    is_jpeg = tf.equal(tf.strings.substr(head, 0, len(JPEG_SIGNATURE)), JPEG_SIGNATURE)
    is_deep = tf.logical_and(is_png, tf.equal(tf.strings.substr(head, _PNG_DEPTH, 1), b"\x10"))

    def of_eight_bits() -> tf.Tensor:
        # TensorFlow's default for JPEG is faster, and up to eight grey levels away from what all other readers give.
        return tf.cond(
            is_jpeg,
            lambda: tf.cast(tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE"), dtype),
            lambda: tf.cast(tf.io.decode_image(data, expand_animations=False), dtype),
        )

    if dtype == "uint8":
        refusal = tf.debugging.Assert(~is_deep, ["the model takes 8 bits per band; the PNG has 16"])
        with tf.control_dependencies([refusal]):
            pixels = tf.identity(of_eight_bits())
    else:
        pixels = tf.cond(is_deep, lambda: tf.cast(tf.io.decode_png(data, dtype=tf.uint16), dtype), of_eight_bits)
    found = tf.shape(pixels)[2]
    # Two bands are grey and alpha, four are RGB and alpha.
    with_alpha = tf.logical_and(tf.equal(found, bands + 1), tf.reduce_any(tf.equal(found, [2, 4])))
    fits = tf.logical_or(tf.equal(found, bands), with_alpha)
    with tf.control_dependencies([tf.debugging.Assert(fits, [f"the model needs {bands} bands; the image has", found])]):
        pixels = tf.identity(pixels[:, :, :bands])
    pixels.set_shape((None, None, bands))  # `decode_image` leaves even the number of axes open
    return pixels


def write_warmup(folder: Path, name: str, value: NDArray, signatures: Sequence[str]) -> None:
    """Writes one request for each signature. TensorFlow Serving runs them when it loads a model, so that no user waits.

    Args:
        folder: `assets.extra` of a SavedModel; made if missing.
        name: Name of the input.
        value: Value that the requests send.
        signatures: Names of signatures that have this input.
    """
    folder.mkdir(exist_ok=True)
    tensor = tf.make_tensor_proto(np.asarray(value)).SerializeToString()
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as file:
        for signature in signatures:
            # A map is a repeated message of key and value.
            entry = _field(_KEY, name.encode()) + _field(_VALUE, tensor)
            model = _field(_SIGNATURE_NAME, signature.encode())
            request = _field(_MODEL_SPEC, model) + _field(_INPUTS, entry)
            file.write(_field(_PREDICT_LOG, _field(_REQUEST, request)))


def _field(number: int, content: bytes) -> bytes:
    """Encodes a field of a protocol buffer that holds bytes, text or a message."""
    # The tag: the field's number and, in the lowest three bits, the wire type 2, "with a length in front".
    encoded = bytearray([number << 3 | 2])
    # The length as a varint: seven bits a byte, the lowest first; the highest bit marks that more follow.
    length = len(content)
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded) + content
