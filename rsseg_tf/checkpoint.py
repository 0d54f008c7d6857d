"""Checkpoints: weights, optimizer, position and config in one folder, written whole or not at all.

    iter_1000/
        weights.npz     one array per weight of the model, keyed by the weight's path
        training.npz    the optimizer's variables and the seeds of random layers, in order; only to resume. With
                        `train.ema` also the weights that are trained, keyed `weights/` and the path: `weights.npz`
                        then holds their moving average, so that whoever reads a checkpoint gets what was evaluated
        state.json      step, samples seen, best score so far
        config.yml      the resolved config of the run; `dataset.root` is absolute
        calibration.json  the temperature that `rsseg-tf eval --calibrate` fitted, and how it did; only after that

A checkpoint is written under a temporary name in the same folder, flushed to disk, and renamed. A full disk or a kill
in the middle leaves the checkpoints that were there before untouched. Replacing a checkpoint takes two renames. A kill
between them leaves the earlier checkpoint whole as `.iter_1000.retired`: an attempt to read `iter_1000` raises an error
that names it, and the next run in the folder renames it back (`recover_checkpoints`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import keras
import numpy as np

from rsseg_tf.config import AnyConfig, dump_config
from rsseg_tf.datasets.protocols import present_name
from rsseg_tf.errors import ConfigError, WeightsError, address_hint, reason
from rsseg_tf.files import StrPath, atomic_folder, atomic_path, read_json
from rsseg_tf.files.npz import read_npz
from rsseg_tf.files.writing import PARTIAL, RETIRED, recover_folder, retired_folder
from rsseg_tf.predict.options import check_temperature

__all__ = [
    "TrainState",
    "check_resumable",
    "config_file",
    "copy_weights",
    "load_weights",
    "read_state",
    "read_temperature",
    "read_weights",
    "recover_checkpoints",
    "restore_training",
    "save_checkpoint",
    "write_calibration",
    "write_state",
]

_WEIGHTS, _TRAINING, _STATE, _CONFIG = "weights.npz", "training.npz", "state.json", "config.yml"
_CALIBRATION, _TEMPERATURE = "calibration.json", "temperature"
_TRAINED = "weights/"
"""Beginning of the names of trained weights in `training.npz`."""


@dataclasses.dataclass(frozen=True)
class TrainState:
    """Where a run stands.

    Attributes:
        step: Optimizer steps taken.
        samples_seen: Training samples consumed; a resumed run reads on from this position.
        best_miou: Best validation mIoU so far (0..1), -1 before the first evaluation.
        best_step: The step that reached it.
        stale_intervals: Evaluations since then that were worse.
        protocol: The evaluation protocol of the score (`rsseg_tf.datasets.protocols`).
        validation: Digest of the names of the images that were scored; empty where nothing was, or by earlier versions.
        to_evaluate: Whether this step still has to be evaluated; a resumed run does so first.
    """

    step: int = 0
    samples_seen: int = 0
    best_miou: float = -1.0
    best_step: int = 0
    stale_intervals: int = 0
    protocol: str = "benchmark"
    validation: str = ""
    to_evaluate: bool = False

    def scored_like(self, other: TrainState) -> bool:
        """Returns whether the scores of two states can be compared: one protocol, and the same images if both say."""
        same_images = not (self.validation and other.validation) or self.validation == other.validation
        return self.protocol == other.protocol and same_images


def save_checkpoint(
    folder: StrPath,
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer | None,
    state: TrainState,
    config: AnyConfig,
    *,
    average: keras.Model | None = None,
    extra: Mapping[str, bytes] = MappingProxyType({}),
    before_rename: Callable[[], object] = lambda: None,
) -> None:
    """Writes a checkpoint to `folder`; an earlier one there is replaced once the new one is complete.

    Args:
        folder: The checkpoint, such as `output/iter_1000`.
        model: The model; its weights (batch-norm statistics included) and seeds are written.
        optimizer: The optimizer; its variables are written. None for weights that no run will resume from.
        state: The run's position.
        config: The resolved config.
        average: A model of the same build that holds averages of the model's weights. They are written as the weights,
            and those of the model beside the optimizer's variables.
        extra: Contents of further files by their names.
        before_rename: Called when all files are written, before the folder gets its name.

    Raises:
        WeightsError: When it cannot be written; what was there before is unchanged.
    """
    with _writing(Path(folder)) as partial:
        _write_arrays(partial / _WEIGHTS, _named_arrays(model if average is None else average))
        if optimizer is not None:
            # Seeds too: dropout of a resumed run then draws what the straight run would have drawn.
            variables = _training_variables(model, optimizer, weights=average is not None)
            _write_arrays(partial / _TRAINING, {name: np.asarray(value) for name, value in variables.items()})
        _write(partial / _STATE, lambda file: file.write(_to_json(state)))
        _write(partial / _CONFIG, lambda file: file.write(dump_config(_with_absolute_root(config)).encode()))
        for name, content in extra.items():
            (partial / name).write_bytes(content)
        # Last, so that a run which replaces another one gives up that one's checkpoints as late as possible.
        before_rename()


def copy_weights(source: StrPath, folder: StrPath) -> None:
    """Copies a checkpoint's weights, state and config; `best_model` holds no more than these.

    Raises:
        WeightsError: When it cannot be read or written; what was there before is unchanged.
    """
    source = Path(source)
    folder = Path(folder)
    with _writing(folder) as partial:
        for name in (_WEIGHTS, _STATE, _CONFIG):
            with (source / name).open("rb") as file:
                _write(partial / name, functools.partial(shutil.copyfileobj, file))


def write_state(folder: StrPath, state: TrainState) -> None:
    """Replaces the state in a checkpoint, whole or not at all.

    Raises:
        WeightsError: When it cannot be written.
    """
    folder = Path(folder)
    try:
        with atomic_path(folder / _STATE) as temporary:
            temporary.write_bytes(_to_json(state))
    except OSError as error:
        raise _unwritten(folder, error) from error


def recover_checkpoints(folder: StrPath) -> None:
    """Repairs a folder after a kill: renames retired checkpoints back, and removes incomplete ones.

    Raises:
        OSError: When something cannot be renamed or removed.
    """
    folder = Path(folder)
    for retired in folder.glob(f".*{RETIRED}"):
        recover_folder(folder / retired.name.removeprefix(".").removesuffix(RETIRED))
    for pattern in (f".iter_*{PARTIAL}", f".best_model{PARTIAL}"):
        for partial in folder.glob(pattern):
            shutil.rmtree(partial)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder for the files of a checkpoint; see `atomic_folder`."""
    try:
        with atomic_folder(folder) as partial:
            yield partial
    except OSError as error:
        raise _unwritten(folder, error) from error


def _unwritten(folder: Path, error: OSError) -> WeightsError:
    return WeightsError(
        f"The checkpoint {folder} could not be written: {reason(error)}. Earlier checkpoints are unharmed; make room "
        "or correct the permissions, then go on with --resume_model.",
        code="not-written",
    )


def load_weights(model: keras.Model, folder: StrPath) -> None:
    """Loads the weights of a checkpoint; weights and stored arrays must agree one to one.

    Args:
        model: The architecture that was saved.
        folder: The checkpoint.

    Raises:
        WeightsError: For a folder without a checkpoint, a damaged file, or a checkpoint of another architecture.
    """
    folder = Path(folder)
    problems = _assign({weight.path: weight for weight in model.weights}, _read_arrays(folder, _WEIGHTS))
    if problems:
        raise WeightsError(
            f"The checkpoint {folder} does not fit the model '{model.name}': {problems}. "
            f"Use the config that lies beside it: {folder / _CONFIG}.",
            code="mismatch",
        )


def read_weights(folder: StrPath) -> tuple[dict[str, np.ndarray], str]:
    """Returns the arrays of a checkpoint by the paths of the variables, and the SHA-256 of their file.

    Raises:
        WeightsError: For a folder without a checkpoint, or a damaged file.
    """
    folder = Path(folder)
    arrays = _read_arrays(folder, _WEIGHTS)
    with (folder / _WEIGHTS).open("rb") as file:
        return arrays, hashlib.file_digest(file, "sha256").hexdigest()


def restore_training(model: keras.Model, optimizer: keras.optimizers.Optimizer, folder: StrPath) -> None:
    """Loads what a resumed run needs beside the weights: the optimizer's variables and the seeds of random layers.

    Where `load_weights` gave averaged weights, those that were trained replace them.

    Args:
        model: The architecture that was saved.
        optimizer: An optimizer of the same kind, built on the same trainable variables.
        folder: The checkpoint.

    Raises:
        WeightsError: For a checkpoint without them (`best_model` has none), a damaged file, or another optimizer.
    """
    folder = Path(folder)
    arrays = _read_arrays(folder, _TRAINING)
    averaged = any(name.startswith(_TRAINED) for name in arrays)
    problems = _assign(_training_variables(model, optimizer, weights=averaged), arrays)
    if problems:
        raise WeightsError(
            f"The optimizer in {folder} does not fit '{optimizer.name}': {problems}. "
            "Resume with the optimizer, precision and freeze_backbone of the first run."
        )


def check_resumable(folder: StrPath) -> TrainState:
    """Reads all that a resumed run reads, and returns where it would go on.

    Raises:
        WeightsError: When something is missing or damaged.
    """
    folder = Path(folder)
    state = read_state(folder)
    for name in (_WEIGHTS, _TRAINING):
        _read_arrays(folder, name)
    return state


def config_file(folder: StrPath) -> Path:
    """Returns the file with the config that the weights were trained with.

    Raises:
        WeightsError: When `folder` is no checkpoint.
    """
    folder = Path(folder)
    _require(folder, _CONFIG)
    return folder / _CONFIG


def read_state(folder: StrPath) -> TrainState:
    """Returns where the run stood when the checkpoint was written.

    Raises:
        WeightsError: When `folder` is no checkpoint or its state is damaged.
    """
    folder = Path(folder)
    _require(folder, _STATE)
    try:
        # Fields that earlier versions did not write keep their defaults; unknown ones are a TypeError.
        state = TrainState(**read_json(folder / _STATE))
        for field in dataclasses.fields(state):
            value = getattr(state, field.name)
            if not isinstance(value, (int, type(field.default))):  # JSON may write 1.0 as 1
                raise TypeError(f"{field.name} is {value!r}")
        return dataclasses.replace(state, protocol=present_name(state.protocol))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{folder / _STATE} is damaged: {error}. Use an earlier checkpoint.", code="damaged"
        ) from error


def read_temperature(folder: StrPath) -> float:
    """Returns what the logits of a checkpoint are divided by before they become probabilities; 1 without calibration.

    Raises:
        WeightsError: When the calibration is damaged.
    """
    path = Path(folder) / _CALIBRATION
    try:
        temperature = read_json(path)[_TEMPERATURE]
        check_temperature(temperature)
    except FileNotFoundError:
        return 1.0
    except (OSError, ValueError, TypeError, KeyError, ConfigError) as error:
        raise WeightsError(
            f"{path} is damaged: {reason(error)}. Fit the temperature again (rsseg-tf eval --calibrate), or remove it."
        ) from error
    return float(temperature)


def write_calibration(folder: StrPath, temperature: float, facts: Mapping[str, Any]) -> None:
    """Stores a temperature in a checkpoint; an earlier one is replaced.

    Args:
        folder: The checkpoint.
        temperature: What its logits are divided by before they become probabilities.
        facts: How it was found, as JSON can hold it; for people.

    Raises:
        WeightsError: When it cannot be written.
    """
    folder = Path(folder)
    try:
        with atomic_path(folder / _CALIBRATION) as temporary:
            temporary.write_text(json.dumps({_TEMPERATURE: temperature, **facts}, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise _unwritten(folder, error) from error


def _with_absolute_root(config: AnyConfig) -> AnyConfig:
    """Returns the config with an absolute `dataset.root`, which holds from other working directories too.

    A folder that does not exist stays as it is: released weights are often converted before the data are there.
    """
    root = config.dataset.root
    if not os.path.isdir(root):
        return config
    dataset = config.dataset.model_copy(update={"root": os.path.abspath(root)})
    return config.model_copy(update={"dataset": dataset})


def _named_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for variable in model.weights:
        # Keras does not require unique paths, and of two equal names in an archive only one would be read.
        if variable.path in arrays:
            raise ConfigError(f"The model '{model.name}' has two weights named {variable.path}; rename a layer.")
        arrays[variable.path] = keras.ops.convert_to_numpy(variable.value)
    return arrays


def _training_variables(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, *, weights: bool
) -> dict[str, keras.Variable]:
    """Names variables by their order: Keras's own names of seeds count the models that a process has built."""
    known = {id(weight) for weight in model.weights}
    seeds = [variable for variable in model.variables if id(variable) not in known]
    named = {f"optimizer/{i:05d}": variable for i, variable in enumerate(optimizer.variables)}
    named |= {f"seed/{i:05d}": variable for i, variable in enumerate(seeds)}
    return named | ({f"{_TRAINED}{weight.path}": weight for weight in model.weights} if weights else {})


def _assign(variables: Mapping[str, keras.Variable], arrays: Mapping[str, np.ndarray]) -> str:
    """Assigns all arrays and returns an empty text, or assigns none and returns the differences."""
    problems = _differences({name: tuple(variable.shape) for name, variable in variables.items()}, arrays)
    if not problems:  # a model that is half loaded would predict something, and nobody would notice
        for name, variable in variables.items():
            variable.assign(arrays[name])
    return problems


def _differences(wanted: Mapping[str, Sequence[int]], arrays: Mapping[str, np.ndarray]) -> str:
    """Returns in one clause how names and shapes differ; an empty text when they are equal."""
    missing = [name for name in wanted if name not in arrays]
    unexpected = [name for name in arrays if name not in wanted]
    misshapen = [name for name in wanted if name in arrays and tuple(wanted[name]) != arrays[name].shape]
    clauses = []
    if missing:
        clauses.append(f"{len(missing)} of its {len(wanted)} variables are missing (first: {missing[0]})")
    if unexpected:
        clauses.append(f"{len(unexpected)} stored arrays have no variable (first: {unexpected[0]})")
    if misshapen:
        name = misshapen[0]
        clauses.append(
            f"{len(misshapen)} differ in shape (first: {name}, stored {list(arrays[name].shape)}, "
            f"model {list(wanted[name])})"
        )
    return "; ".join(clauses)


def _require(folder: Path, name: str) -> None:
    if (folder / name).is_file():
        return
    if name == _TRAINING and (folder / _WEIGHTS).is_file():
        raise WeightsError(f"{folder} holds weights only, no optimizer; resume from an iter_N folder.")
    if not folder.exists() and ((retired := retired_folder(folder)) / name).is_file():
        raise WeightsError(
            f"{folder} is not a checkpoint: it does not exist. A run was killed while it replaced it; the earlier one "
            f"is whole: {retired}; rename it to {folder}."
        )
    # `output` for `output/best_model` is the usual slip.
    inside = sorted(p.parent for p in folder.glob(f"*/{_WEIGHTS}") if not p.parent.name.startswith("."))
    hint = f" Did you mean {inside[0]}?" if inside else " A checkpoint is a folder such as output/best_model."
    keras_file = " A .keras file is read by keras.saving.load_model." if folder.suffix == ".keras" else ""
    what = f"has no {name}" if folder.is_dir() else "is a file" if folder.is_file() else "does not exist"
    raise WeightsError(
        f"{folder} is not a checkpoint: it {what}.{keras_file}{hint}{address_hint(folder)}", code="not-found"
    )


def _read_arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    _require(folder, name)
    try:
        return read_npz(folder / name)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{folder / name} is damaged or truncated: {error}. Use an earlier checkpoint.", code="damaged"
        ) from error
    except MemoryError as error:
        raise WeightsError(f"{folder / name} does not fit into the memory that is left. Close something.") from error


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    _write(path, lambda file: _write_npz(file, arrays))


def _write_npz(file: IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an archive as `np.savez` does, which leaves its file open on a full disk and so raises again later."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            # An array of 2 GiB or more needs the format zip64, and its size is not known to `archive` before.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    with path.open("wb") as file:
        write(file)
        file.flush()
        # Otherwise a power cut after the rename may leave a checkpoint with a complete name and empty files.
        os.fsync(file.fileno())


def _to_json(state: TrainState) -> bytes:
    return (json.dumps(dataclasses.asdict(state), indent=2) + "\n").encode()
