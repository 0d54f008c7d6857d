"""Class weights from the class histogram of a dataset."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["inverse_log_weights", "median_frequency_weights"]


def median_frequency_weights(pixels: Sequence[int], pixels_around: Sequence[int]) -> tuple[float, ...]:
    """Class weights by median frequency balancing: `median(f) / f[c]`.

    `f[c]` is the share of class c among the labelled pixels of the images that hold it (Eigen and Fergus, Predicting
    Depth, Surface Normals and Semantic Labels, ICCV 2015). A class without pixels gets 1, which has no effect.

    Args:
        pixels: Pixels of each class.
        pixels_around: For each class, the labelled pixels of all images that hold it.
    """
    shares = [own / around if own else math.nan for own, around in zip(pixels, pixels_around, strict=True)]
    known = [share for share in shares if not math.isnan(share)]
    if not known:
        return (1.0,) * len(shares)
    median = float(np.median(known))
    return tuple(_rounded(median / share) if not math.isnan(share) else 1.0 for share in shares)


def inverse_log_weights(pixels: Sequence[int]) -> tuple[float, ...]:
    """Class weights `1 / ln(1.02 + p[c])`, with p the share of class c among all labelled pixels.

    Between 1.4 (a class that covers all) and 50.5 (one that does not occur); gentler than median frequency (Paszke et
    al., ENet, arXiv:1606.02147).

    Args:
        pixels: Pixels of each class.
    """
    total = sum(pixels)
    return tuple(_rounded(1 / math.log(1.02 + (count / total if total else 0.0))) for count in pixels)


def _rounded(value: float) -> float:
    """Returns four significant digits, which is more than class weights need."""
    return float(f"{value:.4g}")
