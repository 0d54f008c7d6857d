"""Boundary IoU: how well outlines agree, whatever the size of the objects.

Cheng et al., Boundary IoU: Improving Object-Centric Image Segmentation Evaluation, CVPR 2021, and its code
https://github.com/bowenc0221/boundary-iou-api (`mask_to_boundary`): of each mask only the pixels count that lie within
a distance of the pixels outside of the mask. The distance is a share of the image's diagonal.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["BOUNDARY_RATIO", "BoundaryCounts", "boundary", "boundary_width"]

BOUNDARY_RATIO = 0.02
"""Width of a boundary as a share of the image's diagonal: the paper's, and its code's default."""


class BoundaryCounts:
    """Pixels of boundaries, of all images together.

    As in the paper's code a mask that the image's border cuts off has a boundary there. Ignored pixels are taken out of
    label and prediction, so that both have the same boundary along them.

    Attributes:
        intersection: `(C,)` int64: pixels in the boundary of label and prediction.
        union: `(C,)` int64: pixels in the boundary of label or prediction.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255, ratio: float = BOUNDARY_RATIO) -> None:
        """Begins with no image.

        Args:
            num_classes: Number of classes.
            ignore_index: Label of pixels that do not count.
            ratio: See `BOUNDARY_RATIO`.
        """
        self._ignore_index, self._ratio = ignore_index, ratio
        self.intersection = np.zeros(num_classes, np.int64)
        self.union = np.zeros(num_classes, np.int64)

    def add(self, label: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        """Counts the pixels of an image.

        Args:
            label: `(H, W)` class ids.
            prediction: `(H, W)` class ids.
        """
        width = boundary_width(label.shape, self._ratio)
        counted = label != self._ignore_index
        for index in np.union1d(np.unique(label[counted]), np.unique(prediction[counted])):
            wanted = boundary((label == index) & counted, width)
            found = boundary((prediction == index) & counted, width)
            self.intersection[index] += np.count_nonzero(wanted & found)
            self.union[index] += np.count_nonzero(wanted | found)

    @property
    def class_iou(self) -> NDArray[np.float64]:
        """`(C,)` in 0..1; nan for a class that occurs in neither."""
        with np.errstate(invalid="ignore"):
            return self.intersection / self.union


def boundary_width(size: tuple[int, ...], ratio: float = BOUNDARY_RATIO) -> int:
    """Returns how wide boundaries are in pixels, at least 1, in an image of a size (height, width)."""
    return max(1, round(ratio * math.hypot(*size)))


def boundary(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Returns the pixels of a mask that lie within a distance of a pixel outside of it, or of the image's border.

    Args:
        mask: `(H, W)`.
        width: The distance in pixels, at least 1, as a king moves on a chessboard: the code erodes by 3 x 3 as often.
    """
    # What is beyond the image's border is outside. On a chessboard OpenCV's distances are exact, in time that does not
    # grow with the width.
    framed = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(framed, cv2.DIST_C, 3)[1:-1, 1:-1]
    return mask & (distance <= width)
