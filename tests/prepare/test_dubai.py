from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from rsseg_tf.datasets.dubai import DUBAI, IGNORED_COLOURS, TRAIN_TILES, VAL_TILES
from rsseg_tf.errors import DataError
from rsseg_tf.files.lists import read_list
from rsseg_tf.rasters.images import read_image, read_label, write_png
from tests.fixtures.downloads import prepare

COLOURS = np.array([*DUBAI.palette, *IGNORED_COLOURS], np.uint8)
REAL = Path(__file__).parents[3] / "shared" / "data" / "dubai"


def write_scene(root: Path, tile: int, part: int, layout: str, height: int = 20, width: int = 27) -> np.ndarray:
    """Writes one scene and returns the ids that its mask stands for; odd parts get a palette PNG."""
    rng = np.random.default_rng(100 * tile + part)
    drawn = rng.integers(0, len(COLOURS), (height, width)).astype(np.uint8)
    if layout == "flat":
        image, mask = root / f"images/tile{tile}_{part:03d}.jpg", root / f"masks/tile{tile}_{part:03d}.png"
    else:
        folder = root / "Semantic segmentation dataset" / f"Tile {tile}"
        image, mask = folder / f"images/image_part_{part:03d}.jpg", folder / f"masks/image_part_{part:03d}.png"
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), rng.integers(0, 255, (height, width, 3)).astype(np.uint8))
    if part % 2:
        write_png(mask, drawn, [tuple(colour) for colour in COLOURS.tolist()])
    else:
        write_png(mask, COLOURS[drawn])
    return np.where(drawn < DUBAI.num_classes, drawn, 255)


def write_set(
    root: Path,
    layout: str = "flat",
    scenes: tuple[tuple[int, int], ...] = (
        (1, 1),
        (1, 2),
        (4, 1),
        (8, 9),
    ),
) -> dict[tuple[int, int], np.ndarray]:
    return {scene: write_scene(root, *scene, layout) for scene in scenes}


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for item in sorted(folder.rglob("*")):
            file.write(item, item.relative_to(folder.parent))
        file.writestr("__MACOSX/images/._tile1_001.jpg", b"x")
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Returns all files but the note of what the folder was made of, which differs between a folder and a zip file."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    files.pop(".prepared")
    return files


def test_spec() -> None:
    assert DUBAI.classes == ("water", "land", "road", "building", "vegetation")
    assert set(TRAIN_TILES) | set(VAL_TILES) == set(range(1, 9))
    assert not set(TRAIN_TILES) & set(VAL_TILES)
    assert not set(DUBAI.palette) & set(IGNORED_COLOURS)


def test_prepares(tmp_path: Path) -> None:
    labels = write_set(tmp_path / "source")
    (tmp_path / "source" / "classes.json").write_text("{}")  # lies in the folder and is none of our business
    calls = []
    report = prepare(
        "dubai",
        tmp_path / "source",
        tmp_path / "out",
        tile_size=16,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert {split: (r.scenes, r.tiles) for split, r in report.splits.items()} == {"train": (3, 12), "val": (1, 4)}
    for split, tiles in (("train", {"tile1", "tile8"}), ("val", {"tile4"})):
        samples = read_list(tmp_path / "out" / f"{split}.txt", tmp_path / "out")
        assert {sample.image.name.split("_")[0] for sample in samples} == tiles
    np.testing.assert_array_equal(
        read_label(tmp_path / "out/ann_dir/train/tile1_002_4_11.png"), labels[1, 2][4:20, 11:27]
    )
    image = read_image(tmp_path / "source/images/tile1_001.jpg")
    np.testing.assert_array_equal(read_image(tmp_path / "out/img_dir/train/tile1_001_0_11.png"), image[:16, 11:27])
    assert report.splits["val"].pixels["road"] == (labels[4, 1] == 2).sum()
    assert report.splits["val"].ignored_pixels == (labels[4, 1] == 255).sum()
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["overlap"] == 0


def test_all_layouts_give_the_same_and_running_again_too(tmp_path: Path) -> None:
    sources = []
    for layout in ("flat", "public"):
        write_set(tmp_path / layout, layout)
        sources += [tmp_path / layout, zipped(tmp_path / layout, tmp_path / f"{layout}.zip")]
    results = []
    for source in [*sources, sources[0]]:
        prepare("dubai", source, tmp_path / "out", tile_size=16, overlap=4)
        results.append(content(tmp_path / "out"))
    assert len(results[0]) > 20
    assert all(result == results[0] for result in results)


def test_overlap_gives_more_tiles(tmp_path: Path) -> None:
    write_set(tmp_path / "source")
    plain = prepare("dubai", tmp_path / "source", tmp_path / "a", tile_size=8)
    dense = prepare("dubai", tmp_path / "source", tmp_path / "b", tile_size=8, overlap=4)
    assert dense.splits["val"].tiles > plain.splits["val"].tiles
    assert dense.splits["val"].pixels == plain.splits["val"].pixels


def remove(name: str) -> Callable[..., Any]:
    return lambda root: (root / name).unlink()


def copy(name: str, to: str) -> Callable[..., Any]:
    return lambda root: shutil.copy(root / name, root / to)


def repaint(root: Path) -> None:
    mask = read_image(root / "masks/tile1_002.png")
    mask[3, 4:6] = (9, 8, 7)
    write_png(root / "masks/tile1_002.png", mask)


def truncate(name: str) -> Callable[..., Any]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:200])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (remove("masks/tile1_002.png"), r"1 file has no mask: source/images/tile1_002\.jpg"),
        (remove("images/tile4_001.jpg"), r"1 file has no image: source/masks/tile4_001\.png"),
        (
            lambda root: shutil.rmtree(root / "masks"),
            r"4 files have no mask: source/images/tile1_001\.jpg, source/images",
        ),
        (repaint, r"tile1_002\.png has 2 of 540 pixels .*\(9, 8, 7\)"),
        (truncate("images/tile1_001.jpg"), r"tile1_001\.jpg is a damaged JPEG"),
        (truncate("masks/tile1_001.png"), r"tile1_001\.png is a damaged PNG"),
        (copy("images/tile1_001.jpg", "images/tile1_001.jpeg"), "tile 1, part 1 twice"),
        (copy("images/tile1_001.jpg", "images/holiday.jpg"), r"holiday\.jpg has a name that does not belong"),
        (lambda root: write_scene(root, 9, 1, "flat"), "of tile 9; the dataset has tiles 1 to 8"),
        (lambda root: [remove(f"{n}")(root) for n in ("images/tile4_001.jpg", "masks/tile4_001.png")], "no val tiles"),
        (copy("masks/tile1_002.png", "images/tile1_002.jpg"), None),
        (
            lambda root: cv2.imwrite(str(root / "images/tile1_001.jpg"), np.zeros((20, 28, 3))),
            "20x28 and its mask 20x27",
        ),
        (lambda root: cv2.imwrite(str(root / "images/tile1_001.jpg"), np.zeros((20, 27))), "has 1 bands of uint8"),
    ],
)
def test_bad_sources(tmp_path: Path, spoil: Callable[..., Any], message: str | None) -> None:
    write_set(tmp_path / "source")
    spoil(tmp_path / "source")
    if message is None:  # a PNG named .jpg is read by its content
        prepare("dubai", tmp_path / "source", tmp_path / "out", tile_size=16)
        return
    with pytest.raises(DataError, match=message) as caught:
        prepare("dubai", tmp_path / "source", tmp_path / "out", tile_size=16)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"source", ".out.partial"}


def test_off_palette_pixels_within_the_limit_are_ignored(tmp_path: Path) -> None:
    labels = write_set(tmp_path / "source")
    repaint(tmp_path / "source")
    prepare("dubai", tmp_path / "source", tmp_path / "out", tile_size=16, off_palette_fraction=0.004)
    expected = labels[1, 2].copy()
    expected[3, 4:6] = 255
    np.testing.assert_array_equal(read_label(tmp_path / "out/ann_dir/train/tile1_002_0_0.png"), expected[:16, :16])


def test_folder_without_scenes(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(DataError, match="holds no scene of the dataset"):
        prepare("dubai", tmp_path / "source", tmp_path / "out")
    (tmp_path / "source" / "archive.zip").write_bytes(b"x")
    with pytest.raises(DataError, match=r"archive\.zip is neither a folder nor a whole zip file"):
        prepare("dubai", tmp_path / "source", tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        prepare("dubai", tmp_path / "absent", tmp_path / "out")


@pytest.mark.parametrize("options", [{"tile_size": 0}, {"overlap": -1}, {"overlap": 512}, {"off_palette_fraction": 2}])
def test_bad_options(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"not possible|must lie in 0\.\.1"):
        prepare("dubai", tmp_path, tmp_path / "out", **options)


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real scenes in shared/data beside the checkout")
def test_real_data(tmp_path: Path) -> None:
    report = prepare("dubai", REAL, tmp_path / "out")
    assert {split: (r.scenes, r.tiles) for split, r in report.splits.items()} == {"train": (54, 486), "val": (18, 90)}
    total = sum(sum(r.pixels.values()) + r.ignored_pixels for r in report.splits.values())
    share = {name: sum(r.pixels[name] for r in report.splits.values()) / total for name in DUBAI.classes}
    published = {"water": 0.136, "land": 0.524, "road": 0.094, "building": 0.133, "vegetation": 0.103}
    assert share == pytest.approx(published, abs=0.001)
    assert sum(r.ignored_pixels for r in report.splits.values()) / total == pytest.approx(0.0106, abs=0.0002)
    assert min(report.splits["val"].pixels.values()) > 0
    check_coverage(tmp_path / "out")


def check_coverage(output: Path) -> None:
    """Every source pixel lies in some tile, and every tile equals its window of the source."""
    tiles: dict[str, list[Path]] = {}
    for path in output.glob("img_dir/*/*.png"):
        tiles.setdefault(path.name.rsplit("_", 2)[0], []).append(path)
    assert len(tiles) == 72
    for stem, paths in tiles.items():
        scene = read_image(REAL / "images" / f"{stem}.jpg")
        covered = np.zeros(scene.shape[:2], bool)
        for path in paths:
            y0, x0 = (int(part) for part in path.stem.rsplit("_", 2)[1:])
            window = scene[y0 : y0 + 512, x0 : x0 + 512]
            tile = read_image(path)
            assert tile.shape == (512, 512, 3)
            np.testing.assert_array_equal(tile[: window.shape[0], : window.shape[1]], window)
            covered[y0 : y0 + 512, x0 : x0 + 512] = True
        assert covered.all()
