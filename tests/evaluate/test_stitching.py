from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsseg_tf.datasets.spec import TILE_NAME_PATTERNS
from rsseg_tf.errors import DataError
from rsseg_tf.evaluate.stitching import Stitcher, Tile, TiledScene, find_scenes
from rsseg_tf.files.lists import Sample
from rsseg_tf.prepare.tile_names import tile_name
from rsseg_tf.rasters.windows import Window, windows

CLASSES = 3


def scene_of(places: list[Window]) -> TiledScene:
    tiles = [
        Tile(index, Sample(Path(f"{index}.png"), Path(f"{index}_label.png")), place)
        for index, place in enumerate(places)
    ]
    return TiledScene("scene", tuple(sorted(tiles, key=lambda tile: tile.window)))


def logits_of(place: Window, seed: int) -> np.ndarray:
    """Makes up logits of a tile; every tile sees a pixel differently."""
    size = place.y1 - place.y0, place.x1 - place.x0, CLASSES
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@st.composite
def tilings(draw: st.DrawFn) -> list[Window]:
    """Draws windows of any sizes and places, with overlaps, gaps and repetitions."""
    places = []
    for _ in range(draw(st.integers(1, 8))):
        y0, x0 = draw(st.integers(0, 12)), draw(st.integers(0, 12))
        places.append(Window(y0, x0, y0 + draw(st.integers(1, 9)), x0 + draw(st.integers(1, 9))))
    return places


def pixel_by_pixel(scene: TiledScene, label: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yields label and prediction of every pixel that a tile covers, from the mean of all logits there."""
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            there = []
            for tile in scene.tiles:
                place = tile.window
                if place.y0 <= y < place.y1 and place.x0 <= x < place.x1:
                    there.append(logits_of(place, tile.index)[y - place.y0, x - place.x0].astype(np.float64))
            if there:
                yield int(label[y, x]), int(np.mean(there, axis=0).argmax())


@settings(max_examples=60)
@given(places=tilings(), seed=st.integers(0, 99))
def test_any_tiling_is_the_whole_scene_pixel_by_pixel(places: list[Window], seed: int) -> None:
    scene = scene_of(places)
    label = np.random.default_rng(seed).integers(0, CLASSES, (21, 21)).astype(np.uint8)
    stitcher, found = Stitcher(scene), []
    for tile in scene.tiles:
        place = tile.window
        part = label[place.y0 : place.y1, place.x0 : place.x1]
        for ids, prediction in stitcher.add(tile, logits_of(place, tile.index), part):
            assert ids.dtype == prediction.dtype == np.uint8
            found += list(zip(ids.ravel().tolist(), prediction.ravel().tolist(), strict=True))
    assert stitcher.waiting_pixels == 0
    assert sorted(found) == sorted(pixel_by_pixel(scene, label))


@pytest.mark.parametrize(("size", "tile", "overlap"), [((400, 300), 64, 0), ((400, 300), 64, 28), ((133, 101), 32, 24)])
def test_no_more_is_held_than_two_rows_of_tiles_share(size: tuple[int, int], tile: int, overlap: int) -> None:
    scene = scene_of(windows(*size, tile, overlap))
    stitcher = Stitcher(scene)
    rows = sorted({tile.window.y0 for tile in scene.tiles})
    shared = max(above + tile - below for above, below in pairwise(rows))
    most = 0
    for part in scene.tiles:
        stitcher.add(part, np.zeros((tile, tile, CLASSES), np.float32), np.zeros((tile, tile), np.uint8))
        most = max(most, stitcher.waiting_pixels)
    assert most <= shared * size[1] + tile * tile
    assert stitcher.waiting_pixels == 0


def test_tiles_without_overlap_leave_nothing_behind() -> None:
    scene = scene_of(windows(64, 96, 32))
    stitcher = Stitcher(scene)
    for tile in scene.tiles:
        assert len(stitcher.add(tile, np.zeros((32, 32, CLASSES), np.float32), np.zeros((32, 32), np.uint8))) == 1
        assert stitcher.waiting_pixels == 0


def test_labels_that_disagree_are_refused_with_both_files() -> None:
    scene = scene_of([Window(0, 0, 4, 4), Window(2, 1, 6, 5)])
    stitcher = Stitcher(scene)
    first, second = scene.tiles
    stitcher.add(first, np.zeros((4, 4, CLASSES), np.float32), np.zeros((4, 4), np.uint8))
    label = np.zeros((4, 4), np.uint8)
    label[1, 2] = 255
    message = "0_label.png and 1_label.png overlap and disagree: row 3, column 3 of the scene is 0 in the first and 255"
    with pytest.raises(DataError, match=message):
        stitcher.add(second, np.zeros((4, 4, CLASSES), np.float32), label)


def test_labels_may_differ_where_only_one_tile_is() -> None:
    scene = scene_of([Window(0, 0, 4, 4), Window(2, 0, 6, 4)])
    stitcher = Stitcher(scene)
    label = np.zeros((4, 4), np.uint8)
    label[2:] = 1
    stitcher.add(scene.tiles[0], np.zeros((4, 4, CLASSES), np.float32), label)
    done = stitcher.add(scene.tiles[1], np.zeros((4, 4, CLASSES), np.float32), 1 - label)
    assert sum(ids.size for ids, _ in done) == 16


# === find_scenes ===


def write_tiles(folder: Path, pattern: str, stem: str, places: list[Window]) -> list[Sample]:
    folder.mkdir(parents=True, exist_ok=True)
    samples = []
    for place in places:
        path = folder / f"{tile_name(pattern, stem, place)}.png"
        cv2.imwrite(str(path), np.zeros((place.y1 - place.y0, place.x1 - place.x0, 3), np.uint8))
        samples.append(Sample(path, path))
    return samples


@pytest.mark.parametrize("pattern", TILE_NAME_PATTERNS)
def test_tiles_are_sorted_by_scene_and_place(tmp_path: Path, pattern: str) -> None:
    places = windows(50, 70, 32, 5)
    ours = write_tiles(tmp_path / "a", pattern, "2_10", places)
    others = write_tiles(tmp_path / "b", pattern, "2_10", places[:2])  # of the same name, in another folder
    mixed = [*others[1:], *ours[::-1], *others[:1]]
    first, second = find_scenes(mixed, pattern)
    assert (first.name, second.name) == ((tmp_path / "b/2_10").as_posix(), (tmp_path / "a/2_10").as_posix())
    assert [tile.window for tile in second.tiles] == sorted(places)
    assert [tile.window for tile in first.tiles] == places[:2]
    for tile in first.tiles + second.tiles:
        assert mixed[tile.index] == tile.sample


def test_other_names_and_sizes_are_refused(tmp_path: Path) -> None:
    pattern = "{stem}_{x0}_{y0}_{x1}_{y1}"
    (sample,) = write_tiles(tmp_path, pattern, "2_10", [Window(0, 0, 8, 8)])
    renamed = sample.image.rename(tmp_path / "2_10_0_0_9_8.png")
    with pytest.raises(DataError, match="2_10_0_0_9_8 says 9x8 pixels, but the tile has 8x8"):
        find_scenes([Sample(renamed, None)], pattern)
    renamed = renamed.rename(tmp_path / "scene.png")
    with pytest.raises(DataError, match="/scene does not say where in its scene it lies; names like {stem}_{x0}_{y0}_"):
        find_scenes([Sample(renamed, None)], pattern)
