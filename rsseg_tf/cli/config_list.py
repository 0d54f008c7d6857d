"""`rsseg-tf config list`: the configs that ship with the package, and what is known of them."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import click

from rsseg_tf.cli.commands import ManyValues

if TYPE_CHECKING:
    from rsseg_tf.config import Config, PretrainConfig

__all__ = ["Shipped", "list_configs", "shipped"]

_FIGURES = "figures.json"
"""In `configs/`; written by docs/make_model_zoo.py."""
_CPU = re.compile(r"_(cpu|quick)\.yml$")
"""Ends the names of the recipes that take minutes on a CPU; all others take hours on a GPU."""


@dataclass(frozen=True)
class Shipped:
    """What a row of the list says of a config.

    Attributes:
        name: The name that --config takes.
        task: The command that takes it.
        dataset: Name of its dataset.
        model: The segmentor, or the method of pre-training.
        backbone: What it is built on; None for a model of one piece.
        parameters: Trainable parameters; those of the backbone in pre-training.
        miou: Mean IoU in percent, 0..100; None where nobody has measured it.
        miou_source: `published` for weights of the original, `measured` for training by the config.
        trains_on: What the recipe is made for.
    """

    name: str
    task: Literal["train", "pretrain"]
    dataset: str
    model: str
    backbone: str | None
    parameters: int
    miou: float | None
    miou_source: str | None
    trains_on: Literal["cpu", "gpu"]


def shipped(
    words: Sequence[str] = (), *, datasets: Sequence[str] = (), trains_on: Literal["cpu", "gpu"] | None = None
) -> list[Shipped]:
    """Returns the shipped configs that fit.

    Args:
        words: All of them must occur in a row's name, task, dataset, model or backbone.
        datasets: Names of datasets, of which one must be the config's; none for all.
        trains_on: What the recipe must be made for; None for either.

    Raises:
        ConfigError: When there are none, or no shipped config has such a dataset.
    """
    from rsseg_tf.assets import shipped_configs
    from rsseg_tf.config import load_any_config
    from rsseg_tf.errors import ConfigError, did_you_mean

    rows = [_row(name, load_any_config(name)) for name in shipped_configs()]
    known = sorted({row.dataset for row in rows})
    for name in datasets:
        if name not in known:
            raise ConfigError(
                f"--dataset {name}: no shipped config has it.{did_you_mean(name, known)} There are: {', '.join(known)}."
            )
    found = [
        row
        for row in rows
        if (not datasets or row.dataset in datasets)
        and trains_on in (None, row.trains_on)
        and all(word.casefold() in _searched(row) for word in words)
    ]
    if not found:
        asked = " ".join([*words, *(f"--dataset {name}" for name in datasets)])
        asked += f" --device {trains_on}" if trains_on else ""
        raise ConfigError(f"No shipped config fits {asked.strip()}; `rsseg-tf config list` names all {len(rows)}.")
    return found


def _row(name: str, config: Config | PretrainConfig) -> Shipped:
    from rsseg_tf.config.pretrain import PretrainConfig

    figures = _figures()[name]
    pretrains = isinstance(config, PretrainConfig)
    backbone = config.backbone if isinstance(config, PretrainConfig) else config.model.backbone
    return Shipped(
        name=name,
        task="pretrain" if pretrains else "train",
        dataset=config.dataset.name,
        model=config.method.name if isinstance(config, PretrainConfig) else config.model.name,
        backbone=None if backbone is None else backbone.name,
        parameters=figures["parameters"],
        miou=figures.get("miou"),
        miou_source=figures.get("miou_source"),
        trains_on="cpu" if _CPU.search(name) else "gpu",
    )


def _figures() -> dict[str, dict[str, Any]]:
    from rsseg_tf.assets import asset_dir

    found: dict[str, dict[str, Any]] = json.loads((asset_dir("configs") / _FIGURES).read_text("utf-8"))
    return found


def _searched(row: Shipped) -> str:
    return " ".join([row.name, row.task, row.dataset, row.model, row.backbone or ""]).casefold()


@click.command(name="list", cls=ManyValues)
@click.argument("words", nargs=-1, metavar="[WORD]...")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME...", help="Only those for a dataset, e.g. isaid.")
@click.option("--device", "trains_on", type=click.Choice(["cpu", "gpu"]),
              help="Only recipes for a CPU, which take minutes, or for a GPU.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print all that is known as JSON.")
@click.option("--table/--names", "as_table", default=None,
              help="A table, or one name a line.  [default: a table on a terminal, names in a pipe]")  # fmt: skip
def list_configs(
    words: tuple[str, ...],
    datasets: tuple[str, ...],
    trains_on: Literal["cpu", "gpu"] | None,
    as_json: bool,
    as_table: bool | None,
) -> None:
    """List the configs that ship with the package; --config takes these names, with .yml or without.

    With WORD, only those in whose name, dataset, model or backbone all words occur, e.g. `config list unet dubai`.

    The table has a part for each dataset. Params are trainable parameters in millions. mIoU is in percent: what the
    original publishes for its weights, or with * what training by the config gave here. Recipes for a CPU take
    minutes; those for a GPU take hours.
    """
    if as_table is None:
        as_table = sys.stdout.isatty()
    if not (words or datasets or trains_on or as_table or as_json):
        from rsseg_tf.assets import shipped_configs

        for name in shipped_configs():  # at once, without a look into the files
            click.echo(name)
        return
    rows = shipped(words, datasets=datasets, trains_on=trains_on)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    elif as_table:
        _print(rows)
    else:
        for row in rows:
            click.echo(row.name)


def _print(rows: Sequence[Shipped]) -> None:
    """Prints a part for each dataset and task, in lines of at most 80 characters."""
    parts: dict[str, list[Shipped]] = {}
    for row in rows:
        parts.setdefault(row.dataset + (", pre-training" if row.task == "pretrain" else ""), []).append(row)
    names = {row.name: row.name.removesuffix(".yml") for row in rows}  # which --config takes as well
    width = max(map(len, names.values()))
    for title, part in sorted(parts.items()):
        click.secho(f"\n{title:<{width}}{'Params':>6} {'mIoU':>4}   for", bold=True)
        for row in part:
            score = "" if row.miou is None else f"{row.miou:.1f}" + ("*" if row.miou_source == "measured" else " ")
            click.echo(f"{names[row.name]:<{width}}{row.parameters / 1e6:>6.1f} {score:<5} {row.trains_on.upper()}")
    if any(row.miou_source == "measured" for row in rows):
        click.echo("\n* measured here; all others are published for the original's weights")
