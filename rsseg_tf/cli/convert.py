"""`rsseg-tf convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from rsseg_tf.cli.commands import ManyValues, group, needed
from rsseg_tf.cli.options import config_option
from rsseg_tf.cli.output import CONSOLE

__all__ = ["command"]


@click.command(name="convert", cls=ManyValues)
@needed(
    "Name a file or URL of released weights; docs/model_zoo.md lists those of the benchmark.",
    click.argument("source", metavar="SRC"),
)
@config_option(required=True)
@needed(
    "Name a folder for the checkpoint, e.g. -o weights/fcn.",
    click.option("-o", "--output", type=Path, required=True, metavar="DIR", help="The checkpoint to write."),
)
@click.option("--overwrite", is_flag=True, help="Replace DIR if it exists.")
@click.option("--part", type=click.Choice(["model", "backbone"]), default="model", show_default=True,
              help="The part of the model that SRC holds and DIR will hold.")  # fmt: skip
@click.option("--verify", is_flag=True,
              help="Compare logits with the checksum in DIR, or if there is no DIR, write it and compare "
                   "then.")  # fmt: skip
@group(
    "Weights",
    click.option("--coarse-model", metavar="SRC", help="Weights of the coarse model, for a config of c2fnet."),
    click.option("--offline", is_flag=True, help="Never use the network; take downloads from the cache."),
)  # fmt: skip
def command(
    source: str,
    config_path: str,
    overrides: tuple[str, ...],
    output: Path,
    part: Literal["model", "backbone"],
    coarse_model: str | None,
    verify: bool,
    offline: bool,
    overwrite: bool,
) -> None:
    """Turn released weights into a checkpoint.

    SRC is a file or URL (.pdparams, torch's .pth, .safetensors, or a zip or tar.gz archive with one of them), or the
    name of a keras-hub preset. Nothing in it is executed, and neither Paddle nor torch is needed. Every tensor must
    have a place in the config's model.

    eval and predict take DIR as --model-path, configs take it as model.pretrained; with --part backbone configs take it
    as model.backbone.pretrained. DIR also holds a checksum of the logits for a made-up image: mean, standard deviation,
    extremes and some values. With --verify and an existing DIR nothing is written: SRC is read again and its logits are
    compared with that checksum; exit code 1 if they differ.
    """
    from rsseg_tf.library.converting import convert

    result = convert(
        source,
        config_path,
        output,
        overrides=overrides,
        part=part,
        verify=verify,
        coarse_model=coarse_model,
        offline=offline,
        overwrite=overwrite,
        notify=CONSOLE,
    )
    if not result.passed:
        raise SystemExit(1)
