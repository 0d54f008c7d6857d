"""Whole scenes: peak memory, speed, and what everything but the model costs, beside two plainer ways.

    python -m benchmarks.scene size --sides 20000x10000 20000x20000 20000x40000
    python -m benchmarks.scene ways --sides 8192x8192
    python -m benchmarks.scene noise --sides 8192x8192
    python -m benchmarks.scene overhead --sides 4096x4096 --model

Scenes are generated, with three bands of 8 bits, tiled and packed, and removed afterwards. Each line is measured in a
process of its own; memory is the peak resident size of that process, everything included. Without `--model` the
predictor is trivial: six weights per band and pixel, so that nothing hides behind it. With it, FCN-HRNet_W18 with six
classes and random weights.

`ways` predicts one scene three times: as `rsseg-tf predict` does; by windows that do not overlap, each written as it
comes; and by the same overlapping windows summed in float64 over the whole scene, as the original does. `noise` does
the first with labels that do not compress. CPU is that of all threads of the process, in nanoseconds per pixel of the
scene; it holds on a busy machine too. A second table has the share of each stage, for the streamed way: "check, copy"
looks for NaN in what the model gave and copies it, "write" includes reading back, "pack, other" is what no stage's own
thread did, most of it GDAL's threads that pack blocks.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine

from benchmarks.measuring import Figures, measured_apart, parser_of

CLASSES = 6
TILE, STRIDE, BATCH = 512, 384, 4
STAGES = ("read", "model", "check, copy", "blend", "decode", "write")
CONFIG = "fcn/fcn_hrnet_w18_potsdam_512x512_80k.yml"


def make_scene(path: Path, width: int, height: int) -> None:
    """Writes a scene of smooth patches with some noise, 512 rows at a time."""
    rng = np.random.default_rng(0)
    patch = np.kron(rng.integers(0, 240, (32, 32, 3)), np.ones((32, 32, 1), int)) + rng.integers(0, 8, (1024, 1024, 3))
    smooth = patch.astype(np.uint8).transpose(2, 0, 1)
    profile = {"driver": "GTiff", "width": width, "height": height, "count": 3, "dtype": "uint8", "BIGTIFF": "IF_SAFER"}
    place = {"crs": "EPSG:32632", "transform": Affine(0.1, 0, 500000, 0, -0.1, 5400000)}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1}
    repeats = -(-width // 1024) + 1
    with rasterio.open(path, "w", **profile, **place, **layout, num_threads="ALL_CPUS") as file:
        for top in range(0, height, 512):
            rows = min(512, height - top)
            shift = top * 7 % 1024
            band = np.tile(np.roll(smooth, shift, axis=1)[:, :rows], (1, 1, repeats))[:, :, shift : shift + width]
            file.write(band, window=((top, top + rows), (0, width)))


def trivial() -> Callable[[np.ndarray], np.ndarray]:
    """Returns a predictor that weighs the bands of each pixel."""
    weights = np.random.default_rng(1).normal(size=(3, CLASSES)).astype(np.float32) / 64
    return lambda batch: (batch.reshape(-1, 3).astype(np.float32) @ weights).reshape(*batch.shape[:3], CLASSES)


def noise() -> Callable[[np.ndarray], np.ndarray]:
    """Returns a predictor whose labels do not compress: the same random logits for each batch."""
    logits = np.random.default_rng(1).normal(size=(BATCH, TILE, TILE, CLASSES)).astype(np.float32)
    return lambda batch: logits[: len(batch)]


def network() -> Callable[[np.ndarray], np.ndarray]:
    """Returns a predictor over a network with random weights."""
    from rsseg_tf import build_model, load_config
    from rsseg_tf.predictors import keras_predictor

    config = load_config(CONFIG, ["model.backbone.pretrained=null"])
    return keras_predictor(build_model(config), config.dataset.spec)


def streamed(scene: Path, folder: Path, predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """Predicts as the command does, with defaults."""
    from rsseg_tf.datasets import custom_spec
    from rsseg_tf.predict import InferenceOptions, OutputOptions, PredictionSettings, predict_paths
    from rsseg_tf.rasters.windows import Size

    spec = custom_spec("six", [str(index) for index in range(CLASSES)])
    options = InferenceOptions(batch_size=BATCH, tile=Size(TILE, TILE))
    (result,) = predict_paths(
        [scene], predict, PredictionSettings(spec, folder, options, output=OutputOptions(pictures=False))
    )
    if not result.ok:
        raise SystemExit(result.error)


def plain(scene: Path, folder: Path, predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """Predicts windows that do not overlap, and writes each as it comes."""
    with rasterio.open(scene) as source:
        profile = {**source.profile, "count": 1, "BIGTIFF": "IF_SAFER"}
        tops, lefts = (
            [min(start, max(size - TILE, 0)) for start in range(0, size, TILE)]
            for size in (source.height, source.width)
        )
        places = [(top, left) for top in tops for left in lefts]
        with rasterio.open(folder / "labels.tif", "w", **profile) as target:
            for start in range(0, len(places), BATCH):
                windows = [((top, top + TILE), (left, left + TILE)) for top, left in places[start : start + BATCH]]
                logits = predict(np.stack([source.read(window=window).transpose(1, 2, 0) for window in windows]))
                for window, one in zip(windows, logits, strict=True):
                    target.write(one.argmax(axis=-1).astype(np.uint8), 1, window=window)


def accumulated(scene: Path, folder: Path, predict: Callable[[np.ndarray], np.ndarray]) -> None:
    """Predicts the windows of `streamed` and sums them over the whole scene, as the original does."""
    from rsseg_tf.predict.blending import make_plan
    from rsseg_tf.rasters.windows import Size

    with rasterio.open(scene) as source:
        profile = {**source.profile, "count": 1, "BIGTIFF": "IF_SAFER"}
        pixels = source.read().transpose(1, 2, 0)
    plan = make_plan(Size(*pixels.shape[:2]), Size(TILE, TILE), Size(STRIDE, STRIDE), "cosine")
    places = [(top, left) for top in plan.rows.starts for left in plan.columns.starts]
    total, count = np.zeros((*pixels.shape[:2], CLASSES)), np.zeros((*pixels.shape[:2], 1))
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        logits = predict(np.stack([pixels[top : top + TILE, left : left + TILE] for top, left in batch]))
        for (top, left), one in zip(batch, logits, strict=True):
            total[top : top + TILE, left : left + TILE] += one
            count[top : top + TILE, left : left + TILE] += 1
    labels = (total / count).argmax(axis=-1).astype(np.uint8)
    with rasterio.open(folder / "labels.tif", "w", **profile) as target:
        target.write(labels, 1)


WAYS = {"streamed": streamed, "plain": plain, "accumulated": accumulated}


class StageClock:
    """CPU seconds of the stages of `streamed`, each in the thread that it runs in."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)

    def watch(self) -> None:
        """Measures the calls that make up the stages."""
        from rsseg_tf.predict import blending, engine, model, streaming, writing

        self._wrap(streaming._RowBuffer, "rows", "read")
        self._wrap(model, "require_finite", "check, copy")
        self._wrap(engine, "_copied", "check, copy")
        self._wrap(blending._RollingSums, "add", "blend")
        self._wrap(streaming, "_decoded", "decode")
        for name in ("put", "end_rows", "end_scene"):
            self._wrap(writing.SceneWriter, name, "write")

    def _wrap(self, owner: Any, name: str, stage: str) -> None:
        setattr(owner, name, self.timed(getattr(owner, name), stage))

    def timed(self, call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """Returns a function that adds its time to a stage."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[stage] += time.thread_time() - began

        return wrapped


PREDICTORS = {"trivial": trivial, "noise": noise, "network": network}


def measure(way: str, scene: Path, predictor: str) -> dict[str, Any]:
    """Returns seconds (all, CPU, in the model), windows, peak memory in MiB, the model's seconds alone, and stages."""
    predict, model = PREDICTORS[predictor](), predictor == "network"
    windows = np.zeros((BATCH, TILE, TILE, 3), np.uint8)
    predict(windows)  # traced and warm
    batches, inside, clock = [], 0.0, StageClock()
    if way == "streamed":
        clock.watch()
    answer = clock.timed(predict, "model")

    def timed(batch: np.ndarray) -> np.ndarray:
        nonlocal inside
        began = time.perf_counter()
        logits = answer(batch)
        inside += time.perf_counter() - began
        batches.append(len(batch))
        return logits

    with tempfile.TemporaryDirectory(dir=scene.parent) as folder:
        began, cpu = time.perf_counter(), time.process_time()
        WAYS[way](scene, Path(folder), timed)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    for count in batches if model else []:
        predict(windows[:count])
    alone = time.perf_counter() - began
    found = {
        "seconds": seconds,
        "cpu": cpu,
        "inside": inside,
        "windows": sum(batches),
        "memory": memory,
        "alone": alone,
    }
    return found | {"stages": clock.seconds}


def table(task: str, sides: list[tuple[int, int]], folder: Path, model: bool) -> Figures:
    """Generates the scenes, measures, and adds a row for each."""
    figures = Figures("scene", part=task)
    figures.table("scene", "way", "windows", "s", "Mpx/s", "CPU ns/px", "peak MiB", "model alone s", "all else")
    shares: list[tuple[str, ...]] = []
    for width, height in sides:
        scene = folder / f"scene_{width}x{height}.tif"
        make_scene(scene, width, height)
        for way in WAYS if task == "ways" else ["streamed"]:
            predictor = "network" if model else "noise" if task == "noise" else "trivial"
            options = ("--way", way, "--scene", str(scene), "--predictor", predictor)
            run = measured_apart("scene", "measure", *options)
            alone = (f"{run['alone']:.1f}", f"{run['seconds'] / run['alone'] - 1:+.1%}") if model else ("-", "-")
            speed = f"{width * height / 1e6 / run['seconds']:.2f}"
            figures.row(
                *(f"{width} x {height}", way, f"{run['windows']:.0f}", f"{run['seconds']:.1f}", speed),
                *(f"{1e9 * run['cpu'] / (width * height):.0f}", f"{run['memory']:.0f}", *alone),
            )
            if way == "streamed":
                cpu = [*run["stages"].values(), run["cpu"] - sum(run["stages"].values())]
                nanoseconds = (f"{1e9 * one / (width * height):.1f} ({one / run['cpu']:.0%})" for one in cpu)
                shares.append((f"{width} x {height}", *nanoseconds))
        scene.unlink()
    figures.table("CPU ns/px (share)", *STAGES, "pack, other")
    for line in shares:
        figures.row(*line)
    return figures


def main() -> None:
    """Reads the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("task", choices=["size", "ways", "noise", "overhead", "measure"], help="what to compare")
    parser.add_argument("--sides", nargs="+", default=["20000x20000"], metavar="WxH", help="of the scenes")
    parser.add_argument("--model", action="store_true", help="a real network instead of the trivial predictor")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="for scenes and results")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--predictor", choices=list(PREDICTORS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.task == "measure":
        print(json.dumps(measure(arguments.way, arguments.scene, arguments.predictor)))
        return
    sides = [(int(width), int(height)) for width, height in (text.split("x") for text in arguments.sides)]
    figures = table(arguments.task, sides, arguments.folder, arguments.model)
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
