"""What PaddleSeg's models computed, as `generate.py` wrote it."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def stored(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a model."""
    with np.load(Path(__file__).parent / f"{name}.npz") as file:
        return dict(file)


def shapes_of(arrays: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a model's tensors by their names."""
    return {name: tuple(map(int, sizes.split(","))) for name, sizes in map(str.split, arrays["tensors"])}
