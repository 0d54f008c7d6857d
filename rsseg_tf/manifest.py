"""The manifest: all that is known of an exported model, for servers, phones and scene predictors.

It is written as `manifest.json` beside the artifacts, and once more into each of them, so that a file that was copied
elsewhere still says what its pixels and its classes are: as `assets/manifest.json` of a SavedModel, as `manifest.json`
in the zip archive at the end of a TFLite file, as the property `rsseg_tf_manifest` of an ONNX or OpenVINO model.

Reading one needs no network library.
"""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import DataError, ExportError, address_hint
from rsseg_tf.files import StrPath

__all__ = [
    "BYTES_INPUT",
    "BYTES_OUTPUT",
    "CALIBRATED",
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

TRUST_VARIABLE = "RSSEG_TF_TRUST"
"""Name of the environment variable that, set to 1, lets SavedModels do whatever they want when they are opened."""

BYTES_INPUT, BYTES_OUTPUT = "image_bytes", "class_map_png_bytes"
"""Input and output of a SavedModel's signature `predict_bytes`. TensorFlow Serving's REST interface encodes strings as
base64 where the name ends in `_bytes`."""

Format = Literal["savedmodel", "tflite", "onnx", "openvino", "web"]
Quantization = Literal["float32", "float16", "dynamic", "int8", "int16x8"]
FORMATS: tuple[Format, ...] = ("savedmodel", "tflite", "onnx", "openvino", "web")
QUANTIZATIONS: tuple[Quantization, ...] = ("float32", "float16", "dynamic", "int8", "int16x8")
CALIBRATED: tuple[Quantization, ...] = ("int8", "int16x8")
"""Those whose ranges of activations are measured on images."""

_Positive = Annotated[int, Field(gt=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Tensor(_Part):
    """An input or output.

    Attributes:
        name: as requests and signatures spell it.
        dtype: NumPy name; `string` for encoded images.
        shape: None where a size is free.
        meaning: what the values are.
        scale: of an integer output, real value = scale * (stored value - zero_point); 0 where values are as they are.
        zero_point: see `scale`.
    """

    name: str
    dtype: str
    shape: tuple[_Positive | None, ...]
    meaning: str
    scale: float = 0.0
    zero_point: int = 0


class Artifact(_Part):
    """One exported file or folder.

    Attributes:
        format: what reads it.
        path: relative to the folder of the manifest; `.` for a SavedModel, whose files lie beside the manifest; of a
            page (`web`) its TFLite file.
        quantization: how weights and activations are stored.
        tile: (height, width) that its input must have; None where any size goes.
        input: the pixels.
        outputs: of the default signature.
        signatures: names of all signatures of a SavedModel.
        sha256: of its files, by their paths relative to the manifest. Empty in the copy inside of the artifact.
    """

    format: Format
    path: str
    quantization: Quantization = "float32"
    tile: tuple[_Positive, _Positive] | None = None
    input: Tensor
    outputs: tuple[Tensor, ...]
    signatures: tuple[str, ...] = ()
    sha256: dict[str, str] = {}

    @property
    def name(self) -> str:
        """What reports call it: the format, and for TFLite how weights are stored."""
        return f"tflite {self.quantization}" if self.format == "tflite" else self.format


class Classes(_Part):
    """The dataset that the model was trained for; see `rsseg_tf.datasets.DatasetSpec`, which `spec` returns.

    A model takes pixels as they are in the file and normalises them itself: `(x / max_value - mean) / std`.
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
        """Returns the facts of a spec."""
        values = {name: getattr(spec, name) for name in cls.model_fields if name != "gsd_m"}
        return cls(**values, gsd_m=spec.gsd)

    @property
    def spec(self) -> DatasetSpec:
        """The spec that these facts make.

        Raises:
            DataError: when they contradict each other.
        """
        values = {name: getattr(self, name) for name in type(self).model_fields if name != "gsd_m"}
        return DatasetSpec(**values, gsd=self.gsd_m)


class Inference(_Part):
    """How images are predicted unless told otherwise: the fields of `rsseg_tf.predict.InferenceOptions`."""

    scales: tuple[float, ...] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: tuple[_Positive, _Positive] | None = None
    stride: tuple[_Positive, _Positive] | None = None


class Origin(_Part):
    """Where an exported model comes from.

    Attributes:
        checkpoint: name of the checkpoint, with the folder that it was in.
        step: training steps taken.
        weights_sha256: of the checkpoint's weights file.
        config_sha256: of the resolved config as it lies beside the manifest.
        exported: date and time in UTC, ISO 8601.
        versions: of rsseg_tf, keras and tensorflow.
    """

    checkpoint: str
    step: int
    weights_sha256: str
    config_sha256: str
    exported: str
    versions: dict[str, str]


class Manifest(_Part):
    """All that is known of an exported model.

    Attributes:
        format_version: of the manifest itself.
        model: segmentor and backbone, such as `fcn_hrnet_w18`.
        dataset: classes, colours, bands and normalisation.
        crop_size: (height, width) of the images that the model was trained with.
        size_multiple: sizes that this divides are the ones that no layer has to round.
        inference: how images are predicted unless told otherwise.
        origin: checkpoint and versions.
        artifacts: what was exported.
    """

    format_version: Literal[1] = 1
    model: str
    dataset: Classes
    crop_size: tuple[_Positive, _Positive]
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
            source: what to call it in errors.

        Raises:
            ExportError: when it is no manifest, of a later version, or contradicts itself.
        """
        try:
            manifest = cls.model_validate_json(text)
            _ = manifest.spec
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
        ExportError: when there is none, or it is damaged.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ExportError(
            f"{folder} has no readable {MANIFEST_FILE}: {error.strerror}. Name a folder that `rsseg-tf export` wrote, "
            f"such as export/dubai or export/dubai/1.{address_hint(folder)}"
        ) from error
    return Manifest.from_json(text, str(path))


def file_sha256(path: StrPath) -> str:
    """Returns the SHA-256 of a file in hexadecimal."""
    path = Path(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed_files(folder: Path, artifact: Artifact) -> list[str]:
    """Returns the files of an artifact that are missing or are not what was exported.

    Checksums are remembered as long as a file's size and time stay.
    """
    return [name for name, digest in artifact.sha256.items() if _remembered_sha256(folder / name) != digest]


def require_unchanged(path: StrPath) -> None:
    """Compares an artifact with the checksums in the `manifest.json` beside it.

    One that lies alone, or that the manifest does not list, has nothing to be compared with.

    Args:
        path: a file, or the folder of a SavedModel.

    Raises:
        ExportError: when a file is missing or is not what was exported, or the manifest is damaged.
    """
    path = Path(path)
    folder, name = (path, ".") if path.is_dir() else (path.parent, path.name)
    if not _is_ours(folder / MANIFEST_FILE):
        return
    for artifact in read_manifest(folder).artifacts:
        if artifact.path == name:
            require_files(folder, artifact)


def require_files(folder: Path, artifact: Artifact) -> None:
    """Raises ExportError unless all files of an artifact are what was exported; see `changed_files`."""
    changed = changed_files(folder, artifact)
    if changed:
        raise ExportError(
            f"{folder / changed[0]} is missing or is not what was exported (SHA-256). Copy the version again, or "
            "export the model again."
        )


def _is_ours(path: Path) -> bool:
    """Whether a file is there and may be a manifest of ours; web pages have files of this name, too."""
    try:
        found = json.loads(path.read_bytes())
    except OSError:
        return False
    except (ValueError, RecursionError):
        return True
    return isinstance(found, dict) and bool({"format_version", "artifacts"} & set(found))


def _remembered_sha256(path: Path) -> str | None:
    try:
        status = path.stat()
        return _sha256_of(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except OSError:
        return None


@functools.lru_cache(maxsize=4096)
def _sha256_of(path: Path, *_: int) -> str:
    return file_sha256(path)
