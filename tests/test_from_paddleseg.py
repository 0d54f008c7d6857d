"""docs/from_paddleseg.md names every flag of PaddleSeg's programs; its commands run and its counts are right."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from benchmarks.paddleseg_configs import MARKS, tables
from rsseg_tf.build import build_model
from rsseg_tf.cli import main
from rsseg_tf.cli.paddleseg import _KEYS
from rsseg_tf.config import load_config
from rsseg_tf.config.paddleseg_tree import import_tree
from rsseg_tf.config.schema import Config
from rsseg_tf.weights.pretrained import weight_names
from tests.fixtures.configs import use_tiny_backbone, write_dataset
from tests.fixtures.weight_files import released, write_pdparams

PAGE = (Path(__file__).parents[1] / "docs" / "from_paddleseg.md").read_text("utf-8")
# The flags of tools/*.py of the develop branch.
FLAGS = {
    "train": "config device save_dir num_workers do_eval use_vdl use_ema resume_model iters batch_size learning_rate "
    "save_interval log_iters keep_checkpoint_max early_stop_intervals seed precision amp_level profiler_options "
    "data_format repeats opts use_multilabel to_static_training output_op input_shape for_fd",
    "val": "config model_path num_workers device aug_eval scales flip_horizontal flip_vertical is_slide crop_size "
    "stride data_format auc_roc opts use_multilabel",
    "predict": "config model_path image_path save_dir device device_id aug_pred scales flip_horizontal flip_vertical "
    "is_slide crop_size stride custom_color use_multilabel",
    "export": "config model_path save_dir input_shape output_op for_fd",
    "analyse": "config model_path image_path dataset_path save_dir device device_id aug_pred scales flip_horizontal "
    "flip_vertical is_slide crop_size stride custom_color opts",
}
ORIGINAL = os.environ.get("RSSEG_TF_PADDLESEG")
needs_original = pytest.mark.skipif(ORIGINAL is None, reason="RSSEG_TF_PADDLESEG names no checkout of PaddleSeg")


@pytest.mark.parametrize("program", FLAGS)
def test_the_page_names_every_flag(program: str) -> None:
    section = PAGE.partition(f"### {program}\n")[2].partition("\n#")[0]
    columns = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    named = {flag for column in columns for flag in re.findall(r"--(\w+)", column)}
    assert named == set(FLAGS[program].split())


@needs_original
@pytest.mark.parametrize("program", FLAGS)
def test_these_are_the_flags_of_the_original(program: str) -> None:
    source = (Path(str(ORIGINAL)) / "tools" / f"{program}.py").read_text("utf-8")
    assert set(re.findall(r"""add_argument\(\s*["']--(\w+)""", source)) == set(FLAGS[program].split())


@needs_original
def test_the_page_counts_the_configs_that_are_imported() -> None:
    entries = import_tree(Path(str(ORIGINAL)) / "configs")
    assert len(entries) == 222
    assert PAGE.partition(MARKS[0])[2].partition(MARKS[1])[0] == tables(entries)


def test_keys_of_opts_lead_to_keys_of_ours() -> None:
    known = Config.model_json_schema()["$defs"]
    for key in _KEYS.values():
        section, _, name = key.partition(".")
        fields = {
            "dataset": "CustomDataset", "eval": "Eval", "lr_schedule": "PolySchedule", "optimizer": "AdamW",
            "train": "Train",
        }  # fmt: skip
        assert name in known[fields[section]]["properties"], key


@pytest.mark.slow
def test_the_lines_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    use_tiny_backbone(monkeypatch)
    write_dataset(Path("data"))
    crop = {"type": "RandomPaddingCrop", "crop_size": [32, 32]}
    shared = {"type": "Dataset", "dataset_root": "data", "num_classes": 2}
    theirs = {
        "batch_size": 2,
        "iters": 1,
        "train_dataset": {**shared, "train_path": "data/train.txt", "mode": "train",
                          "transforms": [crop, {"type": "Normalize"}]},
        "val_dataset": {**shared, "val_path": "data/val.txt", "mode": "val", "transforms": [{"type": "Normalize"}]},
        "optimizer": {"type": "sgd", "momentum": 0.9},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01},
        "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]},
        "model": {"type": "FCN", "backbone": {"type": "ResNet18_vd"}},
    }  # fmt: skip
    for path in (Path("theirs.yml"), Path("configs/fcn.yml")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(theirs), "utf-8")
    lines = re.findall(r"^rsseg-tf .*$", PAGE, re.MULTILINE)
    assert len(lines) == 6
    for line in lines:
        if line.startswith("rsseg-tf convert"):
            config = load_config("mine.yml")
            model = build_model(config)
            names = weight_names(config.model, [variable.path for variable in model.weights])
            tensors = released(model, names)
            small = {name: (x - 0.55) / 10 if x.ndim == 4 else x for name, x in tensors.items()}  # no overflow
            write_pdparams(Path("model.pdparams"), small)
        result = CliRunner().invoke(main, shlex.split(line)[1:])
        assert result.exit_code == 0, (line, result.output)
    assert Path("model_checkpoint/eval.json").is_file() and Path("output/mine/best_model").is_dir()
    assert Path("imported/fcn.yml").is_file()
