"""The folder of a run: its lock, its checkpoints, and the repair of what a kill left behind.

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
    check_resumable,
    copy_weights,
    read_state,
    read_weights,
    recover_checkpoints,
    save_checkpoint,
    write_state,
)
from rsseg_tf.config import AnyConfig
from rsseg_tf.errors import ConfigError, WeightsError, reason
from rsseg_tf.files import hold, remove_leftovers
from rsseg_tf.files.writing import discard_folder, partial_folder

__all__ = ["BEST", "Notify", "RunFolder", "checkpoints", "ignoring_write_errors", "open_run", "step_of"]

BEST = "best_model"
_LOCK = ".lock"
_REPLACING, _REPLACED = ".replacing", ".replaced"

Notify = Callable[[str], object]


def ignoring_write_errors(notify: Notify) -> Notify:
    """Returns `notify` without its OSErrors: a full disk under a log file must not end a run."""

    def notify_safely(line: str) -> None:
        with contextlib.suppress(OSError):
            notify(line)

    return notify_safely


def checkpoints(save_dir: Path) -> list[Path]:
    """Returns the `iter_N` folders in a save_dir, oldest first."""
    return sorted((path for path in save_dir.glob("iter_*") if path.name[5:].isdecimal()), key=step_of)


def step_of(checkpoint: Path) -> int:
    """Returns N of a folder `iter_N`."""
    return int(checkpoint.name.removeprefix("iter_"))


@contextlib.contextmanager
def open_run(
    save_dir: Path,
    *,
    resume: Path | None,
    overwrite: bool,
    iters: int | None = None,
    notify: Notify = lambda line: None,
) -> Iterator[RunFolder]:
    """Locks the folder for one run, and repairs what a killed run left in it.

    Args:
        save_dir: The folder, which is made if it is missing. A folder made here is removed again if it stays empty.
        resume: The checkpoint that the run goes on from; None for a new run.
        overwrite: Whether a new run may replace the checkpoints of an earlier one. These are removed once the new
            run's first checkpoint is written.
        iters: Steps of the run in all, if they are known; a message says when a checkpoint has as many.
        notify: Called with a line for what could not be removed.

    Raises:
        ConfigError: When the folder cannot be written, another run writes to it, or it holds checkpoints of a run that
            this one neither resumes nor replaces.
    """
    made = not save_dir.exists()
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        # The system releases the lock of a process that is killed: a file left behind blocks nobody.
        lock = hold(save_dir / _LOCK)
    except OSError as error:
        raise _unwritable(save_dir, error) from error
    if lock is None:
        raise ConfigError(
            f"Another run writes to --save_dir {save_dir} (its lock is {save_dir / _LOCK}). Wait for it, or choose "
            "another folder.",
            code="in-use",
        )
    try:
        try:
            _recover(save_dir)
        except OSError as error:
            raise _unwritable(save_dir, error) from error
        earlier = [] if resume is not None else [*checkpoints(save_dir), *_existing(save_dir / BEST)]
        if earlier and not overwrite:
            raise _in_use(save_dir, earlier, iters)
        yield RunFolder(save_dir, resume, earlier, notify)
    finally:
        lock.release()
        if made:
            with contextlib.suppress(OSError):
                save_dir.rmdir()


def _existing(path: Path) -> list[Path]:
    return [path] if path.exists() else []


def _unwritable(save_dir: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"--save_dir {save_dir} cannot be written: {reason(error)}. Choose another folder.", code="not-written"
    )


def _in_use(save_dir: Path, earlier: list[Path], iters: int | None) -> ConfigError:
    runs = [path for path in reversed(earlier) if path.name != BEST]
    what, choose = f"--save_dir {save_dir} holds {(runs or earlier)[0].name} of an earlier run", "Choose"
    for number, folder in enumerate(runs):
        try:
            state = check_resumable(folder)
        except WeightsError as error:
            if number == 0:
                what += f" that cannot be resumed ({str(error).rstrip('.')})"
            continue
        more = f" and --iters above {state.step}" if iters is not None and state.step >= iters else ""
        whence = "it" if number == 0 else f"{folder.name}, the last that is whole,"
        choose = f"Go on from {whence} with --resume_model {folder}{more}, choose"
        break
    return ConfigError(f"{what}. {choose} another folder, or replace it with --overwrite.", code="exists")


def _recover(save_dir: Path) -> None:
    """Brings the folder to a state between two writes; the caller holds the lock.

    An earlier run's checkpoints are replaced in four renames and removals: all go into `.replacing`, `.replacing`
    becomes `.replaced`, the new checkpoint gets its name, `.replaced` is removed. A kill before the third is undone; a
    kill after it is completed.
    """
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
    """Writes the checkpoints of one run and removes the oldest; made by `open_run`.

    A run that is resumed from an earlier step leaves the checkpoints of later steps alone until it replaces them.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, resume: Path | None, earlier: list[Path], notify: Notify) -> None:
        self.path = path
        self._resume = resume
        self._earlier = earlier
        self._notify = notify
        self._written: list[Path] = []

    def begin(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        config: AnyConfig,
        state: TrainState,
        *,
        scored: bool,
        average: keras.Model | None = None,
    ) -> TrainState:
        """Notes where the run begins, and returns the state with a best score whose weights lie in `best_model`.

        A kill, another `save_dir` or a user may have separated the score from its weights. Then `best_model` is made
        again from the checkpoint of that step; without such a checkpoint the state forgets its best score. A
        `best_model` with a better score than the state's, from steps after the one resumed from, stays.

        Args:
            model: What later checkpoints hold, with the next two.
            optimizer: See `model`.
            config: See `model`.
            state: Where the run begins.
            scored: Whether the run evaluates; otherwise the state is returned as it is.
            average: With averages of the model's weights, see `save_checkpoint`; `best_model` holds these.

        Raises:
            WeightsError: When `best_model` cannot be written.
        """
        self._model, self._optimizer, self._config, self._average = model, optimizer, config, average
        self._first_step = state.step
        self._written = [] if self._resume is None else [c for c in checkpoints(self.path) if step_of(c) <= state.step]
        return self._match_best_model(state) if scored and self._resume is not None else state

    def save(self, state: TrainState) -> None:
        """Writes `iter_N`; the first one replaces the checkpoints of an earlier run, if there are any.

        Raises:
            WeightsError: When it cannot be written; what was there before is unchanged.
        """
        folder = self.path / f"iter_{state.step}"
        try:
            save_checkpoint(
                folder,
                self._model,
                self._optimizer,
                state,
                self._config,
                average=self._average,
                before_rename=self._set_earlier_aside,
            )
        except BaseException:  # Ctrl-C as well
            # The earlier run's checkpoints may have been set aside already; they get their names back.
            with contextlib.suppress(OSError):
                _recover(self.path)
            raise
        if self._earlier:
            self._earlier = []
            self._remove_or_notify(self.path / _REPLACED, discard_folder)
        if folder not in self._written:
            self._written.append(folder)

    def save_score(self, state: TrainState) -> None:
        """Notes in `iter_N` how its evaluation ended; writes `iter_N` where the run was resumed from another folder.

        Raises:
            WeightsError: When it cannot be written.
        """
        folder = self.path / f"iter_{state.step}"
        if folder in self._written and not self._is_foreign(folder):
            write_state(folder, state)
        else:
            self.save(state)

    def save_best(self, state: TrainState) -> None:
        """Writes `best_model`; call it before `save_score`, so that each score that a state names has its weights.

        Raises:
            WeightsError: When it cannot be written; what was there before is unchanged.
        """
        save_checkpoint(self.path / BEST, self._model, None, state, self._config, average=self._average)

    def prune(self, keep: int) -> None:
        """Removes all but the newest `keep` checkpoints; reports one that cannot be removed and leaves it."""
        while len(self._written) > keep:
            self._remove_or_notify(self._written.pop(0), discard_folder)

    def _is_foreign(self, folder: Path) -> bool:
        """Whether this folder has a checkpoint of the step resumed from that is not the checkpoint resumed from."""
        resume = self._resume
        return (
            resume is not None
            and folder.name == f"iter_{self._first_step}"
            and not (resume.exists() and folder.exists() and folder.samefile(resume))
        )

    def _set_earlier_aside(self) -> None:
        if not self._earlier:
            return
        replacing = self.path / _REPLACING
        replacing.mkdir()
        for folder in self._earlier:
            with contextlib.suppress(FileNotFoundError):  # the user may have removed it meanwhile
                folder.rename(replacing / folder.name)
        replacing.rename(self.path / _REPLACED)

    def _remove_or_notify(self, folder: Path, remove: Callable[[Path], None]) -> None:
        try:
            remove(folder)
        except OSError as error:
            self._notify(f"{folder} could not be removed: {reason(error)}; training goes on.")

    def _match_best_model(self, state: TrainState) -> TrainState:
        best = self.path / BEST
        stored = _scored(best)
        if stored is not None and not stored.scored_like(state):
            stored = None
        if stored is not None and stored.best_miou >= state.best_miou:
            # A kill between `best_model` and the score of its step leaves the same step to evaluate: no news then.
            if stored.best_miou > state.best_miou and not (state.to_evaluate and stored.step == state.step):
                self._notify(
                    f"{best} (mIoU {stored.best_miou:.4f}, iter {stored.step}) is better than the best that "
                    f"{self._resume} knows; it stays until a better one is found."
                )
            return dataclasses.replace(state, best_miou=stored.best_miou, best_step=stored.step)
        if state.best_step:
            if self._make_best_model_again(state):
                return state
            now = "from here on the best one is looked for anew"
            if stored is not None:
                now = f"{best} (mIoU {stored.best_miou:.4f}, iter {stored.step}) stays until a better one is found"
            self._notify(
                f"The model of the best mIoU so far, {state.best_miou:.4f} at iter {state.best_step}, is nowhere in "
                f"{self.path}; {now}."
            )
        if stored is not None:
            return dataclasses.replace(state, best_miou=stored.best_miou, best_step=stored.step, stale_intervals=0)
        if best.exists():
            self._notify(
                f"{best} ({_describe(best)}) will be replaced by the first model that is evaluated; copy it "
                "elsewhere to keep it."
            )
        return dataclasses.replace(state, best_miou=-1.0, best_step=0, stale_intervals=0)

    def _make_best_model_again(self, state: TrainState) -> bool:
        """Copies the model of the best score from another checkpoint; returns whether there is one."""
        best = self.path / BEST
        # The weights of the best score may lie in an `iter_N` here, or where the run was resumed from.
        name = f"iter_{state.best_step}"
        beside = [] if self._resume is None else [self._resume, self._resume.parent / BEST, self._resume.parent / name]
        for source in [self.path / name, *beside]:
            found = _scored(source)
            if found and found.best_miou == state.best_miou and found.scored_like(state):
                # What is replaced may be the best by another protocol.
                replaced = f" ({_describe(best)})" if best.exists() else ""
                copy_weights(source, best)
                self._notify(
                    f"{best}{replaced} did not hold the model of mIoU {state.best_miou:.4f}, iter {state.best_step}; "
                    f"it was made again from {source}."
                )
                return True
        return False


def _scored(folder: Path) -> TrainState | None:
    """Returns the state of a checkpoint whose own score is its best one; None for any other or damaged folder."""
    try:
        state = read_state(folder)
        read_weights(folder)
    except WeightsError:
        return None
    return state if state.best_step == state.step and state.best_step else None


def _describe(folder: Path) -> str:
    """Returns what is known of a `best_model` that the scores of a run cannot be compared with."""
    state = _scored(folder)
    if state is None:
        return "its weights or score cannot be read"
    return f"mIoU {state.best_miou:.4f} by protocol {state.protocol}, iter {state.step}"
