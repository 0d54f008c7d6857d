"""The command group: imports commands when they are called, and prints errors as one line."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any

import click

from rsseg_tf import __version__
from rsseg_tf.cli.commands import Commands
from rsseg_tf.cli.streams import lost_output, make_output_safe
from rsseg_tf.errors import OldKeyWarning, RssegError, reason, show_traceback

__all__ = ["INTERRUPTED", "UNEXPECTED", "main"]

UNEXPECTED = 70
"""Exit code of unexpected errors, `EX_SOFTWARE` of sysexits.h; 1 and 2 have other meanings."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as in shells."""

# name -> (module, line in the list of commands), in the order of the work
_COMMANDS = {
    "prepare": ("rsseg_tf.cli.prepare", "Make tiles and lists from a dataset, or your own scenes."),
    "check-data": ("rsseg_tf.cli.check_data", "Find problems in a dataset before training."),
    "config": ("rsseg_tf.cli.config", "Show, check, list and import configs."),
    "convert": ("rsseg_tf.cli.convert", "Turn released weights into a checkpoint."),
    "pretrain": ("rsseg_tf.cli.pretrain", "Train a backbone on images without labels."),
    "probe": ("rsseg_tf.cli.probe", "Measure how well a backbone's features separate the classes."),
    "train": ("rsseg_tf.cli.train", "Train a model."),
    "eval": ("rsseg_tf.cli.evaluate", "Score a model's predictions against labels."),
    "predict": ("rsseg_tf.cli.predict", "Predict images: labels, pictures, GeoTIFFs."),
    "export": ("rsseg_tf.cli.export", "Export a checkpoint: SavedModel, TFLite, ONNX, OpenVINO."),
    "verify": ("rsseg_tf.cli.verify", "Compare exported models with the Keras model."),
    "benchmark": ("rsseg_tf.cli.benchmark", "Time exported models, and training on this machine."),
    "serve": ("rsseg_tf.cli.serve", "Answer requests on this machine as TensorFlow Serving does."),
    "quickstart": (
        "rsseg_tf.cli.quickstart",
        "Try all steps on synthetic scenes in about three minutes.",
    ),
}


# Variables that may make Python and the loader load libraries of another program.
_LIBRARY_PATHS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "PYTHONHOME")


class _Commands(Commands):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in _COMMANDS.items()])

    def main(self, *args: Any, **extra: Any) -> Any:
        make_output_safe()
        warnings.formatwarning = _format_note
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
        except RssegError as error:
            click.echo(f"Error: {error}", err=True)
            ctx.exit(2)
        except (click.exceptions.Exit, click.ClickException, click.Abort):
            raise
        except KeyboardInterrupt:
            click.echo("Stopped.", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            code, line = _unexpected(error)
            click.echo(f"Error: {line}", err=True)
            ctx.exit(code)
        if lost := lost_output():
            click.echo(f"Error: standard output could not be written: {lost}. What was printed is cut short.", err=True)
            ctx.exit(2)
        return result


_format_warning = warnings.formatwarning  # Python's own, before `_Commands.main` replaces it


def _format_note(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> str:
    """Returns a warning about an old key as a note, which names no line of the program."""
    if issubclass(category, OldKeyWarning):
        return f"Note: {message}\n"
    return _format_warning(message, category, *place, **options)


def _unexpected(error: Exception) -> tuple[int, str]:
    """Returns exit code and line for an unexpected error; see `show_traceback` for its traceback."""
    show_traceback(error)
    # By its name, because an import of TensorFlow takes seconds and it may not be loaded.
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return 2, f"memory is short: {reason(error)}. Choose smaller batches, windows or images."
    if isinstance(error, OSError) and error.errno is not None:
        return 2, f"{error.filename or 'a file'}: {reason(error)}. Check the path, its permissions and the free space."
    if isinstance(error, ImportError) and not (error.name or "").startswith("rsseg_tf"):
        paths = [f"{name}={os.environ[name]}" for name in _LIBRARY_PATHS if os.environ.get(name)]
        remedy = f"Unset {', '.join(paths)}" if paths else "Install the package again"
        return 2, f"a library cannot be loaded: {reason(error)}. {remedy}."
    return UNEXPECTED, (
        f"rsseg-tf {__version__} did not expect this: {reason(error)}. Please report it, with what is printed when the "
        "environment has RSSEG_TF_TRACEBACK=1."
    )


@click.group(
    cls=_Commands,
    # Users of PaddleSeg write --save_dir, others --save-dir: every command understands both.
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "max_content_width": 110,
    },
)
@click.version_option(__version__, prog_name="rsseg-tf")
def main() -> None:
    """Semantic segmentation of remote sensing images: prepare, train, evaluate, predict.

    Options may be written with dashes or underscores (--save-dir or --save_dir).
    """
    # TensorFlow's many log lines would hide those of the commands; a user who wants them sets the variable.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
