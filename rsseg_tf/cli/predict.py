"""`rsseg-tf predict`."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.engine import ModelSource, choose_engine, engine_options, locate_engine
from rsseg_tf.cli.models import (
    changed_options,
    choose_device,
    load_beside,
    open_server,
    prediction_changes,
    windows_note,
)
from rsseg_tf.cli.options import (
    check_save_dir,
    config_option,
    device_options,
    model_option,
    picked,
    prediction_options,
    save_dir_option,
    server_options,
    stack_options,
    stacked,
    vrt_option,
)
from rsseg_tf.cli.output import print_note

if TYPE_CHECKING:
    from rsseg_tf.config import Config
    from rsseg_tf.predict import ImageJob, Predict, PredictionPlan, PredictionResult
    from rsseg_tf.predictors import Predictor
    from rsseg_tf.rasters.sources import Stack

__all__ = ["command"]

_scenes = group(
    "Scenes",
    click.option("--bands", multiple=True, type=click.IntRange(min=1), metavar="N...",
                 help="Bands to read, in the model's order, from 1: --bands 3 2 1."),
    stack_options,
    click.option("--max-value", type=click.FloatRange(min=0, min_open=True), metavar="V",
                 help="Pixel value that corresponds to the model's max_value, if the scene is scaled differently."),
    click.option("--match-gsd", is_flag=True, help="Resample to the model's metres per pixel, and back."),
    click.option("--model-gsd", type=click.FloatRange(min=0, min_open=True), metavar="METRES",
                 help="With --match-gsd: the model's metres per pixel, if the model does not store them."),
    click.option("--aoi", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE",
                 help="Predict only inside these polygons (GeoJSON, GeoPackage, FlatGeobuf, "
                      "GeoParquet, Shapefile, KML)."),
    click.option("--max-memory", default="2G", show_default=True, metavar="SIZE",
                 help="Limit of buffers; wide scenes are cut into strips to stay below it."),
    click.option("--resume", is_flag=True, help="Go on where an earlier run with the same options was stopped."),
    vrt_option,
)  # fmt: skip
_rasters = group(
    "Rasters",
    click.option("--cog", is_flag=True, help="Write Cloud Optimized GeoTIFFs."),
    click.option("--confidence", is_flag=True, help="Also write the largest probability, in steps of 1/254."),
    click.option("--min-confidence", type=click.FloatRange(0, 1, min_open=True), metavar="P",
                 help="Give pixels with a smaller probability the review value."),
    click.option("--review-value", type=click.IntRange(0, 255), metavar="ID",
                 help="With --min-confidence: id of uncertain pixels.  [default: 254]"),
    click.option("--probabilities", is_flag=True, help="Also write the probability of each class."),
)  # fmt: skip
_server = group("Server", server_options)
_pictures = group(
    "Pictures",
    click.option("--no-pictures", is_flag=True, help="Leave out pseudo_color_prediction/ and added_prediction/."),
    click.option("--custom-color", multiple=True, type=click.IntRange(0, 255), metavar="R G B...",
                 help="Colours of the classes in order, three numbers each, instead of the dataset's palette."),
)  # fmt: skip
_polygons = group(
    "Polygons",
    click.option("--vector", metavar="FORMAT|FILE",
                 help="Also write polygons: gpkg, geojson, fgb or parquet; or for one scene the name of such a file, "
                      "whose other layers stay."),
    click.option("--min-area", type=click.FloatRange(min=0), default=0.0, metavar="M2",
                 help="With --vector: leave out smaller polygons."),
    click.option("--simplify", type=click.FloatRange(min=0), default=0.0, metavar="PIXELS",
                 help="With --vector: tolerance of outlines; neighbours keep their common edge."),
)  # fmt: skip
_catalog = group(
    "Catalog",
    click.option("--stac", is_flag=True, help="Also write a STAC item that describes the other results."),
    click.option("--stac-datetime", metavar="TIME[/TIME]",
                 help="With --stac: when the image was taken, such as 2024-05-01T10:30:00Z, 2024-05-01, or two of "
                      "these with a slash between.  [default: what the image states, or else now]"),
)  # fmt: skip
_cluster = group(
    "Cluster",
    click.option("--dask", metavar="ADDRESS|local",
                 help="Predict on the workers of a Dask scheduler, or of a local cluster."),
    click.option("--workers", type=click.IntRange(min=1), metavar="N",
                 help="With --dask local: number of processes.  [default: 2]"),
)  # fmt: skip
_windows = group(
    "Windows and augmentation",
    prediction_options("aug-pred"),
    click.option("--batch-size", type=click.IntRange(min=1), default=4, show_default=True, metavar="N",
                 help="Windows per call of the model."),
)  # fmt: skip


@click.command(name="predict", cls=ManyValues)
@model_option(required=False)
@click.option("--image-path", metavar="PATH",
              help="An image, a scene, a folder of them, or a list file (.txt); an address (https://, s3://); a "
                   "variable of a netCDF, HDF5 or Zarr file (FILE:VARIABLE).")  # fmt: skip
@save_dir_option("Folder for results.", Path("output/result"))
@config_option(required=False)
@device_options
@_rasters
@_polygons
@_pictures
@_scenes
@_windows
@engine_options
@_server
@_catalog
@_cluster
def command(
    model_path: str | None,
    image_path: str | None,
    save_dir: Path,
    config_path: str | None,
    overrides: tuple[str, ...],
    custom_color: tuple[int, ...],
    precision: str,
    engine: str | None,
    tolerance: float | None,
    device: str,
    gpus: tuple[int, ...],
    **values: Any,
) -> None:
    """Predict images and scenes of any size.

    Reads PNG, JPEG, TIFF, VRT, JPEG 2000, netCDF, HDF5, Zarr, and other rasters that hold their own pixels; TIFF and
    JPEG 2000 from servers too, of which only the parts that are needed are fetched.

    Writes to --output: pseudo_color_prediction/ (class ids as PNG with the palette), added_prediction/ (the image
    with the classes laid over it), for all but pictures without a world file geotiff_prediction/ (class ids with the
    scene's CRS and transform, colour table, class names and nodata), and what the options below ask for.
    Beside maps and polygons are files (.qml, .tif.aux.xml) from which QGIS and GDAL take names and colours; a
    GeoPackage has them in itself.

    Images of up to 2048 x 2048 pixels are predicted whole; with --is-slide they are scaled and then cut into windows.
    Larger images are cut first, and each window is scaled; without --is-slide their windows have the model's size and
    are blended. So are those of smaller images of which a small --aoi is asked for. `rsseg-tf eval` counts the same
    labels. The memory does not depend on the height of a scene.

    Folders keep their structure. An image that cannot be predicted is named at the end, with exit code 1; the others
    are done. Pictures of huge scenes are reduced to previews.
    """
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.predict import (
        OutputOptions,
        PredictionPlan,
        PredictionSettings,
        SceneOptions,
        collect_sources,
        palette_with,
    )
    from rsseg_tf.predict.options import parse_memory
    from rsseg_tf.rasters.polygon_files import read_area

    _check_combinations(values)
    if values["aoi"] is not None:
        read_area(values["aoi"])  # so that an error in it comes before a model is loaded, and once
    changes = prediction_changes("aug_pred", values)
    output = OutputOptions(
        **picked(values, "cog", "confidence", "min_confidence", "probabilities", "vector", "min_area", "simplify"),
        **picked(values, "stac", "stac_datetime"),
        review_value=254 if values["review_value"] is None else values["review_value"],
        pictures=not values["no_pictures"],
    )
    check_save_dir(save_dir)
    paths, base = collect_sources(
        _image(image_path, values), exclude=save_dir, notify=print_note, any_driver=values["allow_vrt_sources"]
    )
    predictor = open_server(model_path, values)
    source, config = None, None
    if predictor is None:
        source = locate_engine(str(model_path), engine, tolerance, precision)
        config = _config_of(source, config_path, overrides)
        choose_device(device, gpus)
        source = choose_engine(source, config, paths[0], changes.get("crop_size"))
        predictor = _open(source, config)
    elif values["dask"] is not None:
        raise ConfigError("--dask has no effect with --server, which does the work; use --in_flight, or leave it out.")
    if line := windows_note(predictor, changes):
        print_note(line)
    options = changed_options(predictor.options, changes)
    # A server takes as many windows as may be on their way.
    options = dataclasses.replace(options, batch_size=max(values["batch_size"], options.batch_size))
    scenes = SceneOptions(
        bands=values["bands"] or None,
        max_memory=parse_memory(values["max_memory"]),
        model=_identity(predictor, source),
        **picked(values, "max_value", "match_gsd", "model_gsd", "aoi", "resume", "allow_vrt_sources"),
    )
    palette = palette_with(custom_color or None, predictor.spec)
    plan = PredictionPlan(
        paths, PredictionSettings(predictor.spec, save_dir, options, scenes, output, palette), base=base
    )
    if values["dask"] is None or source is None:
        results = _predict_here(plan, predictor.predict)
    else:
        # A worker has another working directory, and shares the processors with other workers.
        remote = dataclasses.replace(source, path=source.path.absolute(), threads=None)
        open_model = partial(_open_in_worker, remote, config, device, gpus)
        results = _predict_on_cluster(plan, open_model, values)
    _report(results, save_dir)


def _check_combinations(values: dict[str, Any]) -> None:
    """Refuses options without effect."""
    from rsseg_tf.errors import ConfigError

    pairs = (("workers", "dask"), ("model_gsd", "match_gsd"), ("review_value", "min_confidence"))
    for name, needed in pairs:
        if values[name] is not None and not values[needed]:
            raise ConfigError(f"--{name} has an effect with --{needed} only; add it or leave --{name} out.")
    if values["workers"] is not None and values["dask"] != "local":
        raise ConfigError("--workers is for --dask local; the workers of a scheduler are started beside it.")


def _image(image_path: str | None, values: dict[str, Any]) -> str | Stack:
    """Returns what is to be predicted: a path or address, or the stack of several."""
    from rsseg_tf.errors import ConfigError

    stack = stacked(values)
    if image_path is not None and stack is None:
        return image_path
    if image_path is None and stack is not None:
        return stack
    which = "neither" if stack is None else "both"
    raise ConfigError(f"--image_path or --stack is needed, one of the two; got {which}.")


def _config_of(source: ModelSource, config_path: str | None, overrides: tuple[str, ...]) -> Config | None:
    """Returns the config of a checkpoint; None for an export."""
    from rsseg_tf.errors import ConfigError

    if source.kind == "checkpoint":
        return load_beside(source.path, config_path, overrides)
    if config_path or overrides:
        raise ConfigError(
            f"{source.path} is an exported model and has a manifest instead of a config; --config and --set have no "
            "effect. Leave them out."
        )
    return None


def _open(source: ModelSource, config: Config | None) -> Predictor:
    """Opens the model on the chosen device."""
    from rsseg_tf.predictors import open_predictor

    return open_predictor(source.path, config=config, precision=source.precision, threads=source.threads)


def _open_in_worker(source: ModelSource, config: Config | None, device: str, gpus: tuple[int, ...]) -> Predict:
    """Opens the model in a worker."""
    from rsseg_tf.cli.output import load_tensorflow

    load_tensorflow()
    choose_device(device, gpus)
    return _open(source, config).predict


def _identity(predictor: Predictor, source: ModelSource | None) -> str:
    """Returns a text that identifies a model: name, kind, checksum of the weights.

    Rasters carry it as a tag, so its form must not change.
    """
    from rsseg_tf.checkpoint import read_weights

    manifest = predictor.manifest
    precision = "fp32" if source is None else source.precision
    if manifest is not None:
        stored = manifest.artifacts[0].quantization if manifest.artifacts else ""
        kind = predictor.kind if precision == "fp32" else f"{predictor.kind} {precision}"
        return f"{manifest.model} {kind} {stored} {manifest.origin.weights_sha256[:12]}"
    checkpoint = Path() if source is None else source.path
    return f"{checkpoint.name} {precision} {read_weights(checkpoint)[1][:12]}"


def _predict_here(plan: PredictionPlan, predict: Predict) -> list[PredictionResult]:
    """Predicts in this process."""
    results: list[PredictionResult] = []
    with _progress(plan) as (advance, finish):
        for job, result in plan.run(predict, advance):
            finish(job)
            results.append(result)
    return results


def _predict_on_cluster(
    plan: PredictionPlan, open_model: Callable[[], Predict], values: dict[str, Any]
) -> list[PredictionResult]:
    """Predicts on Dask workers."""
    from rsseg_tf.predict.cluster import predict_on_cluster

    address = None if values["dask"] == "local" else values["dask"]
    with _progress(plan) as (_, finish):
        return predict_on_cluster(plan, open_model, address, workers=values["workers"] or 2, finish=finish)


@contextlib.contextmanager
def _progress(plan: PredictionPlan) -> Iterator[tuple[Callable[[ImageJob, int], None], Callable[[ImageJob], None]]]:
    """Shows a bar over all pixels with megapixels per second and the time left.

    Yields:
        What to call with finished pixels of a job, and what to call when a job is done.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from rsseg_tf.predict import pixel_count

    sizes = {job: pixel_count(job.path) for job in plan.jobs}
    seen = dict.fromkeys(plan.jobs, 0)
    columns = (
        TextColumn("{task.description}", markup=False),  # names of files may have brackets
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[images]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("Predicting", total=sum(sizes.values()), images=f"0/{len(plan.jobs)} images", rate="")
        finished = 0

        def advance(job: ImageJob, pixels: int) -> None:
            seen[job] += pixels
            rate = sum(seen.values()) / 1e6 / max(time.monotonic() - started, 1e-3)
            bar.update(task, advance=pixels, description=job.path.name, rate=f"{rate:.2f} Mpx/s")

        def finish(job: ImageJob) -> None:
            nonlocal finished
            finished += 1
            # Pixels that a job did not report, such as after an error, count as done now.
            bar.update(task, advance=sizes[job] - seen[job], images=f"{finished}/{len(plan.jobs)} images")

        yield advance, finish


def _report(results: list[PredictionResult], save_dir: Path) -> None:
    """Prints the outcome; exit code 1 if images failed."""
    failed = [result for result in results if not result.ok]
    click.echo(f"{len(results) - len(failed)} of {len(results)} images predicted: {save_dir}")
    for result in results:
        if result.note is not None:
            click.echo(f"Note: {result.image}: {result.note}")
    for result in failed:
        is_named = str(result.image) in str(result.error)
        click.echo(f"Error: {result.error}" if is_named else f"Error: {result.image}: {result.error}", err=True)
    if failed:
        raise SystemExit(1)
