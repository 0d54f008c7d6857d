"""A synthetic dataset: made-up aerial scenes with exact labels, for demonstrations, tests and first steps.

No camera took the images. The dataset is small, quickly made, free of any licence, and hard enough that a model must
look at shapes: roofs share their colours with streets, soil and cars, and shadows lie over everything.
"""

from __future__ import annotations

from pathlib import Path

from rsseg_tf.datasets.recipe import Recipe
from rsseg_tf.datasets.spec import DatasetSpec
from rsseg_tf.datasets.synthetic_scene import render_scene

__all__ = ["SYNTHETIC", "SYNTHETIC_RECIPE"]

# The order is that of the ids in synthetic_scene.
SYNTHETIC = DatasetSpec(
    name="synthetic",
    classes=("ground", "road", "building", "tree", "water", "car"),
    palette=((189, 168, 122), (128, 128, 134), (206, 66, 54), (38, 135, 62), (58, 120, 206), (250, 217, 46)),
    source="Synthetic scenes made by rsseg_tf",
    band_names=("red", "green", "blue"),
    gsd=0.3,
)

SYNTHETIC_RECIPE = Recipe(SYNTHETIC, Path("data/synthetic"), make_scene=render_scene)
