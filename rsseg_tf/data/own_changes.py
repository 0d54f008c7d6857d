"""A change to training samples of a user's own: the last one, on the finished crop.

It is a function of (image, label, seed) that returns image and label:

    def dim(image, label, seed):
        factor = np.random.default_rng(seed).uniform(0.5, 1.0)
        return (image * factor).astype(image.dtype), label

`image` is the crop `(H, W, bands)` after all other changes and before normalisation, in the files' unit and of the type
of `Augmentation.dtype`; `label` is `(H, W)` uint8, class ids or the ignored one. Both are the function's to overwrite.
`seed` is 0..2**31-1 and follows from the run's seed and the sample's position alone, so a function that draws from
nothing else is exact on resume. Several threads call it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.config.schema import Augment
from rsseg_tf.data.augment import uniform_numbers
from rsseg_tf.datasets.rules import ids_of
from rsseg_tf.datasets.spec import DatasetSpec, unknown_ids
from rsseg_tf.errors import ConfigError, DataError, RssegError, reason
from rsseg_tf.files.lists import Sample
from rsseg_tf.plugins import import_plugin

__all__ = ["Change", "OwnChange", "own_change", "own_seed"]

Change = Callable[[NDArray[Any], NDArray[np.uint8], int], tuple[NDArray[Any], NDArray[np.uint8]]]
"""A function of (image, label, seed) that returns image and label of the same shapes and types."""

_SEED = 27  # the use of a spare number of a draw, see `augment.draw_changes` and `sampling`


def own_seed(seed: int, position: int) -> int:
    """Returns what a change of a user's own gets as seed for a position in the stream of samples: 0..2**31-1."""
    return int(next(uniform_numbers(seed, position))[_SEED] * 2**31)


def own_change(augment: Augment, given: Change | None, spec: DatasetSpec) -> OwnChange | None:
    """Returns the change that a config or a program gives; None where neither does.

    Args:
        augment: Its `custom` names a function.
        given: A program's own.
        spec: Of the dataset.

    Raises:
        ConfigError: When both give one, or the config's module is not allowed, see `rsseg_tf.plugins`.
    """
    if augment.custom is None:
        return None if given is None else OwnChange(given, getattr(given, "__qualname__", type(given).__name__), spec)
    if given is not None:
        raise ConfigError(
            f"augment.custom is {augment.custom}, and the program gives an augmentation too; one is allowed. Call one "
            "from the other, or leave one out."
        )
    return OwnChange(import_plugin(augment.custom, "augment.custom"), augment.custom, spec)


class OwnChange:
    """Applies a user's function and refuses what would train something else than it says."""

    def __init__(self, function: Change, name: str, spec: DatasetSpec) -> None:
        """Keeps the function.

        Args:
            function: See this module's docstring.
            name: What to call it in errors.
            spec: Gives the ids that labels may hold.
        """
        self.function, self.name, self.spec = function, name, spec

    def __call__(
        self, image: NDArray[Any], label: NDArray[np.uint8], seed: int, sample: Sample
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Returns the changed image and label.

        Args:
            image: `(H, W, bands)`.
            label: `(H, W)` uint8.
            seed: For random numbers.
            sample: Where they come from, for errors.

        Raises:
            DataError: When the function fails, or gives other shapes, types or ids.
        """
        expected = ((image.shape, image.dtype), (label.shape, label.dtype))
        what = f"The augmentation {self.name}"
        try:
            result = self.function(image, label, seed)
        except RssegError:
            raise
        except Exception as error:  # a user's code may raise anything
            raise DataError(f"{what} failed on {sample.image}: {reason(error)}. Correct it.") from error
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise DataError(f"{what} must return (image, label); it returned {_short(result)} on {sample.image}.")
        for part, value, (shape, dtype) in zip(("an image", "a label"), result, expected, strict=True):
            if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != dtype:
                raise DataError(
                    f"{what} must return {part} {shape} of {dtype}, as it was given; it returned {_short(value)} on "
                    f"{sample.image}. Keep the size, and end with .astype({part.split()[1]}.dtype)."
                )
        if wrong := unknown_ids(ids_of(result[1]), self.spec.num_classes, self.spec.ignore_index):
            raise DataError(
                f"{what} must return labels of 0..{self.spec.num_classes - 1} and {self.spec.ignore_index} (ignored); "
                f"it returned {', '.join(map(str, wrong[:8]))} on {sample.image}. Correct it."
            )
        return result[0], result[1]


def _short(value: Any) -> str:
    """Describes a wrong result."""
    if isinstance(value, np.ndarray):
        return f"{value.shape} of {value.dtype}"
    return f"{len(value)} values" if isinstance(value, tuple | list) else type(value).__name__
