"""What the pages say: every command and Python snippet of README and docs is run, or at least understood."""

from __future__ import annotations

import argparse
import json
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import keras
import pytest
import yaml
from click.testing import CliRunner

from rsseg_tf.cli import main
from rsseg_tf.config import load_any_config
from tests.fixtures.documents import (
    BLOCKS,
    COMMANDS,
    DATA,
    DOCUMENTS,
    ROOT,
    Block,
    blocks_of,
    commands_of,
    data_of,
    shortened,
    use_tiny_backbone,
)

LINES = sorted({line for block in BLOCKS for line in block.lines()})
OWN = sorted({shlex.join(words) for line in LINES for words in commands_of(line)})
PYTHON = [page for page in DOCUMENTS if any(block.kind == "python" and not block.not_run for block in blocks_of(page))]
TOURS = [page for page in DOCUMENTS if data_of(page)]
WRITTEN = ("mine.yml", "pairs.yml", "theirs.yml", "config.yml")
"""Configs that readers write; those under data/ are written by commands."""
EXTERNAL = {
    "cp",
    "curl",
    "git",
    "docker",
    "kubectl",
    "npm",
    "sbatch",
    "cd",
    "tensorboard",
    "adb",
    "./gradlew",
    "cmake",
    "segment",
}
"""Programs of others, whose lines are not run: they need a server, a network or a phone."""


def ids(block: Block | Path) -> str:
    return str(block.relative_to(ROOT) if isinstance(block, Path) else block)


# === Commands ===


@pytest.mark.parametrize("line", OWN)
def test_every_command_parses_and_its_config_exists(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fields.geojson").touch()  # an area of interest must exist
    name, *arguments = shlex.split(line)
    if name.startswith("-"):  # --version
        return
    with click.Context(main, **{"token_normalize_func": main.context_settings["token_normalize_func"]}) as parent:
        command = main.get_command(parent, name)
        assert command is not None
        context = command.make_context(name, arguments, parent=parent)  # raises for a wrong option or value
        if isinstance(context.command, click.Group):  # whose subcommand the line names
            _, inner, arguments = context.command.resolve_command(context, arguments)
            assert inner is not None
            context = inner.make_context(inner.name, arguments, parent=context)
    config = context.params.get("config_path")
    if config and Path(config).name not in WRITTEN and not config.startswith("data/"):
        load_any_config(config, context.params["overrides"])


INLINE = sorted(
    {
        (str(page.relative_to(ROOT)), " ".join(code.split()))
        for page in DOCUMENTS
        if page.name != "CHANGELOG.md"  # which tells of what was
        for code in re.findall(r"(?<!`)`(rsseg-tf [a-z][^`]*)`(?!`)", page.read_text("utf-8"))
    }
)


@pytest.mark.parametrize(("page", "code"), INLINE)
def test_commands_within_sentences_exist_and_have_their_options(page: str, code: str) -> None:
    _, name, *words = re.sub(r"['\"…]", " ", code).split()
    if not re.fullmatch(r"[a-z][a-z-]+", name):
        return
    context = click.Context(main)
    command: click.Command | None = main.get_command(context, name)
    assert command is not None, f"{page}: there is no command {name}"
    known = [command]
    if isinstance(command, click.Group):
        inner = words[0] if words and words[0] in command.list_commands(context) else getattr(command, "default", "")
        if found := command.get_command(context, inner):
            known.append(found)
        first = next((param.type for param in known[-1].params if isinstance(param, click.Argument)), None)
        if inner not in words and re.match(r"[a-z]", " ".join(words)) and isinstance(first, click.Choice):
            assert words[0].replace("_", "-") in {str(name).replace("_", "-") for name in first.choices}, page
    options = {option.replace("_", "-") for one in known for param in one.params for option in param.opts}
    for word in words:
        if word.startswith("--"):
            option = word.partition("=")[0].rstrip(".,;:").replace("_", "-")
            assert option in options | {"--help"}, f"{page}: {name} has no {word}"


class _ParsedError(Exception):
    """A program has understood its command line."""


@pytest.mark.parametrize("line", LINES)
def test_every_line_of_a_shell_names_what_is_there(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "rsseg-tf" in line.replace("/rsseg-tf", ""):
        return  # the test above
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    match [Path(words[0]).name, *words[1:]]:
        case ["python" | "python3", "-m", module, *arguments] if module.startswith("benchmarks."):
            _parse(module, arguments, monkeypatch)
        case ["python" | "python3", "-m", module, *_]:
            assert module in ("pytest", "http.server", "venv", "pip", "tests.recorded.record")
        case ["python" | "python3", "-c", code, *_]:
            compile(code, line, "exec")
        case ["python" | "python3", script, *_]:
            known = [script, f"export/on_device/{script}", f"serving/{script}"]
            generated = script.endswith("web/serve.py")
            assert generated or any((ROOT / name).is_file() for name in known), f"there is no {script}"
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text("utf-8")
            named = [word for word in targets if "=" not in word]
            assert all(re.search(rf"^{name}:", makefile, re.M) for name in named)
        case ["pip", "install", *packages]:
            _check_extras(packages)
        case ["printf" | "(printf" | "(" | ".", *_]:
            pass
        case [program, *_]:
            assert program in EXTERNAL, f"{program} is neither ours nor one of {sorted(EXTERNAL)}"


def _parse(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if module == "benchmarks.NAME":  # which stands for any
        return
    program = ROOT / f"{module.replace('.', '/')}.py"
    if "ArgumentParser" not in program.read_text("utf-8"):
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: Any, **more: Any) -> None:
        parse(self, *given, **more)
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(_ParsedError):
        runpy.run_path(str(program), run_name="__main__")


def _check_extras(packages: list[str]) -> None:
    text = (ROOT / "setup.py").read_text("utf-8")
    for package in packages:
        found = re.fullmatch(r"(\.|rsseg-tf|dist/\S+)\[([\w,-]+)\]", package)
        for extra in found[2].split(",") if found else []:
            assert re.search(rf'^    "{extra}": \[|^EXTRAS\["{extra}"\] =', text, re.M), f"no extra {extra}"
        assert found or package.startswith(("-", ".")) or (ROOT / "setup.py").is_file()


# === Snippets ===


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind == "python"], ids=ids)
def test_python_is_python(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.kind in ("yaml", "json")], ids=ids)
def test_yaml_and_json_are_what_they_say(block: Block) -> None:
    assert yaml.safe_load(block.text) if block.kind == "yaml" else json.loads(block.text)


def test_every_block_says_what_it_is() -> None:
    kinds = {*COMMANDS, "python", "yaml", "json", "text", "kotlin", "cpp", "javascript"}
    assert [str(block) for block in BLOCKS if block.kind not in kinds] == []
    for path in DOCUMENTS:
        text = path.read_text("utf-8")
        assert text.count("<!-- not run:") == sum(block.not_run is not None for block in blocks_of(path)), path
        assert set(re.findall(r"<!-- runs on: (.*?) -->", text)) <= DATA.keys(), path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PYTHON if page not in TOURS], ids=ids)
def test_snippets_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, [block for block in blocks_of(page) if block.kind == "python" or block.title])


@pytest.mark.slow
@pytest.mark.parametrize("page", TOURS, ids=ids)
def test_a_page_runs_as_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    monkeypatch.chdir(tmp_path)
    DATA[data_of(page) or "nothing"](tmp_path, monkeypatch)
    run(page, blocks_of(page))


def run(page: Path, blocks: list[Block]) -> None:
    """Runs blocks in the current folder: commands, Python in one namespace, files that have a title."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks:
        if block.not_run:
            continue
        if block.title:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.text, "utf-8")
        elif block.kind == "python":
            exec(compile(block.text, str(block), "exec"), names)
        for line in block.lines():
            for words in commands_of(line):
                result = CliRunner().invoke(main, shortened(words))
                assert result.exit_code == 0, f"{block}: {line}\n{result.output}"
    keras.backend.clear_session()
