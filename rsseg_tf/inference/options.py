"""How an image is predicted: whole or by windows, with or without test-time augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rsseg_tf.errors import ConfigError

__all__ = ["InferenceOptions", "check_window"]


@dataclass(frozen=True)
class InferenceOptions:
    """Options of a prediction, named as the original's command line names them.

    Attributes:
        scales: factors by which the image is resized; the logits of all are averaged.
        flip_horizontal: also predict the image mirrored left-right.
        flip_vertical: also predict it mirrored top-bottom; with `flip_horizontal`, also both at once.
        is_slide: predict overlapping windows instead of the whole image.
        crop_size: (width, height) of a window in pixels; with `is_slide` only.
        stride: (width, height) from one window to the next, at most `crop_size`; with `is_slide` only.
        batch_size: windows given to the model in one call.

    Raises:
        ConfigError: when a value is out of range, or window sizes are missing or have no effect.
    """

    scales: tuple[float, ...] = (1.0,)
    flip_horizontal: bool = False
    flip_vertical: bool = False
    is_slide: bool = False
    crop_size: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None
    batch_size: int = 1

    def __post_init__(self) -> None:
        check_scales(self.scales)
        check_batch_size(self.batch_size)
        if not self.is_slide:
            if self.crop_size is not None or self.stride is not None:
                raise ConfigError(
                    f"crop_size and stride are used with is_slide only; got crop_size {self.crop_size} and stride "
                    f"{self.stride} without it. Set is_slide, or leave both out."
                )
            return
        if self.crop_size is None or self.stride is None:
            raise ConfigError(
                f"is_slide needs crop_size and stride, each as width and height; got crop_size {self.crop_size} and "
                f"stride {self.stride}. Give both, for instance crop_size 512 512 and stride 384 384."
            )
        check_window(self.crop_size, self.stride)

    @property
    def flips(self) -> tuple[tuple[bool, bool], ...]:
        """The (horizontal, vertical) flips to predict; the unflipped image first."""
        return flip_combinations(self.flip_horizontal, self.flip_vertical)

    @property
    def is_augmented(self) -> bool:
        """Whether more than the image itself, at its own size, is predicted."""
        return self.scales != (1.0,) or len(self.flips) > 1


def flip_combinations(horizontal: bool, vertical: bool) -> tuple[tuple[bool, bool], ...]:
    """Returns the (horizontal, vertical) flips that two switches ask for: 1, 2 or 4, the identity first."""
    return tuple((h, v) for v in (False, True)[: 1 + vertical] for h in (False, True)[: 1 + horizontal])


def check_scales(scales: tuple[float, ...]) -> None:
    """Raises `ConfigError` unless there is at least one scale and all are finite and above 0."""
    if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise ConfigError(
            f"scales must be one or more numbers above 0; got {list(scales)}. Use 1.0 for the image's own size."
        )


def check_batch_size(batch_size: int) -> None:
    """Raises `ConfigError` unless `batch_size` is at least 1."""
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1; got {batch_size}. Use 1 if memory is short.")


def check_window(crop_size: tuple[int, int], stride: tuple[int, int]) -> None:
    """Raises `ConfigError` unless 1 <= stride <= crop_size for width and height.

    A stride larger than the window leaves pixels without a prediction. The original finds that out after all windows
    are predicted, and only where a gap arises; here it is refused before the first.
    """
    for name, size in (("crop_size", crop_size), ("stride", stride)):
        if len(size) != 2 or min(size) < 1:
            raise ConfigError(
                f"{name} must be two whole numbers above 0, width and height; got {tuple(size)}. "
                "Give for instance 512 512."
            )
    if stride[0] > crop_size[0] or stride[1] > crop_size[1]:
        raise ConfigError(
            f"stride must be at most crop_size in width and height, or pixels are left out; got stride {stride} and "
            f"crop_size {crop_size}. Lower the stride, for instance to three quarters of the window."
        )
