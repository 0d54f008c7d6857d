"""Presets of keras-hub: its ResNets for ours, and any backbone of its own as it is.

Among the ResNets are the distilled (SSLD) ones that the benchmark's ResNet-50-D started from.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rsseg_tf.backbones.keras_hub import NOT_OPTIONS, hub_input_shape, hub_network
from rsseg_tf.config.named_weights import Normalisation, normalised_for
from rsseg_tf.config.zoo import KerasHub
from rsseg_tf.errors import WeightsError
from rsseg_tf.extras import install_command
from rsseg_tf.files.cache import is_offline
from rsseg_tf.layers import numbered_from_the_start
from rsseg_tf.weights.tensors import TensorFile

__all__ = [
    "architecture_of",
    "is_hub_preset",
    "is_preset",
    "normalisation_of",
    "preset_tensors",
    "read_network",
    "read_preset",
    "with_preset",
]

C = TypeVar("C", bound=Any)  # a config of either kind

_PRESET = re.compile(r"(?:(?:hf|kaggle|modelscope)://[\w./-]+|resnet_(?:vd_)?\d+[a-z0-9_]*)")
_STEM = re.compile(r"conv(\d)_(conv|bn)")
_BLOCK = re.compile(r"stack(\d+)_block(\d+)_(\d)_(conv|bn)")


def is_preset(source: str) -> bool:
    """Whether a source looks like the name of a preset: `resnet_vd_50_ssld_v2_imagenet`, `hf://…`, `kaggle://…`."""
    return _PRESET.fullmatch(source) is not None


def is_hub_preset(source: str) -> bool:
    """Whether a source names a preset for a backbone of keras-hub: any name, or a folder that keras-hub wrote."""
    path = Path(source)
    if source.startswith(("http://", "https://")) or path.is_file():
        return False
    return (path / "metadata.json").is_file() if path.is_dir() else path.suffix not in (".npz", ".h5", ".safetensors")


def read_preset(name: str, *, offline: bool) -> TensorFile:
    """Returns the weights of a ResNet of keras-hub, which keeps a cache of its own, for a ResNet of ours.

    Args:
        name: As keras-hub calls it.
        offline: Whether the network is forbidden; keras-hub cannot be told so, hence an error.

    Raises:
        WeightsError: Without keras-hub, offline, when it does not have the preset, or when that is no ResNet.
    """
    return TensorFile(name, "keras-hub", "", preset_tensors(_preset(name, offline=offline), name), by_path=True)


def read_network(name: str, section: KerasHub, *, offline: bool) -> TensorFile:
    """Returns the weights of a preset for the same network in our frame, see `rsseg_tf.backbones.keras_hub`.

    Args:
        name: The preset, or a folder with one.
        section: The backbone, whose architecture is known.
        offline: Whether the network is forbidden.

    Raises:
        WeightsError: When the preset cannot be had, or is of another architecture.
    """
    own = hub_network(str(section.architecture), dict(section.options), section.image_size)
    shape = hub_input_shape(own)
    network = _preset(name, offline=offline, **({} if shape[0] is None else {"image_shape": shape}))
    if type(network) is not type(own) or len(network.weights) != len(own.weights):
        raise WeightsError(
            f"The preset {name} is a {type(network).__name__} of {len(network.weights)} variables, and the backbone a "
            f"{section.architecture} of {len(own.weights)}. Leave architecture and options out, so that they are those "
            "of the preset."
        )
    # A preset may have a name of its own for the network, which then is in the paths; the order is the same.
    tensors = {variable.path: np.asarray(weight) for variable, weight in zip(own.weights, network.weights, strict=True)}
    return TensorFile(name, "keras-hub", "", tensors, by_path=True)


def architecture_of(name: str, *, offline: bool) -> tuple[str, dict[str, Any]]:
    """Returns the class of a preset's backbone, and its options as values of JSON."""
    network = _preset(name, offline=offline, load_weights=False)
    options = {key: value for key, value in network.get_config().items() if key not in NOT_OPTIONS}
    return type(network).__name__, json.loads(json.dumps(options))


def normalisation_of(name: str, *, offline: bool) -> Normalisation | None:
    """Returns how images are normalised for a preset, or None where it does not say.

    keras-hub has a factor and a summand for pixels from 0 to 255.
    """
    hub = _hub(name, offline=offline)
    try:
        converter = hub.layers.ImageConverter.from_preset(name)
    except Exception:  # a preset without a converter; every library that fetches has its own error
        return None
    scale = np.broadcast_to(np.float64(1.0 if converter.scale is None else converter.scale), 3)
    offset = np.broadcast_to(np.float64(0.0 if converter.offset is None else converter.offset), 3)
    return Normalisation(tuple((-offset / scale / 255).tolist()), tuple((1 / scale / 255).tolist()))


def with_preset(config: C, *, offline: bool = False) -> C:
    """Returns a config whose backbone of keras-hub is described in full, so that it is built without its preset.

    Architecture and options are those of the preset; options of the config win. Where the preset's weights are loaded,
    `mean` and `std` of a dataset that leaves them out are those that it was trained with.

    Args:
        config: Of a training or a pre-training.
        offline: Whether the network is forbidden.

    Raises:
        WeightsError: When the preset cannot be had.
    """
    model = getattr(config, "model", None)
    section = config.backbone if model is None else model.backbone
    if not isinstance(section, KerasHub) or section.architecture is not None:
        return config
    preset = str(section.preset or section.pretrained)
    architecture, options = architecture_of(preset, offline=offline or is_offline())
    known = section.model_copy(update={"architecture": architecture, "options": {**options, **section.options}})
    changed = {"backbone": known} if model is None else {"model": model.model_copy(update={"backbone": known})}
    if section.pretrained is not None:
        normalisation = normalisation_of(section.pretrained, offline=offline or is_offline())
        changed["dataset"] = normalised_for(config.dataset, normalisation)
    return config.model_copy(update=changed)


def _hub(name: str, *, offline: bool) -> Any:
    if offline and not Path(name).is_dir():
        raise WeightsError(f"{name} comes through keras-hub, which may use the network. Leave --offline out, once.")
    try:
        import keras_hub
    except ImportError as error:
        raise WeightsError(
            f"{name} is a preset of keras-hub, which is not installed: {install_command('hub')}."
        ) from error
    return keras_hub


def _preset(name: str, *, offline: bool, **options: Any) -> Any:
    """Returns a backbone of keras-hub, its variables under the paths that they have in every process."""
    hub = _hub(name, offline=offline)
    try:
        with numbered_from_the_start():
            return hub.models.Backbone.from_preset(name, **options)
    except Exception as error:  # of whatever library keras-hub fetches with
        raise WeightsError(f"keras-hub cannot give the preset {name}: {' '.join(str(error).split())}") from error


def preset_tensors(backbone: Any, name: str) -> dict[str, np.ndarray]:
    """Returns the weights of a `keras_hub.models.ResNetBackbone` by the paths of our variables.

    Raises:
        WeightsError: When it is another network, or a ResNet of the second version, whose blocks begin with
            normalisations.
    """
    tensors: dict[str, np.ndarray] = {}
    # The stem of a ResNet-D has three convolutions, which are numbered.
    deep = any(weight.path.startswith("conv3_conv/") for weight in backbone.weights)
    for weight in backbone.weights:
        layer, _, kind = weight.path.rpartition("/")
        if stem := _STEM.fullmatch(layer):
            layer, part = f"stem_conv{stem[1] if deep else ''}", stem[2]
        elif block := _BLOCK.fullmatch(layer):
            stack, index, conv = int(block[1]), int(block[2]), block[3]
            layer, part = f"stage{stack + 1}_block{index + 1}_{'shortcut' if conv == '0' else f'conv{conv}'}", block[4]
        else:
            raise WeightsError(f"The preset {name} is no ResNet of this package: it has a weight {weight.path}.")
        tensors[f"{layer}{'_bn' if part == 'bn' else ''}/{kind}"] = np.asarray(weight)
    return tensors
