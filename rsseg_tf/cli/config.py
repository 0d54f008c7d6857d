"""`rsseg-tf config show|check|list`."""

from __future__ import annotations

import click

from rsseg_tf.cli.options import ManyValues, load

__all__ = ["command"]

_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change any value, e.g. --set train.iters=100."
)


@click.group(name="config")
def command() -> None:
    """Show, check and list configs."""


@command.command(cls=ManyValues)
@click.argument("config", metavar="CONFIG")
@_overrides
def show(config: str, overrides: tuple[str, ...]) -> None:
    """Print the whole config as it will run: bases merged, defaults filled in, overrides applied."""
    from rsseg_tf.config import dump_config

    click.echo(dump_config(load(config, overrides)), nl=False)


@command.command()
@click.argument("configs", nargs=-1, required=True, metavar="CONFIG...")
def check(configs: tuple[str, ...]) -> None:
    """Check configs without running anything; exit code 2 if one is wrong."""
    from rsseg_tf.errors import ConfigError

    wrong = []
    for config in configs:
        try:
            load(config, ())
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
