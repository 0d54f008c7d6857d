"""The logs that a config names in `train.loggers`: TensorBoard, CSV files, MLflow, Weights & Biases.

All hold the same numbers under the same names. None ends a run by a number that it cannot store: it warns once.

A run that is resumed goes on in the logs of the run before. Where it goes back to an earlier step, each step is there
once all the same: TensorBoard and CSV files lose the later ones, which are kept beside; MLflow and Weights & Biases,
which forget nothing, get a new run that names the earlier one.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from rsseg_tf.config import AnyConfig
from rsseg_tf.errors import TrainingError, reason
from rsseg_tf.extras import require, require_loggers
from rsseg_tf.files import atomic_path
from rsseg_tf.training.callbacks import Logs, TensorBoardLog, evaluated_scalars, trained_scalars, warn_once

__all__ = ["CsvLog", "MlflowLog", "WandbLog", "loggers_of"]

_PROJECT = "rsseg-tf"


def loggers_of(config: AnyConfig, save_dir: Path) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of `train.loggers`, for the process that writes the logs.

    Args:
        config: Of the run.
        save_dir: The run's folder. TensorBoard writes to `tensorboard/` in it, CSV to `csv/`, MLflow to `mlruns/`
            unless MLFLOW_TRACKING_URI names another place, Weights & Biases to `wandb/`.

    Raises:
        ExportError: When a logger's package is not installed.
    """
    require_loggers(config.train.loggers)
    made = {
        "tensorboard": lambda: TensorBoardLog(save_dir / "tensorboard"),
        "csv": lambda: CsvLog(save_dir / "csv"),
        "mlflow": lambda: MlflowLog(save_dir, config),
        "wandb": lambda: WandbLog(save_dir, config),
    }
    return [made[name]() for name in dict.fromkeys(config.train.loggers)]


# === CSV ===


class CsvLog(keras.callbacks.Callback):
    """Two tables, `train.csv` and `eval.csv`, with a row for each log line and each evaluation."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder, which may hold the tables of an earlier run."""
        super().__init__()
        self._trained, self._evaluated = _Table(folder / "train.csv"), _Table(folder / "eval.csv")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Notes where the run begins."""
        for table in (self._trained, self._evaluated):
            table.begin(int((logs or {}).get("step", 0)))

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Adds a row with loss, rates and costs."""
        values = dict(logs or {})
        self._trained.add(batch, {"epoch": int(values.pop("epoch", 0)), **values})

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Adds a row with the scores."""
        values = {name: value for name, value in (logs or {}).items() if name not in ("step", "pictures")}
        self._evaluated.add(int((logs or {})["step"]), values)


class _Table:
    """A CSV file whose rows begin with the step; a column that appears late is empty in the rows before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._columns: list[str] | None = None  # None before the first row
        self._begin = 0

    def begin(self, step: int) -> None:
        """Takes the step that the run begins after."""
        self._begin, self._columns = step, None

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds a row; warns where it cannot be written."""
        row = {"iter": step, **values}
        try:
            if self._columns is None:
                self._go_on()
            columns = self._columns or []
            if new := [name for name in row if name not in columns]:
                columns = [*columns, *new]
                self._write(self._path, columns, self._rows())
                self._columns = columns
            with self._path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, columns).writerow(row)
        except (OSError, csv.Error) as error:
            warn_once(f"{self._path} cannot be written: {reason(error)}; training goes on.")

    def _go_on(self) -> None:
        """Takes the rows of an earlier run up to the step; later ones go to a file beside, `train.later_than_N.csv`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        rows = list(self._rows())
        columns = list(rows[0]) if rows else []
        later = [row for row in rows if int(row["iter"]) > self._begin]
        if later:
            aside = self._path.with_name(f"{self._path.stem}.later_than_{self._begin}.csv")
            self._write(aside, columns, later)
        kept = [row for row in rows if int(row["iter"]) <= self._begin]
        self._write(self._path, columns, kept)  # without a row that a kill cut off
        self._columns = columns

    def _rows(self) -> Iterator[dict[str, str]]:
        """Yields the whole rows of the file."""
        if self._path.exists():
            with self._path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    if None not in row and None not in row.values() and str(row.get("iter")).isdecimal():
                        yield row

    @staticmethod
    def _write(path: Path, columns: Sequence[str], rows: Iterator[dict[str, str]] | Sequence[dict[str, str]]) -> None:
        with atomic_path(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            if columns:
                writer.writeheader()
            writer.writerows(rows)


# === Trackers ===


class _TrackerLog(keras.callbacks.Callback):
    """A run in a tracker of experiments. `<tracker>_run.json` in the run's folder keeps its id and its last step.

    Attributes:
        tracker: Name of the tracker's package, and of the extra that installs it.
        remedy: What to do where it does not open.
    """

    tracker: str
    remedy: str

    def __init__(self, save_dir: Path, config: AnyConfig) -> None:
        """Takes the run's folder and its config, which the tracker shows.

        Raises:
            ExportError: When the tracker is not installed.
        """
        super().__init__()
        require(self.tracker, self.tracker)
        self._folder, self._config = save_dir, config
        self._notes = save_dir / f"{self.tracker}_run.json"
        self._run = ""

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Opens the run; it is the one before, if that logged no later step.

        Raises:
            TrainingError: When the tracker cannot be used.
        """
        begin = int((logs or {}).get("step", 0))
        before = self._before() if begin else {}
        goes_on = bool(before) and int(before["step"]) <= begin
        try:
            self._run = self._open(str(before["run"]) if goes_on else None, str(before.get("run", "")))
        except Exception as error:  # of the tracker's own kinds
            raise TrainingError(
                f"{self.tracker} cannot be used: {reason(error)}. {self.remedy} Or take it out of train.loggers."
            ) from error
        self._note(begin)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Sends loss, rates and costs."""
        self._log(batch, {f"Train/{name}": value for name, value in trained_scalars(logs or {}).items()})

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Sends the scores."""
        values = logs or {}
        self._log(int(values["step"]), {f"Evaluate/{name}": value for name, value in evaluated_scalars(values).items()})

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Closes the run, as failed where an error ends it."""
        try:
            self._close(failed=sys.exc_info()[0] is not None)
        except Exception as error:
            warn_once(f"{self.tracker} did not close the run: {reason(error)}.")

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        try:
            self._send(step, values)
            self._note(step)
        except Exception as error:  # a server that is away for a while
            warn_once(f"{self.tracker} takes no numbers: {reason(error)}; training goes on.")

    def _before(self) -> dict[str, Any]:
        """Returns what is noted of the run before, if it can be read."""
        try:
            noted = json.loads(self._notes.read_text("utf-8"))
            return {"run": str(noted["run"]), "step": int(noted["step"])}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _note(self, step: int) -> None:
        with atomic_path(self._notes) as partial:
            partial.write_text(json.dumps({"run": self._run, "step": step}) + "\n", "utf-8")

    @abstractmethod
    def _open(self, run: str | None, before: str) -> str:
        """Opens a run, or begins one that names the run before; returns its id."""

    @abstractmethod
    def _send(self, step: int, values: Mapping[str, float]) -> None:
        """Sends numbers of a step."""

    @abstractmethod
    def _close(self, *, failed: bool) -> None:
        """Closes the run."""


class MlflowLog(_TrackerLog):
    """A run in MLflow, with the config as its parameters.

    MLFLOW_TRACKING_URI names the server or the store; without it there is one in the run's folder, `mlruns/`, which
    `mlflow ui --backend-store-uri` shows. MLFLOW_EXPERIMENT_NAME names the experiment, "rsseg-tf" by default.
    """

    tracker = "mlflow"
    remedy = "Set MLFLOW_TRACKING_URI to a server that answers, or unset it to write to the run's folder."

    def _open(self, run: str | None, before: str) -> str:
        # Nothing but the run goes anywhere. Stores in folders work; MLflow wants to be told that one is meant.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        mlflow = importlib.import_module("mlflow")
        own = (self._folder / "mlruns").resolve().as_uri()
        uri = mlflow.get_tracking_uri() if mlflow.tracking.is_tracking_uri_set() else own
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        if run is not None:
            self._client.update_run(run, status="RUNNING")
            return run
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tags = {"resumed_from": before} if before else {}
        created = self._client.create_run(number, run_name=self._folder.resolve().name, tags=tags).info.run_id
        values = _flat(self._config.model_dump(mode="json"))
        parameters = [mlflow.entities.Param(key, str(value)[:500]) for key, value in values.items()]
        for first in range(0, len(parameters), 100):  # the most that one request may hold
            self._client.log_batch(created, params=parameters[first : first + 100])
        return str(created)

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        metric, now = importlib.import_module("mlflow").entities.Metric, int(1000 * time.time())
        # MLflow takes letters, digits and these signs in names.
        named = {re.sub(r"[^\w\-./ :]", "_", name): value for name, value in values.items()}
        self._client.log_batch(self._run, metrics=[metric(name, value, now, step) for name, value in named.items()])

    def _close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._run, status="FAILED" if failed else "FINISHED")


class WandbLog(_TrackerLog):
    """A run in Weights & Biases, with the config.

    Its own variables apply: WANDB_MODE=offline keeps the run in the folder, for `wandb sync`; WANDB_PROJECT names the
    project, "rsseg-tf" by default; WANDB_API_KEY, WANDB_ENTITY, WANDB_NAME.
    """

    tracker = "wandb"
    remedy = "Log in with `wandb login`, or set WANDB_MODE=offline."

    def _open(self, run: str | None, before: str) -> str:
        wandb = importlib.import_module("wandb")
        self._writer = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=os.environ.get("WANDB_NAME", self._folder.resolve().name),
            dir=str(self._folder),
            id=run,
            resume="allow" if run else None,
            notes=f"resumed from run {before}" if before and run is None else None,
            config=self._config.model_dump(mode="json"),
            settings=wandb.Settings(console="off"),  # the log lines are the run's own
        )
        # Its own steps only grow, and count calls; ours are the optimizer's.
        self._writer.define_metric("*", step_metric="iter")
        return str(self._writer.id)

    def _send(self, step: int, values: Mapping[str, float]) -> None:
        self._writer.log({"iter": step, **values})

    def _close(self, *, failed: bool) -> None:
        self._writer.finish(exit_code=int(failed))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested mappings by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
