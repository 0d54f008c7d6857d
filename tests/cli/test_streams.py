"""Streams that fail, and errors that nobody thought of: the work goes on, and exit codes keep their meaning."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from rsseg_tf.cli import main as group

# A command that prints line after line around a piece of work; its errors of writing files are its own.
COMMAND = """
import sys, click
from pathlib import Path
from rsseg_tf.cli.main import main

@click.command()
def work():
    for i in range(2000):
        click.echo("line " * 40)
        print("stderr", file=sys.stderr)
        with open("done", "w") as file:
            file.write(str(i))

main.get_command = lambda ctx, name: work
main(["work"])
"""


def run(folder: Path, redirection: str, code: str = COMMAND) -> subprocess.CompletedProcess[str]:
    (folder / "command.py").write_text(code)
    line = f"{sys.executable} -W ignore command.py {redirection}"
    place = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=folder, env=place)


@pytest.mark.parametrize(
    "redirection",
    ["2>err | head -1; exit ${PIPESTATUS[0]}", "2>&1 >/dev/null | head -1 >/dev/null; exit ${PIPESTATUS[0]}",
     "2>&-", ">&-", ">&- 2>&- <&-", "2>/dev/full"],
)  # fmt: skip
def test_a_reader_that_leaves_costs_nothing(tmp_path: Path, redirection: str) -> None:
    result = run(tmp_path, redirection)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "done").read_text() == "1999"
    messages = result.stderr + ((tmp_path / "err").read_text() if (tmp_path / "err").exists() else "")
    assert set(messages.splitlines()) <= {"stderr"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_under_standard_output_is_told_after_the_work(tmp_path: Path) -> None:
    result = run(tmp_path, ">/dev/full")
    assert (tmp_path / "done").read_text() == "1999"
    assert result.returncode == 2
    assert "Error: standard output could not be written: No space left on device. " in result.stderr


def test_files_do_not_get_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    code = COMMAND.replace('with open("done", "w") as file:', 'with open("done", "w") as file:\n            import os')
    code = code.replace("file.write(str(i))", "os.write(2, b'a library complains'); file.write(str(i))")
    assert run(tmp_path, "2>&-", code).returncode == 0
    assert (tmp_path / "done").read_text() == "1999"


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (TypeError("a bug"), 70, "did not expect this: TypeError: a bug. Please report it"),
        (MemoryError("3 GiB"), 2, "memory is short: MemoryError: 3 GiB. Choose smaller"),
        (PermissionError(13, "Permission denied", "/x"), 2, "/x: Permission denied. Check the path"),
        (ImportError("libz.so.9: no such file", name="rasterio"), 2, "Unset LD_LIBRARY_PATH=/other/gis"),
        (KeyboardInterrupt(), 130, "Stopped."),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_code_1_is_kept_for_its_own_meaning(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, line: str
) -> None:
    @click.command()
    def work() -> None:
        raise raised

    for name in ("PYTHONPATH", "LD_PRELOAD", "RSSEG_TF_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", "/other/gis")
    monkeypatch.setattr(type(group), "get_command", lambda self, ctx, name: work)
    result = CliRunner().invoke(group, ["work"])
    assert result.exit_code == code and line in result.stderr and "Traceback" not in result.output
    if code == 70:
        monkeypatch.setenv("RSSEG_TF_TRACEBACK", "1")
        assert "Traceback" in CliRunner().invoke(group, ["work"]).stderr


def test_the_quickstart_ends_where_a_signal_ended_its_training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done: list[str] = []
    original = type(group).main

    def main(self: Any, args: list[str], *rest: Any, **extra: Any) -> Any:
        if args[0] == "quickstart":
            return original(self, args, *rest, **extra)
        done.append(args[0])
        return 143 if args[0] == "train" else None  # what `train` gives after SIGTERM

    monkeypatch.setattr(type(group), "main", main)
    result = CliRunner().invoke(group, ["quickstart", "-o", str(tmp_path)])
    assert done == ["prepare", "train"] and result.exit_code == 143
