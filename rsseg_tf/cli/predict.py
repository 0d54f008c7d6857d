"""`rsseg-tf predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.options import (
    ManyValues,
    choose_device,
    load_beside,
    locate_model,
    open_model,
    prediction_changes,
    prediction_options,
    weights_options,
)

__all__ = ["command"]


@click.command(name="predict", cls=ManyValues)
@weights_options
@click.option("--image-path", required=True, type=Path, help="An image, a folder of images, or a list file (.txt).")
@click.option("--save-dir", type=Path, default=Path("output/result"), show_default=True, help="Where results go.")
@prediction_options("aug-pred")
@click.option(
    "--custom-color",
    multiple=True,
    type=click.IntRange(0, 255),
    metavar="R G B...",
    help="Colours of the classes in order, three numbers each, instead of the dataset's palette.",
)
def command(
    model_path: str,
    image_path: Path,
    save_dir: Path,
    config_path: str | None,
    overrides: tuple[str, ...],
    custom_color: tuple[int, ...],
    precision: str,
    device: str,
    gpus: tuple[int, ...],
    **values: Any,
) -> None:
    """Predict images.

    Writes to --save-dir: pseudo_color_prediction/ (class ids as PNG with the palette), added_prediction/ (the image
    with the classes laid over it) and, for georeferenced images, geotiff_prediction/ (class ids with the image's CRS
    and transform, a colour table and the class names). Folders keep their structure. An image that cannot be predicted
    is named at the end, with exit code 1; the others are done.
    """
    from rsseg_tf.errors import ConfigError

    changes = prediction_changes("aug_pred", values)
    kind, path = locate_model(model_path)
    config = load_beside(path, config_path, overrides) if kind == "checkpoint" else None
    if config is None and (config_path or overrides):
        raise ConfigError(
            f"{path} was exported and brings along all that it needs; --config and --set have no effect. Leave them "
            "out."
        )

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    from rsseg_tf.inference import collect_images, predict_paths

    paths, base = collect_images(image_path, exclude=save_dir)
    choose_device(device, gpus)
    model = open_model(path, config, precision, changes)
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("Predicting", total=len(paths))
        results = predict_paths(
            paths,
            model.predict,
            model.spec,
            save_dir,
            model.options,
            base=base,
            custom_color=custom_color or None,
            progress=lambda done, total, result: progress.update(task, completed=done),
        )
    failed = [result for result in results if not result.ok]
    click.echo(f"{len(results) - len(failed)} of {len(results)} images predicted: {save_dir}")
    for result in failed:
        named = str(result.image) in str(result.error)
        click.echo(f"Error: {result.error}" if named else f"Error: {result.image}: {result.error}", err=True)
    if failed:
        raise SystemExit(1)
