"""What the benchmarks share: timing, child processes, the machine in a line, and tables that are written into pages."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("README.md")


# === The machine ===


def cpu_name() -> str:
    """Returns what the processor calls itself."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def machine() -> str:
    """Returns processor, memory, system and versions in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = [f"Python {platform.python_version()}"]
    for name, project in (("TensorFlow", "tensorflow"), ("Keras", "keras")):
        try:
            versions.append(f"{name} {version(project)}")
        except PackageNotFoundError:
            continue
    system = f"{platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} cores of {cpu_name()}, {memory:.0f} GiB, {system}; {', '.join(versions)}"


# === Timing ===


def seconds_of(call: Callable[[], object]) -> float:
    """Returns the wall time of a call in seconds."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def fastest(call: Callable[[], object], repeats: int, patience_s: float) -> float:
    """Returns the shortest time of a call in seconds, after one to warm up: what it takes when nothing else runs."""
    call()
    times: list[float] = []
    while len(times) < repeats and sum(times) < patience_s:
        times.append(seconds_of(call))
    return min(times)


def rate(advance: Callable[[], object], seconds: float, *, warm_up: int) -> float:
    """Returns calls per second, after some that fill buffers and start threads."""
    for _ in range(warm_up):
        advance()
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        advance()
        count += 1
    return count / (time.perf_counter() - began)


# === Other processes ===


def rsseg_tf(*arguments: str | Path, log: Path | None = None) -> float:
    """Runs a command as a user would, in a process of its own.

    Args:
        arguments: Of `rsseg-tf`.
        log: File for the output; it is shown if there is none.

    Returns:
        Wall time in seconds.
    """
    words = [str(argument) for argument in arguments]
    print("$", shlex.join(["rsseg-tf", *words]), flush=True)
    command = [sys.executable, "-m", "rsseg_tf.cli", *words]
    if log is None:
        return seconds_of(lambda: subprocess.run(command, check=True))
    with log.open("w") as file:
        return seconds_of(lambda: subprocess.run(command, check=True, stdout=file))


def measured_apart(
    name: str, *arguments: str, python: str = sys.executable, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Runs a benchmark in another process, and returns the JSON that it prints last.

    Args:
        name: Module below `benchmarks`.
        arguments: For its command line.
        python: Interpreter of another environment, if it is to run there.
        environment: Variables to add.
    """
    command = [python, "-m", f"benchmarks.{name}", *arguments]
    root = Path(__file__).resolve().parents[1]
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})}
    result = subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{result.stderr[-2000:]}")
    return dict(json.loads(result.stdout.splitlines()[-1]))


def kept(file: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns what a file of an earlier run holds, or makes it."""
    if not file.exists():
        file.write_text(json.dumps(make(), indent=2) + "\n", "utf-8")
    return dict(json.loads(file.read_text("utf-8")))


# === Tables ===


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """Returns a parser with a module's docstring as help, and the option `--write`."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the figures into README.md here, between their marks")
    return parser


def header(columns: Iterable[str]) -> str:
    """Returns the first two lines of a table in Markdown; all columns but the first are aligned to the right."""
    names = list(columns)
    return f"| {' | '.join(names)} |\n|---|{'--:|' * (len(names) - 1)}"


def row(cells: Iterable[object]) -> str:
    """Returns a line of a table in Markdown."""
    return f"| {' | '.join(str(cell) for cell in cells)} |"


class Figures:
    """Prints figures as they come, and writes them between two marks of a page when all are there.

    Args:
        name: Of the benchmark, which the marks name too.
        part: Of the benchmark, where it has several tables of its own.
        page: The page.
    """

    def __init__(self, name: str, *, part: str = "", page: Path = PAGE) -> None:
        self.name, self.part, self.page = name, part, page
        self.lines: list[str] = []

    def add(self, line: str) -> None:
        """Adds a line of text."""
        print(line, flush=True)
        self.lines.append(line)

    def table(self, *columns: str) -> None:
        """Begins a table."""
        if self.lines and self.lines[-1]:
            self.add("")
        self.add(header(columns))

    def row(self, *cells: object) -> None:
        """Adds a row to the table."""
        self.add(row(cells))

    def write(self) -> None:
        """Replaces what stands between the marks of this benchmark by these figures, and tells how they were made."""
        command = shlex.join(["python", "-m", f"benchmarks.{self.name}", *(w for w in sys.argv[1:] if w != "--write")])
        made = f"Made by `{command}` on {machine()}; {datetime.date.today():%Y-%m-%d}."
        text, marks = "\n".join(self.lines), f"{self.name} {self.part}".strip()
        self.page.write_text(between_marks(self.page.read_text("utf-8"), marks, f"{text}\n\n{made}"), "utf-8")


def between_marks(page: str, name: str, text: str) -> str:
    """Returns a page whose figures of a benchmark are replaced.

    Raises:
        ValueError: When the page does not have the two marks of that name exactly once.
    """
    begin, end = f"<!-- figures of {name} -->", f"<!-- end of {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must have the lines '{begin}' and '{end}' once each")
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", page, flags=re.S)
