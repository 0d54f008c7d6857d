"""`rsseg-tf predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.commands import ManyValues, group
from rsseg_tf.cli.engine import engine_options, given_precision, named_model
from rsseg_tf.cli.options import (
    config_option,
    device_options,
    model_option,
    prediction_options,
    save_dir_option,
    server_options,
    stack_options,
    vrt_option,
)
from rsseg_tf.cli.output import CONSOLE

if TYPE_CHECKING:
    from rsseg_tf.library.predicting import Predictions

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
    precision: str,
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
    from rsseg_tf.library.predicting import predict

    model = named_model(model_path, values)
    augmented, no_pictures = values.pop("augmented"), values.pop("no_pictures")
    results = predict(
        model,
        image_path,
        save_dir,
        config=config_path,
        overrides=overrides,
        precision=given_precision(precision),
        aug_pred=augmented,
        pictures=not no_pictures,
        notify=CONSOLE,
        **values,
    )
    _report(results, save_dir)


def _report(results: Predictions, save_dir: Path) -> None:
    """Prints the outcome; exit code 1 if images failed."""
    from rsseg_tf.library.predicting import failure

    failed = results.failed
    click.echo(f"{len(results) - len(failed)} of {len(results)} images predicted: {save_dir}")
    for result in results:
        if result.note is not None:
            click.echo(f"Note: {result.image}: {result.note}")
    for result in failed:
        click.echo(f"Error: {failure(result)}", err=True)
    if failed:
        raise SystemExit(1)
