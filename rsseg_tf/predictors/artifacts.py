"""Predict callables over exported files: SavedModel, TFLite, ONNX and OpenVINO.

Each file brings its manifest along; nothing else is needed to use it. Where `manifest.json` lies beside it, the file
must be the one that was exported.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import DataError, ExportError, RssegError, reason
from rsseg_tf.extras import require
from rsseg_tf.files import StrPath
from rsseg_tf.manifest import DEEPNESS_SCALE, MANIFEST_FILE, MANIFEST_PROPERTY, Manifest, require_unchanged
from rsseg_tf.predict import InferenceOptions, Predict, any_size, require_finite
from rsseg_tf.predictors.operations import check_operations
from rsseg_tf.predictors.tables import check_tables
from rsseg_tf.rasters.windows import Size

__all__ = ["Predictor", "as_input", "load_onnx", "load_openvino", "load_savedmodel", "load_tflite"]

_NAMES = {"savedmodel": "SavedModel", "tflite": "TFLite file", "onnx": "ONNX file", "openvino": "OpenVINO model"}
# Names of types in OpenVINO, by those of this package.
_OPENVINO_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_MOST_MANIFEST_BYTES = 16 * 2**20  # a zip archive of a few kilobytes could unpack to gigabytes


@dataclass(frozen=True)
class Predictor:
    """A model and what must be known to use it.

    Attributes:
        kind: `checkpoint`, `savedmodel`, `tflite`, `onnx` or `openvino`.
        spec: Classes, palette, ignored id, bands and statistics.
        predict: Pixels to logits, for images of any size.
        options: How images are predicted by default.
        tile: Size that the model itself takes; None where it takes any. Images of other sizes are padded
            or cut into windows by `predict`; `options` have the engine do it with less memory.
        manifest: Manifest of an exported model, with one artifact, this one; None for a checkpoint.
    """

    kind: str
    spec: DatasetSpec
    predict: Predict
    options: InferenceOptions
    tile: Size | None = None
    manifest: Manifest | None = None


def as_input(pixels: NDArray, dtype: str) -> NDArray:
    """Returns pixels in the dtype that a model takes.

    Pixels that were resized are not whole; for a model that takes bytes they are rounded to the nearest.

    Raises:
        DataError: When the model takes bytes and pixels lie outside of 0..255.
    """
    if pixels.dtype == dtype:
        return pixels
    if dtype == "uint8":
        whole = np.rint(pixels)
        if whole.size and not (whole.min() >= 0 and whole.max() <= 255):
            raise DataError(
                f"the exported model takes bytes, 0..255; the image has {pixels.dtype} pixels from {pixels.min()} to "
                f"{pixels.max()}. Predict it with the checkpoint, or give images of 8 bits."
            )
        return whole.astype(np.uint8)
    return pixels.astype(dtype)


def load_savedmodel(folder: StrPath) -> Predictor:
    """Loads a SavedModel that `rsseg-tf export` wrote.

    Raises:
        ExportError: When it is damaged, was changed since the export, has no manifest, or could do more than compute
            (see `rsseg_tf.predictors.operations`).
    """
    folder = Path(folder)
    embedded = folder / "assets" / MANIFEST_FILE
    require_unchanged(folder)
    with _reading("savedmodel", folder):
        manifest = _own_manifest(embedded.read_bytes(), embedded, folder)
        check_operations(folder)
        module = tf.saved_model.load(str(folder))
        _ = module.signatures["logits"]  # raises here, and not at the first image, where there is none
    dtype = manifest.artifacts[0].input.dtype

    def predict(pixels: NDArray) -> NDArray[np.float32]:
        # By way of the module, because a signature alone does not keep the variables alive.
        return module.signatures["logits"](pixels=tf.constant(as_input(pixels, dtype)))["logits"].numpy()

    return _predictor("savedmodel", folder, predict, manifest)


def load_tflite(path: StrPath, *, threads: int | None = None) -> Predictor:
    """Loads a TFLite file through LiteRT.

    Args:
        path: The file.
        threads: Threads that LiteRT may use; None leaves it the choice.

    Raises:
        ExportError: When it is damaged, was changed since the export, has no manifest, or the extra `tflite` is not
            installed.
    """
    path = Path(path)
    litert = require("ai_edge_litert.interpreter", "tflite")
    require_unchanged(path)
    with _reading("tflite", path):
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(MANIFEST_FILE).file_size > _MOST_MANIFEST_BYTES:
                raise ExportError(f"The manifest inside {path} is larger than {_MOST_MANIFEST_BYTES} bytes.")
            manifest = _own_manifest(archive.read(MANIFEST_FILE), path, path)
        check_tables(path.read_bytes())
        interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
        run = interpreter.get_signature_runner("serving_default")
        artifact = manifest.artifacts[0]
        output = {tensor.name: tensor for tensor in artifact.outputs}["logits"]

    def predict(pixels: NDArray) -> NDArray[np.float32]:
        whole = as_input(pixels, artifact.input.dtype)
        # Phones look at one image at a time, so the files have a batch of 1.
        stored = np.concatenate([run(pixels=whole[i : i + 1])["logits"] for i in range(len(whole))])
        if output.scale == 0:
            return stored.astype(np.float32, copy=False)
        # In float32 before the subtraction: bytes would wrap around below zero.
        return (stored.astype(np.float32) - np.float32(output.zero_point)) * np.float32(output.scale)

    return _predictor("tflite", path, predict, manifest)


def load_onnx(path: StrPath, *, threads: int | None = None) -> Predictor:
    """Loads an ONNX file through ONNX Runtime, on the CPU.

    Args:
        path: The file.
        threads: Threads that one operation may use; None leaves the runtime the choice.

    Raises:
        ExportError: When it is damaged, was changed since the export, has no manifest, or the extra `onnx` is not
            installed.
    """
    path = Path(path)
    runtime = require("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Errors alone: warnings would be printed for every file.
    options.log_severity_level = 3
    require_unchanged(path)
    with _reading("onnx", path):
        # After a failure ONNX Runtime would try once more with the same provider, and print the first error.
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
        text = session.get_modelmeta().custom_metadata_map.get(MANIFEST_PROPERTY)
        if text is None:
            raise ExportError(
                f"{path} has no manifest, so that its classes and bands are not known: `rsseg-tf export` did not write "
                "it. Export the checkpoint with --format onnx."
            )
        manifest = _own_manifest(text, path, path)
    artifact = manifest.artifacts[0]
    dtype = artifact.input.dtype

    def predict(pixels: NDArray) -> NDArray[np.float32]:
        (logits,) = session.run(["logits"], {"pixels": np.ascontiguousarray(as_input(pixels, dtype))})
        return np.asarray(logits, np.float32)

    def predict_as_deepness(pixels: NDArray) -> NDArray[np.float32]:
        scaled = (pixels / DEEPNESS_SCALE).astype(np.float32).transpose(0, 3, 1, 2)
        (found,) = session.run(["probabilities"], {"pixels": np.ascontiguousarray(scaled)})
        # Logits but for a number that is the same for all classes of a pixel. What rounding made 0 has no logarithm.
        logarithms = np.log(np.maximum(np.asarray(found, np.float32), np.finfo(np.float32).tiny))
        return (logarithms * np.float32(manifest.inference.temperature)).transpose(0, 2, 3, 1)

    return _predictor("onnx", path, predict_as_deepness if artifact.format == "deepness" else predict, manifest)


def load_openvino(path: StrPath, *, threads: int | None = None, precision: str = "fp32") -> Predictor:
    """Loads an OpenVINO model (`.xml` with its `.bin`), on the CPU.

    Args:
        path: The `.xml` file.
        threads: Threads that it may use; None leaves it the choice.
        precision: `fp32`, `fp16` or `bf16`: type of activations, where the processor has it.

    Raises:
        ExportError: When it is damaged, was changed since the export, has no manifest, or the extra `openvino` is not
            installed.
    """
    path = Path(path)
    openvino = require("openvino", "openvino")
    core = openvino.Core()
    require_unchanged(path)
    with _reading("openvino", path):
        model = core.read_model(str(path))
        text = str(model.get_rt_info(["rsseg_tf", MANIFEST_PROPERTY]).astype(str))
        # Left to itself OpenVINO computes in bfloat16 where the processor can, and differs more than the tolerance.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[precision]}
        compiled = core.compile_model(model, "CPU", settings | ({"INFERENCE_NUM_THREADS": threads} if threads else {}))
        manifest = _own_manifest(text, path, path)
        logits = compiled.output("logits")
    dtype = manifest.artifacts[0].input.dtype

    def predict(pixels: NDArray) -> NDArray[np.float32]:
        # A copy: OpenVINO writes the next answer into the same memory.
        return np.array(compiled({"pixels": np.ascontiguousarray(as_input(pixels, dtype))})[logits], np.float32)

    return _predictor("openvino", path, predict, manifest)


def _predictor(kind: str, path: Path, predict: Predict, manifest: Manifest) -> Predictor:
    """Returns the predictor of a file; its predict callable raises one kind of error, also for NaN and infinities."""
    name = f"the {_NAMES[kind]} {path}"

    def checked(pixels: NDArray) -> NDArray[np.float32]:
        try:
            logits = predict(pixels)
        except (RssegError, MemoryError):
            raise
        except Exception as error:
            raise ExportError(
                f"{name} fails on pixels {pixels.shape}: {reason(error)}. If memory is short, choose smaller windows "
                "(--is_slide); else compare it with the checkpoint (rsseg-tf verify), or export the model again."
            ) from error
        return require_finite(logits, pixels, name)

    tile = manifest.artifacts[0].tile
    options = InferenceOptions.spelled(
        manifest.inference.model_dump(), tile=tile or manifest.crop_size, fixed_tile=tile is not None
    )
    of_any_size = any_size(checked, tile, manifest.spec.num_classes) if tile else checked
    return Predictor(kind, manifest.spec, of_any_size, options, tile, manifest)


def _own_manifest(text: str | bytes, source: Path, path: Path) -> Manifest:
    """Reads the manifest inside of an artifact, which describes that artifact alone."""
    manifest = Manifest.from_json(text, str(source))
    if len(manifest.artifacts) != 1:
        raise ExportError(f"The manifest inside {path} describes {len(manifest.artifacts)} artifacts; 1 is expected.")
    return manifest


@contextlib.contextmanager
def _reading(kind: str, path: Path) -> Iterator[None]:
    """Turns the errors of a library for a file that it cannot use into one error.

    They have no common base class: parsers, decompressors and checks of shapes each raise their own.
    """
    try:
        yield
    except RssegError:
        raise
    except Exception as error:
        raise ExportError(
            f"{path} is damaged, or no {_NAMES[kind]} that `rsseg-tf export` wrote: {reason(error)}. Export the model "
            "again."
        ) from error
