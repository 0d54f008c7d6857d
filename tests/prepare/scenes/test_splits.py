"""No validation tile lies near a training tile, however scenes lie and whatever decides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.transform import Affine
from rasterio.warp import transform as reproject

from rsseg_tf.errors import ConfigError, DataError
from rsseg_tf.prepare.scenes.sources import OwnScene
from rsseg_tf.prepare.scenes.splits import (
    DROPPED,
    TRAIN,
    VAL,
    Blocks,
    Ground,
    SplitRule,
    Tiles,
    assign,
    by_polygons,
    tiles_of,
)
from rsseg_tf.rasters.ground import pixel_size
from rsseg_tf.rasters.windows import Size
from tests.fixtures.own_scenes import (
    CRS,
    PLACE,
    SIZE,
    distance,
    houses,
    moved,
    prepare,
    scene,
    square,
    tiles,
    write_polygons,
)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return write_polygons(tmp_path / "a.gpkg", houses(60), kind=["a", "b", "c"] * 20)


def places(root: Path) -> list[tuple[str, str]]:
    return [(tile.split, tile.path.name) for tile in tiles(root)]


def share(root: Path) -> float:
    found = [tile.split for tile in tiles(root)]
    return found.count("val") / len(found)


# === Where tiles lie, without their pixels ===


def header(stem: str, size: tuple[int, int], place: Affine = PLACE, crs: str = CRS) -> OwnScene:
    """A scene by its header alone."""
    system = rasterio.crs.CRS.from_string(crs)
    ground = pixel_size(Size(*size), place, system)
    assert ground is not None
    return OwnScene(Path(stem), stem, Size(*size), (1, 2, 3), "uint8", system, place, None, (), ground, False, "")


def split(
    scenes: Sequence[OwnScene], text: str, tile: int = 32, margin: int = 0, overlap: int = 0, period: int = 0,
    seed: int = 0,
) -> tuple[list[Tiles], list[NDArray[np.int64]]]:  # fmt: skip
    """Lays and splits tiles that all hold the same."""
    rule = SplitRule.parse(text)
    blocks = Blocks(period or 2 * tile - overlap + margin, margin) if rule.kind == "blocks" else None
    ground = Ground(scenes)
    laid = [tiles_of(one, ground, tile, overlap, blocks) for one in scenes]
    counts = [np.ones((len(one.places), 2), np.int64) for one in laid]
    return laid, assign(rule, laid, counts, blocks=blocks, margin=margin, seed=seed)


def outlines(scene: OwnScene, laid: Tiles, crs: str = CRS) -> NDArray[Any]:
    """The tiles of a scene as polygons on the ground."""
    y0, x0, y1, x1 = laid.places.astype(float).T
    boxes = shapely.box(x0, y0, x1, y1)
    a, b, c, d, e, f = scene.transform[:6]
    moved_boxes = shapely.transform(
        boxes, lambda p: np.stack([a * p[:, 0] + b * p[:, 1] + c, d * p[:, 0] + e * p[:, 1] + f], 1)
    )
    if scene.crs == rasterio.crs.CRS.from_string(crs):
        return moved_boxes
    points = shapely.get_coordinates(moved_boxes)
    return shapely.set_coordinates(moved_boxes, np.stack(reproject(scene.crs, crs, *points.T), axis=1))


def least_distance(scenes: Sequence[OwnScene], laid: Sequence[Tiles], codes: Sequence[NDArray[np.int64]]) -> float:
    """Metres between the training tile and the validation tile that are closest; -1 where two overlap."""
    shapes = np.concatenate([outlines(one, some) for one, some in zip(scenes, laid, strict=True)])
    every = np.concatenate(codes)
    train, val = shapes[every == TRAIN], shapes[every == VAL]
    assert len(train) and len(val)
    tree = shapely.STRtree(train)
    pairs = tree.query(val, predicate="intersects")
    shared = shapely.area(shapely.intersection(val[pairs[0]], train[pairs[1]]))
    if (shared > 0.01).any():
        return -1.0
    return float(tree.query_nearest(val, return_distance=True, all_matches=False)[1].min())


@pytest.mark.parametrize(
    ("size", "tile", "margin", "overlap", "period"),
    [
        ((400, 500), 32, 0, 0, 0),
        ((400, 500), 32, 4, 0, 0),
        ((400, 500), 32, 20, 8, 0),
        ((411, 503), 32, 6, 0, 133),
        ((2000, 90), 32, 4, 0, 0),
        ((900, 900), 128, 16, 0, 272),
    ],
)
def test_blocks_keep_their_distance(size: tuple[int, int], tile: int, margin: int, overlap: int, period: int) -> None:
    scenes = [header("a", size)]
    laid, codes = split(scenes, "blocks:0.2", tile, margin, overlap, period)
    assert least_distance(scenes, laid, codes) >= margin * 0.5 - 1e-6
    every = np.concatenate(codes)
    assert 0.05 < (every == VAL).sum() / (every != DROPPED).sum() < 0.4
    inside = laid[0].places
    assert (inside[:, :2] >= 0).all() and (inside[:, 2] <= size[0]).all() and (inside[:, 3] <= size[1]).all()
    if not margin:  # then the whole scene is covered
        assert len(np.unique(inside[:, 0])) == -(-size[0] // tile)


def corner(crs: str) -> tuple[float, float]:
    """A place within `PLACE`'s scene in another CRS."""
    point = moved(np.array([shapely.Point(PLACE.c + 30, PLACE.f - 10)]), crs)[0]
    return point.x, point.y


ZONE, DEGREES = corner("EPSG:32749"), corner("EPSG:4326")
TWO_YEARS = (
    header("a", (400, 500)),
    header("b", (300, 420), Affine(0.7, 0, PLACE.c + 3.3, 0, -0.7, PLACE.f - 5.1)),
    header("turned", (300, 300), PLACE @ Affine.translation(150, 0) @ Affine.rotation(30)),
    header("elsewhere", (300, 300), Affine(0.5, 0, ZONE[0], 0, -0.5, ZONE[1]), "EPSG:32749"),
    header("degrees", (200, 200), Affine(5e-6, 0, DEGREES[0], 0, -5e-6, DEGREES[1]), "EPSG:4326"),
)
"""Scenes of one place: on another grid, of another pixel, turned, in another zone, in degrees."""


@pytest.mark.parametrize("seed", range(3))
def test_scenes_of_one_place_share_no_ground_between_the_splits(seed: int) -> None:
    laid, codes = split(TWO_YEARS, "blocks:0.3", margin=8, seed=seed)
    ground = [shapely.union_all(outlines(one, some)) for one, some in zip(TWO_YEARS, laid, strict=True)]
    assert all(ground[0].intersection(other).area > 100 for other in ground), "a test of scenes that share ground"
    assert (
        least_distance(TWO_YEARS, laid, codes) >= 8 * 0.5 * 0.999
    )  # metres of the plane of one are not those of another
    assert len({one.ground for one in laid}) == 1


def test_scenes_far_apart_are_split_too() -> None:
    scenes = [header("a", (400, 500)), header("b", (400, 500), Affine(0.5, 0, 5e5, 0, -0.5, 5.4e6), "EPSG:32633")]
    laid, codes = split(scenes, "blocks:0.2", margin=4)
    for one, some, code in zip(scenes, laid, codes, strict=True):
        if (code == VAL).any():
            assert least_distance([one], [some], [code]) >= 2.0 - 1e-6
    assert (np.concatenate(codes) == VAL).any()


def test_a_draw_depends_on_its_seed_alone() -> None:
    first, again, other = (split([header("a", (900, 900))], "blocks:0.2", seed=seed)[1][0] for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_the_draw_gives_both_splits_every_class() -> None:
    """One class is in four of forty blocks; a plain draw of a fifth of them would miss it as often as not."""
    scenes, rule = [header("a", (256, 640))], SplitRule.parse("blocks:0.2")
    blocks = Blocks(64, 0)
    ground = Ground(scenes)
    laid = tiles_of(scenes[0], ground, 32, 0, blocks)
    counts = np.stack([np.full(len(laid.places), 1000), np.zeros(len(laid.places), np.int64)], axis=1)
    rare = (laid.places[:, 1] // 64 == 3) | (laid.places[:, 0] // 64 == 9)
    counts[rare, 1] = 10
    for seed in range(5):
        (code,) = assign(rule, [laid], [counts], blocks=blocks, margin=0, seed=seed)
        assert counts[code == VAL, 1].any() and counts[code == TRAIN, 1].any()
        assert (code == VAL).mean() == pytest.approx(0.2, abs=0.03)


def test_a_scene_goes_to_one_split() -> None:
    scenes = [header(str(number), (160, 160), PLACE @ Affine.translation(2000 * number, 0)) for number in range(5)]
    _, codes = split(scenes, "scene:0.2")
    assert all(len(set(code.tolist())) == 1 for code in codes)
    assert sum(code[0] == VAL for code in codes) == 1


def test_scenes_that_share_ground_stay_together() -> None:
    scenes = [header(f"{number}", (160, 160), PLACE @ Affine.translation(100 * number, 0)) for number in (0, 1, 9, 10)]
    for seed in range(4):
        laid, codes = split(scenes, "scene:0.5", margin=8, seed=seed)
        assert len({code.item(0) for code in codes[:2]}) == len({code.item(0) for code in codes[2:]}) == 1
        assert least_distance(scenes, laid, codes) > 4
    with pytest.raises(DataError, match="needs two places at least, and the labelled scenes share one"):
        split(scenes[:2], "scene:0.5")


# === Tiles as they are written ===


def test_written_tiles_keep_their_distance(tmp_path: Path, labels: Path) -> None:
    ortho = scene(tmp_path / "ortho.tif")
    prepare(ortho, labels, tmp_path / "out", tile_size=40, buffer_m=3.0, field="kind")
    assert distance(tmp_path / "out") >= 3.0
    assert 0.1 < share(tmp_path / "out") < 0.4
    description = json.loads((tmp_path / "out/dataset.json").read_text())
    assert description["buffer_m"] == 3.0 and description["split"] == "blocks:0.2"
    assert all(count > 0 for one in description["splits"].values() for count in one["pixels"].values())


def test_a_metre_is_one_on_the_ground_wherever_a_scene_lies(tmp_path: Path) -> None:
    """At 60 degrees a metre of Web Mercator is half a metre, and the first scene lies at the equator."""
    tops = {"south": 0.0, "north": 8_399_738.0}
    scenes, polygons = [], []
    for name, top in tops.items():
        place = Affine(1.0, 0.0, 1.5e6, 0.0, -1.0, top)
        scenes.append(scene(tmp_path / f"{name}.tif", (120, 160), crs="EPSG:3857", transform=place))
        polygons += [shapely.box(1.5e6 + x, top - 110, 1.5e6 + x + 5, top - 5) for x in range(3, 160, 20)]
    labels = write_polygons(tmp_path / "a.gpkg", polygons, "EPSG:3857")
    prepare(scenes, labels, tmp_path / "out", split="blocks:0.3", tile_size=20, buffer_m=9.0)
    here = [tile for tile in tiles(tmp_path / "out") if tile.box[3] > 1e6]
    train, val = (shapely.box(*np.array([t.box for t in here if t.split == which]).T) for which in ("train", "val"))
    assert shapely.distance(train[:, None], val[None]).min() / 2 >= 9.0 * 0.99


def test_areas_keep_their_distance_at_both_ends_of_a_tall_scene() -> None:
    tall = header("tall", (3000, 120), Affine(2000.0, 0.0, 0.0, 0.0, -2000.0, 11e6), "EPSG:3857")  # 41 to 70 degrees
    laid = tiles_of(tall, Ground([tall]), 10, 0, None)
    codes = by_polygons(tall, laid, np.array([shapely.box(50, -200, 200, 3200)]), 35_000.0)
    top = laid.places[:, 0] == 0
    train, val = (laid.places[top & (codes == code)] for code in (TRAIN, VAL))
    apart = val[:, 1].min() - train[:, 3].max()
    assert apart * 2000 * np.cos(np.radians(69.9)) >= 35_000


def test_polygons_say_what_validates(tmp_path: Path, labels: Path) -> None:
    ortho = scene(tmp_path / "ortho.tif")
    area = moved(np.array([square(110, 90, 140)]), "EPSG:4326")
    write_polygons(tmp_path / "val.geojson", area, "EPSG:4326")
    prepare(ortho, labels, tmp_path / "out", split=f"polygons:{tmp_path / 'val.geojson'}", tile_size=32, buffer_m=2.0)
    left, top = PLACE.c + 110 * 0.5, PLACE.f - 90 * 0.5
    for tile in tiles(tmp_path / "out"):
        inside = tile.box[0] > left - 0.1 and tile.box[2] < left + 70.1 and tile.box[3] < top + 0.1
        assert (tile.split == "val") == (inside and tile.box[1] > top - 70.1)
    assert distance(tmp_path / "out") >= 2.0
    with pytest.raises(DataError, match="leaves no tile of 100 pixels for validation"):
        prepare(ortho, labels, tmp_path / "b", split=f"polygons:{tmp_path / 'val.geojson'}", tile_size=100)


def test_a_field_says_what_validates(tmp_path: Path) -> None:
    ortho = scene(tmp_path / "ortho.tif")
    squares = [square(x, y, 10) for x, y in ((5, 5), (40, 5), (200, 200), (260, 200), (290, 10))]
    where = ["train", "Train", "val", "Validation", None]
    labels = write_polygons(tmp_path / "a.gpkg", squares, part=where)
    prepare(ortho, labels, tmp_path / "out", split="field:part", tile_size=32, buffer_m=1.0)
    found = {tile.path.stem: tile.split for tile in tiles(tmp_path / "out")}
    assert (found["ortho_0_0"], found["ortho_0_32"], found["ortho_192_192"]) == ("train", "train", "val")
    assert "ortho_192_160" not in found and "ortho_160_192" not in found  # beside a tile that validates
    assert distance(tmp_path / "out") >= 1.0
    write_polygons(tmp_path / "b.gpkg", squares, part=["a", "train", "val", "val", "b"])
    with pytest.raises(DataError, match=r"b\.gpkg: the field 'part' holds 'a', 'b'; train or val is expected"):
        prepare(ortho, tmp_path / "b.gpkg", tmp_path / "b", split="field:part", tile_size=32)


def test_blocks_are_drawn_where_there_is_something_to_learn(tmp_path: Path) -> None:
    """Half of the scene is no data, and another part is outside of the area of interest."""
    pixels_path = scene(tmp_path / "ortho.tif")
    with rasterio.open(pixels_path) as source:
        pixels, profile = source.read(), source.profile
    pixels[:, :, 160:] = 0
    with rasterio.open(pixels_path, "w", **profile | {"nodata": 0}) as target:
        target.write(pixels)
    labels = write_polygons(tmp_path / "a.gpkg", houses(60))
    area = write_polygons(tmp_path / "aoi.gpkg", [square(0, 0, 180)])
    prepare(pixels_path, labels, tmp_path / "out", aoi=area, tile_size=24, block_m=27.0)
    assert 0.1 < share(tmp_path / "out") < 0.35


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "half"}, ConfigError, "--split is 'half'; blocks:0.2, scene:0.2, polygons:FILE, field:NAME or none"),
        ({"split": "blocks:1"}, ConfigError, "share that validates must lie between 0 and 1, as in blocks:0.2"),
        ({"split": "scene:0.2"}, DataError, "needs two places at least, and the labelled scenes share one"),
        ({"split": "scene:0.2", "block_m": 9.0}, ConfigError, "--block has no use with --split scene:0.2"),
        ({"block_m": 9.0}, ConfigError, r"--block 9 is 18 pixels; a tile of 80 and the buffer of 10 pixels need 45"),
        ({"tile_size": 230}, DataError, "holds 0 blocks? of tiles|holds 1 block of tiles"),
        ({"overlap": 80}, ConfigError, r"--overlap is 80 for tiles of 80; it must lie in 0\.\.79"),
        ({"skip_empty": True, "background": "ignore", "field": "kind"}, ConfigError, "--skip_empty has no use"),
    ],
)
def test_splits_that_cannot_be(
    tmp_path: Path, labels: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    ortho = scene(tmp_path / "ortho.tif", SIZE)
    with pytest.raises(error, match=message):
        prepare(ortho, labels, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
