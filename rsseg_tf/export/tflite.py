"""TFLite files for phones, boards and browsers: in float32, with smaller weights, or in whole numbers throughout."""

from __future__ import annotations

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
from rsseg_tf.export.calibration import typical_images
from rsseg_tf.export.flatbuffer import check_operators, tensor_types
from rsseg_tf.export.tiles import middle_of
from rsseg_tf.export.trained import Trained, WeightsHolder
from rsseg_tf.files import StrPath
from rsseg_tf.manifest import CALIBRATED, MANIFEST_FILE, PIXELS, Artifact, Quantization, Tensor

__all__ = ["write_tflite"]

_LOOKED_AT = 512  # pixels, the longest side of what is looked at to choose images
LABELS_FILE = "labels.txt"


def write_tflite(
    trained: Trained,
    folder: StrPath,
    quantization: Quantization = "float32",
    *,
    tile: tuple[int, int] | None = None,
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
        trained: the model.
        folder: where to write.
        quantization: see above.
        tile: (height, width) of the input; None for any size, which costs speed.
        calibration: images (H, W, bands) that show the range of activations; for `int8` and `int16x8` only. For `int8`
            those that are nothing like the others are left out, see `rsseg_tf.export.calibration`.
        notify: called with a line if images are left out.

    Raises:
        ExportError: when the model cannot be a TFLite file, there are no calibration images, or the extra `tflite` is
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
    content = _convert(trained, quantization, trained.input_spec(tile, batch=1, dtype=dtype), images, as_bytes=as_bytes)
    check_operators(content)
    artifact = _describe(trained, content, quantization, tile)
    (folder / artifact.path).write_bytes(content)
    with zipfile.ZipFile(folder / artifact.path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST_FILE, trained.manifest_of(artifact))
        archive.writestr(LABELS_FILE, "\n".join(trained.spec.classes) + "\n")
    return artifact


def _outputs(trained: Trained) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    def outputs(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = trained.logits(pixels)
        return {"class_map": tf.cast(tf.argmax(logits, -1, output_type=tf.int32), tf.uint8), "logits": logits}

    return outputs


def _convert(
    trained: Trained, quantization: Quantization, spec: tf.TensorSpec, images: Sequence[NDArray], *, as_bytes: bool
) -> bytes:
    holder = WeightsHolder(trained.model)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([trained.convertible(_outputs(trained), spec)], holder)
    _configure(converter, quantization, images, as_bytes=as_bytes)
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


def _typical(trained: Trained, images: Sequence[NDArray], tile: tuple[int, int] | None) -> list[int]:
    """Returns which images to calibrate with, by a look at their middle: all activations are in memory at once."""
    size = None if tile is None else (min(tile[0], _LOOKED_AT), min(tile[1], _LOOKED_AT))
    content = _convert(trained, "float32", trained.input_spec(size, batch=1, dtype="float32"), (), as_bytes=False)
    inputs = []
    for image in images:
        height, width = size or (min(image.shape[0], _LOOKED_AT), min(image.shape[1], _LOOKED_AT))
        inputs.append(middle_of(image, (height, width))[np.newaxis].astype(np.float32))
    return typical_images(content, inputs)


def _configure(converter: Any, quantization: Quantization, images: Sequence[NDArray], *, as_bytes: bool) -> None:
    """Sets the converter's options."""
    sets = tf.lite.OpsSet
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


def _as_inputs(images: Sequence[NDArray], tile: tuple[int, int] | None, *, as_bytes: bool) -> list[NDArray[np.float32]]:
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


def _describe(trained: Trained, content: bytes, quantization: Quantization, tile: tuple[int, int] | None) -> Artifact:
    """Returns the artifact, with types and scales as the file has them."""
    found = tensor_types(content)
    dtype, scale, zero_point = found[PIXELS]
    if dtype == "uint8" and scale and (scale != 1.0 or zero_point != 0):
        raise ExportError(
            f"The converter gave the pixels of the TFLite file the scale {scale} and zero point {zero_point}; 1 and 0 "
            "are needed so that bytes come in as they are. Use --quantize dynamic."
        )
    outputs = []
    for name in ("class_map", "logits"):
        tensor = trained.output_tensor(name, tile, batch=1)
        dtype_out, scale, zero_point = found[name]
        outputs.append(tensor.model_copy(update={"dtype": dtype_out, "scale": scale, "zero_point": zero_point}))
    pixels: Tensor = trained.input_tensor(tile, batch=1, dtype=dtype)
    return Artifact(
        format="tflite",
        path=f"model_{quantization}.tflite",
        quantization=quantization,
        tile=tile,
        input=pixels,
        outputs=tuple(outputs),
        signatures=("serving_default",),
    )
