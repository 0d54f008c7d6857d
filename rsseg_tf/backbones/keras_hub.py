"""Any backbone of keras-hub with a feature pyramid.

A network that takes images of any size is used as it is. Others (vision transformers, whose positions are laid out for
one size) see the image in windows of that size, side by side; in training and in prediction by windows there is one.

A vision transformer has features of one stride. They become those of strides 4, 8, 16 and 32 as in ViTDet: by
transposed convolutions and a pooling, which are trained. Li et al., Exploring Plain Vision Transformer Backbones for
Object Detection, https://arxiv.org/abs/2203.16527.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras

from rsseg_tf.backbones.any_size import feature_name, of_any_size
from rsseg_tf.backbones.released import takes_weights
from rsseg_tf.errors import ConfigError, did_you_mean, reason
from rsseg_tf.extras import install_command
from rsseg_tf.files import StrPath
from rsseg_tf.layers import BatchNorm, JoinWindows, SplitWindows, automatic_name, numbered_from_the_start

__all__ = ["NECK", "NOT_OPTIONS", "hub_backbone_names", "hub_input_shape", "hub_network", "keras_hub"]

NECK = "neck_"
"""What the names of layers begin with that are no part of the network: they are new, and trained where it is frozen."""

_SIDE = 512  # at which strides are measured
NOT_OPTIONS = frozenset({"name", "trainable", "dtype", "image_shape", "input_shape"})
"""What the config of a preset's network holds beside its options."""

_STRIDE = 16  # of the features of a vision transformer, whose image is scaled where its patches have another side


@takes_weights
def keras_hub(
    *,
    architecture: str | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
    image_size: int = 512,
    in_channels: int = 3,
    weights: StrPath | None = None,
) -> keras.Model:
    """Builds a backbone of keras-hub.

    Args:
        architecture: Name of its class, e.g. "CSPNetBackbone". None, for a preset that nobody has looked up yet, is an
            error; see `rsseg_tf.weights.presets.with_preset`.
        options: Keyword arguments of that class, but for the image's shape.
        image_size: Side of the windows that a network of one size sees, a multiple of 32. Others do not use it.
        in_channels: Channels of the input image.
        weights: Of the backbone, see `rsseg_tf.backbones`; None for random ones.

    Returns:
        A model from images (B, H, W, in_channels) to features by stride, "c1" (2) to "c5" (32), those that the network
        has.

    Raises:
        ConfigError: Without keras-hub, when it has no such backbone with a feature pyramid, or when that does not take
            the options.
    """
    if image_size < 32 or image_size % 32:
        raise ConfigError(f"image_size must be a multiple of 32; got {image_size}.")
    if architecture is None:
        raise ConfigError(
            "the backbone keras_hub has no `architecture`. Training looks it up in the preset; elsewhere name it."
        )
    image = keras.Input((None, None, in_channels), name="image")
    network = hub_network(architecture, options, image_size, in_channels)
    side = hub_input_shape(network)[0]
    if side is None:
        features = of_any_size(image, lambda x: _by_stride(network, x))
    else:
        features = _by_windows(network, side, image_size, image)
    return keras.Model(image, features, name=automatic_name(architecture))


def hub_network(architecture: str, options: Mapping[str, Any], image_size: int = 512, in_channels: int = 3) -> Any:
    """Returns the backbone of keras-hub itself; arguments and errors as `keras_hub`.

    Its input has no fixed size where the network can do without.
    """
    kind = _class_of(architecture)
    given = {key: value for key, value in options.items() if key not in NOT_OPTIONS}
    try:
        return _built(kind, given, (None, None, in_channels))
    except (TypeError, ValueError):
        pass  # it must know the size, or it does not take the options, which is seen now
    # Patches of 14 pixels, say, give a map of stride 16 where the window is scaled by 14 / 16.
    patch = given.get("patch_size", _STRIDE)
    side = image_size // _STRIDE * patch if isinstance(patch, int) else image_size
    try:
        return _built(kind, given, (side, side, in_channels))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"keras-hub's {architecture} does not take the options: {reason(error)}.") from error


def hub_input_shape(network: Any) -> tuple[int | None, int | None, int]:
    """Returns height, width and bands of the images that a network of keras-hub takes; None for any size."""
    return tuple(keras.tree.flatten(network.input)[0].shape[1:])


def hub_backbone_names() -> list[str]:
    """Returns the classes of keras-hub that are backbones with a feature pyramid.

    Raises:
        ConfigError: Without keras-hub.
    """
    models = _models()
    base = models.FeaturePyramidBackbone
    found = {name: value for name, value in vars(models).items() if isinstance(value, type) and issubclass(value, base)}
    return sorted(name for name, value in found.items() if value is not base)


def _models() -> Any:
    try:
        return importlib.import_module("keras_hub").models
    except ImportError as error:
        raise ConfigError(f"A backbone of keras-hub needs keras-hub: {install_command('hub')} ({error}).") from error


def _class_of(architecture: str) -> Any:
    names = hub_backbone_names()
    if architecture not in names:
        raise ConfigError(
            f"keras-hub has no backbone '{architecture}' with a feature pyramid."
            f"{did_you_mean(architecture, names)} It has {', '.join(names)}."
        )
    return getattr(_models(), architecture)


def _built(kind: Any, options: Mapping[str, Any], shape: tuple[int | None, int | None, int]) -> keras.Model:
    """Returns the network for images of a shape; `from_config` also turns what a preset's config holds into objects."""
    parameters = inspect.signature(kind.__init__).parameters
    key = next(key for key in ("image_shape", "input_shape") if key in parameters)
    with numbered_from_the_start():
        return kind.from_config({**options, key: shape})


def _by_stride(network: keras.Model, x: Any) -> dict[str, Any]:
    """Returns the pyramid of a network that takes any size; keys of some say another stride than they have."""
    pyramid = keras.Model(network.input, network.pyramid_outputs, name="network")
    channels = x.shape[-1]
    shapes = pyramid.compute_output_shape(_as_input(network, (1, _SIDE, _SIDE, channels)))
    outputs = pyramid(_as_input(network, x))
    names = {key: feature_name(shape[1], _SIDE) for key, shape in shapes.items()}
    return {name: outputs[key] for key, name in names.items() if name is not None}


def _as_input(network: keras.Model, image: Any) -> Any:
    """Returns an image as a network takes it: some have a dictionary of one entry."""
    return {key: image for key in network.input} if isinstance(network.input, dict) else image


def _by_windows(network: keras.Model, side: int, size: int, image: Any) -> dict[str, Any]:
    """Returns the features of a network for images of `side` pixels, which sees an image in windows of `size`."""
    windows = SplitWindows(size, name="windows")(image)
    scaled = windows if side == size else keras.layers.Resizing(side, side, name="scaled")(windows)
    outputs = keras.Model(network.input, network.pyramid_outputs, name="network")(_as_input(network, scaled))
    if any(len(output.shape) == 3 for output in outputs.values()):
        features = _pyramid_of_tokens(outputs, size // _STRIDE)
    else:
        names = {key: feature_name(output.shape[1], side) for key, output in outputs.items()}
        features = {name: outputs[key] for key, name in sorted(names.items()) if name is not None}
    return {
        name: JoinWindows(size, 2 ** int(name[1:]), name=f"{name}_join")(feature, image)
        for name, feature in features.items()
    }


def _pyramid_of_tokens(outputs: Mapping[str, Any], side: int) -> dict[str, Any]:
    """Returns the features c2 to c5 of a vision transformer, from the tokens at a quarter of its depth and so on."""
    blocks = [key for key in outputs if key != "stem"]
    chosen = [outputs[blocks[math.ceil(len(blocks) * quarter / 4) - 1]] for quarter in (1, 2, 3, 4)]
    maps = []
    for name, tokens in zip(("c2", "c3", "c4", "c5"), chosen, strict=True):
        prefix = tokens.shape[1] - side**2  # tokens of the whole image come first
        patches = keras.layers.Cropping1D((prefix, 0), name=f"{name}_patches")(tokens) if prefix else tokens
        maps.append(keras.layers.Reshape((side, side, tokens.shape[-1]), name=f"{name}_map")(patches))
    return {
        "c2": _up(_up(maps[0], f"{NECK}c2_up1", activation=True), f"{NECK}c2_up2"),
        "c3": _up(maps[1], f"{NECK}c3_up"),
        "c4": maps[2],
        "c5": keras.layers.MaxPooling2D(2, name=f"{NECK}c5_pool")(maps[3]),
    }


def _up(x: Any, name: str, *, activation: bool = False) -> Any:
    """Doubles the sides of (B, H, W, C) by a transposed convolution."""
    x = keras.layers.Conv2DTranspose(x.shape[-1], 2, strides=2, name=name)(x)
    if not activation:
        return x
    return keras.layers.Activation("gelu", name=f"{name}_gelu")(BatchNorm(name=f"{name}_bn")(x))
