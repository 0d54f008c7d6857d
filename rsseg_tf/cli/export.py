"""`rsseg-tf export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.commands import ManyValues, group, needed
from rsseg_tf.cli.options import config_option
from rsseg_tf.cli.output import CONSOLE, fitting, narrow_table

if TYPE_CHECKING:
    from rsseg_tf.export import Accuracy, ExportResult

__all__ = ["command"]

# As in `rsseg_tf.manifest` and `rsseg_tf.export`, whose imports take seconds.
_FORMATS = ("savedmodel", "tflite", "onnx", "openvino", "web", "deepness")
_QUANTIZATIONS = ("float32", "float16", "dynamic", "int8", "int16x8")


def _names(allowed: tuple[str, ...]) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[str, ...]]:
    """Returns a callback that checks names given one by one or with commas."""

    def check(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
        from rsseg_tf.errors import did_you_mean

        names = [name for value in values for name in value.split(",") if name]
        for name in names:
            if name not in allowed:
                raise click.BadParameter(f"'{name}' is not one of {', '.join(allowed)}.{did_you_mean(name, allowed)}")
        return tuple(dict.fromkeys(names))

    return check


@click.command(name="export", cls=ManyValues)
@needed(
    "`rsseg-tf train --do_eval` writes one as output/best_model.",
    click.argument("checkpoint", type=Path, metavar="CHECKPOINT"),
)
@needed(
    "Name a folder for this model alone, e.g. -o exported/mine; it will hold a folder for each version.",
    click.option("-o", "--output", type=Path, required=True, metavar="DIR", help="Folder of the model's versions."),
)
@click.option("--format", "formats", multiple=True, default=("savedmodel",), show_default=True,
              callback=_names(_FORMATS), metavar="NAME...",
              help=f"What to write: {', '.join(_FORMATS)}; several with commas.")  # fmt: skip
@click.option("--quantize", "quantizations", multiple=True, callback=_names(_QUANTIZATIONS), metavar="NAME...",
              help=f"TFLite files to write: {', '.join(_QUANTIZATIONS)}; several with commas. A page runs the first. "
                   "[default: float32]")  # fmt: skip
@click.option("--tile", nargs=2, type=click.IntRange(min=1), metavar="H W",
              help="Fixed input size of TFLite, ONNX and OpenVINO files, height first: faster than any size, the "
                   "default. A page and a file for Deepness always have one; its default is the size of training "
                   "images.")  # fmt: skip
@click.option("--version", type=click.IntRange(min=1), metavar="N", help="Version number. [default: the next free one]")
@config_option(required=False)
@group(
    "Accuracy",
    click.option("--eval", "eval_list", type=Path, metavar="LIST",
                 help="Labelled images to score the checkpoint and each artifact on."),
    click.option("--max-miou-drop", type=click.FloatRange(min=0), metavar="POINTS",
                 help="With --eval: publish nothing if an artifact loses more mIoU, in points of 100. "
                      "[default: 1.0]"),
    click.option("--real-tiles", type=click.IntRange(min=0), metavar="N",
                 help="With --eval or calibration: tiles of these images to keep in reference.npz for verify. "
                      "[default: 4]"),
)  # fmt: skip
@group(
    "Calibration",
    click.option("--calibration", type=Path, metavar="LIST",
                 help="Images that int8 and int16x8 measure activations on; int8 leaves out those that are nothing "
                      "like the others. [default: the training list]"),
    click.option("--calibration-count", type=click.IntRange(min=1), metavar="N",
                 help="How many of them to draw. [default: 32]"),
    click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of that draw. [default: 0]"),
)  # fmt: skip
@group(
    "Web page",
    click.option("--web-sample", type=Path, metavar="IMAGE",
                 help="With web: an image that the page offers to try; it becomes public."),
    click.option("--web-title", metavar="TEXT", help="With web: headline of the page."),
    click.option("--web-urls", multiple=True, metavar="ORIGIN...",
                 help="With web: servers whose GeoTIFF files the page may read by address, such as "
                      "https://data.example.org, or https: for all. [default: none]"),
    click.option("--litertjs", type=Path, metavar="FOLDER",
                 help="With web: the packages of the page as npm pack writes them. [default: the cache, filled by "
                      "npm]"),
)  # fmt: skip
def command(
    checkpoint: Path,
    output: Path,
    formats: tuple[Any, ...],
    quantizations: tuple[Any, ...],
    config_path: str | None,
    **values: Any,
) -> None:
    """Export a checkpoint as a new version in DIR: files that run without this package and without Keras.

    \b
    savedmodel  for TensorFlow and TensorFlow Serving (whose base path is DIR)
    tflite      for phones, boards and browsers: DIR/N/model_<quantize>.tflite
    onnx        for ONNX Runtime: DIR/N/model.onnx
    openvino    for OpenVINO: DIR/N/model_openvino.xml
    web         a page that segments images in the browser: DIR/N/web/index.html
    deepness    for Deepness, a plugin of QGIS: DIR/N/model_deepness.onnx

    They take pixels as they are in the file, and carry a manifest with classes, colours, bands and normalisation; eval
    and predict take them as --model-path. DIR/N/stac describes each as a STAC item with the MLM extension, for catalogs
    of models. A version appears whole or not at all, and none is ever overwritten. With
    --eval the IoU of each class is measured before and after; a worse model is not published (exit code 1), and its
    scores are left in DIR/refused.json.
    """  # noqa: D301  # click wants the character \b
    from rsseg_tf.library.exporting import export

    exported = export(
        checkpoint,
        output,
        format=formats,
        quantize=quantizations,
        eval=values.pop("eval_list"),
        config=config_path,
        notify=CONSOLE,
        **values,
    )
    _report(exported)
    if "web" in formats and exported.folder:
        click.echo(f"Open the page: python {exported.folder / 'web' / 'serve.py'}")


def _report(exported: ExportResult) -> None:
    """Prints the scores and the published version; ends with exit code 1 where it was refused."""
    accuracy = exported.accuracy
    if accuracy:
        from rich.console import Console

        console = Console()
        console.print(*accuracy_tables(accuracy, console.width), sep="\n")
        for tile in dict.fromkeys(accuracy.windows.values()):
            names = ", ".join(name for name, size in accuracy.windows.items() if size == tile)
            CONSOLE.note(
                f"Files of one size see images by windows of {tile.width}x{tile.height} pixels, unlike the checkpoint "
                f"({names}). A part of their drop may be that; --tile sets the size."
            )
    if exported.folder is None and accuracy:
        click.echo(
            f"Not published: {', '.join(accuracy.refused)} loses more than {accuracy.max_miou_drop:g} points of mIoU. "
            f"The scores are in {exported.report}.",
            err=True,
        )
        raise SystemExit(1)
    click.echo(f"Published: {exported.folder}")


_LONGEST_CLASS = 24  # characters of a line of a class's name


def accuracy_tables(accuracy: Accuracy, width: int) -> list[Any]:
    """Returns rich tables: IoU of each class in percent, for the checkpoint and each artifact.

    Args:
        accuracy: What to show.
        width: Characters of a line. Artifacts that one table has no room for go into another.
    """
    # "tflite int8" stands on two lines, so that a column is as wide as its longest word; 6 characters hold "100.00".
    heads = {name: name.replace(" ", "\n") for name in accuracy.scores}
    room = {name: 2 + max(6, *map(len, head.split("\n"))) for name, head in heads.items()}
    checkpoint, *artifacts = accuracy.scores
    classes = next(iter(accuracy.scores.values())).classes
    first = min(_LONGEST_CLASS, max(len("class"), *map(len, classes)))
    left = width - first - 3 - room[checkpoint]
    tables = []
    for names in fitting(artifacts, room, left):
        table = narrow_table(f"IoU on {accuracy.images} images, %")
        table.add_column("class", overflow="fold", min_width=first, max_width=first)
        shown = [checkpoint, *names]
        for name in shown:
            table.add_column(heads[name], justify="right", no_wrap=True)
        scores = [accuracy.scores[name] for name in shown]
        for index, name in enumerate(classes):
            table.add_row(name, *(f"{100 * one.class_iou[index]:.2f}" for one in scores))
        table.add_section()
        table.add_row("mIoU", *(f"{100 * one.miou:.2f}" for one in scores))
        # Adding 0.0 turns -0.0 into 0.0, which would be printed as "-0.00".
        table.add_row("drop", "", *(f"{round(accuracy.drops[name], 2) + 0.0:+.2f}" for name in names))
        tables.append(table)
    return tables
