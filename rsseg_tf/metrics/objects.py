"""How much of an object a model finds, by the object's size.

An object is a connected component of a class in the label. The pixel scores of a class are those of its large objects;
here each size has a score of its own.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["FOUND_SHARE", "SIZE_EDGES", "ObjectCounts", "size_names"]

SIZE_EDGES = (1, 16, 64, 256, 1024, 4096, 16384)
"""Smallest number of pixels in each bin of sizes; 1024 = 32 x 32 is where COCO's small objects end."""

FOUND_SHARE = 0.5
"""An object is found if at least this share of its pixels is predicted as its class."""


class ObjectCounts:
    """Objects by class and size, of all images together; what an image's border cuts off counts by what is inside.

    Attributes:
        objects: `(C, sizes)` int64: objects in the label.
        found: Those of which at least `FOUND_SHARE` is predicted right.
        pixels: Their pixels.
        hits: Those of the pixels that are predicted right.
    """

    def __init__(self, num_classes: int) -> None:
        """Begins with no image."""
        self.objects, self.found, self.pixels, self.hits = np.zeros((4, num_classes, len(SIZE_EDGES)), np.int64)

    def add(self, label: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Counts the objects of an image; pixels of objects touch by an edge.

        Args:
            label: `(H, W)`: class ids; other values are no objects.
            prediction: `(H, W)`: class ids.
        """
        for index in np.unique(label):
            if index >= len(self.objects):  # the ignored id
                continue
            mask = (label == index).view(np.uint8)
            count, numbers = cv2.connectedComponents(mask, connectivity=4)
            inside = numbers.ravel()
            areas = np.bincount(inside, minlength=count)[1:]  # number 0 is everything else
            hits = np.bincount(inside[(prediction == index).ravel()], minlength=count)[1:]
            sizes = np.digitize(areas, SIZE_EDGES) - 1
            added = (np.ones_like(areas), hits >= FOUND_SHARE * areas, areas, hits)
            for total, values in zip((self.objects, self.found, self.pixels, self.hits), added, strict=True):
                np.add.at(total[index], sizes, values)

    @property
    def found_share(self) -> NDArray[np.float64]:
        """`(C, sizes)`: share of the objects that are found; nan where there is no object."""
        with np.errstate(invalid="ignore"):
            return self.found / self.objects

    @property
    def recall(self) -> NDArray[np.float64]:
        """`(C, sizes)`: share of the objects' pixels that are predicted right; nan where there is no object."""
        with np.errstate(invalid="ignore"):
            return self.hits / self.pixels


def size_names() -> list[str]:
    """Returns the bins of sizes in words, such as `16-63`, in pixels."""
    return [f"{low}-{high - 1}" for low, high in pairwise(SIZE_EDGES)] + [f"{SIZE_EDGES[-1]}+"]
