"""MiT and ConvNeXt compute what other projects' do, on values that follow from names (`encoders/generate.py`)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.backbones import convnext
from rsseg_tf.build import build_backbone
from rsseg_tf.config.zoo import FCN, Backbone, ConvNeXt, MiT, SegFormer
from rsseg_tf.errors import WeightsError
from rsseg_tf.segmentors import segformer
from rsseg_tf.weights.pretrained import LoadReport, Part, backbone_part, load_part
from rsseg_tf.weights.tensors import TensorFile
from tests.fixtures.configs import replace_builder
from tests.parity import detinit

pytestmark = pytest.mark.parity

FOLDER = Path(__file__).parent / "encoders"
B0 = MiT(name="mit_b0")
TINY = ConvNeXt(name="convnext_tiny")
CONVNEXTS = ("convnext_timm", "convnext_torchvision", "convnext_hugging_face")
# Names of Hugging Face's files -> those of its modules since transformers 5.
MODULES = (
    ("segformer.encoder.patch_embeddings.0.", "segformer.stages.0.patch_embeddings."),
    ("segformer.encoder.layer_norm.2.", "segformer.stages.2.layer_norm."),
    ("segformer.encoder.block.1.0.layer_norm_1.", "segformer.stages.1.blocks.0.layernorm_before."),
    ("segformer.encoder.block.1.0.layer_norm_2.", "segformer.stages.1.blocks.0.layernorm_after."),
    ("segformer.encoder.block.0.1.attention.self.query.", "segformer.stages.0.blocks.1.attention.q_proj."),
    ("segformer.encoder.block.0.1.attention.self.key.", "segformer.stages.0.blocks.1.attention.k_proj."),
    ("segformer.encoder.block.0.1.attention.self.value.", "segformer.stages.0.blocks.1.attention.v_proj."),
    ("segformer.encoder.block.0.1.attention.output.dense.", "segformer.stages.0.blocks.1.attention.o_proj."),
    (
        "segformer.encoder.block.0.1.attention.self.sr.",
        "segformer.stages.0.blocks.1.attention.sequence_reduction.sequence_reduction.",
    ),
    (
        "segformer.encoder.block.0.1.attention.self.layer_norm.",
        "segformer.stages.0.blocks.1.attention.sequence_reduction.layer_norm.",
    ),
    ("segformer.encoder.block.3.1.mlp.dense1.", "segformer.stages.3.blocks.1.mlp.fc1."),
    ("segformer.encoder.block.3.1.mlp.dense2.", "segformer.stages.3.blocks.1.mlp.fc2."),
    ("segformer.encoder.block.3.1.mlp.dwconv.", "segformer.stages.3.blocks.1.mlp.dwconv."),
)


@pytest.fixture(autouse=True)
def narrow_convnext(monkeypatch: pytest.MonkeyPatch) -> None:
    """`convnext_tiny` as narrow as those that were run."""
    narrow = partial(convnext, (1, 2, 1, 1), (8, 16, 24, 32))
    replace_builder(monkeypatch, "rsseg_tf.backbones.convnext:convnext_tiny", narrow)


def expected_of(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the tensors of a file, and what its network computes."""
    with np.load(FOLDER / f"{name}.npz") as file:
        expected = dict(file)
    shapes = {name: tuple(map(int, sizes.split(","))) for name, sizes in map(str.split, expected.pop("tensors"))}
    return {name: detinit.transformer_weight(name, shape) for name, shape in shapes.items()}, expected


def load(model: keras.Model, row: Backbone, tensors: dict[str, np.ndarray]) -> LoadReport:
    part = backbone_part(row, [variable.path for variable in model.weights])
    return load_part(model, part, TensorFile("a file", "torch", "", tensors))


def assert_features(model: keras.Model, expected: dict[str, np.ndarray], size: tuple[int, int]) -> None:
    features = model(detinit.image("encoders", 1, *size), training=False)
    assert list(features) == ["c2", "c3", "c4", "c5"]
    for name, ours in features.items():
        difference = np.abs(np.asarray(ours)[:, ::3, ::3, ::8] - expected[name]).max()
        assert difference <= 1e-4 * expected[f"{name}_spread"], name


def test_the_encoder_of_hugging_faces_segformer() -> None:
    tensors, expected = expected_of("segformer_b0")
    model = build_backbone(B0)
    report = load(model, B0, tensors)
    assert report.tensors == len(model.weights)
    assert report.skipped and all(name.startswith("decode_head.") for name in report.skipped)
    assert_features(model, expected, (97, 131))


def test_hugging_faces_segformer() -> None:
    tensors, expected = expected_of("segformer_b0")
    row = SegFormer(name="segformer", backbone=B0)
    model = segformer(build_backbone(B0), num_classes=7)
    part = Part("model", row, None, tuple(variable.path for variable in model.weights), whole=True)
    report = load_part(model, part, TensorFile("a file", "torch", "", tensors))
    # The three parts more are those of the layer that joins the features.
    assert (report.tensors, report.skipped) == (len(tensors) + 3, ())
    logits = np.asarray(model(detinit.image("encoders", 1, 97, 131), training=False)["main"])
    assert np.abs(logits[:, ::3, ::3] - expected["logits"]).max() <= 1e-4 * expected["logits_spread"]
    fcn = FCN(name="fcn", backbone=B0)
    with pytest.raises(WeightsError, match="which is fcn_mit_b0: it holds SegFormer on MiT-B0, 7 classes"):
        load_part(model, replace(part, row=fcn), TensorFile("a file", "torch", "", tensors))


def test_hugging_faces_newer_names_and_files_of_the_encoder_alone() -> None:
    tensors, _ = expected_of("segformer_b0")
    wanted = {name: array for name, array in tensors.items() if name.startswith("segformer.")}
    model, other = build_backbone(B0), build_backbone(B0)
    load(model, B0, tensors)
    renamed = {}
    for name, array in wanted.items():
        for old, new in MODULES:
            name = name.replace(old, new)
        renamed[name.removeprefix("segformer.")] = array
    changed = [name for name in wanted if name.removeprefix("segformer.") not in renamed]
    assert len(changed) == 2 * len(MODULES) + 2  # there are two layers in the embedding
    assert load(other, B0, renamed).skipped == ()
    for ours, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)


@pytest.mark.parametrize("name", CONVNEXTS)
def test_convnext(name: str) -> None:
    tensors, expected = expected_of(name)
    model = build_backbone(TINY)
    report = load(model, TINY, tensors)
    assert report.tensors == len(model.weights)
    assert {name.split(".")[0] for name in report.skipped} <= {"head", "classifier", "layernorm"}
    assert_features(model, expected, (96, 160))


def test_convnext_of_its_authors_and_within_a_larger_model() -> None:
    tensors, expected = expected_of("convnext_timm")
    authors, features_only = {}, {}
    for name, array in tensors.items():
        own = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".").replace(".conv_dw.", ".dwconv.")
        own = own.replace(".mlp.fc", ".pwconv")
        if ".downsample." in own:
            _, stage, _, rest = own.split(".", 3)
            own = f"downsample_layers.{stage}.{rest}"
        authors[own] = array
        features_only[f"encoder.model.{name}".replace("stem.", "stem_").replace("stages.", "stages_")] = array
    for variant in (authors, features_only):
        model = build_backbone(TINY)
        assert load(model, TINY, variant).tensors == len(model.weights)
        assert_features(model, expected, (96, 160))


def as_mmsegmentation(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns Hugging Face's encoder under mmsegmentation's names, with queries, keys and values in one."""
    names = {
        "layer_norm_1": "norm1", "layer_norm_2": "norm2", "attention.self.sr": "attn.sr",
        "attention.self.layer_norm": "attn.norm", "attention.output.dense": "attn.attn.out_proj",
        "mlp.dense1": "ffn.layers.0", "mlp.dwconv.dwconv": "ffn.layers.1", "mlp.dense2": "ffn.layers.4",
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, array in tensors.items():
        kind, stage, rest = name.removeprefix("segformer.encoder.").split(".", 2)
        if kind == "patch_embeddings":
            found[f"backbone.layers.{stage}.0.{rest.replace('proj', 'projection').replace('layer_norm', 'norm')}"] = (
                array
            )
        elif kind == "layer_norm":
            found[f"backbone.layers.{stage}.2.{rest}"] = array
        else:
            block, layer = rest.split(".", 1)
            layer, last = layer.rsplit(".", 1)
            prefix = f"backbone.layers.{stage}.1.{block}"
            if layer.endswith(("query", "key", "value")):
                packed = found.setdefault(f"{prefix}.attn.attn.in_proj_{last}", {})
                packed[layer.rsplit(".", 1)[1]] = array
                continue
            array = array[:, :, None, None] if layer in ("mlp.dense1", "mlp.dense2") and array.ndim == 2 else array
            found[f"{prefix}.{names[layer]}.{last}"] = array
    return {
        name: np.concatenate([a[part] for part in ("query", "key", "value")]) if isinstance(a, dict) else a
        for name, a in found.items()
    }


@pytest.mark.parametrize("prefix", ["backbone.", ""])
def test_mmsegmentations_encoder(prefix: str) -> None:
    tensors, _ = expected_of("segformer_b0")
    wanted = {name: array for name, array in tensors.items() if name.startswith("segformer.")}
    theirs = {prefix + name.removeprefix("backbone."): a for name, a in as_mmsegmentation(wanted).items()}
    assert f"{prefix}layers.0.1.0.attn.attn.in_proj_bias" in theirs
    row = MiT(name="mit_b0", norm_epsilon=1e-6)
    model, expected = build_backbone(row), build_backbone(B0)
    assert load(model, row, theirs).skipped == ()
    load(expected, B0, wanted)
    for ours, same in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ours, same, err_msg=ours.path)


def test_the_number_that_is_added_to_variances_must_be_the_projects() -> None:
    tensors, _ = expected_of("segformer_b0")
    row = MiT(name="mit_b0", norm_epsilon=1e-6)
    with pytest.raises(
        WeightsError, match="norm_epsilon of mit_b0 is 1e-06, and the project .* Write norm_epsilon: 1e-05"
    ):
        load(build_backbone(row), row, tensors)
    theirs = as_mmsegmentation({name: a for name, a in tensors.items() if name.startswith("segformer.")})
    with pytest.raises(WeightsError, match="Write norm_epsilon: 1e-06 into the section of the backbone"):
        load(build_backbone(B0), B0, theirs)


def test_other_bands() -> None:
    tensors, _ = expected_of("segformer_b0")
    model = build_backbone(B0, in_channels=5)
    load(model, B0, tensors)
    assert model.get_layer("stage1_embed").kernel.shape == (7, 7, 5, 32)


def test_a_wrong_guess_names_what_was_found() -> None:
    segformer, _ = expected_of("segformer_b0")
    timm, _ = expected_of("convnext_timm")
    b1 = MiT(name="mit_b1")
    with pytest.raises(WeightsError, match="which is mit_b1: it holds SegFormer on MiT-B0, 7 classes, as Hugging Face"):
        load(build_backbone(b1), b1, segformer)
    of_ours = as_mmsegmentation({name: a for name, a in segformer.items() if name.startswith("segformer.")})
    with pytest.raises(WeightsError, match="it holds MiT-B0, as mmsegmentation names it"):
        load(build_backbone(TINY), TINY, of_ours)
    what = "a ConvNeXt with 8, 16, 24, 32 channels and 1, 2, 1, 1 blocks of timm"
    with pytest.raises(WeightsError, match=f"which is mit_b0: it holds {what}"):
        load(build_backbone(B0), B0, timm)
