"""The ISPRS semantic labelling contest: Potsdam and Vaihingen from the air, in six classes.

https://www.isprs.org/education/benchmarks/UrbanSemLab. The boundaries of objects (black in the eroded masks) are
ignored.
"""

from __future__ import annotations

import dataclasses

from rsseg_tf.datasets.spec import DatasetSpec

__all__ = ["POTSDAM", "VAIHINGEN"]

POTSDAM = DatasetSpec(
    name="potsdam",
    classes=("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter"),
    palette=((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    source="ISPRS 2D Semantic Labeling Contest, Potsdam",
)

VAIHINGEN = dataclasses.replace(
    POTSDAM, name="vaihingen", source="ISPRS 2D Semantic Labeling Contest, Vaihingen (near infrared, red, green)"
)
