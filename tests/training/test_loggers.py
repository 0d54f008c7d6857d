"""The logs of `train.loggers`: the same numbers in each, each step once, whatever is resumed."""

from __future__ import annotations

import contextlib
import csv
import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from rsseg_tf.cli import main
from rsseg_tf.config import load_any_config
from rsseg_tf.errors import ConfigError, ExportError, TrainingError
from rsseg_tf.training import callbacks, train
from rsseg_tf.training.loggers import CsvLog, MlflowLog, WandbLog, loggers_of
from tests.fixtures.configs import samples, tiny_config, use_tiny_backbone
from tests.fixtures.devices import two_devices

TRAIN = {"epoch": 2.0, "lr": 0.01, "loss": 1.25, "loss_main": 1.25, "batch_cost": 0.5, "reader_cost": 0.1, "ips": 8.0}
EVAL = {
    "step": 4.0, "images": 3.0, "miou": 0.641, "acc": 0.9, "kappa": 0.8, "dice": 0.7, "iou/Dächer, rot": 0.5,
    "protocol": "benchmark", "best_miou": 0.65, "best_step": 2.0, "pictures": [np.zeros((4, 12, 3), np.uint8)],
}  # fmt: skip


@pytest.fixture(autouse=True)
def _in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_PROJECT", "WANDB_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    callbacks.warn_once.cache_clear()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def iters(path: Path) -> list[int]:
    return [int(row["iter"]) for row in rows(path)]


def log_steps(log: object, begin: int, *steps: int, evaluated: int | None = None) -> None:
    """Calls a callback as the loop does."""
    log.on_train_begin({"step": begin})  # type: ignore[attr-defined]
    for step in steps:
        log.on_train_batch_end(step, {**TRAIN, "loss": float(step)})  # type: ignore[attr-defined]
    if evaluated is not None:
        log.on_test_end({**EVAL, "step": float(evaluated)})  # type: ignore[attr-defined]
    log.on_train_end()  # type: ignore[attr-defined]


# === CSV ===


def test_csv_files_hold_losses_and_scores(tmp_path: Path) -> None:
    log_steps(CsvLog(tmp_path), 0, 2, 4, evaluated=4)
    assert rows(tmp_path / "train.csv") == [
        {"iter": str(step), "epoch": "2", "lr": "0.01", "loss": f"{step}.0", "loss_main": "1.25", "batch_cost": "0.5",
         "reader_cost": "0.1", "ips": "8.0"}
        for step in (2, 4)
    ]  # fmt: skip
    (row,) = rows(tmp_path / "eval.csv")
    assert row["iter"] == "4" and row["miou"] == "0.641" and row["iou/Dächer, rot"] == "0.5"
    assert row["protocol"] == "benchmark" and "pictures" not in row


def test_a_resumed_run_goes_on_in_the_table_and_keeps_later_rows_beside(tmp_path: Path) -> None:
    log_steps(CsvLog(tmp_path), 0, 2, 4, 6, evaluated=6)
    with (tmp_path / "train.csv").open("a", encoding="utf-8") as file:
        file.write("8,2,0.0")  # a kill in the middle of a row
    log_steps(CsvLog(tmp_path), 4, 6, 8, evaluated=8)
    assert iters(tmp_path / "train.csv") == [2, 4, 6, 8]
    assert iters(tmp_path / "train.later_than_4.csv") == [6]
    assert iters(tmp_path / "eval.csv") == [8] and iters(tmp_path / "eval.later_than_4.csv") == [6]


def test_a_column_that_appears_late(tmp_path: Path) -> None:
    log = CsvLog(tmp_path)
    log.on_train_begin({"step": 0})
    log.on_train_batch_end(1, {"epoch": 1.0, "loss": 3.0})
    log.on_train_batch_end(2, {"epoch": 1.0, "loss": 2.0, "loss_edge": 1.0})
    assert [(row["loss"], row["loss_edge"]) for row in rows(tmp_path / "train.csv")] == [("3.0", ""), ("2.0", "1.0")]


def test_a_table_that_cannot_be_written_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "csv").write_text("a file where the folder should be", "utf-8")
    log_steps(CsvLog(tmp_path / "csv"), 0, 2, 4)
    assert capsys.readouterr().err.count("training goes on") == 1


# === A whole run ===


@pytest.mark.parametrize("devices", [1, 2])
def test_a_resumed_training_logs_what_one_run_would(
    devices: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_tiny_backbone(monkeypatch)
    strategy = two_devices() if devices == 2 else None
    config = tiny_config(
        tmp_path, "train.loggers=[csv, tensorboard]", "train.save_interval=4", "train.iters=8",
        f"train.batch_size={4 // devices}",
    )  # fmt: skip
    data, val = samples(config, "train"), samples(config, "val")
    for name, stops in (("straight", ()), ("stopped", (6,))):
        folder = tmp_path / name
        for stop in (*stops, None):
            resume = folder / "iter_4" if stop is None and stops else None
            logs = loggers_of(config, folder)
            extra = [_StopAt(stop)] if stop else []
            with contextlib.suppress(TrainingError):
                train(config, folder, data, val, strategy=strategy, resume=resume, callbacks=[*logs, *extra])
            if stop:  # as after a kill, there is no checkpoint of the last step
                shutil.rmtree(folder / f"iter_{stop}")
    one, other = tmp_path / "straight" / "csv", tmp_path / "stopped" / "csv"
    assert iters(one / "train.csv") == iters(other / "train.csv") == [2, 4, 6, 8]
    assert iters(one / "eval.csv") == iters(other / "eval.csv") == [4, 8]
    for left, right in zip(rows(one / "train.csv"), rows(other / "train.csv"), strict=True):
        assert left["lr"] == right["lr"] and float(left["loss"]) == pytest.approx(float(right["loss"]), rel=1e-3)
    assert iters(other / "train.later_than_4.csv") == [6]
    assert list((tmp_path / "straight" / "tensorboard").iterdir())


class _StopAt(callbacks.keras.callbacks.Callback):  # type: ignore[name-defined]
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        if batch >= self.step:
            raise TrainingError("stopped")


# === Trackers ===


def test_mlflow_holds_the_run_in_its_folder(tmp_path: Path) -> None:
    mlflow = importlib.import_module("mlflow")
    config = tiny_config(tmp_path, "train.loggers=[mlflow]")
    folder = tmp_path / "run"
    folder.mkdir()
    log_steps(MlflowLog(folder, config), 0, 2, 4, evaluated=4)
    first = json.loads((folder / "mlflow_run.json").read_text("utf-8"))["run"]
    client = mlflow.MlflowClient(tracking_uri=(folder / "mlruns").as_uri())
    run = client.get_run(first)
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["model.name"] == "fcn" and run.data.params["train.iters"] == "6"
    assert run.data.metrics["Train/loss"] == 4.0 and run.data.metrics["Evaluate/mIoU"] == 0.641
    assert run.data.metrics["Evaluate/IoU/Dächer_ rot"] == 0.5
    # Resumed at the last step it goes on; from an earlier step there is a new run.
    log_steps(MlflowLog(folder, config), 4, 6)
    assert [point.step for point in client.get_metric_history(first, "Train/loss")] == [2, 4, 6]
    log_steps(MlflowLog(folder, config), 2, 4)
    second = json.loads((folder / "mlflow_run.json").read_text("utf-8"))["run"]
    assert second != first and client.get_run(second).data.tags["resumed_from"] == first
    assert [point.step for point in client.get_metric_history(second, "Train/loss")] == [4]
    assert client.get_experiment(run.info.experiment_id).name == "rsseg-tf"


def test_mlflow_takes_the_store_that_its_variable_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "all").as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    log_steps(MlflowLog(tmp_path, tiny_config(tmp_path)), 0, 2)
    assert (tmp_path / "all").is_dir() and not (tmp_path / "mlruns").exists()


def wandb_run(folder: Path, run: str) -> bytes:
    """Returns what the file of a run holds, once the process that writes it has ended."""
    importlib.import_module("wandb").teardown()
    (kept,) = (folder / "wandb").glob(f"offline-run-*/run-{run}.wandb")
    return kept.read_bytes()


def test_wandb_keeps_an_offline_run_in_the_folder(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    log_steps(WandbLog(tmp_path, config), 0, 2, 4, evaluated=4)
    first = json.loads((tmp_path / "wandb_run.json").read_text("utf-8"))["run"]
    written = wandb_run(tmp_path, first)
    for word in (b"Train/loss", b"Evaluate/mIoU", b"iter", b"resnet18_vd", b"rsseg-tf"):
        assert word in written, word
    log_steps(WandbLog(tmp_path, config), 2, 4)
    second = json.loads((tmp_path / "wandb_run.json").read_text("utf-8"))["run"]
    assert second != first and f"resumed from run {first}".encode() in wandb_run(tmp_path, second)


def test_a_tracker_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = MlflowLog(tmp_path, tiny_config(tmp_path))
    log.on_train_begin({"step": 0})
    monkeypatch.setattr(log, "_send", lambda *_: (_ for _ in ()).throw(OSError("away")))
    log.on_train_batch_end(2, TRAIN)
    log.on_train_batch_end(4, TRAIN)
    assert capsys.readouterr().err.count("mlflow takes no numbers: away; training goes on.") == 1
    monkeypatch.setattr(log, "_open", lambda *_: (_ for _ in ()).throw(ValueError("no key")))
    with pytest.raises(TrainingError, match=r"mlflow cannot be used: ValueError: no key\. Set MLFLOW_TRACKING_URI"):
        log.on_train_begin({"step": 0})


# === Names ===


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_missing_package_is_one_line_before_any_work(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, f"train.loggers=[{name}]")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ExportError, match=rf'rsseg-tf\[{name}\]"|\.\[{name}\]"'):
        loggers_of(config, tmp_path)
    arguments = ["train", "--config", str(tmp_path / "tiny.yml"), "-o", str(tmp_path / "out"), "--logger", "csv", name]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2 and f"The package {name} is needed" in result.output, result.output
    assert not (tmp_path / "out").exists()


def test_names_of_loggers(tmp_path: Path) -> None:
    assert tiny_config(tmp_path).train.loggers == ("tensorboard",)
    config = tiny_config(tmp_path, "train.loggers=[csv, csv, tensorboard]")
    assert [type(log).__name__ for log in loggers_of(config, tmp_path)] == ["CsvLog", "TensorBoardLog"]
    assert loggers_of(tiny_config(tmp_path, "train.loggers=[]"), tmp_path) == []
    with pytest.raises(ConfigError, match="must be 'tensorboard', 'csv', 'mlflow' or 'wandb'; got 'tensorbord'"):
        tiny_config(tmp_path, "train.loggers=[tensorbord]")
    pretraining = load_any_config("ssl/pretrain/moco_v2_resnet50_dota.yml", ["train.loggers=[csv]"])
    assert pretraining.train.loggers == ("csv",)


def test_the_option_names_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    tiny_config(tmp_path)
    arguments = ["train", "--config", str(tmp_path / "tiny.yml"), "-o", str(tmp_path / "out"), "--iters", "2"]
    result = CliRunner().invoke(main, [*arguments, "--logger", "csv", "tensorboard"])
    assert result.exit_code == 0, result.output
    assert iters(tmp_path / "out" / "csv" / "train.csv") == [2] and (tmp_path / "out" / "tensorboard").is_dir()
    assert "loggers: [csv, tensorboard]" in (tmp_path / "out" / "iter_2" / "config.yml").read_text("utf-8")
