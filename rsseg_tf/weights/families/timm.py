"""Backbones as torchvision and timm name them: ResNet, ResNet-C, ResNet-D and EfficientNet.

Files of torchgeo have timm's names too. HRNets of timm have the names of mmsegmentation's.

Source: torchvision/models/resnet.py and efficientnet.py, timm/models/resnet.py and _efficientnet_blocks.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from rsseg_tf.config.named_weights import IMAGENET, find_weights
from rsseg_tf.config.zoo import EfficientNet, ResNet, ResNetV1c, ResNetVd, Row, SegmentorSection
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.families.family import Family, Tensors, Translation, efficientnet_size, resnet_depth
from rsseg_tf.weights.names import TORCH_VARIABLES, renamed, resnet_names

__all__ = ["TIMM", "identity_shortcuts", "timm_efficientnet_names", "timm_in_words", "timm_resnet_names"]

_NO_BLOCK, _LIST = ("", ""), (".0", ".1")
# Padding of the strided convolutions and epsilon of the normalisations.
_OF_TENSORFLOW, _OF_TORCH = ("same", 1e-3), ("symmetric", 1e-5)
_BATCH_NORM_EPSILON = 1e-5
_IN_STAGES = re.compile(r"layer\d|conv\d|blocks\.|features\.[1-7]\.")


def _recognises(tensors: Tensors) -> bool:
    return _is_resnet(tensors) or _efficientnet_project(tensors) is not None


def _is_resnet(tensors: Tensors) -> bool:
    # Those of Paddle call their statistics otherwise.
    return {"bn1.running_mean", "layer1.0.conv1.weight", "layer4.0.conv1.weight"} <= tensors.keys()


def _efficientnet_project(tensors: Tensors) -> str | None:
    """Returns whose names an EfficientNet has, or None for another network."""
    if {"conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.6.0.conv_dw.weight"} <= tensors.keys():
        return "timm"
    # The first block of EfficientNetV2 is no depthwise one.
    first = tensors.get("features.1.0.block.0.0.weight")
    return "torchvision" if first is not None and first.ndim == 4 and first.shape[1] == 1 else None


def _describe(tensors: Tensors) -> str:
    if _is_resnet(tensors):
        depth = resnet_depth(tensors)
        return ("a ResNet" if depth is None else f"ResNet-{depth}") + _stem_kind(tensors)
    blocks = re.compile(r"(blocks\.\d+\.\d+)\.|(features\.\d+\.\d+)\.block\.")
    found = {match[0].rstrip(".") for name in tensors if (match := blocks.match(name))}
    of_last = [a for name, a in tensors.items() if name.startswith(("blocks.6.", "features.7.")) and a.ndim == 4]
    squeezes = any(".se.conv_reduce." in name or ".fc1." in name for name in tensors)
    return efficientnet_size(len(found), of_last[-1].shape[0] if of_last else 0, squeezes=squeezes)


def _stem_kind(tensors: Tensors) -> str:
    """Returns what follows a ResNet's depth: "-D", "-C", or nothing for the plain one."""
    if "conv1.0.weight" not in tensors:
        return ""
    return "-D" if any(".0.downsample.2." in name for name in tensors) else "-C"


def timm_in_words(row: Row) -> str:
    """Returns what `TIMM.describe` would say of a file for a backbone of the config."""
    if isinstance(row, EfficientNet):
        return row.name.replace("efficientnet_", "EfficientNet-").replace("-b", "-B").replace("-lite", "-Lite")
    return row.name.replace("resnet", "ResNet-").replace("_v1c", "-C").replace("_vd", "-D")


def _translate(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    found = _describe(tensors)
    if isinstance(row, SegmentorSection):
        raise WeightsError(
            f"it holds {found} as torchvision and timm name it, a backbone alone. Write model.backbone.pretrained"
        )
    # A network of no published size is told by the tensors that are missing.
    if not isinstance(row, ResNet | ResNetV1c | ResNetVd | EfficientNet) or (
        not found.startswith("a ") and found != timm_in_words(row)
    ):
        return Translation({}, tensors)
    if isinstance(row, EfficientNet):
        if (project := _efficientnet_project(tensors)) is None:
            return Translation({}, tensors)
        names = timm_efficientnet_names(paths) if project == "timm" else _torchvision_efficientnet_names(paths)
        _require_all(tensors, names)
        return Translation(names, tensors, notes=_normalises_alike(row, project))
    if not _is_resnet(tensors):
        return Translation({}, tensors)
    pools = isinstance(row, ResNetVd)
    plain = isinstance(row, ResNet)
    names = resnet_names(paths, TORCH_VARIABLES) if plain else timm_resnet_names(paths, pools=pools)
    _require_all(tensors, names)
    made = identity_shortcuts(tensors, names) if pools else {}
    return Translation(names, {**tensors, **made}, made=tuple(made))


def _require_all(tensors: Tensors, names: Collection[str]) -> None:
    """Raises a `WeightsError` for a network with further layers within its stages, such as squeeze-and-excitation."""
    left = [name for name in tensors if name not in names and _IN_STAGES.match(name)]
    left = [name for name in left if not name.endswith("num_batches_tracked")]
    if left:
        raise WeightsError(
            f"it holds {_describe(tensors)} with {len(left)} tensors in its stages that have no place here (first: "
            f"{left[0]}). Use weights of the network as it was published"
        )


def _normalises_alike(row: EfficientNet, project: str) -> tuple[str, ...]:
    """Compares padding and epsilon, which tensors do not show, with what the project computes.

    Returns:
        A line where the file may want others.

    Raises:
        WeightsError: When the project has no such network.
    """
    ours = (row.padding if isinstance(row.padding, str) else "a list", row.epsilon)
    allowed = (_OF_TORCH,) if project == "torchvision" else (_OF_TENSORFLOW, _OF_TORCH)
    matches = [one for one in allowed if ours[0] == one[0] and math.isclose(ours[1], one[1])]
    in_words = {one: f"padding: {one[0]} and epsilon: {one[1]:g}" for one in (_OF_TENSORFLOW, _OF_TORCH)}
    if not matches:
        choice = " or, of weights from TensorFlow (tf_*), ".join(in_words[one] for one in reversed(allowed))
        raise WeightsError(
            f"{project} computes {row.name} in another way than padding {ours[0]} with epsilon {ours[1]:g} does. "
            f"Write into the section of the backbone {choice}"
        )
    if project == "torchvision" or find_weights(row.pretrained) is not None:
        return ()
    other = _OF_TORCH if matches[0] == _OF_TENSORFLOW else _OF_TENSORFLOW
    whose = {_OF_TENSORFLOW: "TensorFlow's (tf_*)", _OF_TORCH: "timm's own"}
    return (
        f"tensors do not show who trained them: the config has {in_words[matches[0]]}, which {whose[matches[0]]} want; "
        f"{whose[other]} want {in_words[other]}",
    )


def identity_shortcuts(tensors: Tensors, names: Collection[str]) -> dict[str, np.ndarray]:
    """Returns shortcuts that change nothing, where ours has a convolution and timm none.

    That is in the first block of ResNet-18-D, whose input has as many channels as its output.
    """
    made: dict[str, np.ndarray] = {}
    for name in names:
        block, found, _ = name.partition(".downsample.1.weight")
        kernel = tensors.get(f"{block}.conv1.weight")
        if not found or name in tensors or kernel is None or f"{block}.conv3.weight" in tensors:
            continue
        if kernel.ndim != 4 or kernel.shape[0] != kernel.shape[1]:
            continue
        channels = kernel.shape[0]
        zeros, ones = np.zeros(channels, np.float32), np.ones(channels, np.float32)
        made[name] = np.eye(channels, dtype=np.float32)[:, :, None, None]
        norm = f"{block}.downsample.2"
        made |= {f"{norm}.bias": zeros, f"{norm}.running_mean": zeros, f"{norm}.running_var": ones}
        made[f"{norm}.weight"] = ones * np.float32(math.sqrt(1 + _BATCH_NORM_EPSILON))
    return made


# === Names ===


def timm_resnet_names(paths: Iterable[str], *, pools: bool) -> dict[str, str]:
    """Names of ResNets with a deep stem in timm.

    Args:
        paths: Of the variables.
        pools: Whether a pooling stands first in the list of each shortcut, as in a ResNet-D.
    """
    paths = list(paths)
    plain = resnet_names(paths, TORCH_VARIABLES)
    rules = {
        **{f"stem_conv{c}": f"conv1.{3 * (c - 1)}" for c in (1, 2, 3)},
        **{f"stem_conv{c}_bn": f"conv1.{3 * (c - 1) + 1}" for c in (1, 2)},
        "stem_conv3_bn": "bn1",
        "stage{s}_block{b}_shortcut": f"layer{{s}}.{{b0}}.downsample.{int(pools)}",
        "stage{s}_block{b}_shortcut_bn": f"layer{{s}}.{{b0}}.downsample.{1 + int(pools)}",
    }
    special = renamed(paths, rules, _NO_BLOCK, TORCH_VARIABLES)
    taken = set(special.values())
    return special | {name: path for name, path in plain.items() if path not in taken}


def timm_efficientnet_names(paths: Iterable[str]) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.efficientnet` in timm."""
    paths = list(paths)
    rules = {"stem_conv": "conv_stem", "stem_conv_bn": "bn1"}
    for block, (stage, number) in _blocks(paths).items():
        theirs = f"blocks.{stage - 1}.{number - 1}"
        widens = f"{block}_expand/kernel" in paths
        layers = ("expand", "depthwise", "project") if widens else ("depthwise", "project")
        names = ("conv_pw", "conv_dw", "conv_pwl") if widens else ("conv_dw", "conv_pw")
        for i, (layer, name) in enumerate(zip(layers, names, strict=True), 1):
            rules |= {f"{block}_{layer}": f"{theirs}.{name}", f"{block}_{layer}_bn": f"{theirs}.bn{i}"}
        rules[f"{block}_squeeze_conv1"] = f"{theirs}.se.conv_reduce"
        rules[f"{block}_squeeze_conv2"] = f"{theirs}.se.conv_expand"
    return renamed(paths, rules, _NO_BLOCK, TORCH_VARIABLES)


def _torchvision_efficientnet_names(paths: Iterable[str]) -> dict[str, str]:
    paths = list(paths)
    rules = {"stem_conv": "features.0"}
    for block, (stage, number) in _blocks(paths).items():
        theirs = f"features.{stage}.{number - 1}.block"
        layers = [f"{block}_{part}" for part in ("expand", "depthwise", "squeeze", "project")]
        # Its list holds the parts that a block has.
        present = [layer for layer in layers if any(path.startswith((f"{layer}/", f"{layer}_")) for path in paths)]
        rules |= {layer: f"{theirs}.{i}" for i, layer in enumerate(present)}
        rules |= {f"{layer}_conv{{c}}": f"{rules[layer]}.fc{{c}}" for layer in present if layer.endswith("_squeeze")}
    return renamed(paths, rules, _LIST, TORCH_VARIABLES)


def _blocks(paths: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Returns the blocks that variables are in, each with the numbers of its stage and in it, from 1."""
    found = [re.match(r"stage(\d+)_block(\d+)(?=_)", path) for path in paths]
    return {match[0]: (int(match[1]), int(match[2])) for match in found if match}


TIMM = Family("torchvision or timm", _recognises, _describe, _translate, normalisation=IMAGENET)
"""Backbones alone: ResNet, ResNet-C and ResNet-D, EfficientNet and EfficientNet-Lite."""
