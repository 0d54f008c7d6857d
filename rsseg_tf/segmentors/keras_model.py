"""A Keras model of a user's own, as text that a config and so every checkpoint holds.

The text is what Keras writes for a model, without weights, as JSON. Types of activations that a run decides on
(`train.precision`) are left out. Layers without a name of their own are numbered from the start, so that a program
writes the same in each process, whatever was built before. Layers of one's own must be registered with Keras
(`keras.saving.register_keras_serializable`), and their modules be imported before a model is built again: by the
program, or by this package where RSSEG_TF_PLUGINS allows it (see `rsseg_tf.plugins`).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Container, Iterator, Mapping
from typing import Any

import keras

from rsseg_tf.errors import ConfigError, reason
from rsseg_tf.layers import automatic_name, numbered_from_the_start
from rsseg_tf.plugins import PLUGINS_VARIABLE, import_allowed

__all__ = ["architecture_of_model", "copy_weights", "keras_model"]

_POLICY = "DTypePolicy"
_KNOWN = ("builtins", "keras", "keras_hub", "rsseg_tf")


def architecture_of_model(model: keras.Model) -> str:
    """Returns a model without its weights as text, from which `keras_model` builds it again.

    Args:
        model: A functional or Sequential model.

    Raises:
        ConfigError: When it has no inputs and outputs, or Keras cannot write it.
    """
    return _written(model)[0]


def _written(model: keras.Model) -> tuple[str, dict[str, str]]:
    """Returns the text of a model, and for each of its layers the name that it has there."""
    if not isinstance(model, keras.Model) or getattr(model, "inputs", None) is None:
        raise ConfigError(
            "The model must be a keras.Model with inputs and outputs (functional or Sequential); got "
            f"{type(model).__name__}. Write keras.Model(image, logits), with image = keras.Input((None, None, bands))."
        )
    try:
        values = keras.saving.serialize_keras_object(model)
        values.pop("compile_config", None)
        # As JSON has it: lists for tuples.
        values = json.loads(json.dumps(_without_policies(values)))
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(
            f"Keras cannot write the model '{model.name}': {reason(error)}. A layer of your own needs get_config and "
            "@keras.saving.register_keras_serializable()."
        ) from error
    values["config"]["name"] = automatic_name(values["class_name"]) if _numbered(values) else model.name
    names = _renumber(values["config"])
    return json.dumps(values), names


def keras_model(*, architecture: str) -> keras.Model:
    """Builds a model from its text, with random weights.

    Args:
        architecture: From `architecture_of_model`.

    Returns:
        A model as it was written.

    Raises:
        ConfigError: When a layer of a user's own is unknown, or the text is none of a model. Code inside of the text
            (Lambda layers) does not run.
    """
    modules: list[str] = []
    try:
        values = json.loads(architecture)
        modules = sorted({name for name in _modules(values) if name.partition(".")[0] not in _KNOWN})
        for module in modules:
            if module not in sys.modules:
                import_allowed(module)
        with numbered_from_the_start():  # variables inside of layers
            model = keras.saving.deserialize_keras_object(values, safe_mode=True)
    except ConfigError:
        raise
    except Exception as error:  # a layer of a user's own may raise anything
        own = ", ".join(modules)
        remedy = f" It has layers of {own}: import that first, or allow it by {PLUGINS_VARIABLE}." if modules else ""
        told = reason(error).partition(" Full object config:")[0].rstrip(".")
        raise ConfigError(f"The model in model.architecture cannot be built: {told}.{remedy}") from error
    if not isinstance(model, keras.Model):
        raise ConfigError(f"model.architecture is of a {type(model).__name__}, not of a model.")
    return model


def copy_weights(model: keras.Model, built: keras.Model, *, back: bool = False) -> None:
    """Copies all weights from a model to one that was built from its text.

    Args:
        model: The model whose text it is.
        built: From `keras_model`; more layers without weights may stand behind its logits.
        back: Whether to copy from `built` to `model` instead.

    Raises:
        ConfigError: When the text does not give the same model again.
    """
    of_built = {layer.name: layer for layer in built.layers}
    names = _written(model)[1]
    try:
        for own in model.layers:
            if own.weights:
                other = of_built[names[own.name]]
                source, target = (other, own) if back else (own, other)
                target.set_weights(source.get_weights())
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"The model '{model.name}' changes when Keras writes and reads it: {reason(error)}. Let get_config return "
            "all arguments of your own layers."
        ) from error


def _renumber(config: dict[str, Any]) -> dict[str, str]:
    """Numbers layers that Keras named from the start, in the text of a model and of models inside of it.

    Returns:
        For each layer of the outer model its new name.
    """
    layers = [layer for layer in config["layers"] if "name" in layer["config"]]
    chosen = {layer["config"]["name"] for layer in layers if layer["config"]["name"] != _numbered(layer)}
    names: dict[str, str] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        before = layer["config"]["name"]
        if before not in chosen:
            kind = automatic_name(layer["class_name"])
            names[before] = _next(kind, counts, chosen)
        else:
            names[before] = before
        layer["config"]["name"] = names[before]
        if "name" in layer:
            layer["name"] = names[before]
        if isinstance(layer["config"].get("layers"), list):
            _renumber(layer["config"])
    for part in (*(layer.get("inbound_nodes") for layer in layers), config.get("input_layers"),
                 config.get("output_layers")):  # fmt: skip
        _rename(part, names)
    return names


def _numbered(layer: dict[str, Any]) -> str | None:
    """Returns a layer's name if it is Keras that gave it."""
    name = str(layer["config"]["name"])
    return name if re.fullmatch(rf"{automatic_name(layer['class_name'])}(_\d+)?", name) else None


def _next(kind: str, counts: dict[str, int], taken: Container[str]) -> str:
    """Returns the next name of a kind that nobody has chosen."""
    while True:
        number = counts[kind] = counts.get(kind, -1) + 1
        name = f"{kind}_{number}" if number else kind
        if name not in taken:
            return name


def _rename(value: Any, names: Mapping[str, str]) -> None:
    """Renames layers in references to their outputs, `[layer, node, tensor]`, wherever they are."""
    if isinstance(value, list):
        if len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int):
            value[0] = names.get(value[0], value[0])
        for one in value:
            _rename(one, names)
    elif isinstance(value, dict):
        for one in value.values():
            _rename(one, names)


def _without_policies(values: Any) -> Any:
    """Leaves out the types of activations that all layers share, so that a run can decide on them.

    Beside mixed precision, a layer of float32 was made so on purpose.
    """
    found = set(_policies(values))
    dropped = found - {"float32"} or found

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(one) for key, one in value.items() if key != "dtype" or _policy(one) not in dropped}
        return [stripped(one) for one in value] if isinstance(value, list | tuple) else value

    return stripped(values)


def _policy(value: Any) -> str | None:
    if isinstance(value, dict) and value.get("class_name") == _POLICY:
        return str(value["config"]["name"])
    return None


def _policies(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if (name := _policy(value)) is not None:
            yield name
        for one in value.values():
            yield from _policies(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _policies(one)


def _modules(value: Any) -> Iterator[str]:
    """Yields the modules of all classes and functions in a text of Keras."""
    if isinstance(value, dict):
        if isinstance(value.get("module"), str) and "class_name" in value:
            yield value["module"]
        for one in value.values():
            yield from _modules(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _modules(one)
