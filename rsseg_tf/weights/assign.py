"""Strict assignment of arrays to the variables of a model: nothing is left over on either side unless listed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from rsseg_tf.errors import WeightsError

__all__ = ["assign_variables", "assign_weights"]

# Names printed per kind of problem; a wrong map touches all of them, and the first few tell the pattern.
_MAX_LISTED = 5


def assign_weights(
    model: Any,
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    *,
    skip_arrays: Collection[str] = (),
    skip_variables: Collection[str] = (),
) -> None:
    """Sets every variable of a model from arrays in the layout of Paddle and torch.

    Convolution kernels turn from OIHW to HWIO, depthwise ones from (C, 1, H, W) to (H, W, C, 1); all other arrays are
    taken as they are. Nothing is assigned if anything is wrong.

    Args:
        model: A built `keras.Model`. To fill the backbone of a segmentor alone, pass the backbone.
        arrays: Floating-point arrays by their names in the file.
        names: Path of the variable for each of those names, see `rsseg_tf.weights.names`.
        skip_arrays: Names in `arrays` that are left unused on purpose, such as a classification head.
        skip_variables: Paths of variables that keep their values on purpose, such as the head for other classes.

    Raises:
        WeightsError: If an array is not used, a variable gets no array, a shape differs, a value is not finite, or a
            skip matches nothing.
    """
    variables = {variable.path: variable for variable in model.weights}
    problems: list[str] = []
    for what, skips, known in (("tensors", skip_arrays, arrays), ("variables", skip_variables, variables)):
        problems += _listed(f"{what} to skip that do not exist", (skip for skip in skips if skip not in known))
    left = {name: array for name, array in arrays.items() if name not in skip_arrays}
    wanted = {path: variable for path, variable in variables.items() if path not in skip_variables}
    skipped = set(skip_variables)
    names = {name: path for name, path in names.items() if path not in skipped and path in variables}
    _assign(wanted, left, names, f"model '{model.name}'", problems, channels_first=True)


def assign_variables(
    variables: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    what: str,
    *,
    channels_first: bool,
) -> None:
    """Sets some of a model's variables; every one of them and every array must find its partner.

    Args:
        variables: Variables by path.
        arrays: Floating-point arrays by name.
        names: Path of the variable for each name.
        what: How messages call the variables, e.g. "model.backbone".
        channels_first: Whether kernels are (out, in, height, width), as in files of Paddle and torch; else as in Keras.

    Raises:
        WeightsError: As `assign_weights`; nothing is assigned then.
    """
    _assign(variables, arrays, names, what, [], channels_first=channels_first)


def _assign(
    variables: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str],
    what: str,
    problems: list[str],
    *,
    channels_first: bool,
) -> None:
    left = dict(arrays)
    values: dict[str, np.ndarray] = {}
    missing, misshapen, not_finite = [], [], []
    for name, path in names.items():
        if name not in left:
            missing.append(f"{name} -> {path}")
            continue
        array = np.asarray(left.pop(name))
        shape = tuple(variables[path].shape)
        value = _channels_last(array, shape) if channels_first else array if array.shape == shape else None
        if value is None:
            misshapen.append(f"{name} {array.shape} -> {path} {shape}")
        elif not np.isfinite(value).all():
            not_finite.append(name)
        else:
            values[path] = value
    mapped = set(names.values())
    problems += _listed("tensors missing", missing)
    problems += _listed("tensors left over", left)
    problems += _listed("variables without a name in the map", (path for path in variables if path not in mapped))
    problems += _listed("shapes that differ", misshapen)
    problems += _listed("tensors with values that are not finite", not_finite)
    if problems:
        raise WeightsError(f"The weights do not fit {what}: " + "; ".join(problems) + ".")
    for path, value in values.items():
        variables[path].assign(value)


def _channels_last(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Returns the array in the layout of a variable of this shape, or None if it does not fit.

    A depthwise kernel is told from an ordinary one by its shape: an ordinary kernel of shape (H, W, C, 1) comes from
    (1, C, H, W), which a depthwise (C, 1, H, W) equals only for C = 1, where both transpositions agree.
    """
    if array.ndim == 4 and len(shape) == 4:
        ordinary = array.transpose(2, 3, 1, 0)
        if ordinary.shape == shape:
            return ordinary
        depthwise = array.transpose(2, 3, 0, 1)
        return depthwise if array.shape[1] == 1 and depthwise.shape == shape else None
    return array if array.shape == shape else None


def _listed(what: str, items: Iterable[str]) -> list[str]:
    """Returns one phrase with the number of items and the first few of them, or nothing if there are none."""
    items = list(items)
    if not items:
        return []
    more = f", and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return [f"{len(items)} {what}: {', '.join(items[:_MAX_LISTED])}{more}"]
