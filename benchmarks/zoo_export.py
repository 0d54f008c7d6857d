"""Every segmentor, trained briefly and exported in every format: sizes, differences, mIoU and times, side by side.

    python -m benchmarks.zoo_export path/to/dubai/download --work /tmp/zoo

Prepares the Dubai scenes as tiles of 256x256, trains each model for some steps, exports it, and measures every artifact
on validation tiles; writes benchmarks/zoo_export.md. What was done once lies in the work folder and is not done again,
so that a run that was interrupted goes on. Needs the extras `tflite` and `onnx`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.measuring import cpu_name, kept, rsseg_tf, seconds_of
from rsseg_tf.datasets.dubai import DUBAI
from rsseg_tf.errors import ExportError
from rsseg_tf.export import AccuracyLimit, ExportOptions, calibration_images, compare, export_model, load_trained
from rsseg_tf.export.tiles import Reference, read_tiles
from rsseg_tf.files.lists import Sample, read_list
from rsseg_tf.manifest import Quantization, read_manifest
from rsseg_tf.predict import Predict
from rsseg_tf.predictors import open_predictor
from rsseg_tf.predictors.opening import newest_version
from rsseg_tf.rasters.windows import Size

TARGET = Path(__file__).parent / "zoo_export.md"
SIDE = 256
CALIBRATION = 64  # training tiles from which the ranges of activations are taken
SCORED, COMPARED = 48, 12  # validation tiles for mIoU, and those on which probabilities are compared
ROUNDS = 12
THREADS = (1, 2)
TFLITE: tuple[Quantization, ...] = ("float32", "float16", "dynamic", "int8")
FLOAT = ("savedmodel", "onnx", "tflite float32", "tflite float16")
LEAST_SAME, MOST_LOST = 0.999, 1.0  # share of pixels for float artifacts; points of mIoU for int8


@dataclass(frozen=True)
class Case:
    """A segmentor small enough to be trained on a CPU in minutes.

    Attributes:
        model: the config's section of that name, without the name.
        heads: weight of each head's cross-entropy; pixel_contrast for the head `contrast`.
        attention: whether the head weighs pixels or classes by softmax attention.
        steps: of training.
    """

    model: Mapping[str, Any]
    heads: Mapping[str, float] = field(default_factory=lambda: {"main": 1.0})
    attention: bool = False
    steps: int = 100


RESNET = {"name": "resnet18_vd", "output_stride": 16}
HRNET = {"name": "hrnet_w18"}
CASES: dict[str, Case] = {
    "fcn": Case({"backbone": RESNET}),
    "deeplabv3plus": Case({"backbone": RESNET, "aspp_rates": [1, 2, 4, 6]}),
    "pspnet": Case({"backbone": RESNET, "pyramid_channels": 256}, {"main": 1.0, "aux": 0.4}),
    "upernet": Case({"backbone": {**RESNET, "output_stride": 32}, "channels": 128}, {"main": 1.0, "aux": 0.4}),
    "danet": Case({"backbone": RESNET}, {"main": 1.0, "cam": 1.0, "pam": 1.0, "aux": 0.4}, attention=True),
    "ocrnet": Case(
        {"backbone": RESNET, "ocr_channels": 256, "key_channels": 128}, {"main": 1.0, "aux": 0.4}, attention=True
    ),
    # Of its many normalisations in a row the statistics settle late; before, ranges of activations explode.
    "hrnet_contrast": Case({"backbone": HRNET}, {"main": 1.0, "contrast": 0.1}, steps=400),
    "lraspp": Case(
        {"backbone": {"name": "mobilenet_v3_small"}}, steps=400
    ),  # of which each takes a seventh of the time
    "c2fnet": Case(
        {"backbone": RESNET, "coarse": {"name": "fcn", "backbone": RESNET}, "window_size": 64, "windows_per_image": 2},
        {"fine": 1.0},
    ),
}


def config_of(name: str, root: Path, work: Path) -> dict[str, Any]:
    """Returns a config as YAML would hold it."""
    case = CASES[name]
    model = {"name": name, **case.model}
    dataset: dict[str, Any] = {"name": "dubai", "root": str(root)}
    if name == "c2fnet":
        coarse = train("fcn", root, work)
        model["coarse"] = {**case.model["coarse"], "pretrained": str(coarse)}
        dataset = {"name": "custom", "root": str(root), "classes": list(DUBAI.classes)}
        dataset |= {"palette": [list(colour) for colour in DUBAI.palette], "small_classes": ["road", "building"]}
    return training_config(dataset, model, case)


def training_config(
    dataset: Mapping[str, Any], model: Mapping[str, Any], case: Case, *, crop: int = 128, batch: int = 8
) -> dict[str, Any]:
    """Returns a config for the steps of a case, with random weights at the start."""
    loss = {
        head: {"name": "pixel_contrast" if head == "contrast" else "cross_entropy", "weight": weight}
        for head, weight in case.heads.items()
    }
    return {
        "dataset": dataset,
        "model": model,
        "loss": loss,
        "augment": {
            **{"crop_size": [crop, crop], "scale_range": [0.75, 1.25], "flip_vertical": 0.5, "rotate90": 0.5},
            **{"brightness_range": 0.2, "contrast_range": 0.2, "saturation_range": 0.2, "hue_range": 0},
        },
        "optimizer": {"name": "adamw", "weight_decay": 0.01},
        "lr_schedule": {"name": "poly", "learning_rate": 0.002, "warmup_steps": 10},
        "train": {"iters": case.steps, "batch_size": batch, "save_interval": case.steps},
    }


def train(name: str, root: Path, work: Path) -> Path:
    """Returns the checkpoint of a case after all steps; trains where there is none."""
    return trained_in(work / name, CASES[name].steps, lambda: config_of(name, root, work))


def trained_in(folder: Path, steps: int, config: Callable[[], Mapping[str, Any]]) -> Path:
    """Returns the checkpoint in a folder after all steps of a config; trains where there is none."""
    checkpoint = folder / "training" / f"iter_{steps}"
    if not checkpoint.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "config.yml"
        file.write_text(json.dumps(config(), indent=2), "utf-8")  # JSON is YAML too
        save_dir = str(folder / "training")
        rsseg_tf("train", "--config", str(file), "--save_dir", save_dir, "--overwrite", "--device", "cpu")
    return checkpoint


def spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Returns samples from the whole list at equal distances."""
    return [samples[int(index)] for index in np.linspace(0, len(samples) - 1, min(count, len(samples)))]


def latencies(models: Mapping[str, Predict], pixels: np.ndarray) -> dict[str, float]:
    """Returns milliseconds of the fastest of some rounds, in which models take turns.

    Other work on the machine slows down all of them alike, and the fastest round least.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(1 + ROUNDS):
        for name, predict in models.items():
            time.sleep(0.02)  # threads of the runtime before come to rest
            times[name].append(1000 * seconds_of(partial(predict, pixels)))
    return {name: min(taken[1:]) for name, taken in times.items()}


def time_all(root: Path, work: Path, checkpoint: Path) -> dict[str, float]:
    """Returns the times of a checkpoint and of what was exported from it, by the columns of the table."""
    trained = load_trained(checkpoint)
    if trained.config is None:
        raise RuntimeError(f"{checkpoint} has no config")
    folder = newest_version(work / trained.config.model.name / "export")
    if folder is None:
        raise RuntimeError(f"there is no export of {checkpoint}")
    models: dict[str, Predict] = {"Keras": trained.predict}
    for artifact in read_manifest(folder).artifacts:
        if artifact.format != "tflite":
            models[artifact.name] = open_predictor(folder / artifact.path, threads=THREADS[-1]).predict
        elif artifact.quantization != "float16":  # which computes as float32 does
            for count in THREADS:
                models[f"{artifact.name} {count}"] = open_predictor(folder / artifact.path, threads=count).predict
    (tile,) = read_tiles([read_list(root / "val.txt", root)[0].image], trained.spec, Size(SIDE, SIDE))
    return latencies(models, tile[np.newaxis])


def refusals(trained: Any, folder: Path) -> dict[str, str]:
    """Returns what the export says of the formats that cannot hold a model whose shapes follow from pixels."""
    answers = {}
    for kind in ("onnx", "tflite"):
        try:
            export_model(trained, folder / kind, ExportOptions((kind,)))
        except ExportError as error:
            answers[kind] = str(error)
    return answers


def measure(name: str, root: Path, work: Path, checkpoint: Path) -> dict[str, Any]:
    """Exports a checkpoint and returns all figures."""
    trained = load_trained(checkpoint)
    validation = read_list(root / "val.txt", root)
    static = name != "c2fnet"  # whose shapes follow from pixels
    told: list[str] = []

    def notify(line: str) -> None:
        print(name, line, flush=True)
        told.append(line)

    exported = export_model(
        trained,
        work / name / "export",
        ExportOptions(
            ("savedmodel", "onnx", "tflite") if static else ("savedmodel",),
            TFLITE,
            Size(SIDE, SIDE),
            calibration_images(root / "train.txt", trained.spec, Size(SIDE, SIDE), count=CALIBRATION),
        ),
        limit=AccuracyLimit(spread(validation, SCORED), max_miou_drop=100),  # a loss is reported here, not refused
        notify=notify,
    )
    folder, accuracy = exported.folder, exported.accuracy
    if folder is None or accuracy is None:
        raise RuntimeError(f"{name} was refused: {accuracy}")
    pixels = np.stack(read_tiles([one.image for one in spread(validation, COMPARED)], trained.spec, Size(SIDE, SIDE)))
    reference = Reference(pixels, np.concatenate([trained.predict(tile[np.newaxis]) for tile in pixels]), 0)
    rows = []
    for artifact in exported.manifest.artifacts:
        path = folder / artifact.path
        size = sum((folder / file).stat().st_size for file in artifact.sha256)
        predictor = open_predictor(path, threads=THREADS[-1])
        compared = compare(artifact.name, predictor.predict, reference, size)
        miou = accuracy.scores[artifact.name].miou
        rows.append({**compared.to_json(), "miou": miou})
    return {
        "miou": accuracy.scores["checkpoint"].miou,
        "step": trained.manifest.origin.step,
        "parameters": trained.model.count_params(),
        "artifacts": rows,
        "left_out": [line for line in told if "left out" in line],
        "refused": {} if static else refusals(trained, work / name / "refused"),
    }


HEAD = """\
# The zoo, exported

Made by `python -m benchmarks.zoo_export path/to/download --work /tmp/zoo` ({date}; TensorFlow {tensorflow}, Keras
{keras}, LiteRT {litert}, ONNX Runtime {onnxruntime}; {cpu}, {cores} cores, {system}). Nothing below is written by hand.

Each segmentor is trained with AdamW, from random weights, on crops of 128x128 of the Dubai scenes, batch 8, for as many
steps as the table says: enough for a mIoU above that of one class everywhere ({chance:.1f}), not for a good one. TFLite
and ONNX files take one image of {side}x{side}; int8 is calibrated with {calibration} training tiles, less those that
the export leaves out (below).

## Differences from Keras

- **MB**: size of the file or of the SavedModel's files; float16 to int8 are TFLite files.
- **max Δ**, **same**: largest difference of a probability, and share of pixels with the class that Keras gives, on
  {compared} validation tiles of {side}x{side}.
- **mIoU**, **loss**: on {scored} validation tiles, in %, and the points that Keras's is higher (negative: lower).

| model, steps | backbone | artifact | MB | max Δ | same (%) | mIoU | loss |
|---|---|---|--:|--:|--:|--:|--:|
"""
LATENCY = """
## Time of one image

{side}x{side}, in milliseconds: the fastest of {rounds} rounds in which all of a row took turns, which other work on the
machine disturbs least. Keras runs as a traced function; it, the SavedModel and ONNX Runtime use {threads} threads.
TFLite files use 1 or {threads}, as their columns say.

| model | Keras | SavedModel | ONNX Runtime | float32, 1 | float32, 2 | dynamic, 1 | dynamic, 2 | int8, 1 | int8, 2 |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""
COLUMNS = (
    "Keras",
    "savedmodel",
    "onnx",
    *(f"tflite {kind} {n}" for kind in ("float32", "dynamic", "int8") for n in THREADS),
)


def difference_rows(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yields the rows of the first table."""
    for name, result in results.items():
        start = f"| {name}, {CASES[name].steps} | {CASES[name].model['backbone']['name']} |"
        yield f"{start} Keras | | | | {100 * result['miou']:.2f} | |"
        for row in result["artifacts"]:
            lost = 100 * (result["miou"] - row["miou"])
            yield (
                f"{start} {row['name']} | {row['size_bytes'] / 1e6:.1f} | "
                f"{row['max_probability_difference']:.1e} | {100 * row['agreement']:.3f} | "
                f"{100 * row['miou']:.2f} | {round(lost, 2) + 0.0:+.2f} |"
            )
        for kind in result["refused"]:
            yield f"{start} {kind} | refused | | | | |"


def findings(results: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yields what the first table says about the bounds."""
    rows = [(name, row, result) for name, result in results.items() for row in result["artifacts"]]
    name, worst, _ = min(
        (entry for entry in rows if entry[1]["name"] in FLOAT), key=lambda entry: entry[1]["agreement"]
    )
    below = sum(row["agreement"] < LEAST_SAME for _, row, _ in rows if row["name"] in FLOAT)
    yield (
        f"- Float artifacts below {100 * LEAST_SAME:.1f} % of pixels with Keras's class: {below or 'none'}; the lowest "
        f"is {name}, {worst['name']}, with {100 * worst['agreement']:.3f} %."
    )
    for attention, what in ((False, "Without attention"), (True, "With attention")):
        lost = {
            name: 100 * (result["miou"] - row["miou"])
            for name, row, result in rows
            if row["name"] == "tflite int8" and CASES[name].attention == attention
        }
        beyond = [f"{name} ({points:.2f})" for name, points in lost.items() if points > MOST_LOST]
        yield (
            f"- {what} ({', '.join(lost)}), int8 loses more than {MOST_LOST:g} point of mIoU: "
            f"{', '.join(beyond) or 'none'}."
        )
    for name, result in results.items():
        for line in result["left_out"]:
            yield f"- {name}, {line}"
        for kind, answer in result["refused"].items():
            yield f"- {name}, {kind}: {answer}"


def constant_miou(root: Path) -> float:
    """Returns the mIoU, in %, of calling every scored pixel by the most frequent class."""
    from rsseg_tf.rasters.images import read_label

    samples = spread(read_list(root / "val.txt", root), SCORED)
    labels = [read_label(sample.label) for sample in samples if sample.label]
    counts = np.bincount(np.concatenate([label.ravel() for label in labels]), minlength=256)[: DUBAI.num_classes]
    return float(100 * counts.max() / counts.sum() / DUBAI.num_classes)


def latency_row(name: str, times: Mapping[str, float]) -> str:
    """Returns a row of the second table."""
    return f"| {name} | {' | '.join(f'{times[column]:.0f}' if column in times else '' for column in COLUMNS)} |"


def page(results: Mapping[str, Mapping[str, Any]], times: Mapping[str, Mapping[str, float]], root: Path) -> str:
    """Returns the whole page."""
    text = HEAD.format(
        date=datetime.now(UTC).date(),
        tensorflow=tf.__version__,
        keras=keras.__version__,
        litert=version("ai-edge-litert"),
        onnxruntime=version("onnxruntime"),
        cpu=cpu_name(),
        cores=os.cpu_count(),
        system=f"{platform.system()} {platform.machine()}",
        chance=constant_miou(root),
        side=SIDE,
        calibration=CALIBRATION,
        compared=COMPARED,
        scored=SCORED,
    )
    text += "\n".join(difference_rows(results)) + "\n\n" + "\n".join(findings(results)) + "\n"
    text += LATENCY.format(side=SIDE, rounds=ROUNDS, threads=THREADS[-1])
    return text + "\n".join(latency_row(name, row) for name, row in times.items()) + "\n"


def main() -> None:
    """Reads the command line, does what is not done yet and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="the downloaded Dubai scenes, a folder or a zip file")
    parser.add_argument("--work", type=Path, required=True, help="where everything goes, and is found again")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(THREADS[-1])
    root = arguments.work.absolute() / "tiles"
    if not root.exists():
        rsseg_tf("prepare", "dubai", arguments.source, "-o", str(root), "--tile-size", str(SIDE))
    work, results, times = arguments.work.absolute(), {}, {}
    checkpoints = {name: train(name, root, work) for name in arguments.models}
    for name, checkpoint in checkpoints.items():
        file = work / name / f"result_{CASES[name].steps}.json"
        results[name] = kept(file, partial(measure, name, root, work, checkpoint))
        keras.backend.clear_session()
        print(*difference_rows({name: results[name]}), sep="\n", flush=True)
    for name, checkpoint in checkpoints.items():
        file = work / name / f"times_{CASES[name].steps}.json"
        times[name] = kept(file, partial(time_all, root, work, checkpoint))
        keras.backend.clear_session()
        print(latency_row(name, times[name]), flush=True)
    TARGET.write_text(page(results, times, root), "utf-8")


if __name__ == "__main__":
    main()
