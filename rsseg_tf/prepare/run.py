"""Prepares a dataset from its recipe and the user's options: the function behind `rsseg-tf prepare`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsseg_tf.datasets.recipe import Download, Recipe
from rsseg_tf.datasets.table import dataset_recipe
from rsseg_tf.errors import DataError
from rsseg_tf.prepare.cutting import CutPlan
from rsseg_tf.prepare.output import PrepareReport
from rsseg_tf.prepare.synthetic import generate_synthetic
from rsseg_tf.prepare.workspace import workspace

__all__ = ["PrepareOptions", "prepare_dataset"]

_FORMATS = ("jpg", "png", "tif")


@dataclass(frozen=True)
class PrepareOptions:
    """What a user may choose when preparing a dataset; None takes the recipe's default.

    An option that a dataset has no use for is refused, not ignored; see `Recipe.options`.

    Attributes:
        tile_size: Side of a tile (of a scene, for made-up data) in pixels.
        overlap: Pixels that neighbouring tiles share; the last tile of a row or column is shifted back and shares more.
        cutting: Which windows the ISPRS scenes are cut by: `"benchmark"` or `"overlap"`.
        labels: Which ISPRS masks: `"eroded"` or `"full"`.
        off_palette_fraction: Share of the pixels of a mask, 0..1, whose colour or value may mean nothing; these pixels
            are ignored.
        splits: Parts of a labelled dataset, `"train"`, `"val"` and, where there is one, `"test"`. None takes all, of
            which train and val must be there.
        image_format: Kind of file for crops without labels: `"jpg"` (quality 95, the default; a quarter of the space),
            `"png"` or `"tif"`. Images that the format cannot hold, such as those of many bands or 16 bits, are written
            as TIFF with all their bands.
        scenes_train: Number of training scenes to make.
        scenes_val: Number of validation scenes to make.
        seed: Seed of made-up data.
        workers: Number of processes; None takes one for each core.
        progress: Called after each scene with the number done and the number of all.
    """

    tile_size: int | None = None
    overlap: int | None = None
    cutting: str | None = None
    labels: str | None = None
    off_palette_fraction: float | None = None
    splits: tuple[str, ...] | None = None
    image_format: str | None = None
    scenes_train: int | None = None
    scenes_val: int | None = None
    seed: int | None = None
    workers: int | None = None
    progress: Callable[[int, int], None] | None = None

    def chosen(self, recipe: Recipe) -> dict[str, Any]:
        """Returns the options that the user chose, by name.

        Raises:
            DataError: When the dataset has no use for one of them.
        """
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        chosen = {name: value for name, value in values.items() if value is not None}
        for name in chosen.keys() - {*recipe.options, "progress"}:
            raise DataError(
                f"Dataset '{recipe.name}' has no option {name} (got {chosen[name]}); "
                f"it takes {', '.join(sorted(recipe.options))}. Leave it out."
            )
        return chosen


def prepare_dataset(
    dataset: Recipe | str, sources: Path | Sequence[Path], output: Path, options: PrepareOptions | None = None
) -> PrepareReport:
    """Prepares a dataset: cuts its scenes into tiles and turns their masks into class ids.

    Scenes without masks, such as those of a test split, are copied whole. Equal sources and options give equal bytes.

    Args:
        dataset: A name of `rsseg_tf.datasets.table.RECIPES`, or a recipe of your own.
        sources: The downloaded folder or archive, or several that belong together; empty for made-up data. The recipe
            describes what they hold.
        output: The folder to appear; see `rsseg_tf.prepare.output` for what it holds.
        options: What the user chose; None takes the recipe's defaults.

    Returns:
        What was written.

    Raises:
        DataError: When the name is unknown, an option does not fit the dataset or is out of range, the sources are not
            the dataset or lack a file, files are damaged, masks have unknown colours or values, or the output cannot be
            written or must not be replaced.
    """
    recipe = dataset_recipe(dataset) if isinstance(dataset, str) else dataset
    paths = (sources,) if isinstance(sources, Path) else tuple(sources)
    options = options or PrepareOptions()
    chosen = options.chosen(recipe)
    if recipe.find_scenes is None:
        if paths:
            raise DataError(
                f"The {recipe.name} dataset is made, not read; got the source {paths[0]}. Leave the source out."
            )
        if "tile_size" in chosen:
            chosen["size"] = chosen.pop("tile_size")
        return generate_synthetic(output, recipe=recipe, **chosen)
    if not paths:
        raise DataError(f"Preparing '{recipe.name}' needs the downloaded folder or zip file; none was given.")
    labels = _choice("labels", options.labels, recipe.labels)
    cutting = _choice("cutting", options.cutting, recipe.cuttings)
    off_palette_fraction = chosen.get("off_palette_fraction", recipe.off_palette_fraction)
    plan = _cut_plan(recipe, options, cutting)
    _check_ranges(recipe, plan, options, off_palette_fraction)
    # The order of the entries in dataset.json.
    facts = {
        "tile_size": plan.tile_size,
        "overlap": plan.overlap,
        **({"cutting": cutting} if cutting else {}),
        **({"labels": labels} if labels else {}),
        "tile_names": plan.names,
        **({} if recipe.coding else {"image_format": plan.suffix[1:]}),
    }
    with workspace(output, recipe.dataset) as work:
        download = Download(work.members(paths), ", ".join(map(str, paths)), options.splits, labels)
        return work.prepare(
            recipe.find_scenes(download), plan, facts,
            splits=options.splits, off_palette_fraction=off_palette_fraction,
            workers=options.workers, progress=options.progress,
        )  # fmt: skip


def _choice(option: str, chosen: str | None, allowed: Sequence[str]) -> str:
    """Returns one of the allowed values, the first of them by default; nothing where there is no choice."""
    if not allowed:
        return ""
    if chosen is not None and chosen not in allowed:
        others = " or ".join(f"'{value}'" for value in allowed[1:])
        raise DataError(f"{option} is '{chosen}'; it must be '{allowed[0]}' (as the benchmark) or {others}.")
    return chosen or allowed[0]


def _cut_plan(recipe: Recipe, options: PrepareOptions, cutting: str) -> CutPlan:
    """Returns how scenes are cut, with the recipe's defaults where nothing was chosen."""
    tile_size = recipe.tile_size if options.tile_size is None else options.tile_size
    if cutting == "benchmark" and options.overlap is not None:
        raise DataError(
            f"An overlap of {options.overlap} has no effect on the windows of cutting 'benchmark'; choose cutting "
            "'overlap'."
        )
    # The benchmark's scripts multiply by the tile size, not by their stride of 256, so their tiles never overlap.
    usual = tile_size // 2 if cutting == "overlap" else recipe.overlap
    image_format = "png" if recipe.coding else options.image_format or "jpg"
    return CutPlan(
        tile_size,
        usual if options.overlap is None else options.overlap,
        recipe.tile_names,
        label_suffix=recipe.label_suffix,
        bands=recipe.bands,
        suffix=f".{image_format}",
        coding=recipe.coding,
        palette=() if isinstance(recipe.dataset, str) else recipe.dataset.palette,
    )


def _check_ranges(recipe: Recipe, plan: CutPlan, options: PrepareOptions, off_palette_fraction: float) -> None:
    """Raises DataError when a chosen value is out of its range."""
    splits = options.splits
    unknown = [split for split in splits or () if split not in recipe.splits]
    if splits is not None and (unknown or not splits):
        got = f"'{unknown[0]}'" if unknown else "none"
        raise DataError(f"splits holds {got}; name one or more of {', '.join(recipe.splits)}, or leave it out for all.")
    if plan.tile_size < 1 or not 0 <= plan.overlap < plan.tile_size:
        raise DataError(
            f"Tiles of {plan.tile_size} pixels with an overlap of {plan.overlap} are not possible; the size must be at "
            "least 1 and the overlap from 0 to below the size. 512 and 0 are usual."
        )
    if not 0 <= off_palette_fraction <= 1:
        raise DataError(f"off_palette_fraction is {off_palette_fraction}; it must lie in 0..1. 0 allows none.")
    if plan.suffix[1:] not in _FORMATS:
        raise DataError(f"image_format is '{plan.suffix[1:]}'; it must be one of {', '.join(_FORMATS)}.")
    if options.workers is not None and options.workers < 1:
        raise DataError(f"workers is {options.workers}; at least 1 is needed.")
