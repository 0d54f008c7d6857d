"""`rsseg-tf prepare annotations`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.commands import ManyValues, group, needed
from rsseg_tf.cli.options import trains_on_option
from rsseg_tf.cli.output import CONSOLE, print_own_data

__all__ = ["annotated_images"]


@click.command(name="annotations", cls=ManyValues)
@needed(
    "Name the folders or zip files with the image tiles.",
    click.argument("images", metavar="IMAGES...", type=Path, nargs=-1, required=True),
)
@click.option("--labels", multiple=True, type=Path, metavar="PATH...",
              help="COCO files, or labelme's or ISAT's, or folders of them.  [default: the .json files beside the "
                   "images]")  # fmt: skip
@needed(
    "Name the folder to write, e.g. -o data/mine.",
    click.option("-o", "--output", "--out-dir", required=True, type=Path, metavar="DIR",
                 help="The folder to write, e.g. data/mine; its name becomes the dataset's."),
)  # fmt: skip
@group(
    "Classes",
    click.option("--classes", multiple=True, metavar="NAME[=CLASS]...",
                 help="Order and names of the classes, e.g. --classes house=building car=ignore '*=ignore'.  [default: "
                      "every name]"),
    click.option("--background", type=click.Choice(["class", "ignore"]), default="class", show_default=True,
                 help="What pixels without an object are."),
    click.option("--crowd", type=click.Choice(["class", "ignore"]), default="class", show_default=True,
                 help="What crowds of COCO (iscrowd) are; they lie below all other objects."),
    click.option("--style", type=Path, metavar="FILE",
                 help="Colours of the classes: a .qml, a GeoPackage with a style, or a raster with a colour table."),
)  # fmt: skip
@group(
    "Split",
    click.option("--val-labels", multiple=True, type=Path, metavar="PATH...",
                 help="The annotations of the images that validate.  [default: a share of the images]"),
    click.option("--val-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2,
                 show_default=True, metavar="F", help="Share of the images that validates."),
    click.option("--together", metavar="PATTERN",
                 help="Regular expression: images in whose names it finds the same stay in one split, e.g. "
                      "'^[^_]+' for tiles SCENE_12_34.png."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of the draw."),
)  # fmt: skip
@group(
    "Tiles",
    click.option("--tile-size", type=click.IntRange(min=16), metavar="N",
                 help="Cut the images to tiles of N pixels.  [default: images are copied as they are]"),
    click.option("--overlap", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
                 help="Pixels that neighbouring tiles share."),
    click.option("--skip-empty", is_flag=True, help="Leave out images and tiles without an object."),
    click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes.  [default: one for each core]"),
    trains_on_option,
)  # fmt: skip
def annotated_images(images: tuple[Path, ...], labels: tuple[Path, ...], output: Path, **values: Any) -> None:
    """Make id masks and lists from image tiles with polygons.

    IMAGES are folders of images, or zip files. Annotations are COCO's (polygons, run lengths, crowds), or labelme's or
    ISAT's, one file for each image. An object covers the pixels whose centre lies in it; where objects overlap, the one
    that stands later in its file lies on top. Images are found by their names, whatever folder they were in.

    Writes what other datasets have: images in img_dir/, labels in ann_dir/, train.txt and val.txt, labels.txt and
    dataset.json; and NAME.yml, a config to train with.
    """
    from rsseg_tf.library.preparing import prepare_annotations

    print_own_data(prepare_annotations(images, output, labels=labels, notify=CONSOLE, **values))
