"""Prepares a user's own scenes and labels: the function behind `rsseg-tf prepare scenes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from rsseg_tf.datasets.spec import RGB, YX, DatasetSpec, custom_spec
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.files.archives import Member
from rsseg_tf.prepare.output import SPLITS, OwnDataReport, PrepareReport, check_replaceable, read_description
from rsseg_tf.prepare.own_config import TrainsOn, kept_note, own_config_path, write_own_config
from rsseg_tf.prepare.scenes.classes import IGNORED_ID, ClassRules, ClassTable, class_table, nearly_alike
from rsseg_tf.prepare.scenes.colours import Style, names_of, palette_of, read_styles
from rsseg_tf.prepare.scenes.labels import (
    LabelFile,
    Layer,
    PolygonLayer,
    ids_of,
    open_labels,
    place_labels,
    read_labels,
)
from rsseg_tf.prepare.scenes.parts import CACHE_MB, ScenePart, ScenesPlan, cut_part
from rsseg_tf.prepare.scenes.sources import OwnScene, file_stamp, read_scenes
from rsseg_tf.prepare.scenes.splits import (
    DROPPED,
    TRAIN,
    VAL,
    Blocks,
    Ground,
    SplitRule,
    Tiles,
    assign,
    by_field,
    by_polygons,
    tiles_of,
    without_near,
)
from rsseg_tf.prepare.workspace import workspace
from rsseg_tf.rasters.area import area_of_interest, polygons_in_pixels
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.polygon_files import read_area
from rsseg_tf.rasters.scenes import Scene, open_scene, raster_driver
from rsseg_tf.rasters.sources import Source
from rsseg_tf.rasters.windows import Size, Window

__all__ = ["ScenesOptions", "prepare_scenes"]

_SIZES = (512, 256, 128)
_ENOUGH_TILES = 40
_BLOCKS = 20  # about as many blocks, so that a fifth of them can be drawn
_LARGEST_BLOCK = 8  # tiles along its side
_PREVIEW = 2048  # pixels along the longer side of a scene that is searched for places without data
_ALIKE = 1.1  # ratio of pixels' sides up to which they count as the same
_SHOWN = 3


@dataclass(frozen=True)
class ScenesOptions:
    """What a user may choose when preparing scenes of their own.

    Attributes:
        field: Field that holds the class of a polygon; None makes all polygons one class.
        layer: The layer of a file of polygons, where it has several.
        classes: Which values are which classes, see `ClassRules.parse`; without a field, the name of the one class.
        style: A file whose style gives the colours; None takes those of the labels.
        touching: Which pixels a polygon covers: `"centre"`, those whose centre lies in it, or `"all"` that it touches.
        background: `"class"` makes pixels without a label a class, `"ignore"` leaves them out of training. None takes
            the class for polygons, and ignores what a raster of labels does not cover.
        bands: The bands to read and their order, from 1; empty for all that are not alpha.
        aoi: File of polygons outside of which all is ignored.
        split: See `SplitRule.parse`.
        buffer_m: Least distance of training and validation tiles in metres; None takes an eighth of a tile.
        block_m: Side of a block in metres; None takes about twenty blocks, of eight tiles along a side at most.
        seed: Of the draw of blocks or scenes.
        skip_empty: Leave tiles out that hold nothing but background.
        tile_size: Side of a tile in pixels; None takes 512, 256 or 128, the largest that gives forty tiles.
        overlap: Pixels that neighbouring tiles share.
        trains_on: What the config is written for, see `write_own_config`.
        workers: Number of processes; None takes one for each core.
        trust: Limits for files and for the sources of a VRT.
        progress: Called with the number of parts that are done and the number of all.
    """

    field: str | None = None
    layer: str | None = None
    classes: tuple[str, ...] = ()
    style: Path | None = None
    touching: str = "centre"
    background: str | None = None
    bands: tuple[int, ...] = ()
    aoi: Path | None = None
    split: str = "blocks:0.2"
    buffer_m: float | None = None
    block_m: float | None = None
    seed: int = 0
    skip_empty: bool = False
    tile_size: int | None = None
    overlap: int = 0
    trains_on: TrainsOn = "auto"
    workers: int | None = None
    trust: Trust = TRUSTING_NOBODY
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True, eq=False)
class _Labelled:
    """A scene with the labels that lie in it.

    Attributes:
        scene: The scene.
        layers: One entry per file; None for a file that does not touch it.
        background: Id of its pixels that no label covers.
    """

    scene: OwnScene
    layers: tuple[Layer | None, ...]
    background: int

    @property
    def there(self) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer is not None)


def prepare_scenes(
    scenes: Sequence[Source], labels: Sequence[Path], output: Path, options: ScenesOptions | None = None
) -> OwnDataReport:
    """Cuts scenes and their labels into tiles for training and validation.

    Labels belong to the scenes on whose ground they lie, whatever their files are called; where several cover a pixel,
    the last one counts. Equal files and options give equal bytes.

    Args:
        scenes: Images with a place, and folders of such; a stack is one (see `rasters.sources`).
        labels: Files of polygons or rasters of class values.
        output: The folder to appear; see `rsseg_tf.prepare.output` for what it holds.
        options: What the user chose.

    Raises:
        ConfigError: When an option cannot be understood, or has no use.
        DataError: When files are missing, damaged or do not fit each other, or the output cannot be written.
        ExportError: When the extra `vector` is not installed and polygons are read.
    """
    options = options or ScenesOptions()
    rule, rules = SplitRule.parse(options.split), ClassRules.parse(options.classes)
    check_replaceable(output)  # before minutes of work
    with rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        found = read_scenes(scenes, labels, options.trust, options.bands)
        extra = (rule.name,) if rule.kind == "field" else ()
        files = read_labels(
            labels, field=options.field, layer=options.layer, single=_single(rules, options), trust=options.trust,
            extra=extra,
        )  # fmt: skip
        style, unused = read_styles([file.path for file in files], options.layer, options.style)
        table = _table(files, rules, style, options)
        labelled, left_out = _pair(found, files, table, options)
        notes = [*unused, *left_out, *_notes_on_classes(table, files, rules, options)]
        tile = options.tile_size or _usual_tile([one.scene.size for one in labelled])
        if not 0 <= options.overlap < tile:
            raise ConfigError(f"--overlap is {options.overlap} for tiles of {tile}; it must lie in 0..{tile - 1}.")
        plan = _plan(table, palette_of(style, table), options)
        split = _split(labelled, files, rule, tile, plan, options)
        parts = _parts(labelled, files, split, options)
    spec = _spec(output, labelled, plan)
    facts = _facts(tile, split, rule, plan, options)
    splits = ("train",) if rule.kind == "none" else SPLITS
    there = own_config_path(output)
    before = there.read_bytes() if there.is_file() else None
    with workspace(output, spec) as work:
        report = work.prepare(
            parts, plan, facts, cut=cut_part, splits=splits, workers=options.workers, progress=options.progress
        )
    config = _write_config(report, spec, labelled, plan, options)
    if config is None:
        notes.append("No config is written, because training needs validation tiles; --split none leaves none.")
    elif not report.up_to_date and (kept := kept_note(config, before)):
        notes.append(f"{kept}.")
    return OwnDataReport(report, config, tuple(notes))


def _write_config(
    report: PrepareReport, spec: DatasetSpec, labelled: Sequence[_Labelled], plan: ScenesPlan, options: ScenesOptions
) -> Path | None:
    """Writes the config of the finished folder, unless nothing changed or there is nothing to validate on."""
    if "val" not in report.splits:
        return None
    there = own_config_path(report.output)
    # The description gets the mean of the tiles with the config; a kill may have come before either.
    described = read_description(report.output / "dataset.json")["mean"] != list(spec.mean)
    if report.up_to_date and there.is_file() and described:
        return there
    return write_own_config(
        report.output,
        classes=plan.classes,
        palette=plan.palette,
        ignore_index=IGNORED_ID,
        ignore_background=plan.background == IGNORED_ID,
        ground_resolution=_ground_resolution(labelled),
        trains_on=options.trains_on,
        trust=options.trust,
        workers=options.workers,
    )


# === Classes ===


def _single(rules: ClassRules, options: ScenesOptions) -> str:
    """Returns the value of all polygons where no field tells classes apart."""
    if options.field is not None:
        return ""
    return rules.names[0][0] if rules.names else "object"


def _table(files: Sequence[LabelFile], rules: ClassRules, style: Style, options: ScenesOptions) -> ClassTable:
    drawn = [file for file in files if file.features is not None]
    if options.field is None and len(rules.names) > 1 and len(drawn) == len(files):
        raise ConfigError(
            f"--classes names {', '.join(name for _, name in rules.names)}, and without --field all polygons are one "
            "class. Name the field that tells classes apart, e.g. --field class, or one class alone."
        )
    if options.field is not None and not drawn:
        raise ConfigError(f"--field {options.field} has no use: the labels are rasters. Leave it out.")
    background = options.background == "class" or (options.background is None and bool(drawn))
    if options.skip_empty and not background:
        raise ConfigError(
            "--skip_empty has no use where the background is ignored: tiles without a label are left out anyway."
        )
    where = ", ".join(str(file.path) for file in files)
    if options.field:
        where = f"the field '{options.field}' of {where}"
    values = sorted({value for file in files for value in file.values})
    return class_table(values, rules, background=background, where=where, names=names_of(style, values))


def _notes_on_classes(
    table: ClassTable, files: Sequence[LabelFile], rules: ClassRules, options: ScenesOptions
) -> list[str]:
    """Returns notes on what a user may not have meant."""
    notes = [f"{note}." for note in nearly_alike(table.names)]
    if options.field is None and not rules.names and any(file.features is not None for file in files):
        notes.append("All polygons are one class, 'object'. --field tells classes apart; --classes NAME names the one.")
    empty = sum(value is None for file in files if file.features is not None for value in file.classes)
    if empty:
        notes.append(f"{empty} feature{'s' if empty > 1 else ''} without a class; their pixels are ignored.")
    return notes


def _spec(output: Path, labelled: Sequence[_Labelled], plan: ScenesPlan) -> DatasetSpec:
    first = labelled[0].scene
    dtype = np.dtype(first.dtype)
    names = first.descriptions if all(first.descriptions) and len(set(first.descriptions)) == len(first.bands) else ()
    return custom_spec(
        output.absolute().name,
        plan.classes,
        plan.palette,
        bands=len(first.bands),
        max_value=float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0,
        band_names=names,
        gsd=_ground_resolution(labelled),
        tile_names=YX,
    )


def _ground_resolution(labelled: Sequence[_Labelled]) -> float | None:
    """Returns the side of the pixels in metres, if all scenes have the same."""
    sides = [side for one in labelled for side in one.scene.ground]
    return round(math.fsum(sides) / len(sides), 6) if max(sides) < _ALIKE * min(sides) else None


def _plan(table: ClassTable, palette: tuple[RGB, ...], options: ScenesOptions) -> ScenesPlan:
    return ScenesPlan(
        names=YX,
        classes=table.names,
        palette=palette,
        background=table.background,
        skip=(table.background,) if options.skip_empty else (),
        touching=options.touching,
        aoi=None if options.aoi is None else str(options.aoi),
        trust=options.trust,
    )


# === Pairing ===


def _pair(
    scenes: Sequence[OwnScene], files: Sequence[LabelFile], table: ClassTable, options: ScenesOptions
) -> tuple[list[_Labelled], list[str]]:
    """Finds the labels of each scene; returns the scenes that have some, and notes on what is left out."""
    labelled, unlabelled, outside = [], [], []
    ids = [ids_of(file, table) for file in files]
    for one in scenes:
        with open_scene(one.path, one.bands, trust=options.trust) as scene:
            layers = tuple(place_labels(file, own, scene) for file, own in zip(files, ids, strict=True))
            if all(layer is None for layer in layers):
                unlabelled.append(one)
            elif options.aoi is not None and area_of_interest(options.aoi, scene) is None:
                outside.append(one)
            else:
                # What a raster of labels leaves out was not labelled; what polygons leave out is background.
                drawn = any(isinstance(layer, PolygonLayer) for layer in layers)
                uncovered = table.background if drawn or options.background == "class" else IGNORED_ID
                labelled.append(_Labelled(one, layers, uncovered))
    if not labelled and not outside:
        raise DataError(
            f"{scenes[0].path} and {files[0].path} do not overlap: the scene covers {_cover(scenes[0])}, where no "
            "label lies. Check the CRS of both, and that they belong together."
        )
    if not labelled:
        raise DataError(
            f"{options.aoi} and {outside[0].path} do not overlap: no polygon of --aoi lies in the scene, which covers "
            f"{_cover(outside[0])}. Check the CRS of both."
        )
    unused = [file for number, file in enumerate(files) if all(one.layers[number] is None for one in labelled)]
    notes = _reading_notes([one.scene for one in labelled])
    if unlabelled:
        notes.append(f"Left out, because no label lies there: {_names([one.path for one in unlabelled])}.")
    if outside:
        notes.append(f"Left out, because --aoi does not touch them: {_names([one.path for one in outside])}.")
    if unused:
        notes.append(f"Labels that lie in no scene: {_names([file.path for file in unused])}.")
    lines = sum(file.features.others for file in files if file.features is not None)
    if lines:
        notes.append(f"{lines} feature{'s' if lines > 1 else ''} without a polygon (points or lines) left out.")
    return labelled, notes


def _reading_notes(scenes: Sequence[OwnScene]) -> list[str]:
    """Returns a sentence for each note on how scenes are read, with those that share it."""
    found: dict[str, list[Source]] = {}
    for one in scenes:
        for note in one.notes:
            found.setdefault(note, []).append(one.path)
    return [f"{_names(paths)}: {note}." for note, paths in found.items()]


def _cover(scene: OwnScene) -> str:
    height, width = scene.size
    t = scene.transform
    x = [t.a * column + t.b * row + t.c for column in (0, width) for row in (0, height)]
    y = [t.d * column + t.e * row + t.f for column in (0, width) for row in (0, height)]
    return f"{min(x):.7g}..{max(x):.7g}, {min(y):.7g}..{max(y):.7g} in {scene.crs.to_string()[:40]}"


def _names(paths: Sequence[Source]) -> str:
    more = len(paths) - _SHOWN
    return ", ".join(map(str, paths[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


# === Splitting ===


@dataclass(frozen=True, eq=False)
class _Split:
    """The tiles of each scene and what becomes of them."""

    tiles: list[Tiles]
    codes: list[NDArray[np.int64]]
    blocks: Blocks | None
    buffer_m: float


def _usual_tile(sizes: Sequence[Size]) -> int:
    pixels = sum(size.pixels for size in sizes)
    return next((side for side in _SIZES if pixels >= _ENOUGH_TILES * side * side), _SIZES[-1])


def _split(
    labelled: Sequence[_Labelled],
    files: Sequence[LabelFile],
    rule: SplitRule,
    tile: int,
    plan: ScenesPlan,
    options: ScenesOptions,
) -> _Split:
    scenes = [one.scene for one in labelled]
    ground = Ground(scenes)
    least = ground.least_side(scenes)
    buffer_m = tile / 8 * least if options.buffer_m is None else options.buffer_m
    margin = 2 * math.ceil(buffer_m / least / 2 - 1e-9)
    blocks = None
    if rule.kind == "blocks":
        blocks = _blocks(scenes, tile, margin, min(scenes[0].ground), options)
    elif options.block_m is not None:
        raise ConfigError(f"--block has no use with --split {options.split}. Leave it out.")
    tiles = [tiles_of(scene, ground, tile, options.overlap, blocks) for scene in scenes]
    if rule.kind == "polygons":
        codes = [
            by_polygons(one.scene, own, _areas(Path(rule.name), one.scene, options), buffer_m)
            for one, own in zip(labelled, tiles, strict=True)
        ]
        codes = without_near(codes, tiles, margin)  # of the other scenes, too
    elif rule.kind == "field":
        codes = without_near([_field_codes(one, files, own, rule) for one, own in zip(labelled, tiles, strict=True)],
                             tiles, margin)  # fmt: skip
    else:
        counts = [_survey(one, own, plan) for one, own in zip(labelled, tiles, strict=True)]
        codes = assign(rule, tiles, counts, blocks=blocks, margin=margin, seed=options.seed)
    _check_split(rule, codes, tile)
    return _Split(tiles, codes, blocks, buffer_m)


def _blocks(scenes: Sequence[OwnScene], tile: int, margin: int, metres: float, options: ScenesOptions) -> Blocks:
    step = tile - options.overlap
    count = sum(scene.size.pixels for scene in scenes) / step**2
    along = min(max(round(math.sqrt(count / _BLOCKS)), 1), _LARGEST_BLOCK)
    period = (along - 1) * step + tile + margin
    if options.block_m is not None:
        period = round(options.block_m / metres)
        if period < tile + margin:
            raise ConfigError(
                f"--block {options.block_m:g} is {period} pixels; a tile of {tile} and the buffer of {margin} pixels "
                f"need {(tile + margin) * metres:.6g} metres at least."
            )
    return Blocks(period, margin)


def _areas(path: Path, own: OwnScene, options: ScenesOptions) -> NDArray[np.object_] | None:
    area = read_area(path)
    with open_scene(own.path, own.bands, trust=options.trust) as scene:
        found = polygons_in_pixels(path, area.polygons, area.crs, scene)
    if found is None:
        raise DataError(f"{path} holds polygons near {own.path} that have no place in its CRS. Cut them first.")
    return found[0]


def _field_codes(one: _Labelled, files: Sequence[LabelFile], tiles: Tiles, rule: SplitRule) -> NDArray[np.int64]:
    train, val = np.zeros(len(tiles.places), bool), np.zeros(len(tiles.places), bool)
    for file, layer in zip(files, one.layers, strict=True):
        if file.features is None or not isinstance(layer, PolygonLayer):
            continue
        values = file.features.fields[rule.name]
        more_train, more_val = by_field(file.path, rule.name, values, file.features.features, tiles, layer)
        train, val = train | more_train, val | more_val
    return np.where(train & val, DROPPED, np.where(val, VAL, TRAIN))


def _check_split(rule: SplitRule, codes: Sequence[NDArray[np.int64]], tile: int) -> None:
    every = np.concatenate(codes)
    for name, code in (("training", TRAIN), ("validation", VAL)):
        if rule.kind != "none" and not (every == code).any():
            raise DataError(
                f"--split {rule.kind} leaves no tile of {tile} pixels for {name}, with the buffer between the two. "
                "Choose smaller tiles (--tile_size), a smaller --buffer or another --split."
            )


def _survey(one: _Labelled, tiles: Tiles, plan: ScenesPlan) -> NDArray[np.int64]:
    """Counts the labelled pixels of each class in each tile, `(N, C)`; where there are no data by a preview."""
    counts = np.zeros((len(tiles.places), len(plan.classes)), np.int64)
    aoi = None if plan.aoi is None else Path(plan.aoi)
    with (
        open_scene(one.scene.path, one.scene.bands, trust=plan.trust) as scene,
        open_labels(scene, one.there, background=one.background, touching=plan.touching, aoi=aoi) as labels,
    ):
        absent, scale = _preview(scene, one.scene)
        for row, (y0, x0, y1, x1) in enumerate(tiles.places.tolist()):
            window = Window(y0, x0, min(y1, scene.size.height), min(x1, scene.size.width))
            ids = labels(window)
            if absent is not None:
                down = np.minimum((np.arange(window.y0, window.y1) * scale).astype(np.int64), absent.shape[0] - 1)
                right = np.minimum((np.arange(window.x0, window.x1) * scale).astype(np.int64), absent.shape[1] - 1)
                ids[absent[np.ix_(down, right)]] = IGNORED_ID
            found = np.bincount(ids.ravel(), minlength=256)[: len(plan.classes)]
            if set(np.flatnonzero(found).tolist()) - set(plan.skip):
                counts[row] = found
    return counts


def _preview(scene: Scene, own: OwnScene) -> tuple[NDArray[np.bool_] | None, float]:
    """Returns where a reduced scene has no data, and by how much it is reduced."""
    if not own.may_lack_data:
        return None, 1.0
    scale = min(1.0, _PREVIEW / max(scene.size))
    return scene.read(size=scene.size.scaled(scale, scale))[1], scale


# === Parts ===


def _parts(
    labelled: Sequence[_Labelled], files: Sequence[LabelFile], split: _Split, options: ScenesOptions
) -> list[ScenePart]:
    """Makes a part of each row of tiles of a scene and split."""
    beside = [file.stamp for file in files] + ([] if options.aoi is None else [file_stamp([options.aoi])])
    parts = []
    for one, tiles, codes in zip(labelled, split.tiles, split.codes, strict=True):
        scene = one.scene
        stamp = " ".join([scene.stamp, *beside, *map(str, options.bands)])
        itemsize = np.dtype(scene.dtype).itemsize * len(scene.bands)
        for code, name in ((TRAIN, "train"), (VAL, "val")):
            # A PNG or JPEG is decoded as a whole, so that it is one part.
            whole = isinstance(scene.path, Path) and raster_driver(scene.path) is None
            tops = np.zeros(len(codes), np.int64) if whole else tiles.places[:, 0]
            for number, top in enumerate(np.unique(tops)):
                rows = np.flatnonzero((codes == code) & (tops == top))
                if not len(rows):
                    continue
                places = tiles.places[rows]
                y0, x0 = places[:, :2].min(axis=0).tolist()
                y1, x1 = places[:, 2:].max(axis=0).tolist()
                box = (float(x0), float(y0), float(x1), float(y1))
                layers = tuple(layer.near(box) if isinstance(layer, PolygonLayer) else layer for layer in one.there)
                size = int((places[:, 2] - places[:, 0]) @ (places[:, 3] - places[:, 1])) * itemsize
                parts.append(
                    ScenePart(
                        split=name,
                        stem=f"{scene.stem} row {number}",
                        image=Member(scene.path.name, Path(scene.path.name), (), size, 0),
                        raster=scene.path,
                        bands=scene.bands,
                        mask=None,
                        scene=scene.stem,
                        stamp=stamp,
                        places=tuple(Window(*place) for place in places.tolist()),
                        own=tuple((down, right) for down, right in tiles.own[rows].tolist()),
                        layers=layers,
                        nodata=scene.nodata,
                        background=one.background,
                    )
                )
    return parts


def _facts(tile: int, split: _Split, rule: SplitRule, plan: ScenesPlan, options: ScenesOptions) -> dict[str, object]:
    """Returns the entries of `dataset.json` that tell how the scenes were cut."""
    codes = np.concatenate(split.codes)
    return {
        "tile_size": tile,
        "overlap": options.overlap,
        "split": options.split,
        **({} if rule.kind == "none" else {"buffer_m": round(split.buffer_m, 6)}),
        **({} if split.blocks is None else {"block_pixels": split.blocks.period, "seed": options.seed}),
        "tiles_dropped_by_split": int((codes == DROPPED).sum()),
        "touching": options.touching,
        "skip_empty": options.skip_empty,
        "background": "ignore" if plan.background == IGNORED_ID else "class",
    }
