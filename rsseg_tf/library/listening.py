"""Who hears what a function has to say: nobody, a callable such as `print`, or the command line with its bars."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsseg_tf.library.evaluating import EvalResult
    from rsseg_tf.predict import ImageJob, PredictionPlan
    from rsseg_tf.training.callbacks import LineLog

    Pixels = tuple[Callable[[ImageJob, int], None], Callable[[ImageJob], None]]

__all__ = ["Counted", "Listener", "Notify", "listener_of"]

Counted = Callable[[int, int], None]
"""Called with the number of items that are done, and of all."""
Notify = Callable[[str], object]
"""Takes a line of text."""


class Listener:
    """Hears what functions of the library have to say. This one drops all of it."""

    def __call__(self, line: str) -> None:
        """Takes a line about finished work, as `say`."""
        self.say(line)

    def say(self, line: str) -> None:
        """Takes a line about finished work."""

    def note(self, line: str) -> None:
        """Takes a line about what a user should know and may not expect."""

    def fail(self, line: str) -> None:
        """Takes a line about a check that was not passed, which the function's result tells too."""
        self.say(line)

    def mute(self) -> None:
        """Is called where another process of the same run says the same."""

    def progress(self, description: str) -> AbstractContextManager[Counted]:
        """Shows how far one piece of work is, while the block runs.

        Args:
            description: What is done, such as `Checking 20 samples`.
        """
        return contextlib.nullcontext(lambda done, total: None)

    def download(self) -> Callable[[int, int | None], None] | None:
        """Returns what to call with the bytes of a download that are there, and of all; None shows nothing."""
        return None

    def bars(self, total: int) -> AbstractContextManager[Callable[[str], None]]:
        """Shows how far several pieces of work of one length are.

        Args:
            total: Steps of each piece.

        Returns:
            A block that gives what to call with the name of the piece that went a step further.
        """
        return contextlib.nullcontext(lambda name: None)

    def pixels(self, plan: PredictionPlan) -> AbstractContextManager[Pixels]:
        """Shows how many pixels of a plan are predicted.

        Returns:
            A block that gives what to call with a job and its pixels that were finished, and what to call when a job is
            done.
        """
        return contextlib.nullcontext(((lambda job, pixels: None), (lambda job: None)))

    def scores(self, result: EvalResult) -> None:
        """Takes the scores of an evaluation."""
        self.say(result.summary())

    def training_log(self, iters: int, **how: Any) -> LineLog:
        """Returns a callback that tells how a training goes.

        Args:
            iters: Steps of the run.
            **how: Options of `rsseg_tf.training.callbacks.ConsoleLog`.
        """
        from rsseg_tf.training.callbacks import LineLog

        return LineLog(iters, self.say)


class _Calling(Listener):
    """Gives all lines to a callable."""

    def __init__(self, notify: Notify) -> None:
        self._notify: Notify | None = notify

    def say(self, line: str) -> None:
        if self._notify is not None:
            self._notify(line)

    def note(self, line: str) -> None:
        self.say(f"Note: {line}")

    def mute(self) -> None:
        self._notify = None


def listener_of(notify: Notify | None) -> Listener:
    """Returns who hears the lines of a function whose caller gave `notify`: None is nobody."""
    if notify is None:
        return Listener()
    return notify if isinstance(notify, Listener) else _Calling(notify)
