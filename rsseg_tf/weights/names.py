"""Maps from the original's tensor names to the paths of our variables.

Every function returns ``{name in a .pdparams file: path in keras.Model.weights}``, generated from the structure that
the builder in ``rsseg_tf.backbones`` or ``rsseg_tf.segmentors`` has. The backbones' maps carry no prefix, as in the
released backbone weights; the segmentors' maps prefix them with ``backbone.``, as in the trained models.

Source: the state dicts of paddleseg/models and contrib/RSSegBenchmark/backbones of PaddleSeg, misspellings included;
for MobileNetV3 and LR-ASPP, which the benchmark lacks, those of torchvision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = [
    "c2fnet_names",
    "danet_names",
    "deeplabv3plus_names",
    "fcn_names",
    "hrnet_contrast_names",
    "hrnet_names",
    "lraspp_names",
    "mobilenet_v3_names",
    "ocrnet_names",
    "pspnet_names",
    "resnet_names",
    "resnet_vd_names",
    "upernet_names",
]


def resnet_names(depths: Sequence[int] = (3, 4, 6, 3), *, bottleneck: bool = True) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.resnet`; the default is ResNet-50.

    Args:
        depths: Residual blocks of the four stages.
        bottleneck: Blocks of three convolutions, or of two.
    """
    names = _conv("conv1", "stem_conv") | _batch_norm("bn1", "stem_conv_bn")
    for stage, depth in enumerate(depths, start=1):
        for block in range(depth):
            theirs, ours = f"layer{stage}.{block}", f"stage{stage}_block{block + 1}"
            for conv in range(1, 4 if bottleneck else 3):
                names |= _conv(f"{theirs}.conv{conv}", f"{ours}_conv{conv}")
                names |= _batch_norm(f"{theirs}.bn{conv}", f"{ours}_conv{conv}_bn")
            # Basic blocks keep the 64 channels of the stem, so that stage 1 needs no projection.
            if block == 0 and (bottleneck or stage > 1):
                names |= _conv(f"{theirs}.downsample.0", f"{ours}_shortcut")
                names |= _batch_norm(f"{theirs}.downsample.1", f"{ours}_shortcut_bn")
    return names


def resnet_vd_names(depths: Sequence[int] = (3, 4, 6, 3), *, bottleneck: bool = True) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.resnet_vd`; the default is ResNet-50-D.

    Args:
        depths: Residual blocks of the four stages.
        bottleneck: Blocks of three convolutions, or of two.
    """
    names: dict[str, str] = {}
    for conv in (1, 2, 3):
        names |= _conv_bn(f"conv1_{conv}", f"stem_conv{conv}")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            theirs, ours = f"bb_{stage}_{block}", f"stage{stage + 1}_block{block + 1}"
            for conv in range(3 if bottleneck else 2):
                names |= _conv_bn(f"{theirs}.conv{conv}", f"{ours}_conv{conv + 1}")
            if block == 0:
                names |= _conv_bn(f"{theirs}.short", f"{ours}_shortcut")
    return names


def hrnet_names(modules: Sequence[int] = (1, 4, 3), blocks: int = 4) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.hrnet`, the same for every width.

    Args:
        modules: Modules of stages 2, 3 and 4.
        blocks: Residual blocks in stage 1 and in every branch of a module.
    """
    names = _conv_bn("conv_layer1_1", "stem_conv1") | _conv_bn("conv_layer1_2", "stem_conv2")
    for block in range(1, blocks + 1):
        theirs, ours = f"la1.bb_layer2_{block}", f"stage1_block{block}"
        for conv in (1, 2, 3):
            names |= _conv_bn(f"{theirs}.conv{conv}", f"{ours}_conv{conv}")
        if block == 1:
            names |= _conv_bn(f"{theirs}.conv_down", f"{ours}_shortcut")
    for stage, num_modules in enumerate(modules, start=2):
        transition = stage - 1
        # Only the first transition changes the channels of a branch that exists; every transition adds the last one.
        for branch in (1, 2) if transition == 1 else (stage,):
            theirs = f"tr{transition}.transition_tr{transition}_layer_{branch}"
            names |= _conv_bn(theirs, f"transition{transition}_branch{branch}")
        for module in range(1, num_modules + 1):
            names |= _hrnet_module_names(stage, module, blocks)
    return names


def mobilenet_v3_names(
    blocks: int = 15, *, unexpanded: Sequence[int] = (1,), squeezed: Sequence[int] = (4, 5, 6, *range(11, 16))
) -> dict[str, str]:
    """Names of `rsseg_tf.backbones.mobilenet_v3`; the default is the large network.

    Args:
        blocks: Number of inverted residual blocks.
        unexpanded: Numbers, from 1, of the blocks without the first convolution.
        squeezed: Numbers of the blocks with squeeze-and-excitation.
    """
    names = _sequential_conv_bn("features.0", "stem_conv")
    for block in range(1, blocks + 1):
        ours, part = f"block{block}", 0
        for layer in ("expand", "depthwise", "squeeze", "project"):
            if (layer == "expand" and block in unexpanded) or (layer == "squeeze" and block not in squeezed):
                continue
            theirs = f"features.{block}.block.{part}"
            part += 1  # torchvision numbers what is there
            if layer == "squeeze":
                names |= _conv(f"{theirs}.fc1", f"{ours}_squeeze_conv1", bias=True)
                names |= _conv(f"{theirs}.fc2", f"{ours}_squeeze_conv2", bias=True)
            else:
                names |= _sequential_conv_bn(theirs, f"{ours}_{layer}")
    return names | _sequential_conv_bn(f"features.{blocks + 1}", "last_conv")


def fcn_names(backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.fcn` on a backbone with these names."""
    names = {f"backbone.{theirs}": ours for theirs, ours in backbone.items()}
    names |= _conv_bn("head.conv_1", "head_conv", bias=True)
    return names | _conv("head.cls", "head_classifier", bias=True)


def deeplabv3plus_names(backbone: Mapping[str, str], aspp_rates: Sequence[int] = (1, 12, 24, 36)) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.deeplabv3plus` on a backbone with these names and with these ASPP rates."""
    names = {f"backbone.{theirs}": ours for theirs, ours in backbone.items()}
    for index, rate in enumerate(aspp_rates):
        theirs, ours = f"head.aspp.aspp_blocks.{index}", f"aspp_branch{index + 1}"
        names |= _conv_bn(theirs, ours, bias=True) if rate == 1 else _separable_conv_bn(theirs, ours)
    names |= _conv_bn("head.aspp.global_avg_pool.1", "aspp_pool_conv")
    names |= _conv_bn("head.aspp.conv_bn_relu", "aspp_project", bias=True)
    names |= _conv_bn("head.decoder.conv_bn_relu1", "decoder_low_level", bias=True)
    names |= _separable_conv_bn("head.decoder.conv_bn_relu2", "decoder_conv1")
    names |= _separable_conv_bn("head.decoder.conv_bn_relu3", "decoder_conv2")
    return names | _conv("head.decoder.conv", "decoder_classifier", bias=True)


def pspnet_names(
    backbone: Mapping[str, str], bin_sizes: Sequence[int] = (1, 2, 3, 6), *, aux_head: bool = True
) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.pspnet` on a backbone with these names and with these options."""
    names = {f"backbone.{theirs}": ours for theirs, ours in backbone.items()}
    names |= _pyramid_pooling("head.psp_module", len(bin_sizes)) | _conv("head.conv", "head_classifier", bias=True)
    return names | (_auxiliary_head("head.auxlayer") if aux_head else {})


def upernet_names(backbone: Mapping[str, str], *, aux_head: bool = True) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.upernet` on a backbone with these names and with this option.

    Without the auxiliary head, the original's files still hold ``head.conv_last``, which no model of ours needs.
    """
    names = {f"backbone.{theirs}": ours for theirs, ours in backbone.items()}
    names |= _pyramid_pooling("head.ppm", 4)
    for level in range(3):
        names |= _conv_bn(f"head.lateral_convs.{level}", f"fpn_lateral{level + 1}", bias=True)
        names |= _conv_bn(f"head.fpn_convs.{level}", f"fpn_conv{level + 1}")
    names |= _conv_bn("head.fpn_bottleneck", "fpn_bottleneck", bias=True)
    names |= _conv("head.conv_seg", "head_classifier", bias=True)
    if not aux_head:
        return names
    names |= _conv_bn("head.conv_last.0", "conv_last")
    names |= _conv("head.conv_last.1", "conv_last_classifier", bias=True)
    return names | _auxiliary_head("head.aux_head")


def danet_names(backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.danet` on a backbone with these names."""
    names = {f"backbone.{theirs}": ours for theirs, ours in backbone.items()}
    for theirs, ours in {
        "channel_conv": "cam_conv", "conv1": "cam_project", "position_conv": "pam_conv", "conv2": "pam_project"
    }.items():  # fmt: skip
        names |= _conv_bn(f"head.{theirs}", ours, bias=True)
    for theirs, ours in {
        "pam.query_conv": "pam_query", "pam.key_conv": "pam_key", "pam.value_conv": "pam_value",
        "cls_head.1": "head_classifier", "aux_head_cam.1": "attention_classifier", "aux_head.1": "aux_classifier",
        "aux_head_pam.1": "pam_classifier",
    }.items():  # fmt: skip
        names |= _conv(f"head.{theirs}", ours, bias=True)
    return names | {"head.pam.gamma": "pam_attention/gamma", "head.cam.gamma": "cam_attention/gamma"}


def ocrnet_names(backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.ocrnet` on a backbone with these names."""
    names = {f"backbone.{theirs}": ours for theirs, ours in backbone.items()}
    attention = "spatial_ocr.attention_block"
    for theirs, ours in {
        "conv3x3_ocr": "ocr_conv", "aux_head.0": "aux_conv", "spatial_ocr.conv1x1.0": "ocr_project",
        f"{attention}.f_pixel.0": "ocr_pixel1", f"{attention}.f_pixel.1": "ocr_pixel2",
        f"{attention}.f_object.0": "ocr_object1", f"{attention}.f_object.1": "ocr_object2",
        f"{attention}.f_down": "ocr_down", f"{attention}.f_up": "ocr_up",
    }.items():  # fmt: skip
        names |= _conv_bn(f"head.{theirs}", ours, bias=True)
    names |= _conv("head.cls_head", "head_classifier", bias=True)
    return names | _conv("head.aux_head.1", "aux_classifier", bias=True)


def hrnet_contrast_names(backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.hrnet_contrast` on a backbone with these names."""
    names = {f"backbone.{theirs}": ours for theirs, ours in backbone.items()}
    names |= _conv_bn("cls_head.0", "head_conv", bias=True) | _conv("cls_head.2", "head_classifier")
    names |= _conv_bn("proj_head.proj.0", "projection_conv", bias=True)
    return names | _conv("proj_head.proj.1", "projection", bias=True)


def lraspp_names(backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of `rsseg_tf.segmentors.lraspp` on a backbone with these names.

    Torchvision's model has the list ``features`` of its MobileNetV3 as its backbone.
    """
    names = {f"backbone.{theirs.removeprefix('features.')}": ours for theirs, ours in backbone.items()}
    names |= _sequential_conv_bn("classifier.cbr", "head_conv") | _conv("classifier.scale.1", "head_gate")
    names |= _conv("classifier.low_classifier", "head_low_classifier", bias=True)
    return names | _conv("classifier.high_classifier", "head_classifier", bias=True)


def c2fnet_names(backbone: Mapping[str, str]) -> dict[str, str]:
    """Names of the fine model of `rsseg_tf.segmentors.c2fnet` on a backbone with these names.

    That is all the original stores; its coarse model is a file of its own. Our variables lie under ``fine/``, as
    `c2fnet` describes.
    """
    head = _conv_bn("head_fgbg.conv_1", "head_conv", bias=True) | _conv("head_fgbg.cls", "head_classifier", bias=True)
    names = {f"backbone.{theirs}": ours for theirs, ours in backbone.items()} | head
    return {theirs: f"fine/{ours}" for theirs, ours in names.items()}


def _pyramid_pooling(theirs: str, branches: int) -> dict[str, str]:
    names = _conv_bn(f"{theirs}.conv_bn_relu2", "ppm_project", bias=True)
    for branch in range(branches):
        names |= _conv_bn(f"{theirs}.stages.{branch}.1", f"ppm_branch{branch + 1}", bias=True)
    return names


def _auxiliary_head(theirs: str) -> dict[str, str]:
    names = _conv_bn(f"{theirs}.conv_bn_relu", "aux_conv", bias=True)
    return names | _conv(f"{theirs}.conv", "aux_classifier", bias=True)


def _hrnet_module_names(stage: int, module: int, blocks: int) -> dict[str, str]:
    """Names of one module of HRNet, which has as many branches as the number of its stage."""
    names: dict[str, str] = {}
    theirs = f"st{stage}.stage_st{stage}_{module}"
    ours = f"stage{stage}_module{module}"
    for branch in range(1, stage + 1):
        for block in range(1, blocks + 1):
            prefix = f"{theirs}.branches_func.bb_st{stage}_{module}_branch_layer_{branch}_{block}"
            for conv in (1, 2):
                names |= _conv_bn(f"{prefix}.conv{conv}", f"{ours}_branch{branch}_block{block}_conv{conv}")
    for target in range(1, stage + 1):
        for source in range(1, stage + 1):
            prefix = f"{theirs}.fuse_func.residual_st{stage}_{module}_layer_{target}_{source}"
            if source > target:
                names |= _conv_bn(prefix, f"{ours}_fuse_{source}to{target}")
            for step in range(1, target - source + 1):
                names |= _conv_bn(f"{prefix}_{step}", f"{ours}_fuse_{source}to{target}_conv{step}")
    return names


def _conv(theirs: str, ours: str, *, bias: bool = False) -> dict[str, str]:
    names = {f"{theirs}.weight": f"{ours}/kernel"}
    if bias:
        names[f"{theirs}.bias"] = f"{ours}/bias"
    return names


def _batch_norm(theirs: str, ours: str) -> dict[str, str]:
    return {
        f"{theirs}.weight": f"{ours}/gamma",
        f"{theirs}.bias": f"{ours}/beta",
        f"{theirs}._mean": f"{ours}/moving_mean",
        f"{theirs}._variance": f"{ours}/moving_variance",
    }


def _conv_bn(theirs: str, ours: str, *, bias: bool = False) -> dict[str, str]:
    return _conv(f"{theirs}._conv", ours, bias=bias) | _batch_norm(f"{theirs}._batch_norm", f"{ours}_bn")


def _sequential_conv_bn(theirs: str, ours: str) -> dict[str, str]:
    return _conv(f"{theirs}.0", ours) | _batch_norm(f"{theirs}.1", f"{ours}_bn")


def _separable_conv_bn(theirs: str, ours: str) -> dict[str, str]:
    # "piontwise" is the original's spelling.
    return _conv_bn(f"{theirs}.depthwise_conv", f"{ours}_depthwise", bias=True) | _conv_bn(
        f"{theirs}.piontwise_conv", f"{ours}_pointwise", bias=True
    )
