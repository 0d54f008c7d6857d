"""A static page that segments images in the browser: nothing is installed, and no image leaves the device.

web/
    index.html, *.js, style.css     the page, as it lies in `export/web`
    model_<quantization>.tflite     the model
    manifest.json                   the model's manifest; its `inference` are the windows that the page uses
    labels.qml, polygons.qml        names and colours of the classes for QGIS, of what the page saves
    page.json                       title, sample, and whether images are read by address
    vendor/                         LiteRT.js and geotiff.js
    serve.py                        serves the folder so that browsers allow several threads

The page averages logits over the same windows as `rsseg-tf predict`, so both give the same labels.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from numpy.typing import NDArray

from rsseg_tf.assets import asset_dir
from rsseg_tf.errors import ExportError
from rsseg_tf.export.page_packages import write_page_packages
from rsseg_tf.export.tflite import write_tflite
from rsseg_tf.export.trained import TrainedModel
from rsseg_tf.files import StrPath
from rsseg_tf.files.walking import IMAGE_SUFFIXES
from rsseg_tf.manifest import MANIFEST_FILE, Artifact, Inference, Quantization, file_sha256
from rsseg_tf.predict import usual_stride
from rsseg_tf.predict.styling import class_entries, layer_qml
from rsseg_tf.rasters.images import image_header
from rsseg_tf.rasters.windows import Size
from rsseg_tf.styles import labels_qml

__all__ = ["WEB_FOLDER", "Page", "check_page", "windowed", "write_web"]

WEB_FOLDER = "web"
_PAGE_FILE = "page.json"
_POLICY = "connect-src 'self' data:"  # in index.html; data: is how WebAssembly lies in geotiff.js
_ORIGIN = re.compile(r"https:|https?://(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:\d+)?")
_BYTE, _MOST = 255, 65535
_NO_PAGE = ("int16x8",)  # LiteRT.js has no tensors of 16-bit integers


@dataclass(frozen=True)
class Page:
    """Parts of a page beside the model.

    Attributes:
        packages: Folder with the packages from npm; see `rsseg_tf.export.page_packages.find_page_packages`.
        title: Headline; None for one made of the dataset's name.
        sample: Image that the page offers to try; None for no such button.
        urls: Origins whose GeoTIFF files the page may read by address, such as `https://data.example.org`, or `https:`
            for all; none by default.
    """

    packages: Path
    title: str | None = None
    sample: Path | None = None
    urls: tuple[str, ...] = ()


def check_page(trained: TrainedModel, page: Page, quantization: Quantization) -> None:
    """Raises what `write_web` raises, without the work.

    Raises:
        ExportError: When browsers cannot show the images of the model, or LiteRT.js cannot run it.
        DataError: When the sample is no image.
    """
    spec = trained.spec
    if spec.bands != 3 or not 1 < spec.max_value <= _MOST:
        raise ExportError(
            f"A page takes images of 3 bands of 8 or 16 bits. This model takes {spec.bands} bands of "
            f"0..{spec.max_value:g}. Export it as savedmodel or onnx, and predict with rsseg-tf predict."
        )
    for origin in page.urls:
        if not _ORIGIN.fullmatch(origin):
            raise ExportError(
                f"--web_urls takes origins, such as https://data.example.org or https://*.example.org:8443, or https: "
                f"for all servers; got '{origin}'. Leave paths out, and write several origins one after the other."
            )
    if quantization in _NO_PAGE:
        raise ExportError(f"LiteRT.js does not run {quantization}; use --quantize float32, float16, dynamic or int8.")
    trained.refuse_unless_static("A page")
    if page.sample is None:
        return
    header = image_header(page.sample)
    dtypes = ("uint8",) if spec.max_value == _BYTE else ("uint16", "int16")  # as the model takes them, with no question
    if page.sample.suffix.lower() not in IMAGE_SUFFIXES or header.bands not in (3, 4) or header.dtype not in dtypes:
        raise ExportError(
            f"The sample {page.sample} has {header.bands} bands of {header.dtype}; the page shows images with 3 bands "
            f"of {' or '.join(dtypes)}: PNG, JPEG and TIFF, 16 bits in TIFF alone. Name another one with --web_sample."
        )


def write_web(
    trained: TrainedModel,
    folder: StrPath,
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
        page: Packages, title, sample and origins.
        quantization: Quantization of the model; see `write_tflite`.
        tile: Size of the windows; None for the size of the images in training.
        calibration: Images for `int8`.
        notify: See `write_tflite`.

    Raises:
        ExportError: As `check_page` and `write_tflite`.
        DataError: When the sample is no image.
    """
    folder = Path(folder)
    check_page(trained, page, quantization)
    target = folder / WEB_FOLDER
    shutil.copytree(asset_dir("export") / WEB_FOLDER, target, ignore=shutil.ignore_patterns("__pycache__"))
    write_page_packages(page.packages, target / "vendor")
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
    entries = class_entries(trained.spec, trained.spec.palette)
    (target / "labels.qml").write_text(labels_qml(entries), "utf-8")
    (target / "polygons.qml").write_text(layer_qml(entries), "utf-8")
    about = {"title": title, "sample": sample, "urls": bool(page.urls)}
    (target / _PAGE_FILE).write_text(json.dumps(about, indent=2) + "\n", "utf-8")
    _allow(target / "index.html", page.urls)
    # The version's manifest lists the page as one artifact, whose model lies in a subfolder.
    return model.model_copy(update={"format": "web", "path": f"{WEB_FOLDER}/{model.path}"})


def _allow(index: Path, urls: Sequence[str]) -> None:
    """Lets the page read from these origins beside its own; its Content-Security-Policy forbids all others."""
    html = index.read_text("utf-8")
    index.write_text(html.replace(_POLICY, " ".join((_POLICY, *urls))), "utf-8")


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
