"""Preparation of downloads, of one's own scenes and of annotated images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rsseg_tf.files import StrPath, several
from rsseg_tf.library.listening import Listener, Notify, listener_of

if TYPE_CHECKING:
    from rsseg_tf.datasets.recipe import Recipe
    from rsseg_tf.prepare.output import OwnDataReport, PrepareReport
    from rsseg_tf.rasters.sources import Source

__all__ = ["prepare", "prepare_annotations", "prepare_scenes"]


def prepare(
    dataset: str | Recipe,
    sources: StrPath | Sequence[StrPath] = (),
    output: StrPath | None = None,
    *,
    tile_size: int | None = None,
    overlap: int | None = None,
    cutting: Literal["benchmark", "overlap"] | None = None,
    labels: Literal["eroded", "full"] | None = None,
    splits: Sequence[Literal["train", "val", "test"]] = (),
    off_palette_fraction: float | None = None,
    image_format: Literal["jpg", "png", "tif"] | None = None,
    workers: int | None = None,
    scenes_train: int | None = None,
    scenes_val: int | None = None,
    seed: int | None = None,
    notify: Notify | None = None,
) -> PrepareReport:
    """Makes tiles, id masks and lists from a downloaded dataset, as `rsseg-tf prepare` does, by the same names.

    The folder appears when all files are written. The same call goes on where a killed one stopped, and does nothing
    where all is there.

    Args:
        dataset: A name such as `potsdam` or `synthetic`, or a recipe of your own.
        sources: The downloaded folder or zip file, or several of them; none for synthetic scenes.
        output: The folder to write; None takes that of the configs, such as data/Potsdam.
        tile_size: Side of a tile in pixels; None, here and below, takes the dataset's own.
        overlap: Pixels that neighbouring tiles share.
        cutting: Windows as the benchmark cut them, or with overlap.
        labels: Masks without or with the boundaries of objects.
        splits: Parts of a labelled dataset; empty for all.
        off_palette_fraction: Share of a mask that may have unknown colours; they become ignored.
        image_format: File format of crops without labels.
        workers: Processes; None takes one for each core.
        scenes_train: Training scenes to make.
        scenes_val: Validation scenes to make.
        seed: Seed of the scenes.
        notify: Called with a line for each note.

    Returns:
        What was written.

    Raises:
        DataError: When the sources are not the dataset, an option does not fit it, files are damaged, or the output
            holds what must not be replaced.
    """
    given = dict(locals())
    from rsseg_tf.datasets.recipe import Recipe
    from rsseg_tf.datasets.table import dataset_recipe
    from rsseg_tf.prepare.run import PrepareOptions, prepare_dataset

    recipe = dataset if isinstance(dataset, Recipe) else dataset_recipe(dataset)
    names = ("tile_size", "overlap", "cutting", "labels", "off_palette_fraction", "image_format", "workers")
    chosen = {name: given[name] for name in (*names, "scenes_train", "scenes_val", "seed")}
    listener = listener_of(notify)
    with listener.progress(f"Preparing {recipe.name}") as progress:
        options = PrepareOptions(progress=progress, splits=tuple(splits) or None, **chosen)
        folder = recipe.output if output is None else Path(output)
        report = prepare_dataset(recipe, _paths(sources), folder, options)
    _tell(report, listener)
    return report


def prepare_scenes(
    orthos: StrPath | Sequence[StrPath],
    labels: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    stack: Sequence[str] = (),
    stack_resampling: Literal["bilinear", "nearest"] | None = None,
    bands: Sequence[int] = (),
    field: str | None = None,
    layer: str | None = None,
    classes: Sequence[str] = (),
    background: Literal["class", "ignore"] | None = None,
    style: StrPath | None = None,
    touching: Literal["centre", "all"] = "centre",
    split: str = "blocks:0.2",
    buffer: float | None = None,
    block: float | None = None,
    seed: int = 0,
    aoi: StrPath | None = None,
    tile_size: int | None = None,
    overlap: int = 0,
    skip_empty: bool = False,
    workers: int | None = None,
    trains_on: Literal["auto", "cpu", "gpu"] = "auto",
    max_image_mb: int | None = None,
    allow_vrt_sources: bool = False,
    notify: Notify | None = None,
) -> OwnDataReport:
    """Makes tiles and a config from your own scenes and labels, as `rsseg-tf prepare scenes` does, by the same names.

    Args:
        orthos: An image with a place, several, or a folder of them; FILE:VARIABLE; an address.
        labels: Files of polygons or rasters of class values, in any CRS and grid.
        output: The folder to write; its name becomes the dataset's.
        stack: One image of the bands of several files.
        stack_resampling: With `stack`: how bands on other grids are resampled; None for bilinear.
        bands: The bands to read and their order, from 1; empty for all that are not marked alpha.
        field: The field with the class of a polygon; None makes all polygons one class.
        layer: The layer to read, in a file of several.
        classes: Order and names of the classes: `["1=water", "2=road", "*=ignore"]`; empty for every value.
        background: What pixels without a label are; None takes a class for polygons, and ignores them for rasters.
        style: Colours of the classes: a .qml, a GeoPackage with a style, or a raster with a colour table.
        touching: A polygon covers the pixels whose centre lies in it, or all that it touches.
        split: What validates: blocks:SHARE, scene:SHARE, polygons:FILE, field:NAME, or none.
        buffer: Least distance of training and validation tiles in metres; None for an eighth of a tile.
        block: Side of a block in metres; None so that there are about 20.
        seed: Of the draw of blocks or scenes.
        aoi: Polygons outside of which all is ignored.
        tile_size: Side in pixels; None takes 512, 256 or 128, the largest that gives 40 tiles.
        overlap: Pixels that neighbours share.
        skip_empty: Leave tiles out that hold background alone.
        workers: Processes; None takes one for each core.
        trains_on: What the config to train with is written for.
        max_image_mb: Largest image that is decoded, in MiB of its pixels; None for 1024.
        allow_vrt_sources: Follow VRTs and files of other formats to whatever they name.
        notify: Called with a line for each note.

    Returns:
        What was written; `.config` is the config to train with.

    Raises:
        ConfigError: When an option cannot be understood, or has no use.
        DataError: When files are missing, damaged or do not fit each other, or the output cannot be written.
        ExportError: When the extra `vector` is not installed and polygons are read.
    """
    given = dict(locals())
    from rsseg_tf.library.stacking import stacked
    from rsseg_tf.prepare.scenes.run import ScenesOptions
    from rsseg_tf.prepare.scenes.run import prepare_scenes as cut
    from rsseg_tf.rasters.gdal import MAX_IMAGE_BYTES, Trust
    from rsseg_tf.rasters.sources import named_source

    found: list[Source] = [named_source(ortho) for ortho in several(orthos)]
    if (one := stacked(stack, stack_resampling)) is not None:
        found.append(one)
    max_bytes = MAX_IMAGE_BYTES if max_image_mb is None else max_image_mb * 2**20
    trust = Trust(max_bytes, allow_vrt_sources, "If it is sound, allow more with --max_image_mb.")
    names = ("field", "layer", "background", "touching", "split", "seed", "tile_size", "overlap", "skip_empty")
    chosen: dict[str, Any] = {name: given[name] for name in (*names, "workers", "trains_on")}
    chosen |= {name: None if given[name] is None else Path(given[name]) for name in ("style", "aoi")}
    listener = listener_of(notify)
    with listener.progress("Preparing scenes") as progress:
        options = ScenesOptions(
            trust=trust, progress=progress, classes=several(classes), bands=tuple(bands), buffer_m=buffer,
            block_m=block, **chosen,
        )  # fmt: skip
        result = cut(found, _paths(labels), Path(output), options)
    return _noted(result, listener)


def prepare_annotations(
    images: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    labels: StrPath | Sequence[StrPath] = (),
    classes: Sequence[str] = (),
    background: Literal["class", "ignore"] = "class",
    crowd: Literal["class", "ignore"] = "class",
    style: StrPath | None = None,
    val_labels: StrPath | Sequence[StrPath] = (),
    val_share: float = 0.2,
    together: str | None = None,
    seed: int = 0,
    tile_size: int | None = None,
    overlap: int = 0,
    skip_empty: bool = False,
    workers: int | None = None,
    trains_on: Literal["auto", "cpu", "gpu"] = "auto",
    notify: Notify | None = None,
) -> OwnDataReport:
    """Makes id masks and lists from images with polygons, as `rsseg-tf prepare annotations` does, by the same names.

    Args:
        images: Folders of images, or zip files.
        output: The folder to write; its name becomes the dataset's.
        labels: COCO files, or labelme's or ISAT's, or folders of them; empty for the .json files beside the images.
        classes: Order and names of the classes: `["house=building", "*=ignore"]`; empty for every name.
        background: What pixels without an object are.
        crowd: What crowds of COCO are.
        style: Colours of the classes: a .qml, a GeoPackage with a style, or a raster with a colour table.
        val_labels: The annotations of the images that validate; empty for a share of the images.
        val_share: Share of the images that validates.
        together: Regular expression: images in whose names it finds the same stay in one split.
        seed: Of the draw.
        tile_size: Cut the images to tiles of so many pixels; None copies them as they are.
        overlap: Pixels that neighbouring tiles share.
        skip_empty: Leave out images and tiles without an object.
        workers: Processes; None takes one for each core.
        trains_on: What the config to train with is written for.
        notify: Called with a line for each note.

    Returns:
        What was written; `.config` is the config to train with.

    Raises:
        ConfigError: When an option is out of range or has no use.
        DataError: When files are missing, damaged or do not fit each other, or the output cannot be written.
    """
    given = dict(locals())
    from rsseg_tf.prepare.annotations.run import AnnotationsOptions
    from rsseg_tf.prepare.annotations.run import prepare_annotations as draw

    names = ("background", "crowd", "val_share", "together", "seed", "tile_size", "overlap", "skip_empty", "workers")
    chosen = {name: given[name] for name in (*names, "trains_on")}
    listener = listener_of(notify)
    with listener.progress("Preparing annotated images") as progress:
        options = AnnotationsOptions(
            progress=progress,
            classes=several(classes),
            style=None if style is None else Path(style),
            val_labels=_paths(val_labels),
            **chosen,
        )
        result = draw(_paths(images), _paths(labels), Path(output), options)
    return _noted(result, listener)


def _paths(given: StrPath | Sequence[StrPath]) -> tuple[Path, ...]:
    return tuple(Path(one) for one in several(given))


def _noted(result: OwnDataReport, listener: Listener) -> OwnDataReport:
    """Tells the notes of a result, and returns it."""
    for note in result.notes:
        listener.note(note)
    _tell(result.report, listener)
    return result


def _tell(report: PrepareReport, listener: Listener) -> None:
    """Tells what was left out and what was replaced."""
    for line in (report.left_out, report.replaced):
        if line:
            listener.note(f"{line}.")
