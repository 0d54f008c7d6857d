"""Configs of PaddleSeg beyond the benchmark's: its own datasets, SegFormer, whole folders."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsseg_tf.build import build_model
from rsseg_tf.config import Config, load_config
from rsseg_tf.config.paddleseg import import_paddleseg
from rsseg_tf.config.paddleseg_data import DATASETS
from rsseg_tf.errors import ConfigError
from rsseg_tf.files.lists import read_list
from tests.fixtures.paddleseg import CITYSCAPES


def imported(folder: Path, changes: dict[str, Any] | None = None) -> tuple[Config, tuple[str, ...]]:
    values = yaml.safe_load(CITYSCAPES)
    for key, value in (changes or {}).items():
        *above, last = key.split(".")
        place = values
        for step in above:
            place = place[step]
        place.pop(last, None)
        if value is not None:
            place[last] = value
    source, target = folder / "theirs.yml", folder / "ours.yml"
    source.write_text(yaml.safe_dump(values), "utf-8")
    found = import_paddleseg(source)
    target.write_text(found.text("theirs.yml"), "utf-8")
    return load_config(target), found.notes


def test_segformer_on_cityscapes(tmp_path: Path) -> None:
    config, notes = imported(tmp_path)
    assert config.model.model_dump(exclude_defaults=True) == {
        "name": "segformer",
        "channels": 768,
        "channel_dropout": True,
        "backbone": {
            "name": "mit_b1",
            "norm_epsilon": 1e-6,
            "embed_epsilon": 1e-5,
            "pretrained": "https://bj.bcebos.com/mix_vision_transformer_b1.tar.gz",
        },
    }
    spec = config.dataset.spec
    assert (spec.num_classes, spec.classes[13], spec.palette[13], spec.ignore_index) == (19, "car", (0, 0, 142), 255)
    assert spec.name == "Cityscapes" and spec.mean == (0.5,) * 3
    assert config.augment.crop_size == (1024, 512) and config.eval.is_slide
    assert (config.optimizer.weight_decay, config.lr_schedule.learning_rate) == (0.01, 0.00006)
    [note] = notes
    assert "tools/data/convert_cityscapes.py" in note and "cd data/cityscapes" in note


@pytest.mark.slow
def test_an_imported_segformer_is_built(tmp_path: Path) -> None:
    changes = {"model.backbone.type": "MixVisionTransformer_B0", "model.backbone.pretrained": None}
    config, _ = imported(tmp_path, changes)
    model = build_model(config)
    assert (
        model.get_layer("stage1_embed_norm").epsilon
        == 1e-5
        == model.get_layer("stage1_block1_attention_reduce_norm").epsilon
    )
    assert model.get_layer("stage1_block1_mlp_norm").epsilon == 1e-6 == model.get_layer("stage4_norm").epsilon


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write_lists(note: str, root: Path) -> None:
    """Types what a note says."""
    command = note[note.index("(cd ") :].replace("cd data/some", f"cd {root}")
    subprocess.run(["sh", "-ec", command], check=True)


def lists_note(folder: Path, kind: str, mode: str) -> tuple[Config, str]:
    changes = {f"{part}.{key}": value for part in ("train_dataset", "val_dataset")
               for key, value in (("type", kind), ("dataset_root", "data/some"))}  # fmt: skip
    config, notes = imported(folder, {**changes, "train_dataset.mode": mode, "model.num_classes": None})
    return config, notes[0]


def pairs(config: Config, root: Path, split: str) -> list[tuple[str, str]]:
    name = getattr(config.dataset, f"{split}_list")
    found = read_list(root / name, root)
    return [(str(s.image.relative_to(root)), str(s.label and s.label.relative_to(root))) for s in found]


def test_the_lists_of_cityscapes_are_written_by_the_line_of_the_note(tmp_path: Path) -> None:
    root = tmp_path / "city"
    names = {"train": ("aachen/aachen_000000_000019", "bochum/bochum_000000_000313"), "val": ("lindau/lindau_0_1",)}
    for split, stems in names.items():
        for stem in stems:
            touch(root, f"leftImg8bit/{split}/{stem}_leftImg8bit.png")
            touch(
                root, *(f"gtFine/{split}/{stem}_gtFine_{kind}.png" for kind in ("color", "labelIds", "labelTrainIds"))
            )
    config, note = lists_note(tmp_path, "Cityscapes", "train")
    write_lists(note, root)
    for split, stems in names.items():
        assert pairs(config, root, split) == [
            (f"leftImg8bit/{split}/{stem}_leftImg8bit.png", f"gtFine/{split}/{stem}_gtFine_labelTrainIds.png")
            for stem in stems
        ]


@pytest.mark.parametrize(("mode", "labels"), [("train", ["SegmentationClass"]), ("trainval", ["SegmentationClass"]),
                                              ("trainaug", ["SegmentationClass", "SegmentationClassAug"])])  # fmt: skip
def test_the_lists_of_pascal_voc(mode: str, labels: list[str], tmp_path: Path) -> None:
    root = tmp_path / "voc"
    sets = root / "VOC2012" / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    for name in ("train", "val", "trainval", "aug"):
        (sets / f"{name}.txt").write_text(f"2007_{name}\n", "utf-8")
        folder = "SegmentationClassAug" if name == "aug" else "SegmentationClass"
        touch(root, f"VOC2012/JPEGImages/2007_{name}.jpg", f"VOC2012/{folder}/2007_{name}.png")
    config, note = lists_note(tmp_path, "PascalVOC", mode)
    write_lists(note, root)
    expected = {"SegmentationClass": "trainval" if mode == "trainval" else "train", "SegmentationClassAug": "aug"}
    assert pairs(config, root, "train") == [
        (f"VOC2012/JPEGImages/2007_{expected[folder]}.jpg", f"VOC2012/{folder}/2007_{expected[folder]}.png")
        for folder in labels
    ]
    assert pairs(config, root, "val") == [("VOC2012/JPEGImages/2007_val.jpg", "VOC2012/SegmentationClass/2007_val.png")]
    assert config.dataset.spec.num_classes == 21


def test_lists_with_bars(tmp_path: Path) -> None:
    root = tmp_path / "roads"
    for split in ("train", "val"):
        touch(root, f"images/{split} 1.jpg", f"masks/{split} 1.png")
        (root / f"{split}.txt").write_text(f"images/{split} 1.jpg|masks/{split} 1.png\n", "utf-8")
    config, note = lists_note(tmp_path, "MiniDeepGlobeRoadExtraction", "train")
    write_lists(note, root)
    for split in ("train", "val"):
        assert pairs(config, root, split) == [(f"images/{split} 1.jpg", f"masks/{split} 1.png")]


def test_datasets_that_bring_lists(tmp_path: Path) -> None:
    config, note = lists_note(tmp_path, "OpticDiscSeg", "train")
    assert (config.dataset.train_list, config.dataset.val_list) == ("train_list.txt", "val_list.txt")
    assert note == "PaddleSeg downloads OpticDiscSeg by itself; here its files must lie in data/some."


@pytest.mark.parametrize("kind", [kind for kind, known in DATASETS.items() if known.refused])
def test_datasets_that_are_refused_say_why(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"train_dataset: {DATASETS[kind].title} cannot be taken: ")):
        lists_note(tmp_path, kind, "train")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_dataset.mode": "trainaug"}, "train_dataset: mode is 'trainaug'; it must be train"),
        ({"val_dataset.mode": "train"}, "val_dataset: mode is 'train'; it must be val"),
        ({"val_dataset.transforms": None}, "val_dataset: transforms: Normalize is needed"),
        ({"val_dataset.type": "PascalVOC"}, "the type is PascalVOC, that of train_dataset Cityscapes"),
        ({"val_dataset.dataset_root": "data/other"}, "dataset_root is 'data/other', that of train_dataset"),
        ({"val_dataset.num_classes": 19}, "the key num_classes has no counterpart"),
        ({"val_dataset.edge": True}, "val_dataset: edge is True"),
        ({"model.num_classes": 20}, "num_classes of model is 20, that of the dataset 19"),
        ({"model.type": "LRASPP"}, "model: LRASPP has no counterpart: PaddleSeg's joins three features"),
        ({"optimizer": {"type": "Adam", "weight_decay": 0.1}}, "Adam's decay goes through its moments"),
        ({"optimizer": {"type": "Momentum", "use_nesterov": True}}, "there is no Nesterov momentum here"),
        ({"test_config": {"use_multilabel": True}}, "use_multilabel is True; a pixel has one label here"),
        ({"train_dataset.transforms": [{"type": "Resize"}, {"type": "Normalize"}]}, "Resize: it brings images to"),
        ({"val_dataset.transforms": [{"type": "Resize"}, {"type": "Normalize"}]}, "Resize has no counterpart"),
    ],
)  # fmt: skip
def test_what_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        imported(tmp_path, changes)


def test_an_unknown_model_is_one_problem(tmp_path: Path) -> None:
    loss = {"types": [{"type": "CrossEntropyLoss"}] * 3, "coef": [1, 1, 1]}
    with pytest.raises(ConfigError) as error:
        imported(tmp_path, {"model": {"type": "SFNet", "num_classes": 19}, "loss": loss})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"type": "SGD"}, {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}),  # plain without the key
        ({"type": "sgd", "momentum": 0.8}, {"name": "sgd", "momentum": 0.8, "weight_decay": 0.0}),
        ({"type": "Momentum"}, {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0}),
        ({"type": "adam", "beta2": 0.99}, {"name": "adamw", "beta_2": 0.99, "weight_decay": 0.0}),
        ({"type": "AdamW"}, {"name": "adamw", "weight_decay": 0.01}),
    ],
)
def test_optimizers(theirs: dict[str, Any], ours: dict[str, Any], tmp_path: Path) -> None:
    config, _ = imported(tmp_path, {"optimizer": theirs})
    assert config.optimizer.model_dump().items() >= ours.items()


def test_what_a_crop_does_not_tell_apart_may_stand_in_any_order(tmp_path: Path) -> None:
    transforms = yaml.safe_load(CITYSCAPES)["train_dataset"]["transforms"]
    scale, crop, flip, distort, normalize = transforms
    first, _ = imported(tmp_path)
    other, _ = imported(tmp_path, {"train_dataset.transforms": [scale, crop, distort, flip, normalize]})
    assert other.augment == first.augment
    with pytest.raises(ConfigError, match="the order here is"):  # contrast is that of the crop
        imported(tmp_path, {"train_dataset.transforms": [scale, distort, crop, flip, normalize]})


def test_what_evaluation_does_differently_is_noted(tmp_path: Path) -> None:
    padding = {"type": "Padding", "target_size": [2049, 1025], "im_padding_value": 0}
    changes = {"val_dataset.transforms": [padding, {"type": "Normalize"}], "test_config": {"auc_roc": True}}
    _, notes = imported(tmp_path, changes)
    assert any(note.startswith("PaddleSeg pads validation images to [2049, 1025]") for note in notes)
    assert any(note.startswith("test_config.auc_roc is left out") for note in notes)


def test_every_key_of_validation_is_read(tmp_path: Path) -> None:
    """Each one changes what comes out, be it a problem or a note, when training's stays."""
    values = {"type": "Dataset", "dataset_root": "data/mine", "num_classes": 3, "img_channels": 3, "ignore_index": 255,
              "separator": " ", "edge": False, "transforms": [{"type": "Normalize"}]}  # fmt: skip
    shared = {**values, "train_path": "data/mine/train.txt", "mode": "train"}
    shared["transforms"] = yaml.safe_load(CITYSCAPES)["train_dataset"]["transforms"]
    base = {"train_dataset": shared, "model.num_classes": 3}
    val = {**values, "val_path": "data/mine/val.txt", "mode": "val"}
    expected = imported(tmp_path, {**base, "val_dataset": val})
    others = {"type": "Cityscapes", "dataset_root": "data/b", "num_classes": 4, "img_channels": 1, "ignore_index": 0,
              "separator": ",", "edge": True, "mode": "test", "val_path": "data/mine/b.txt", "train_path": "a",
              "test_path": "b",
              "transforms": [{"type": "Normalize", "mean": [0.4], "std": [0.5]}]}  # fmt: skip
    for key, value in others.items():
        try:
            found: Any = imported(tmp_path, {**base, "val_dataset": {**val, key: value}})
        except ConfigError as error:
            assert "val_dataset" in str(error), key
            continue
        assert found != expected, key
    for key in ("num_classes", "transforms"):
        with pytest.raises(ConfigError, match=f"val_dataset: {key}"):
            imported(tmp_path, {**base, "val_dataset": {name: x for name, x in val.items() if name != key}})
