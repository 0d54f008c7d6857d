"""From the downloaded Dubai scenes to predictions, by the commands that a user types, beside a baseline.

    python benchmarks/dubai.py path/to/download /tmp/dubai

The baseline gives each validation pixel the class whose mean training colour is nearest. What a model gains over it is
what it has learnt beyond colour. Prints a table in Markdown, and writes pictures of some validation tiles.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from rsseg_tf.datasets.dubai import DUBAI
from rsseg_tf.files.lists import read_list
from rsseg_tf.metrics import SegmentationScores, confusion_matrix, count_ignored
from rsseg_tf.predict import montage
from rsseg_tf.rasters.images import read_image, read_label, write_png

CONFIG = "fcn/fcn_hrnet_w18_dubai_256x256_cpu.yml"


def run(*arguments: str) -> float:
    """Runs a command of rsseg-tf and returns its wall time in seconds."""
    command = [sys.executable, "-m", "rsseg_tf.cli", *arguments]
    print("$", shlex.join(["rsseg-tf", *arguments]), flush=True)
    began = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def nearest_mean_colour(data: Path) -> SegmentationScores:
    """Scores the baseline on the validation tiles."""
    sums, counts = np.zeros((DUBAI.num_classes, 3)), np.zeros(DUBAI.num_classes)
    for sample in read_list(data / "train.txt", data):
        image, label = read_image(sample.image), read_label(sample.label)
        for i in range(DUBAI.num_classes):
            pixels = image[label == i]
            sums[i] += pixels.sum(0, dtype=np.float64)
            counts[i] += len(pixels)
    means = sums / counts[:, None]
    parts = []
    for sample in read_list(data / "val.txt", data):
        image, label = read_image(sample.image).astype(np.float64), read_label(sample.label)
        distance = ((image[:, :, None] - means) ** 2).sum(-1)
        matrix = confusion_matrix(label, distance.argmin(-1), DUBAI.num_classes, DUBAI.ignore_index)
        if matrix.sum():
            parts.append(SegmentationScores(matrix, DUBAI.classes, count_ignored(label, DUBAI.ignore_index)))
    return SegmentationScores.merge(parts)


def write_pictures(data: Path, result: Path, target: Path, shown: int = 6) -> None:
    """Writes scene, label and prediction of some validation tiles."""
    samples = read_list(data / "val.txt", data)
    rows = []
    for sample in samples[:: max(1, len(samples) // shown)][:shown]:
        prediction = read_label(result / "pseudo_color_prediction" / f"{sample.image.stem}.png").astype(np.uint8)
        label = read_label(sample.label).astype(np.uint8)
        rows.append(montage(read_image(sample.image), label, prediction, DUBAI.classes, DUBAI.palette, panel_side=320))
    width = max(row.shape[1] for row in rows)
    write_png(
        target,
        np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]),
    )


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="the downloaded scenes, a folder or a zip file")
    parser.add_argument("work", type=Path, help="where everything goes")
    parser.add_argument("--set", nargs="*", default=[], help="overrides for the training")
    options = parser.parse_args()
    data, output = options.work / "data", options.work / "output"
    prepared = run("prepare", "dubai", options.source, "-o", str(data))
    overrides = [f"dataset.root={data}", *options.set]
    trained = run(
        *("train", "--config", CONFIG, "--set", *overrides),
        *("--save_dir", str(output), "--do_eval", "--overwrite", "--device", "cpu"),
    )
    best = output / "best_model"
    evaluated = run("eval", "--model_path", str(best))
    run("predict", "--model_path", str(best), "--image_path", str(data / "img_dir" / "val"),
        "--save_dir", str(options.work / "result"))  # fmt: skip
    write_pictures(data, options.work / "result", options.work / "overview.png")
    scores = json.loads((best / "eval.json").read_text("utf-8"))
    state = json.loads((best / "state.json").read_text("utf-8"))
    baseline = nearest_mean_colour(data).to_json()
    print(f"\nprepare {prepared:.0f} s, train {trained:.0f} s ({state['step']} steps), eval {evaluated:.0f} s\n")
    names = [row["name"] for row in scores["classes"]]
    print(f"| | mIoU | Acc | {' | '.join(f'IoU {name}' for name in names)} |")
    print("|---|" + "---|" * (2 + len(names)))
    for title, row in (("nearest mean colour", baseline), ("FCN-HRNet_W18", scores)):
        ious = " | ".join(f"{100 * entry['iou']:.1f}" for entry in row["classes"])
        print(f"| {title} | {100 * row['macro']['miou']:.1f} | {100 * row['micro']['acc']:.1f} | {ious} |")


if __name__ == "__main__":
    main()
