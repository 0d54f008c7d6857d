"""What a small labelled set yields in minutes of a CPU: recipes compared on the Dubai scenes, each with several seeds.

    python -m benchmarks.quality path/to/download /tmp/quality --recipe shipped random --seeds 0 1 2

A recipe is the shipped config with some values changed; `--recipe all` tries every one, `--set` changes more. A run is
`rsseg-tf train` as a user would start it; its CPU time is the user and system time of that process, evaluation
included. The score is that of the last step, with the evaluation's flips and without. Each run is a line of runs.csv in
the work folder, and is not repeated.
"""

from __future__ import annotations

import csv
import json
import os
import resource
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.measuring import Figures, parser_of, rsseg_tf
from rsseg_tf import load_config
from rsseg_tf.datasets.dubai import DUBAI

CONFIG = "unet/unet_efficientnet_lite0_dubai_256x256_cpu.yml"
Row = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """The shipped config, changed.

    Attributes:
        title: What is different.
        changes: Values for `--set`.
        config: Another config.
    """

    title: str
    changes: tuple[str, ...] = ()
    config: str = CONFIG


def _steps(count: int) -> tuple[str, ...]:
    return (f"train.iters={count}", f"train.save_interval={count}")


_CROSS_ENTROPY = ("loss.main.name=cross_entropy",)
_NO_WEIGHTS = "model.backbone.pretrained=null"
_TENTH = "optimizer.backbone_lr_factor=0.1"
_FASTER = ("lr_schedule.learning_rate=0.003",)
_FROZEN = (*_FASTER, "model.freeze_backbone=true")
_FULL_SIZE = ("augment.scale_range=[0.75, 1.25]", "eval.scales=[1.0]")
_THIRD = (
    *("augment.scale_range=[0.3, 0.45]", "augment.crop_size=[192, 192]"),
    *("eval.scales=[0.375]", "train.batch_size=6"),
)
_WEIGHTS = ("loss.main.class_weights=[1.0, 0.35, 1.3, 1.1, 1.4]",)
_MILD_WEIGHTS = ("loss.main.class_weights=[1.0, 0.6, 1.15, 1.05, 1.2]",)
_COLOURS = tuple(f"augment.{name}_range=0.4" for name in ("brightness", "contrast", "saturation"))
_STRONG_COLOURS = (*_COLOURS, "augment.hue_range=18", "augment.distort_probability=0.8")

RECIPES = {
    "shipped": Recipe("the shipped config"),
    "random": Recipe("from random weights", (_NO_WEIGHTS,)),
    "random_fast": Recipe("from random weights, rate 0.002", (_NO_WEIGHTS, "lr_schedule.learning_rate=0.002")),
    "slow_backbone": Recipe("rate 0.003, a tenth of it for the backbone", (*_FASTER, _TENTH)),
    "frozen": Recipe("rate 0.003, backbone frozen", _FROZEN),
    "frozen_long": Recipe("rate 0.003, backbone frozen, 1000 steps", (*_FROZEN, *_steps(1000))),
    "long": Recipe("800 steps", _steps(800)),
    "strong_colours": Recipe("strong changes of colour", _STRONG_COLOURS),
    "third": Recipe("3/8 of the size, six crops of 192x192", _THIRD),
    "cross_entropy": Recipe("cross-entropy alone", _CROSS_ENTROPY),
    "colours": Recipe("cross-entropy, more changes of colour", (*_CROSS_ENTROPY, *_COLOURS)),
    "mild_weights": Recipe("cross-entropy, mild class weights", (*_CROSS_ENTROPY, *_MILD_WEIGHTS)),
    "weights": Recipe("cross-entropy, class weights", (*_CROSS_ENTROPY, *_WEIGHTS)),
    "average": Recipe("cross-entropy, class weights, train.ema", (*_CROSS_ENTROPY, *_WEIGHTS, "train.ema=0.99")),
    "full_size": Recipe("cross-entropy, class weights, full size", (*_CROSS_ENTROPY, *_WEIGHTS, *_FULL_SIZE)),
    "hrnet": Recipe("FCN-HRNet_W18 from random weights", config="fcn/fcn_hrnet_w18_dubai_256x256_cpu.yml"),
}


def cpu_seconds() -> float:
    """Returns the user and system time of all child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(name: str, seed: int, data: Path, work: Path, more: Sequence[str]) -> Row:
    """Trains and scores one recipe with one seed; returns its line of runs.csv."""
    recipe, folder = RECIPES[name], work / f"{name}_{seed}"
    changes = (f"dataset.root={data}", *recipe.changes, *more)
    folder.mkdir(parents=True, exist_ok=True)
    began = cpu_seconds()
    rsseg_tf(
        *("train", "--config", recipe.config, "--set", *changes, "--seed", str(seed)),
        *("--save_dir", str(folder / "output"), "--do_eval", "--overwrite", "--device", "cpu"),
        log=folder / "train.txt",
    )
    spent = cpu_seconds() - began
    model = folder / "output" / "best_model"
    state = json.loads((model / "state.json").read_text("utf-8"))
    scales = [str(scale) for scale in load_config(recipe.config, changes).eval.scales]
    rsseg_tf(
        *("eval", "--model_path", str(model), "--aug_eval", "--scales", *scales),
        *("--save_dir", str(folder), "--device", "cpu"),
        log=folder / "eval.txt",
    )
    scores = json.loads((folder / "eval.json").read_text("utf-8"))
    classes = {entry["name"]: f"{100 * entry['iou']:.2f}" for entry in scores["classes"]}
    return {
        "recipe": name,
        "seed": str(seed),
        "steps": str(state["step"]),
        "miou": f"{100 * scores['macro']['miou']:.2f}",
        "miou_flips": f"{100 * state['best_miou']:.2f}",
        **classes,
        "cpu_s": f"{spent:.0f}",
        "changes": " ".join((*recipe.changes, *more)),
    }


def read_runs(path: Path) -> list[Row]:
    """Returns the lines of a file of runs; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def add_run(path: Path, row: Row) -> None:
    """Adds a line to a file of runs."""
    begins = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if begins:
            writer.writeheader()
        writer.writerow(row)


def spread(values: Iterable[float]) -> str:
    """Returns the mean, and the standard deviation where there are several values."""
    numbers = np.array(list(values))
    return f"{numbers.mean():.1f}" + (f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else "")


def show(rows: Sequence[Row], figures: Figures) -> None:
    """Prints a table with a line for each recipe."""
    figures.table("", "steps", "CPU s", "seeds", "with flips", "mIoU", *(f"IoU {name}" for name in DUBAI.classes))
    for name in dict.fromkeys(row["recipe"] for row in rows):
        own = [row for row in rows if row["recipe"] == name]
        figures.row(
            RECIPES[name].title,
            own[0]["steps"],
            f"{np.mean([float(row['cpu_s']) for row in own]):.0f}",
            len(own),
            spread(float(row["miou_flips"]) for row in own),
            spread(float(row["miou"]) for row in own),
            *(f"{np.mean([float(row[title]) for row in own]):.1f}" for title in DUBAI.classes),
        )


def main() -> None:
    """Runs what is not in runs.csv yet, and shows all that was asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("source", help="the downloaded scenes, a folder or a zip file")
    parser.add_argument("work", type=Path, help="where everything goes")
    parser.add_argument("--recipe", nargs="+", default=["shipped"], choices=[*RECIPES, "all"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[], help="overrides for the training")
    options = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    data, table = options.work / "data", options.work / "runs.csv"
    if not (data / "train.txt").exists():
        rsseg_tf("prepare", "dubai", options.source, "-o", str(data))
    rows = []
    for name in RECIPES if "all" in options.recipe else options.recipe:
        for seed in options.seeds:
            changes = " ".join((*RECIPES[name].changes, *options.set))
            key = {"recipe": name, "seed": str(seed), "changes": changes}
            found = next((row for row in read_runs(table) if key.items() <= row.items()), None)
            if found is None:
                found = run(name, seed, data, options.work, options.set)
                add_run(table, found)
            rows.append(found)
    figures = Figures("quality")
    show(rows, figures)
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
