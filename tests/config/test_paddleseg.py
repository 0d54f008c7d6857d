"""PaddleSeg's configs become the ones that we ship."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from rsseg_tf.cli import main
from rsseg_tf.config import Config, load_config
from rsseg_tf.config.paddleseg import ImportedConfig, import_paddleseg
from rsseg_tf.errors import ConfigError
from tests.fixtures.paddleseg import WHOLE

# The facts of the benchmark's base file, once for a large crop (its own) and once as most configs override it.
TRANSFORMS = """\
  transforms:
    - {type: ResizeStepScaling, min_scale_factor: 0.5, max_scale_factor: 2.0, scale_step_size: 0.25}
    - {type: RandomPaddingCrop, crop_size: [SIZE, SIZE]}
    - {type: RandomHorizontalFlip}
    - {type: RandomDistort, brightness_range: 0.4, contrast_range: 0.4, saturation_range: 0.4}
    - {type: Normalize}
"""
BASE = """\
batch_size: 4
iters: 80000
train_dataset:
  {type: Dataset, dataset_root: data/ROOT, train_path: data/ROOT/train.txt, num_classes: COUNT, mode: train, TRANSFORMS}
val_dataset:
  {type: Dataset, dataset_root: data/ROOT, val_path: data/ROOT/val.txt, num_classes: COUNT, mode: val,
   transforms: [{type: Normalize}]}
optimizer: {type: sgd, momentum: 0.9, weight_decay: DECAY}
lr_scheduler: {type: PolynomialDecay, learning_rate: 0.01, end_lr: 0, power: 0.9}
loss: {types: [{type: CrossEntropyLoss}], coef: [1]}
"""
R50 = "{type: ResNet50, pretrained: https://paddle-hapi.bj.bcebos.com/models/resnet50.pdparams}"
VD = "{type: ResNet50_vd, output_stride: 8, pretrained: https://bj.bcebos.com/paddleseg/dygraph/resnet50_vd_ssld_v2.tar.gz}"
GRID = VD.replace("8,", "8, multi_grid: [1, 2, 4],")
W18 = (
    "{type: HRNet_W18, align_corners: False, pretrained: https://bj.bcebos.com/paddleseg/dygraph/hrnet_w18_ssld.tar.gz}"
)
W48 = "{type: HRNet_W48, pretrained: https://bj.bcebos.com/paddleseg/dygraph/hrnet_w48_ssld.tar.gz}"
SSL = "https://paddleseg.bj.bcebos.com/dygraph/backbone/ssl/"
ASPP = "backbone_indices: [0, 3], aspp_ratios: [1, 12, 24, 36], aspp_out_channels: 256, align_corners: False"
CONTRAST = "in_channels: 720, drop_prob: 0.1, proj_dim: 720"
UPERNET = "backbone_indices: [0, 1, 2, 3], channels: 512, dropout_prob: 0.1, enable_auxiliary_loss: True"
TWO = "loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}\n"
FOUR = f"loss: {{types: [{', '.join(['{type: CrossEntropyLoss}'] * 4)}], coef: [1, 1, 1, 0.4]}}\n"
MIXED = "{type: MixedLoss, losses: [{type: CrossEntropyLoss}, {type: LovaszSoftmaxLoss}], coef: [0.8, 0.2]}"

# Name of the shipped config -> dataset, crop and what PaddleSeg's file sets beyond its base.
CASES = {
    "fcn/fcn_hrnet_w18_isaid_512x512_80k": (
        "iSAID", 512, f"model: {{type: FCN, backbone: {W18}, num_classes: 16, pretrained: Null}}\n",
    ),
    "fcn/fcn_resnet50_vd_isaid_512x512_80k": (
        "iSAID", 512, f"model: {{type: FCN, backbone: {GRID}, num_classes: 16, backbone_indices: [-1]}}\n",
    ),
    "deeplabv3p/deeplabv3p_resnet50_vd_isaid_896x896_80k": (
        "iSAID", 896, f"model: {{type: DeepLabV3P, backbone: {GRID}, num_classes: 16, {ASPP}, pretrained: null}}\n",
    ),
    "pspnet/pspnet_resnet50_isaid_512x512_80k": (
        "iSAID", 896, f"{TWO}model: {{type: PSPNet, backbone: {R50}, num_classes: 16, enable_auxiliary_loss: True}}\n",
    ),
    "upernet/upernet_resnet50_vd_vaihingen_512x512_80k": (
        "Vaihingen", 512, f"{TWO}model: {{type: UPerNet, backbone: {VD}, num_classes: 6, {UPERNET}}}\n",
    ),
    "danet/danet_resnet50_vd_isaid_512x512_80k": (
        "iSAID", 512, f"{FOUR}model: {{type: DANet, backbone: {VD}, num_classes: 16, backbone_indices: [2, 3]}}\n",
    ),
    "hrnet/hrnet_w48_potsdam_512x512_80k": (
        "Potsdam", 512,
        "loss: {types: [{type: CrossEntropyLoss}, {type: PixelContrastCrossEntropyLoss, temperature: 0.1,"
        " base_temperature: 0.07, ignore_index: 255, max_samples: 1024, max_views: 100}], coef: [1, 0.1]}\n"
        f"model: {{type: HRNetW48Contrast, backbone: {W48}, num_classes: 6, {CONTRAST}}}\n",
    ),
    "ssl/ocrnet_pixpro_imgnet_resnet50_isaid_512x512": (
        "iSAID", 512,
        f"loss: {{types: [{MIXED}, {MIXED}], coef: [1, 0.4]}}\nmodel: {{type: OCRNet, backbone: {{type: ResNet50, "
        f"ssl_pretrained: True, pretrained: {SSL}pixpro_r50_ep100_no_instance_with_linear.zip}}, num_classes: 16,"
        " backbone_indices: [0]}\n",
    ),
    "c2fnet/c2fnet_hrnet_isaid_512x512_80k": (
        "iSAID", 512,
        f"optimizer: {{weight_decay: 4.0e-5}}\nmodel: {{type: C2FNet, backbone: {W18}, num_classes: 16,"
        f" backbone_indices: [-1]}}\ncoase_model: {{type: HRNetW48Contrast, backbone: {W48}, {CONTRAST}}}\n",
    ),
}  # fmt: skip


def write(folder: Path, dataset: str, crop: int, more: str) -> Path:
    transforms = " ".join(line.strip() for line in TRANSFORMS.splitlines())
    transforms = transforms.replace("transforms:", "transforms: [").replace("- ", ", ").replace("[ ,", "[") + "]"
    base = BASE.replace("TRANSFORMS", transforms).replace("SIZE", str(crop)).replace("ROOT", dataset)
    base = base.replace("COUNT", "16" if dataset == "iSAID" else "6").replace("DECAY", "0.0005")
    (folder / "_base_").mkdir(exist_ok=True)
    (folder / "_base_" / "base.yml").write_text(base, "utf-8")
    path = folder / "theirs.yml"
    path.write_text(f"_base_: '_base_/base.yml'\n{more}", "utf-8")
    return path


def imported(path: Path, folder: Path) -> Config:
    ours = folder / "ours.yml"
    ours.write_text(import_paddleseg(path).text(path.name), "utf-8")
    return load_config(ours)


def comparable(config: Config) -> dict[str, object]:
    """Without what PaddleSeg's config does not hold: the coarse model's weights are an option of its command."""
    values = config.model_dump()
    if config.model.name == "c2fnet":
        values["model"]["coarse"]["pretrained"] = values["model"]["coarse"]["backbone"]["pretrained"] = None
    values["dataset"]["root"] = values["dataset"]["root"].removeprefix("../")  # C2FNet runs in a folder of its own
    return values


@pytest.mark.parametrize("name", CASES)
def test_the_shipped_config_is_what_paddlesegs_becomes(name: str, tmp_path: Path) -> None:
    theirs = imported(write(tmp_path, *CASES[name]), tmp_path)
    assert comparable(theirs) == comparable(load_config(f"{name}.yml"))


@pytest.mark.skipif("RSSEG_TF_PADDLESEG" not in os.environ, reason="RSSEG_TF_PADDLESEG names no checkout of PaddleSeg")
def test_all_configs_of_paddleseg_become_the_shipped_ones(tmp_path: Path) -> None:
    root = Path(os.environ["RSSEG_TF_PADDLESEG"]) / "contrib" / "RSSegBenchmark"
    files = sorted(root.rglob("*.yml"))
    assert len(files) == 45 + 4
    for path in files:
        if path.parent.name == "_base_":
            assert "model" not in import_paddleseg(path).values
            continue
        shipped = load_config(f"{path.parent.name}/{path.name}")
        assert comparable(imported(path, tmp_path)) == comparable(shipped), path.name


def test_a_file_without_a_model_gives_the_sections_it_has(tmp_path: Path) -> None:
    write(tmp_path, "Potsdam", 512, "")
    result = import_paddleseg(tmp_path / "_base_" / "base.yml")
    assert sorted(result.values) == ["augment", "dataset", "loss", "lr_schedule", "optimizer", "train"]
    assert result.values["dataset"] == {"name": "potsdam", "root": "data/Potsdam"}


@pytest.mark.parametrize(
    ("more", "values"),
    [
        ("grad_clip_cfg: {name: ClipGradByGlobalNorm, clip_norm: 35}", {"clip_norm": 35.0}),
        ("grad_clip_cfg: {name: ClipGradByValue, max: 0.5}", {"clip_value": 0.5}),
        ("grad_clip_cfg: {name: ClipGradByValue, max: 0.5, min: -0.5}", {"clip_value": 0.5}),
        ("custom_cfg: [{name: backbone, lr_mult: 0.1}, {name: head, lr_mult: 1.0}]", {"backbone_lr_factor": 0.1}),
    ],
)
def test_limits_and_rates_have_counterparts(tmp_path: Path, more: str, values: dict[str, float]) -> None:
    for kind, name in (("sgd", "sgd"), ("AdamW", "adamw")):
        path = write(tmp_path, "Potsdam", 512, f"optimizer: {{_inherited_: false, type: {kind}, {more}}}\n")
        found = import_paddleseg(path).values["optimizer"]
        assert found["name"] == name and found.items() >= values.items()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("grad_clip_cfg: {name: ClipGradByNorm, clip_norm: 1}", "grad_clip_cfg: ClipGradByNorm has no counterpart"),
        ("grad_clip_cfg: {name: ClipGradByValue, max: 1.0, min: 0.0}", "grad_clip_cfg: min is 0.0; gradients are"),
        ("grad_clip_cfg: {name: ClipGradByGlobalNorm, clip_norm: 1, norm: 2}", "grad_clip_cfg: the key norm has no"),
        ("custom_cfg: [{name: head, lr_mult: 10.0}]", "custom_cfg: lr_mult of 'head' is 10.0; only the group backbone"),
        ("custom_cfg: [{name: norm, weight_decay_mult: 0.0}]", "weight_decay_mult is 0.0; all weights decay alike"),
    ],
)
def test_limits_and_rates_without_counterparts(tmp_path: Path, more: str, message: str) -> None:
    path = tmp_path / "theirs.yml"
    path.write_text(f"optimizer: {{type: sgd, {more}}}\n", "utf-8")
    with pytest.raises(ConfigError, match=re.escape(message)):
        import_paddleseg(path)


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path, "iSAID", 512,
        "model: {type: AttentionUNet, backbone: {type: ResNet34}}\noptimizer: {type: lamb}\nunheard_of: 1\n"
        "lr_scheduler: {type: StepDecay}\nloss: {types: [{type: EdgeLoss}]}\n"
        "val_dataset: {transforms: [{type: Resize}]}\n",
    )  # fmt: skip
    with pytest.raises(ConfigError) as error:
        import_paddleseg(path)
    lines = str(error.value).splitlines()
    assert all(line.startswith(str(path)) for line in lines)
    for said in (
        "model: AttentionUNet has no counterpart: here is unet, without attention.",
        "optimizer: the type lamb has no counterpart; allowed: sgd, momentum, adamw, adam.",
        "theirs.yml: the key unheard_of has no counterpart here; remove it.",
        "lr_scheduler: the type StepDecay has no counterpart",
        "loss of head 1: the type EdgeLoss has no counterpart",
        "val_dataset.transforms: Resize has no counterpart",
    ):
        assert sum(said in line for line in lines) == 1, (said, lines)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("model: {type: FCN, backbone: {type: ResNet50}, backbone_indices: [1]}", r"backbone_indices is \[1\]"),
        ("model: {type: FCN, backbone: {type: ResNet50_v}}", r"ResNet50_v has no counterpart.* Did you mean 'ResNet50"),
        ("loss: {types: [{type: CrossEntropyLoss}], coef: [1, 0.4]}", "heads main, one loss each; got 2 types"),
        ("loss: {types: [{type: CrossEntropyLoss, ignore_index: 0}]}", "ignore_index is 0; the ignored id follows"),
        ("lr_scheduler: {decay_steps: 5}", "decay_steps is 5; decay here spans all iterations"),
        ("train_dataset: {transforms: [{type: Normalize}]}", "RandomPaddingCrop is needed"),
        (
            "train_dataset: {transforms: [{type: Normalize}, {type: RandomPaddingCrop}]}",
            "the order here is .*got Normalize, RandomPaddingCrop",
        ),
        ("train_dataset: {transforms: [{type: RandomBlur}]}", "RandomBlur: it has no counterpart here"),
        ("batch_size: many", "train.batch_size must be"),
        ("model: {type: UNet, use_deconv: True}", "use_deconv is True; features are resized bilinearly here"),
    ],
)
def test_what_has_no_counterpart_is_refused(more: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        import_paddleseg(write(tmp_path, "iSAID", 512, more + "\n"))


def test_their_unet_brings_its_encoder(tmp_path: Path) -> None:
    path = write(
        tmp_path, "iSAID", 512, "model: {type: UNet, use_deconv: False, align_corners: True, pretrained: a.zip}"
    )
    assert import_paddleseg(path).values["model"] == {
        "name": "unet",
        "variant": "paddleseg",
        "decoder_channels": [256, 128, 64, 64],
        "backbone": {"name": "unet_encoder"},
        "align_corners": True,
        "pretrained": "a.zip",
    }


def test_data_that_are_not_known_become_a_custom_dataset(tmp_path: Path) -> None:
    result = import_paddleseg(
        write(
            tmp_path, "iSAID", 512,
            "train_dataset: {dataset_root: data/mine, num_classes: 3, train_path: data/mine/lists/a.txt}\n"
            "val_dataset: {dataset_root: ./data/mine/, num_classes: 3, val_path: data/mine/val.txt}\n"
            "model: {type: FCN, backbone: {type: HRNet_W18}}\n"
            "test_config: {aug_eval: True, scales: [0.75, 1], flip_horizontal: True, is_slide: True,"
            " crop_size: [512, 512], stride: [384, 384]}\n",
        )
    )  # fmt: skip
    assert result.values["dataset"] == {
        "name": "custom",
        "root": "data/mine",
        "train_list": "lists/a.txt",
        "classes": ["class_0", "class_1", "class_2"],
    }
    assert result.values["eval"]["scales"] == [0.75, 1.0] and result.values["eval"]["is_slide"] is True
    assert any("class_0 to class_2" in note for note in result.notes)


VALUES = yaml.safe_load(WHOLE)


def whole() -> dict[str, Any]:
    return copy.deepcopy(VALUES)


def mappings(values: Any, where: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all mappings in a file."""
    if isinstance(values, dict):
        yield where
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict | list):
            yield from mappings(value, (*where, key))


def outcome(values: dict[str, Any], folder: Path) -> object:
    """What a user learns of a file: the config with its notes, or the problems."""
    path = folder / "whole.yml"
    path.write_text(json.dumps(values), "utf-8")
    try:
        return import_paddleseg(path)
    except ConfigError as error:
        return str(error)


def place(values: Any, where: tuple[str | int, ...]) -> Any:
    for step in where:
        values = values[step]
    return values


def test_no_key_is_dropped_without_a_word(tmp_path: Path) -> None:
    expected = outcome(whole(), tmp_path)
    assert isinstance(expected, ImportedConfig)
    assert expected.notes == ("data/mine is no dataset known here: its classes are called class_0 to class_2.",)
    assert expected.values["dataset"]["ignore_index"] == 254
    places = list(mappings(whole()))
    assert len(places) == 22
    for where in places:
        values = whole()
        place(values, where)["unheard_of"] = 1
        assert "the key unheard_of has no counterpart here; remove it." in str(outcome(values, tmp_path)), where
        for key in place(whole(), where):
            values = whole()
            place(values, where)[key] = "odd"
            assert outcome(values, tmp_path) != expected, (*where, key)


def test_odd_values_never_end_in_a_traceback(tmp_path: Path) -> None:
    odd = itertools.cycle([None, [], {}, [[1]], -1, True, float("nan"), {"type": ["a"]}, "", 10**400, 1])
    for where in mappings(whole()):
        for key in place(whole(), where):
            for value in itertools.islice(odd, 3):
                values = whole()
                place(values, where)[key] = value
                found = outcome(values, tmp_path)
                assert isinstance(found, ImportedConfig) or "whole.yml" in str(found), (*where, key, value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("val_dataset: {dataset_root: data/other}", "val_dataset: dataset_root is 'data/other', that of train_dataset"),
        ("val_dataset: {num_classes: 4}", "val_dataset: num_classes is 4, that of train_dataset 3"),
        ("val_dataset: {ignore_index: 255}", "val_dataset: ignore_index is 255, that of train_dataset 254"),
        ("val_dataset: {ignore_index: null}", "val_dataset: ignore_index is 255, that of train_dataset 254"),
        ("val_dataset: {mode: train}", "val_dataset: mode is 'train'; it must be val"),
        (
            "val_dataset: {type: Cityscapes}",
            "val_dataset: the type is Cityscapes, that of train_dataset Dataset; make them the same",
        ),
        ("val_dataset: {separator: ','}", "val_dataset: separator is ','"),
        ("val_dataset: {transforms: [{type: Normalize}]}", r"val_dataset: Normalize has mean and std 0.5, in train_"),
        ("val_dataset: {type: Mine}", "val_dataset: the type Mine is not known; allowed: Dataset with val_path"),
        ("val_dataset: {transforms: []}", "val_dataset: transforms: Normalize is needed"),
        ("train_dataset: {ignore_index: null}\nval_dataset: {ignore_index: null}", "loss of main.*ignore_index is 254"),
        ("model: {num_classes: 5}", "num_classes of model is 5, that of the dataset 3"),
        ("model: {pretrained: [1]}", "model: pretrained must be a text"),
        ("lr_scheduler: {warmup_iters: 1.5}", "warmup_iters must be a whole number"),
        ("export: {transforms: []}", "the key export has no counterpart here; remove it."),
    ],
)
def test_what_two_sections_say_must_agree(more: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "whole.yml").write_text(WHOLE, "utf-8")
    path = tmp_path / "theirs.yml"
    path.write_text(f"_base_: whole.yml\n{more}\n", "utf-8")
    with pytest.raises(ConfigError, match=message):
        import_paddleseg(path)


def test_the_ignored_id_of_evaluation_is_ours(tmp_path: Path) -> None:
    """Training ignores what either section states, evaluation what its own does."""
    values = whole()
    del values["train_dataset"]["ignore_index"]
    result = outcome(values, tmp_path)
    assert isinstance(result, ImportedConfig) and result.values["dataset"]["ignore_index"] == 254


def test_a_rotation_turns_the_whole_image(tmp_path: Path) -> None:
    plain = outcome(whole(), tmp_path)
    assert isinstance(plain, ImportedConfig)
    for at in range(6):
        values = whole()
        values["train_dataset"]["transforms"].insert(
            at, {"type": "RandomRotation", "max_rotation": 20, "label_padding_value": 254}
        )
        result = outcome(values, tmp_path)
        if at == 1:  # between scale and crop
            assert isinstance(result, ImportedConfig)
            turning = {"rotate_degrees": 20.0, "rotate_probability": 1.0, "rotate_whole": True}
            assert result.values["augment"] == {**plain.values["augment"], **turning}
        else:
            assert "the order here is ResizeStepScaling, RandomRotation, RandomPaddingCrop" in str(result)
    values["train_dataset"]["transforms"][5]["max_rotation"] = 0  # which turns nothing
    del values["train_dataset"]["transforms"][5]["label_padding_value"]
    values["train_dataset"]["transforms"].insert(1, values["train_dataset"]["transforms"].pop(5))
    assert outcome(values, tmp_path) == plain


@pytest.mark.parametrize(
    ("rotation", "message"),
    [
        ({"im_padding_value": 0}, "im_padding_value is 127.5, that of RandomRotation 0.0; there is one here"),
        ({"label_padding_value": 3}, "label_padding_value is 3; what is padded is ignored here"),
        ({"max_rotation": 200}, "max_rotation is 200; 180 turns everywhere"),
        ({"prob": 1}, "the key prob has no counterpart here"),
    ],
)
def test_what_a_rotation_must_be(rotation: dict[str, Any], message: str, tmp_path: Path) -> None:
    values = whole()
    values["train_dataset"]["transforms"].insert(1, {"type": "RandomRotation", **rotation})
    assert message in str(outcome(values, tmp_path))


def test_what_paddleseg_does_not_read_either_is_noted(tmp_path: Path) -> None:
    values = whole()
    values["test_config"] = {"scales": [1, 2], "crop_size": [32, 32]}
    values["val_dataset"]["train_path"] = "data/mine/a.txt"
    result = outcome(values, tmp_path)
    assert isinstance(result, ImportedConfig) and result.values["eval"] == {}
    for said in ("test_config.scales is left out", "test_config.crop_size is", "val_dataset.train_path is left out"):
        assert sum(note.startswith(said) for note in result.notes) == 1, result.notes


def test_a_key_that_is_written_twice_is_noted(tmp_path: Path) -> None:
    more = "loss:\n  types: [{type: DiceLoss}]\n  types: [{type: CrossEntropyLoss}]\n  coef: [1]\n"
    result = import_paddleseg(write(tmp_path, "iSAID", 512, more))
    assert result.values["loss"] == {"main": {"name": "cross_entropy"}}
    assert any(note.startswith("'types' is written twice (line 3 on)") for note in result.notes)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere.yml cannot be read as YAML: No such file"):
        import_paddleseg(tmp_path / "nowhere.yml")
    path = tmp_path / "a.yml"
    for text, message in (
        ("a: [", "cannot be read as YAML"),
        ("- 1\n", "must be a mapping of sections; got list"),
        ("_base_: a.yml\n", "is based on itself"),
        ("_base_: b.yml\n", "b.yml, the _base_ of a.yml, cannot be read"),
        ("model: 3\n", "model must be a mapping; got 3"),
        ("_base_: 3\n", r"_base_ must be a file or a list of files; got .3.\."),
        ("[a]: 1\n", "cannot be read as YAML"),
        (f"iters: {'1' * 5000}\n", "cannot be read as YAML"),
        ("[" * 5000, "cannot be read as YAML"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(ConfigError, match=message):
            import_paddleseg(path)


def test_the_command_writes_a_config_that_is_sound(tmp_path: Path) -> None:
    source = write(tmp_path, *CASES["danet/danet_resnet50_vd_isaid_512x512_80k"])
    target = tmp_path / "danet.yml"
    run = CliRunner().invoke(main, ["config", "import", str(source), "-o", str(target)])
    assert (run.exit_code, run.output) == (0, f"Wrote {target}\n")
    assert load_config(target).model.name == "danet"
    again = CliRunner().invoke(main, ["config", "import", str(source), "-o", str(target)])
    assert again.exit_code == 2 and "exists; choose another name" in again.output
    shown = CliRunner().invoke(main, ["config", "import", str(source)])
    assert shown.output == target.read_text("utf-8")
