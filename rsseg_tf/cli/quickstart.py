"""`rsseg-tf quickstart`: runs the commands that a user would type, from data to predictions."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import numpy as np

__all__ = ["command"]

_CONFIG = "unet/unet_efficientnet_lite0_synthetic_256x256_quick.yml"
# Either of these shows that an earlier quickstart wrote a folder, so that this one may write into it again.
_MARK, _TITLE = ".quickstart", "# Quickstart report"
_SHOWN = 3  # validation scenes in the overview


@click.command(name="quickstart")
@click.option("-o", "--output", type=Path, default=Path("quickstart"), show_default=True, metavar="DIR",
              help="Folder for data, model and report.")  # fmt: skip
@click.option("--iters", type=click.IntRange(min=1), metavar="N", help="Training steps instead of the config's.")
@click.pass_context
def command(ctx: click.Context, output: Path, iters: int | None) -> None:
    """Make synthetic aerial scenes, train a small model on the CPU, evaluate it, predict, and write a report.

    Takes about three minutes on two cores. Synthetic scenes show how the tool works; their scores mean nothing else.
    """
    _take_folder(output)
    data, model, report = output / "data", output / "model", output / "report"
    setting = f"dataset.root={data}"
    more = ["--iters", str(iters)] if iters else []
    best = str(model / "best_model")
    steps = [
        ["prepare", "synthetic", "-o", str(data)],
        ["train", "--config", _CONFIG, "--set", setting, "--save_dir", str(model), "--do_eval", "--overwrite",
         "--device", "cpu", *more],
        ["eval", "--model_path", best, "--save_dir", str(report), "--report", str(report / "report.html"),
         "--device", "cpu"],
        ["predict", "--model_path", best, "--image_path", str(data / "img_dir" / "val"),
         "--save_dir", str(output / "result"), "--device", "cpu"],
    ]  # fmt: skip
    group = ctx.find_root().command
    for arguments in steps:
        click.secho(f"\n$ rsseg-tf {shlex.join(arguments)}", bold=True)
        # Not a process of its own, so that TensorFlow is loaded once.
        code = group.main(arguments, prog_name="rsseg-tf", standalone_mode=False)
        if code:  # an error, or a signal that ended the training after it was saved
            ctx.exit(code)
    picture = _write_report(output, steps)
    click.secho(f"\nPicture: {picture}\nReport:  {report / 'report.html'}", bold=True)
    click.echo("With your own image and polygons: rsseg-tf prepare scenes --help")


def _take_folder(output: Path) -> None:
    """Makes the folder and marks it as quickstart's, so that a later run may replace its contents.

    Raises:
        ConfigError: When the folder holds files that no quickstart wrote.
    """
    from rsseg_tf.errors import ConfigError, reason

    mark, readme = output / _MARK, output / "report" / "README.md"
    try:
        output.mkdir(parents=True, exist_ok=True)
        names = sorted(path.name for path in output.iterdir())
        is_quickstart = mark.is_file() or (readme.is_file() and readme.read_text("utf-8", "replace").startswith(_TITLE))
        if names and not is_quickstart:
            raise ConfigError(
                f"{output} holds '{names[0]}' and was not made by quickstart, which would replace the data and the "
                "model in it. Name a new folder: -o DIR."
            )
        mark.touch()
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {reason(error)}. Name another folder: -o DIR.") from error


def _write_report(output: Path, steps: list[list[str]]) -> Path:
    """Writes overview.png (scene, label, prediction of some scenes) and README.md; returns the picture."""
    import numpy as np

    from rsseg_tf.datasets.synthetic import SYNTHETIC
    from rsseg_tf.files.lists import read_list
    from rsseg_tf.predict import as_rgb, montage
    from rsseg_tf.rasters.images import read_image, read_label, write_png

    report = output / "report"
    rows: list[np.ndarray] = []
    data = output / "data"
    for sample in read_list(data / "val.txt", data)[:_SHOWN]:
        prediction = output / "result" / "pseudo_color_prediction" / f"{sample.image.stem}.png"
        if sample.label is None:
            continue
        rows.append(
            montage(
                as_rgb(read_image(sample.image), SYNTHETIC),
                read_label(sample.label).astype(np.uint8),
                read_label(prediction).astype(np.uint8),
                SYNTHETIC.classes,
                SYNTHETIC.palette,
                panel_side=384,
            )
        )
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]
    write_png(report / "overview.png", np.vstack(padded))
    scores = json.loads((report / "eval.json").read_text("utf-8"))
    shutil.copyfile(output / "model" / "best_model" / "config.yml", report / "config.yml")
    commands = "\n".join(f"rsseg-tf {shlex.join(arguments)}" for arguments in steps)
    lines = [
        _TITLE,
        "",
        "A small model, trained on synthetic scenes; the numbers do not carry over to real imagery.",
        "",
        "![scene, label and prediction](overview.png)",
        "",
        f"- mIoU on {scores['images']} validation scenes: {scores['macro']['miou']:.4f}; where it fails: `report.html`",
        "- every class: `eval.json`; the whole config: `config.yml`; training curves: `tensorboard --logdir "
        f"{output / 'model' / 'tensorboard'}`",
        f"- predictions, as pictures and as GeoTIFF: `{output / 'result'}`",
        "",
        "Made by:",
        "",
        "```",
        commands,
        "```",
    ]
    (report / "README.md").write_text("\n".join(lines) + "\n", "utf-8")
    return report / "overview.png"
