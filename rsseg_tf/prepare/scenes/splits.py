"""Which tiles train and which validate: by blocks on the ground, scenes, polygons, or a field of the labels.

All scenes are compared on one ground, the pixels of the first of them: two scenes of one place, of two years for
example, must not give a training tile and a validation tile of the same houses.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.disjoint_sets import DisjointSets
from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.extras import require
from rsseg_tf.prepare.scenes.labels import PolygonLayer
from rsseg_tf.prepare.scenes.sources import OwnScene
from rsseg_tf.rasters.ground import least_sides, move, transformed

__all__ = [
    "DROPPED",
    "TRAIN",
    "VAL",
    "Blocks",
    "Ground",
    "SplitRule",
    "Tiles",
    "assign",
    "by_field",
    "by_polygons",
    "tiles_of",
    "without_near",
]

DROPPED, TRAIN, VAL = 0, 1, 2
"""What becomes of a tile."""

Kind = Literal["blocks", "scene", "polygons", "field", "none"]
Key = TypeVar("Key", bound=Hashable)

_FORMS = "blocks:0.2, scene:0.2, polygons:FILE, field:NAME or none"
_TRAIN_WORDS = ("train", "training")
_VAL_WORDS = ("val", "valid", "validation")
_NEAR = 0.01  # pixels, by which rounding may move an edge
_DRAWS = 200
_SHOWN = 5


@dataclass(frozen=True)
class SplitRule:
    """How tiles are split.

    Attributes:
        kind: What decides: blocks on the ground, scenes, polygons of a file, a field of the labels, or nothing, where
            all tiles train.
        fraction: Share of the tiles that validate, for blocks and scenes.
        name: The file or the field.
    """

    kind: Kind
    fraction: float = 0.0
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> SplitRule:
        """Reads `blocks:0.2`, `scene:0.2`, `polygons:FILE`, `field:NAME` or `none`.

        Raises:
            ConfigError: When it is none of these.
        """
        kind, _, value = text.partition(":")
        if text == "none":
            return cls("none")
        if kind in ("blocks", "scene"):
            try:
                fraction = float(value)
            except ValueError:
                fraction = math.nan
            if not 0 < fraction < 1:
                raise ConfigError(
                    f"--split {text}: the share that validates must lie between 0 and 1, as in {kind}:0.2."
                )
            return cls("blocks" if kind == "blocks" else "scene", fraction)
        if kind in ("polygons", "field") and value:
            return cls("polygons" if kind == "polygons" else "field", name=value)
        raise ConfigError(f"--split is '{text}'; {_FORMS} is expected.")


@dataclass(frozen=True)
class Blocks:
    """A grid of square blocks on the ground, in pixels of the first scene.

    Attributes:
        period: Distance from one block to the next.
        margin: Least distance between tiles of different blocks.
    """

    period: int
    margin: int


@dataclass(frozen=True, eq=False)
class Tiles:
    """The tiles of a scene.

    Attributes:
        places: `(N, 4)` int64: y0, x0, y1, x1 of each tile in pixels of the scene, row by row.
        own: `(N, 2)` int64: rows and columns from the start of a tile to the start of the next one, or to its end.
        boxes: `(N, 4)` float64: left, top, right, bottom of each tile on the common ground.
        ground: Number of the ground that these are in; scenes on different grounds share no place.
    """

    places: NDArray[np.int64]
    own: NDArray[np.int64]
    boxes: NDArray[np.float64]
    ground: int


class Ground:
    """Brings the pixels of all scenes to those of the first one, or of the first one near them."""

    def __init__(self, scenes: Sequence[OwnScene]) -> None:
        self._anchors: list[OwnScene] = []
        self._of: dict[str, int] = {}
        for scene in scenes:
            height, width = scene.size
            corners = np.array([(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)])
            for number, anchor in enumerate(self._anchors):
                if np.isfinite(_between(corners, scene, anchor)).all():
                    self._of[scene.stem] = number
                    break
            else:
                self._anchors.append(scene)
                self._of[scene.stem] = len(self._anchors) - 1

    def number(self, scene: OwnScene) -> int:
        """Returns which ground a scene lies on."""
        return self._of[scene.stem]

    def points(self, points: NDArray[np.float64], scene: OwnScene) -> NDArray[np.float64]:
        """Returns `(n, 2)` points in pixels of a scene as points of its ground."""
        return _between(points, scene, self._anchors[self.number(scene)])

    def least_side(self, scenes: Sequence[OwnScene]) -> float:
        """Returns the shortest side in metres that a pixel of the ground has in any of the scenes.

        A distance in pixels of this length is nowhere shorter than it should be, however far apart scenes lie.
        """
        sides = [math.inf]
        for scene in scenes:
            anchor = self._anchors[self.number(scene)]
            sides += least_sides(self.points(_spread(scene), scene), anchor.transform, anchor.crs)
        return min(sides)

    def boxes(self, places: NDArray[np.int64], scene: OwnScene) -> NDArray[np.float64]:
        """Returns the boxes on the ground around `(n, 4)` windows of a scene."""
        y0, x0, y1, x1 = np.minimum(places, [*scene.size, *scene.size]).astype(np.float64).T
        yc, xc = (y0 + y1) / 2, (x0 + x1) / 2  # edges that are curved on the ground bulge in the middle
        rim = [(x0, y0), (xc, y0), (x1, y0), (x1, yc), (x1, y1), (xc, y1), (x0, y1), (x0, yc)]
        moved = self.points(np.concatenate([np.stack(pair, axis=1) for pair in rim]), scene)
        moved = moved.reshape(len(rim), len(places), 2)
        return np.concatenate([moved.min(axis=0), moved.max(axis=0)], axis=1)


def _spread(scene: OwnScene) -> NDArray[np.float64]:
    """Returns the corners of a scene, the middles of its sides, and its middle, in its pixels."""
    columns, rows = np.meshgrid(np.linspace(0, scene.size.width, 3), np.linspace(0, scene.size.height, 3))
    return np.stack([columns.ravel(), rows.ravel()], axis=1)


def _between(points: NDArray[np.float64], scene: OwnScene, anchor: OwnScene) -> NDArray[np.float64]:
    if scene is anchor:
        return points
    placed = move(points, scene.transform)
    if scene.crs != anchor.crs:
        placed = transformed(placed, scene.crs, anchor.crs)
    return move(placed, ~anchor.transform)


# === Where tiles lie ===


def tiles_of(scene: OwnScene, ground: Ground, tile: int, overlap: int, blocks: Blocks | None) -> Tiles:
    """Lays the tiles of a scene: in a row from its corner, or block by block.

    Args:
        scene: The scene.
        ground: The ground of all scenes.
        tile: Side of a tile in pixels.
        overlap: Pixels that neighbours share.
        blocks: The blocks; tiles keep to one block where the scene's grid allows. None for none.
    """
    axes = []
    for axis, size in enumerate(scene.size):
        spans = None if blocks is None else _spans(scene, ground, blocks, axis)
        axes.append(_starts(size, tile, tile - overlap, spans))
    places = [(y0, x0, y0 + tile, x0 + tile) for y0 in axes[0] for x0 in axes[1]]
    steps = [np.append(np.minimum(np.diff(starts), tile), tile) for starts in axes]
    own = [(down, right) for down in steps[0] for right in steps[1]]
    windows = np.array(places, np.int64).reshape(-1, 4)
    return Tiles(windows, np.array(own, np.int64).reshape(-1, 2), ground.boxes(windows, scene), ground.number(scene))


def _spans(scene: OwnScene, ground: Ground, blocks: Blocks, axis: int) -> list[tuple[int, int]] | None:
    """Returns the pixels of a scene's rows (axis 0) or columns that each block covers, without its margin.

    None where the scene lies askew on the ground, so that no row or column of it keeps to a block.
    """
    height, width = scene.size
    points = np.array([(0.0, 0.0), (width, 0.0), (0.0, height), (width, height), (width / 2, height / 2)])
    origin, right, down, corner, middle = ground.points(points, scene)
    scale = np.array([(right[0] - origin[0]) / width, (down[1] - origin[1]) / height])
    straight = origin + points * scale
    if not (scale > 0).all() or np.abs(np.array([origin, right, down, corner, middle]) - straight).max() > _NEAR:
        return None
    size, first, step = scene.size[axis], origin[1 - axis], scale[1 - axis]
    half, spans = blocks.margin / 2, []
    for number in range(
        math.floor((first + half) / blocks.period), math.ceil((first + half + size * step) / blocks.period)
    ):
        # Blocks begin half a margin before the corner of the first scene, whose first tile so begins at its corner.
        start, end = number * blocks.period, (number + 1) * blocks.period - blocks.margin
        span = math.ceil((start - first) / step - _NEAR), math.floor((end - first) / step + _NEAR)
        spans.append((max(span[0], 0), min(span[1], size)))
    return spans


def _starts(size: int, tile: int, step: int, spans: list[tuple[int, int]] | None) -> list[int]:
    """Returns the first pixels of the tiles along an axis; the last one is shifted back to end with the scene."""
    if size <= tile:
        return [0]
    starts: set[int] = set()
    for start, end in spans or [(0, size)]:
        if end - start >= tile:
            starts |= {*range(start, end - tile, step), end - tile}
    if not starts or max(starts) + tile < size:
        starts.add(size - tile)
    return sorted(starts)


# === What becomes of them ===


def assign(
    rule: SplitRule,
    tiles: Sequence[Tiles],
    counts: Sequence[NDArray[np.int64]],
    *,
    blocks: Blocks | None,
    margin: float,
    seed: int,
) -> list[NDArray[np.int64]]:
    """Decides for blocks and scenes which tiles train and which validate; tiles near both are dropped.

    Of many random draws the one is taken whose classes are split most evenly.

    Args:
        rule: The rule.
        tiles: The tiles of each scene.
        counts: `(N, C)` pixels of each class in each tile of a scene; tiles of zeros do not count.
        blocks: The blocks, for the rule `blocks`.
        margin: Least distance of validation tiles and training tiles, in pixels of the ground.
        seed: Of the draws.

    Returns:
        `DROPPED`, `TRAIN` or `VAL` for each tile of each scene.

    Raises:
        DataError: When there is nothing to split.
    """
    if rule.kind == "none":
        return [np.full(len(one.places), TRAIN) for one in tiles]
    if rule.kind == "blocks" and blocks is not None:
        return _by_blocks(rule.fraction, tiles, counts, blocks, seed)
    return _by_scenes(rule.fraction, tiles, counts, margin, seed)


def _by_blocks(
    fraction: float, tiles: Sequence[Tiles], counts: Sequence[NDArray[np.int64]], blocks: Blocks, seed: int
) -> list[NDArray[np.int64]]:
    half = blocks.margin / 2
    touched = []  # for each scene the first and last block of each tile, with the margin around it
    content: dict[tuple[int, int, int], NDArray[np.int64]] = {}
    for one, count in zip(tiles, counts, strict=True):
        grown = one.boxes + (-half, -half, half, half) + half  # blocks begin half a margin before the corner
        first = np.floor((grown[:, :2] + _NEAR) / blocks.period).astype(np.int64)
        last = np.ceil((grown[:, 2:] - _NEAR) / blocks.period).astype(np.int64) - 1
        touched.append((first, last))
        for row in np.flatnonzero((first == last).all(axis=1) & (count.sum(axis=1) > 0)):
            key = one.ground, int(first[row, 1]), int(first[row, 0])
            entry = np.append(count[row], 1)
            content[key] = content[key] + entry if key in content else entry
    if len(content) < 2:
        raise DataError(
            f"The labelled ground holds {len(content)} block{'s' if len(content) != 1 else ''} of tiles, and a split "
            "needs two at least. Choose smaller tiles (--tile_size), a smaller --buffer or --block, or another --split."
        )
    chosen = _draw(content, fraction, seed)
    result = []
    for one, (first, last) in zip(tiles, touched, strict=True):
        codes = np.zeros(len(one.places), np.int64)
        for number in range(len(one.places)):
            ranges = [range(int(first[number, axis]), int(last[number, axis]) + 1) for axis in (1, 0)]
            states = {(one.ground, down, right) in chosen for down, right in itertools.product(*ranges)}
            codes[number] = DROPPED if len(states) > 1 else VAL if states == {True} else TRAIN
        result.append(codes)
    return result


def _by_scenes(
    fraction: float, tiles: Sequence[Tiles], counts: Sequence[NDArray[np.int64]], margin: float, seed: int
) -> list[NDArray[np.int64]]:
    places = _places(tiles, margin)
    content: dict[int, NDArray[np.int64]] = {}
    for place, count in zip(places, counts, strict=True):
        if count.any():
            entry = np.append(count.sum(axis=0), (count.sum(axis=1) > 0).sum())
            content[place] = content[place] + entry if place in content else entry
    if len(content) < 2:
        raise DataError(
            "--split scene needs two places at least, and the labelled scenes share one. Take --split "
            f"blocks:{fraction:g}."
        )
    chosen = _draw(content, fraction, seed)
    return [
        np.full(len(one.places), VAL if place in chosen else TRAIN) for place, one in zip(places, tiles, strict=True)
    ]


def _places(tiles: Sequence[Tiles], margin: float) -> list[int]:
    """Returns the number of the place of each scene; scenes nearer than a distance have the same."""
    sets = DisjointSets()
    boxes = np.array([np.append(one.boxes[:, :2].min(axis=0), one.boxes[:, 2:].max(axis=0)) for one in tiles])
    grounds = np.array([one.ground for one in tiles])
    for number, box in enumerate(boxes):
        left, top, right, bottom = box + (-margin, -margin, margin, margin)
        near = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
        for other in np.flatnonzero(near[:number] & (grounds[:number] == grounds[number])).tolist():
            if sets.root(number) != sets.root(other):
                sets.join(sets.root(number), sets.root(other))
    return [sets.root(number) for number in range(len(tiles))]


def _draw(content: Mapping[Key, NDArray[np.int64]], fraction: float, seed: int) -> frozenset[Key]:
    """Draws blocks or scenes until they hold a share of the tiles; takes the draw that splits the classes best.

    Args:
        content: For each, the pixels of each class and, last, the number of tiles.
        fraction: The share of tiles.
        seed: Of the draws.
    """
    keys = sorted(content, key=repr)
    table = np.array([content[key] for key in keys], np.float64)
    total = table.sum(axis=0)
    present = total > 0
    best: tuple[float, list[int]] | None = None
    for draw in range(_DRAWS):
        # By a digest, which is the same in each version of NumPy.
        marks = [hashlib.blake2b(f"{seed} {draw} {key!r}".encode(), digest_size=8).digest() for key in keys]
        order = sorted(range(len(keys)), key=marks.__getitem__)
        sums = np.cumsum(table[order, -1]) / total[-1]
        size = int(np.argmin(np.abs(sums[:-1] - fraction))) + 1
        share = (table[order[:size]].sum(axis=0) / np.maximum(total, 1))[present]
        # A class that one of the two lacks weighs as much as all else.
        score = float(np.abs(share - fraction).mean()) + float(((share <= 0) | (share >= 1)).sum())
        if best is None or score < best[0] - 1e-12:
            best = score, order[:size]
    return frozenset(keys[row] for row in (best or (0.0, []))[1])


def by_polygons(scene: OwnScene, tiles: Tiles, areas: NDArray[np.object_] | None, margin_m: float) -> NDArray[np.int64]:
    """Decides by areas for validation: tiles inside validate, those outside train, those near an edge are dropped.

    Args:
        scene: The scene.
        tiles: Its tiles.
        areas: Polygons in pixels of the scene; None if none touches it.
        margin_m: Least distance of validation tiles and training tiles, in metres.
    """
    if areas is None or not len(areas):
        return np.full(len(tiles.places), TRAIN)
    shapely = require("shapely", "vector")
    area = shapely.union_all(shapely.make_valid(areas))
    shapely.prepare(area)
    down, right = (margin_m / side / 2 for side in least_sides(_spread(scene), scene.transform, scene.crs))
    y0, x0, y1, x1 = np.minimum(tiles.places, [*scene.size, *scene.size]).astype(np.float64).T
    grown = shapely.box(x0 - right + _NEAR, y0 - down + _NEAR, x1 + right - _NEAR, y1 + down - _NEAR)
    near = shapely.intersects(area, grown)
    return np.where(shapely.covers(area, grown), VAL, np.where(near, DROPPED, TRAIN))


def by_field(
    path: Path, field: str, values: Sequence[object], owners: NDArray[np.int64], tiles: Tiles, layer: PolygonLayer
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Finds the tiles with polygons that a field of the labels sends to training, and those it sends to validation.

    Args:
        path: The file of labels, for errors.
        field: The field, which says `train` or `val`.
        values: Its value for each feature; a feature without one decides nothing.
        owners: `(P,)` the feature of each polygon of the file.
        tiles: The tiles of a scene.
        layer: The polygons in pixels of the scene.

    Returns:
        Two arrays `(N,)`: tiles that touch polygons for training, and for validation.

    Raises:
        DataError: When the field holds another value.
    """
    said = ["" if value is None else str(value).strip().lower() for value in values]
    wrong = sorted({word for word in said if word and word not in (*_TRAIN_WORDS, *_VAL_WORDS)})
    if wrong:
        raise DataError(
            f"{path}: the field '{field}' holds {', '.join(map(repr, wrong[:_SHOWN]))}; train or val is expected. "
            "Fill a field with these words."
        )
    shapely = require("shapely", "vector")
    y0, x0, y1, x1 = tiles.places.astype(np.float64).T
    rows, found = shapely.STRtree(layer.polygons).query(shapely.box(x0, y0, x1, y1), predicate="intersects")
    owner = owners[layer.rows[found]]
    touched = []
    for words in (_TRAIN_WORDS, _VAL_WORDS):
        has = np.zeros(len(tiles.places), bool)
        has[rows[np.array([word in words for word in said])[owner]]] = True
        touched.append(has)
    return touched[0], touched[1]


def without_near(codes: Sequence[NDArray[np.int64]], tiles: Sequence[Tiles], margin: float) -> list[NDArray[np.int64]]:
    """Drops the training tiles that lie within a distance of a validation tile, in pixels of the ground."""
    validating: dict[int, list[NDArray[np.float64]]] = {}
    for code, one in zip(codes, tiles, strict=True):
        validating.setdefault(one.ground, []).append(one.boxes[code == VAL])
    result = []
    for code, one in zip(codes, tiles, strict=True):
        others = np.concatenate(validating[one.ground])
        near = _touching(one.boxes + (-margin, -margin, margin, margin), others)
        result.append(np.where((code == TRAIN) & near, DROPPED, code))
    return result


def _touching(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns which boxes overlap another one by more than rounding."""
    found = np.zeros(len(boxes), bool)
    if not len(others):
        return found
    order = np.argsort(others[:, 1], kind="stable")
    others = others[order]
    tallest = float((others[:, 3] - others[:, 1]).max())
    # Only others whose top lies within reach are compared.
    first = np.searchsorted(others[:, 1], boxes[:, 1] - tallest)
    last = np.searchsorted(others[:, 1], boxes[:, 3])
    for row, (left, top, right, bottom) in enumerate(boxes):
        near = others[first[row] : last[row]]
        found[row] = bool(
            (
                (near[:, 0] < right - _NEAR)
                & (near[:, 2] > left + _NEAR)
                & (near[:, 1] < bottom - _NEAR)
                & (near[:, 3] > top + _NEAR)
            ).any()
        )
    return found
