"""What a file of weights says about its classes and its training, and how its classes compare with a dataset's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.errors import WeightsError

__all__ = ["Labels", "class_order", "find_labels", "find_training_config", "palette_note"]

_MOST_CLASSES, _LONGEST_NAME = 1000, 200
_LONGEST_CONFIG = 1_000_000  # characters; those of mmsegmentation have some ten thousand
_LISTED = 8


@dataclass(frozen=True)
class Labels:
    """Classes as a file names them.

    Attributes:
        classes: Names in the order of the logits.
        palette: A colour (red, green, blue) for each, 0..255; empty where the file has none.
    """

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = ()


def find_labels(value: Any) -> Labels | None:
    """Returns the classes that a checkpoint of mmsegmentation keeps beside its weights, or None.

    Version 0.x has them in `meta` as CLASSES and PALETTE, version 1.x in `dataset_meta` of `meta`.

    Args:
        value: What is in the file, of plain types.
    """
    meta = value.get("meta") if isinstance(value, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    inner = meta.get("dataset_meta")
    facts = {str(key).lower(): item for key, item in (inner if isinstance(inner, Mapping) else meta).items()}
    classes, palette = facts.get("classes"), facts.get("palette")
    if not isinstance(classes, list | tuple) or not 0 < len(classes) <= _MOST_CLASSES:
        return None
    if not all(isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable() for name in classes):
        return None
    return Labels(tuple(classes), _colours(palette, len(classes)))


def find_training_config(value: Any) -> str | None:
    """Returns the text of the config that a checkpoint of mmsegmentation keeps beside its weights, or None.

    Args:
        value: What is in the file, of plain types.
    """
    meta = value.get("meta") if isinstance(value, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    texts = [text for key in ("cfg", "config") if isinstance(text := meta.get(key), str)]
    return next((text for text in texts if len(text) <= _LONGEST_CONFIG), None)


def _colours(palette: Any, count: int) -> tuple[tuple[int, int, int], ...]:
    try:
        colours = np.asarray(palette, np.int64)
    except (TypeError, ValueError, OverflowError):
        return ()
    if colours.shape != (count, 3) or colours.min() < 0 or colours.max() > 255:
        return ()
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colours)


def class_order(labels: Labels, spec: DatasetSpec, source: str) -> tuple[int, ...] | None:
    """Returns where the dataset's classes are among those of a file; None where they are the same in the same order.

    Names are the same if they differ in case, blanks, hyphens and underscores alone.

    Args:
        labels: The file's classes.
        spec: The dataset.
        source: How messages call the file.

    Raises:
        WeightsError: When a class has another name or is missing.
    """
    ours, theirs = [_spelled(name) for name in spec.classes], [_spelled(name) for name in labels.classes]
    if ours == theirs:
        return None
    if sorted(ours) != sorted(theirs) or len(set(ours)) != len(ours):
        raise WeightsError(
            f"{source} tells the {len(theirs)} classes {_listed(labels.classes)} apart; the dataset '{spec.name}' has "
            f"the {len(ours)} classes {_listed(spec.classes)}. Allowed are the same names in any order. Name the "
            "file's classes in the config (dataset.name custom, dataset.classes), or take its backbone alone "
            "(model.backbone.pretrained, or --part backbone)."
        )
    return tuple(theirs.index(name) for name in ours)


def palette_note(labels: Labels, spec: DatasetSpec) -> str | None:
    """Returns a line about classes whose colours in the file are not the dataset's, whose names are the same."""
    theirs = dict(zip(map(_spelled, labels.classes), labels.palette, strict=False))
    other = [
        f"{name} {theirs[_spelled(name)]}, here {tuple(colour)}"
        for name, colour in zip(spec.classes, spec.palette, strict=True)
        if theirs.get(_spelled(name), colour) != colour
    ]
    if not other:
        return None
    return f"palette: {len(other)} classes have other colours in the file ({_listed(other, 3)}); the dataset's stay"


def _spelled(name: str) -> str:
    return "".join(character for character in name.casefold() if character not in " _-")


def _listed(names: Sequence[str], most: int = _LISTED) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
