"""Names of the tensors in released files, from the paths of a model's variables.

Each function takes paths, as `keras.Model.weights` has them, and returns `{name in the file: path}` for those that
belong to its family. The rules need the names of layers alone: the paths show how deep a network is and which options
it has. A backbone's names carry no prefix, as in the files of backbones. Those of a segmentor's backbone begin with
`backbone.`, as in the files of trained models.

Source: the state dicts of paddleseg/models and contrib/RSSegBenchmark/backbones of PaddleSeg, misspellings included;
for MobileNetV3 and LR-ASPP, which the benchmark lacks, those of torchvision, for EfficientNet efficientnet-pytorch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = [
    "TORCH_VARIABLES",
    "VARIABLES",
    "c2fnet_names",
    "danet_names",
    "deeplabv3plus_names",
    "efficientnet_names",
    "fcn_names",
    "hrnet_contrast_names",
    "hrnet_names",
    "lraspp_names",
    "mobilenet_v3_names",
    "ocrnet_names",
    "pspnet_names",
    "renamed",
    "resnet_names",
    "resnet_vd_names",
    "unet_encoder_names",
    "unet_names",
    "upernet_names",
]

VARIABLES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "_mean",
    "moving_variance": "_variance",
}
"""Variable of Keras -> last word of a tensor's name in files of Paddle."""

TORCH_VARIABLES = {**VARIABLES, "moving_mean": "running_mean", "moving_variance": "running_var"}
"""The same in files of torch."""

# What follows a block's name for its convolution and for its normalisation.
_PADDLE_BLOCK = ("._conv", "._batch_norm")
_TORCH_BLOCK = (".0", ".1")
_NO_BLOCK = ("", "")
_UNET_ENCODER = "encode."
_STAGE_BLOCK = re.compile(r"stage(\d+)_block(\d+)(?=_)")


# === Backbones ===


def resnet_names(paths: Iterable[str], variables: Mapping[str, str] = VARIABLES) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.resnet`, whose deep stem is a list in mmsegmentation's files."""
    rules = {
        "stem_conv": "conv1",
        "stem_conv_bn": "bn1",
        **{f"stem_conv{c}": f"stem.{3 * (c - 1)}" for c in (1, 2, 3)},
        **{f"stem_conv{c}_bn": f"stem.{3 * (c - 1) + 1}" for c in (1, 2, 3)},
        "stage{s}_block{b}_conv{c}": "layer{s}.{b0}.conv{c}",
        "stage{s}_block{b}_conv{c}_bn": "layer{s}.{b0}.bn{c}",
        "stage{s}_block{b}_shortcut": "layer{s}.{b0}.downsample.0",
        "stage{s}_block{b}_shortcut_bn": "layer{s}.{b0}.downsample.1",
    }
    return renamed(paths, rules, _NO_BLOCK, variables)


def resnet_vd_names(paths: Iterable[str]) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.resnet_vd`."""
    rules = {
        "stem_conv{c}": "conv1_{c}",
        "stage{s}_block{b}_conv{c}": "bb_{s0}_{b0}.conv{c0}",
        "stage{s}_block{b}_shortcut": "bb_{s0}_{b0}.short",
    }
    return renamed(paths, rules)


def hrnet_names(paths: Iterable[str]) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.hrnet`."""
    module = "st{s}.stage_st{s}_{m}"
    fusion = f"{module}.fuse_func.residual_st{{s}}_{{m}}_layer_{{target}}_{{source}}"
    rules = {
        "stem_conv{c}": "conv_layer1_{c}",
        "stage1_block{b}_conv{c}": "la1.bb_layer2_{b}.conv{c}",
        "stage1_block{b}_shortcut": "la1.bb_layer2_{b}.conv_down",
        "transition{t}_branch{i}": "tr{t}.transition_tr{t}_layer_{i}",
        "stage{s}_module{m}_branch{i}_block{b}_conv{c}": f"{module}.branches_func."
        "bb_st{s}_{m}_branch_layer_{i}_{b}.conv{c}",
        "stage{s}_module{m}_fuse_{source}to{target}": fusion,
        "stage{s}_module{m}_fuse_{source}to{target}_conv{c}": fusion + "_{c}",
    }
    return renamed(paths, rules)


def mobilenet_v3_names(paths: Iterable[str]) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.mobilenet_v3`."""
    paths = list(paths)
    found = [re.match(r"block(\d+)_(expand|depthwise|squeeze|project)", path) for path in paths]
    present = {(int(match[1]), match[2]) for match in found if match}
    blocks = max((block for block, _ in present), default=0)
    rules = {"stem_conv": "features.0", "last_conv": f"features.{blocks + 1}"}
    for block in range(1, blocks + 1):
        # Torchvision numbers the parts that a block has: not every one expands or squeezes.
        parts = [part for part in ("expand", "depthwise", "squeeze", "project") if (block, part) in present]
        rules |= {f"block{block}_{part}": f"features.{block}.block.{i}" for i, part in enumerate(parts)}
        if "squeeze" in parts:
            rules[f"block{block}_squeeze_conv{{c}}"] = rules[f"block{block}_squeeze"] + ".fc{c}"
    return renamed(paths, rules, _TORCH_BLOCK)


def efficientnet_names(paths: Iterable[str], variables: Mapping[str, str] = VARIABLES) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.efficientnet` in efficientnet-pytorch and the packages that are named like it."""
    paths = list(paths)
    found = {match[0]: (int(match[1]), int(match[2])) for path in paths if (match := _STAGE_BLOCK.match(path))}
    rules = {"stem_conv": "_conv_stem", "stem_conv_bn": "_bn0"}
    for number, block in enumerate(sorted(found, key=lambda name: found[name])):
        # All blocks are one list there.
        theirs = f"_blocks.{number}"
        for index, part in enumerate(("expand", "depthwise", "project")):
            rules |= {
                f"{block}_{part}": f"{theirs}._{part}_conv",
                f"{block}_{part}_bn": f"{theirs}._bn{index}",
            }
        rules |= {f"{block}_squeeze_conv1": f"{theirs}._se_reduce", f"{block}_squeeze_conv2": f"{theirs}._se_expand"}
    return renamed(paths, rules, _NO_BLOCK, variables)


def unet_encoder_names(paths: Iterable[str]) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.unet_encoder`, which has no file of its own."""
    rules = {f"stage1_conv{c}": f"{_UNET_ENCODER}double_conv.{c - 1}" for c in (1, 2)}
    for stage in range(2, 6):
        block = f"{_UNET_ENCODER}down_sample_list.{stage - 2}"
        rules |= {f"stage{stage}_conv{c}": f"{block}.{c}" for c in (1, 2)}
    return renamed(paths, rules)


# === Segmentors ===
#
# Their functions take the names of their backbone as well, whose paths are among those of the model.


def fcn_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.fcn`."""
    return _prefixed(backbone) | renamed(paths, {"head_conv": "head.conv_1", "head_classifier": "head.cls"})


def deeplabv3plus_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.deeplabv3plus`."""
    rules = {
        "aspp_branch{i}": "head.aspp.aspp_blocks.{i0}",
        "aspp_branch{i}_depthwise": "head.aspp.aspp_blocks.{i0}.depthwise_conv",
        "aspp_branch{i}_pointwise": "head.aspp.aspp_blocks.{i0}.piontwise_conv",
        "aspp_pool_conv": "head.aspp.global_avg_pool.1",
        "aspp_project": "head.aspp.conv_bn_relu",
        "decoder_low_level": "head.decoder.conv_bn_relu1",
        "decoder_conv1_depthwise": "head.decoder.conv_bn_relu2.depthwise_conv",
        "decoder_conv1_pointwise": "head.decoder.conv_bn_relu2.piontwise_conv",
        "decoder_conv2_depthwise": "head.decoder.conv_bn_relu3.depthwise_conv",
        "decoder_conv2_pointwise": "head.decoder.conv_bn_relu3.piontwise_conv",
        "decoder_classifier": "head.decoder.conv",
    }
    return _prefixed(backbone) | renamed(paths, rules)


def pspnet_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.pspnet`."""
    rules = {
        "ppm_project": "head.psp_module.conv_bn_relu2",
        "ppm_branch{i}": "head.psp_module.stages.{i0}.1",
        "head_classifier": "head.conv",
        "aux_conv": "head.auxlayer.conv_bn_relu",
        "aux_classifier": "head.auxlayer.conv",
    }
    return _prefixed(backbone) | renamed(paths, rules)


def upernet_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.upernet`.

    PaddleSeg's files hold `head.conv_last` even without the auxiliary head; a model without that head needs none of it.
    """
    rules = {
        "ppm_project": "head.ppm.conv_bn_relu2",
        "ppm_branch{i}": "head.ppm.stages.{i0}.1",
        "fpn_lateral{i}": "head.lateral_convs.{i0}",
        "fpn_conv{i}": "head.fpn_convs.{i0}",
        "fpn_bottleneck": "head.fpn_bottleneck",
        "head_classifier": "head.conv_seg",
        "conv_last": "head.conv_last.0",
        "conv_last_classifier": "head.conv_last.1",
        "aux_conv": "head.aux_head.conv_bn_relu",
        "aux_classifier": "head.aux_head.conv",
    }
    return _prefixed(backbone) | renamed(paths, rules)


def danet_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.danet`."""
    rules = {
        "cam_conv": "head.channel_conv",
        "cam_project": "head.conv1",
        "pam_conv": "head.position_conv",
        "pam_project": "head.conv2",
        "pam_query": "head.pam.query_conv",
        "pam_key": "head.pam.key_conv",
        "pam_value": "head.pam.value_conv",
        "head_classifier": "head.cls_head.1",
        "attention_classifier": "head.aux_head_cam.1",
        "pam_classifier": "head.aux_head_pam.1",
        "aux_classifier": "head.aux_head.1",
    }
    scales = {"head.pam.gamma": "pam_attention/gamma", "head.cam.gamma": "cam_attention/gamma"}
    return _prefixed(backbone) | renamed(paths, rules) | scales


def ocrnet_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.ocrnet`."""
    attention = "head.spatial_ocr.attention_block"
    rules = {
        "ocr_conv": "head.conv3x3_ocr",
        "ocr_project": "head.spatial_ocr.conv1x1.0",
        "ocr_pixel{i}": f"{attention}.f_pixel.{{i0}}",
        "ocr_object{i}": f"{attention}.f_object.{{i0}}",
        "ocr_down": f"{attention}.f_down",
        "ocr_up": f"{attention}.f_up",
        "head_classifier": "head.cls_head",
        "aux_conv": "head.aux_head.0",
        "aux_classifier": "head.aux_head.1",
    }
    return _prefixed(backbone) | renamed(paths, rules)


def unet_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.unet`, in PaddleSeg's files with an encoder that is no part of its own.

    The classifier stands there twice, under two names.
    """
    paths = list(paths)
    rules = {"decoder_block{i}_conv{c}": "decode.up_sample_list.{i0}.double_conv.{c0}"}
    encoder = backbone if all(name.startswith(_UNET_ENCODER) for name in backbone) else _prefixed(backbone)
    classifiers = [renamed(paths, {"head_classifier": name}) for name in ("cls", "conv")]
    return {**encoder, **renamed(paths, rules), **classifiers[0], **classifiers[1]}


def hrnet_contrast_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.hrnet_contrast`."""
    rules = {
        "head_conv": "cls_head.0",
        "head_classifier": "cls_head.2",
        "projection_conv": "proj_head.proj.0",
        "projection": "proj_head.proj.1",
    }
    return _prefixed(backbone) | renamed(paths, rules)


def lraspp_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.lraspp`, whose backbone in torchvision is the list `features` of a MobileNetV3."""
    rules = {
        "head_conv": "classifier.cbr",
        "head_gate": "classifier.scale.1",
        "head_low_classifier": "classifier.low_classifier",
        "head_classifier": "classifier.high_classifier",
    }
    features = {name.removeprefix("features."): path for name, path in backbone.items()}
    return _prefixed(features) | renamed(paths, rules, _TORCH_BLOCK)


def c2fnet_names(paths: Iterable[str], backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of the fine model of `rsseg_tf.segmentors.c2fnet`, for paths without `fine/`.

    That is all that PaddleSeg stores: its coarse model is a file of its own.
    """
    rules = {"head_conv": "head_fgbg.conv_1", "head_classifier": "head_fgbg.cls"}
    return _prefixed(backbone) | renamed(paths, rules)


# === Rules ===


def _prefixed(backbone: Mapping[str, str]) -> dict[str, str]:
    return {f"backbone.{name}": path for name, path in backbone.items()}


def renamed(
    paths: Iterable[str],
    rules: Mapping[str, str],
    block: tuple[str, str] = _PADDLE_BLOCK,
    variables: Mapping[str, str] = VARIABLES,
) -> dict[str, str]:
    """Returns the names of the tensors of all paths that a rule is for.

    Args:
        paths: Paths of variables: a layer, a slash, and a key of `variables`.
        rules: Name of a layer -> beginning of a tensor's name. `{b}` on the left stands for a number; on the right it
            is that number, and `{b0}` is one less.
        block: What is put behind the name of a convolution that is followed by a normalisation, and what behind the
            name of the normalisation, unless that has a rule of its own.
        variables: Variable of Keras -> last word of a tensor's name.
    """
    paths = list(paths)
    layers = {path.rpartition("/")[0] for path in paths}
    patterns = {re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>\\d+)", layer)): name for layer, name in rules.items()}

    def of_layer(layer: str) -> str | None:
        for pattern, name in patterns.items():
            if match := pattern.fullmatch(layer):
                numbers = {key: int(value) for key, value in match.groupdict().items()}
                return name.format(**numbers, **{f"{key}0": value - 1 for key, value in numbers.items()})
        return None

    names = {}
    for path in paths:
        layer, _, variable = path.rpartition("/")
        name = of_layer(layer)
        if name is not None and f"{layer}_bn" in layers:
            name += block[0]
        elif name is None and layer.endswith("_bn") and (name := of_layer(layer.removesuffix("_bn"))) is not None:
            name += block[1]
        if name is not None:
            names[f"{name}.{variables[variable]}"] = path
    return names
