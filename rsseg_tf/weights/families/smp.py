"""Checkpoints of segmentation_models_pytorch: U-Net, FPN, DeepLabV3+ and PSPNet on ResNet and EfficientNet.

A model has the tensors `encoder.*`, `decoder.*` and `segmentation_head.0.*`; its encoder alone loads into a backbone.

Source: segmentation_models_pytorch 0.6. Two things differ from our layers and are settled here: convolutions before a
normalisation have no bias there, and the pyramid of PSPNet joins its branches in another order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from rsseg_tf.config.named_weights import IMAGENET
from rsseg_tf.config.zoo import FPN, DeepLabV3Plus, EfficientNet, PSPNet, ResNet, Row, SegmentorSection, UNet
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.families.family import Family, Tensors, Translation, resnet_depth, zero_biases
from rsseg_tf.weights.names import TORCH_VARIABLES, efficientnet_names, renamed, resnet_names

__all__ = ["SMP"]

_HEAD, _CLASSIFIER = "segmentation_head.0", ("segmentation_head.0.weight", "segmentation_head.0.bias")
_LIST, _NO_BLOCK = (".0", ".1"), ("", "")
# A tensor of the decoder that no other network has -> the network.
_NETWORKS: dict[str, type[SegmentorSection]] = {
    "decoder.blocks.0.conv1.0.weight": UNet,
    "decoder.p5.weight": FPN,
    "decoder.aspp.0.convs.0.0.weight": DeepLabV3Plus,
    "decoder.psp.blocks.0.pool.1.0.weight": PSPNet,
}
_IN_WORDS: dict[type[SegmentorSection], str] = {
    UNet: "U-Net", FPN: "FPN", DeepLabV3Plus: "DeepLabV3+", PSPNet: "PSPNet",
}  # fmt: skip
# How convolutions of the strides 2 to 32 pad: the networks were made for one size, whose halves are odd in places.
_PADDINGS: dict[str, tuple[str, ...]] = {
    "efficientnet_b1": ("same", "same", "same", "same", "symmetric"),
    "efficientnet_b2": ("same", "same", "symmetric", "symmetric", "symmetric"),
    "efficientnet_b3": ("same", "same", "symmetric", "same", "symmetric"),
    "efficientnet_b4": ("same", "same", "symmetric", "same", "same"),
}
_PSP_PROJECT = "decoder.conv.0.weight"


def _recognises(tensors: Tensors) -> bool:
    return _CLASSIFIER[0] in tensors and any(name.startswith("encoder.") for name in tensors)


def _describe(tensors: Tensors) -> str:
    network = _network_in(tensors)
    words = "another network" if network is None else _IN_WORDS[network]
    return f"{words} on {_encoder_in(tensors)}, {tensors[_CLASSIFIER[0]].shape[0]} classes"


def _network_in(tensors: Tensors) -> type[SegmentorSection] | None:
    # U-Net++ and others have further blocks of other names.
    found = [network for name, network in _NETWORKS.items() if name in tensors]
    return found[0] if len(found) == 1 else None


def _encoder_in(tensors: Tensors) -> str:
    if "encoder._conv_stem.weight" in tensors:
        return "EfficientNet"
    if "encoder.layer1.0.conv1.weight" in tensors:
        depth = resnet_depth(tensors, "encoder.")
        return f"ResNet-{depth}" if depth else "a ResNet"
    return f"another encoder (it has {', '.join([name for name in tensors if name.startswith('encoder.')][:2])})"


def _translate(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    backbone = row.backbone if isinstance(row, SegmentorSection) else row
    names = {f"encoder.{name}": path for name, path in _encoder_names(backbone, paths).items()}
    if not any(name in tensors for name in names):
        return Translation({}, tensors)
    if not isinstance(row, SegmentorSection):
        return Translation(names, tensors)
    network = _network_in(tensors)
    if network is None or type(row) is not network:
        return Translation({}, tensors)
    _require_options(row)
    names |= _DECODERS[network](paths)
    kept = {name: array for name, array in tensors.items() if name in names or not _is_unused(name, network)}
    prepared = {**kept, **_in_our_order(kept)}
    biases = zero_biases(prepared, names)
    return Translation(names, prepared | biases, made=tuple(biases), classifiers=_CLASSIFIER)


def _require_options(row: SegmentorSection) -> None:
    """Compares options that the tensors do not show with what the project computes."""
    wanted: dict[str, object] = {}
    if isinstance(row, DeepLabV3Plus | PSPNet):
        wanted |= {"variant": "smp", "align_corners": True}
    if isinstance(row, FPN):
        wanted["align_corners"] = True
    if isinstance(row, PSPNet):
        wanted["aux_head"] = False
    if isinstance(row.backbone, EfficientNet):
        given = row.backbone.padding
        padding = (given,) * 5 if isinstance(given, str) else given
        theirs = _PADDINGS.get(row.backbone.name, ("same",) * 5)
        wanted["backbone.first_feature"] = "stem"
        if padding != theirs:
            wanted["backbone.padding"] = list(theirs)
    if isinstance(row, DeepLabV3Plus) and getattr(row.backbone, "output_stride", 32) not in (8, 16):
        wanted["backbone.output_stride"] = 16
    for key, value in wanted.items():
        ours = row.backbone if key.startswith("backbone.") else row
        if (found := getattr(ours, key.rpartition(".")[2])) != value:
            raise WeightsError(
                f"segmentation_models_pytorch computes this network in another way than model.{key} {_plain(found)} "
                f"does. Write model.{key}: {_plain(value)}"
            )


def _plain(value: object) -> str:
    """Returns a value as a config has it."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value).lower()


def _is_unused(name: str, network: type[SegmentorSection]) -> bool:
    """Whether a tensor that a model does not want takes no part: the encoder's head, and PSPNet's deeper stages."""
    part = re.match(r"encoder\.(\w+)\.", name)
    if part is None:
        return False
    deeper = network is PSPNet and part[1] in ("layer3", "layer4", "_blocks")
    return deeper or part[1] in ("_conv_head", "_bn1", "_fc", "fc")


def _in_our_order(tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns PSPNet's kernel after the pyramid, for inputs in the order in which ours joins them."""
    kernel = tensors.get(_PSP_PROJECT)
    if kernel is None or kernel.ndim != 4 or "decoder.psp.blocks.0.pool.1.0.weight" not in tensors:
        return {}
    widths: list[int] = []
    while (branch := tensors.get(f"decoder.psp.blocks.{len(widths)}.pool.1.0.weight")) is not None:
        widths.append(branch.shape[0])
    *means, features = np.split(kernel, np.cumsum(widths), axis=1)  # the features come last there, first in ours
    return {_PSP_PROJECT: np.concatenate([features, *reversed(means)], axis=1)}


# === Names ===


def _encoder_names(backbone: Row | None, paths: Sequence[str]) -> dict[str, str]:
    """Returns the names of an encoder's tensors without `encoder.`, each with the path of the variable."""
    if isinstance(backbone, ResNet):
        return resnet_names(paths, TORCH_VARIABLES)
    return efficientnet_names(paths, TORCH_VARIABLES) if isinstance(backbone, EfficientNet) else {}


def _unet_names(paths: Sequence[str]) -> dict[str, str]:
    rules = {"decoder_block{i}_conv{c}": "decoder.blocks.{i0}.conv{c}"}
    return renamed(paths, rules, _LIST, TORCH_VARIABLES) | renamed(paths, {"head_classifier": _HEAD}, _NO_BLOCK)


def _fpn_names(paths: Sequence[str]) -> dict[str, str]:
    rules = {"fpn_lateral4": "decoder.p5", "head_classifier": _HEAD}
    rules |= {f"fpn_lateral{level}": f"decoder.p{level + 1}.skip_conv" for level in (1, 2, 3)}
    for level in (1, 2, 3, 4):
        block = f"decoder.seg_blocks.{4 - level}.block.{{n0}}.block"
        rules |= {f"head_level{level}_conv{{n}}": f"{block}.0", f"head_level{level}_conv{{n}}_norm": f"{block}.1"}
    return renamed(paths, rules, _NO_BLOCK, TORCH_VARIABLES)


def _deeplabv3plus_names(paths: Sequence[str]) -> dict[str, str]:
    in_lists = {
        "aspp_branch1": "decoder.aspp.0.convs.0",
        "aspp_project": "decoder.aspp.0.project",
        "decoder_low_level": "decoder.block1",
    }
    by_name = {
        "aspp_branch{i}_depthwise": "decoder.aspp.0.convs.{i0}.0.0",
        "aspp_branch{i}_pointwise": "decoder.aspp.0.convs.{i0}.0.1",
        "aspp_branch{i}_pointwise_bn": "decoder.aspp.0.convs.{i0}.1",
        "aspp_pool_conv": "decoder.aspp.0.convs.4.1",
        "aspp_pool_conv_bn": "decoder.aspp.0.convs.4.2",
        "aspp_conv_depthwise": "decoder.aspp.1.0",
        "aspp_conv_pointwise": "decoder.aspp.1.1",
        "aspp_conv_pointwise_bn": "decoder.aspp.2",
        "decoder_conv1_depthwise": "decoder.block2.0.0",
        "decoder_conv1_pointwise": "decoder.block2.0.1",
        "decoder_conv1_pointwise_bn": "decoder.block2.1",
        "decoder_classifier": _HEAD,
    }
    return renamed(paths, in_lists, _LIST, TORCH_VARIABLES) | renamed(paths, by_name, _NO_BLOCK, TORCH_VARIABLES)


def _pspnet_names(paths: Sequence[str]) -> dict[str, str]:
    # The grid of one cell has a bias in place of a normalisation.
    in_lists = {f"ppm_branch{i}": f"decoder.psp.blocks.{i - 1}.pool.1" for i in range(2, 10)}
    in_lists["ppm_project"] = "decoder.conv"
    by_name = {"ppm_branch1": "decoder.psp.blocks.0.pool.1.0", "head_classifier": _HEAD}
    return renamed(paths, in_lists, _LIST, TORCH_VARIABLES) | renamed(paths, by_name, _NO_BLOCK, TORCH_VARIABLES)


_DECODERS: dict[type[SegmentorSection], Callable[[Sequence[str]], dict[str, str]]] = {
    UNet: _unet_names,
    FPN: _fpn_names,
    DeepLabV3Plus: _deeplabv3plus_names,
    PSPNet: _pspnet_names,
}

SMP = Family("segmentation_models_pytorch", _recognises, _describe, _translate, normalisation=IMAGENET)
"""U-Net, FPN, DeepLabV3+ and PSPNet on ResNet and EfficientNet."""
