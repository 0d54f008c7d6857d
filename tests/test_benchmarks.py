"""The benchmarks as programs: what they share, their marks in the page, and the commands that pages name."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from benchmarks import measuring, pairs
from benchmarks.measuring import Figures, between_marks, fastest, header, kept, rate, row
from rsseg_tf.config import zoo

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {path.stem: path for path in sorted((ROOT / "benchmarks").glob("*.py")) if path.stem != "__init__"}
del PROGRAMS["measuring"]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(ROOT / "docs").glob("*.md"),
    *(ROOT / "benchmarks").glob("*.md"),
]


def marked_figures(path: Path) -> set[str]:
    """The names of the figures that a program writes into the page; of each, the part as far as it is known."""
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    return {
        ast.literal_eval(call.args[0])
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "Figures"
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_benchmark_is_a_program_with_its_marks_in_one_page(name: str) -> None:
    text = PROGRAMS[name].read_text("utf-8")
    assert "\ndef main(" in text and '\nif __name__ == "__main__":\n' in text
    assert f"python -m benchmarks.{name}" in text, "the docstring tells how to run it"
    assert marked_figures(PROGRAMS[name]) <= {name}
    if marked_figures(PROGRAMS[name]):
        (page,) = (text for text in map(Path.read_text, PAGES) if f"<!-- figures of {name}" in text)
        begun = re.findall(rf"^<!-- figures of ({name}(?: \w+)?) -->$", page, re.M)
        assert begun and begun == re.findall(rf"^<!-- end of ({name}(?: \w+)?) -->$", page, re.M)
        assert all(between_marks(page, marks, "| new |") != page for marks in begun)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_run_benchmarks_that_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    assert set(re.findall(r"python -m benchmarks\.(\w+)", text)) <= {*PROGRAMS, "NAME"}
    assert not re.findall(r"python benchmarks/", text), "benchmarks are a package: python -m benchmarks.NAME"


def test_help_tells_of_write() -> None:
    command = [sys.executable, "-m", "benchmarks.starting", "--help"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--write" in result.stdout and "python -m benchmarks.starting" in result.stdout


def test_figures_are_printed_and_replace_those_of_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "README.md"
    page.write_text("a\n<!-- figures of x one -->\n| old |\n<!-- end of x one -->\nb\n", "utf-8")
    monkeypatch.setattr(sys, "argv", ["x", "--write", "--steps", "3"])
    figures = Figures("x", part="one", page=page)
    figures.table("what", "s")
    figures.row("a", 1.5)
    figures.table("other", "MB")
    figures.write()
    text = page.read_text("utf-8")
    table = "| what | s |\n|---|--:|\n| a | 1.5 |\n\n| other | MB |\n|---|--:|\n"
    assert text.startswith(f"a\n<!-- figures of x one -->\n{table}\nMade by `python -m benchmarks.x --steps 3` on ")
    assert text.endswith(".\n<!-- end of x one -->\nb\n") and "old" not in text
    assert capsys.readouterr().out == table


@pytest.mark.parametrize("page", ["", "<!-- figures of x -->", "<!-- figures of x --><!-- end of x -->" * 2])
def test_marks_that_are_not_there_once_are_an_error(page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        between_marks(page, "x", "new")


def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    calls: list[int] = []

    def make() -> dict[str, int]:
        calls.append(1)
        return {"s": 3}

    assert [kept(tmp_path / "one.json", make) for _ in range(2)] == [{"s": 3}] * 2 and calls == [1]


def test_pairs_are_pairs_of_the_zoo_that_take_turns() -> None:
    assert len({pair.label for pair in pairs.PAIRS}) == len(pairs.PAIRS) >= 20
    for pair in pairs.PAIRS:
        section = TypeAdapter(zoo.Model).validate_json(json.dumps(pair.config()["model"]))
        assert section.label == pair.label
    order: list[str] = []
    times = pairs.in_turns({name: partial(order.append, name) for name in "ab"})
    assert order == ["a", "b"] * (1 + pairs.ROUNDS) and times.keys() == {"a", "b"}
    found = {"parameters": 5.2e6, "multiplications": 11.7e9, "step": (0.5, 0.9), "refused": {"onnx": "why"}}
    found["engines"] = dict.fromkeys(set(pairs.ENGINES) - {"onnx"}, (0.1, 0.2))
    (one,) = (pair for pair in pairs.PAIRS if pair.label == "unet_mobilenetv2")
    expected = ["unet", "MobileNetV2 of keras_applications", "5.2", "11.7", "0.50 (0.90)", *["100 (200)"] * 5]
    expected[7] = "refused"
    assert list(pairs.cells(one, found)) == expected


def test_times_and_rates_are_counted() -> None:
    calls: list[int] = []
    assert 0 < fastest(lambda: calls.append(1), repeats=3, patience_s=10) < 1
    assert len(calls) == 4, "one to warm up"
    calls.clear()
    assert 0 < rate(lambda: calls.append(1), 0.01, warm_up=5) <= (len(calls) - 5) / 0.01
    assert (header(["a"]), row(["x", 2])) == ("| a |\n|---|", "| x | 2 |")
    assert str(measuring.cpu_name()) in measuring.machine()
