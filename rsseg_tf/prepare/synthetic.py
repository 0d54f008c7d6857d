"""Writes made-up scenes as a prepared dataset, with coordinates as if they were photographed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from rasterio import Affine

from rsseg_tf.datasets.recipe import Recipe
from rsseg_tf.datasets.spec import RGB
from rsseg_tf.datasets.synthetic import SYNTHETIC_RECIPE
from rsseg_tf.datasets.synthetic_scene import MIN_SIZE
from rsseg_tf.errors import DataError
from rsseg_tf.prepare.output import PreparedFolder, PrepareReport, replaced_dataset, staged_output

__all__ = ["CRS", "generate_synthetic"]

CRS = "EPSG:32640"
"""UTM zone 40 north; the place is as made up as the scenes."""

_MAX_SIZE = 4096
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
    recipe: Recipe = SYNTHETIC_RECIPE,
) -> PrepareReport:
    """Makes scenes and writes them as a prepared dataset; each scene is one tile.

    Images and labels are GeoTIFF with coordinates, `img_dir/train/scene_000.tif` and `ann_dir/train/scene_000.tif`; the
    labels have a colour table. Equal arguments and equal versions of the libraries give equal bytes.

    Args:
        output: The folder to appear; see `rsseg_tf.prepare.output` for what it holds.
        scenes_train: Number of training scenes.
        scenes_val: Number of validation scenes.
        size: Side of a scene in pixels.
        seed: Not negative; another seed gives other scenes. A scene depends only on the seed, its split and its
            number, so that more scenes leave the earlier ones as they are.
        progress: Called after each scene with the number done and the number of all.
        recipe: A recipe that makes its scenes up.

    Returns:
        What was written.

    Raises:
        DataError: When an argument is out of range, or the output cannot be written or must not be replaced.
    """
    if scenes_train < 1 or scenes_val < 1:
        raise DataError(f"{scenes_train} training and {scenes_val} validation scenes were asked for; 1 each at least.")
    if not MIN_SIZE <= size <= _MAX_SIZE:
        raise DataError(
            f"A scene of {size} pixels was asked for; {MIN_SIZE} to {_MAX_SIZE} are possible. 512 is usual."
        )
    if seed < 0:
        raise DataError(f"The seed is {seed}; it must be 0 or above.")
    if recipe.make_scene is None or isinstance(recipe.dataset, str):
        raise DataError(f"The scenes of '{recipe.name}' are not made up; give prepare_dataset its download.")
    gsd_m = recipe.dataset.gsd or 1.0
    places = [("train", number) for number in range(scenes_train)] + [("val", number) for number in range(scenes_val)]
    facts = {"tile_size": size, "overlap": 0, "seed": seed, "gsd_m": gsd_m, "crs": CRS}
    replaced = replaced_dataset(output, recipe.name, facts)
    with staged_output(output) as folder:
        prepared = PreparedFolder(folder, recipe.dataset)
        for done, (split, number) in enumerate(places):
            image, label = recipe.make_scene(np.random.default_rng([seed, split == "val", number]), size)
            name = f"scene_{number:03d}.tif"
            sample = prepared.add_sample(split, name, name)
            row, column = divmod(done, _SCENES_PER_ROW)
            side_m = size * gsd_m
            transform = Affine(gsd_m, 0.0, _WEST_M + column * side_m, 0.0, -gsd_m, _NORTH_M - row * side_m)
            _write_geotiff(sample.image, image, transform)
            label_path = folder / "ann_dir" / split / name
            _write_geotiff(label_path, label[..., np.newaxis], transform, recipe.dataset.palette)
            prepared.count_scene(split, label, name)
            if progress is not None:
                progress(done + 1, len(places))
        splits = prepared.finish(facts)
    return PrepareReport(recipe.name, output, splits, replaced=replaced)


def _write_geotiff(path: Path, array: np.ndarray, transform: Affine, palette: tuple[RGB, ...] = ()) -> None:
    """Writes `(H, W, 3)` uint8 as RGB, or `(H, W, 1)` uint8 ids with the palette as their colour table."""
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
        if palette:
            file.write_colormap(1, dict(enumerate(palette)))
