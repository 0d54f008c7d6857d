"""Options of windows and test-time augmentation, from a caller's to those of the engine."""

from __future__ import annotations

import dataclasses
import numbers
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rsseg_tf.errors import ConfigError
from rsseg_tf.rasters.windows import Size

if TYPE_CHECKING:
    from rsseg_tf.predict import InferenceOptions
    from rsseg_tf.predictors import Predictor

__all__ = ["changed_options", "prediction_changes", "size_of", "windows_note"]

_AUGMENTATION = ("scales", "flip_horizontal", "flip_vertical", "rotate90")


def size_of(name: str, sides: Any, *, width_first: bool = False) -> Size:
    """Returns a size that a caller gave as two numbers.

    Args:
        name: Name of the option, for messages.
        sides: Two whole numbers of pixels, at least 1.
        width_first: Whether the width comes first, as in PaddleSeg's options.

    Raises:
        ConfigError: For anything else.
    """
    order = "(width, height)" if width_first else "(height, width)"
    try:
        first, second = (operator.index(side) for side in sides)
    except (TypeError, ValueError):
        first = second = 0
    if min(first, second) < 1:
        raise ConfigError(f"--{name} takes two whole numbers of at least 1, {order}; got {sides!r}.")
    return Size(second, first) if width_first else Size(first, second)


def prediction_changes(switch: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of `InferenceOptions` that a caller sets; the model decides all others.

    Args:
        switch: Name of the augmentation flag, for messages.
        values: `augmented`, `scales`, `flip_horizontal`, `flip_vertical`, `rotate90`, `is_slide`, `crop_size` and
            `stride` (width first), and `blend`.

    Raises:
        ConfigError: For options without effect, or windows without a size.
    """
    from rsseg_tf.predict import InferenceOptions

    changes: dict[str, Any] = {}
    augmentation = {name: values[name] for name in _AUGMENTATION}
    if values["augmented"]:
        scales = tuple(values["scales"] or (1.0,))
        if not all(isinstance(scale, numbers.Real) for scale in scales):
            raise ConfigError(f"--scales takes one or more numbers above 0; got {values['scales']!r}.")
        changes |= augmentation | {"scales": scales}
    elif any(augmentation.values()):
        given = next(name for name, value in augmentation.items() if value)
        raise ConfigError(f"--{given} has an effect with --{switch} only; add --{switch} or leave it out.")
    if values["is_slide"]:
        named = [name for name in ("crop_size", "stride") if values[name]]
        sizes = {name: size_of(name, values[name], width_first=True) for name in named}
        changes |= {"is_slide": True, **sizes}
    elif values["crop_size"] or values["stride"]:
        raise ConfigError("--crop_size and --stride have an effect with --is_slide only; add it or leave them out.")
    if values["blend"]:
        changes["blend"] = values["blend"]
    InferenceOptions(**changes)  # raises for wrong values before a model is loaded
    return changes


def changed_options(options: InferenceOptions, changes: Mapping[str, Any]) -> InferenceOptions:
    """Returns a model's options with the fields of `prediction_changes`; a blend implies windows."""
    options = dataclasses.replace(options, **changes)
    return options.with_blend(changes["blend"]) if "blend" in changes else options


def windows_note(predictor: Predictor, changes: Mapping[str, Any]) -> str | None:
    """Returns a note for a model that cuts images into windows which a checkpoint would predict whole, or None.

    Args:
        predictor: The opened model.
        changes: From `prediction_changes`.
    """
    manifest = predictor.manifest
    if manifest is None or changes.get("is_slide") or manifest.inference.is_slide:
        return None
    if predictor.kind == "server":
        size = manifest.crop_size
        why = "a server gets one window per request"
    elif predictor.tile is not None:
        size = predictor.tile
        why = "the file takes images of that size only"
    else:
        return None
    return (
        f"images larger than {size} pixels are predicted by windows of that size, because {why}. A "
        "checkpoint, and an export of any size, predicts images of up to 2048x2048 pixels whole, with other labels "
        "here and there."
    )
