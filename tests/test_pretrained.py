"""Released weights reach the right variables of the right part of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.backbones import resnet
from rsseg_tf.build import build_backbone, build_model
from rsseg_tf.checkpoint import TrainState, save_checkpoint
from rsseg_tf.config import Config
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights import inflate_bands, match_names, mobilenet_v3_names, resnet_names
from rsseg_tf.weights.pretrained import load_pretrained, weight_names
from tests.fixtures.backbones import narrow_mobilenet_v3
from tests.fixtures.configs import replace_builder, tiny_config
from tests.fixtures.weight_files import depthwise, released, write_legacy_torch, write_pdparams, write_torch

DEPTHS, WIDTHS = (1, 1, 1, 1), (4, 4, 8, 8)
FCN = "model={name: fcn, channels: 8, backbone: {name: resnet18, pretrained: SOURCE}}"
WHOLE = "model={name: fcn, channels: 8, backbone: {name: resnet18}, pretrained: SOURCE}"
LRASPP = "model={name: lraspp, channels: 8, backbone: {name: mobilenet_v3_small, pretrained: SOURCE}}"
WHOLE_LRASPP = "model={name: lraspp, channels: 8, backbone: {name: mobilenet_v3_small}, pretrained: SOURCE}"
C2FNET = (
    "model={name: c2fnet, channels: 8, window_size: 16, training_stride: 8, windows_per_image: 2,"
    " backbone: {name: resnet18, pretrained: FINE}, coarse: {name: fcn, channels: 8, backbone: {name: resnet18},"
    " pretrained: COARSE}}"
)


@pytest.fixture(autouse=True)
def tiny_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """`resnet18` and `mobilenet_v3_small` of a few thousand weights."""

    def tiny(**options: Any) -> keras.Model:
        return resnet(DEPTHS, WIDTHS, bottleneck=False, **options)

    replace_builder(monkeypatch, "rsseg_tf.backbones.resnet:resnet18", tiny)
    replace_builder(monkeypatch, "rsseg_tf.backbones.mobilenet_v3:mobilenet_v3_small", narrow_mobilenet_v3)


def paths(model: keras.Model) -> list[str]:
    return [variable.path for variable in model.weights]


def config_of(tmp_path: Path, model: str, source: Path | str = "null", *more: str, **sources: Path | str) -> Config:
    text = model.replace("SOURCE", str(source))
    for name, path in sources.items():
        text = text.replace(name.upper(), str(path))
    return tiny_config(tmp_path, text, *more)


def assert_loaded(model: keras.Model, names: dict[str, str], tensors: dict[str, np.ndarray]) -> None:
    variables = {variable.path: variable.numpy() for variable in model.weights}
    for name, path in names.items():
        expected = tensors[name]
        if expected.ndim == 4:
            expected = expected.transpose(2, 3, 0, 1) if depthwise(path) else expected.transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(variables[path], expected, err_msg=name)


@pytest.fixture
def backbone(tmp_path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    model = resnet(DEPTHS, WIDTHS, bottleneck=False)
    names = resnet_names(paths(model))
    return names, released(model, names)


# === Backbones ===


def test_a_backbone_of_paddle_with_its_classifier(tmp_path: Path, backbone: Any) -> None:
    names, tensors = backbone
    head = {"fc.weight": np.zeros((8, 10), np.float32), "fc.bias": np.zeros(10, np.float32)}
    config = config_of(tmp_path, FCN, write_pdparams(tmp_path / "b.pdparams", {**tensors, **head}))
    model = build_model(config)
    (report,) = load_pretrained(model, config)
    assert_loaded(model, names, tensors)
    assert (report.section, report.tensors, report.skipped) == ("model.backbone", len(names), ("fc.weight", "fc.bias"))
    assert report.values == sum(array.size for array in tensors.values())
    assert report.summary().endswith("(paddle); 2 tensors of the file are not part of it (fc)")


def as_torch_names_them(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns tensors under torch's names for statistics, with its counters."""
    torch_names = {"_mean": "running_mean", "_variance": "running_var"}
    state: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        head, _, last = name.rpartition(".")
        state[f"{head}.{torch_names.get(last, last)}"] = array
        if last == "_variance":
            state[f"{head}.num_batches_tracked"] = np.array(5, np.int64)
    return state


PREFIXES = {
    "torchvision": "",
    "moco": "module.encoder_q.",
    "simsiam": "module.encoder.",
    "swav": "module.",
    "a segmentor": "backbone.",
    "densecl": "encoder_q.0.",
}


@pytest.mark.parametrize("layout", PREFIXES)
@pytest.mark.parametrize("write", [write_torch, write_legacy_torch])
def test_layouts_of_torch(layout: str, write: Any, tmp_path: Path, backbone: Any) -> None:
    names, tensors = backbone
    state = {f"{PREFIXES[layout]}{name}": array for name, array in as_torch_names_them(tensors).items()}
    # What moves behind the trained encoder has the same names under another prefix.
    state |= {f"module.encoder_k.{name}": np.full_like(array, 9) for name, array in tensors.items()}
    path = write(tmp_path / "r50.pth", state, lambda inner: {"epoch": 1, "state_dict": inner})
    config = config_of(tmp_path, FCN, path)
    model = build_model(config)
    load_pretrained(model, config)
    assert_loaded(model, names, tensors)


def test_encoders_that_are_lists(backbone: Any) -> None:
    names, tensors = backbone
    positions = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    listed = {}
    for name, array in tensors.items():
        first, _, rest = name.partition(".")
        listed[f"online_network.encoder.{positions[first]}.{rest}"] = array
    found, rest_of_file = match_names({**listed, "target_network.encoder.0.weight": tensors["conv1.weight"]}, names)
    assert found.keys() == names.keys() and rest_of_file == ("target_network.encoder.0.weight",)
    assert all(found[name] is tensors[name] for name in names)


@pytest.mark.parametrize("layout", ["classifier", "segmentor"])
def test_a_mobilenet_of_torchvision(layout: str, tmp_path: Path) -> None:
    network = narrow_mobilenet_v3()
    names = mobilenet_v3_names(paths(network))
    tensors = released(network, names)
    state = as_torch_names_them(tensors)
    if layout == "classifier":
        state |= {"classifier.0.weight": np.zeros((4, 48), np.float32), "classifier.0.bias": np.zeros(4, np.float32)}
    else:  # which keeps the list `features` as its backbone
        state = {name.replace("features.", "backbone."): array for name, array in state.items()}
        state |= {"classifier.cbr.0.weight": np.zeros((8, 48, 1, 1), np.float32)}
    config = config_of(tmp_path, LRASPP, write_torch(tmp_path / "mobilenet.pth", state))
    model = build_model(config)
    (report,) = load_pretrained(model, config)
    assert_loaded(model, names, tensors)
    assert report.tensors == len(names)
    rest = {name for name in report.skipped if not name.endswith("num_batches_tracked")}
    assert rest and all(name.startswith("classifier.") for name in rest)


def test_an_lraspp_of_torchvision(tmp_path: Path) -> None:
    config = config_of(tmp_path, WHOLE_LRASPP)
    model = build_model(config)
    names = weight_names(config.model, paths(model))
    assert {"backbone.0.0.weight", "classifier.cbr.0.weight", "classifier.scale.1.weight"} < names.keys()
    tensors = released(model, names)
    path = write_torch(tmp_path / "lraspp.pth", as_torch_names_them(tensors))
    config = config_of(tmp_path, WHOLE_LRASPP, path)
    model = build_model(config)
    (report,) = load_pretrained(model, config)
    assert_loaded(model, names, tensors)
    assert (report.section, report.tensors) == ("model", len(model.weights))

    more = config_of(
        tmp_path, WHOLE_LRASPP, path, "dataset.bands=5", "augment.saturation_range=0.0", "augment.hue_range=0.0"
    )
    model = build_model(more)
    load_pretrained(model, more)
    stem = names.pop("backbone.0.0.weight")
    kernel = {variable.path: variable.numpy() for variable in model.weights}[stem]
    np.testing.assert_allclose(kernel.sum(2), tensors["backbone.0.0.weight"].sum(1).transpose(1, 2, 0), rtol=1e-5)
    assert_loaded(model, names, tensors)


def test_a_backbone_with_a_tensor_missing_says_which_and_changes_nothing(tmp_path: Path, backbone: Any) -> None:
    """The original warns and goes on with random weights."""
    _, tensors = backbone
    tensors = {f"backbone.{name}": array for name, array in tensors.items() if name != "layer3.0.conv1.weight"}
    config = config_of(tmp_path, FCN, write_pdparams(tmp_path / "b.pdparams", {"state_dict": tensors}))
    model = build_model(config)
    before = {variable.path: variable.numpy() for variable in model.weights}
    with pytest.raises(
        WeightsError,
        match=r"do not fit model.backbone .*: 1 tensors missing: layer3.0.conv1.weight -> stage3_block1_conv1/kernel",
    ):
        load_pretrained(model, config)
    for variable in model.weights:
        np.testing.assert_array_equal(variable.numpy(), before[variable.path])


@pytest.mark.parametrize("bands", [1, 2, 4, 5, 6])
def test_any_number_of_bands(bands: int, tmp_path: Path, backbone: Any) -> None:
    names, tensors = backbone
    options = [f"dataset.bands={bands}", "augment.saturation_range=0.0", "augment.hue_range=0.0"]
    config = config_of(tmp_path, FCN, write_pdparams(tmp_path / "b", tensors), *options)
    model = build_model(config)
    load_pretrained(model, config)
    kernel = model.get_layer("stem_conv").kernel.numpy()
    assert kernel.shape[2] == bands
    original = tensors["conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_allclose(kernel.sum(2), original.sum(2), rtol=1e-5, err_msg="a grey image gives what it gave")
    others = {name: path for name, path in names.items() if name != "conv1.weight"}
    assert_loaded(model, others, tensors)


def test_the_rule_for_bands() -> None:
    kernel = np.arange(1.0, 4.0).reshape(1, 3, 1, 1)
    rule = {bands: inflate_bands(kernel, bands).ravel().tolist() for bands in (1, 2, 3, 4, 6)}
    assert rule == {
        1: [6.0],
        2: [2.5, 3.5],
        3: [1.0, 2.0, 3.0],
        4: [0.5, 2.0, 3.0, 0.5],
        6: [0.5, 1.0, 1.5, 0.5, 1.0, 1.5],
    }


def test_the_backbone_of_our_own_checkpoints(tmp_path: Path, backbone: Any) -> None:
    names, _ = backbone
    config = config_of(tmp_path, FCN)
    trained = build_model(config)
    save_checkpoint(tmp_path / "whole", trained, None, TrainState(), config)
    assert config.model.backbone is not None
    alone = build_backbone(config.model.backbone)
    save_checkpoint(tmp_path / "alone", alone, None, TrainState(), config)
    for folder, source in (("whole", trained), ("alone", alone)):
        again = config_of(tmp_path, FCN, tmp_path / folder)
        model = build_model(again)
        load_pretrained(model, again)
        expected = {variable.path: variable.numpy() for variable in source.weights}
        for variable in model.weights:
            if variable.path in names.values():
                np.testing.assert_array_equal(variable.numpy(), expected[variable.path])


# === Whole models ===


def test_a_whole_model(tmp_path: Path) -> None:
    config = config_of(tmp_path, WHOLE)
    model = build_model(config)
    names = weight_names(config.model, paths(model))
    tensors = released(model, names)
    config = config_of(tmp_path, WHOLE, write_pdparams(tmp_path / "m", tensors))
    model = build_model(config)
    (report,) = load_pretrained(model, config)
    assert_loaded(model, names, tensors)
    assert (report.section, report.tensors, report.skipped) == ("model", len(model.weights), ())


def test_the_parts_of_c2fnet(tmp_path: Path, backbone: Any) -> None:
    options = ["loss={fine: {name: cross_entropy}}", "dataset.small_classes=[bright]"]
    coarse_config = config_of(tmp_path, WHOLE)
    coarse_model = build_model(coarse_config)
    coarse_names = weight_names(coarse_config.model, paths(coarse_model))
    coarse = released(coarse_model, coarse_names, seed=1)
    coarse_file = write_pdparams(tmp_path / "c", coarse)
    names, tensors = backbone
    config = config_of(
        tmp_path, C2FNET, "null", *options, fine=write_pdparams(tmp_path / "b", tensors), coarse=coarse_file
    )
    model = build_model(config)
    reports = load_pretrained(model, config)
    assert [report.section for report in reports] == ["model.coarse", "model.backbone"]
    assert_loaded(model, {name: f"coarse/{path}" for name, path in coarse_names.items()}, coarse)
    assert_loaded(model, {name: f"fine/{path}" for name, path in names.items()}, tensors)

    # The fine model as released, and the coarse one from a checkpoint of ours.
    fine_paths = [path.removeprefix("fine/") for path in paths(model) if path.startswith("fine/")]
    fine_names = {name: f"fine/{path}" for name, path in weight_names(config.model, fine_paths).items()}
    fine = released(model, fine_names, seed=2)
    trained = build_model(coarse_config)
    save_checkpoint(tmp_path / "coarse", trained, None, TrainState(), coarse_config)
    config = config_of(tmp_path, C2FNET, "null", *options, fine="null", coarse=tmp_path / "coarse")
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"pretrained": str(write_pdparams(tmp_path / "f", fine))})}
    )
    model = build_model(config)
    load_pretrained(model, config)
    assert_loaded(model, fine_names, fine)
    loaded = {variable.path: variable.numpy() for variable in model.weights}
    for variable in trained.weights:
        np.testing.assert_array_equal(loaded[f"coarse/{variable.path}"], variable.numpy())

    # All of it from one checkpoint.
    save_checkpoint(tmp_path / "all", model, None, TrainState(), config)
    config = config.model_copy(update={"model": config.model.model_copy(update={"pretrained": str(tmp_path / "all")})})
    again = build_model(config)
    load_pretrained(again, config)
    for variable in again.weights:
        np.testing.assert_array_equal(variable.numpy(), loaded[variable.path])


# === What does not fit ===


def wrong(change: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns tensors of a whole model that do not fit."""
    match change:
        case "missing":
            return {name: array for name, array in tensors.items() if name != "backbone.bn1._mean"}
        case "left over":
            return {**tensors, "head.extra.weight": np.zeros(3, np.float32)}
        case "classes":
            return {**tensors, "head.cls.weight": np.zeros((16, 8, 1, 1), np.float32), "head.cls.bias": np.zeros(16)}
        case "nan":
            return {**tensors, "backbone.bn1.weight": np.full_like(tensors["backbone.bn1.weight"], np.nan)}
        case _:
            return {f"unet.{name}.w": array for name, array in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"do not fit model \(.*1 tensors missing: backbone.bn1._mean -> stem_conv_bn/moving_mean"),
        ("left over", r"1 tensors left over: head.extra.weight"),
        ("classes", r"2 shapes that differ: head.cls.weight \(16, 8, 1, 1\) -> head_classifier/kernel \(1, 1, 8, 2\)"),
        ("nan", "1 tensors with values that are not finite: backbone.bn1.weight"),
        ("architecture", r"is not for model: it has 0 of the \d+ tensors .* called unet.backbone.conv1.weight.w"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(change: str, message: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, WHOLE)
    model = build_model(config)
    tensors = wrong(change, released(model, weight_names(config.model, paths(model))))
    config = config_of(tmp_path, WHOLE, write_pdparams(tmp_path / "m", tensors))
    model = build_model(config)
    before = [variable.numpy() for variable in model.weights]
    with pytest.raises(WeightsError, match=message) as error:
        load_pretrained(model, config)
    assert "\n" not in str(error.value)
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pdparams", "The weights nowhere.pdparams do not exist. Allowed: a file"),
        ("https://example.org/w.pdparams", "is not in the cache and the network is off"),
        ("resnet_vd_50_ssld_v2_imagenet", "comes through keras-hub, which may use the network. Leave --offline out"),
    ],
)
def test_sources_that_cannot_be_had(source: str, message: str, tmp_path: Path) -> None:
    config = config_of(tmp_path, FCN, source)
    with pytest.raises(WeightsError, match=message):
        load_pretrained(build_model(config), config, offline=True)
