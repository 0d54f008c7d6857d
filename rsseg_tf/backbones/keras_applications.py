"""Any model of keras.applications as a backbone.

Its own graph is used, without the classifier. A feature is the last tensor of its stride that everything behind it
passes through, so that what is handed on is whole: not one arm of a residual block, nor a map that was padded for the
next convolution. Layers that scale pixels are left out; the dataset's normalisation takes their place (see
`rsseg_tf.weights.applications`).
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np

from rsseg_tf.backbones.any_size import feature_name, of_any_size
from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError, did_you_mean, reason
from rsseg_tf.files import StrPath
from rsseg_tf.layers import LayerScale, automatic_name, numbered_from_the_start

__all__ = ["application_names", "keras_applications", "released_network", "tensors_of"]

# The side at which strides are measured: large enough that a stride-32 map without padding is still told from others.
_SIDE = 512
# Layers of scaling and padding: the former are left out, the latter give maps that are no features.
_SCALING = (keras.layers.Rescaling, keras.layers.Normalization)
_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})
_PADDING = (keras.layers.ZeroPadding2D, keras.layers.Cropping2D)


def application_names() -> list[str]:
    """Returns the names of the models that keras.applications has."""
    found = vars(keras.applications).items()
    return sorted(name for name, value in found if name[:1].isupper() and inspect.isfunction(value))


@takes_weights
def keras_applications(
    *,
    model: str,
    options: Mapping[str, Any] = _NO_OPTIONS,
    in_channels: int = 3,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a model of keras.applications as a backbone.

    Args:
        model: Its name there, e.g. "MobileNetV2"; case counts.
        options: Keyword arguments of that function, such as `{"alpha": 0.5}`.
        in_channels: Channels of the input image.
        weights: Of the backbone, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, in_channels) to features by stride, "c1" (2) to "c5" (32), those that the network
        has. Networks without padding (Inception, Xception) give slightly smaller maps.

    Raises:
        ConfigError: When there is no such model, or it does not take the options.
    """
    names = application_names()
    if model not in names:
        raise ConfigError(
            f"keras.applications has no model '{model}'.{did_you_mean(model, names)} It has {', '.join(names)}."
        )
    network = _network(model, dict(options), in_channels)
    layers = _layers_of_features(network)
    image = keras.Input((None, None, in_channels), name="image")

    def features(x: Any) -> dict[str, Any]:
        own = _with__own_names(network, x)
        return {name: own.layers[index].output for name, index in layers.items()}

    return keras.Model(image, of_any_size(image, features), name=model.lower())


def _network(model: str, options: dict[str, Any], in_channels: int) -> keras.Model:
    """Returns the network for images of `_SIDE` pixels; some have another structure where no size is given."""
    build = getattr(keras.applications, model)
    if "include_preprocessing" in inspect.signature(build).parameters:
        options = {"include_preprocessing": False, **options}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This model usually expects 1 or 3 input channels")
            return build(**options, include_top=False, weights=None, input_shape=(_SIDE, _SIDE, in_channels))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"keras.applications.{model} does not take the options {options}: {reason(error)}."
        ) from error


def released_network(model: str, options: Mapping[str, Any], weights: str) -> keras.Model:
    """Returns a model of keras.applications for three bands with weights that it downloads and keeps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about sizes that the weights were not trained on
        return getattr(keras.applications, model)(**options, include_top=False, weights=weights, input_shape=None)


def tensors_of(network: keras.Model, backbone: keras.Model) -> dict[str, np.ndarray]:
    """Returns the weights of a network by the paths that they have in the same network as a backbone.

    What the backbone has no layer for is left out: what scales pixels, and what comes behind its last feature.
    """
    names = _own_names(network)
    own = {layer.name: layer for layer in backbone.layers}
    return {
        variable.path: np.asarray(weight)
        for layer in network.layers
        if names[layer.name] in own
        for weight, variable in zip(layer.weights, own[names[layer.name]].weights, strict=False)
    }


def _own_names(network: keras.Model) -> dict[str, str]:
    """Returns for each layer of a network of keras.applications the name that it has in the backbone.

    Keras numbers what keras.applications leaves without a name by how many layers a process has made; the backbone
    numbers it by how many of its kind stand before it.
    """
    numbered: dict[str, int] = {}
    names = {}
    for layer in network.layers:
        kind = automatic_name(type(layer).__name__)
        names[layer.name] = layer.name
        if re.fullmatch(rf"{kind}(_\d+)?", layer.name):
            numbered[kind] = numbered.get(kind, 0) + 1
            names[layer.name] = f"{kind}{numbered[kind]}"
    return names


def _with__own_names(network: keras.Model, image: Any) -> keras.Model:
    """Returns the same network on another input, its layers by their own names, without those that scale pixels."""
    names = _own_names(network)

    def renamed(layer: Any) -> Any:
        if layer.name not in names:  # an operation such as `+`, which is no layer
            return type(layer).from_config(layer.get_config())
        if isinstance(layer, _SCALING):
            return keras.layers.Identity(name=names[layer.name])
        if type(layer).__name__ == "LayerScale":  # ConvNeXt's cannot be read back from a file of Keras; ours can
            return LayerScale(initial=layer.get_config()["init_values"], name=names[layer.name])
        return type(layer).from_config({**layer.get_config(), "name": names[layer.name]})

    with numbered_from_the_start():  # variables that have no name of their own
        return keras.models.clone_model(network, input_tensors=image, clone_function=renamed)


def _layers_of_features(network: keras.Model) -> dict[str, int]:
    """Returns the place of each feature's layer in a network of `_SIDE` pixels, from the finest to the deepest."""
    layers = network.layers
    position = {layer: index for index, layer in enumerate(layers)}
    last_use = [
        max((position[node.operation] for node in layer._outbound_nodes if node.operation in position), default=index)
        for index, layer in enumerate(layers)
    ]
    whole: dict[str, int] = {}
    any_kind: dict[str, int] = {}
    reach = 0  # the last layer that takes an output from before this one
    for index, layer in enumerate(layers):
        name = _feature_of(layer)
        if name is not None:
            any_kind[name] = index
            if reach <= index:
                whole[name] = index
        reach = max(reach, last_use[index])
    return dict(sorted((any_kind | whole).items()))


def _feature_of(layer: keras.layers.Layer) -> str | None:
    """Returns the name of the feature that a layer's output could be."""
    shape = tuple(getattr(layer.output, "shape", ()))
    is_none = isinstance(layer, (*_SCALING, *_PADDING, keras.layers.InputLayer)) or len(shape) != 4
    return None if is_none else feature_name(shape[1], _SIDE)
