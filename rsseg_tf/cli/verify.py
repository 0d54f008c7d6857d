"""`rsseg-tf verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.commands import ManyValues, group, needed
from rsseg_tf.cli.options import EXPORT_STEP, json_file_option, trust_option
from rsseg_tf.cli.output import CONSOLE, narrow_table, write_json

if TYPE_CHECKING:
    from rsseg_tf.export import Comparison

__all__ = ["command"]


@click.command(name="verify", cls=ManyValues)
@needed(EXPORT_STEP, click.argument("folder", type=Path, metavar="DIR"))
@click.option("--images", type=Path, metavar="PATH",
              help="With --checkpoint: an image, a folder or a list (.txt) to compare on too.")  # fmt: skip
@click.option("--checkpoint", type=Path, metavar="DIR",
              help="The exported checkpoint, to run again. [default: compare with its answers at the time of the "
                   "export]")  # fmt: skip
@json_file_option("Write all numbers there, as JSON.")
@group(
    "Server",
    click.option("--server", metavar="ADDRESS",
                 help="A server of this export to compare too; HOST:PORT for gRPC, http://HOST:PORT for REST."),
    click.option("--model-name", metavar="NAME",
                 help="With --server: the model's name there.  [default: that of DIR]"),
)  # fmt: skip
@group(
    "Engine",
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="For TFLite, ONNX and OpenVINO."),
    trust_option,
)
def command(
    folder: Path,
    checkpoint: Path | None,
    images: Path | None,
    server: str | None,
    model_name: str | None,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """Compare everything in an exported version with the Keras model; exit code 1 if something differs too much.

    DIR is a version, or the folder of all versions, of which the newest is taken. All models see the same made-up
    tiles, the real ones that the export kept, and the middle of each image of --images; int8 and int16x8, which were
    calibrated on real images, see the real ones alone, if there are any. Passed is what keeps, on average over all
    pixels and classes, the difference of probabilities and, over all pixels, the share with the same class within these
    bounds:

    \b
    Keras, SavedModel, server, ONNX, OpenVINO, TFLite float32   0.0001   99.95 %
    TFLite float16                                              0.01     99 %
    TFLite dynamic, int16x8                                     0.03     97 %
    TFLite int8                                                 0.06     93 %

    The checksums of all files are checked first, and that the server's model has the weights of DIR.
    """  # noqa: D301  # click wants the character \b
    from rich.console import Console

    from rsseg_tf.library.exporting import verify

    comparisons = verify(
        folder,
        images=images or (),
        checkpoint=checkpoint,
        server=server,
        model_name=model_name,
        threads=threads,
        notify=CONSOLE,
    )
    Console().print(comparison_table(comparisons))
    if json_path:
        write_json(json_path, {"folder": str(folder), "models": [one.to_json() for one in comparisons]})
    failed = [one.name for one in comparisons if not one.passed]
    if failed:
        click.echo(f"Beyond the tolerance: {', '.join(failed)}.", err=True)
        raise SystemExit(1)


def comparison_table(comparisons: Sequence[Comparison]) -> Any:
    """Returns a rich table with a line for each model."""
    first = comparisons[0]
    tiles = f"{first.made_up_tiles} made-up and {first.real_tiles} real tiles"
    table = narrow_table(f"Differences from the Keras model on {tiles}")
    if any(one.made_up_tiles != first.made_up_tiles for one in comparisons):
        table.caption = "Files that were calibrated are compared on the real tiles alone."
    table.add_column("model", overflow="fold", min_width=18)
    for column in ("MiB", "ms", "max\n|Δlogit|", "max\n|Δp|", "mean\n|Δp|", "same\nclass, %", "passed"):
        table.add_column(column, justify="right", no_wrap=True)
    for one in comparisons:
        table.add_row(
            one.name,
            f"{one.size_bytes / 2**20:.1f}" if one.size_bytes else "",
            f"{one.latency_ms:.0f}",
            f"{one.max_logit_difference:.2g}",
            f"{one.max_probability_difference:.2g}",
            f"{one.mean_probability_difference:.2g}",
            f"{100 * one.agreement:.3f}",
            "yes" if one.passed else "NO",
        )
    return table
