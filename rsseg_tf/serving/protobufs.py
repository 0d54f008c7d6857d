"""Messages of TensorFlow Serving's interface that both REST and gRPC send."""

from __future__ import annotations

from collections.abc import Sequence

from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataResponse, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse, ModelVersionStatus

from rsseg_tf.serving.loaded import LoadedVersion
from rsseg_tf.serving.versions import VersionStatus

__all__ = ["SIGNATURES_FIELD", "metadata_message", "status_message"]

SIGNATURES_FIELD = "signature_def"
_OK, _UNKNOWN = 0, 2  # of tensorflow.error.Code


def status_message(statuses: Sequence[VersionStatus]) -> GetModelStatusResponse:
    """Returns the answer to a question for the status of versions."""
    message = GetModelStatusResponse()
    for status in statuses:
        one = message.model_version_status.add(
            version=status.number, state=ModelVersionStatus.State.Value(status.state)
        )
        one.status.error_code = _UNKNOWN if status.error else _OK
        one.status.error_message = status.error
    return message


def metadata_message(model: str, version: LoadedVersion) -> GetModelMetadataResponse:
    """Returns the answer to a question for the signatures of a version."""
    message = GetModelMetadataResponse()
    message.model_spec.name = model
    message.model_spec.version.value = version.number
    signatures = SignatureDefMap()
    for name, definition in version.signatures.items():
        signatures.signature_def[name].CopyFrom(definition)
    message.metadata[SIGNATURES_FIELD].Pack(signatures)
    return message
