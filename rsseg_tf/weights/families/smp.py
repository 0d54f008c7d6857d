"""Checkpoints of segmentation_models_pytorch: U-Net, FPN, DeepLabV3+ and PSPNet on ResNet and EfficientNet.

A model has the tensors `encoder.*`, `decoder.*` and `segmentation_head.0.*`; its encoder alone loads into a backbone.
The encoders `timm-efficientnet-*` have timm's names, and `tu-*` those of timm's networks behind `encoder.model.`.

Source: segmentation_models_pytorch 0.6. Two things differ from our layers and are settled here: convolutions before a
normalisation have no bias there, and the pyramid of PSPNet joins its branches in another order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from rsseg_tf.config.named_weights import IMAGENET
from rsseg_tf.config.zoo import (
    FPN,
    ConvNeXt,
    DeepLabV3Plus,
    EfficientNet,
    PSPNet,
    ResNet,
    ResNetV1c,
    ResNetVd,
    Row,
    SegmentorSection,
    UNet,
)
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.families.convnext import CONVNEXT
from rsseg_tf.weights.families.family import (
    Family,
    Tensors,
    Translation,
    efficientnet_size,
    resnet_depth,
    zero_biases,
)
from rsseg_tf.weights.families.timm import (
    TIMM,
    identity_shortcuts,
    timm_efficientnet_names,
    timm_in_words,
    timm_resnet_names,
)
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
    classes = tensors[_CLASSIFIER[0]].shape[0]
    return f"{words} on {_encoder_in(tensors)}, {classes} {'class' if classes == 1 else 'classes'}"


def _network_in(tensors: Tensors) -> type[SegmentorSection] | None:
    # U-Net++ and others have further blocks of other names.
    found = [network for name, network in _NETWORKS.items() if name in tensors]
    return found[0] if len(found) == 1 else None


def _encoder_prefix(tensors: Tensors) -> str:
    """Returns what the names of the encoder's tensors begin with."""
    return "encoder.model." if any(name.startswith("encoder.model.") for name in tensors) else "encoder."


def _is_timm_efficientnet(tensors: Tensors) -> bool:
    return "encoder.conv_stem.weight" in tensors


def _encoder_in(tensors: Tensors) -> str:
    prefix = _encoder_prefix(tensors)
    bare = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
    if "_conv_stem.weight" in bare:
        last = [array for name, array in bare.items() if name.endswith("._project_conv.weight")]
        squeezes = any("._se_reduce." in name for name in bare)
        return efficientnet_size(len(last), last[-1].shape[0] if last else 0, squeezes=squeezes)
    for family in (TIMM, CONVNEXT):
        if family.recognises(bare):
            return family.describe(bare)
    if "layer1.0.conv1.weight" in bare:
        depth = resnet_depth(bare)
        return f"ResNet-{depth}" if depth else "a ResNet"
    return f"another encoder (it has {', '.join([name for name in tensors if name.startswith('encoder.')][:2])})"


def _translate(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    backbone = row.backbone if isinstance(row, SegmentorSection) else row
    encoder = _encoder(tensors, backbone, paths)
    names, tensors = dict(encoder.names), encoder.tensors
    found = _encoder_in(tensors)
    is_other = found.startswith(("ResNet-", "EfficientNet-")) and backbone and found != timm_in_words(backbone)
    if is_other or not any(name in tensors for name in names):
        return Translation({}, tensors)
    if not isinstance(row, SegmentorSection):
        return encoder
    network = _network_in(tensors)
    if network is None or type(row) is not network:
        return Translation({}, tensors)
    _require_options(row, tensors)
    names |= _DECODERS[network](paths)
    kept = {name: array for name, array in tensors.items() if name in names or not _is_unused(name, network)}
    prepared = {**kept, **_in_our_order(kept)}
    biases = zero_biases(prepared, names)
    prepared |= biases
    notes = []
    if all(array.shape[:1] == (1,) for array in (prepared[name] for name in _CLASSIFIER if name in prepared)):
        prepared |= {name: np.concatenate([0 * prepared[name], prepared[name]]) for name in _CLASSIFIER}
        notes.append(
            "classes: the file has one output, of a binary model with a sigmoid; it became that of the second class "
            "and the first class has 0, so that the softmax of both gives the same probability"
        )
    return Translation(names, prepared, made=(*encoder.made, *biases), classifiers=_CLASSIFIER, notes=notes)


def _encoder(tensors: Tensors, backbone: Row | None, paths: Sequence[str]) -> Translation:
    """Returns the tensors of the encoder beside the variables of a backbone; without names where it is another."""
    prefix = _encoder_prefix(tensors)
    is_timm = prefix == "encoder.model." or _is_timm_efficientnet(tensors)
    if isinstance(backbone, ConvNeXt):
        bare = {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}
        inside = CONVNEXT.translate(bare, backbone, paths)
        prepared = {prefix + name: array for name, array in inside.tensors.items()}
        return Translation({prefix + name: path for name, path in inside.names.items()}, {**tensors, **prepared})
    if isinstance(backbone, ResNet):
        own = resnet_names(paths, TORCH_VARIABLES)
    elif isinstance(backbone, ResNetVd | ResNetV1c) and is_timm:
        own = timm_resnet_names(paths, pools=isinstance(backbone, ResNetVd))
    elif isinstance(backbone, EfficientNet):
        own = timm_efficientnet_names(paths) if is_timm else efficientnet_names(paths, TORCH_VARIABLES)
    else:
        own = {}
    names = {prefix + name: path for name, path in own.items()}
    made = identity_shortcuts(tensors, names) if isinstance(backbone, ResNetVd) else {}
    return Translation(names, {**tensors, **made}, made=tuple(made))


def _require_options(row: SegmentorSection, tensors: Tensors) -> None:
    """Compares options that the tensors do not show with what the project computes."""
    if isinstance(row, DeepLabV3Plus) and _encoder_prefix(tensors) == "encoder.model.":
        raise WeightsError(
            f"segmentation_models_pytorch's {_describe(tensors)}, with an encoder tu-*, dilates it as none here does. "
            "Its encoder alone is allowed: model.backbone.pretrained"
        )
    wanted: dict[str, object] = {}
    if isinstance(row, DeepLabV3Plus | PSPNet):
        wanted |= {"variant": "smp", "align_corners": True}
    if isinstance(row, UNet):
        wanted["variant"] = "smp"
    if isinstance(row, FPN):
        wanted["align_corners"] = True
    if isinstance(row, PSPNet):
        wanted["aux_head"] = False
    if isinstance(row, UNet | FPN) and not isinstance(row.backbone, ConvNeXt):
        wanted["backbone.output_stride"] = 32
    if isinstance(row.backbone, EfficientNet):
        wanted |= _efficientnet_options(row.backbone, tensors)
    if isinstance(row, DeepLabV3Plus) and getattr(row.backbone, "output_stride", 32) not in (8, 16):
        wanted["backbone.output_stride"] = 16
    for key, value in wanted.items():
        ours = row.backbone if key.startswith("backbone.") else row
        if (found := getattr(ours, key.rpartition(".")[2])) != value:
            raise WeightsError(
                f"segmentation_models_pytorch computes this network in another way than model.{key} {_plain(found)} "
                f"does. Write model.{key}: {_plain(value)}"
            )


def _efficientnet_options(backbone: EfficientNet, tensors: Tensors) -> dict[str, object]:
    """Returns the options that a file with an EfficientNet wants, those that agree in another spelling left out."""
    own = (backbone.padding,) * 5 if isinstance(backbone.padding, str) else backbone.padding
    if _encoder_prefix(tensors) == "encoder.model.":  # whoever trained it, see `TIMM`
        wanted: dict[str, object] = {"backbone.first_feature": "block"}
        from_torch = own[0] == "symmetric"
        return wanted | {"backbone.padding": own[0], "backbone.epsilon": 1e-5 if from_torch else 1e-3}
    if _is_timm_efficientnet(tensors):
        is_b0 = backbone.name == "efficientnet_b0"
        first = "stem_alone" if is_b0 or backbone.first_feature == "stem_alone" else "stem"
        wanted = {"backbone.first_feature": first, "backbone.padding": "symmetric", "backbone.epsilon": 1e-5}
        return {key: value for key, value in wanted.items() if key != "backbone.padding" or own != ("symmetric",) * 5}
    theirs = _PADDINGS.get(backbone.name, ("same",) * 5)
    return {"backbone.first_feature": "stem"} | ({"backbone.padding": list(theirs)} if own != theirs else {})


def _plain(value: object) -> str:
    """Returns a value as a config has it."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value).lower()


def _is_unused(name: str, network: type[SegmentorSection]) -> bool:
    """Whether a tensor that a model does not want takes no part: the encoder's head, and PSPNet's deeper stages."""
    part = re.match(r"encoder\.(?:model\.)?(\w+)\.", name)
    if part is None:
        return False
    deeper = network is PSPNet and part[1] in ("layer3", "layer4", "_blocks", "blocks")
    return deeper or part[1] in ("_conv_head", "_bn1", "_fc", "fc", "conv_head", "bn2", "classifier")


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
"""U-Net, FPN, DeepLabV3+ and PSPNet on ResNet, EfficientNet and networks of timm."""
