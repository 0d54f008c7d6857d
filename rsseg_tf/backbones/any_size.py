"""Images of any size for networks that want sides of some multiple."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from rsseg_tf.layers import CropToStride, PadToMultiple

__all__ = ["feature_name", "of_any_size"]

_STRIDE = 32
_LARGEST = 512
# Sizes that a network must take as they are; otherwise images are padded to multiples of its deepest stride.
_ODD_SIZES = ((1, 1), (33, 47), (75, 107))


def feature_name(side: int | None, of_image: int) -> str | None:
    """Returns the name of a feature by its side, "c1" for half of an image's, and so on to "c5"; None for no feature.

    Networks without padding give slightly smaller maps.
    """
    level = next((n for n in range(1, 6) if side and of_image / 1.2 < side * 2**n < of_image * 1.2), None)
    return None if level is None else f"c{level}"


def of_any_size(image: Any, build: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the features of an image, which is padded where the network does not take odd sizes.

    Args:
        image: (B, None, None, C).
        build: From an image to features by name; called once or twice.

    Returns:
        Features by name, from the finest to the deepest: sides are those of the image by the stride, rounded up, or
        less for networks without padding.
    """
    features = dict(sorted(build(image).items()))
    if all(_takes(image, features, *size) for size in _ODD_SIZES):
        return features
    least = next(side for side in range(_STRIDE, _LARGEST + 1, _STRIDE) if _takes(image, features, side, side))
    padded = PadToMultiple(_STRIDE, at_least=least, name="pad")(image)
    return {
        name: CropToStride(2 ** int(name[1:]), name=f"{name}_crop")(feature, image)
        for name, feature in sorted(build(padded).items())
    }


def _takes(image: Any, features: Mapping[str, Any], height: int, width: int) -> bool:
    """Whether features have pixels at a size, and parts of different strides fit each other."""
    try:
        shapes = keras.Model(image, dict(features)).compute_output_shape((1, height, width, image.shape[-1]))
    except ValueError:
        return False
    return all(min(shape) >= 1 for shape in shapes.values())
