"""`rsseg-tf prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsseg_tf.cli.commands import ManyValues, WithDefault, group, needed
from rsseg_tf.cli.options import NameOf
from rsseg_tf.cli.output import CONSOLE, print_prepared
from rsseg_tf.cli.prepare_annotations import annotated_images
from rsseg_tf.cli.prepare_scenes import scenes

# These imports take half a second at most, since they load no TensorFlow; the help names the datasets.
from rsseg_tf.datasets.recipe import Recipe
from rsseg_tf.datasets.table import RECIPES

__all__ = ["command"]


def _names(option: str) -> str:
    """Returns the names of the datasets that take an option: `potsdam, vaihingen`."""
    return ", ".join(name for name, recipe in RECIPES.items() if option in recipe.options)


def _defaults(option: str) -> str:
    """Returns the defaults of the datasets: `isaid 896, loveda 1024, others 512`."""
    values = {name: getattr(recipe, option) for name, recipe in RECIPES.items() if option in recipe.options}
    usual = getattr(Recipe, option)
    groups = {value: [name for name in values if values[name] == value] for value in values.values()}
    return ", ".join(
        [f"{', '.join(names)} {value:g}" for value, names in groups.items() if value != usual] + [f"others {usual:g}"]
    )


class _WithDatasets(WithDefault):
    """Takes `prepare potsdam SOURCE` beside the subcommands for a user's own data."""

    default = "dataset"

    def _known(self) -> list[str]:
        return [*RECIPES, *self._others()]

    def _is_of_default(self, argument: str) -> bool:
        return argument.startswith("-") or argument.replace("-", "_") in RECIPES


_HELP = f"""Make tiles, id masks and lists from a downloaded dataset, or from your own scenes (`prepare scenes`).

    DATASET is {", ".join(RECIPES)}.

    SOURCE is the downloaded folder or zip file, or several of them (synthetic scenes have none); zip files are not
    unpacked. Writes img_dir/ and ann_dir/ with train/ and val/, train.txt and val.txt (`image label` per line),
    labels.txt and dataset.json. million_aid, dota and images have no labels: they get img_dir/train/ and train.txt.

    The folder appears when all files are written. After a kill, or once a damaged file is repaired, the same command
    goes on where it stopped.
    """


@click.group(name="prepare", cls=_WithDatasets, no_args_is_help=False, help=_HELP)
def command() -> None:
    """Make tiles from a downloaded dataset, or from a user's own data."""


@command.command(name=_WithDatasets.default, cls=ManyValues, help=_HELP)
@needed(
    "Bring your own data instead: `rsseg-tf prepare scenes`, or `rsseg-tf prepare annotations`.",
    click.argument("dataset", type=click.Choice(sorted(RECIPES)), metavar="DATASET"),
)
@click.argument("sources", metavar="[SOURCE]...", type=Path, nargs=-1)
@click.option("-o", "--output", "--out-dir", type=Path, metavar="DIR",
              help="The folder to write [default: the configs' dataset.root, such as data/Potsdam].")  # fmt: skip
@click.option("--splits", multiple=True, type=click.Choice(["train", "val", "test"]), metavar="NAME...",
              help="Parts of a labelled dataset, e.g. --splits val [default: all; train and val must "
                   "exist].")  # fmt: skip
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes [default: one for each core].")
@group(
    "Tiles and labels",
    click.option("--tile-size", "--clip-size", type=click.IntRange(min=1), metavar="N",
                 help=f"Side of a tile in pixels [default: {_defaults('tile_size')}]."),
    click.option("--overlap", "--overlap-area", type=click.IntRange(min=0), metavar="N",
                 help=f"Pixels that neighbouring tiles share [default: {_defaults('overlap')}]."),
    click.option("--cutting", "--protocol", type=NameOf(["benchmark", "overlap"]),
                 help=f"{_names('cutting')}: windows as the benchmark cut them, or with --overlap, half a tile if not "
                      "given [default: benchmark]."),
    click.option("--labels", type=click.Choice(["eroded", "full"]),
                 help=f"{_names('labels')}: masks without or with the boundaries of objects [default: eroded]."),
    click.option("--off-palette-fraction", type=click.FloatRange(0, 1), metavar="F",
                 help="Share of a mask that may have unknown colours; they become ignored [default: "
                      f"{_defaults('off_palette_fraction')}]."),
    click.option("--image-format", type=click.Choice(["jpg", "png", "tif"]),
                 help=f"{_names('image_format')}: file format of the crops [default: jpg]."),
)  # fmt: skip
@group(
    "Synthetic scenes",
    click.option("--scenes-train", type=click.IntRange(min=1), metavar="N",
                 help=f"{_names('scenes_train')}: training scenes to make [default: 18]."),
    click.option("--scenes-val", type=click.IntRange(min=1), metavar="N",
                 help=f"{_names('scenes_val')}: validation scenes to make [default: 6]."),
    click.option("--seed", type=click.IntRange(min=0), metavar="N",
                 help=f"{_names('seed')}: seed of the scenes [default: 0]."),
)  # fmt: skip
def prepare_named(dataset: str, sources: tuple[Path, ...], output: Path | None, **settings: Any) -> None:
    """Prepares a dataset that the table of recipes names."""
    from rsseg_tf.library.preparing import prepare

    print_prepared(prepare(dataset, sources, output, notify=CONSOLE, **settings))


command.add_command(scenes)
command.add_command(annotated_images)
