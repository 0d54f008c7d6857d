"""Warm-up requests for TensorFlow Serving: it runs them when it loads a model, so that no user waits for the first.

The records are `tensorflow.serving.PredictionLog` messages. Their few fields are written here by hand, because the
package that holds their definitions is only needed to talk to a server.

Source: prediction_log.proto, predict.proto and model.proto of TensorFlow Serving.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

__all__ = ["WARMUP_FILE", "write_warmup"]

WARMUP_FILE = "tf_serving_warmup_requests"

_PREDICT_LOG = 6  # of PredictionLog
_REQUEST = 1  # of PredictLog
_MODEL_SPEC, _INPUTS = 1, 2  # of PredictRequest
_SIGNATURE_NAME = 3  # of ModelSpec
_KEY, _VALUE = 1, 2  # of an entry of a map


def write_warmup(folder: Path, name: str, value: NDArray, signatures: Sequence[str]) -> None:
    """Writes one request for each signature.

    Args:
        folder: `assets.extra` of a SavedModel; made if missing.
        name: of the input.
        value: what the requests send.
        signatures: names of signatures that have this input.
    """
    folder.mkdir(exist_ok=True)
    tensor = tf.make_tensor_proto(np.asarray(value)).SerializeToString()
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as file:
        for signature in signatures:
            entry = _field(_KEY, name.encode()) + _field(_VALUE, tensor)
            model = _field(_SIGNATURE_NAME, signature.encode())
            request = _field(_MODEL_SPEC, model) + _field(_INPUTS, entry)
            file.write(_field(_PREDICT_LOG, _field(_REQUEST, request)))


def _field(number: int, content: bytes) -> bytes:
    """Encodes a field of a protocol buffer that holds bytes, text or a message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
