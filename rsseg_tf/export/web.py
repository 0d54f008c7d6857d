"""A static page that segments images in the browser: nothing is installed, and no image leaves the device.

web/
    index.html, *.js, style.css     the page, as it lies in `export/web`
    model_<quantization>.tflite     the model
    manifest.json                   the model's manifest; its `inference` are the windows that the page uses
    page.json                       title and sample
    vendor/                         LiteRT.js
    serve.py                        serves the folder so that browsers allow several threads

The page averages logits over the same windows as `rsseg-tf predict`, so both give the same labels.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from rsseg_tf.assets import asset_dir
from rsseg_tf.errors import ExportError
from rsseg_tf.export.litertjs import write_litertjs
from rsseg_tf.export.tflite import write_tflite
from rsseg_tf.export.trained import TrainedModel
from rsseg_tf.files.walking import IMAGE_SUFFIXES
from rsseg_tf.manifest import MANIFEST_FILE, Artifact, Inference, Quantization, file_sha256
from rsseg_tf.predict import usual_stride
from rsseg_tf.rasters.images import image_header
from rsseg_tf.rasters.windows import Size

__all__ = ["WEB_FOLDER", "Page", "check_page", "windowed", "write_web"]

WEB_FOLDER = "web"
_PAGE_FILE = "page.json"
_NO_PAGE = ("int16x8",)  # LiteRT.js has no tensors of 16-bit integers


@dataclass(frozen=True)
class Page:
    """Parts of a page beside the model.

    Attributes:
        litertjs: Folder with the archives of LiteRT.js; see `rsseg_tf.export.litertjs.find_litertjs`.
        title: Headline; None for one made of the dataset's name.
        sample: Image that the page offers to try; None for no such button.
    """

    litertjs: Path
    title: str | None = None
    sample: Path | None = None


def check_page(trained: TrainedModel, page: Page, quantization: Quantization) -> None:
    """Raises what `write_web` raises, without the work.

    Raises:
        ExportError: When browsers cannot show the images of the model, or LiteRT.js cannot run it.
        DataError: When the sample is no image.
    """
    spec = trained.spec
    if spec.bands != 3 or spec.max_value != 255:
        raise ExportError(
            f"A page takes images as browsers decode them: 3 bands of 8 bits. This model takes {spec.bands} bands of "
            f"0..{spec.max_value:g}. Export it as savedmodel or onnx, and predict with rsseg-tf predict."
        )
    if quantization in _NO_PAGE:
        raise ExportError(f"LiteRT.js does not run {quantization}; use --quantize float32, float16, dynamic or int8.")
    trained.refuse_unless_static("A page")
    if page.sample is None:
        return
    header = image_header(page.sample)
    if page.sample.suffix.lower() not in IMAGE_SUFFIXES or header.bands not in (3, 4) or header.dtype != "uint8":
        raise ExportError(
            f"The sample {page.sample} has {header.bands} bands of {header.dtype}; the page shows PNG, JPEG and TIFF "
            "files with 3 bands of uint8. Name another one with --web_sample."
        )


def write_web(
    trained: TrainedModel,
    folder: Path,
    page: Page,
    quantization: Quantization = "float32",
    *,
    tile: Size | None = None,
    calibration: Sequence[NDArray] = (),
    notify: Callable[[str], object] = lambda line: None,
) -> Artifact:
    """Writes the folder `web` into `folder`.

    Args:
        trained: The model.
        folder: Folder to write to.
        page: LiteRT.js, title and sample.
        quantization: Quantization of the model; see `write_tflite`.
        tile: Size of the windows; None for the size of the images in training.
        calibration: Images for `int8`.
        notify: See `write_tflite`.

    Raises:
        ExportError: As `check_page` and `write_tflite`.
        DataError: When the sample is no image.
    """
    check_page(trained, page, quantization)
    target = folder / WEB_FOLDER
    shutil.copytree(asset_dir("export") / WEB_FOLDER, target, ignore=shutil.ignore_patterns("__pycache__"))
    write_litertjs(page.litertjs, target / "vendor")
    size = tile or trained.manifest.crop_size
    prepared = windowed(trained, size)
    model = write_tflite(prepared, target, quantization, tile=size, calibration=calibration, notify=notify)
    inside = model.model_copy(update={"sha256": {model.path: file_sha256(target / model.path)}})
    manifest = prepared.manifest.model_copy(update={"artifacts": (inside,)})
    (target / MANIFEST_FILE).write_text(manifest.to_json(), "utf-8")
    sample = None
    if page.sample:
        sample = f"sample{page.sample.suffix.lower()}"
        shutil.copyfile(page.sample, target / sample)
    title = page.title or f"Segmentation: {trained.spec.name}"
    (target / _PAGE_FILE).write_text(json.dumps({"title": title, "sample": sample}, indent=2) + "\n", "utf-8")
    # The version's manifest lists the page as one artifact, whose model lies in a subfolder.
    return model.model_copy(update={"format": "web", "path": f"{WEB_FOLDER}/{model.path}"})


def windowed(trained: TrainedModel, tile: Size) -> TrainedModel:
    """Returns the model with a manifest that predicts windows of the tile's size, without augmentation.

    Their stride is the one of the config, if it has windows of this size, or three quarters of the tile.
    """
    options = trained.manifest.inference
    crop_size = tile.width_height
    asked = options.stride if options.is_slide and options.crop_size == crop_size else None
    stride = asked or usual_stride(tile).width_height
    inference = Inference(is_slide=True, crop_size=crop_size, stride=stride, temperature=options.temperature)
    return dataclasses.replace(trained, manifest=trained.manifest.model_copy(update={"inference": inference}))
