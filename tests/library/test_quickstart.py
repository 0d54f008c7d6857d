"""A few lines of Python do what the commands do, with the same numbers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import rsseg_tf
from rsseg_tf.checkpoint import read_weights
from rsseg_tf.cli import main
from rsseg_tf.errors import ConfigError
from rsseg_tf.rasters.images import read_label
from tests.fixtures.configs import use_tiny_backbone, write_config, write_dataset

TRAIN: dict[str, Any] = {"iters": 2, "save_interval": 2, "do_eval": True, "deterministic": True, "device": "cpu"}


def command(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_tiny_backbone(monkeypatch)
    write_config(tmp_path / "tiny.yml", write_dataset(tmp_path / "data"))
    return tmp_path


def test_functions_give_the_numbers_of_the_commands(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, images = project / "tiny.yml", project / "data" / "val_0.png"
    by_command, by_function = project / "commands", project / "functions"
    options = ("--iters", 2, "--save_interval", 2, "--do_eval", "--deterministic", "--device", "cpu")
    command("train", "--config", config, "--save_dir", by_command, *options)
    command("eval", "--model_path", by_command / "best_model", "--save_dir", by_command)
    command("predict", "--model_path", by_command / "best_model", "--image_path", images, "--save_dir", by_command)
    capfd.readouterr()

    run = rsseg_tf.train(config, by_function, **TRAIN)
    scores = rsseg_tf.evaluate(run.best_model, save_dir=by_function)
    results = rsseg_tf.predict(run.best_model, str(images), by_function)
    assert capfd.readouterr().out == "", "functions print nothing unless asked"

    one, other = (read_weights(folder / "best_model")[0] for folder in (by_command, by_function))
    assert one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)
    reports = [json.loads((folder / "eval.json").read_text("utf-8")) for folder in (by_command, by_function)]
    for report in reports:
        del report["model_path"]
    assert reports[0] == reports[1]
    assert scores.miou == reports[0]["macro"]["miou"] == pytest.approx(run.best_miou)
    png = Path("pseudo_color_prediction") / "val_0.png"
    assert (by_command / png).read_bytes() == (by_function / png).read_bytes()
    assert results[0].files["pseudo_color"] == by_function / png and not results.failed
    assert (rsseg_tf.load_model(run.best_model).predict(read_rgb(images)) == read_label(by_function / png)).all()


def read_rgb(path: Path) -> np.ndarray:
    from rsseg_tf.rasters.images import read_image

    return read_image(path)


def test_a_run_tells_what_happened(project: Path) -> None:
    lines: list[str] = []
    run = rsseg_tf.train(str(project / "tiny.yml"), project / "out", log_iters=1, notify=lines.append, **TRAIN)
    assert (run.step, run.stopped, run.best_model) == (2, "finished", project / "out" / "best_model")
    assert [entry["step"] for entry in run.history if "loss" in entry] == [1, 2]
    assert [entry["miou"] for entry in run.history if "miou" in entry] == [pytest.approx(run.best_miou)]
    assert any(line.startswith("[TRAIN] epoch: 1, iter: 1/2, loss: ") for line in lines)
    assert any(line.startswith("[EVAL] #Images: 2 mIoU: ") for line in lines)
    assert lines[-1] == f"The best model (mIoU {run.best_miou:.4f}) is {run.best_model}"
    with pytest.raises(ConfigError, match="holds iter_2 of an earlier run") as caught:
        rsseg_tf.train(project / "tiny.yml", project / "out", **TRAIN)
    assert caught.value.code == "exists"
    with pytest.raises(ConfigError, match="nothing is left to do") as caught:
        rsseg_tf.train(project / "tiny.yml", project / "out", resume_model=project / "out" / "iter_2", **TRAIN)
    assert caught.value.code == "finished"


def test_a_config_is_a_file_or_a_mapping(project: Path) -> None:
    values: dict[str, Any] = {
        "dataset": {"name": "custom", "root": project / "data", "classes": ("dark", "bright")},
        "model": {"name": "fcn", "backbone": {"name": "resnet18_vd", "output_stride": 16}, "channels": np.int64(8)},
        "augment": {"crop_size": [32, 32]},
        "train": {"iters": 1, "batch_size": 2},
    }
    config = rsseg_tf.load_config(values)
    assert config.dataset.root == str(project / "data") and config.train.iters == 1
    assert rsseg_tf.load_config(values, {"train.iters": 3}).train.iters == 3
    assert rsseg_tf.load_config(config, ["train.iters=3"]).train.iters == 3
    assert rsseg_tf.load_config(config) is config
    assert values["dataset"]["classes"] == ("dark", "bright"), "the caller's mapping stays as it is"
    based = {"base": os.fspath(project / "tiny.yml"), "train": {"iters": 5}}
    assert rsseg_tf.load_config(based).train.batch_size == 4
    cases: list[tuple[Any, str]] = [
        ({**values, "trian": {}}, "the mapping: unknown key 'trian'. Did you mean 'train'?"),
        ({**values, "train": {"iters": object()}}, "train.iters: a value is text, a number, true, false or null"),
        ({**values, 3: 1}, "the config: keys of a config are texts; got 3"),
        (3, "a config is a YAML file, the name of a shipped one, or a mapping; got int"),
    ]
    for wrong, message in cases:
        with pytest.raises(ConfigError) as caught:
            rsseg_tf.load_config(wrong)
        assert message in str(caught.value) and caught.value.code == "config"
    with pytest.raises(ConfigError, match="train.iters=-1: train.iters must be greater than 0; got -1"):
        rsseg_tf.load_config(values, {"train.iters": -1})
