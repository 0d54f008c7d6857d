"""Checkpoints of SegFormer and of its encoder MiT, as transformers, mmsegmentation and PaddleSeg name them.

Source: models/segformer of transformers 5.24, whose files have the names of its earlier releases while its modules have
newer ones (both are read); mmseg/models/backbones/mit.py of mmsegmentation 1.2.2; paddleseg/models/segformer.py and
paddleseg/models/backbones/mix_transformer.py of PaddleSeg.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from rsseg_tf.config.named_weights import IMAGENET
from rsseg_tf.config.zoo import MiT, Row, SegFormer, SegmentorSection
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.families.family import Family, Tensors, Translation
from rsseg_tf.weights.names import TORCH_VARIABLES, renamed

__all__ = ["HUGGING_FACE", "MMSEGMENTATION_SEGFORMER", "PADDLESEG_SEGFORMER"]

_B1_WIDTHS = (64, 128, 320, 512)
# Channels and blocks by stage.
_MITS: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((32, 64, 160, 256), (2, 2, 2, 2)): "MiT-B0",
    (_B1_WIDTHS, (2, 2, 2, 2)): "MiT-B1",
    (_B1_WIDTHS, (3, 4, 6, 3)): "MiT-B2",
    (_B1_WIDTHS, (3, 4, 18, 3)): "MiT-B3",
    (_B1_WIDTHS, (3, 8, 27, 3)): "MiT-B4",
    (_B1_WIDTHS, (3, 6, 40, 3)): "MiT-B5",
}

_EMBED, _BLOCK = "stage{s}_embed", "stage{s}_block{b}_attention_norm"
# Layers of ours -> beginnings of names in the file.
_HF_BLOCK = "encoder.block.{s0}.{b0}"
_HF_ENCODER = {
    _EMBED: "encoder.patch_embeddings.{s0}.proj",
    "stage{s}_embed_norm": "encoder.patch_embeddings.{s0}.layer_norm",
    _BLOCK: f"{_HF_BLOCK}.layer_norm_1",
    "stage{s}_block{b}_attention_query": f"{_HF_BLOCK}.attention.self.query",
    "stage{s}_block{b}_attention_key": f"{_HF_BLOCK}.attention.self.key",
    "stage{s}_block{b}_attention_value": f"{_HF_BLOCK}.attention.self.value",
    "stage{s}_block{b}_attention_reduce": f"{_HF_BLOCK}.attention.self.sr",
    "stage{s}_block{b}_attention_reduce_norm": f"{_HF_BLOCK}.attention.self.layer_norm",
    "stage{s}_block{b}_attention_project": f"{_HF_BLOCK}.attention.output.dense",
    "stage{s}_block{b}_mlp_norm": f"{_HF_BLOCK}.layer_norm_2",
    "stage{s}_block{b}_mlp_expand": f"{_HF_BLOCK}.mlp.dense1",
    "stage{s}_block{b}_mlp_depthwise": f"{_HF_BLOCK}.mlp.dwconv.dwconv",
    "stage{s}_block{b}_mlp_project": f"{_HF_BLOCK}.mlp.dense2",
    "stage{s}_norm": "encoder.layer_norm.{s0}",
}
_HF_HEAD = {
    "head_linear{i}": "decode_head.linear_c.{i0}.proj",
    "head_fuse{i}": "decode_head.linear_fuse.{i}",
    "head_norm": "decode_head.batch_norm",
    "head_classifier": "decode_head.classifier",
}
_HF_FUSE = "decode_head.linear_fuse.weight"
_HF_CLASSIFIER = ("decode_head.classifier.weight", "decode_head.classifier.bias")
_MM_BLOCK = "backbone.layers.{s0}.1.{b0}"
_MM_ENCODER = {
    _EMBED: "backbone.layers.{s0}.0.projection",
    "stage{s}_embed_norm": "backbone.layers.{s0}.0.norm",
    _BLOCK: f"{_MM_BLOCK}.norm1",
    "stage{s}_block{b}_attention_query": f"{_MM_BLOCK}.attn.attn.query",
    "stage{s}_block{b}_attention_key": f"{_MM_BLOCK}.attn.attn.key",
    "stage{s}_block{b}_attention_value": f"{_MM_BLOCK}.attn.attn.value",
    "stage{s}_block{b}_attention_reduce": f"{_MM_BLOCK}.attn.sr",
    "stage{s}_block{b}_attention_reduce_norm": f"{_MM_BLOCK}.attn.norm",
    "stage{s}_block{b}_attention_project": f"{_MM_BLOCK}.attn.attn.out_proj",
    "stage{s}_block{b}_mlp_norm": f"{_MM_BLOCK}.norm2",
    "stage{s}_block{b}_mlp_expand": f"{_MM_BLOCK}.ffn.layers.0",
    "stage{s}_block{b}_mlp_depthwise": f"{_MM_BLOCK}.ffn.layers.1",
    "stage{s}_block{b}_mlp_project": f"{_MM_BLOCK}.ffn.layers.4",
    "stage{s}_norm": "backbone.layers.{s0}.2",
}
_PD_BLOCK = "backbone.block{s}.{b0}"
_PD_ENCODER = {
    _EMBED: "backbone.patch_embed{s}.proj",
    "stage{s}_embed_norm": "backbone.patch_embed{s}.norm",
    _BLOCK: f"{_PD_BLOCK}.norm1",
    "stage{s}_block{b}_attention_query": f"{_PD_BLOCK}.attn.q",
    "stage{s}_block{b}_attention_key": f"{_PD_BLOCK}.attn.key",
    "stage{s}_block{b}_attention_value": f"{_PD_BLOCK}.attn.value",
    "stage{s}_block{b}_attention_reduce": f"{_PD_BLOCK}.attn.sr",
    "stage{s}_block{b}_attention_reduce_norm": f"{_PD_BLOCK}.attn.norm",
    "stage{s}_block{b}_attention_project": f"{_PD_BLOCK}.attn.proj",
    "stage{s}_block{b}_mlp_norm": f"{_PD_BLOCK}.norm2",
    "stage{s}_block{b}_mlp_expand": f"{_PD_BLOCK}.mlp.fc1",
    "stage{s}_block{b}_mlp_depthwise": f"{_PD_BLOCK}.mlp.dwconv.dwconv",
    "stage{s}_block{b}_mlp_project": f"{_PD_BLOCK}.mlp.fc2",
    "stage{s}_norm": "backbone.norm{s}",
}
_PD_HEAD = {
    "head_linear{i}": "linear_c{i}.proj",
    "head_fuse{i}": "linear_fuse._conv.{i}",
    "head_norm": "linear_fuse._batch_norm",
    "head_classifier": "linear_pred",
}
_PD_FUSE = "linear_fuse._conv.weight"
# Modules of transformers 5 -> names in its files.
_NEW_NAMES = (
    (r"stages\.(\d+)\.patch_embeddings", r"encoder.patch_embeddings.\1"),
    (r"stages\.(\d+)\.layer_norm", r"encoder.layer_norm.\1"),
    (r"stages\.(\d+)\.blocks\.(\d+)", r"encoder.block.\1.\2"),
    (r"\.layernorm_before\.", ".layer_norm_1."),
    (r"\.layernorm_after\.", ".layer_norm_2."),
    (r"\.attention\.q_proj", ".attention.self.query"),
    (r"\.attention\.k_proj", ".attention.self.key"),
    (r"\.attention\.v_proj", ".attention.self.value"),
    (r"\.attention\.o_proj", ".attention.output.dense"),
    (r"\.sequence_reduction\.sequence_reduction", ".self.sr"),
    (r"\.sequence_reduction\.layer_norm", ".self.layer_norm"),
    (r"\.mlp\.fc([12])", r".mlp.dense\1"),
    (r"decode_head\.linear_projections", "decode_head.linear_c"),
)


# === What both have in common ===


def _encoder_in(tensors: Tensors, rules: Mapping[str, str]) -> str:
    """Returns the name of the encoder that a file holds."""
    widths, depths = [], []
    for stage in range(4):
        kernel = tensors.get(rules[_EMBED].format(s0=stage, s=stage + 1) + ".weight", np.empty(0))
        widths.append(kernel.shape[0] if kernel.ndim else 0)
        block = re.escape(rules[_BLOCK].format(s0=stage, s=stage + 1, b0="#")).replace(r"\#", r"\d+")
        depths.append(sum(re.fullmatch(block + r"\.weight", name) is not None for name in tensors))
    blocks = f"a MiT with {', '.join(map(str, widths))} channels and {', '.join(map(str, depths))} blocks"
    return _MITS.get((tuple(widths), tuple(depths)), blocks)


def _is_for(encoder: str, row: Row, epsilon: float, embed_epsilon: float | None = None) -> bool:
    """Whether an encoder may be that of a config; those of unknown sizes are compared tensor by tensor.

    Args:
        encoder: The name of the file's.
        row: The section of the config.
        epsilon: What the project adds to the variances.
        embed_epsilon: The same behind patches and reduced maps; None for `epsilon`.

    Raises:
        WeightsError: If the config adds another number to the variances than the project does.
    """
    backbone = row.backbone if isinstance(row, SegmentorSection) else row
    if not isinstance(backbone, MiT):
        return False
    if encoder in _MITS.values() and encoder != backbone.name.replace("mit_b", "MiT-B"):
        return False
    given = {"norm_epsilon": backbone.norm_epsilon, "embed_epsilon": backbone.embed_epsilon or backbone.norm_epsilon}
    wanted = {"norm_epsilon": epsilon, "embed_epsilon": embed_epsilon or epsilon}
    for name, value in wanted.items():
        if given[name] != value:
            raise WeightsError(
                f"{name} of {backbone.name} is {given[name]:g}, and the project that the file comes from "
                f"takes {value:g}. Write {name}: {value:g} into the section of the backbone"
            )
    return True


def _as_convolutions(tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns the tensors with linear layers (out, in) as convolutions (out, in, 1, 1)."""
    return {name: array[:, :, None, None] if array.ndim == 2 else array for name, array in tensors.items()}


# === Hugging Face ===


def _hugging_face_names(tensors: Tensors) -> dict[str, np.ndarray]:
    """Returns the tensors under the names in files, without the prefix that models with a head have."""
    named = {}
    for name, array in tensors.items():
        name = name.removeprefix("segformer.")
        for pattern, instead in _NEW_NAMES:
            name = re.sub(pattern, instead, name)
        named[name] = array
    return named


def _is_hugging_face(tensors: Tensors) -> bool:
    return _HF_ENCODER[_EMBED].format(s0=0) + ".weight" in _hugging_face_names(tensors)


def _described(encoder: str, classifier: np.ndarray | None) -> str:
    """Returns what a file holds, from its encoder and the weights of the last layer of a segmentor."""
    if classifier is None or not classifier.ndim:
        return encoder
    return f"SegFormer on {encoder}, {classifier.shape[0]} classes"


def _describe_hugging_face(tensors: Tensors) -> str:
    tensors = _hugging_face_names(tensors)
    told = _described(_encoder_in(tensors, _HF_ENCODER), tensors.get("decode_head.classifier.weight"))
    of_images = "classifier.weight" in tensors and not told.startswith("SegFormer")
    return f"{told} with a classifier of images" if of_images else told


def _translate_hugging_face(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    tensors = _hugging_face_names(tensors)
    if not _is_for(_encoder_in(tensors, _HF_ENCODER), row, 1e-5):
        return Translation({}, tensors)
    names = renamed(paths, _HF_ENCODER, variables=TORCH_VARIABLES)
    if isinstance(row, SegmentorSection):
        if not isinstance(row, SegFormer) or _HF_FUSE not in tensors:
            return Translation({}, tensors)
        names |= renamed(paths, _HF_HEAD, variables=TORCH_VARIABLES)
    return Translation(names, _by_feature(_as_convolutions(tensors), _HF_FUSE), classifiers=_HF_CLASSIFIER)


def _by_feature(tensors: dict[str, np.ndarray], fuse: str) -> dict[str, np.ndarray]:
    """Cuts the layer of all features, the deepest first, whose kernel is called `fuse`, into one for each."""
    kernel = tensors.get(fuse)
    if kernel is None or kernel.ndim != 4 or kernel.shape[1] % 4:
        return tensors
    parts = enumerate(reversed(np.split(kernel, 4, axis=1)), start=1)
    rest = {name: array for name, array in tensors.items() if name != fuse}
    return rest | {fuse.replace(".weight", f".{i}.weight"): part for i, part in parts}


HUGGING_FACE = Family(
    "Hugging Face", _is_hugging_face, _describe_hugging_face, _translate_hugging_face, normalisation=IMAGENET
)
"""SegFormer and MiT, with or without a classifier of images."""


# === mmsegmentation ===


def _with_backbone(tensors: Tensors) -> Tensors:
    """Returns the tensors with the prefix of trained models, which files of an encoder alone lack."""
    alone = not any(name.startswith("backbone.") for name in tensors)
    return {f"backbone.{name}": array for name, array in tensors.items()} if alone else tensors


def _is_mmsegmentation(tensors: Tensors) -> bool:
    tensors = _with_backbone(tensors)
    return {f"backbone.layers.0.{layer}.weight" for layer in ("0.projection", "1.0.ffn.layers.4")} <= tensors.keys()


def _describe_mmsegmentation(tensors: Tensors) -> str:
    tensors = _with_backbone(tensors)
    return _described(_encoder_in(tensors, _MM_ENCODER), tensors.get("decode_head.conv_seg.weight"))


def _translate_mmsegmentation(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    tensors = _with_backbone(tensors)
    if not _is_for(_encoder_in(tensors, _MM_ENCODER), row, 1e-6):
        return Translation({}, tensors)
    if isinstance(row, SegmentorSection):
        raise WeightsError(
            "mmsegmentation's SegFormer has a normalisation and a ReLU on each feature, which no head here has. Load "
            "the encoder alone: name the file as model.backbone.pretrained"
        )
    unpacked: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        head, packed, last = name.rpartition(".in_proj_")
        if packed and array.ndim and array.shape[0] % 3 == 0:
            parts = zip(("query", "key", "value"), np.split(array, 3), strict=True)
            unpacked |= {f"{head}.{part}.{last}": values for part, values in parts}
        else:
            unpacked[name] = array
    names = renamed(paths, _MM_ENCODER, variables=TORCH_VARIABLES)
    return Translation(names, _as_convolutions(unpacked))


MMSEGMENTATION_SEGFORMER = Family(
    "mmsegmentation", _is_mmsegmentation, _describe_mmsegmentation, _translate_mmsegmentation, normalisation=IMAGENET
)
"""The encoders of its SegFormers; their head has a ReLU that Hugging Face's has not."""


# === PaddleSeg ===


def _is_paddleseg(tensors: Tensors) -> bool:
    tensors = _with_backbone(tensors)
    return {f"backbone.{layer}.weight" for layer in ("patch_embed1.proj", "block1.0.attn.kv")} <= tensors.keys()


def _describe_paddleseg(tensors: Tensors) -> str:
    tensors = _with_backbone(tensors)
    return _described(_encoder_in(tensors, _PD_ENCODER), tensors.get("linear_pred.weight"))


def _translate_paddleseg(tensors: Tensors, row: Row, paths: Sequence[str]) -> Translation:
    tensors = _with_backbone(tensors)
    if not _is_for(_encoder_in(tensors, _PD_ENCODER), row, 1e-6, 1e-5):
        return Translation({}, tensors)
    names = renamed(paths, _PD_ENCODER)
    if isinstance(row, SegmentorSection):
        if not isinstance(row, SegFormer) or _PD_FUSE not in tensors:
            return Translation({}, tensors)
        names |= renamed(paths, _PD_HEAD)
    unpacked: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        array = array.T if array.ndim == 2 else array  # Paddle's linear layers are (in, out)
        head, packed, last = name.rpartition(".kv.")
        if packed and array.ndim and array.shape[0] % 2 == 0:
            parts = zip(("key", "value"), np.split(array, 2), strict=True)
            unpacked |= {f"{head}.{part}.{last}": values for part, values in parts}
        else:
            unpacked[name] = array
    classifiers = ("linear_pred.weight", "linear_pred.bias")
    return Translation(names, _by_feature(_as_convolutions(unpacked), _PD_FUSE), classifiers=classifiers)


PADDLESEG_SEGFORMER = Family("PaddleSeg", _is_paddleseg, _describe_paddleseg, _translate_paddleseg)
"""SegFormer and MiT; its configs normalise by 0.5, others by the statistics of ImageNet, so there is no rule."""
