"""No locale, pipe or width ends a command, and exit codes mean one thing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rsseg_tf.cli.main import INTERRUPTED, UNEXPECTED, main
from rsseg_tf.errors import DataError
from tests.fixtures.datasets import write_sound


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command as a process of its own, whose locale and streams are real."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONIOENCODING", "COLUMNS")}
    script = "import sys; from rsseg_tf.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, encoding="utf-8", errors="replace", timeout=120
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset in which one name is no UTF-8, and one class has letters that ASCII lacks."""
    root = write_sound(tmp_path / "data")
    for kind in ("images", "labels"):
        os.rename(root / kind / "train_1.png", os.fsencode(root / kind) + b"/caf\xe9.png")
    lists = (root / "train.txt").read_bytes().replace(b"train_1", b"caf\xe9")
    (root / "train.txt").write_bytes(lists + b"images/g\xe9ne.png labels/g\xe9ne.png\n")
    for kind in ("images", "labels"):
        Path(os.fsdecode(os.fsencode(root / kind) + b"/g\xe9ne.png")).write_bytes(b"no image")
    (root / "labels.txt").write_text("ground\nDächer\nroad\n", "utf-8")
    return root


@pytest.mark.parametrize(
    "locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "ascii"}]
)
def test_a_report_in_an_ascii_locale_is_whole(root: Path, locale: dict[str, str]) -> None:
    plain, ascii_only = run("check-data", str(root)), run("check-data", str(root), **locale)
    assert (plain.returncode, ascii_only.returncode) == (1, 1), ascii_only.stderr
    assert "Dächer" in plain.stdout and "D\\xe4cher" in ascii_only.stdout
    for report in (plain, ascii_only):
        assert "2 errors, 0 warnings, 0 notes." in report.stdout
        assert "images/g\\xe9ne.png is not a PNG, JPEG or TIFF file" in report.stdout
    as_json = json.loads(run("check-data", str(root), "--json", **locale).stdout)
    assert [finding["files"] for finding in as_json["findings"]] == [
        ["images/g\\xe9ne.png"],
        ["labels/g\\xe9ne.png"],
    ]


@pytest.mark.parametrize("columns", ["0", "1", "-5", "x"])
def test_a_width_that_means_nothing_leaves_the_report_whole(
    root: Path, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    printed = CliRunner().invoke(main, ["check-data", str(root)]).output
    assert "Pixels of each class" in printed
    assert all(name in printed for name in ("ground", "Dächer", "road", "file-unreadable"))


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (DataError("a file is wrong."), 2, "Error: a file is wrong."),
        (KeyError("bug"), UNEXPECTED, "KeyError: 'bug'"),
        (MemoryError(), 2, "memory is short: MemoryError"),
        (KeyboardInterrupt(), INTERRUPTED, "Stopped."),
        (click.UsageError("no such thing"), 2, "no such thing"),
        (SystemExit(1), 1, ""),
    ],
)
def test_each_end_of_a_command_has_its_code(
    raised: BaseException, code: int, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @click.command()
    def command() -> None:
        raise raised

    monkeypatch.setattr(type(main), "get_command", lambda *_: command)
    result = CliRunner().invoke(main, ["anything"])
    assert result.exit_code == code
    assert shown in result.output
