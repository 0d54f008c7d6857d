"""`rsseg-tf config show|check|list|import`."""

from __future__ import annotations

from pathlib import Path

import click

from rsseg_tf.cli.commands import Commands, ManyValues, needed
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


@command.command(name="list")
def list_() -> None:
    """List the configs that ship with the package; --config takes these names."""
    from rsseg_tf.assets import shipped_configs

    for name in shipped_configs():
        click.echo(name)


@command.command(name="import", cls=ManyValues)
@click.argument("source", type=Path, metavar="FILE")
@click.option("-o", "--output", type=Path, metavar="FILE", help="File to write; without it, print.")
@click.option("--overwrite", is_flag=True, help="Replace the output file if it exists.")
def import_(source: Path, output: Path | None, overwrite: bool) -> None:
    """Turn a YAML config of PaddleSeg into one of rsseg-tf.

    Its bases (_base_) are merged in. A base file without a model gives the sections that it has, for `base:`.
    Decisions are noted at the top of the result. Settings without a counterpart are errors: all of them are listed,
    and nothing is written.
    """
    from rsseg_tf.config.paddleseg import import_paddleseg
    from rsseg_tf.errors import ConfigError, reason
    from rsseg_tf.files import atomic_path

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
