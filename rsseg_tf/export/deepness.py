"""ONNX files for Deepness, a plugin of QGIS that runs models on the layers of a map.

The plugin cuts a layer into square tiles, divides the pixels by 255 whatever their type, subtracts a mean and divides
by a standard deviation if the file names them, and puts the bands first. All that it knows of a model are the shapes of
its input and outputs, and texts among the file's properties. See `deepness/processing/models/model_base.py` of
https://github.com/PUTvision/qgis-plugin-deepness, version 0.6.5.
"""

from __future__ import annotations

import json
from pathlib import Path

import tensorflow as tf

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import ExportError
from rsseg_tf.export.onnx import convert, save
from rsseg_tf.export.trained import TrainedModel
from rsseg_tf.export.web import windowed
from rsseg_tf.files import StrPath
from rsseg_tf.manifest import DEEPNESS_SCALE, MANIFEST_PROPERTY, PIXELS, Artifact
from rsseg_tf.rasters.windows import Size

__all__ = ["DEEPNESS_FILE", "check_deepness", "deepness_properties", "write_deepness"]

DEEPNESS_FILE = "model_deepness.onnx"
_OUTPUT = "probabilities"


def check_deepness(trained: TrainedModel, tile: Size | None = None) -> Size:
    """Returns the tile of the file: `tile`, or else the size of the images in training.

    Raises:
        ExportError: When it is no square, which is all that the plugin cuts, or only TensorFlow runs the model.
    """
    trained.refuse_unless_static("A file for Deepness")
    size = tile or trained.manifest.crop_size
    if size.height != size.width:
        whose = "--tile" if tile else "the size of the images in training"
        side = max(size)
        raise ExportError(
            f"Deepness cuts square tiles; {whose} is {size}. Name a square, such as --tile {side} {side}."
        )
    return size


def write_deepness(trained: TrainedModel, folder: StrPath, *, tile: Size | None = None) -> Artifact:
    """Writes `model_deepness.onnx` into `folder`, checked by `onnx.checker`.

    It takes `pixels` (B, bands, H, W) float32, those of the file divided by 255, and gives `probabilities`
    (B, classes, H, W) float32, which sum up to 1. It normalises itself, so that the plugin must not.

    Args:
        trained: The model.
        folder: Folder to write to.
        tile: Size of the input, a square; None for the size of the images in training.

    Raises:
        ExportError: As `check_deepness` and `rsseg_tf.export.onnx.convert`.
    """
    size = check_deepness(trained, tile)
    spec = trained.spec
    prepared = windowed(trained, size)
    shape = (None, spec.bands, *size)
    artifact = trained.describe("deepness", DEEPNESS_FILE, (_OUTPUT,), size)
    pixels = artifact.input.model_copy(
        update={
            "dtype": "float32",
            "shape": shape,
            "meaning": f"pixels as they are in the file, 0..{spec.max_value:g}, divided by 255; normalised inside",
        }
    )
    output = artifact.outputs[0].model_copy(update={"shape": (None, spec.num_classes, *size)})
    artifact = artifact.model_copy(update={"input": pixels, "outputs": (output,)})

    def outputs(scaled: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.transpose(scaled, (0, 2, 3, 1)) * DEEPNESS_SCALE
        if trained.dtype == "uint8":
            values = tf.round(values)  # the bytes themselves, so that logits are those of the other artifacts
        probabilities = tf.nn.softmax(trained.tempered(trained.logits(values)), axis=-1)
        return {_OUTPUT: tf.transpose(probabilities, (0, 3, 1, 2))}

    model = convert(prepared, outputs, tf.TensorSpec(shape, tf.float32, name=PIXELS), (_OUTPUT,), channels_first=True)
    properties = deepness_properties(spec, size, _overlap(prepared, size))
    save(model, Path(folder) / DEEPNESS_FILE, {**properties, MANIFEST_PROPERTY: prepared.manifest_of(artifact)})
    return artifact


def deepness_properties(spec: DatasetSpec, tile: Size, overlap: int) -> dict[str, str]:
    """Returns what the plugin reads among the properties of a file: JSON by names.

    Args:
        spec: The dataset, for classes, bands and ground sampling distance.
        tile: Size of the tiles in pixels, a square.
        overlap: Of neighbouring tiles, in percent of their side.
    """
    values = {
        "model_type": "Segmentor",
        "class_names": {str(index): name for index, name in enumerate(spec.classes)},
        "tile_size": tile.width,
        "tiles_size": tile.width,  # the plugin's documentation, and programs that follow it, spell it so
        "tiles_overlap": overlap,
        # Left out, these two would be what the user chose for another model: pixels below the threshold become class 0,
        # and small segments are blurred away.
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
        "standardization_mean": [0.0] * spec.bands,
        "standardization_std": [1.0] * spec.bands,
    }
    if spec.gsd is not None:
        values["resolution"] = round(100 * spec.gsd, 6)  # centimetres per pixel
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


def _overlap(trained: TrainedModel, tile: Size) -> int:
    """Returns the overlap of a model's windows in percent, as the plugin takes it."""
    stride = trained.manifest.inference.stride
    step = tile.width if stride is None else stride[0]
    return round(100 * (tile.width - step) / tile.width)
