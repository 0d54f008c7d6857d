"""The manifest describes an exported model to servers, phones and scene predictors.

It is written as `manifest.json` beside the artifacts, and once more into each artifact, so that a file that was copied
elsewhere keeps the description of its pixels and classes: as `assets/manifest.json` of a SavedModel, as `manifest.json`
in the zip archive at the end of a TFLite file, as the property `rsseg_tf_manifest` of an ONNX or OpenVINO model.

This module imports no network library.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import DataError, ExportError, address_hint
from rsseg_tf.files import StrPath
from rsseg_tf.rasters.windows import Size

__all__ = [
    "BYTES_INPUT",
    "BYTES_OUTPUT",
    "CALIBRATED",
    "DEEPNESS_SCALE",
    "FORMATS",
    "MANIFEST_FILE",
    "MANIFEST_PROPERTY",
    "PIXELS",
    "QUANTIZATIONS",
    "TRUST_VARIABLE",
    "Artifact",
    "Classes",
    "Inference",
    "Manifest",
    "Origin",
    "Tensor",
    "changed_files",
    "file_sha256",
    "read_manifest",
    "require_files",
    "require_unchanged",
]

MANIFEST_FILE = "manifest.json"
MANIFEST_PROPERTY = "rsseg_tf_manifest"

PIXELS = "pixels"
"""Name of the input of every artifact."""

DEEPNESS_SCALE = 255.0
"""What Deepness divides the pixels of any file by, before a model sees them."""

TRUST_VARIABLE = "RSSEG_TF_TRUST"
"""Name of the environment variable that, set to 1, allows SavedModels that could read or write files."""

BYTES_INPUT = "image_bytes"
"""Input of a SavedModel's signature `predict_bytes`. TensorFlow Serving's REST interface encodes strings as base64
where the name ends in `_bytes`."""
BYTES_OUTPUT = "class_map_png_bytes"
"""Output of a SavedModel's signature `predict_bytes`."""

Format = Literal["savedmodel", "tflite", "onnx", "openvino", "web", "deepness"]
Quantization = Literal["float32", "float16", "dynamic", "int8", "int16x8"]
FORMATS: tuple[Format, ...] = ("savedmodel", "tflite", "onnx", "openvino", "web", "deepness")
QUANTIZATIONS: tuple[Quantization, ...] = ("float32", "float16", "dynamic", "int8", "int16x8")
CALIBRATED: tuple[Quantization, ...] = ("int8", "int16x8")
"""Quantizations whose ranges of activations are measured on images."""

_Positive = Annotated[int, Field(gt=0)]


def _with_pixels(size: Size) -> Size:
    if min(size) < 1:
        raise ValueError(f"height and width must be above 0; got {list(size)}")
    return size


_Size = Annotated[Size, AfterValidator(_with_pixels)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tensor(_Section):
    """An input or output.

    Attributes:
        name: The spelling of requests and signatures.
        dtype: NumPy's name; `string` for encoded images.
        shape: Sizes of the axes; None where a size is free.
        meaning: The meaning of the values, in words.
        scale: For a quantized output, real value = scale * (stored value - zero_point); 0 for all others.
        zero_point: See `scale`.
    """

    name: str
    dtype: str
    shape: tuple[_Positive | None, ...]
    meaning: str
    scale: float = 0.0
    zero_point: int = 0


class Artifact(_Section):
    """One exported file or folder.

    Attributes:
        format: The file format.
        path: Path relative to the folder of the manifest; `.` for a SavedModel, whose files lie beside the manifest;
            for a page (`web`) the path of its TFLite file.
        quantization: Types in which weights and activations are stored.
        tile: The only size of the input, height first; None where any size is allowed.
        input: The pixels; `(B, H, W, bands)`, of a file for `deepness` `(B, bands, H, W)`.
        outputs: Outputs of the default signature.
        signatures: Names of all signatures of a SavedModel.
        sha256: Checksums of the files, by their paths relative to the manifest. Empty in the copy inside of the
            artifact.
    """

    format: Format
    path: str
    quantization: Quantization = "float32"
    tile: _Size | None = None
    input: Tensor
    outputs: tuple[Tensor, ...]
    signatures: tuple[str, ...] = ()
    sha256: dict[str, str] = {}

    @property
    def name(self) -> str:
        """The name in reports: the format, and for TFLite the quantization."""
        return f"tflite {self.quantization}" if self.format == "tflite" else self.format


class Classes(_Section):
    """The dataset that the model was trained for; see `rsseg_tf.datasets.DatasetSpec`, which `spec` returns.

    A model takes pixels as files hold them and normalises them itself: `(x / max_value - mean) / std`.
    `gsd_m` is the ground sampling distance in metres per pixel.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    ignore_index: int
    bands: _Positive
    band_names: tuple[str, ...] = ()
    rgb_bands: tuple[int, ...]
    max_value: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    gsd_m: float | None = None
    small_classes: tuple[str, ...] = ()
    source: str = ""

    @classmethod
    def of(cls, spec: DatasetSpec) -> Classes:
        """Returns the description of a spec."""
        values = {name: getattr(spec, name) for name in cls.model_fields if name != "gsd_m"}
        return cls(**values, gsd_m=spec.gsd)

    @property
    def spec(self) -> DatasetSpec:
        """The dataset's spec.

        Raises:
            DataError: When the values contradict each other.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "gsd_m"}
        return DatasetSpec(**values, gsd=self.gsd_m)


class Inference(_Section):
    """The defaults of prediction: fields of `rsseg_tf.predict.InferenceOptions`.

    Attributes:
        temperature: What logits are divided by before they become probabilities. A model that was never calibrated has
            1, and its manifest does not mention it.
    """

    scales: tuple[float, ...] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: tuple[_Positive, _Positive] | None = None
    stride: tuple[_Positive, _Positive] | None = None
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    @model_serializer(mode="wrap")
    def _without_default_temperature(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Earlier versions refuse keys that they don't know.
        values: dict[str, Any] = serialize(self)
        if self.temperature == 1:
            del values["temperature"]
        return values


class Origin(_Section):
    """Where an exported model comes from.

    Attributes:
        checkpoint: Name of the checkpoint, with the name of its folder.
        step: Training steps taken.
        weights_sha256: Checksum of the checkpoint's weights file.
        config_sha256: Checksum of the resolved config beside the manifest.
        exported: Date and time in UTC, ISO 8601.
        versions: Versions of rsseg_tf, keras and tensorflow.
    """

    checkpoint: str
    step: int
    weights_sha256: str
    config_sha256: str
    exported: str
    versions: dict[str, str]


class Manifest(_Section):
    """The description of an exported model.

    Attributes:
        format_version: Version of the manifest's own format.
        model: Segmentor and backbone, such as `fcn_hrnet_w18`.
        dataset: Classes, colours, bands and normalisation.
        crop_size: Size of the training crops, height first.
        size_multiple: No layer has to round the size of an image whose height and width are multiples of this.
        inference: The defaults of prediction.
        origin: Checkpoint and versions.
        artifacts: The exported files.
    """

    format_version: Literal[1] = 1
    model: str
    dataset: Classes
    crop_size: _Size
    size_multiple: _Positive
    inference: Inference
    origin: Origin
    artifacts: tuple[Artifact, ...] = ()

    @property
    def spec(self) -> DatasetSpec:
        """Classes, palette, ignored id, bands and statistics."""
        return self.dataset.spec

    def to_json(self) -> str:
        """Returns JSON text that `from_json` reads back to an equal manifest."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Reads a manifest.

        Args:
            text: JSON.
            source: The name of the file in messages.

        Raises:
            ExportError: When it is no manifest, of a later version, or contradicts itself.
        """
        try:
            manifest = cls.model_validate_json(text)
            _ = manifest.spec  # a spec checks itself
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "JSON"
            raise ExportError(
                f"The manifest of {source} cannot be used: {where}: {first['msg']}. This rsseg_tf reads version 1; "
                "export the model again."
            ) from error
        except DataError as error:
            raise ExportError(f"The manifest of {source} contradicts itself: {error}") from error
        return manifest


def read_manifest(folder: StrPath) -> Manifest:
    """Reads `manifest.json` of an exported version.

    Raises:
        ExportError: When there is none, or it is damaged.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ExportError(
            f"{folder} has no readable {MANIFEST_FILE}: {error.strerror}. Name a folder that `rsseg-tf export` wrote, "
            f"such as export/dubai or export/dubai/1.{address_hint(folder)}",
            code="not-found",
        ) from error
    return Manifest.from_json(text, str(path))


def file_sha256(path: StrPath) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    path = Path(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_files(folder: StrPath, artifact: Artifact) -> list[str]:
    """Returns the files of an artifact that are missing or differ from what was exported.

    A file is read again only when its size or time has changed.
    """
    folder = Path(folder)
    return [name for name, digest in artifact.sha256.items() if _cached_sha256(folder / name) != digest]


def require_unchanged(path: StrPath) -> None:
    """Compares an artifact with the checksums in the `manifest.json` beside it.

    An artifact without a manifest beside it, or that the manifest does not list, passes.

    Args:
        path: A file, or the folder of a SavedModel.

    Raises:
        ExportError: When a file is missing or is not what was exported, or the manifest is damaged.
    """
    path = Path(path)
    folder, name = (path, ".") if path.is_dir() else (path.parent, path.name)
    if not _is_manifest(folder / MANIFEST_FILE):
        return
    for artifact in read_manifest(folder).artifacts:
        if artifact.path == name:
            require_files(folder, artifact)


def require_files(folder: StrPath, artifact: Artifact) -> None:
    """Raises ExportError for an artifact with missing or changed files; see `changed_files`."""
    folder = Path(folder)
    changed = changed_files(folder, artifact)
    if changed:
        raise ExportError(
            f"{folder / changed[0]} is missing or is not what was exported (SHA-256). Copy the version again, or "
            "export the model again."
        )


def _is_manifest(path: Path) -> bool:
    """Whether a file exists and may be an export's manifest; web apps have files of this name too."""
    try:
        found = json.loads(path.read_bytes())
    except OSError:
        return False
    except (ValueError, RecursionError):  # a damaged file; `read_manifest` reports it
        return True
    return isinstance(found, dict) and bool({"format_version", "artifacts"} & set(found))


def _cached_sha256(path: Path) -> str | None:
    try:
        status = path.stat()
        return _sha256_of(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, *_: int) -> str:
    return file_sha256(path)
