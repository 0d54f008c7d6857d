"""One image or scene from its file to all of its results. Small pictures and huge scenes take the same way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray

from rsseg_tf import __version__
from rsseg_tf.datasets.images import write_png
from rsseg_tf.datasets.judging import misfit
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.datasets.tiling import Window
from rsseg_tf.errors import DataError
from rsseg_tf.files import atomic_path
from rsseg_tf.inference.area import area_of_interest
from rsseg_tf.inference.decoding import Product, products
from rsseg_tf.inference.ground import pixel_size
from rsseg_tf.inference.logits import Predict
from rsseg_tf.inference.options import InferenceOptions, OutputOptions, SceneOptions
from rsseg_tf.inference.pictures import as_rgb, colour_table, overlay
from rsseg_tf.inference.raster import Scene, open_scene
from rsseg_tf.inference.streaming import Tiling, make_tiling, predict_scene, split_into_strips
from rsseg_tf.inference.vectors import Legend, write_polygons
from rsseg_tf.inference.writing import RasterFile, SceneWriter, raster_file

__all__ = [
    "CONFIDENCE_FOLDER",
    "GEOTIFF_FOLDER",
    "OVERLAY_FOLDER",
    "PROBABILITY_FOLDER",
    "PSEUDO_COLOR_FOLDER",
    "RESULT_FOLDERS",
    "VECTOR_FOLDER",
    "Job",
    "JobSettings",
    "PredictionResult",
    "discard_partial",
    "run_job",
    "stamp",
]

PSEUDO_COLOR_FOLDER = "pseudo_color_prediction"
OVERLAY_FOLDER = "added_prediction"
GEOTIFF_FOLDER = "geotiff_prediction"
CONFIDENCE_FOLDER = "confidence_prediction"
PROBABILITY_FOLDER = "probability_prediction"
VECTOR_FOLDER = "vector_prediction"

RESULT_FOLDERS = frozenset(
    {
        PSEUDO_COLOR_FOLDER,
        OVERLAY_FOLDER,
        GEOTIFF_FOLDER,
        CONFIDENCE_FOLDER,
        PROBABILITY_FOLDER,
        VECTOR_FOLDER,
    }
)
"""Names of the folders that results go to."""

_FOLDERS: dict[Product, str] = {
    "labels": GEOTIFF_FOLDER,
    "confidence": CONFIDENCE_FOLDER,
    "probabilities": PROBABILITY_FOLDER,
}
_JPEG_SUFFIXES = (".jpeg", ".jpg")
_PICTURE_BYTES = 24
"""Bytes per pixel while a picture is made: image, labels, colours, their mixture and the encoded file."""
_PREVIEW_PIXELS = 4096 * 4096
"""Pictures that do not fit into memory are reduced to at most this."""


@dataclass(frozen=True)
class Job:
    """One image to predict.

    Attributes:
        path: the file.
        name: what its results are called, relative to their folders, without suffix.
    """

    path: Path
    name: Path


@dataclass(frozen=True)
class JobSettings:
    """What all jobs of a run have in common; it can be sent to another process.

    Attributes:
        spec: the data set that the model was trained for.
        palette: colours of its classes.
        save_dir: folder for the results.
        options: windows and augmentation.
        scenes: how scenes are read.
        output: what is written.
        labels_too: whether to write the label map of a TIFF.
    """

    spec: DatasetSpec
    palette: tuple[RGB, ...]
    save_dir: Path
    options: InferenceOptions
    scenes: SceneOptions
    output: OutputOptions
    labels_too: bool = True

    def identity(self) -> dict[str, Any]:
        """Returns all that results depend on, as JSON can hold it. Memory and batch size change no result."""
        options, scenes = asdict(self.options), asdict(self.scenes)
        for name in ("batch_size",):
            options.pop(name)
        for name in ("max_memory", "resume"):
            scenes.pop(name)
        scenes["aoi"] = None if self.scenes.aoi is None else [self.scenes.aoi.name, *stamp(self.scenes.aoi)]
        spec = {"classes": self.spec.classes, "ignore_index": self.spec.ignore_index, "palette": self.palette}
        return {
            "version": __version__,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in spec.items()},
            **options,
            **scenes,
            **asdict(self.output),
            "labels_too": self.labels_too,
        }


def stamp(path: Path) -> list[int]:
    """Returns size and time of a file, by which a change is seen; of a missing one, nothing."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


@dataclass(frozen=True)
class PredictionResult:
    """What became of one image.

    Attributes:
        image: the file that was predicted.
        pseudo_color: indexed PNG of class ids with the palette, or None if it failed.
        overlay: picture with the class colours laid over it, or None if it failed.
        geotiff: label map that lies where the image lies; None for PNG and JPEG, if switched off, or if it failed.
        confidence: raster of the largest probability, if asked for.
        probabilities: raster of all probabilities, if asked for.
        vector: polygons, if asked for.
        note: why nothing had to be done, in one line; None otherwise.
        error: why it failed, in one line; None if all is well.
    """

    image: Path
    pseudo_color: Path | None = None
    overlay: Path | None = None
    geotiff: Path | None = None
    confidence: Path | None = None
    probabilities: Path | None = None
    vector: Path | None = None
    note: str | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the image was predicted and all its files written."""
        return self.error is None

    @property
    def files(self) -> dict[str, Path]:
        """The files that were written, by what they hold."""
        names = ("pseudo_color", "overlay", "geotiff", "confidence", "probabilities", "vector")
        return {name: path for name in names if (path := getattr(self, name)) is not None}


def run_job(
    job: Job, settings: JobSettings, predict: Predict, advance: Callable[[Job, int], None] | None = None
) -> PredictionResult:
    """Predicts one file and writes its results.

    Args:
        job: the file.
        settings: what the run asks for.
        predict: the model.
        advance: called with the job and the number of its pixels that were finished.

    Raises:
        ConfigError: when the options do not fit the scene, or on resume those that it was begun with.
        DataError: when the scene is damaged or does not fit the model, or a file cannot be written.
    """
    spec, output = settings.spec, settings.output
    with open_scene(job.path, settings.scenes.bands, spec.band_names) as scene, _gdal_cache(settings.scenes.max_memory):
        value_scale = _check_scene(scene, settings)
        ground = pixel_size(scene.size, scene.transform, scene.crs) if settings.scenes.match_gsd else None
        tiling = make_tiling(scene.size, settings.options, settings.scenes, ground)
        strips = split_into_strips(scene, spec, settings.options, output, tiling, settings.scenes.max_memory)
        wanted = None
        if settings.scenes.aoi is not None:
            wanted = area_of_interest(settings.scenes.aoi, scene)
            if wanted is None:
                return PredictionResult(job.path, note=f"lies outside of {settings.scenes.aoi}")
        files = _raster_files(job, scene, settings, tiling)
        identity = {**settings.identity(), "source": [job.path.name, *stamp(job.path)]}
        writer = SceneWriter(files, scene, strips, identity, resume=settings.scenes.resume)
        try:
            predict_scene(
                scene,
                predict,
                spec,
                settings.options,
                output,
                tiling,
                writer,
                strips,
                wanted=wanted,
                value_scale=value_scale,
                advance=None if advance is None else lambda pixels: advance(job, pixels),
            )
            writer.end_scene()
            vector = _write_vector(job, scene, settings, files)
            pictures = _write_pictures(job, scene, settings, files["labels"].partial) if output.pictures else {}
            writer.finish()
        except BaseException as error:
            writer.abandon(save=not isinstance(error, Exception))  # somebody stopped it: keep what is done
            raise
    kept = {product: file.path for product, file in files.items() if file.keep}
    return PredictionResult(
        job.path,
        pseudo_color=pictures.get("pseudo_color"),
        overlay=pictures.get("overlay"),
        geotiff=kept.get("labels"),
        confidence=kept.get("confidence"),
        probabilities=kept.get("probabilities"),
        vector=vector,
    )


def discard_partial(job: Job, settings: JobSettings) -> None:
    """Removes what a run that was stopped has left of a job: see `SceneWriter`."""
    for folder in (*_FOLDERS.values(), PSEUDO_COLOR_FOLDER):
        place = settings.save_dir / folder / job.name.parent
        for product in ("", *(f".{product}" for product in _FOLDERS)):
            for suffix in (".tif", ".json"):
                (place / f".{job.name.name}{product}.partial{suffix}").unlink(missing_ok=True)


def _gdal_cache(max_memory: int) -> rasterio.Env:
    """Bounds GDAL's cache of decoded blocks, which is a twentieth of the machine's memory otherwise."""
    return rasterio.Env(GDAL_CACHEMAX=max_memory // 8)


def _check_scene(scene: Scene, settings: JobSettings) -> float:
    """Checks that bands and values are those of the model; returns the factor that brings values to its units."""
    spec, given = settings.spec, settings.scenes.max_value
    if len(scene.bands) != spec.bands:
        alpha = " beside its alpha band, which is a mask" if scene.has_alpha else ""
        raise DataError(
            f"the model for data set '{spec.name}' needs {spec.bands} bands; {scene.path} has "
            f"{len(scene.bands)}{alpha}. Choose the bands that the model was trained with, in its order, with --bands"
            + (", and clear the mark 'alpha' if that band is data." if scene.has_alpha else ".")
        )
    if given is not None:
        return spec.max_value / given
    sample = _sampled(scene) if np.issubdtype(scene.dtype, np.floating) else np.zeros(0)
    largest, middle = (float(sample.max()), float(np.median(sample))) if sample.size else (0.0, 0.0)
    if values := misfit(scene.dtype, spec.max_value, largest, middle):
        raise DataError(
            f"the model for data set '{spec.name}' was trained on values 0..{spec.max_value:g}; {scene.path} holds "
            f"{values}. Say with --max_value which value of the scene stands for the model's {spec.max_value:g}."
        )
    return 1.0


def _sampled(scene: Scene) -> NDArray:
    """Returns pixel values from sixteen places of a scene, without those where there is no data."""
    height, width = scene.size
    rows, columns = min(height, 64), min(width, 64)
    found = []
    for step in range(16):
        top, left = (height - rows) * (step // 4) // 3, (width - columns) * (step % 4) // 3
        pixels, nodata = scene.read(Window(top, left, top + rows, left + columns))
        found.append(pixels.reshape(-1) if nodata is None else pixels[~nodata].reshape(-1))
    return np.concatenate(found)


def _raster_files(job: Job, scene: Scene, settings: JobSettings, tiling: Tiling) -> dict[Product, RasterFile]:
    """Describes the rasters of a scene. Those that nobody asked for are made where polygons or pictures need them."""
    output = settings.output
    window = f"{tiling.plan.columns.window}x{tiling.plan.rows.window}"
    provenance = {
        "SOURCE": job.path.name,
        "DATASET": settings.spec.name,
        "WINDOWS": f"{window} {tiling.plan.rows.blend}",
    }
    if settings.scenes.model:
        provenance["MODEL"] = settings.scenes.model
    files: dict[Product, RasterFile] = {}
    for product in products(output, settings.spec.num_classes):
        keep = output.confidence if product == "confidence" else True
        if product == "labels":
            keep = scene.is_raster and settings.labels_too
        files[product] = raster_file(
            product,
            _placed(settings.save_dir / (_FOLDERS[product] if keep else PSEUDO_COLOR_FOLDER), job.name, ".tif"),
            scene,
            settings.spec,
            settings.palette,
            cog=output.cog,
            keep=keep,
            review_value=None if output.min_confidence is None else output.review_value,
            provenance=provenance,
        )
        if not keep:  # its hidden name must not be that of another product
            files[product] = replace(files[product], path=files[product].path.with_suffix(f".{product}.tif"))
    return files


def _write_vector(job: Job, scene: Scene, settings: JobSettings, files: dict[Product, RasterFile]) -> Path | None:
    """Writes the polygons, if they are asked for."""
    output, spec = settings.output, settings.spec
    if output.vector is None:
        return None
    path = output.vector_file or _placed(settings.save_dir / VECTOR_FOLDER, job.name, output.vector_suffix)
    classes = dict(enumerate(spec.classes))
    if output.min_confidence is not None:
        classes[output.review_value] = "review"
    write_polygons(
        path,
        files["labels"].partial,
        files["confidence"].partial,
        scene,
        Legend(classes, spec.ignore_index),
        min_area=output.min_area,
        simplify=output.simplify,
    )
    return path


def _write_pictures(job: Job, scene: Scene, settings: JobSettings, labels_file: Path) -> dict[str, Path]:
    """Writes the class ids and the overlay as pictures; those of huge scenes are reduced to a preview."""
    spec, output = settings.spec, settings.output
    size, most = scene.size, settings.scenes.max_memory // 2 // _PICTURE_BYTES
    if size[0] * size[1] > most:
        size = _reduced(size, min(most, _PREVIEW_PIXELS))
    with rasterio.open(labels_file) as source:
        labels = source.read(1, out_shape=size)
    palette: tuple[RGB, ...] = settings.palette
    if output.min_confidence is not None:
        unused = output.review_value - len(palette)
        palette = (*palette, *((0, 0, 0),) * unused, (128, 128, 128))
    pseudo_color = _placed(settings.save_dir / PSEUDO_COLOR_FOLDER, job.name, ".png")
    write_png(pseudo_color, labels, colour_table(palette, ignore_index=spec.ignore_index))
    suffix = job.path.suffix if job.path.suffix.lower() in _JPEG_SUFFIXES else ".png"
    laid_over = _placed(settings.save_dir / OVERLAY_FOLDER, job.name, suffix)
    pixels, nodata = scene.read(size=size)
    picture = overlay(as_rgb(pixels, spec, nodata), labels, palette, ignore_index=spec.ignore_index)
    _write_picture(laid_over, picture)
    return {"pseudo_color": pseudo_color, "overlay": laid_over}


def _reduced(size: tuple[int, int], most_pixels: int) -> tuple[int, int]:
    """Returns `size` divided by the smallest whole number that leaves at most `most_pixels`."""
    factor = math.ceil(math.sqrt(max(size[0] * size[1] / most_pixels, 1)))
    return max(size[0] // factor, 1), max(size[1] // factor, 1)


def _placed(folder: Path, name: Path, suffix: str) -> Path:
    """Returns the result's path and makes its folder."""
    path = folder / name.parent / f"{name.name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes `(H, W, 3)` RGB as JPEG or PNG, by the suffix."""
    if path.suffix.lower() not in _JPEG_SUFFIXES:
        write_png(path, picture)
        return
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError(f"OpenCV cannot encode {path} of {picture.shape} as JPEG. Convert the image to PNG first.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
