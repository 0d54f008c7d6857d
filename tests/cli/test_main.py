from __future__ import annotations

import ast
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from rsseg_tf import __version__
from rsseg_tf.cli import main
from rsseg_tf.cli.commands import ManyValues
from rsseg_tf.cli.main import _COMMANDS

HEAVY = ("tensorflow", "keras", "numpy", "cv2", "rasterio", "pydantic", "rich")


def test_help_imports_nothing_heavy_and_answers_at_once() -> None:
    code = (
        "import sys\n"
        "from rsseg_tf.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n"
        f"    print('heavy:', [name for name in {HEAVY} if name in sys.modules], stop.code)\n"
    )
    began = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - began < 10, "half a second is usual; this bound only catches an import of TensorFlow"
    assert "heavy: [] 0" in result.stdout
    for name, (_, line) in _COMMANDS.items():
        assert name in result.stdout and line in result.stdout


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_has_a_help_without_tensorflow(name: str) -> None:
    code = (
        f"import sys\nfrom rsseg_tf.cli import main\ntry:\n    main(['{name}', '--help'])\n"
        "except SystemExit:\n    print('heavy:', 'tensorflow' in sys.modules)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage:" in result.stdout and "heavy: False" in result.stdout


def test_every_option_is_explained() -> None:
    context = click.Context(main)
    for name in _COMMANDS:
        command = main.get_command(context, name)
        assert command is not None and command.help
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"


def test_version() -> None:
    version = f"rsseg-tf, version {__version__}\n"
    assert CliRunner().invoke(main, ["--version"]).output == version
    for module in ("rsseg_tf", "rsseg_tf.cli"):
        assert (
            subprocess.run([sys.executable, "-m", module, "--version"], stdout=subprocess.PIPE, text=True).stdout
            == version
        )


def test_an_unknown_command_or_option_is_a_usage_error() -> None:
    runner = CliRunner()
    assert runner.invoke(main, ["trian"]).exit_code == 2
    result = runner.invoke(main, ["train", "--confg", "x"])
    assert result.exit_code == 2 and "No such option" in result.output


def test_options_take_many_values_with_dashes_or_underscores() -> None:
    @click.command(cls=ManyValues)
    @click.option("--scales", multiple=True, type=float)
    @click.option("--crop-size", nargs=2, type=int)
    @click.option("--gpus", multiple=True, type=int)
    @click.option("--set", "overrides", multiple=True)
    @click.option("--save-dir")
    def command(**values: object) -> None:
        click.echo(repr(values))

    group = click.Group(
        "g", {"command": command}, context_settings={"token_normalize_func": lambda token: token.replace("_", "-")}
    )
    arguments = ["command", "--scales", "0.5", "1", "1.5", "--crop_size", "64", "32", "--gpus", "0,1", "2"]
    result = CliRunner().invoke(group, [*arguments, "--set", "a=[1,2]", "b_c=3", "--save_dir", "x_y"])
    assert result.exit_code == 0, result.output
    assert ast.literal_eval(result.output) == {
        "scales": (0.5, 1.0, 1.5), "crop_size": (64, 32), "gpus": (0, 1, 2), "overrides": ("a=[1,2]", "b_c=3"),
        "save_dir": "x_y",
    }  # fmt: skip
