"""Tries a command at many points, in forked children: `python -m tests.torture.worker kill train 0 4`.

Kinds: `kill` and `full` at the points of `faults`; `disk` on small disks that are really full, which root may mount.

It is a process of its own, because a process that has run TensorFlow or OpenCV cannot be forked.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.torture.commands import COMMANDS, Command
from tests.torture.faults import Fault, Outcome, attempt
from tests.torture.figures import Figure, chosen

__all__ = ["all_figures", "figures", "may_mount"]

Kind = Literal["kill", "full", "disk"]
_SAID = {
    "kill": "kill -9 at a write",
    "full": "full disk from a write on",
    "disk": "a small disk that is really full",
}
_SIZES = 24
_LOADED = {
    "train": ("tensorflow", "keras", "rsseg_tf.training", "tests.fixtures.configs"),
    "predict": ("rasterio", "cv2", "rsseg_tf.predict", "tests.fixtures.scenes"),
    "prepare": ("rasterio", "cv2", "rsseg_tf.datasets", "tests.fixtures.downloads"),
    "export": ("tensorflow", "keras", "rsseg_tf.export", "tests.fixtures.checkpoints"),
}


def figures(kind: Kind, names: list[str], seed: int, limit: int | None) -> list[Figure]:
    """Runs the worker and returns what it counted.

    Args:
        kind: what happens.
        names: of commands.
        seed: of the choice of points.
        limit: points of each command; None for all.
    """
    found = []
    for name in names:
        command = [sys.executable, "-m", "tests.torture.worker", kind, name, str(seed), str(limit or 0)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parents[2])
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
        found.append(Figure(**json.loads(lines[-1])))
    return found


def all_figures(kind: Kind, seed: int, limit: int | None) -> list[Figure]:
    """Runs all commands; those without TensorFlow, which take a tenth of the time, at eight times as many points."""
    found = []
    for name in COMMANDS:
        cheap = name.split()[0] in ("predict", "prepare")
        found += figures(kind, [name], seed, limit and limit * (8 if cheap else 1))
    return found


def main(kind: Kind, name: str, seed: int, limit: int | None) -> Figure:
    """Tries one command."""
    for module in _LOADED[name.split()[0]]:
        importlib.import_module(module)
    command = COMMANDS[name]()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        root = Path(folder)
        base, reference = root / "input", root / "reference"
        base.mkdir()
        _require(attempt(lambda: command.make_input(base), base))
        command.lay_out(reference)
        undisturbed = attempt(lambda: command.run(base, reference), reference)
        _require(undisturbed)
        _require(attempt(lambda: command.check_in_the_end(reference, reference), reference))
        if kind == "disk":
            places = _sizes(command, root, reference)
            said = [f"{size} KiB" for size in places]
        else:
            places = list(range(1, len(undisturbed.points) + 1))
            said = list(undisturbed.points)
        tried = chosen(list(zip(places, said, strict=True)), limit, seed)
        wrong: list[str] = []
        reached = 0
        for place, words in tried:
            fault = _try_disk(command, root, place) if kind == "disk" else _try(command, root, Fault(kind, place))
            reached += fault is not None
            if fault:
                wrong.append(f"{words}: {fault}")
                print(wrong[-1], file=sys.stderr, flush=True)
    note = wrong[0] if wrong else f"of {len(places)} {'sizes' if kind == 'disk' else 'points'}"
    return Figure(f"{name}: {_SAID[kind]}", reached, reached - len(wrong), note)


def _try(command: Command, root: Path, fault: Fault) -> str | None:
    """Does the command with a fault, and again without; returns what is wrong, or an empty string.

    A run may have a point less than the undisturbed one, by threads and random names: None where it did not come to
    it.
    """
    base, case = root / "input", root / "case"
    shutil.rmtree(case, ignore_errors=True)
    command.lay_out(case)
    first = attempt(lambda: command.run(base, case), case, fault)
    if first.end == "crashed":
        return _told(first)
    if fault.kind == "kill" and first.end == "done" and len(first.points) < fault.at:
        return None
    if fault.kind == "kill" and first.end != "killed":
        return _told(first)
    return _mended(command, root, lambda: None)


def _try_disk(command: Command, root: Path, size: int) -> str:
    """The same on a disk of so many KiB, which then grows."""
    base, case = root / "input", root / "case"
    shutil.rmtree(case, ignore_errors=True)
    with _disk(case, size) as grow:
        command.lay_out(case)
        first = attempt(lambda: command.run(base, case), case)
        if first.end == "crashed":
            return _told(first)
        return _mended(command, root, grow)


def _mended(command: Command, root: Path, grow: Callable[[], object]) -> str:
    """Looks at what is left, does the command again, and looks at the result."""
    base, reference, case = root / "input", root / "reference", root / "case"
    found = attempt(lambda: command.check_after_fault(base, case), case)
    if found.end != "done":
        return _told(found)
    grow()
    for work in (lambda: command.again(base, case), lambda: command.check_in_the_end(reference, case)):
        outcome = attempt(work, case)
        if outcome.end != "done":
            return _told(outcome)
    return ""


def _sizes(command: Command, root: Path, reference: Path) -> list[int]:
    """Returns sizes of disks in KiB: from too small for the first file to room for more than the result.

    What is there before has room in any case.
    """
    case = root / "case"
    command.lay_out(case)
    taken = 4 * _pages(case)
    shutil.rmtree(case)
    least, most = taken + 16, max(taken + 64, int(1.2 * (taken + 4 * _pages(reference))))
    return [least + (most - least) * i // (_SIZES - 1) for i in range(_SIZES)]


def _pages(folder: Path) -> int:
    return sum(-(-path.stat().st_size // 4096) if path.is_file() else 1 for path in folder.rglob("*")) + 1


@contextmanager
def _disk(place: Path, size: int) -> Iterator[Callable[[], object]]:
    """Mounts a disk of so many KiB; gives what makes it large."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(place)], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=512m", str(place)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def may_mount() -> bool:
    """Tells whether this user may mount small disks here."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode:
            return False
        subprocess.run(["umount", "--lazy", folder], check=True)
        return True


def _told(outcome: Outcome) -> str:
    lines = outcome.said.strip().splitlines() or [""]
    return f"{outcome.end}: {lines[-1]}"


def _require(outcome: Outcome) -> None:
    if outcome.end != "done":
        raise RuntimeError(f"without any fault: {outcome.said}")


if __name__ == "__main__":
    kind, name, seed, limit = sys.argv[1:]
    print(json.dumps(dataclasses.asdict(main(kind, name, int(seed), int(limit) or None))))  # type: ignore[arg-type]
