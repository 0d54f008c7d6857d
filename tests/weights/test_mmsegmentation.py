"""Files of mmsegmentation: recognised, described, compared with the config's classes, and refused by one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from pydantic import TypeAdapter

from rsseg_tf.backbones import hrnet, resnet
from rsseg_tf.build import build_model
from rsseg_tf.cli import main
from rsseg_tf.config import Config
from rsseg_tf.config.zoo import Model
from rsseg_tf.datasets.table import SPECS
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights import fcn_names, hrnet_names, read_tensors
from rsseg_tf.weights.families import recognise
from rsseg_tf.weights.families.mmsegmentation import MMSEGMENTATION
from rsseg_tf.weights.labels import Labels, class_order, find_labels, palette_note
from rsseg_tf.weights.pretrained import LoadReport, load_pretrained
from tests.fixtures.configs import replace_builder, tiny_config
from tests.fixtures.weight_files import released, write_pdparams, write_torch

CLASSES, COLOURS = ("Sea_Water", "building", "low vegetation"), ((0, 0, 255), (255, 0, 0), (0, 255, 0))
PSPNET = (
    "name: pspnet, variant: mmsegmentation, pyramid_channels: 6, bin_sizes: [1, 2, 3], backbone: {name: resnet18_v1c}"
)
LOSS = "loss={main: {name: cross_entropy}, aux: {name: cross_entropy}}"
# Names of some tensors, by which a file is recognised.
SEG = "decode_head.conv_seg.weight"
RESNET18 = ("stem.0.weight", "layer1.0.conv1.weight", "layer3.0.conv1.weight", "layer3.1.conv1.weight")
# mmseg/datasets of mmsegmentation 1.2.2: isaid.py, potsdam.py, isprs.py (Vaihingen), loveda.py.
ISPRS = (
    ("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter"),
    ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
)
METAINFO = {
    "isaid": (
        ("background", "ship", "store_tank", "baseball_diamond", "tennis_court", "basketball_court",
         "Ground_Track_Field", "Bridge", "Large_Vehicle", "Small_Vehicle", "Helicopter", "Swimming_pool", "Roundabout",
         "Soccer_ball_field", "plane", "Harbor"),
        ((0, 0, 0), (0, 0, 63), (0, 63, 63), (0, 63, 0), (0, 63, 127), (0, 63, 191), (0, 63, 255), (0, 127, 63),
         (0, 127, 127), (0, 0, 127), (0, 0, 191), (0, 0, 255), (0, 191, 127), (0, 127, 191), (0, 127, 255),
         (0, 100, 155)),
    ),
    "potsdam": ISPRS,
    "vaihingen": ISPRS,
    "loveda": (
        ("background", "building", "road", "water", "barren", "forest", "agricultural"),
        ((255, 255, 255), (255, 0, 0), (255, 255, 0), (0, 0, 255), (159, 129, 183), (0, 255, 0), (255, 195, 128)),
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def tiny_backbones(monkeypatch: pytest.MonkeyPatch) -> None:
    """`resnet18_v1c` and `hrnet_w18` of a few thousand weights."""

    def tiny(*, output_stride: int = 8, **options: Any) -> keras.Model:
        widths, depths = (4, 4, 8, 8), (1, 1, 2, 1)
        return resnet(depths, widths, bottleneck=False, deep_stem=True, output_stride=output_stride, **options)

    def tiny_hrnet(**options: Any) -> keras.Model:
        return hrnet(18, stem_width=4, modules=(1, 1, 1), blocks=3, **options)

    replace_builder(monkeypatch, "rsseg_tf.backbones.resnet:resnet18_v1c", tiny)
    replace_builder(monkeypatch, "rsseg_tf.backbones.hrnet:hrnet_w18", tiny_hrnet)


def named(*names: str, prefix: str = "") -> dict[str, np.ndarray]:
    return {prefix + name: np.zeros((2, 2, 1, 1), np.float32) for name in names}


def config_of(folder: Path, source: Path | None, model: str = PSPNET, classes: tuple[str, ...] = CLASSES) -> Config:
    colours = dict(zip(CLASSES, COLOURS, strict=True))
    palette = [list(colours.get(name, (9, 9, index))) for index, name in enumerate(classes)]
    facts = f"dataset.classes={list(classes)}", f"dataset.palette={palette}"
    return tiny_config(folder, f"model={{{model}, pretrained: {source or 'null'}}}", LOSS, *facts)


def pspnet_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Returns tensors of a PSPNet as mmsegmentation stores them."""
    config = config_of(folder, None)
    model = build_model(config)
    head = named("decode_head.psp_modules.0.1.conv.weight", "auxiliary_head.conv_seg.weight")
    markers = named(*RESNET18, prefix="backbone.") | head
    names = MMSEGMENTATION.translate(markers, config.model, [variable.path for variable in model.weights]).names
    tensors = released(model, {name: path for name, path in names.items() if not name.endswith(".conv.bias")})
    return tensors | {"backbone.stem.1.num_batches_tracked": np.zeros((), np.int64)}


def write(path: Path, tensors: dict[str, np.ndarray], meta: Any = None) -> Path:
    return write_torch(path, tensors, lambda state: {"meta": meta or {}, "state_dict": state})


def load(config: Config) -> tuple[keras.Model, LoadReport]:
    model = build_model(config)
    (report,) = load_pretrained(model, config)
    return model, report


# === Recognition ===


@pytest.mark.parametrize(
    ("names", "described"),
    [
        ((*RESNET18, "layer1.0.conv3.weight"), "a ResNet-C"),
        (RESNET18, "ResNet-18-C"),
        (tuple(f"backbone.{name}" for name in RESNET18), "ResNet-18-C"),
        (("stage4.0.branches.0.0.conv1.weight", "stage4.0.fuse_layers.0.1.0.weight"), "HRNet-W2-small"),
        (("backbone.layer1.0.conv1.weight", *(f"backbone.layer3.{i}.conv1.weight" for i in range(6)),
          SEG, "decode_head.convs.0.conv.weight"), "FCN on ResNet-34, 2 classes"),
        (("decode_head.convs.0.conv.weight", "decode_head.convs.1.conv.weight", "backbone.cls_token", SEG),
         "another network (its decode_head has conv_seg, convs) on another backbone (it has cls_token), 2 classes"),
        (("backbone.x", "decode_head.aspp_modules.0", "decode_head.sep_bottleneck.0", SEG),
         "DeepLabV3+ on another backbone (it has x), 2 classes"),
        (("backbone.x", "decode_head.psp_modules.0", "decode_head.lateral_convs.0", SEG),
         "UPerNet on another backbone (it has x), 2 classes"),
        (("backbone.x", "decode_head.0.convs.0.conv.weight", "decode_head.1.conv_seg.weight"),
         "another network (its decode_head has 0, 1) on another backbone (it has x)"),
    ],
)  # fmt: skip
def test_a_file_is_recognised_and_described(names: tuple[str, ...], described: str) -> None:
    assert recognise(named(*names)) is MMSEGMENTATION
    assert MMSEGMENTATION.describe(named(*names)) == described


def test_other_files_are_not_its_own() -> None:
    hugging_face = "segformer.encoder.block.0.0.attention.self.query.weight", "decode_head.classifier.weight"
    for names in (("conv1.weight", "layer1.0.conv1.weight"), ("encoder.conv1.weight",), hugging_face, ("a",)):
        assert recognise(named(*names)) is not MMSEGMENTATION


# === Whole models ===


def test_every_tensor_finds_its_place_and_the_pyramid_is_put_in_order(tmp_path: Path) -> None:
    tensors = pspnet_tensors(tmp_path)
    model, report = load(config_of(tmp_path, write(tmp_path / "w.pth", tensors)))
    assert report.tensors == len(tensors) - 1 and report.skipped == ("backbone.stem.1.num_batches_tracked",)
    assert report.values == sum(array.size for array in tensors.values()) - 1
    kernel = tensors["decode_head.bottleneck.conv.weight"].transpose(2, 3, 1, 0)
    features, *means = np.split(kernel, [8, 14, 20], axis=2)
    np.testing.assert_array_equal(
        model.get_layer("ppm_project").kernel, np.concatenate([features, *means[::-1]], axis=2)
    )
    assert not np.any(model.get_layer("ppm_project").bias)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (PSPNET.replace("variant: mmsegmentation", "variant: paddleseg"),
         r"w\.pth does not fit model: mmsegmentation computes this network in another way than model\.variant "
         r"paddleseg does\. Write model\.variant: mmsegmentation\.$"),
        (PSPNET.replace("resnet18_v1c", "resnet18"),
         r"is not for model, which is pspnet_resnet18: it holds PSPNet on ResNet-18-C, 3 classes, as mmsegmentation"),
        (PSPNET.replace("pspnet", "upernet").replace(", pyramid_channels: 6, bin_sizes: [1, 2, 3]", ""),
         "is not for model, which is upernet_resnet18_v1c: it holds PSPNet on ResNet-18-C, 3 classes"),
        (PSPNET.replace("pyramid_channels: 6", "pyramid_channels: 8"),
         r"of other sizes; model\.pyramid_channels is 8\. Write model\.pyramid_channels: 6\.$"),
        (PSPNET.replace("bin_sizes: [1, 2, 3]", "bin_sizes: [1, 2]"), "1 shapes that differ: decode_head.bottleneck"),
    ],
)  # fmt: skip
def test_a_config_for_another_network_is_one_line(model: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path / "w.pth", pspnet_tensors(tmp_path))
    with pytest.raises(WeightsError, match=message) as error:
        load(config_of(tmp_path, file, model))
    assert "\n" not in str(error.value)


def test_damaged_shapes_are_errors_of_one_line(tmp_path: Path) -> None:
    tensors, model = pspnet_tensors(tmp_path), build_model(config_of(tmp_path, None))
    for name in tensors:
        if "bottleneck" in name or "psp_modules" in name or "conv_seg" in name:
            for shape in ((), (2,), (1, 1, 1, 1)):
                file = write(tmp_path / "w.pth", {**tensors, name: np.zeros(shape, np.float32)}, {"CLASSES": CLASSES})
                with pytest.raises(WeightsError):
                    load_pretrained(model, config_of(tmp_path, file))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strides=(1, 2, 1, 1), pool_scales=(1,2,3), align_corners=False", None),
        ("strides=(\n  1,\n  2,\n  2,\n  2,\n)", "says 32 where model.backbone.output_stride is 8. Write model.back"),
        ("pool_scales=[1, 2, 3, 6]", "says [1, 2, 3, 6] where model.bin_sizes is [1, 2, 3]. Write model.bin"),
        ("align_corners=True", "says true where model.align_corners is false. Write model.align_corners: true"),
        ("strides=(" + "1, " * 400, None),
    ],
)  # fmt: skip
def test_the_config_in_a_file_must_agree(text: str, message: str | None, tmp_path: Path) -> None:
    for key in ("cfg", "config"):
        config = config_of(tmp_path, write(tmp_path / "w.pth", pspnet_tensors(tmp_path), {key: text}))
        if message is None:
            assert [note.split(":")[0] for note in load(config)[1].notes] == ["normalisation"]
            continue
        with pytest.raises(WeightsError, match=re.escape(f"does not fit model: the config in the file {message}")):
            load(config)


def test_what_nothing_tells_is_noted_where_it_is_unusual() -> None:
    for name, stride, expected in (("upernet", 8, 1), ("upernet", 32, 0), ("pspnet", 8, 0), ("pspnet", 16, 1)):
        section = TypeAdapter(Model).validate_python(
            {"name": name, "backbone": {"name": "resnet50_v1c", "output_stride": stride}}
        )
        assert len(MMSEGMENTATION.agrees(section, None)) == expected
    rates = {"name": "deeplabv3plus", "aspp_rates": (1, 6, 12, 18), "backbone": {"name": "resnet50_v1c"}}
    section = TypeAdapter(Model).validate_python(rates)
    text = "dilations=(1, 1, 2, 4), dilations=(1, 12, 24, 36)"
    with pytest.raises(WeightsError, match=r"\[1, 12, 24, 36\] where model.aspp_rates is \[1, 6, 12, 18\]"):
        MMSEGMENTATION.agrees(section, text)
    assert MMSEGMENTATION.agrees(section, text.replace("1, 12, 24, 36", "1, 6, 12, 18")) == []


def test_a_dilated_resnet_without_a_deep_stem_is_refused(tmp_path: Path) -> None:
    tensors = {name.replace("stem.0", "conv1"): array for name, array in pspnet_tensors(tmp_path).items()}
    config = config_of(tmp_path, write(tmp_path / "w.pth", tensors), PSPNET.replace("resnet18_v1c", "resnet18"))
    with pytest.raises(WeightsError, match="ResNet-18, 3 classes, dilates its backbone as resnet18 does"):
        load(config)


def test_the_sizes_to_write_are_named() -> None:
    tensors = {
        "decode_head.bottleneck.conv.weight": np.zeros((512, 1)),
        "decode_head.sep_bottleneck.1.pointwise_conv.conv.weight": np.zeros((500, 1)),
        "decode_head.c1_bottleneck.conv.weight": np.zeros((48, 1)),
        **named("decode_head.aspp_modules.0", SEG, "auxiliary_head.conv_seg.weight"),
        **named(*RESNET18, prefix="backbone."),
    }
    section = {"name": "deeplabv3plus", "variant": "mmsegmentation", "backbone": {"name": "resnet18_v1c"}}
    message = "Write model.aspp_channels: 512, model.decoder_channels: 500, model.aux_head: true"
    with pytest.raises(WeightsError, match=message):
        MMSEGMENTATION.translate(tensors, TypeAdapter(Model).validate_python(section), [])


# === Backbones ===


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_backbone_comes_alone_or_out_of_a_whole_model(prefix: str, tmp_path: Path) -> None:
    tensors = pspnet_tensors(tmp_path)
    inside = {name: array for name, array in tensors.items() if name.startswith("backbone.")}
    if not prefix:  # as OpenMMLab releases it: with the classifier of ImageNet
        tensors = {name.removeprefix("backbone."): array for name, array in inside.items()} | named("fc.weight")
    file = write(tmp_path / "w.pth", tensors)
    model = f"name: fcn, channels: 4, backbone: {{name: resnet18_v1c, pretrained: {file}}}"
    config = tiny_config(tmp_path, f"model={{{model}}}")
    built, report = load(config)
    assert report.section == "model.backbone" and report.tensors == len(inside) - 1
    kernel = inside["backbone.layer1.0.conv1.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(built.get_layer("stage1_block1_conv1").kernel, kernel)


def test_hrnet_wants_the_variant(tmp_path: Path) -> None:
    model = "name: fcn, channels: 4, backbone: {name: hrnet_w18, variant: VARIANT, pretrained: SOURCE}"
    config = tiny_config(tmp_path, f"model={{{model}}}".replace("VARIANT", "mmsegmentation").replace("SOURCE", "null"))
    backbone = config.model.backbone
    assert backbone is not None
    built = build_model(config)
    markers = named("stage4.0.branches.0.2.conv1.weight") | {"stage4.0.branches.0.0.conv1.weight": np.zeros((18, 1))}
    paths = [v.path for v in built.weights if not v.path.startswith("head_")]
    names = MMSEGMENTATION.translate(markers, backbone, paths).names
    assert set(names.values()) == set(paths)
    file = write(tmp_path / "w.pth", released(built, dict(names)) | named("classifier.weight"))
    for variant in ("mmsegmentation", "paddleseg"):
        text = f"model={{{model}}}".replace("VARIANT", variant).replace("SOURCE", str(file))
        if variant == "paddleseg":
            with pytest.raises(WeightsError, match=r"Write model\.backbone\.variant: mmsegmentation\.$"):
                load(tiny_config(tmp_path, text))
        else:
            assert load(tiny_config(tmp_path, text))[1].skipped == ("classifier.weight",)


def test_paddleseg_weights_want_paddlesegs_variant(tmp_path: Path) -> None:
    model = "name: fcn, channels: 4, backbone: {name: hrnet_w18, variant: VARIANT}, pretrained: SOURCE"
    text = f"model={{{model}}}"
    config = tiny_config(tmp_path, text.replace("VARIANT", "paddleseg").replace("SOURCE", "null"))
    built = build_model(config)
    names = fcn_names([v.path for v in built.weights], hrnet_names([v.path for v in built.weights]))
    file = write_pdparams(tmp_path / "w.pdparams", released(built, names))
    load(tiny_config(tmp_path, text.replace("VARIANT", "paddleseg").replace("SOURCE", str(file))))
    with pytest.raises(WeightsError, match=r"is mmsegmentation, .* Write model\.backbone\.variant: paddleseg\.$"):
        load(tiny_config(tmp_path, text.replace("VARIANT", "mmsegmentation").replace("SOURCE", str(file))))


# === Classes ===


@pytest.mark.parametrize("dataset", METAINFO)
def test_our_classes_and_colours_are_those_of_mmsegmentation(dataset: str) -> None:
    labels = Labels(*METAINFO[dataset])
    assert class_order(labels, SPECS[dataset], "a file") is None
    assert palette_note(labels, SPECS[dataset]) is None


@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": CLASSES, "PALETTE": [list(colour) for colour in COLOURS], "mmseg_version": "0.20"},
        {"dataset_meta": {"classes": list(CLASSES), "palette": COLOURS, "label_map": None}},
    ],
)
def test_old_and_new_files_name_their_classes(meta: Any, tmp_path: Path) -> None:
    assert read_tensors(write(tmp_path / "w.pth", named("a"), meta)).labels == Labels(CLASSES, COLOURS)


@pytest.mark.parametrize(
    "meta",
    [None, 3, {}, {"CLASSES": None}, {"CLASSES": ()}, {"CLASSES": "ab"}, {"CLASSES": ["a", 3]}, {"CLASSES": ["a\nb"]},
     {"CLASSES": ["a"] * 1001}, {"CLASSES": ["a" * 201]}],
)  # fmt: skip
def test_what_are_no_classes_is_passed_over(meta: Any) -> None:
    assert find_labels({"meta": meta}) is None


@pytest.mark.parametrize("palette", [None, "red", [[1, 2]], [[1, 2, 3]], [[0, 0, 300]] * 2, [["a"] * 3] * 2, [[[]]]])
def test_what_is_no_palette_is_passed_over(palette: Any) -> None:
    assert find_labels({"meta": {"CLASSES": ["a", "b"], "PALETTE": palette}}) == Labels(("a", "b"))


def test_classes_in_another_order_are_put_in_the_datasets(tmp_path: Path) -> None:
    tensors = pspnet_tensors(tmp_path)
    file = write(tmp_path / "w.pth", tensors, {"CLASSES": CLASSES, "PALETTE": COLOURS})
    same, report = load(config_of(tmp_path, file))
    assert [note.split(":")[0] for note in report.notes] == ["normalisation"]
    turned = ("building", "low-vegetation", "sea water")
    other, report = load(config_of(tmp_path, file, classes=turned))
    assert [note.split(":")[0] for note in report.notes] == ["normalisation", "classes", "palette"]
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    for head in ("main", "aux"):
        expected = np.asarray(same(image, training=False)[head])[..., [1, 2, 0]]
        np.testing.assert_array_equal(other(image, training=False)[head], expected)


def test_other_classes_are_one_line(tmp_path: Path) -> None:
    file = write(tmp_path / "w.pth", pspnet_tensors(tmp_path), {"dataset_meta": {"classes": CLASSES}})
    message = (
        r"tells the 3 classes Sea_Water, building, low vegetation apart; the dataset 'data' has the \d classes .*"
        r"same names in any order.*model\.backbone"
    )
    for classes in (("sea_water", "building", "tree"), ("building", "tree")):
        with pytest.raises(WeightsError, match=message) as error:
            load(config_of(tmp_path, file, classes=classes))
        assert "\n" not in str(error.value)


def test_convert_says_what_to_look_at(tmp_path: Path) -> None:
    file = write(tmp_path / "w.pth", pspnet_tensors(tmp_path), {"dataset_meta": {"classes": CLASSES}})
    config_of(tmp_path, file)
    text = (tmp_path / "tiny.yml").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith(("model", "dataset"))]
    dataset = f"dataset: {{name: custom, root: {tmp_path / 'data'}, classes: {list(CLASSES)}}}"
    (tmp_path / "c.yml").write_text(
        "\n".join([*lines, dataset, f"model: {{{PSPNET}}}", LOSS.replace("=", ": ", 1)]) + "\n", "utf-8"
    )
    arguments = ["convert", str(file), "--config", str(tmp_path / "c.yml"), "-o", str(tmp_path / "out"), "--verify"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "not used" not in result.output, "counters of batches are no weights"
    assert "normalisation: weights of mmsegmentation are as a rule trained with mean [0.485, 0.456" in result.output
    imagenet = ["dataset.mean=[0.485, 0.456, 0.406]", "dataset.std=[0.229, 0.224, 0.225]"]
    result = CliRunner().invoke(main, [*arguments, "--overwrite", "--set", *imagenet])
    assert result.exit_code == 0 and "normalisation" not in result.output
