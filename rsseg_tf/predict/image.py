"""One image or scene from its file to all of its results. Small pictures and huge scenes take the same way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import Affine

from rsseg_tf.datasets.rules import misfit
from rsseg_tf.datasets.spec import RGB, DatasetSpec
from rsseg_tf.errors import INTERRUPTS, ConfigError, DataError, reason
from rsseg_tf.files import SIDE_SUFFIX, atomic_path, hold, remove_file, remove_leftovers, short_stem
from rsseg_tf.files.walking import JPEG_SUFFIXES
from rsseg_tf.predict.decoding import Product, products
from rsseg_tf.predict.engine import Tiling, make_tiling
from rsseg_tf.predict.model import Predict
from rsseg_tf.predict.options import OutputOptions
from rsseg_tf.predict.pictures import as_rgb, colour_table, overlay
from rsseg_tf.predict.settings import PredictionSettings
from rsseg_tf.predict.stac import item_notes, write_result_item
from rsseg_tf.predict.streaming import predict_scene, split_into_strips
from rsseg_tf.predict.styling import REVIEW_COLOUR, class_entries, write_styles
from rsseg_tf.predict.vectors import Legend, write_polygons
from rsseg_tf.predict.writing import RasterFile, Rows, SceneWriter, partial_file, raster_file
from rsseg_tf.rasters.area import area_of_interest
from rsseg_tf.rasters.bands import SET_BANDS, BandCountError
from rsseg_tf.rasters.gdal import Trust
from rsseg_tf.rasters.ground import pixel_areas, pixel_size
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.scenes import Scene, open_scene
from rsseg_tf.rasters.sources import Source, is_remote, local_files, names_of
from rsseg_tf.rasters.stamps import source_stamp
from rsseg_tf.rasters.windows import Size, Window
from rsseg_tf.styles import PaletteEntry

__all__ = [
    "CONFIDENCE_FOLDER",
    "GEOTIFF_FOLDER",
    "OVERLAY_FOLDER",
    "PROBABILITY_FOLDER",
    "PSEUDO_COLOR_FOLDER",
    "RESULT_FOLDERS",
    "STAC_FOLDER",
    "VECTOR_FOLDER",
    "Advance",
    "ImageJob",
    "PredictionResult",
    "clear_leftovers",
    "discard_partial",
    "predict_image",
    "styled",
]

PSEUDO_COLOR_FOLDER = "pseudo_color_prediction"
OVERLAY_FOLDER = "added_prediction"
GEOTIFF_FOLDER = "geotiff_prediction"
CONFIDENCE_FOLDER = "confidence_prediction"
PROBABILITY_FOLDER = "probability_prediction"
VECTOR_FOLDER = "vector_prediction"
STAC_FOLDER = "stac_prediction"

_FOLDERS: dict[Product, str] = {
    "labels": GEOTIFF_FOLDER,
    "confidence": CONFIDENCE_FOLDER,
    "probabilities": PROBABILITY_FOLDER,
}
RESULT_FOLDERS = frozenset({*_FOLDERS.values(), PSEUDO_COLOR_FOLDER, OVERLAY_FOLDER, VECTOR_FOLDER, STAC_FOLDER})
"""Names of the folders that results go to."""

_FILES: dict[Product, str] = {"labels": "geotiff", "confidence": "confidence", "probabilities": "probabilities"}
"""What `PredictionResult.files` calls the rasters."""
_STREAMED = "Convert it to a tiled GeoTIFF, which is read part by part, or raise --max_memory if it is sound."
_LONGEST_JPEG = 65_500
"""Pixels along the longer side, which the encoder can take."""
_ALIKE = 1.5
"""Ratio of pixels' sides on the ground up to which a model knows the sizes of objects."""
_PICTURE_BYTES = 24
"""Bytes per pixel while a picture is made: image, labels, colours, their mixture and the encoded file."""
_PREVIEW_PIXELS = 4096 * 4096
"""Pictures that do not fit into memory are reduced to at most this."""


@dataclass(frozen=True)
class ImageJob:
    """One image to predict.

    Attributes:
        path: The file, or another source (see `rasters.sources`).
        name: Path of its results below their folders, without suffix.
    """

    path: Source
    name: Path


@dataclass(frozen=True)
class PredictionResult:
    """The outcome of one image.

    Attributes:
        image: What was predicted.
        files: The written files by what they hold: `geotiff` (the label map; not for a PNG or JPEG without a place),
            `confidence`, `probabilities`, `vector`, `pseudo_color`, `overlay`, `stac`. Results that failed or were
            not asked for are missing.
        note: Why nothing had to be done, or what a user of the results must know, in one line; None otherwise.
        error: Why the image failed, or which of its results did, in one line; None if all is well.
        styles: The styles (.qml) beside them, by the names of `files`.
    """

    image: Source
    files: Mapping[str, Path] = field(default_factory=dict)
    note: str | None = None
    error: str | None = None
    styles: Mapping[str, Path] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether the image was predicted and every requested result is written."""
        return self.error is None


Advance = Callable[[ImageJob, int], None]
"""Called with a job and the number of its pixels that were finished."""


def predict_image(
    job: ImageJob, settings: PredictionSettings, model: Predict, advance: Advance | None = None
) -> PredictionResult:
    """Predicts one file and writes its results.

    Rasters come first, then polygons, then pictures. A result that cannot be written costs none of the others: the
    error names it, and a later run that resumes makes it.

    Args:
        job: The file.
        settings: What the run asks for.
        model: See `Predict`.
        advance: Called with the job and the number of its pixels that were finished.

    Raises:
        ConfigError: When the options do not fit the scene, or on resume differ from those of the first run.
        DataError: When the scene is damaged or does not fit the model, or no raster can be written.
    """
    # GDAL's cache of decoded blocks would take a twentieth of the machine's memory otherwise.
    with rasterio.Env(GDAL_CACHEMAX=settings.scenes.max_memory // 8), _opened(job, settings) as scene:
        value_scale = _value_scale(scene, settings)
        zoom = _zoom(scene, settings)
        wanted, part = None, Window(0, 0, *scene.size)
        if settings.scenes.aoi is not None:
            wanted = area_of_interest(settings.scenes.aoi, scene)
            if wanted is None:
                return PredictionResult(job.path, note=f"lies outside of {settings.scenes.aoi}")
            part = wanted.bounds
        _check_values(scene, settings, part)
        size = Size(part.y1 - part.y0, part.x1 - part.x0)
        tiling = make_tiling(scene.size, settings.options, zoom=zoom, value_scale=value_scale, part=size)
        strips = split_into_strips(scene, settings, tiling)
        files = _raster_files(job, scene, settings, tiling)
        targets = _targets(job, scene, settings)
        _check_input_stays(job, [*(file.path for file in files.values() if file.keep), *targets.values()])
        identity = {**settings.identity(), "source": [job.path.name, *source_stamp(job.path)]}
        writer = SceneWriter(files, scene, strips, identity, resume=settings.scenes.resume)
        try:
            if writer.finished == Rows():
                # An earlier run may have been asked for other products, whose partial files the writer does not know.
                discard_partial(job, settings)
            predict_scene(
                scene,
                model,
                settings,
                tiling,
                writer,
                wanted=wanted,
                advance=None if advance is None else lambda pixels: advance(job, pixels),
            )
            writer.end_scene()
            written, failed = _write_products(scene, settings, writer, files, targets)
            writer.end(keep=bool(failed))
        except BaseException as error:
            writer.abandon(save=isinstance(error, INTERRUPTS))  # keep the rows that are done if the run was interrupted
            raise
    notes = [*scene.notes, *_scale_notes(scene, settings), *_place_notes(scene, settings.output)]
    if settings.output.stac:
        notes += item_notes(scene, settings)
    if failed and written:
        failed.append("its other results are written")
    return styled(PredictionResult(job.path, written, "; ".join(notes) or None, "; ".join(failed) or None), settings)


def styled(result: PredictionResult, settings: PredictionSettings) -> PredictionResult:
    """Writes the styles that belong beside results, anew or for the first time."""
    styles, notes, failed = write_styles(result.files, _entries(settings))
    note, error = (
        "; ".join([*([] if first is None else [first]), *more]) or None
        for first, more in ((result.note, notes), (result.error, failed))
    )
    return replace(result, styles=styles, note=note, error=error)


def _targets(job: ImageJob, scene: Scene, settings: PredictionSettings) -> dict[str, Path]:
    """Returns the paths of what is made from the rasters and asked for, in the order in which it is written."""
    output, save_dir = settings.output, settings.save_dir
    targets: dict[str, Path] = {}
    if output.vector is not None:
        targets["vector"] = output.vector_file or _named(save_dir / VECTOR_FOLDER, job.name, output.vector_suffix)
    if output.pictures:
        targets["pseudo_color"] = _named(save_dir / PSEUDO_COLOR_FOLDER, job.name, ".png")
        suffix = job.path.suffix
        if suffix.lower() not in JPEG_SUFFIXES or max(scene.size) > _LONGEST_JPEG:
            suffix = ".png"
        targets["overlay"] = _named(save_dir / OVERLAY_FOLDER, job.name, suffix)
    if output.stac:  # the last, because it names the others
        targets["stac"] = _named(save_dir / STAC_FOLDER, job.name, ".json")
    return targets


def _check_input_stays(job: ImageJob, results: list[Path]) -> None:
    """Raises `DataError` if a result would take the place of the image itself."""
    for path in results:
        if path.exists() and any(path.samefile(file) for file in local_files(job.path) if file.exists()):
            raise DataError(f"the result of {job.path} would replace the image itself. Choose another --save_dir.")


def _write_products(
    scene: Scene,
    settings: PredictionSettings,
    writer: SceneWriter,
    files: dict[Product, RasterFile],
    targets: dict[str, Path],
) -> tuple[dict[str, Path], list[str]]:
    """Writes every result that is asked for.

    Returns:
        The written files as in `PredictionResult.files`, and one line for each result that failed.
    """
    failures = writer.finish()
    written = {_FILES[product]: file.path for product, file in files.items() if file.keep and product not in failures}
    failed = [str(error) for error in failures.values()]
    # Both pictures show the same labels, which are read once, and not at all in a run without pictures.
    shown = cache(lambda: _labels_to_show(scene, settings, writer))
    steps: dict[str, Callable[[Path], None]] = {
        "vector": lambda path: _write_vector(path, scene, settings, writer),
        "pseudo_color": lambda path: _write_pseudo_color(path, settings.spec, *shown()),
        "overlay": lambda path: _write_overlay(path, scene, settings.spec, *shown()),
        "stac": lambda path: write_result_item(path, scene, settings, written, files["labels"].tags),
    }
    for name, path in targets.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            steps[name](path)
            written[name] = path
        except Exception as error:  # of any type: one failed result must not cost the others
            text = reason(error)
            failed.append(text if str(path) in text else f"cannot write {path}: {text}")
    return written, failed


def _scale_notes(scene: Scene, settings: PredictionSettings) -> list[str]:
    """Returns a note on pixels whose size on the ground is another one than in training."""
    model_gsd = settings.model_gsd
    ground = pixel_size(scene.size, scene.transform, scene.crs)
    if model_gsd is None or ground is None or settings.scenes.match_gsd:
        return []
    side = math.sqrt(ground[0] * ground[1])
    if 1 / _ALIKE <= side / model_gsd <= _ALIKE:
        return []
    return [
        f"its pixels have {side:.3g} m on the ground, and those of the training had {model_gsd:.3g} m, so its objects "
        "have other sizes than the model knows; --match_gsd resamples it"
    ]


def _place_notes(scene: Scene, output: OutputOptions) -> list[str]:
    """Returns what a user must know about the place of results and the unit of areas, if it may surprise."""
    notes = [] if scene.place_note is None else [scene.place_note]
    if output.vector is not None:
        remedy = "Georeference the image for polygons on the map"
        placed = scene.transform != Affine.identity()
        if scene.gcps or (scene.rpcs is not None and not placed):
            by = "control points" if scene.gcps else "RPCs"
            notes.append(f"it lies by {by} alone, so polygons and areas are in pixels. Warp it for polygons on the map")
        elif not placed:
            what = "a CRS, but no transform" if scene.crs is not None else "no CRS and no transform"
            notes.append(f"it has {what}, so polygons and areas are in pixels. {remedy}")
        elif scene.crs is None:
            what = "a transform, but no CRS"
            notes.append(f"it has {what}, so polygons are in its own units and areas in pixels. {remedy}")
        elif (about := pixel_areas(scene.size, scene.transform, scene.crs).note) is not None:
            notes.append(about)
    return notes


def discard_partial(job: ImageJob, settings: PredictionSettings) -> None:
    """Removes the partial rasters and journals that a stopped run left of a job; see `SceneWriter`."""
    for folder in (*_FOLDERS.values(), PSEUDO_COLOR_FOLDER):
        for stem in _stems(job):
            partial = partial_file(settings.save_dir / folder / job.name.parent, stem)
            remove_file(partial)
            partial.with_suffix(".json").unlink(missing_ok=True)


def clear_leftovers(jobs: Sequence[ImageJob], settings: PredictionSettings) -> None:
    """Removes the half-written files of killed runs; files of jobs that another process does stay.

    Each folder is listed once, however many jobs there are.
    """
    named: dict[tuple[Path, str], ImageJob] = {}
    for job in jobs:
        for stem in _stems(job):
            # A journal is named after its partial raster, so its leftover has the stem of that.
            for name in (stem, partial_file(Path(), stem).stem):
                named[job.name.parent, short_stem(name)] = job
                named[job.name.parent, short_stem(Path(f"{name}.tif{SIDE_SUFFIX}").stem)] = job
    for parent in {job.name.parent for job in jobs}:
        for folder in RESULT_FOLDERS:

            def removable(stem: str, parent: Path = parent) -> bool:
                job = named.get((parent, stem))
                return job is not None and not _in_work(job, settings)

            remove_leftovers(settings.save_dir / folder / parent, removable)


def _stems(job: ImageJob) -> list[str]:
    """Returns the stems of a job's results: kept ones have the job's name, others the product's name behind it."""
    return [f"{job.name.name}{product}" for product in ("", *(f".{product}" for product in _FOLDERS))]


def _in_work(job: ImageJob, settings: PredictionSettings) -> bool:
    """Tells whether another process holds the lock of a job."""
    for folder, product in ((GEOTIFF_FOLDER, ""), (PSEUDO_COLOR_FOLDER, ".labels")):
        place = settings.save_dir / folder / job.name.parent
        lock_file = partial_file(place, f"{job.name.name}{product}").with_suffix(".lock")
        # Taking a lock creates its file: without this look, every job would leave one where nobody works. A file system
        # without locks has the soft lock file instead.
        if not (lock_file.exists() or lock_file.with_name(f"{lock_file.name}.soft").exists()):
            continue
        lock = hold(lock_file)
        if lock is None:
            return True
        lock.release()
    return False


@contextlib.contextmanager
def _opened(job: ImageJob, settings: PredictionSettings) -> Iterator[Scene]:
    """Opens a scene so that what is decoded at once stays within the memory that is allowed.

    The pixels of a PNG or JPEG are held until the results are written; a block of a TIFF is decoded into GDAL's cache.
    """
    scenes = settings.scenes
    try:
        with open_scene(
            job.path,
            scenes.bands,
            settings.spec,
            max_value=scenes.max_value,
            trust=Trust(scenes.max_memory // 2, scenes.allow_vrt_sources, _STREAMED, scenes.max_memory // 4),
        ) as scene:
            yield scene
    except BandCountError as error:
        choose = f"Choose {settings.spec.bands} of its bands with --bands, in the model's order."
        if error.available < settings.spec.bands:
            choose = "Name an image with all of them; --stack takes bands that lie in several files."
        raise DataError(str(error).replace(SET_BANDS, choose)) from None  # `reason` would add the other remedy


def _value_scale(scene: Scene, settings: PredictionSettings) -> float:
    """Checks that bands fit the model; returns the factor that brings values to the model's units."""
    spec, given = settings.spec, settings.scenes.max_value
    if len(scene.bands) != spec.bands:  # as --bands chose them
        raise DataError(
            f"the model for dataset '{spec.name}' needs {spec.bands} bands; --bands names {len(scene.bands)} for "
            f"{scene.path}. Name the bands that the model was trained with, in its order."
        )
    return 1.0 if given is None else spec.max_value / given


def _check_values(scene: Scene, settings: PredictionSettings, part: Window) -> None:
    """Checks that the values of the part of a scene that is predicted fit the model."""
    spec = settings.spec
    if settings.scenes.max_value is not None:
        return
    # The range of an integer type is known; floats may be reflectances of 0..1 or of 0..10,000.
    sample = _sampled(scene, part) if np.issubdtype(scene.dtype, np.floating) else np.zeros(0)
    largest, middle = (float(sample.max()), float(np.median(sample))) if sample.size else (0.0, 0.0)
    if values := misfit(scene.dtype, spec.max_value, largest, middle):
        raise DataError(
            f"the model for dataset '{spec.name}' was trained on values 0..{spec.max_value:g}; {scene.path} holds "
            f"{values}. Say with --max_value which value of the scene stands for the model's {spec.max_value:g}."
        )


def _zoom(scene: Scene, settings: PredictionSettings) -> tuple[float, float]:
    """Returns the pixels of the model per pixel of a scene, downwards and to the right."""
    model_gsd = settings.model_gsd
    if not settings.scenes.match_gsd or model_gsd is None:
        return 1.0, 1.0
    ground = pixel_size(scene.size, scene.transform, scene.crs)
    if ground is None:
        raise ConfigError(
            "--match_gsd needs scenes whose pixels have a size on the ground; this one has no CRS and transform, "
            f"the model has {model_gsd} m. Georeference the scene, or leave --match_gsd out."
        )
    return ground[0] / model_gsd, ground[1] / model_gsd


def _sampled(scene: Scene, part: Window) -> NDArray:
    """Returns pixel values from sixteen places of a part of a scene, without those where there is no data."""
    height, width = part.y1 - part.y0, part.x1 - part.x0
    rows, columns = min(height, 64), min(width, 64)
    found = []
    for step in range(16):
        top, left = (height - rows) * (step // 4) // 3, (width - columns) * (step % 4) // 3
        pixels, nodata = scene.read(
            Window(part.y0 + top, part.x0 + left, part.y0 + top + rows, part.x0 + left + columns)
        )
        found.append(pixels.reshape(-1) if nodata is None else pixels[~nodata].reshape(-1))
    return np.concatenate(found)


def _raster_files(
    job: ImageJob, scene: Scene, settings: PredictionSettings, tiling: Tiling
) -> dict[Product, RasterFile]:
    """Describes the rasters of a scene, including those that only polygons or pictures need."""
    output = settings.output
    provenance = {"SOURCE": names_of(job.path), "DATASET": settings.spec.name, "WINDOWS": tiling.summary}
    if settings.scenes.model:
        provenance["MODEL"] = settings.scenes.model
    files: dict[Product, RasterFile] = {}
    for product in products(output, settings.spec.num_classes):
        needed = {"labels": scene.is_raster or scene.is_georeferenced, "confidence": output.confidence}
        keep = needed.get(product, True)
        folder = settings.save_dir / (_FOLDERS[product] if keep else PSEUDO_COLOR_FOLDER)
        # Rasters that are not kept share a folder, so each has the product in its name.
        path = _named(folder, job.name, ".tif" if keep else f".{product}.tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        files[product] = raster_file(
            product,
            path,
            scene,
            settings.spec,
            settings.colours,
            cog=output.cog,
            keep=keep,
            review_value=None if output.min_confidence is None else output.review_value,
            provenance=provenance,
        )
    return files


def _write_vector(path: Path, scene: Scene, settings: PredictionSettings, writer: SceneWriter) -> None:
    """Writes the polygons."""
    output, spec = settings.output, settings.spec
    write_polygons(
        path,
        writer.readable("labels"),
        writer.readable("confidence"),
        scene,
        Legend(tuple(_entries(settings)), spec.ignore_index),
        min_area=output.min_area,
        simplify=output.simplify,
    )


def _entries(settings: PredictionSettings) -> list[PaletteEntry]:
    """Returns what the label maps hold."""
    output = settings.output
    review_value = None if output.min_confidence is None else output.review_value
    return class_entries(settings.spec, settings.colours, review_value)


def _labels_to_show(
    scene: Scene, settings: PredictionSettings, writer: SceneWriter
) -> tuple[NDArray[np.uint8], tuple[RGB, ...]]:
    """Returns the class ids, reduced to a preview for huge scenes, and the colours of all ids that occur."""
    output = settings.output
    size, most = scene.size, settings.scenes.max_memory // 2 // _PICTURE_BYTES
    if size.pixels > most:  # divided by the smallest whole number that leaves few enough
        factor = math.ceil(math.sqrt(max(size.pixels / min(most, _PREVIEW_PIXELS), 1)))
        size = Size(max(size.height // factor, 1), max(size.width // factor, 1))
    # Overviews, which a Cloud Optimized GeoTIFF has, would show other pixels than the map itself.
    with rasterio.open(writer.readable("labels"), OVERVIEW_LEVEL="NONE") as source:
        labels = source.read(1, out_shape=size)
    palette: tuple[RGB, ...] = settings.colours
    if output.min_confidence is not None:
        unused = output.review_value - len(palette)
        palette = (*palette, *((0, 0, 0),) * unused, REVIEW_COLOUR)
    return labels, palette


def _write_pseudo_color(path: Path, spec: DatasetSpec, labels: NDArray[np.uint8], palette: tuple[RGB, ...]) -> None:
    """Writes the class ids as a picture."""
    write_png(path, labels, colour_table(palette, ignore_index=spec.ignore_index))


def _write_overlay(
    path: Path, scene: Scene, spec: DatasetSpec, labels: NDArray[np.uint8], palette: tuple[RGB, ...]
) -> None:
    """Writes the image with the classes laid over it; of a scene on a server, the part alone that was predicted."""
    if is_remote(scene.path):
        pixels, nodata = _labelled_part(scene, labels != spec.ignore_index)
    else:
        pixels, nodata = scene.read(size=Size(*labels.shape))
    _write_picture(path, overlay(as_rgb(pixels, spec, nodata), labels, palette, ignore_index=spec.ignore_index))


def _labelled_part(scene: Scene, labelled: NDArray[np.bool_]) -> tuple[NDArray, NDArray[np.bool_] | None]:
    """Reads, at the size of a preview, the box of a scene around all pixels that have a class; others have no data."""
    size = Size(*labelled.shape)
    rows, columns = np.flatnonzero(labelled.any(axis=1)), np.flatnonzero(labelled.any(axis=0))
    pixels = np.zeros((*size, len(scene.bands)), scene.dtype)
    nodata = np.ones(size, bool)
    if not len(rows):
        return pixels, nodata
    y0, y1, x0, x1 = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    down, right = scene.size.height / size.height, scene.size.width / size.width
    part = Window(int(y0 * down), int(x0 * right), math.ceil(y1 * down), math.ceil(x1 * right))
    found, missing = scene.read(part, Size(y1 - y0, x1 - x0))
    pixels[y0:y1, x0:x1] = found
    nodata[y0:y1, x0:x1] = False if missing is None else missing
    return pixels, nodata


def _named(folder: Path, name: Path, suffix: str) -> Path:
    """Returns a result's path; `with_suffix` would cut a name with a dot in it."""
    return folder / name.parent / f"{name.name}{suffix}"


def _write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    """Writes `(H, W, 3)` RGB as JPEG or PNG, by the suffix."""
    if path.suffix.lower() not in JPEG_SUFFIXES:
        write_png(path, picture)
        return
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise DataError(f"OpenCV cannot encode {path} of {picture.shape} as JPEG. Convert the image to PNG first.")
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.tobytes())
