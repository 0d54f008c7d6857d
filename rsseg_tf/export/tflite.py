"""TFLite files for phones, boards and browsers: in float32, with smaller weights, or in whole numbers throughout."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from rsseg_tf.environment import muted_stderr
from rsseg_tf.errors import ExportError
from rsseg_tf.export.flatbuffer import activations, check_operators, tensor_types
from rsseg_tf.export.tiles import middle_of
from rsseg_tf.export.trained import TrainedModel, WeightsHolder
from rsseg_tf.extras import require
from rsseg_tf.files import StrPath
from rsseg_tf.manifest import CALIBRATED, MANIFEST_FILE, PIXELS, Artifact, Quantization
from rsseg_tf.rasters.windows import Size

__all__ = ["typical_images", "write_tflite"]

_CHOOSING_SIDE = 512  # pixels, the longest side of images among which those for calibration are chosen
_LARGEST_RATIO = 8.0  # to the middle image; at the bound 8 bits are 5 for the others
_SHARE = 0.25  # of the activations that must be beyond it
LABELS_FILE = "labels.txt"


def write_tflite(
    trained: TrainedModel,
    folder: StrPath,
    quantization: Quantization = "float32",
    *,
    tile: Size | None = None,
    calibration: Sequence[NDArray] = (),
    notify: Callable[[str], object] = lambda line: None,
) -> Artifact:
    """Writes `model_<quantization>.tflite` into `folder`.

    Its signature `serving_default` takes `pixels` (1, H, W, bands) and gives `class_map` (1, H, W) uint8 and `logits`
    (1, H, W, classes). Only built-in operators occur. The manifest and the class names lie in a zip archive at the end
    of the file, which programs that know nothing of it pass over.

    - `float32`: as trained.
    - `float16`: weights of half the size; computes in float32.
    - `dynamic`: weights of 8 bits, activations quantised on the way. The fastest on CPUs.
    - `int8`: weights and activations of 8 bits, for accelerators that know nothing else. Where pixels are bytes, they
      come as they are; `logits` are uint8 with the scale and zero point in the manifest.
    - `int16x8`: activations of 16 bits; more exact, but LiteRT runs it with slow reference kernels.

    Args:
        trained: The model.
        folder: Folder to write to.
        quantization: See above.
        tile: Size of the input; None for any size, which costs speed.
        calibration: Images (H, W, bands) that show the range of activations; for `int8` and `int16x8` only. For `int8`
            those that are nothing like the others are left out, see `typical_images`.
        notify: Called with a line if images are left out.

    Raises:
        ExportError: When the model cannot be a TFLite file, there are no calibration images, or the extra `tflite` is
            not installed.
    """
    folder = Path(folder)
    trained.refuse_unless_static("A TFLite file")
    if quantization in CALIBRATED and not calibration:
        raise ExportError(
            f"--quantize {quantization} measures the range of activations on real images; there are none. Name a list "
            "of images with --calibration, such as the training list."
        )
    # Quantised inputs are declared as floating point; the converter makes them bytes.
    dtype = "float32" if quantization in CALIBRATED else trained.dtype
    as_bytes = quantization == "int8" and trained.dtype == "uint8"
    if quantization == "int8":
        fit = _typical(trained, calibration, tile)
        if len(fit) < len(calibration):
            notify(
                f"tflite int8: {len(calibration) - len(fit)} of {len(calibration)} images are left out of the "
                "calibration, because the network answers them with activations many times as large as the others."
            )
        calibration = [calibration[index] for index in fit]
    images = _as_inputs(calibration, tile, as_bytes=as_bytes)
    content = _convert(trained, quantization, tile, dtype, images)
    artifact = _describe(trained, content, quantization, tile)
    (folder / artifact.path).write_bytes(content)
    # Appended: a flatbuffer is read from its beginning, a zip archive from its end.
    with zipfile.ZipFile(folder / artifact.path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST_FILE, trained.manifest_of(artifact))
        archive.writestr(LABELS_FILE, "\n".join(trained.spec.classes) + "\n")
    return artifact


def _convert(
    trained: TrainedModel,
    quantization: Quantization,
    tile: Size | None,
    dtype: str,
    images: Sequence[NDArray] = (),
) -> bytes:
    """Returns the content of a TFLite file whose input has a size and type, calibrated on images."""
    function = trained.convertible(tile, dtype, eight_bits=quantization == "int8")
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], WeightsHolder(trained.model))
    _configure(converter, quantization, images, as_bytes=trained.dtype == "uint8")
    try:
        with muted_stderr(), warnings.catch_warnings():
            # Calibration runs in tf.lite.Interpreter, which announces its removal.
            warnings.simplefilter("ignore")
            content: bytes = converter.convert()
    except (ValueError, RuntimeError) as error:  # ConverterError is a RuntimeError of no public name
        reason = str(error).strip().splitlines()
        raise ExportError(
            f"The converter cannot make a TFLite file of {trained.manifest.model} ({quantization}): "
            f"{reason[0] if reason else type(error).__name__}. Export it as onnx or savedmodel."
        ) from error
    return content


def _typical(trained: TrainedModel, images: Sequence[NDArray], tile: Size | None) -> list[int]:
    """Returns which images to calibrate with, by a look at their middle: all activations are in memory at once."""
    if len(images) == 1:  # there is nothing to choose
        return [0]
    size = None if tile is None else Size(min(tile.height, _CHOOSING_SIDE), min(tile.width, _CHOOSING_SIDE))
    content = _convert(trained, "float32", size, "float32")
    inputs = []
    for image in images:
        part = size or Size(min(image.shape[0], _CHOOSING_SIDE), min(image.shape[1], _CHOOSING_SIDE))
        inputs.append(middle_of(image, part)[np.newaxis].astype(np.float32))
    return typical_images(content, inputs)


def _configure(converter: Any, quantization: Quantization, images: Sequence[NDArray], *, as_bytes: bool) -> None:
    """Sets the converter's options."""
    sets = tf.lite.OpsSet
    # TensorFlow's own operators would need its "flex" library on the device, with many megabytes.
    converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS]
    if quantization == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization in CALIBRATED:
        converter.representative_dataset = lambda: ({PIXELS: image} for image in images)
    if quantization == "int8":
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS_INT8]
        if as_bytes:
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.uint8
    if quantization == "int16x8":
        converter.target_spec.supported_ops = [
            sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            sets.TFLITE_BUILTINS,  # for the few operators without a 16-bit version
        ]


def _as_inputs(images: Sequence[NDArray], tile: Size | None, *, as_bytes: bool) -> list[NDArray[np.float32]]:
    """Returns images (1, H, W, bands) for the converter."""
    inputs = []
    for image in images:
        pixels = image if tile is None else middle_of(image, tile)
        pixels = pixels.astype(np.float32)  # a copy
        if as_bytes:
            # The input's scale follows from the smallest and the largest pixel that were seen; with 0 and 255 among
            # them it is exactly 1, so that bytes come in as they are.
            pixels[0, 0], pixels[-1, -1] = 0, 255
        inputs.append(pixels[np.newaxis])
    return inputs


def _describe(trained: TrainedModel, content: bytes, quantization: Quantization, tile: Size | None) -> Artifact:
    """Returns the artifact, with types and scales as the file has them."""
    check_operators(content)
    found = tensor_types(content)
    dtype, scale, zero_point = found[PIXELS]
    if dtype == "uint8" and scale and (scale != 1.0 or zero_point != 0):
        raise ExportError(
            f"The converter gave the pixels of the TFLite file the scale {scale} and zero point {zero_point}; 1 and 0 "
            "are needed so that bytes come in as they are. Use --quantize dynamic."
        )
    artifact = trained.describe("tflite", f"model_{quantization}.tflite", ("class_map", "logits"), tile, batch=1)
    outputs = []
    for tensor in artifact.outputs:
        dtype_out, scale, zero_point = found[tensor.name]
        outputs.append(tensor.model_copy(update={"dtype": dtype_out, "scale": scale, "zero_point": zero_point}))
    return artifact.model_copy(
        update={
            "quantization": quantization,
            "input": artifact.input.model_copy(update={"dtype": dtype}),
            "outputs": tuple(outputs),
            "signatures": ("serving_default",),
        }
    )


def typical_images(model: bytes, images: Sequence[NDArray]) -> list[int]:
    """Returns which images to calibrate with.

    Left out is an image for which a quarter of all activations reach more than eight times as far as for the middle
    image. What such images show is clipped later, to the range of the others.

    Args:
        model: A TFLite file in float32.
        images: `(1, H, W, bands)` float32, as the file takes them.

    Returns:
        Indices in rising order; at least half of the images.
    """
    reach = _largest_activations(model, images)
    middle = np.median(reach, axis=0)
    # Activations that are 0 for most images have no scale to compare with.
    ratio = reach[:, middle > 0] / middle[middle > 0]
    beyond = (ratio > _LARGEST_RATIO).mean(axis=1) if ratio.size else np.zeros(len(images))
    # With few images the middle one may be no guide: never more than half.
    order = np.argsort(beyond, kind="stable")
    fit = set(order[: (len(images) + 1) // 2]) | set(np.flatnonzero(beyond <= _SHARE))
    return sorted(int(index) for index in fit)


def _largest_activations(model: bytes, images: Sequence[NDArray]) -> NDArray[np.float64]:
    """Returns the largest absolute value `(images, activations)` of each tensor that an operator gives."""
    litert = require("ai_edge_litert.interpreter", "tflite")
    interpreter = litert.Interpreter(
        model_content=model,
        num_threads=os.cpu_count() or 1,
        experimental_preserve_all_tensors=True,
        # A delegate would fuse operators, and their tensors would be missing.
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    (entry,) = interpreter.get_input_details()
    indices = activations(model)
    rows = []
    for image in images:
        interpreter.resize_tensor_input(entry["index"], image.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(entry["index"], image)
        interpreter.invoke()
        rows.append([np.abs(interpreter.get_tensor(index)).max(initial=0) for index in indices])
    return np.array(rows, np.float64)
