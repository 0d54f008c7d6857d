"""Checkpoints of ConvNeXt as torchvision, timm, its authors and Hugging Face's transformers name them.

Source: torchvision/models/convnext.py, timm/models/convnext.py, models/convnext.py of facebookresearch/ConvNeXt, and
models/convnext of transformers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsseg_tf.config.named_weights import IMAGENET
from rsseg_tf.config.zoo import ConvNeXt, Row
from rsseg_tf.weights.families.family import Family, Tensors, Translation
from rsseg_tf.weights.names import TORCH_VARIABLES, renamed

__all__ = ["CONVNEXT"]

_STAGES = (1, 2, 3, 4)
# Channels and blocks by stage.
_SIZES: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((96, 192, 384, 768), (3, 3, 9, 3)): "ConvNeXt-Tiny",
    ((96, 192, 384, 768), (3, 3, 27, 3)): "ConvNeXt-Small",
    ((128, 256, 512, 1024), (3, 3, 27, 3)): "ConvNeXt-Base",
    ((192, 384, 768, 1536), (3, 3, 27, 3)): "ConvNeXt-Large",
}


@dataclass(frozen=True)
class _Spelling:
    """How one project names the tensors. In `block` and `reduce` `{s}` counts stages from 0, `{i}` their parts from 1.

    Attributes:
        project: Its name.
        stem: Beginnings of the names of the stem's convolution and normalisation.
        reduce: Of the normalisation and the convolution before a stage.
        block: Of a block, which `{b0}` counts from 0.
        layers: Within a block, of the depthwise convolution, the normalisation and both linear layers.
        scale: Within a block, the name of the layer scale.
    """

    project: str
    stem: tuple[str, str]
    reduce: tuple[str, str]
    block: str
    layers: tuple[str, str, str, str]
    scale: str

    def block_of(self, stage: int, block: str) -> str:
        """Returns the beginning of a block's names; `block` counts from 0."""
        return self.block.format(s=stage - 1, i=2 * stage - 1, b0=block)

    def names(self, paths: Sequence[str]) -> dict[str, str]:
        """Returns the names in the file, each with the path of its variable."""
        rules, scales = {"stem_conv": self.stem[0], "stem_norm": self.stem[1]}, {}
        for stage in _STAGES:
            for layer, name in zip(("reduce_norm", "reduce"), self.reduce, strict=True):
                rules[f"stage{stage}_{layer}"] = name.format(s=stage - 1, i=2 * stage - 2)
            block = self.block_of(stage, "{b0}")
            for layer, name in zip(("depthwise", "norm", "expand", "project"), self.layers, strict=True):
                rules[f"stage{stage}_block{{b}}_{layer}"] = f"{block}.{name}"
            scales[f"stage{stage}_block{{b}}_scale"] = block
        return renamed(paths, rules, variables=TORCH_VARIABLES) | renamed(
            paths, scales, variables={"gamma": self.scale}
        )


_SPELLINGS = (
    _Spelling(
        "torchvision",
        ("features.0.0", "features.0.1"),
        ("features.{i}.0", "features.{i}.1"),
        "features.{i}.{b0}",
        ("block.0", "block.2", "block.3", "block.5"),
        "layer_scale",
    ),
    _Spelling(
        "timm",
        ("stem.0", "stem.1"),
        ("stages.{s}.downsample.0", "stages.{s}.downsample.1"),
        "stages.{s}.blocks.{b0}",
        ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
        "gamma",
    ),
    _Spelling(
        "timm",  # models made with features_only
        ("stem_0", "stem_1"),
        ("stages_{s}.downsample.0", "stages_{s}.downsample.1"),
        "stages_{s}.blocks.{b0}",
        ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"),
        "gamma",
    ),
    _Spelling(
        "facebookresearch/ConvNeXt",
        ("downsample_layers.0.0", "downsample_layers.0.1"),
        ("downsample_layers.{s}.0", "downsample_layers.{s}.1"),
        "stages.{s}.{b0}",
        ("dwconv", "norm", "pwconv1", "pwconv2"),
        "gamma",
    ),
    _Spelling(
        "Hugging Face",
        ("embeddings.patch_embeddings", "embeddings.layernorm"),
        ("encoder.stages.{s}.downsampling_layer.0", "encoder.stages.{s}.downsampling_layer.1"),
        "encoder.stages.{s}.layers.{b0}",
        ("dwconv", "layernorm", "pwconv1", "pwconv2"),
        "layer_scale_parameter",
    ),
)


def _recognises(tensors: Tensors) -> bool:
    return _spelling_of(tensors) is not None


def _spelling_of(tensors: Tensors) -> tuple[_Spelling, str] | None:
    """Returns how a file spells a ConvNeXt, and what the names in it begin with; None for another network."""
    for spelling in _SPELLINGS:
        block = spelling.block_of(1, "0")
        scale, depthwise = f"{block}.{spelling.scale}", f"{block}.{spelling.layers[0]}.weight"
        for name in tensors:
            prefix = name.removesuffix(scale)
            if prefix != name and (not prefix or prefix.endswith(".")) and prefix + depthwise in tensors:
                return spelling, prefix
    return None


def _describe(tensors: Tensors) -> str:
    found = _spelling_of(tensors)
    return "another network" if found is None else f"{_network_in(tensors, *found)} of {found[0].project}"


def _network_in(tensors: Tensors, spelling: _Spelling, prefix: str) -> str:
    widths, depths = [], []
    for stage in _STAGES:
        block = re.escape(prefix + spelling.block_of(stage, "#")).replace(r"\#", r"\d+")
        scales = [array for name, array in tensors.items() if re.fullmatch(rf"{block}\.{spelling.scale}", name)]
        widths.append(scales[0].size if scales else 0)
        depths.append(len(scales))
    sizes = f"a ConvNeXt with {', '.join(map(str, widths))} channels and {', '.join(map(str, depths))} blocks"
    return _SIZES.get((tuple(widths), tuple(depths)), sizes)


def _translate(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    found = _spelling_of(tensors)
    if found is None or not isinstance(row, ConvNeXt):
        return Translation({}, tensors)
    network = _network_in(tensors, *found)
    if network in _SIZES.values() and network != row.name.replace("convnext_tiny", "ConvNeXt-Tiny"):
        return Translation({}, tensors)
    spelling, prefix = found
    names = {prefix + name: path for name, path in spelling.names(paths).items()}
    return Translation(names, {name: _prepared(array) for name, array in tensors.items()})


def _prepared(array: np.ndarray) -> np.ndarray:
    """Makes linear layers (out, in) convolutions, and torchvision's scales (C, 1, 1) vectors."""
    if array.ndim == 2:
        return array[:, :, None, None]
    return array[:, 0, 0] if array.ndim == 3 and array.shape[1:] == (1, 1) else array


CONVNEXT = Family("ConvNeXt", _recognises, _describe, _translate, normalisation=IMAGENET)
"""ConvNeXt with layer scale, alone or in a larger model."""
