"""Puts the tiles of a scene back together, so that each of its pixels is predicted once.

Where tiles overlap, their logits are added up in float64, and the class is the argmax of the sum, which is that of the
mean. The logits of a whole scene may be too large for memory, and need not be held: a pixel is done with once the last
tile that covers it is in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import Sample
from rsseg_tf.prepare.tile_names import parse_tile_name
from rsseg_tf.rasters.gdal import TRUSTING_NOBODY, Trust
from rsseg_tf.rasters.scenes import scene_header
from rsseg_tf.rasters.windows import Window

__all__ = ["Stitcher", "Tile", "TiledScene", "find_scenes"]


@dataclass(frozen=True)
class Tile:
    """A tile and its place.

    Attributes:
        index: Position in the list that `find_scenes` was given.
        sample: Image and label.
        window: Where in its scene it lies.
    """

    index: int
    sample: Sample
    window: Window


@dataclass(frozen=True)
class TiledScene:
    """A scene, as far as tiles cover it.

    Attributes:
        name: What the paths of its tiles have in common.
        tiles: From top to bottom, and from left to right among those that begin in one row.
    """

    name: str
    tiles: tuple[Tile, ...]


def find_scenes(samples: Sequence[Sample], pattern: str, *, trust: Trust = TRUSTING_NOBODY) -> tuple[TiledScene, ...]:
    """Sorts tiles by the scene that they were cut from, as their names tell.

    Tiles of one scene lie in one folder. They may overlap, leave gaps, and be listed in any order.

    Args:
        samples: The tiles.
        pattern: How the images are named; one of `rsseg_tf.datasets.TILE_NAME_PATTERNS`.
        trust: How large images may be, and what a VRT may name.

    Returns:
        The scenes in the order of their first tiles in `samples`.

    Raises:
        DataError: When an image's name does not follow the pattern or contradicts the image's size, or an image
            cannot be read.
    """
    tiles: dict[str, list[Tile]] = {}
    for index, sample in enumerate(samples):
        header = scene_header(sample.image, trust=trust).read
        path = sample.image.with_suffix("").as_posix()
        name, window = parse_tile_name(pattern, path, header.height, header.width)
        tiles.setdefault(name, []).append(Tile(index, sample, window))
    # Windows are ordered by y0, then x0.
    return tuple(TiledScene(name, tuple(sorted(found, key=lambda tile: tile.window))) for name, found in tiles.items())


@dataclass
class _Cell:
    """A part of the scene that waits for more tiles: sums of logits, the label, and the tile that it came from."""

    logits: NDArray[np.float64]
    label: NDArray[np.uint8]
    first: Tile


class Stitcher:
    """Adds up the logits of one scene's tiles and gives each pixel away when its last tile is in.

    The edges of all tiles, prolonged, cut the scene into cells; the tiles that cover one pixel of a cell cover all of
    it. Of a grid of tiles, only the rows that two rows of tiles share wait at any time, over the width of the scene,
    and within the current row the columns that the next tile shares. Tiles at random places are put back just as well,
    only slowly, because every edge then makes cells of its own.
    """

    def __init__(self, scene: TiledScene) -> None:
        """Takes note of where the tiles lie."""
        self._scene = scene
        self._rows = sorted({edge for tile in scene.tiles for edge in (tile.window.y0, tile.window.y1)})
        self._columns = sorted({edge for tile in scene.tiles for edge in (tile.window.x0, tile.window.x1)})
        self._missing = Counter(cell for tile in scene.tiles for cell in self._cells_of(tile.window))
        self._waiting: dict[Window, _Cell] = {}

    def stands_alone(self, tile: Tile) -> bool:
        """Tells whether a tile shares no pixel with another one; ask before the first tile is added."""
        return all(self._missing[cell] == 1 for cell in self._cells_of(tile.window))

    @property
    def waiting_pixels(self) -> int:
        """Pixels whose logits are held at the moment."""
        return sum(cell.label.size for cell in self._waiting.values())

    def add(
        self, tile: Tile, logits: NDArray[np.float32], label: NDArray[np.uint8]
    ) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        """Takes in one tile of the scene; each must be given once, in the scene's order if memory is to be spared.

        Args:
            tile: One of the scene's tiles.
            logits: `(H, W, classes)`.
            label: `(H, W)` class ids.

        Returns:
            Labels and predicted class ids of the parts of the scene that are done with now, equal in shape.

        Raises:
            DataError: When the label differs from that of an earlier tile in a pixel that both cover.
        """
        done = []
        top, left = tile.window.y0, tile.window.x0
        for place in self._cells_of(tile.window):
            part = np.s_[place.y0 - top : place.y1 - top, place.x0 - left : place.x1 - left]
            cell = self._waiting.pop(place, None)
            if cell is None:
                cell = _Cell(logits[part].astype(np.float64), label[part].copy(), tile)
            else:
                self._require_one_label(cell, place, tile, label[part])
                cell.logits += logits[part]
            self._missing[place] -= 1
            if self._missing[place]:
                self._waiting[place] = cell
            else:
                done.append((cell.label, cell.logits.argmax(axis=-1).astype(np.uint8)))
        return done

    def _cells_of(self, window: Window) -> Iterator[Window]:
        """Yields the cells that a tile consists of."""
        rows = self._rows[bisect_left(self._rows, window.y0) : bisect_left(self._rows, window.y1) + 1]
        columns = self._columns[bisect_left(self._columns, window.x0) : bisect_left(self._columns, window.x1) + 1]
        for y0, y1 in pairwise(rows):
            for x0, x1 in pairwise(columns):
                yield Window(y0, x0, y1, x1)

    def _require_one_label(self, cell: _Cell, place: Window, tile: Tile, label: NDArray[np.uint8]) -> None:
        differs = np.argwhere(cell.label != label)
        if len(differs):
            y, x = differs[0].tolist()
            raise DataError(
                f"{cell.first.sample.label} and {tile.sample.label} overlap and disagree: row {place.y0 + y}, column "
                f"{place.x0 + x} of the scene is {cell.label[y, x]} in the first and {label[y, x]} in the second. "
                "Labels of one scene must be cut from one mask: prepare the dataset again."
            )
