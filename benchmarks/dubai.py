"""From the downloaded Dubai scenes to predictions, by the commands that a user types, beside a baseline.

    python -m benchmarks.dubai path/to/download /tmp/dubai

The baseline gives each validation pixel the class whose mean training colour is nearest. What a model gains over it is
what it has learnt beyond colour. Prints a table in Markdown, and writes pictures of some validation tiles.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from benchmarks.measuring import Figures, parser_of, rsseg_tf
from rsseg_tf.datasets.dubai import DUBAI
from rsseg_tf.files.lists import Sample, read_list
from rsseg_tf.metrics import SegmentationScores, confusion_matrix, count_ignored
from rsseg_tf.predict import montage
from rsseg_tf.rasters.images import read_image, read_label, write_png

CONFIG = "fcn/fcn_hrnet_w18_dubai_256x256_cpu.yml"


def read_pair(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Returns a tile and its class ids."""
    if sample.label is None:
        raise SystemExit(f"{sample.image} has no label")
    return read_image(sample.image), read_label(sample.label)


def nearest_mean_colour(data: Path) -> SegmentationScores:
    """Scores the baseline on the validation tiles."""
    sums, counts = np.zeros((DUBAI.num_classes, 3)), np.zeros(DUBAI.num_classes)
    for sample in read_list(data / "train.txt", data):
        image, label = read_pair(sample)
        for i in range(DUBAI.num_classes):
            pixels = image[label == i]
            sums[i] += pixels.sum(0, dtype=np.float64)
            counts[i] += len(pixels)
    means = sums / counts[:, None]
    parts = []
    for sample in read_list(data / "val.txt", data):
        image, label = read_pair(sample)
        distance = ((image[:, :, None].astype(np.float64) - means) ** 2).sum(-1)
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
        image, label = read_pair(sample)
        rows.append(montage(image, label.astype(np.uint8), prediction, DUBAI.classes, DUBAI.palette, panel_side=320))
    width = max(row.shape[1] for row in rows)
    write_png(
        target,
        np.vstack([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows]),
    )


def main() -> None:
    """Runs the comparison."""
    parser = parser_of(__doc__)
    parser.add_argument("source", help="the downloaded scenes, a folder or a zip file")
    parser.add_argument("work", type=Path, help="where everything goes")
    parser.add_argument("--set", nargs="*", default=[], help="overrides for the training")
    options = parser.parse_args()
    data, output = options.work / "data", options.work / "output"
    prepared = rsseg_tf("prepare", "dubai", options.source, "-o", str(data))
    overrides = [f"dataset.root={data}", *options.set]
    trained = rsseg_tf(
        *("train", "--config", CONFIG, "--set", *overrides),
        *("--save_dir", str(output), "--do_eval", "--overwrite", "--device", "cpu"),
    )
    best = output / "best_model"
    evaluated = rsseg_tf("eval", "--model_path", str(best))
    rsseg_tf("predict", "--model_path", str(best), "--image_path", str(data / "img_dir" / "val"),
        "--save_dir", str(options.work / "result"))  # fmt: skip
    write_pictures(data, options.work / "result", options.work / "overview.png")
    scores = json.loads((best / "eval.json").read_text("utf-8"))
    state = json.loads((best / "state.json").read_text("utf-8"))
    baseline = nearest_mean_colour(data).to_json()
    figures = Figures("dubai")
    figures.table("", "mIoU", "Acc", *(f"IoU {row['name']}" for row in scores["classes"]))
    for title, row in (("nearest mean colour", baseline), (f"FCN-HRNet_W18, {state['step']} steps", scores)):
        shares = (row["macro"]["miou"], row["micro"]["acc"], *(entry["iou"] for entry in row["classes"]))
        figures.row(title, *(f"{100 * share:.1f}" for share in shares))
    figures.add(f"\nWall time: prepare {prepared:.0f} s, train {trained:.0f} s, eval {evaluated:.0f} s.")
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
