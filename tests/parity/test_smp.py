"""Networks of segmentation_models_pytorch compute here what they compute there, on values that follow from names.

`smp/generate.py` wrote some of their logits.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rsseg_tf.build import build_backbone, build_model
from rsseg_tf.config.zoo import EfficientNet, ResNet
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.families import recognise
from rsseg_tf.weights.pretrained import load_backbone, load_pretrained
from tests.fixtures.configs import tiny_config
from tests.fixtures.weight_files import write_safetensors, write_torch
from tests.parity import detinit

pytestmark = pytest.mark.parity

FOLDER = Path(__file__).parent / "smp"
MODELS = {
    "unet": "name: unet",
    "fpn": "name: fpn",
    "deeplabv3plus": "name: deeplabv3plus, variant: smp, align_corners: true",
    "pspnet": "name: pspnet, variant: smp, pyramid_channels: 512, aux_head: false, align_corners: true",
}
ENCODERS = {"resnet18": "name: resnet18", "efficientnet-b0": "name: efficientnet_b0, first_feature: stem"}
CLASSES = "dataset.classes=[a, b, c, d, e]"


def tensors_of(name: str, folder: Path = FOLDER) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
    """Returns the tensors of a file, some of the logits, and the spread of all."""
    with np.load(folder / f"{name}.npz") as stored:
        lines, logits, spread = stored["tensors"], stored["logits"], float(stored["spread"])
    tensors = {}
    for key, sizes in map(str.split, lines):
        known = key.replace("running_mean", "_mean").replace("running_var", "_variance")
        tensors[key] = detinit.weight(known, tuple(map(int, sizes.split(","))))
    return tensors, logits, spread


def model_of(network: str, encoder: str, source: Path) -> str:
    stride = ", output_stride: 16" if network == "deeplabv3plus" else ""
    return f"model={{{MODELS[network]}, pretrained: {source}, backbone: {{{ENCODERS[encoder]}{stride}}}}}"


# Encoders of timm -> the backbone. Where `RSSEG_TF_SMP` names a folder with other files, they are compared, too.
TIMM = {
    "tu-resnet18": "name: resnet18",
    "tu-resnet50": "name: resnet50",
    "tu-resnet18d": "name: resnet18_vd, output_stride: 32",
    "tu-resnet50d": "name: resnet50_vd, output_stride: 32",
    "tu-resnet50c": "name: resnet50_v1c, output_stride: 32",
    "tu-efficientnet_b0": "name: efficientnet_b0, padding: symmetric, epsilon: 1.0e-5",
    "tu-tf_efficientnet_b1": "name: efficientnet_b1",
    "tu-tf_efficientnet_lite0": "name: efficientnet_lite0",
    "tu-convnext_tiny": "name: convnext_tiny",
    "timm-efficientnet-b0": "name: efficientnet_b0, first_feature: stem_alone, padding: symmetric, epsilon: 1.0e-5",
    "timm-efficientnet-b1": "name: efficientnet_b1, first_feature: stem, padding: symmetric, epsilon: 1.0e-5",
    "timm-tf_efficientnet_lite0": "name: efficientnet_lite0, first_feature: stem, padding: symmetric, epsilon: 1.0e-5",
}
OTHERS = os.environ.get("RSSEG_TF_SMP")
FILES = [FOLDER / "unet_tu-resnet18d.npz", FOLDER / "fpn_timm-efficientnet-b0.npz"]
FILES += sorted(Path(OTHERS).glob("*.npz")) if OTHERS else []


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_logits_on_encoders_of_timm(file: Path, tmp_path: Path) -> None:
    tensors, expected, spread = tensors_of(file.stem, file.parent)
    network, _, encoder = file.stem.partition("_")
    stride = ", output_stride: 16" if network == "deeplabv3plus" else ""
    source = write_torch(tmp_path / "w.pth", tensors)
    text = f"model={{{MODELS[network]}, pretrained: {source}, backbone: {{{TIMM[encoder]}{stride}}}}}"
    is_binary = expected.shape[3] == 1
    classes = [f"class{i}" for i in range(2 if is_binary else expected.shape[3])]
    names = f"dataset.classes=[{', '.join(classes)}]"
    config = tiny_config(tmp_path, names, text, "loss={main: {name: cross_entropy}}")
    model = build_model(config)
    (report,) = load_pretrained(model, config)
    logits = np.asarray(model(detinit.image("smp", 1, 96, 160), training=False)["main"])[:, ::5, ::5]
    if is_binary:
        assert any(note.startswith("classes: the file has one output") for note in report.notes)
        np.testing.assert_array_equal(logits[..., 0], 0)  # so that the softmax is the original's sigmoid
        logits = logits[..., 1:]
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() <= 1e-4 * spread


@pytest.mark.slow
@pytest.mark.parametrize("network", MODELS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_logits(network: str, encoder: str, tmp_path: Path) -> None:
    tensors, expected, spread = tensors_of(f"{network}_{encoder}")
    # As Lightning keeps a model that it trains, and as `save_pretrained` writes one.
    if network == "unet":
        file = write_safetensors(tmp_path / "model.safetensors", tensors)
    else:
        state = {f"model.{name}": array for name, array in tensors.items()}
        file = write_torch(tmp_path / "w.ckpt", state, lambda state: {"epoch": 3, "state_dict": state})
    config = tiny_config(tmp_path, CLASSES, model_of(network, encoder, file), "loss={main: {name: cross_entropy}}")
    model = build_model(config)
    load_pretrained(model, config)
    logits = np.asarray(model(detinit.image("smp", 1, 96, 160), training=False)["main"])[:, ::5, ::5]
    assert logits.shape == expected.shape
    assert np.abs(logits - expected).max() <= 1e-4 * spread


@pytest.mark.parametrize("network", MODELS)
def test_a_file_is_recognised_and_described(network: str) -> None:
    words = {"unet": "U-Net", "fpn": "FPN", "deeplabv3plus": "DeepLabV3+", "pspnet": "PSPNet"}[network]
    for encoder, described in {"resnet18": "ResNet-18", "efficientnet-b0": "EfficientNet-B0"}.items():
        tensors, _, _ = tensors_of(f"{network}_{encoder}")
        family = recognise(tensors)
        assert family is not None and family.name == "segmentation_models_pytorch"
        assert family.describe(tensors) == f"{words} on {described}, 5 classes"


def test_the_encoder_alone_is_a_backbone(tmp_path: Path) -> None:
    for encoder, row in {
        "resnet18": ResNet(name="resnet18"),
        "efficientnet-b0": EfficientNet(name="efficientnet_b0", first_feature="stem"),
    }.items():
        tensors, _, _ = tensors_of(f"fpn_{encoder}")
        file = write_torch(tmp_path / f"{encoder}.pth", tensors)
        model = build_backbone(row)
        assert load_backbone(model, row, str(file)).tensors == len(model.weights)


def test_a_file_of_another_network_is_one_line(tmp_path: Path) -> None:
    tensors, _, _ = tensors_of("pspnet_resnet18")
    file = write_torch(tmp_path / "w.pth", tensors)
    loss = "loss={main: {name: cross_entropy}}"
    config = tiny_config(tmp_path, CLASSES, model_of("unet", "resnet18", file), loss)
    with pytest.raises(WeightsError, match="which is unet_resnet18: it holds PSPNet on ResNet-18, 5 classes"):
        load_pretrained(build_model(config), config)


@pytest.mark.parametrize(
    ("network", "encoder", "change", "message"),
    [
        ("pspnet", "resnet18", ("variant: smp", "variant: paddleseg"), "model.variant paddleseg does. Write model.var"),
        ("unet", "resnet18", ("name: unet", "name: unet, variant: paddleseg"), "does. Write model.variant: smp"),
        ("pspnet", "resnet18", ("align_corners: true", "align_corners: false"), "align_corners false does. .*: true"),
        (
            "deeplabv3plus",
            "resnet18",
            ("output_stride: 16", "output_stride: 32"),
            "Write model.backbone.output_stride: 16",
        ),
        (
            "fpn",
            "efficientnet-b0",
            (", first_feature: stem", ""),
            "first_feature block does. .* model.backbone.first_f",
        ),
        ("fpn", "efficientnet-b0", ("stem", "stem, padding: symmetric"), r"padding: \[same, same, same, same, same\]"),
    ],
)
def test_options_that_tensors_do_not_show(
    network: str, encoder: str, change: tuple[str, str], message: str, tmp_path: Path
) -> None:
    tensors, _, _ = tensors_of(f"{network}_{encoder}")
    text = model_of(network, encoder, write_torch(tmp_path / "w.pth", tensors))
    assert change[0] in text
    config = tiny_config(tmp_path, CLASSES, text.replace(*change), "loss={main: {name: cross_entropy}}")
    with pytest.raises(WeightsError, match=message):
        load_pretrained(build_model(config), config)


def test_an_efficientnet_of_another_size_is_named(tmp_path: Path) -> None:
    tensors, _, _ = tensors_of("unet_efficientnet-b0")
    text = model_of("unet", "efficientnet-b0", write_torch(tmp_path / "w.pth", tensors)).replace("net_b0", "net_b1")
    config = tiny_config(tmp_path, CLASSES, text, "loss={main: {name: cross_entropy}}")
    with pytest.raises(WeightsError, match="is unet_efficientnet_b1: it holds U-Net on EfficientNet-B0, 5 classes, as"):
        load_pretrained(build_model(config), config)


@pytest.mark.parametrize(
    ("file", "backbone", "message"),
    [
        (
            "fpn_timm-efficientnet-b0",
            "name: efficientnet_b0, first_feature: stem",
            "backbone.first_feature: stem_alone",
        ),
        (
            "fpn_timm-efficientnet-b0",
            "name: efficientnet_b0, first_feature: stem_alone",
            "model.backbone.padding: symm",
        ),
        (
            "fpn_timm-efficientnet-b0",
            "name: efficientnet_b0, first_feature: stem_alone, padding: symmetric",
            "Write model.backbone.epsilon: 1e-05",
        ),
        ("unet_tu-resnet18d", "name: resnet18_vd", "Write model.backbone.output_stride: 32"),
        ("unet_tu-resnet18d", "name: resnet18", "it holds U-Net on ResNet-18-D, 1 class, as segmentation_models_pyt"),
    ],
)
def test_options_that_encoders_of_timm_want(file: str, backbone: str, message: str, tmp_path: Path) -> None:
    tensors, _, _ = tensors_of(file)
    network, source = file.partition("_")[0], write_torch(tmp_path / "w.pth", tensors)
    text = f"model={{{MODELS[network]}, pretrained: {source}, backbone: {{{backbone}}}}}"
    config = tiny_config(tmp_path, "dataset.classes=[a, b]", text, "loss={main: {name: cross_entropy}}")
    with pytest.raises(WeightsError, match=message):
        load_pretrained(build_model(config), config)
