"""`rsseg-tf prepare scenes`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.commands import ManyValues, group, needed
from rsseg_tf.cli.options import reading_options, stack_options, trains_on_option
from rsseg_tf.cli.output import CONSOLE, print_own_data

__all__ = ["scenes"]

_METRES = click.FloatRange(min=0)


@click.command(name="scenes", cls=ManyValues)
@click.argument("orthos", metavar="ORTHO...", nargs=-1)
@needed(
    "Name a file of polygons, or a raster of class values.",
    click.option("--labels", multiple=True, required=True, type=Path, metavar="FILE...",
                 help="Polygons (GeoPackage, GeoJSON, Shapefile, FlatGeobuf, GeoParquet, KML) or rasters of class "
                      "values, in any CRS and grid."),
)  # fmt: skip
@needed(
    "Name the folder to write, e.g. -o data/mine.",
    click.option("-o", "--output", "--out-dir", required=True, type=Path, metavar="DIR",
                 help="The folder to write, e.g. data/mine; its name becomes the dataset's."),
)  # fmt: skip
@group(
    "Classes",
    click.option("--field", metavar="NAME",
                 help="The field with the class of a polygon, names or numbers.  [default: all are one class]"),
    click.option("--layer", metavar="NAME", help="The layer to read, in a file of several."),
    click.option("--classes", multiple=True, metavar="VALUE[=NAME]...",
                 help="Order and names of the classes, e.g. --classes 1=water 2=road 9=ignore '*=ignore'.  [default: "
                      "every value, sorted]"),
    click.option("--background", type=click.Choice(["class", "ignore"]),
                 help="What pixels without a label are.  [default: a class for polygons; ignored for rasters]"),
    click.option("--style", type=Path, metavar="FILE",
                 help="Colours of the classes: a .qml, a GeoPackage with a style, or a raster with a colour table.  "
                      "[default: those of the labels]"),
    click.option("--touching", type=click.Choice(["centre", "all"]), default="centre", show_default=True,
                 help="A polygon covers the pixels whose centre lies in it, or all that it touches."),
)  # fmt: skip
@group(
    "Split",
    click.option("--split", default="blocks:0.2", show_default=True, metavar="RULE",
                 help="What validates: blocks:SHARE of the ground, scene:SHARE, polygons:FILE (tiles inside), "
                      "field:NAME (of the labels; train or val), or none."),
    click.option("--buffer", "buffer_m", type=_METRES, metavar="METRES",
                 help="Least distance of training and validation tiles; tiles between are left out.  [default: an "
                      "eighth of a tile]"),
    click.option("--block", "block_m", type=_METRES, metavar="METRES",
                 help="Side of a block.  [default: so that there are about 20]"),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                 help="Of the draw of blocks or scenes."),
)  # fmt: skip
@group(
    "Tiles",
    click.option("--aoi", type=Path, metavar="FILE", help="Polygons outside of which all is ignored."),
    click.option("--tile-size", type=click.IntRange(min=16), metavar="N",
                 help="Side in pixels.  [default: 512, 256 or 128, the largest that gives 40 tiles]"),
    click.option("--overlap", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                 help="Pixels that neighbours share."),
    click.option("--skip-empty", is_flag=True, help="Leave tiles out that hold background alone."),
    click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [default: one for each core]"),
    trains_on_option,
)  # fmt: skip
@group(
    "Scenes",
    stack_options,
    click.option("--bands", multiple=True, type=click.IntRange(min=1), metavar="N...",
                 help="Bands to read and their order, from 1: --bands 1 2 3 4.  [default: all but one marked alpha, "
                      "which is a mask]"),
    reading_options,
)  # fmt: skip
def scenes(orthos: tuple[str, ...], labels: tuple[Path, ...], output: Path, **values: Any) -> None:
    """Make tiles from your own scenes and labels.

    ORTHO is an image with a place (GeoTIFF, VRT, JPEG 2000, netCDF, HDF5, Zarr, or JPEG and PNG with a world file),
    several, or a folder of them; FILE:VARIABLE of a file with several rasters; an address (https://, s3://).
    Labels belong to the scenes on whose ground they lie. Where they overlap, later polygons and later files lie on top.

    Writes what other datasets have: tiles in img_dir/ and ann_dir/, train.txt and val.txt, labels.txt and dataset.json;
    and NAME.yml, a config to train with. Image tiles are GeoTIFFs with the bands and the type of the scene. Pixels
    without data are ignored, and so are polygons without a class.

    After a kill the same command goes on where it stopped.
    """
    from rsseg_tf.library.preparing import prepare_scenes

    buffer, block = values.pop("buffer_m"), values.pop("block_m")
    print_own_data(prepare_scenes(orthos, labels, output, buffer=buffer, block=block, notify=CONSOLE, **values))
