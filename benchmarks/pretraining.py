"""Self-supervised pre-training on real aerial tiles on a CPU, by the commands that a user types, beside baselines.

    python -m benchmarks.pretraining path/to/dubai/download /tmp/ssl

A ResNet-18 is pre-trained on the images of the training tiles (their labels are not looked at) by MoCo v2 and SimSiam,
with three seeds each, and probed on patches of tiles from another part of the city, beside colour statistics and random
weights with calibrated normalisations. DenseCL, SwAV, PixPro and MoCo-BYOL run for 200 steps, to see that their loss
falls and their monitors say what they should. Recipes are shrunken to what a CPU can do in minutes, so nothing here
says which method is better. The pre-trained backbones are then fine-tuned with few labels, beside random weights.

Each stage is kept in WORK/results.json and not run again; remove it, or an entry of it, to do so. The tables are in
Markdown. One compares how fast views are made with how fast a step consumes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measuring import Figures, parser_of, rate, rsseg_tf

SEEDS = (0, 1, 2)
PROBED = ("moco_v2", "simsiam")
FEW = 64  # labelled tiles to fine-tune with
STEPPED = ("moco_v2", "swav")  # one with two views, and the one with eight
RUN_ONLY = ("densecl", "swav", "pixpro", "moco_byol")
COMMON = ("backbone={name: resnet18}", "lr_schedule.base_batch_size=null", "lr_schedule.warmup_epochs=0")
SIZE, BATCH = 64, 32
# What is changed in the official recipes: rates for small batches, queues, momenta and heads for short runs.
CHANGES = {
    "moco_v2": ("method.queue_size=4096", "method.momentum=0.99", "lr_schedule.learning_rate=0.06"),
    "simsiam": ("method.dim=512", "method.predictor_hidden=128", "lr_schedule.learning_rate=0.05"),
    "densecl": ("method.queue_size=4096", "method.momentum=0.99", "lr_schedule.learning_rate=0.06"),
    "swav": (
        "method.prototypes=256", "method.hidden=512", "method.freeze_prototypes_steps=20", "views.small_crop_size=32",
        "views.small_views=2", "optimizer={name: sgd, weight_decay: 1.0e-4}", "lr_schedule.learning_rate=0.1",
        "lr_schedule.end_lr=0.0001",
    ),
    "pixpro": ("method.hidden=512", "method.dim=128", "lr_schedule.learning_rate=1.0"),
    "moco_byol": ("method.hidden=512", "method.dim=128", "method.queue_size=4096", "lr_schedule.learning_rate=1.0"),
}  # fmt: skip


def pretrain(method: str, seed: int, steps: int, work: Path, *, size: int, batch: int) -> dict[str, Any]:
    """Pre-trains and returns seconds, losses of ten steps each, and the monitors of each epoch."""
    name = f"{method}_{seed}"
    log = work / f"{name}.log"
    seconds = rsseg_tf(
        *("pretrain", "--config", f"ssl/pretrain/{method}_resnet50_imagenet.yml", "--device", "cpu", "--overwrite"),
        *("--iters", str(steps), "--total_batch_size", str(batch), "--seed", str(seed), "--save_dir", str(work / name)),
        *("--save_interval", str(steps)),
        *("--set", f"dataset.root={work / 'data'}", "dataset.train_list=train.txt", f"views.crop_size={size}"),
        *(*COMMON, *CHANGES[method]),
        log=log,
    )
    text = log.read_text()
    monitors = [
        {key: float(value) for key, value in re.findall(r"(\w+): (-?[\d.]+)", line)}
        for line in text.splitlines()
        if "[MONITOR]" in line
    ]
    return {
        "seconds": seconds,
        "losses": [float(value) for value in re.findall(r"\[TRAIN\].* loss: (-?[\d.]+)", text)],
        "monitors": monitors,
        "warnings": text.count("[WARNING]"),
    }


def probe(work: Path) -> dict[str, Any]:
    """Probes all that was pre-trained; returns what the command writes."""
    sources = [str(max((work / f"{method}_{seed}").glob("iter_*"))) for method in PROBED for seed in SEEDS]
    rsseg_tf(
        *("probe", "--config", "fcn/fcn_hrnet_w18_dubai_256x256_cpu.yml", "--device", "cpu"),
        *("--set", f"dataset.root={work / 'data'}", "model.backbone={name: resnet18}"),
        *("--backbone", *sources, "--patch_size", str(SIZE), "--json", str(work / "probe.json")),
        log=work / "probe.log",
    )
    return json.loads((work / "probe.json").read_text())


def finetune(work: Path, source: str | None, seed: int) -> dict[str, float]:
    """Trains FCN on few labelled tiles and returns mIoU and accuracy on the validation tiles, 0..1."""
    data = work / "data"
    lines = (data / "train.txt").read_text().splitlines()
    chosen = np.random.default_rng(seed).permutation(len(lines))[:FEW]
    (data / "few.txt").write_text("\n".join(lines[i] for i in sorted(chosen)) + "\n")
    name = f"finetune_{Path(source).parent.name if source else f'random_{seed}'}"
    backbone = f"{{name: resnet18, pretrained: {source or 'null'}}}"
    rsseg_tf(
        *("train", "--config", "fcn/fcn_hrnet_w18_dubai_256x256_cpu.yml", "--device", "cpu", "--overwrite"),
        *("--iters", "200", "--batch_size", "8", "--seed", str(seed), "--save_dir", str(work / name)),
        *("--save_interval", "200", "--set", f"dataset.root={data}", "dataset.train_list=few.txt"),
        *("augment.crop_size=[128, 128]", f"model.backbone={backbone}"),
        log=work / f"{name}.log",
    )
    model = ("--model_path", str(work / name / "iter_200"))
    rsseg_tf("eval", *model, "--save_dir", str(work / name), log=work / f"{name}_eval.log")
    report = json.loads((work / name / "eval.json").read_text())
    return {"miou": report["macro"]["miou"], "acc": report["micro"]["acc"]}


def consumption(method: str, work: Path) -> float:
    """Returns images per second that steps of the official recipe take, with batches of 16."""
    log = work / f"steps_{method}.log"
    rsseg_tf(
        *("pretrain", "--config", f"ssl/pretrain/{method}_resnet50_imagenet.yml", "--device", "cpu", "--overwrite"),
        *("--iters", "6", "--total_batch_size", "16", "--save_dir", str(work / f"steps_{method}")),
        *("--set", f"dataset.root={work / 'data'}", "dataset.train_list=train.txt", "train.log_iters=2"),
        log=log,
    )
    return float(re.findall(r"ips: ([\d.]+)", log.read_text())[-1])


def throughput(work: Path, seconds: float = 10.0) -> dict[str, float]:
    """Returns images per second that the pipeline delivers, with all of them in memory already, at 224 pixels."""
    from rsseg_tf.config import load_pretrain_config
    from rsseg_tf.data import ImageReader, view_batches
    from rsseg_tf.files.lists import read_list

    rates = {}
    samples = read_list(work / "data" / "train.txt", work / "data")[:64]
    for method in (*PROBED, *RUN_ONLY):
        config = load_pretrain_config(f"ssl/pretrain/{method}_resnet50_imagenet.yml")
        reader = ImageReader(samples, config.dataset.spec, cache_mb=1024)
        batches = iter(view_batches(reader, config.views, batch_size=16, seed=0))
        rates[method] = 16 * rate(partial(next, batches), seconds, warm_up=4)
    return rates


def spread_of(values: list[float]) -> str:
    """Returns mean ± standard deviation in percent."""
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f}"


def tables(results: dict[str, Any], figures: Figures) -> None:
    """Adds what was measured so far."""
    if "probe" in results:
        rows = results["probe"]["rows"]
        first = rows[0]["scores"]
        heads = [f"linear, {s['labels']} labels" if s["probe"] == "linear" else "20 nearest" for s in first]
        figures.table("features", *heads)
        for row in rows[:2]:
            figures.row(row["features"], *(spread_of(score["balanced_accuracy"]) for score in row["scores"]))
        for method in PROBED:
            runs = [row for row in rows if f"/{method}_" in row["features"]]
            for i, row in enumerate(runs):
                cells = (spread_of(score["balanced_accuracy"]) for score in row["scores"])
                figures.row(f"{method}, seed {SEEDS[i]}", *cells)
            means = [[float(np.mean(row["scores"][k]["balanced_accuracy"])) for row in runs] for k in range(len(heads))]
            figures.row(f"**{method}, {len(runs)} seeds**", *map(spread_of, means))
    figures.table("method", "steps", "s", "loss, first 10 steps", "last 10", "monitors of the last epoch")
    for name, row in results.items():
        if not name.startswith("pretrain/"):
            continue
        last = {key: value for key, value in row["monitors"][-1].items() if key not in ("epoch", "loss")}
        told = ", ".join(f"{key} {value:.3f}" for key, value in last.items())
        count = row["warnings"]
        warned = f"; {count} warning{'s' if count > 1 else ''}" if count else ""
        losses = row["losses"]
        ends = (f"{losses[0]:.3f}", f"{losses[-1]:.3f}")
        figures.row(name[9:], 10 * len(losses), f"{row['seconds']:.0f}", *ends, f"{told}{warned}")
    if "throughput" in results:
        figures.table("views at 224x224 from memory", "images/s", "steps of ResNet50, images/s", "ratio")
        for method, speed in results["throughput"].items():
            steps = results.get(f"steps/{method}")
            figures.row(method, f"{speed:.1f}", *((f"{steps:.2f}", f"{speed / steps:.0f}") if steps else ("", "")))
    tuned = {name.split("/")[1]: row for name, row in results.items() if name.startswith("finetune/")}
    if tuned:
        figures.table(f"FCN on {FEW} labelled tiles, 200 steps", "mIoU", "Acc")
        for start in ("random", *PROBED):
            rows = [row for name, row in tuned.items() if name.startswith(f"{start},")]
            figures.row(
                f"{start}, {len(rows)} seeds", *(spread_of([row[key] for row in rows]) for key in ("miou", "acc"))
            )


def main() -> None:
    """Runs what is not there yet, and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("source", help="the downloaded scenes, a folder or a zip file")
    parser.add_argument("work", type=Path, help="where everything goes")
    parser.add_argument("--steps", type=int, default=500, help="of MoCo v2 and SimSiam")
    options = parser.parse_args()
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    cache = work / "results.json"
    results: dict[str, Any] = json.loads(cache.read_text()) if cache.is_file() else {}

    def stage(name: str, measure: Callable[[], Any]) -> None:
        if name not in results:
            results[name] = measure()
            cache.write_text(json.dumps(results, indent=1))

    prepare = ("prepare", "dubai", options.source, "-o", str(work / "data"), "--tile-size", "128")
    stage("prepare", lambda: rsseg_tf(*prepare, log=work / "prepare.log"))
    for seed in SEEDS:
        for method in PROBED:
            stage(
                f"pretrain/{method}, seed {seed}",
                partial(pretrain, method, seed, options.steps, work, size=SIZE, batch=BATCH),
            )
    stage("probe", lambda: probe(work))
    for method in RUN_ONLY:
        # Cells of a feature map are compared by two of these, so the views are a little larger: 3x3 cells.
        stage(f"pretrain/{method}, seed 0", partial(pretrain, method, 0, 200, work, size=96, batch=16))
    stage("throughput", lambda: throughput(work))
    for method in STEPPED:
        stage(f"steps/{method}", partial(consumption, method, work))
    for seed in SEEDS:
        stage(f"finetune/random, seed {seed}", partial(finetune, work, None, seed))
        for method in PROBED:
            source = str(work / f"{method}_{seed}" / f"iter_{options.steps}")
            stage(f"finetune/{method}, seed {seed}", partial(finetune, work, source, seed))
    figures = Figures("pretraining")
    tables(results, figures)
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
