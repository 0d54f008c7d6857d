from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from rsseg_tf.assets import find_config, shipped_configs
from rsseg_tf.config import Config, dump_config, load_config, load_pretrain_config
from rsseg_tf.config.loader import root_hint
from rsseg_tf.config.schema import CustomDataset
from rsseg_tf.config.zoo import C2FNet, SegmentorSection
from rsseg_tf.datasets.table import RECIPES, SPECS
from rsseg_tf.errors import ConfigError, OldKeyWarning

BASE = """\
dataset: {name: dubai, root: data/dubai}
model:
  name: fcn
  backbone: {name: hrnet_w18}
"""


SHORT = {"deeplabv3p": "deeplabv3plus", "hrnet": "hrnet_contrast"}
# The original's base file crops 896x896, and these two configs do not override it, whatever their names say.
TRAINED_AT_896 = {
    "pspnet_resnet50_isaid_512x512_80k.yml",
    "pspnet_pixpro_imgnet_resnet50_isaid_512x512.yml",
}


def load(tmp_path: Path, more: str = "", *overrides: str, base: str = BASE) -> Config:
    path = tmp_path / "c.yml"
    path.write_text(base + more, "utf-8")
    return load_config(path, overrides)


def test_defaults_are_the_benchmarks(tmp_path: Path) -> None:
    config = load(tmp_path)
    assert (config.train.iters, config.train.batch_size) == (80000, 4)
    options = config.optimizer.model_dump()
    assert options.items() >= {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4}.items()
    off = {"clip_norm": None, "clip_value": None, "accumulate_steps": 1, "backbone_lr_factor": 1.0}
    assert options.items() >= off.items()
    assert config.train.ema is None and not config.model.freeze_backbone
    assert config.lr_schedule.learning_rate == 0.01
    assert config.augment.crop_size == (512, 512)
    assert config.dataset.spec.num_classes == 5
    with pytest.raises(ValidationError):
        config.train.iters = 5  # type: ignore[misc]


def test_a_dumped_config_reads_back_equal(tmp_path: Path) -> None:
    config = load(tmp_path, "augment: {crop_size: [64, 32]}\n", "lr_schedule={name: cosine, warmup_steps: 5}")
    again = tmp_path / "again.yml"
    again.write_text(dump_config(config), "utf-8")
    assert load_config(again) == config


SEGMENTATION = [name for name in shipped_configs() if not name.startswith("ssl/pretrain/")]


@pytest.mark.parametrize("name", SEGMENTATION)
def test_every_shipped_config_loads(name: str) -> None:
    config = load_config(find_config(name))
    assert config.dataset.spec.num_classes > 1
    # <segmentor>[_<pretraining>]_<backbone>_<dataset>_<width>x<height>…, with the benchmark's own short names.
    pattern = r"(?P<segmentor>[a-z0-9]+)_(?:[a-z0-9]+_[a-z]+_)??"
    pattern += r"(?P<backbone>(?:resnet|hrnet_w)\d+(?:_vd)?|mobilenet_v3_[a-z]+|efficientnet_lite\d|mit_b\d)_"
    pattern += r"(?P<dataset>[a-z]+)_(?P<width>\d+)x(?P<height>\d+)(?:_\w+)?\.yml"
    file = name.split("/")[1]
    if config.model.name == "c2fnet":  # named after the coarse model, which is one of the benchmark's
        short = re.fullmatch(r"c2fnet_([a-z0-9]+)_isaid_512x512_80k\.yml", file)
        assert short is not None and isinstance(config.model, C2FNet)
        assert config.model.coarse.name == SHORT.get(short[1], short[1])
        assert (config.dataset.name, config.augment.crop_size) == ("isaid", (512, 512))
        return
    told = re.fullmatch(pattern, file.replace("hrnet_w48_", "hrnet_hrnet_w48_", 1) if file[:5] == "hrnet" else file)
    assert told is not None
    assert config.model.name == SHORT.get(told["segmentor"], told["segmentor"])
    assert config.model.backbone is not None
    assert (config.model.backbone.name, config.dataset.name) == (told["backbone"], told["dataset"])
    if file in TRAINED_AT_896:
        assert config.augment.crop_size == (896, 896)
    else:
        assert config.augment.crop_size == (int(told["width"]), int(told["height"]))


@pytest.mark.parametrize("name", sorted(SPECS))
def test_configs_look_where_prepare_writes(name: str) -> None:
    roots = [(config.dataset.root, config.dataset.spec) for config in map(load_config, map(find_config, SEGMENTATION))]
    found = {root for root, spec in roots if spec.name == name}
    assert found == {RECIPES[name].output.as_posix()}


def test_overrides_obey_the_schema(tmp_path: Path) -> None:
    assert load(tmp_path, "", "train.iters=7", "model.backbone={name: resnet50_vd, output_stride: 16}").train.iters == 7
    with pytest.raises(ConfigError, match=r"--set train.itters=7: unknown key 'train.itters'. Did you mean 'iters'\?"):
        load(tmp_path, "", "train.itters=7")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("trian: {iters: 1}\n", r"c\.yml:5: unknown key 'trian'\. Did you mean 'train'\? Allowed here: dataset, model"),
        ("iters: 5\n", r"c\.yml:5: unknown key 'iters'\. Did you mean 'train\.iters'\? Allowed here: dataset, model"),
        ("batch_size: 5\n", r"'batch_size'\. Did you mean 'train\.batch_size' or 'eval\.batch_size'\? Allowed"),
        (
            "train: {end_lr: 0.1}\n",
            r"unknown key 'train\.end_lr'\. Did you mean 'lr_schedule\.end_lr'\? Allowed here: it",
        ),
        ("train:\n  iters: '5'\n", r"c\.yml:6: train\.iters must be a valid integer; got '5'"),
        ("train:\n  iters: 0\n", r"c\.yml:6: train\.iters must be greater than 0; got 0"),
        ("train: {seed: 1.5}\n", r"c\.yml:5: train\.seed must be a valid integer"),
        ("train: {precision: fp8}\n", r"train\.precision must be 'fp32', 'fp16' or 'bf16'; got 'fp8'"),
        ("optimizer: {name: sdg}\n", r"optimizer\.name is 'sdg'\. Did you mean 'sgd'\? Allowed: sgd, adamw"),
        ("loss: {main: {name: mse}}\n", r"loss\.main\.name is 'mse'\. Allowed: cross_entropy, ohem_cross_entropy"),
        ("optimizer: {name: sgd, beta_1: 0.9}\n", r"unknown key 'optimizer\.beta_1'\. Allowed here: name, momentum"),
        ("optimizer: {name: sgd, accumulate_steps: 0}\n", r"optimizer\.accumulate_steps must be greater than 0; got 0"),
        ("optimizer: {name: adamw, clip_norm: 0.0}\n", r"optimizer\.clip_norm must be greater than 0"),
        ("optimizer: {name: sgd, backbone_lr_factor: 0.0}\n", r"optimizer\.backbone_lr_factor must be greater than 0"),
        ("train: {ema: 1.0}\n", r"train\.ema must be less than 1; got 1\.0"),
        ("augment: {crop_size: [5]}\n", r"'augment\.crop_size\.1' is missing"),
        (
            "sampling: {classes: [building, pool]}\n",
            r"c\.yml: sampling\.classes names pool; the dataset 'dubai' has water, land, road, building, vegetation\.",
        ),
        ("sampling: {share: 0.5}\n", r"c\.yml:5: sampling\.share has a meaning with sampling\.classes only; name some"),
        ("sampling: {classes: common}\n", r"sampling\.classes"),
        ("sampling: {classes: rare, share: 1.5}\n", r"sampling\.share.*less than or equal to 1"),
        ("augment: {scale_range: [2.0, 0.5]}\n", r"c\.yml:5: scale_range is smallest, largest; got 2.0, 0.5"),
        ("loss: {main: {name: cross_entropy, class_weights: [1, 2]}}\n", "has 2 values; the dataset 'dubai' has 5"),
        (
            "loss: {main: {name: cross_entropy, class_weights: [0, 0, 0, 0, 0]}}\n",
            r"loss\.main\.class_weights are all 0",
        ),
        ("loss: {main: {name: dice, class_weights: [0, 1, .nan, 1, 1]}}\n", r"class_weights\.2 must be a .* number"),
        ("loss: {main: {name: dice, class_weights: [0, 1, -1, 1, 1]}}\n", r"class_weights\.2 must be greater than or"),
        (
            "loss: {main: {name: mixed, losses: [{name: dice},"
            " {name: cross_entropy, class_weights: [0, 0, 0, 0, 0]}]}}\n",
            r"loss\.main\.class_weights are all 0",
        ),
        ("lr_schedule: {name: poly, warmup_steps: -1}\n", r"lr_schedule\.warmup_steps must be greater than or equal"),
        ("eval: {is_slide: true}\n", "is_slide needs crop_size and stride"),
        ("eval: {crop_size: [5, 5]}\n", "with is_slide: true only"),
        ("train: {iters: .nan}\n", r"train\.iters must be a valid integer; got '\.nan'"),
    ],
)
def test_wrong_configs_say_where_and_what(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, more)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("model={name: custom, builder: 'nets:net', freeze_backbone: true}",),
            "model.freeze_backbone is true, but the model net has no section backbone. Build it on one, or remove",
        ),
        (
            ("model={name: custom, builder: 'nets:net'}", "optimizer.backbone_lr_factor=0.1"),
            "optimizer.backbone_lr_factor is 0.1, but the model net has no section backbone. Build it on one (model.",
        ),
        (
            ("model.freeze_backbone=true", "optimizer.backbone_lr_factor=0.1"),
            "is 0.1, but model.freeze_backbone keeps the backbone as it is. Remove one of both.",
        ),
        (
            (
                "model={name: c2fnet, backbone: {name: hrnet_w18}, coarse: {name: fcn, freeze_backbone: true, "
                "backbone: {name: hrnet_w18}}}",
                "dataset={name: isaid, root: data/isaid}",
                "loss={fine: {name: cross_entropy}}",
            ),
            "model.coarse.freeze_backbone is true, but the whole coarse model is frozen. Remove it.",
        ),
    ],
    ids=["frozen", "factor", "both", "coarse"],
)
def test_switches_of_the_backbone_need_one_that_learns(
    tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        load(tmp_path, "", *overrides)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(("classes", "count"), [("[]", "0 classes"), ("[roof]", "1 class")])
def test_fewer_than_two_classes_cannot_be_told_apart(tmp_path: Path, classes: str, count: str) -> None:
    base = (
        f"dataset: {{name: custom, root: x, classes: {classes}}}\nmodel: {{name: fcn, backbone: {{name: hrnet_w18}}}}\n"
    )
    with pytest.raises(ConfigError, match=rf"dataset\.classes names {count}; a model tells at least 2 apart"):
        load(tmp_path, base=base)


def test_kinds_have_defaults_but_the_model_must_be_named(tmp_path: Path) -> None:
    config = load(tmp_path, "lr_schedule: {learning_rate: 0.5}\n", "optimizer.momentum=0.5")
    assert config.lr_schedule.model_dump(include={"name", "learning_rate"}) == {"name": "poly", "learning_rate": 0.5}
    assert config.optimizer.model_dump(include={"name", "momentum"}) == {"name": "sgd", "momentum": 0.5}
    assert load(tmp_path, "optimizer: {name: adamw}\n").optimizer.name == "adamw"
    with pytest.raises(ConfigError, match="'model' needs a 'name' for its kind"):
        load(tmp_path, base="dataset: {name: dubai, root: x}\nmodel: {backbone: {name: hrnet_w18}}\n")


def test_every_problem_has_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "train: {iters: -1, seed: x}\nfoo: 1\n")
    assert len(str(error.value).splitlines()) == 3


def test_a_model_that_contradicts_the_dataset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.num_classes is 6, but the dataset 'dubai' has 5 classes"):
        load(tmp_path, "", "model.num_classes=6")
    model = load(tmp_path, "", "model.num_classes=5").model
    assert isinstance(model, SegmentorSection) and model.num_classes == 5


CUSTOM = """\
model: {name: fcn, backbone: {name: resnet50}}
dataset:
  name: custom
  root: .
  classes: [a, b]
"""


def test_custom_datasets(tmp_path: Path) -> None:
    spec = load(tmp_path, "  palette: [[1, 2, 3], [4, 5, 6]]\n  ignore_index: 9\n", base=CUSTOM).dataset.spec
    assert (spec.classes, spec.palette, spec.ignore_index) == (("a", "b"), ((1, 2, 3), (4, 5, 6)), 9)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("  palette: [[1, 2, 3]]\n", "c.yml:2: .*palette"),
        ("  ignore_index: 1\n", "c.yml:2: .*ignore"),
        ("  bands: 5\n", "need 3 bands"),
        ("  palette: [[1, 2, 300], [1, 2, 3]]\n", r"dataset\.palette\.0\.2 must be less than or equal to 255; got 300"),
    ],
)
def test_wrong_custom_datasets(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, more, base=CUSTOM)


def test_a_config_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'fcn/fcn_hrnet_w18_dubai_512x512_80k\.yml'"):
        find_config("fcn/fcn_hrnet_w18_dubay_512x512_80k.yml")
    assert find_config("configs/fcn/fcn_hrnet_w18_dubai_512x512_80k.yml").is_file()


def test_a_config_beside_the_one_that_was_named(tmp_path: Path) -> None:
    (folder := tmp_path / "mine").mkdir()
    (folder / "other.yaml").touch()
    for typed, meant in (
        ("mine/othr.yml", "mine/other.yaml"),
        ("mine/other.yml", "mine/other.yaml"),
        ("mine", "mine/other.yaml"),
    ):
        with pytest.raises(ConfigError) as caught:
            find_config(str(tmp_path / typed))
        assert f" Did you mean '{tmp_path / meant}'?" in str(caught.value)
    (folder / "mine.yml").touch()
    with pytest.raises(ConfigError, match=r"mine is a folder\. Did you mean '.*mine/mine\.yml'\?"):
        find_config(str(folder))
    for typed in ("mine/x.yml", "nothing/mine.yml", "mine/othr"):
        with pytest.raises(ConfigError, match="neither as a file nor among the shipped ones") as caught:
            find_config(str(tmp_path / typed))
        assert str(tmp_path) + "/mine/o" not in str(caught.value).replace(str(tmp_path / typed), "")


def test_protocols_fit_the_dataset(tmp_path: Path) -> None:
    assert load(tmp_path).eval.protocol == "benchmark"
    assert load(tmp_path, "", "eval.protocol=stitched").eval.protocol == "stitched"
    with pytest.warns(OldKeyWarning, match="'seed' is called 'benchmark' now"):
        assert load(tmp_path, "", "eval.protocol=seed").eval.protocol == "benchmark"
    potsdam = BASE.replace("dubai", "potsdam")
    assert load(tmp_path, "", "eval.protocol=isprs5", base=potsdam).eval.protocol == "isprs5"
    with pytest.raises(ConfigError, match="eval.protocol must be 'benchmark', 'stitched' or 'isprs5'; got 'stiched'"):
        load(tmp_path, "", "eval.protocol=stiched")
    message = (
        "eval.protocol isprs5 is for the datasets potsdam and vaihingen; the dataset is 'dubai'. Choose benchmark or "
    )
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "", "eval.protocol=isprs5")


@pytest.mark.parametrize(
    ("root", "title", "name"),
    [
        ("data/my_city", None, "my_city"),
        ("data/my_city/", None, "my_city"),
        ("C:\\data\\my_city", None, "my_city"),
        (".", None, "custom"),
        ("data", "Roofs of our city", "Roofs of our city"),
    ],
)
def test_the_name_of_ones_own_data(tmp_path: Path, root: str, title: str | None, name: str) -> None:
    titled = f", title: {title}" if title else ""
    custom = f"{{name: custom, root: '{root}', classes: [a, b]{titled}}}"
    config = load(tmp_path, base=BASE.replace("{name: dubai, root: data/dubai}", custom))
    assert config.dataset.spec.name == name
    assert config.dataset.name == "custom"


def test_tile_names_of_ones_own_data(tmp_path: Path) -> None:
    custom = BASE.replace("{name: dubai, root: data/dubai}", "{name: custom, root: data, classes: [a, b]}")
    dataset = load(tmp_path, base=custom).dataset
    assert isinstance(dataset, CustomDataset) and dataset.tile_names is None
    config = load(tmp_path, "", "dataset.tile_names='{stem}_{y0}_{x0}'", base=custom)
    assert isinstance(config.dataset, CustomDataset) and config.dataset.tile_names == "{stem}_{y0}_{x0}"
    with pytest.raises(ConfigError, match=re.escape("tile_names is '{stem}'; it must be one of {stem}_{y0}_{x0}, {s")):
        load(tmp_path, "", "dataset.tile_names='{stem}'", base=custom)


# === The root of custom data ===

OWN = """\
dataset: {name: custom, classes: [ground, roof]}
model: {name: fcn, backbone: {name: hrnet_w18}}
"""


def test_custom_data_without_a_root_lie_beside_their_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "c.yml").write_text(OWN, "utf-8")
    assert load_config(tmp_path / "mine" / "c.yml").dataset.root == str(tmp_path / "mine")
    assert load_config(tmp_path / "mine" / "c.yml").dataset.spec.name == "mine"
    monkeypatch.chdir(tmp_path / "mine")  # where the name of the config has no folder
    config = load_config("c.yml")
    assert config.dataset.root == str(tmp_path / "mine")
    (tmp_path / "again.yml").write_text(dump_config(config), "utf-8")  # as a checkpoint keeps it
    assert load_config(tmp_path / "again.yml").dataset.root == str(tmp_path / "mine")
    # A config that only starts from it means the same data.
    (tmp_path / "other.yml").write_text("base: mine/c.yml\ntrain: {iters: 7}\n", "utf-8")
    assert load_config(tmp_path / "other.yml").dataset.root == str(tmp_path / "mine")


def test_a_root_that_is_written_counts_from_the_working_directory(tmp_path: Path) -> None:
    written = OWN.replace("custom,", "custom, root: data/mine,")
    assert load(tmp_path, base=written).dataset.root == "data/mine"
    assert load(tmp_path, "", "dataset.root=here", base=OWN).dataset.root == "here"
    (tmp_path / "more.yml").write_text("base: c.yml\ndataset: {name: custom, root: there}\n", "utf-8")
    assert load_config(tmp_path / "more.yml").dataset.root == "there"


LISTS = ("train.txt", "val.txt")


def write_lists(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("lists", [("train.txt",), ("val.txt",), LISTS])
def test_a_relative_root_counts_from_the_config_if_the_data_lie_there(
    lists: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    data = write_lists(project / "data" / "mine", *lists)
    (project / "c.yml").write_text(OWN.replace("custom,", "custom, root: data/mine,"), "utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = load_config("../project/c.yml")
    assert config.dataset.root == str(data) and config.dataset.spec.name == "mine"
    # The folder of the file that names the root counts, not of the one that starts from it.
    (tmp_path / "elsewhere" / "more.yml").write_text("base: ../project/c.yml\ntrain: {iters: 7}\n", "utf-8")
    assert load_config("more.yml").dataset.root == str(data)
    # As a checkpoint keeps it, it means the same data from anywhere.
    (tmp_path / "kept.yml").write_text(dump_config(config), "utf-8")
    assert load_config(tmp_path / "kept.yml").dataset.root == str(data)
    # On the command line paths count from the working directory, as ever.
    assert load_config("../project/c.yml", ["dataset.root=data/mine"]).dataset.root == "data/mine"
    monkeypatch.chdir(project)  # where both are the same folder it stays as it is written
    assert load_config("c.yml").dataset.root == "data/mine"


def test_a_relative_root_in_the_working_directory_alone_works_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lists(tmp_path / "data", *LISTS)
    (tmp_path / "configs" / "data").mkdir(parents=True)  # a folder of that name without the dataset
    (tmp_path / "configs" / "c.yml").write_text(OWN.replace("custom,", "custom, root: data,"), "utf-8")
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/c.yml").dataset.root == "data"
    assert load_config("fcn/fcn_hrnet_w18_dubai_512x512_80k.yml").dataset.root.startswith("data/")


def test_two_folders_of_a_relative_root_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lists(tmp_path / "data", *LISTS)
    beside = write_lists(tmp_path / "configs" / "data", *LISTS)
    (tmp_path / "configs" / "c.yml").write_text(OWN.replace("custom,", "custom, root: data,"), "utf-8")
    monkeypatch.chdir(tmp_path)
    told = rf"c\.yml:1: dataset\.root data is taken from beside the config, {beside}; there is also {tmp_path / 'data'}"
    with pytest.warns(OldKeyWarning, match=told):
        assert load_config("configs/c.yml").dataset.root == str(beside)


def test_images_of_a_pretraining_beside_their_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "project" / "pictures").mkdir(parents=True)
    (tmp_path / "project" / "c.yml").write_text(
        "base: ssl/pretrain/moco_v2_resnet50_dota.yml\ndataset: {name: images, root: pictures}\n", "utf-8"
    )
    monkeypatch.chdir(tmp_path)
    assert load_pretrain_config("project/c.yml").dataset.root == str(tmp_path / "project" / "pictures")


def test_a_hint_names_both_places_of_a_relative_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"neither beside the config that names it nor in the working directory, {tmp_path}" in root_hint("data/x")
    (tmp_path / "there").mkdir()
    assert root_hint("there") == root_hint(str(tmp_path / "nowhere")) == ""


# === The name of a dataset ===


def test_a_prepared_dataset_carries_its_users_name(tmp_path: Path) -> None:
    config = load(tmp_path, "", "dataset.title=Dubai, spring", base=BASE)
    assert config.dataset.name == "dubai" and config.dataset.spec.name == "Dubai, spring"
    assert load(tmp_path, base=BASE).dataset.spec.name == "dubai"
    with pytest.raises(ConfigError, match="dataset.title"):
        load(tmp_path, "", "dataset.title=''", base=BASE)


# === --set and the shell ===


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["augment.crop_size=[256,", "256]"], "quote it: --set 'augment.crop_size=[256, 256]'"),
        (["dataset.root=my", "data", "folder"], "quote it: --set 'dataset.root=my data folder'"),
        (["loss.main={name:", "dice,", "weight:", "1}"], "quote it: --set 'loss.main={name: dice, weight: 1}'"),
        (["train.iters", "100"], "Write it without spaces: --set train.iters=100"),
        (["train.iters", "=", "100"], "Write it without spaces: --set train.iters=100"),
        (["augment.crop_size=[256,"], "If the shell took spaces, quotes or braces apart, quote the whole: --set '"),
        (["loss.main=name:dice", "loss.main=weight:1"], "must be a mapping; got 'weight:1'. If the shell took spaces"),
        (["augment.crop_size=256,256"], "must be a list; got '256,256'. If the shell took"),
        (["loss.main={name:dice}"], "YAML wants a space after a colon: {name: dice}"),
        (["256]"], "--set takes KEY=VALUE, for example --set train.iters=100; got '256]'."),
    ],
)
def test_an_override_that_a_shell_took_apart(tmp_path: Path, words: list[str], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "", *words, base=BASE)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_other_mistakes_say_nothing_of_quotes(tmp_path: Path) -> None:
    for wrong in ("train.iters=five", "train.itters=5", "train.iters"):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, "", wrong, base=BASE)
        assert "shell" not in str(caught.value)


def test_data_that_no_file_names_need_a_root(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'dataset\.root' is missing"):
        load(tmp_path, "", "dataset={name: custom, classes: [a, b]}")
    with pytest.raises(ConfigError, match=r"'dataset\.root' is missing"):  # their folder is known by name
        load(tmp_path, base=BASE.replace(", root: data/dubai", ""))
