"""ResNets of keras-hub, among them the distilled (SSLD) ones that the benchmark's ResNet-50-D started from."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.tensors import TensorFile

__all__ = ["is_preset", "preset_tensors", "read_preset"]

_PRESET = re.compile(r"(?:(?:hf|kaggle|modelscope)://[\w./-]+|resnet_(?:vd_)?\d+[a-z0-9_]*)")
_STEM = re.compile(r"conv(\d)_(conv|bn)")
_BLOCK = re.compile(r"stack(\d+)_block(\d+)_(\d)_(conv|bn)")


def is_preset(source: str) -> bool:
    """Whether a source looks like the name of a preset: `resnet_vd_50_ssld_v2_imagenet`, `hf://…`, `kaggle://…`."""
    return _PRESET.fullmatch(source) is not None


def read_preset(name: str, *, offline: bool) -> TensorFile:
    """Returns the weights of a ResNet of keras-hub, which keeps a cache of its own.

    Args:
        name: As keras-hub calls it.
        offline: Whether the network is forbidden; keras-hub cannot be told so, hence an error.

    Raises:
        WeightsError: Without keras-hub, offline, when it does not have the preset, or when that is no ResNet.
    """
    if offline:
        raise WeightsError(f"{name} comes through keras-hub, which may use the network. Leave --offline out, once.")
    try:
        import keras_hub
    except ImportError as error:
        raise WeightsError(
            f"{name} is a preset of keras-hub, which is not installed: pip install 'rsseg-tf[hub]'."
        ) from error
    try:
        backbone = keras_hub.models.Backbone.from_preset(name)
    except Exception as error:  # of whatever library keras-hub fetches with
        raise WeightsError(f"keras-hub cannot give the preset {name}: {' '.join(str(error).split())}") from error
    return TensorFile(name, "keras-hub", "", preset_tensors(backbone, name), by_path=True)


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
