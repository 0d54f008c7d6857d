"""What a new user mistypes or leaves out is told with the next step."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rsseg_tf.cli import main
from rsseg_tf.cli.commands import ManyValues
from rsseg_tf.cli.main import _COMMANDS
from tests.fixtures.configs import use_tiny_backbone, write_config, write_dataset


def every_command() -> Iterator[tuple[str, click.Command]]:
    """Yields the words and the command of all commands and subcommands."""

    def walk(words: tuple[str, ...], command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield " ".join(words), command
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                if (inner := command.get_command(click.Context(command), name)) is not None:
                    yield from walk((*words, name), inner)

    return walk((), main)


EVERY = dict(every_command())


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'? Commands: prepare, check-data, "),
        ("check_dta", "Did you mean 'check-data'?"),
        ("xyz", "No such command 'xyz'. Commands: prepare, "),
        ("config lst", "No such command 'lst'. Did you mean 'list'?"),
        ("prepare scens x.tif", "There is no 'scens'. Did you mean 'scenes'? Allowed: "),
        ("prepare potsdm x.zip", "There is no 'potsdm'. Did you mean 'potsdam'? Allowed: "),
        ("serve inti", "There is no 'inti'. Did you mean 'init'?"),
        ("benchmark trian", "There is no 'trian'. Did you mean 'train'?"),
        ("train --confg x", "Did you mean '--config'?"),
        ("train --save_dri x", "'--save-dir'"),
        ("predict --model_pth x", "'--model-path'"),
    ],
)
def test_a_mistyped_word_gets_a_suggestion(typed: str, told: str) -> None:
    result = CliRunner().invoke(main, typed.split())
    assert result.exit_code == 2 and told in result.output, result.output


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "train",
            "Missing option '--config'. `rsseg-tf config list` names the shipped ones; `rsseg-tf prepare",
        ),
        ("train data/mine/mine.yml", "Missing option '--config'. Write --config data/mine/mine.yml."),
        ("eval output/best_model", "Missing option '--model-path'. Write --model-path output/best_model."),
        ("pretrain", "Missing option '--config'. `rsseg-tf config list pretrain` names "),
        ("probe", "`rsseg-tf config list`"),
        ("benchmark train", "`rsseg-tf config list`"),
        ("config show", "Missing argument 'CONFIG'. `rsseg-tf config list`"),
        ("config check", "Missing argument 'CONFIG...'. `rsseg-tf config list`"),
        ("eval", "Missing option '--model-path'. `rsseg-tf train --do_eval` writes output/best_model"),
        ("predict", "--model_path is missing: a checkpoint or an exported model; or --server"),
        ("export", "Missing argument 'CHECKPOINT'. `rsseg-tf train"),
        ("export x", "Missing option '-o' / '--output'. Name a folder"),
        ("verify", "Missing argument 'DIR'. `rsseg-tf export` writes"),
        ("convert", "Missing argument 'SRC'. Name a file or URL of released weights"),
        (
            "prepare",
            "million-aid, potsdam, synthetic, vaihingen. Bring your own data instead",
        ),
        ("prepare scenes x.tif", "Missing option '--labels'. Name a file of polygons"),
        ("prepare annotations", "Missing argument 'IMAGES...'. Name the folders"),
        ("serve init x", "Missing option '--export'. `rsseg-tf export` writes"),
        (
            "check-data",
            "Name one thing to check: a folder or a config, e.g. rsseg-tf check-data data/dubai; got",
        ),
    ],
)
def test_what_is_missing_is_told_with_the_next_step(typed: str, told: str) -> None:
    result = CliRunner().invoke(main, typed.split())
    assert result.exit_code == 2 and told in result.output, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert result.output.rstrip().endswith(line), "an error is one line"


def test_every_required_option_and_argument_has_a_next_step() -> None:
    without = [
        f"{words} {parameter.name}"
        for words, command in EVERY.items()
        for parameter in command.params
        if parameter.required and not getattr(parameter, "next_step", "")
    ]
    assert without == ["config import source", "serve init directory"], "these name what they want themselves"


@pytest.mark.parametrize("typed", ["check-data {}", "check-data {} --num-classes 3"])
def test_check_data_speaks_of_a_folder_where_a_folder_was_named(typed: str, tmp_path: Path) -> None:
    assert "dataset.root" in CliRunner().invoke(main, ["check-data", "fcn/fcn_hrnet_w18_dubai_512x512_80k"]).output
    result = CliRunner().invoke(main, typed.format(tmp_path / "nofolder").split())
    assert result.exit_code == 2
    assert f"Error: There is no folder {tmp_path / 'nofolder'}, and no config of that name" in result.output
    shipped = CliRunner().invoke(main, ["check-data", "fcn/fcn_hrnet_w18_dubia_512x512_80k.yml"])
    assert "Did you mean 'fcn/fcn_hrnet_w18_dubai_512x512_80k.yml'?" in shipped.output


def test_serve_names_the_path_before_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str, extra: str) -> None:
        raise AssertionError(f"{module} was looked for before the path")

    monkeypatch.setattr("rsseg_tf.extras.require", missing)
    (tmp_path / "file").touch()
    for name, why in (("nothing", "does not exist"), ("file", "is a file")):
        result = CliRunner().invoke(main, ["serve", str(tmp_path / name)])
        assert result.exit_code == 2 and f"Error: {tmp_path / name} {why}; a folder of a SavedModel" in result.output


# === The name of a dataset ===


def test_reports_carry_the_users_name_of_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_backbone(monkeypatch)
    config = write_config(tmp_path / "tiny.yml", write_dataset(tmp_path / "data"))
    config.write_text(config.read_text("utf-8").replace("classes:", "title: My fields 2024, classes:"), "utf-8")
    out = tmp_path / "out"

    def run(*words: object) -> str:
        result = CliRunner().invoke(main, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    run("train", "--config", config, "-o", out, "--iters", 1)
    run("eval", "--model_path", out / "iter_1", "-o", out, "--report", out / "page.html")
    assert json.loads((out / "eval.json").read_text("utf-8"))["dataset"] == "My fields 2024"
    assert "Evaluation: My fields 2024" in (out / "page.html").read_text("utf-8")
    assert "My fields 2024: " in run("check-data", config, "-o", out / "data.json")
    assert json.loads((out / "data.json").read_text("utf-8"))["dataset"]["name"] == "My fields 2024"


# === Help ===


@pytest.mark.parametrize("words", EVERY)
def test_help_fits_80_columns(words: str) -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*words.split(), "--help"], prog_name="rsseg-tf")
    assert result.exit_code == 0, result.output
    assert [line for line in result.output.splitlines() if len(line) > 80] == []
    assert "..." not in re.sub(r"[A-Z\]=]\.\.\.|, \.\.\.|EXPORT_DIR/2,\s+\.\.\.", "", result.output), "cut short"


# The options that nearly everyone needs; they stand first, under no heading but Options.
COMMON = {
    "train": ["--config", "--set", "--do-eval", "--iters", "--batch-size", "--learning-rate", "--output"],
    "pretrain": ["--config", "--set", "--epochs", "--iters", "--output"],
    "eval": ["--model-path", "--output", "--config", "--protocol", "--report"],
    "predict": ["--model-path", "--image-path", "--output"],
    "export": ["--output", "--format", "--quantize", "--tile", "--version"],
    "check-data": ["--config", "--set", "--strict", "--show", "--output", "--json"],
    "probe": ["--config", "--set", "--backbone", "--output"],
    "convert": ["--config", "--output", "--overwrite"],
    "verify": ["--images", "--checkpoint", "--output"],
    "benchmark model": ["--checkpoint", "--size", "--output"],
    "benchmark train": ["--config", "--seconds", "--output"],
    "prepare dataset": ["--output", "--splits", "--workers"],
    "prepare scenes": ["--labels", "--output"],
    "prepare annotations": ["--labels", "--output"],
    "serve model": ["--model-name", "--host", "--rest-port", "--grpc-port"],
    "quickstart": ["--output"],
}


@pytest.mark.parametrize("words", COMMON)
def test_common_options_come_first(words: str) -> None:
    command = EVERY[words]
    first = command.get_help(click.Context(command)).split("\nOptions:\n")[1].split("\n\n")[0]
    for name in COMMON[words]:
        assert re.search(rf"^ .*{name}\b", first, re.M), f"{name} is not among the first options of {words}:\n{first}"
    many = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    assert len(many) <= 12 or any(hasattr(one, "heading") for one in many), "so many want headings"


def test_every_command_that_writes_results_takes_o() -> None:
    writing = [words for words in COMMON if words != "serve model"]
    for words in writing:
        assert any("-o" in one.opts and "--output" in one.opts for one in EVERY[words].params), words
    # The names of earlier versions, and of the original.
    for words, old in {
        "train": "--save-dir", "pretrain": "--save-dir", "eval": "--save-dir", "predict": "--save-dir",
        "verify": "--json", "probe": "--json", "benchmark model": "--json", "benchmark train": "--json",
        "prepare scenes": "--out-dir",
    }.items():  # fmt: skip
        (option,) = [one for one in EVERY[words].params if "-o" in one.opts]
        assert old in option.opts
        assert f"--output, {old}" in EVERY[words].get_help(click.Context(EVERY[words]))


def test_all_commands_are_of_the_kind_that_explains_itself() -> None:
    leaves = {words: one for words, one in EVERY.items() if not isinstance(one, click.Group)}
    assert len(leaves) > len(_COMMANDS)
    others = [words for words, one in leaves.items() if not isinstance(one, ManyValues)]
    assert others == ["quickstart"], "these take no list and need nothing"
