"""`rsseg-tf convert`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rsseg_tf.cli.commands import ManyValues, group, needed
from rsseg_tf.cli.options import config_option, load

if TYPE_CHECKING:
    import keras

    from rsseg_tf.weights.pretrained import LoadReport

__all__ = ["command"]

_CHECKSUM = "verify.json"
# Rounding differs between machines and changes logits by far less than this share of their standard deviation; a wrong
# weight changes them by far more.
_TOLERANCE = 1e-3


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
    part: str,
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
    config = load(config_path, overrides, {"model.coarse.pretrained": coarse_model})
    from rsseg_tf.cli.output import load_tensorflow
    from rsseg_tf.errors import ConfigError

    stored = _stored_checksum(output) if verify and output.exists() else None
    if output.exists() and not (verify or overwrite):
        raise ConfigError(
            f"{output} exists; choose another folder, replace it with --overwrite, or compare: --verify.", code="exists"
        )
    load_tensorflow()
    from rsseg_tf.checkpoint import TrainState, load_weights, save_checkpoint
    from rsseg_tf.weights.presets import with_preset

    config = with_preset(config, offline=offline)
    model, reports = _convert(config, source, part, offline=offline)
    for report in reports:
        _print(report)
    checksum = _checksum(model)
    if stored is not None:
        _compare(checksum, stored, output)
        return
    save_checkpoint(
        output, model, None, TrainState(), config, extra={_CHECKSUM: json.dumps(checksum, indent=2).encode()}
    )
    click.echo(f"Wrote {output}")
    if verify:
        # Zeros first: weights that are missing in the file would otherwise keep their values and pass.
        for variable in model.weights:
            variable.assign(variable * 0)
        load_weights(model, output)
        _compare(_checksum(model), _stored_checksum(output), output)


def _convert(config: Any, source: str, part: str, *, offline: bool) -> tuple[keras.Model, list[LoadReport]]:
    """Returns the model, or its backbone, with the weights of the source."""
    from rsseg_tf.build import build_backbone, build_model
    from rsseg_tf.errors import ConfigError
    from rsseg_tf.weights.pretrained import backbone_part, load_part, open_source, parts

    progress = _progress()
    file = open_source(source, offline=offline, progress=progress)
    if part == "backbone":
        if (section := config.model.backbone) is None:
            raise ConfigError(f"{config.model.label} has no backbone of its own. Use --part model.")
        model = build_backbone(section, in_channels=config.dataset.spec.bands, where="model.backbone")
        wanted = backbone_part(section, [variable.path for variable in model.weights])
        wanted = dataclasses.replace(wanted, section="model.backbone", spec=config.dataset.spec)
        return model, [load_part(model, wanted, file)]
    model = build_model(config)
    found = {piece.section: piece for piece in parts(config, model)}
    reports = []
    if (coarse := found.get("model.coarse")) is not None and not file.by_path:
        if coarse.source is None:
            raise ConfigError("A model of c2fnet has a coarse model too; name its weights with --coarse_model.")
        reports.append(load_part(model, coarse, open_source(coarse.source, offline=offline, progress=progress)))
    return model, [*reports, load_part(model, found["model"], file)]


def _progress() -> Any:
    """Returns a callback that shows the progress of a download, on a terminal; None elsewhere."""
    import sys

    if not sys.stderr.isatty():
        return None
    return lambda received, expected: click.echo(
        f"\r{received / 2**20:.1f} MiB" + (f" of {expected / 2**20:.1f}" if expected else ""), err=True, nl=False
    )


def _print(report: LoadReport) -> None:
    click.echo(f"source:   {report.file.source} ({report.file.format})")
    click.echo(f"sha256:   {report.file.sha256}")
    click.echo(f"{report.section}: {report.tensors} tensors, {report.values} values assigned")
    skipped = [name for name in report.skipped if not name.endswith("num_batches_tracked")]  # torch's counters
    if skipped:
        shown = ", ".join(skipped[:8]) + (", …" if len(skipped) > 8 else "")
        click.echo(f"not used: {len(skipped)} tensors of the file ({shown})")
    for note in report.notes:
        click.echo(note)


def _checksum(model: keras.Model) -> dict[str, Any]:
    """Returns statistics of a model's logits for a random image, which depends on the number of bands only."""
    import numpy as np

    bands = model.input_shape[-1]
    image = np.random.default_rng(0).uniform(-1, 1, (1, 128, 128, bands)).astype(np.float32)
    outputs = model(image, training=False)
    logits = np.asarray(outputs["main"] if "main" in outputs else outputs[max(outputs)], np.float64)
    return {
        "input": "numpy.random.default_rng(0).uniform(-1, 1, (1, 128, 128, bands))",
        "shape": list(logits.shape),
        "mean": logits.mean(),
        "std": logits.std(),
        "min": logits.min(),
        "max": logits.max(),
        "values": logits.ravel()[:: max(1, logits.size // 16)][:16].tolist(),
    }


def _stored_checksum(folder: Path) -> dict[str, Any]:
    from rsseg_tf.errors import WeightsError
    from rsseg_tf.files import read_json

    try:
        return dict(read_json(folder / _CHECKSUM))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{folder} has no readable {_CHECKSUM}, which `rsseg-tf convert` writes: {error}. Convert again."
        ) from error


def _compare(actual: dict[str, Any], stored: dict[str, Any], folder: Path) -> None:
    import numpy as np

    def figures(checksum: dict[str, Any]) -> list[float]:
        return [checksum[name] for name in ("mean", "std", "min", "max")] + list(checksum["values"])

    same_shape = actual["shape"] == stored.get("shape")
    difference = (
        max(abs(a - b) for a, b in zip(figures(actual), figures(stored), strict=True)) if same_shape else np.inf
    )
    share = difference / max(actual["std"], 1e-12)
    if not share <= _TOLERANCE:  # also for NaN, with which every comparison is false
        click.echo(
            f"The logits differ from those in {folder / _CHECKSUM} by {share:.2g} of their standard deviation.",
            err=True,
        )
        raise SystemExit(1)
    click.echo(f"verified: the logits differ from {folder / _CHECKSUM} by {share:.1g} of their standard deviation")
