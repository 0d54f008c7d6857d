"""Configs of pre-training: the shipped recipes and what the schema refuses."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rsseg_tf.assets import find_config, shipped_configs
from rsseg_tf.backbones import resnet50
from rsseg_tf.config import PretrainConfig, dump_config, load_any_config, load_config, load_pretrain_config
from rsseg_tf.config.pretrain import IMAGENET_MEAN
from rsseg_tf.datasets.table import RECIPES
from rsseg_tf.errors import ConfigError, OldKeyWarning
from rsseg_tf.weights.pretrained import backbone_names

SHIPPED = [name for name in shipped_configs() if name.startswith("ssl/pretrain/")]
DATA = ("imagenet", "million_aid", "dota")
# Batch, highest rate at that batch, epochs, weight decay, kind of optimizer.
OFFICIAL = {
    "moco_v2": (256, 0.03, 200, 1e-4, "sgd"),
    "densecl": (256, 0.03, 200, 1e-4, "sgd"),
    "simsiam": (512, 0.1, 100, 1e-4, "sgd"),
    "swav": (4096, 4.8, 100, 1e-6, "larc"),
    "pixpro": (1024, 4.0, 100, 1e-5, "pixpro"),
    "moco_byol": (4096, 4.8, 300, 1e-6, "paddle"),
}
CONFIG = "dataset: {name: images, root: x}\nbackbone: {name: resnet18}\nmethod: {name: simsiam}\n"


def load(tmp_path: Path, text: str = "", *overrides: str) -> PretrainConfig:
    path = tmp_path / "pre.yml"
    path.write_text(CONFIG + text, "utf-8")
    return load_pretrain_config(path, overrides)


def test_every_method_has_a_recipe_for_every_kind_of_images() -> None:
    assert sorted(SHIPPED) == sorted(f"ssl/pretrain/{m}_resnet50_{d}.yml" for m in OFFICIAL for d in DATA)


@pytest.mark.parametrize("name", SHIPPED)
def test_recipes_are_the_official_ones(name: str) -> None:
    config = load_pretrain_config(find_config(name))
    told = re.fullmatch(r"ssl/pretrain/(\w+)_resnet50_(imagenet|million_aid|dota)\.yml", name)
    assert told is not None
    batch, rate, epochs, decay, kind = OFFICIAL[told[1]]
    assert (config.method.name, config.backbone.name) == (told[1], "resnet50")
    schedule = config.lr_schedule
    assert (config.train.total_batch_size, schedule.base_batch_size, schedule.learning_rate) == (batch, batch, rate)
    assert config.train.epochs == (200 if name.endswith("pixpro_resnet50_dota.yml") else epochs)
    assert config.optimizer.weight_decay == decay
    assert getattr(config.optimizer, "variant", config.optimizer.name) == kind
    assert config.dataset.spec.mean == IMAGENET_MEAN and config.views.crop_size == 224
    if told[2] == "imagenet":
        assert (config.dataset.name, config.dataset.train_list) == ("images", None)
    else:
        assert (config.dataset.name, config.dataset.train_list) == (told[2], "train.txt")
        assert config.dataset.root == RECIPES[told[2]].output.as_posix()
    config.method.check_batch(batch, batch)
    config.method.check_batch(batch, batch // 8)


def test_views_of_the_methods() -> None:
    views = {
        name: load_pretrain_config(find_config(f"ssl/pretrain/{name}_resnet50_imagenet.yml")).views for name in OFFICIAL
    }
    assert {name: v.scale_range[0] for name, v in views.items()} == {
        "moco_v2": 0.2, "densecl": 0.2, "simsiam": 0.2, "swav": 0.14, "pixpro": 0.08, "moco_byol": 0.08,
    }  # fmt: skip
    assert views["swav"].small_views == 6 and views["moco_byol"].interpolation == "bicubic"
    assert views["pixpro"].solarize_probability == (0.0, 0.2) and views["moco_byol"].solarize_probability == (0.0, 0.5)
    assert views["pixpro"].saturation == 0.2 and views["swav"].hue == 0.2
    assert views["moco_byol"].blur_probability == (1.0, 0.1)


def test_a_resnet50_has_265_tensors() -> None:
    """53 convolutions, and four tensors for each of 53 normalisations: what a released file must bring."""
    paths = [variable.path for variable in resnet50().weights]
    names = backbone_names(load_pretrain_config(find_config(SHIPPED[0])).backbone, paths)
    assert len(names) == 265
    assert sum(path.endswith("/kernel") for path in names.values()) == 53


def test_a_dumped_config_reads_back_equal(tmp_path: Path) -> None:
    config = load(tmp_path, "", "train.iters=7", "optimizer={name: lars, variant: larc}")
    again = tmp_path / "again.yml"
    again.write_text(dump_config(config), "utf-8")
    assert load_pretrain_config(again) == config == load_any_config(again)


def test_the_old_name_of_the_total_batch_size_keeps_its_meaning(tmp_path: Path) -> None:
    base = find_config(SHIPPED[0])
    file = tmp_path / "old.yml"
    file.write_text(f"base: {base}\ntrain: {{batch_size: 64}}\n")
    with pytest.warns(OldKeyWarning, match=r"old.yml:2: .* write train.total_batch_size: 64 instead"):
        config = load_pretrain_config(file)
    assert config.train.total_batch_size == 64, "it overrides the recipe's"
    with pytest.warns(OldKeyWarning, match="--set train.batch_size=32: "):
        assert load_pretrain_config(SHIPPED[0], ["train.batch_size=32"]).train.total_batch_size == 32
    checkpoint = tmp_path / "config.yml"  # as a run of an earlier version left it
    checkpoint.write_text(dump_config(config).replace("total_batch_size", "batch_size"))
    with pytest.warns(OldKeyWarning):
        assert load_any_config(checkpoint) == config


def test_each_command_says_which_kind_of_config_it_takes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a config of `rsseg-tf pretrain` \(it has a section 'method'\)"):
        load_config(SHIPPED[0])
    with pytest.raises(ConfigError, match=r"is a config of `rsseg-tf train` \(it has a section 'model'\)"):
        load_pretrain_config("ssl/upernet_simsiam_imgnet_resnet50_isaid_512x512.yml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.name=moco", r"method.name is 'moco'. Did you mean 'moco_v2'\? Allowed: moco_v2, densecl, simsiam"),
        ("method.prototypes=3", "unknown key 'method.prototypes'.* Allowed here: name, dim, predictor_hidden"),
        ("views.small_views=2", "views.small_views is 2, but method simsiam takes two views"),
        ("views.scale_range=[0.5, 0.2]", "scale_range is smallest, largest; got 0.5, 0.2"),
        ("views.scale_range=[0.5, 2.0]", "scale_range is a share of the image's area, at most 1; got 2.0"),
        ("dataset.mean=[0.5]", "mean has 1 values for 3 bands"),
        ("train.total_batch_size=1", "train.total_batch_size must be greater than or equal to 2; got 1"),
        ("optimizer.accumulate_steps=2", "unknown key 'optimizer.accumulate_steps'"),
        ("optimizer.backbone_lr_factor=0.1", "unknown key 'optimizer.backbone_lr_factor'"),
        ("train.ema=0.9", "unknown key 'train.ema'"),
        ("optimizer={name: lars}", "'optimizer.variant' is missing"),
    ],
)
def test_what_the_schema_refuses(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "", override)
