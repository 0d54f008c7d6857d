"""Weights by the argument `weights` of a builder: the sources and errors of a config's `pretrained`.

See `rsseg_tf.backbones.released`, which calls this.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from rsseg_tf.backbones.released import Built, built_by, is_model
from rsseg_tf.config.zoo import BackboneSection, C2FNet, ModelSection, Row
from rsseg_tf.errors import ConfigError
from rsseg_tf.files import StrPath
from rsseg_tf.files.cache import is_offline
from rsseg_tf.weights.presets import architecture_of
from rsseg_tf.weights.pretrained import LoadReport, Part, load_backbone, load_part, opened

__all__ = ["completed", "load_argument", "section_of"]

_LOG = logging.getLogger("rsseg_tf.weights")


def completed(name: str, arguments: Mapping[str, Any], source: StrPath) -> dict[str, Any]:
    """Returns arguments that a builder lacks and that follow from the weights: what a preset of keras-hub is.

    Args:
        name: Of the builder.
        arguments: That were given.
        source: The weights.

    Raises:
        WeightsError: When the preset cannot be had.
    """
    if name != "keras_hub" or arguments.get("architecture") is not None:
        return {}
    architecture, options = architecture_of(os.fspath(source), offline=is_offline())
    return {"architecture": architecture, "options": {**options, **arguments.get("options", {})}}


def load_argument(model: Any, source: StrPath) -> LoadReport:
    """Loads weights into a model that one of our builders has just built.

    What was loaded is logged as `rsseg_tf.weights`, level INFO, in the lines that a training prints.

    Args:
        model: The `keras.Model` from a builder with the argument `weights`.
        source: What `pretrained` of a config takes.

    Returns:
        What was loaded.

    Raises:
        ConfigError: For named weights of another backbone or with other options.
        WeightsError: When the source cannot be had or read, or does not fit. Nothing is assigned then.
    """
    text, section = os.fspath(source), section_of(model, source)
    if isinstance(section, BackboneSection):
        report = load_backbone(model, section, text)
    elif isinstance(section, ModelSection):
        prefix = "fine/" if isinstance(section, C2FNet) else ""
        paths = [variable.path for variable in model.weights]
        own = tuple(path.removeprefix(prefix) for path in paths if path.startswith(prefix))
        report = load_part(
            model, Part("model", section, text, own, prefix, whole=True), opened(section, text, offline=False)
        )
    _LOG.info("%s", report.summary())
    return report


def section_of(model: Any, source: StrPath | None = None) -> Row:
    """Returns the section of a config that describes a model of one of our builders.

    Args:
        model: The `keras.Model` from such a builder; its backbone may be somebody else's.
        source: What `pretrained` of the section names.

    Raises:
        ConfigError: When the arguments could not stand in a config.
    """
    built = built_by(model)
    if built is None:
        raise ConfigError(f"The model '{model.name}' is not from one of the builders that a config can name.")
    row = _row(built.name)
    values = {**_values(built, row), **({} if source is None else {"pretrained": os.fspath(source)})}
    try:
        return row.model_validate_json(json.dumps(values, default=dict))  # lists for tuples, as in a config
    except ValidationError as error:
        problems = [str(problem.get("ctx", {}).get("error", problem["msg"])) for problem in error.errors()]
        raise ConfigError(f"{built.name} cannot have the weights {source}: {' '.join(problems)}") from error


def _values(built: Built, row: type[Row]) -> dict[str, Any]:
    """Returns a model as plain values for a section."""
    values: dict[str, Any] = {"name": built.name}
    for key, value in built.arguments.items():
        if is_model(value):
            inner = built_by(value)
            # Files with names of layers cannot be translated for what nobody here knows; checkpoints of ours fit.
            custom = {"name": "custom", "builder": "own:model"}
            values[key] = custom if inner is None else _values(inner, _row(inner.name))
        elif key in row.model_fields and key not in row.own:
            values[key] = value
    return values


def _row(name: str) -> type[Row]:
    """Returns the row of the zoo that a name stands in."""
    return next(row for row in (*_below(BackboneSection), *_below(ModelSection)) if name in _names(row))


def _below(kind: type[Row]) -> Iterator[type[Row]]:
    for row in kind.__subclasses__():
        yield row
        yield from _below(row)


def _names(row: type[Row]) -> tuple[str, ...]:
    annotation: Any = row.model_fields["name"].annotation
    return getattr(annotation, "__args__", ())
