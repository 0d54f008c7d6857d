"""iSAID: objects in aerial images, in fifteen classes and background.

Waqas Zamir et al., iSAID: A Large-scale Dataset for Instance Segmentation in Aerial Images,
https://captain-whu.github.io/iSAID. Names, ids and colours are those of the benchmark's preparation.
"""

from __future__ import annotations

from rsseg_tf.datasets.spec import DatasetSpec

__all__ = ["ISAID"]

ISAID = DatasetSpec(
    name="isaid",
    classes=(
        "background",
        "ship",
        "store_tank",
        "baseball_diamond",
        "tennis_court",
        "basketball_court",
        "ground_track_field",
        "bridge",
        "large_vehicle",
        "small_vehicle",
        "helicopter",
        "swimming_pool",
        "roundabout",
        "soccer_ball_field",
        "plane",
        "harbor",
    ),
    palette=(
        (0, 0, 0),
        (0, 0, 63),
        (0, 63, 63),
        (0, 63, 0),
        (0, 63, 127),
        (0, 63, 191),
        (0, 63, 255),
        (0, 127, 63),
        (0, 127, 127),
        (0, 0, 127),
        (0, 0, 191),
        (0, 0, 255),
        (0, 191, 127),
        (0, 127, 191),
        (0, 127, 255),
        (0, 100, 155),
    ),
    small_classes=("ship", "large_vehicle", "small_vehicle", "helicopter", "swimming_pool", "plane", "harbor"),
    source="iSAID, Captain-WHU",
)
