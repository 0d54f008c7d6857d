"""A synthetic dataset: made-up aerial scenes with exact labels, for demonstrations, tests and first steps.

Nothing in it was ever photographed. It is small, quickly made, free of any licence, and hard enough that a model must
look at shapes: roofs share their colours with streets, soil and cars, and shadows lie over everything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine

from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.errors import DataError
from rsseg_tf.prepare.prepared import PreparedFolder, PrepareReport, staged_output
from rsseg_tf.prepare.synthetic_scene import MIN_SIZE, render_scene

__all__ = ["CRS", "GSD_M", "SYNTHETIC", "generate_synthetic"]

GSD_M = 0.3
"""Ground sampling distance: metres per pixel."""

# The order is that of the ids in synthetic_scene.
SYNTHETIC = DatasetSpec(
    name="synthetic",
    classes=("ground", "road", "building", "tree", "water", "car"),
    palette=((189, 168, 122), (128, 128, 134), (206, 66, 54), (38, 135, 62), (58, 120, 206), (250, 217, 46)),
    source="Synthetic scenes made by rsseg_tf",
    band_names=("red", "green", "blue"),
    gsd=GSD_M,
)

CRS = "EPSG:32640"
"""UTM zone 40 north; the place is as made up as the scenes."""

_WEST_M, _NORTH_M = 500_000.0, 2_800_000.0
_SCENES_PER_ROW = 8


def generate_synthetic(
    output: Path,
    *,
    scenes_train: int = 18,
    scenes_val: int = 6,
    size: int = 512,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareReport:
    """Makes scenes and writes them as a prepared dataset; each scene is one tile.

    Images and labels are GeoTIFF with coordinates, ``img_dir/train/scene_000.tif`` and ``ann_dir/train/scene_000.tif``,
    the labels with a colour table. Running it again with the same arguments gives the same bytes, given the same
    versions of the libraries.

    Args:
        output: The folder to appear; see `rsseg_tf.prepare.prepared` for what it holds.
        scenes_train: Number of training scenes.
        scenes_val: Number of validation scenes.
        size: Side of a scene in pixels.
        seed: Not negative; another seed gives other scenes. A scene depends on its split and number, not on how many
            there are.
        progress: Called after each scene with the number done and the number of all.

    Returns:
        What was written.

    Raises:
        DataError: When an argument is out of range, or the output cannot be written or must not be replaced.
    """
    if scenes_train < 1 or scenes_val < 1:
        raise DataError(f"{scenes_train} training and {scenes_val} validation scenes were asked for; 1 each at least.")
    if not MIN_SIZE <= size <= 4096:
        raise DataError(f"A scene of {size} pixels was asked for; {MIN_SIZE} to 4096 are possible. 512 is usual.")
    if seed < 0:
        raise DataError(f"The seed is {seed}; it must be 0 or above.")
    plan = [("train", number) for number in range(scenes_train)] + [("val", number) for number in range(scenes_val)]
    with staged_output(output) as folder:
        prepared = PreparedFolder(folder, SYNTHETIC)
        for done, (split, number) in enumerate(plan):
            image, label = render_scene(np.random.default_rng([seed, split == "val", number]), size)
            name = f"scene_{number:03d}.tif"
            sample = prepared.add_sample(split, name, name)
            row, column = divmod(done, _SCENES_PER_ROW)
            side_m = size * GSD_M
            transform = Affine(GSD_M, 0.0, _WEST_M + column * side_m, 0.0, -GSD_M, _NORTH_M - row * side_m)
            _write_geotiff(sample.image, image, transform)
            _write_geotiff(prepared.folder / "ann_dir" / split / name, label[..., np.newaxis], transform)
            prepared.count_scene(split, label, name)
            if progress is not None:
                progress(done + 1, len(plan))
        splits = prepared.finish({"tile_size": size, "overlap": 0, "seed": seed, "gsd_m": GSD_M, "crs": CRS})
    return PrepareReport(SYNTHETIC.name, output, splits)


def _write_geotiff(path: Path, array: np.ndarray, transform: Affine) -> None:
    """Writes ``(H, W, 3)`` uint8 as RGB, or ``(H, W, 1)`` uint8 ids with the colour table."""
    height, width, bands = array.shape
    block = min(256, -(-min(height, width) // 16) * 16)  # TIFF tiles are multiples of 16
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=bands,
        dtype="uint8",
        crs=CRS,
        transform=transform,
        tiled=True,
        blockxsize=block,
        blockysize=block,
        compress="deflate",
        predictor=2 if bands == 3 else 1,
        photometric="RGB" if bands == 3 else "MINISBLACK",
    ) as file:
        file.write(array.transpose(2, 0, 1))
        if bands == 1:
            file.write_colormap(1, dict(enumerate(SYNTHETIC.palette)))
