"""Checkpoints of mmsegmentation, 0.x and 1.x, and of the backbones that OpenMMLab releases for it.

A segmentor has the tensors `backbone.*`, `decode_head.*` and, with an auxiliary head, `auxiliary_head.*`. A backbone
has them without a prefix, or among those of a classifier (mmpretrain) with `backbone.`. HRNets of timm have the same
names.

Source: mmseg/models of mmsegmentation 1.2.2. Three things differ from our layers and are settled here: convolutions
before a normalisation have no bias there, and both pyramids join their branches in another order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rsseg_tf.config.named_weights import IMAGENET
from rsseg_tf.config.zoo import FCN, DeepLabV3Plus, HRNet, PSPNet, ResNet, ResNetV1c, Row, SegmentorSection, UPerNet
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.families.family import Family, Tensors, Translation, resnet_depth, zero_biases
from rsseg_tf.weights.names import TORCH_VARIABLES, renamed, resnet_names

__all__ = ["MMSEGMENTATION"]

_VARIANT = "mmsegmentation"
# What follows a block's name for its convolution and its normalisation: in a list, by position; in a ConvModule.
_LIST, _CONV_MODULE, _NO_BLOCK = (".0", ".1"), (".conv", ".bn"), ("", "")
_AUX = {"aux_conv": "auxiliary_head.convs.0", "aux_classifier": "auxiliary_head.conv_seg"}
_PSP = {"ppm_branch{i}": "decode_head.psp_modules.{i0}.1", "ppm_project": "decode_head.bottleneck"}
_ASPP, _SEPARABLE = "decode_head.aspp_modules.{i0}", "decode_head.sep_bottleneck.{c0}"
# Layers of ours -> beginnings of names in the file.
_HEADS: dict[type[SegmentorSection], dict[str, str]] = {
    FCN: {"head_conv": "decode_head.convs.0", "head_classifier": "decode_head.conv_seg"},
    PSPNet: {**_PSP, "head_classifier": "decode_head.conv_seg", **_AUX},
    DeepLabV3Plus: {
        "aspp_branch{i}": _ASPP,
        "aspp_branch{i}_depthwise": f"{_ASPP}.depthwise_conv",
        "aspp_branch{i}_pointwise": f"{_ASPP}.pointwise_conv",
        "aspp_pool_conv": "decode_head.image_pool.1",
        "aspp_project": "decode_head.bottleneck",
        "decoder_low_level": "decode_head.c1_bottleneck",
        "decoder_conv{c}_depthwise": f"{_SEPARABLE}.depthwise_conv",
        "decoder_conv{c}_pointwise": f"{_SEPARABLE}.pointwise_conv",
        "decoder_classifier": "decode_head.conv_seg",
        **_AUX,
    },
    UPerNet: {
        **_PSP,
        "fpn_lateral{i}": "decode_head.lateral_convs.{i0}",
        "fpn_conv{i}": "decode_head.fpn_convs.{i0}",
        "fpn_bottleneck": "decode_head.fpn_bottleneck",
        "head_classifier": "decode_head.conv_seg",
        **_AUX,
    },
}
_CLASSIFIERS = tuple(
    f"{head}.conv_seg.{what}" for head in ("decode_head", "auxiliary_head") for what in ("weight", "bias")
)
# Options of ours -> tensors with as many output channels.
_WIDTHS: dict[type[SegmentorSection], dict[str, str]] = {
    FCN: {},
    PSPNet: {"pyramid_channels": "decode_head.bottleneck.conv.weight"},
    DeepLabV3Plus: {
        "aspp_channels": "decode_head.bottleneck.conv.weight",
        "decoder_channels": "decode_head.sep_bottleneck.1.pointwise_conv.conv.weight",
        "low_level_channels": "decode_head.c1_bottleneck.conv.weight",
    },
    UPerNet: {
        "channels": "decode_head.fpn_bottleneck.conv.weight",
        "aux_channels": "auxiliary_head.convs.0.conv.weight",
    },
}
_UPERNET_AUX_CHANNELS = 256


def _recognises(tensors: Tensors) -> bool:
    bare = _without_backbone(tensors)
    of_backbone = {"stem.0.weight", "layer1.0.conv1.weight"} <= bare.keys()
    of_hrnet = any(".fuse_layers." in name for name in bare)
    # Hugging Face has a decode_head too, but none of these classifiers.
    of_segmentor = any(re.match(r"decode_head\.(\d+\.)?conv_seg\.", name) for name in tensors)
    return of_segmentor or of_backbone or of_hrnet


def _without_backbone(tensors: Tensors) -> Mapping[str, np.ndarray]:
    """Returns the tensors of the backbone, by their names in it."""
    inside = {name[len("backbone.") :]: array for name, array in tensors.items() if name.startswith("backbone.")}
    return inside or tensors


# === What a file holds ===


def _describe(tensors: Tensors) -> str:
    backbone = _backbone_in(tensors)
    if (network := _network_in(tensors)) is None:
        return backbone
    classes = tensors.get("decode_head.conv_seg.weight")
    count = "" if classes is None else f", {_channels(classes)} classes"
    return f"{network} on {backbone}{count}"


def _network_in(tensors: Tensors) -> str | None:
    """Returns the name of a file's segmentor; None for a backbone."""
    head = {name.split(".")[1] for name in tensors if name.startswith("decode_head.")}
    if not head:
        return None
    if "lateral_convs" in head:
        return "UPerNet"
    if "psp_modules" in head:
        return "PSPNet"
    if "aspp_modules" in head:
        return "DeepLabV3+" if "sep_bottleneck" in head else "DeepLabV3"
    if head == {"convs", "conv_seg"} and "decode_head.convs.1.conv.weight" not in tensors:
        return "FCN"
    return f"another network (its decode_head has {', '.join(sorted(head)[:4])})"


def _backbone_in(tensors: Tensors) -> str:
    bare = _without_backbone(tensors)
    if (branch := bare.get("stage4.0.branches.0.0.conv1.weight")) is not None:
        small = "" if "stage4.0.branches.0.2.conv1.weight" in bare else "-small"
        # Timm's hrnet_w18_small is smaller still; its hrnet_w18_small_v2 is the one that is so called here.
        first = bare.get("layer1.0.conv1.weight")
        narrow = " with a narrow first stage" if small and first is not None and _channels(first) == 32 else ""
        return f"HRNet-W{_channels(branch)}{small}{narrow}"
    if "layer1.0.conv1.weight" in bare:
        depth = resnet_depth(bare)
        return (f"ResNet-{depth}" if depth else "a ResNet") + ("-C" if "stem.0.weight" in bare else "")
    return f"another backbone (it has {', '.join(list(bare)[:2])})"


_NETWORKS: dict[type[SegmentorSection], str] = {
    FCN: "FCN", PSPNet: "PSPNet", DeepLabV3Plus: "DeepLabV3+", UPerNet: "UPerNet",
}  # fmt: skip


def _in_words(backbone: Row | None) -> str:
    """Returns what `_backbone_in` would say of a file for a backbone of the config."""
    name = "" if backbone is None else backbone.name
    if isinstance(backbone, HRNet):
        return name.replace("hrnet_w", "HRNet-W").replace("_small", "-small")
    return name.replace("resnet", "ResNet-").replace("_v1c", "-C")


def _translate(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    backbone = row.backbone if isinstance(row, SegmentorSection) else row
    if not isinstance(backbone, ResNet | ResNetV1c | HRNet) or _backbone_in(tensors) != _in_words(backbone):
        return Translation({}, tensors)
    if isinstance(backbone, HRNet) and (backbone.variant != "timm" or isinstance(row, SegmentorSection)):
        _require_variant(backbone.variant, "model.backbone.variant")
    prefix = "backbone." if any(name.startswith("backbone.") for name in tensors) else ""
    own = _hrnet_names(paths) if isinstance(backbone, HRNet) else resnet_names(paths, TORCH_VARIABLES)
    names = {prefix + name: path for name, path in own.items()}
    if not isinstance(row, SegmentorSection):
        return Translation(names, tensors)
    if _NETWORKS.get(type(row)) != _network_in(tensors):
        return Translation({}, tensors)
    if isinstance(backbone, ResNet) and isinstance(row, PSPNet | DeepLabV3Plus):
        raise WeightsError(
            f"mmsegmentation's {_describe(tensors)}, dilates its backbone as {backbone.name} does not. Whole models on "
            "resnet18_v1c, resnet50_v1c and resnet101_v1c are allowed, or the backbone alone: model.backbone.pretrained"
        )
    if isinstance(row, PSPNet | DeepLabV3Plus | UPerNet):
        _require_variant(row.variant, "model.variant")
    _require_options(tensors, row)
    names |= renamed(paths, _HEADS[type(row)], _CONV_MODULE, TORCH_VARIABLES)
    prepared = {**tensors, **_in_our_order(tensors)}
    biases = zero_biases(prepared, names)
    return Translation(names, prepared | biases, made=tuple(biases), classifiers=_CLASSIFIERS)


def _require_variant(variant: str, key: str) -> None:
    if variant != _VARIANT:
        raise WeightsError(
            f"mmsegmentation computes this network in another way than {key} {variant} does. Write {key}: {_VARIANT}"
        )


def _require_options(tensors: Tensors, row: SegmentorSection) -> None:
    """Compares the head's sizes, which the tensors show, with the options."""
    theirs: dict[str, object] = {
        option: _channels(tensors[name]) for option, name in _WIDTHS[type(row)].items() if name in tensors
    }
    if not isinstance(row, FCN):
        theirs["aux_head"] = "auxiliary_head.conv_seg.weight" in tensors
    ours = {option: getattr(row, option) for option in theirs}
    if ours.get("aux_channels", 0) is None:
        ours["aux_channels"] = _UPERNET_AUX_CHANNELS
    other = [option for option, value in theirs.items() if ours[option] != value]
    if other:
        has = ", ".join(f"model.{option} is {_plain(ours[option])}" for option in other)
        wanted = ", ".join(f"model.{option}: {_plain(theirs[option])}" for option in other)
        raise WeightsError(f"its tensors are of other sizes; {has}. Write {wanted}")


# === What tensors do not show ===


def _agrees(row: Row, text: str | None) -> list[str]:
    """Compares strides, rates, grids and the alignment of corners with a config of mmsegmentation."""
    if not isinstance(row, SegmentorSection):
        return []
    backbone, notes = row.backbone, []
    if isinstance(backbone, ResNetV1c):
        strides = next(iter(_numbers(text, "strides")), None)
        usual = 32 if isinstance(row, UPerNet) else 8
        stride = usual if strides is None else 4 * math.prod(strides)
        if strides is not None:
            _require(backbone.output_stride == stride, "backbone.output_stride", backbone.output_stride, stride)
        elif backbone.output_stride != usual:
            notes.append(
                f"output stride: that of {_NETWORKS[type(row)]} in mmsegmentation is {usual} as a rule; "
                f"model.backbone.output_stride is {backbone.output_stride}"
            )
    if isinstance(row, DeepLabV3Plus):
        rates = [one for one in _numbers(text, "dilations") if len(one) == len(row.aspp_rates)]
        _require(not rates or row.aspp_rates in rates, "aspp_rates", row.aspp_rates, rates[-1] if rates else ())
    if isinstance(row, PSPNet):
        grids = _numbers(text, "pool_scales")
        _require(not grids or row.bin_sizes in grids, "bin_sizes", row.bin_sizes, grids[-1] if grids else ())
    aligned = re.search(r"\balign_corners=(True|False)\b", text or "")
    if aligned is not None:
        _require(row.align_corners == (aligned[1] == "True"), "align_corners", row.align_corners, aligned[1] == "True")
    return notes


def _numbers(text: str | None, key: str) -> list[tuple[int, ...]]:
    """Returns all tuples of whole numbers that a config gives a key."""
    found = re.findall(rf"\b{key}=[(\[]([\d,\s]{{1,200}})[)\]]", text or "")
    return [tuple(int(number) for number in re.findall(r"\d{1,6}", numbers)) for numbers in found]


def _require(agrees: bool, key: str, ours: object, theirs: object) -> None:
    if not agrees:
        raise WeightsError(
            f"the config in the file says {_plain(theirs)} where model.{key} is {_plain(ours)}. Write model.{key}: "
            f"{_plain(theirs)}"
        )


def _plain(value: object) -> str:
    return str(list(value) if isinstance(value, tuple) else value).lower()


# === Names and order ===


def _hrnet_names(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    branch = "stage{s}.{m0}.branches.{i0}.{b0}"
    fusion = "stage{s}.{m0}.fuse_layers.{target0}.{source0}"
    by_name = {
        "stem_conv{c}": "conv{c}",
        "stem_conv{c}_bn": "bn{c}",
        "stage1_block{b}_conv{c}": "layer1.{b0}.conv{c}",
        "stage1_block{b}_conv{c}_bn": "layer1.{b0}.bn{c}",
        "stage{s}_module{m}_branch{i}_block{b}_conv{c}": f"{branch}.conv{{c}}",
        "stage{s}_module{m}_branch{i}_block{b}_conv{c}_bn": f"{branch}.bn{{c}}",
    }
    by_position = {
        "stage1_block{b}_shortcut": "layer1.{b0}.downsample",
        # Only the first transition has a convolution on a branch that was there before.
        "transition1_branch1": "transition1.0",
        "transition{t}_branch{i}": "transition{t}.{i0}.0",
        "stage{s}_module{m}_fuse_{source}to{target}": fusion,
        "stage{s}_module{m}_fuse_{source}to{target}_conv{c}": f"{fusion}.{{c0}}",
    }
    return renamed(paths, by_name, _NO_BLOCK, TORCH_VARIABLES) | renamed(paths, by_position, _LIST, TORCH_VARIABLES)


def _in_our_order(tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns the kernel after a pyramid, for inputs in the order in which ours joins them."""
    name = "decode_head.bottleneck.conv.weight"
    kernel = tensors.get(name)
    if kernel is None or kernel.ndim != 4:
        return {}
    widths: list[int] = []
    while (branch := tensors.get(f"decode_head.psp_modules.{len(widths)}.1.conv.weight")) is not None:
        widths.append(_channels(branch))
    if widths:  # the features and then the means; ours has the finest mean first
        features, *means = np.split(kernel, np.cumsum([kernel.shape[1] - sum(widths), *widths])[:-1], axis=1)
        return {name: np.concatenate([features, *reversed(means)], axis=1)}
    return {name: np.roll(kernel, -kernel.shape[0], axis=1)}  # the mean of the image comes first; ours has it last


def _channels(array: np.ndarray) -> int:
    """Returns the output channels of a convolution; 0 for what is none."""
    return array.shape[0] if array.ndim else 0


MMSEGMENTATION = Family("mmsegmentation", _recognises, _describe, _translate, _agrees, IMAGENET)
"""PSPNet, DeepLabV3+, UPerNet and FCN on ResNet-C, ResNet and HRNet."""
