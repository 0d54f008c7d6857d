"""`rsseg-tf config show|check|list|import`."""

from __future__ import annotations

from pathlib import Path

import click

from rsseg_tf.cli.commands import Commands, ManyValues, needed
from rsseg_tf.cli.config_list import list_configs
from rsseg_tf.cli.options import set_option

__all__ = ["command"]


_SHIPPED = "`rsseg-tf config list` names the shipped ones."


@click.group(name="config", cls=Commands)
def command() -> None:
    """Show, check, list and import configs."""


@command.command(cls=ManyValues)
@needed(_SHIPPED, click.argument("config", metavar="CONFIG"))
@set_option
def show(config: str, overrides: tuple[str, ...]) -> None:
    """Print the whole config of a run: bases merged, defaults filled in, overrides applied."""
    from rsseg_tf.config import dump_config, load_any_config

    click.echo(dump_config(load_any_config(config, overrides)), nl=False)


@command.command(cls=ManyValues)
@needed(_SHIPPED, click.argument("configs", nargs=-1, required=True, metavar="CONFIG..."))
def check(configs: tuple[str, ...]) -> None:
    """Check configs without running anything; exit code 2 if one is wrong."""
    from rsseg_tf.config import load_any_config
    from rsseg_tf.errors import ConfigError

    wrong = []
    for config in configs:
        try:
            load_any_config(config)
        except ConfigError as error:
            wrong.append(str(error))
        else:
            click.echo(f"{config}: ok")
    if wrong:
        raise ConfigError("\n".join(wrong))


command.add_command(list_configs)


@command.command(name="import", cls=ManyValues)
@click.argument("source", type=Path, metavar="FILE|DIR")
@click.option("-o", "--output", type=Path, metavar="FILE|DIR", help="File to write; without it, print. For a folder: "
              "the folder to write to; without it, say what would become of each file.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace output files that exist.")
def import_(source: Path, output: Path | None, overwrite: bool) -> None:
    """Turn a YAML config of PaddleSeg, or a folder of them, into configs of rsseg-tf.

    Its bases (_base_) are merged in. A base file without a model gives the sections that it has, for `base:`.
    Decisions are noted at the top of the result. Settings without a counterpart are errors: all of them are listed,
    and nothing is written.

    Of a folder all that can be imported is written, into folders as those it came from; a table tells what was refused
    and why. The exit code is then 0 if nothing was refused, 1 if something was, and 2 if nothing could be imported.
    """
    from rsseg_tf.config.paddleseg import import_paddleseg
    from rsseg_tf.errors import ConfigError, reason
    from rsseg_tf.files import atomic_path

    if source.is_dir():
        _import_folder(source, output, overwrite)
        return
    imported = import_paddleseg(source)
    text = imported.text(source.name)
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists; choose another name, or replace it with --overwrite.")
    try:
        with atomic_path(output) as partial:
            partial.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {reason(error)}. Choose another place.") from error
    for note in imported.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(f"Wrote {output}")


def _import_folder(source: Path, output: Path | None, overwrite: bool) -> None:
    """Imports a folder, and prints a table of what became of its files; exit code 1 if some were refused."""
    from rich.console import Console

    from rsseg_tf.cli.output import narrow_table
    from rsseg_tf.config.paddleseg_tree import import_tree, write_tree

    entries = import_tree(source)
    table = narrow_table(f"{len(entries)} files of {source}")
    table.add_column("file", overflow="fold", ratio=2)
    table.add_column("result", no_wrap=True, min_width=8)
    table.add_column("why", overflow="fold", ratio=3)
    base = "part of others"
    for entry in entries:
        table.add_row(entry.path.as_posix(), entry.result, base if entry.is_base else entry.why)
    Console(highlight=False, markup=False).print(table)
    counts = {name: sum(entry.result == name for entry in entries) for name in ("imported", "base", "refused")}
    if output is not None:
        write_tree(entries, output, overwrite=overwrite)
    click.echo(
        f"{counts['imported']} imported, {counts['base']} bases, {counts['refused']} refused"
        + (
            f": {output}. Notes stand at the top of each file."
            if output is not None
            else "; name a folder with -o to write what was imported."
        )
    )
    if counts["refused"]:
        click.get_current_context().exit(1)
