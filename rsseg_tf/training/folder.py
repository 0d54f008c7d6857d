"""The folder of a run: its lock, its checkpoints, and what kills have left in it.

output/
    iter_1000/, iter_2000/   checkpoints; the oldest are removed
    best_model/              the weights of the best evaluation so far
    tensorboard/             event files
    .lock                    held by the run that writes here
    .replacing/, .replaced/  checkpoints of an earlier run, until the first of the one that replaces them is safe
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import keras

from rsseg_tf.checkpoint import (
    TrainState,
    copy_weights,
    read_state,
    recover_checkpoints,
    save_checkpoint,
    write_state,
)
from rsseg_tf.config import AnyConfig
from rsseg_tf.errors import ConfigError, WeightsError, reason
from rsseg_tf.files import hold, remove_leftovers
from rsseg_tf.files.writing import discard_folder, partial_folder

__all__ = ["BEST", "Notify", "RunFolder", "checkpoints", "open_run", "safely", "step_of"]

BEST = "best_model"
_LOCK = ".lock"
_REPLACING, _REPLACED = ".replacing", ".replaced"

Notify = Callable[[str], object]


def safely(notify: Notify) -> Notify:
    """Returns the same without its errors of writing: a full disk under a log file costs no training."""

    def told(line: str) -> None:
        with contextlib.suppress(OSError):
            notify(line)

    return told


def checkpoints(save_dir: Path) -> list[Path]:
    """Returns the `iter_N` folders in a save_dir, oldest first."""
    return sorted((path for path in save_dir.glob("iter_*") if path.name[5:].isdecimal()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Returns N of a folder `iter_N`."""
    return int(checkpoint.name.removeprefix("iter_"))


@contextlib.contextmanager
def open_run(
    save_dir: Path, *, resume: Path | None, overwrite: bool, notify: Notify = lambda line: None
) -> Iterator[RunFolder]:
    """Takes the folder for one run, and mends what a kill has left in it.

    Args:
        save_dir: made if it is missing; removed in the end if it was, and nothing came into it.
        resume: the checkpoint that the run goes on from; None for a new run.
        overwrite: whether a new run may replace the checkpoints of an earlier one; they go once its first is written.
        notify: called with a line for what could not be removed.

    Raises:
        ConfigError: when the folder cannot be written, another run writes to it, or it holds checkpoints of a run that
            this one neither resumes nor replaces.
    """
    made = not save_dir.exists()
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        lock = hold(save_dir / _LOCK)
    except OSError as error:
        raise _unwritable(save_dir, error) from error
    if lock is None:
        raise ConfigError(
            f"Another run writes to --save_dir {save_dir} (its lock is {save_dir / _LOCK}). Wait for it, or choose "
            "another folder."
        )
    try:
        try:
            _recover(save_dir)
        except OSError as error:
            raise _unwritable(save_dir, error) from error
        earlier = [] if resume is not None else _earlier(save_dir)
        if earlier and not overwrite:
            raise _in_use(save_dir, earlier)
        yield RunFolder(save_dir, resume, earlier, notify)
    finally:
        lock.release()
        if made:
            with contextlib.suppress(OSError):
                save_dir.rmdir()


def _earlier(save_dir: Path) -> list[Path]:
    return [*checkpoints(save_dir), *(path for path in [save_dir / BEST] if path.exists())]


def _unwritable(save_dir: Path, error: OSError) -> ConfigError:
    return ConfigError(f"--save_dir {save_dir} cannot be written: {reason(error)}. Choose another folder.")


def _in_use(save_dir: Path, earlier: list[Path]) -> ConfigError:
    last = next((path for path in reversed(earlier) if path.name != BEST), None)
    go_on = f"Go on from it with --resume_model {last}, choose" if last else "Choose"
    return ConfigError(
        f"--save_dir {save_dir} holds {(last or earlier[-1]).name} of an earlier run. {go_on} another folder, or "
        "replace it with --overwrite."
    )


def _recover(save_dir: Path) -> None:
    """Brings the folder to a state between two writes; call it with the lock held."""
    replacing, replaced = save_dir / _REPLACING, save_dir / _REPLACED
    recover_checkpoints(save_dir)
    if replaced.exists() and not checkpoints(save_dir):  # killed before the first of the new run
        replaced.rename(replacing)
    if replaced.exists() or partial_folder(replaced).exists():
        discard_folder(replaced)
    if replacing.exists():
        for folder in replacing.iterdir():
            folder.rename(save_dir / folder.name)
        replacing.rmdir()
    for folder in checkpoints(save_dir):
        remove_leftovers(folder)


class RunFolder:
    """Writes the checkpoints of one run and removes the oldest; from `open_run`.

    Checkpoints of an abandoned branch of the run (steps beyond the one that it was resumed from) are left alone.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path, resume: Path | None, earlier: list[Path], notify: Notify) -> None:
        self.path = path
        self._resume = resume
        self._earlier = earlier
        self._notify = notify
        self._begun = 0
        self._written: list[Path] = []

    def begin(self, state: TrainState, *, scored: bool) -> TrainState:
        """Takes note of where the run begins; returns the state, which agrees with `best_model` if the run is `scored`.

        A score that the state claims belongs to weights that lie in `best_model`. Where a kill, another save_dir or a
        user has parted them, `best_model` is made again from the checkpoint of that step, or looked for anew. A
        `best_model` that is better than the state knows, of an abandoned branch, stays.

        Raises:
            WeightsError: when `best_model` cannot be written.
        """
        self._begun = state.step
        self._written = [] if self._resume is None else [c for c in checkpoints(self.path) if step_of(c) <= state.step]
        return self._agreed(state) if scored and self._resume is not None else state

    def save(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer, state: TrainState, config: AnyConfig
    ) -> Path:
        """Writes `iter_N`; with the first one the checkpoints of an earlier run go, if they are to be replaced.

        Raises:
            WeightsError: when it cannot be written; what was there before is unchanged.
        """
        folder = self.path / f"iter_{state.step}"
        try:
            save_checkpoint(folder, model, optimizer, state, config, ready=self._set_earlier_aside)
        except BaseException:
            with contextlib.suppress(OSError):
                _recover(self.path)
            raise
        if self._earlier:
            self._earlier = []
            self._tidy(self.path / _REPLACED, discard_folder)
        if folder not in self._written:
            self._written.append(folder)
        return folder

    def save_score(
        self, model: keras.Model, optimizer: keras.optimizers.Optimizer, state: TrainState, config: AnyConfig
    ) -> Path:
        """Notes in `iter_N` how its evaluation ended; writes it where the run was resumed from another folder.

        Raises:
            WeightsError: when it cannot be written.
        """
        folder = self.path / f"iter_{state.step}"
        if folder in self._written and not self._is_foreign(folder):
            write_state(folder, state)
            return folder
        return self.save(model, optimizer, state, config)

    def save_best(self, model: keras.Model, state: TrainState, config: AnyConfig) -> None:
        """Writes `best_model`; call it before `save_score`, so that no state ever claims what is not there.

        Raises:
            WeightsError: when it cannot be written; what was there before is unchanged.
        """
        save_checkpoint(self.path / BEST, model, None, state, config)

    def prune(self, keep: int) -> None:
        """Removes all but the newest checkpoints; one that cannot be removed is told of and left."""
        while len(self._written) > keep:
            self._tidy(self._written.pop(0), discard_folder)

    def _is_foreign(self, folder: Path) -> bool:
        """Tells whether a checkpoint of the step that the run was resumed from is not the one that it was."""
        resume = self._resume
        return (
            resume is not None
            and folder.name == f"iter_{self._begun}"
            and not (resume.exists() and folder.exists() and folder.samefile(resume))
        )

    def _set_earlier_aside(self) -> None:
        if not self._earlier:
            return
        replacing = self.path / _REPLACING
        replacing.mkdir()
        for folder in self._earlier:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(replacing / folder.name)
        replacing.rename(self.path / _REPLACED)

    def _tidy(self, folder: Path, remove: Callable[[Path], None]) -> None:
        try:
            remove(folder)
        except OSError as error:
            self._notify(f"{folder} could not be removed: {reason(error)}; training goes on.")

    def _agreed(self, state: TrainState) -> TrainState:
        best = self.path / BEST
        there = _scored(best)
        if there is not None and there.protocol == state.protocol and there.best_miou >= state.best_miou:
            if there.best_miou > state.best_miou and not (state.to_evaluate and there.step == state.step):
                self._notify(
                    f"{best} (mIoU {there.best_miou:.4f}, iter {there.step}) is better than the best that "
                    f"{self._resume} knows; it stays until a better one is found."
                )
            return dataclasses.replace(state, best_miou=there.best_miou, best_step=there.step)
        if not state.best_step:
            return state
        name = f"iter_{state.best_step}"
        beside = [] if self._resume is None else [self._resume, self._resume.parent / BEST, self._resume.parent / name]
        for source in [self.path / name, *beside]:
            found = _scored(source)
            if found and (found.best_miou, found.protocol) == (state.best_miou, state.protocol):
                copy_weights(source, best)
                self._notify(
                    f"{best} was not that of mIoU {state.best_miou:.4f}, iter {state.best_step}; it was made again "
                    f"from {source}."
                )
                return state
        self._notify(
            f"The model of the best mIoU so far, {state.best_miou:.4f} at iter {state.best_step}, is nowhere in "
            f"{self.path}; from here on the best one is looked for anew."
        )
        return dataclasses.replace(state, best_miou=-1.0, best_step=0, stale_intervals=0)


def _scored(folder: Path) -> TrainState | None:
    """Returns the state of a checkpoint whose own evaluation is the best that it knows; None for any other."""
    try:
        state = read_state(folder)
    except WeightsError:
        return None
    return state if state.best_step == state.step and state.best_step else None
