"""Kills and full disks at the N-th write of a process.

A forked child runs some work under an audit hook, which Python calls before it opens, renames, links, makes or removes
a file. Each of these below the watched folder is a point; opening a file for writing is two: before, and when the file
is there and empty. What libraries in C write in between (GDAL, TensorFlow) has no points of its own; the points of
their neighbours stand for it, and the disk that is really full does for the rest.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rsseg_tf.errors import RssegError

__all__ = ["COUNT", "Fault", "Outcome", "attempt"]

# Event -> which of its arguments are paths, and which are the folders that these are relative to.
_PATHS = {
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),),
}
_NEEDS_ROOM = frozenset({"open", "opened", "os.mkdir", "os.link", "os.symlink"})
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Fault:
    """What happens, and at which point (from 1)."""

    kind: Literal["count", "kill", "full"]
    at: int = 0


COUNT = Fault("count")


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    Attributes:
        end: `done`; `refused` by an error of ours; `crashed` with any other; `killed`.
        said: the error's message, or a traceback.
        points: what was written, in order.
    """

    end: str
    said: str
    points: tuple[str, ...]


class _Watch:
    """The audit hook."""

    def __init__(self, folder: Path, fault: Fault) -> None:
        self.folder, self.fault = os.path.realpath(folder), fault
        self.points: list[str] = []
        self._inside = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._inside or (event != "open" and event not in _PATHS):
            return
        self._inside = True
        try:
            if event == "open":
                self._open(*arguments)
            else:
                named = [_place(arguments, *pair) for pair in _PATHS[event]]
                if any(self._watched(path) for path in named):
                    self._point(event, named[-1])
        finally:
            self._inside = False

    def _open(self, path: Any, mode: str | None, flags: int) -> None:
        nameless = flags & os.O_TMPFILE == os.O_TMPFILE
        if isinstance(path, int) or nameless or not flags & _WRITES or not self._watched(name := os.fsdecode(path)):
            return
        self._point("open", name)
        self._point("opened", name, lambda: os.close(os.open(name, flags & ~os.O_EXCL, 0o666)))

    def _watched(self, path: str) -> bool:
        return os.path.abspath(path).startswith(self.folder + os.sep)

    def _point(self, event: str, path: str, before_kill: Callable[[], object] = lambda: None) -> None:
        self.points.append(f"{event.removeprefix('os.')} {os.path.relpath(path, self.folder)}")
        if self.fault.kind == "kill" and len(self.points) == self.fault.at:
            before_kill()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.kind == "full" and len(self.points) >= self.fault.at and event in _NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def _place(arguments: tuple[Any, ...], index: int, folder_index: int | None) -> str:
    path = arguments[index]
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}")
    name = os.fsdecode(path)
    folder = -1 if folder_index is None else arguments[folder_index]
    return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name) if folder >= 0 else name


def attempt(work: Callable[[], object], folder: Path, fault: Fault = COUNT) -> Outcome:
    """Does some work in a forked child; call it from a process that has run neither TensorFlow nor OpenCV.

    Args:
        work: what to do.
        folder: where writes count.
        fault: what happens at which of them.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            _work(work, folder, fault, writing)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Outcome("killed", signal.Signals(os.WTERMSIG(status)).name, ())
    end, said, points = json.loads(answer)
    return Outcome(end, said, tuple(points))


def _work(work: Callable[[], object], folder: Path, fault: Fault, writing: int) -> None:
    """Works in the child and writes how it ended into the pipe."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    watch = _Watch(folder, fault)
    sys.addaudithook(watch)
    try:
        work()
        end, said = "done", ""
    except RssegError as error:
        end, said = "refused", str(error)
    except BaseException:
        end, said = "crashed", traceback.format_exc()
    with os.fdopen(writing, "w", encoding="utf-8") as pipe:
        json.dump([end, said, watch.points], pipe)
