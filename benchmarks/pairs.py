"""What pairs of segmentor and backbone cost: parameters, multiplications, and the times of a step and of each engine.

    python -m benchmarks.pairs --write

Each pair is built, trained and exported as the commands do it, in a process of its own that uses all processors. Its
weights are random; the statistics of its batch normalisations are those of the images, so that activations have their
usual size. With `--write` the table in docs/pairs.md is made anew. The figures of a pair are kept until then, so that a
run that was stopped goes on. Needs the extras `tflite` and `onnx`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import Figures, kept, measured_apart, parser_of

if TYPE_CHECKING:
    from rsseg_tf.config import Config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "pairs.md"
SIDE = 512  # of the image of a forward pass
BATCH, CROP = 2, 256  # of a step
ROUNDS, PATIENCE_S = 7, 4.0  # in which calls take turns: at most so many, and no further one after so long
LEAST_ROUNDS = 2
ENGINES = ("Keras", "savedmodel", "onnx", "tflite float32", "tflite int8")


@dataclass(frozen=True)
class Pair:
    """A segmentor and a backbone.

    Attributes:
        segmentor: `model.name`.
        backbone: `model.backbone.name`.
        options: Further fields of `model.backbone`.
    """

    segmentor: str
    backbone: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Both names."""
        return f"{self.segmentor}_{self.options.get('model', self.backbone)}".lower()

    @property
    def on(self) -> str:
        """The backbone for the table, with what is not its default."""
        rest = ", ".join(f"{name} {value}" for name, value in self.options.items() if name != "model")
        name = f"{self.options['model']} of {self.backbone}" if "model" in self.options else self.backbone
        return f"{name}, {rest}" if rest else name

    def config(self) -> dict[str, Any]:
        """Returns a config as YAML would hold it; the dataset's files are never looked for."""
        heads = ("main", "aux") if self.segmentor in ("pspnet", "upernet", "ocrnet") else ("main",)
        return {
            "dataset": {"name": "dubai", "root": "none"},
            "model": {"name": self.segmentor, "backbone": {"name": self.backbone, **self.options}},
            "loss": {head: {"name": "cross_entropy"} for head in heads},
            "train": {"batch_size": BATCH},
        }


MOBILENET_V2, STRIDE_32 = {"model": "MobileNetV2"}, {"output_stride": 32}
PAIRS = (
    Pair("unet", "efficientnet_lite0"),
    Pair("unet", "efficientnet_lite1"),
    Pair("unet", "efficientnet_lite2"),
    Pair("unet", "efficientnet_b0"),
    Pair("unet", "keras_applications", MOBILENET_V2),
    Pair("unet", "mit_b0"),
    Pair("unet", "resnet18_vd", STRIDE_32),
    Pair("unet", "resnet50_vd", STRIDE_32),
    Pair("unet", "convnext_tiny"),
    Pair("fpn", "efficientnet_lite0"),
    Pair("fpn", "efficientnet_b0"),
    Pair("fpn", "mit_b0"),
    Pair("fpn", "resnet50_vd", STRIDE_32),
    Pair("segformer", "efficientnet_lite0"),
    Pair("segformer", "mit_b0"),
    Pair("segformer", "mit_b1"),
    Pair("segformer", "convnext_tiny"),
    Pair("deeplabv3plus", "efficientnet_lite0", {"output_stride": 16}),
    Pair("deeplabv3plus", "keras_applications", MOBILENET_V2),
    Pair("deeplabv3plus", "resnet18_vd"),
    Pair("deeplabv3plus", "resnet50_vd"),
    Pair("lraspp", "mobilenet_v3_small"),
    Pair("lraspp", "mobilenet_v3_large"),
    Pair("lraspp", "efficientnet_lite0", {"output_stride": 16}),
    Pair("fcn", "hrnet_w18_small"),
    Pair("fcn", "hrnet_w18"),
    Pair("ocrnet", "hrnet_w18"),
    Pair("pspnet", "resnet50_vd"),
    Pair("upernet", "convnext_tiny"),
)


def in_turns(calls: Mapping[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Returns wall time and CPU time of each call in seconds: medians of rounds, after one that is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for count in range(1 + ROUNDS):
        if count == 1:
            began = time.perf_counter()
        elif count > LEAST_ROUNDS and time.perf_counter() - began > PATIENCE_S:
            break
        for name, call in calls.items():
            time.sleep(0.02)  # threads of the runtime before come to rest
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: (_median(taken, 0), _median(taken, 1)) for name, taken in times.items()}


def _median(times: list[tuple[float, float]], which: int) -> float:
    return statistics.median(pair[which] for pair in times[1:])


def measure(pair: Pair, folder: Path) -> dict[str, Any]:
    """Builds a pair, takes steps, exports it and runs each engine; returns all figures.

    Args:
        pair: The pair.
        folder: Where files go.
    """
    from docs.make_model_zoo import count_operations
    from rsseg_tf import load_config
    from rsseg_tf.export import load_trained

    (folder / "config.yml").write_text(json.dumps(pair.config()), "utf-8")  # JSON is YAML too
    figures = _step(load_config(folder / "config.yml"), folder / "checkpoint")
    trained = load_trained(folder / "checkpoint")
    multiplications = count_operations(trained.model, SIDE) // 2
    return {**figures, "multiplications": multiplications, **_engines(trained, folder)}


def _step(config: Config, checkpoint: Path) -> dict[str, Any]:
    """Returns parameters and the time of a step; writes a checkpoint."""
    import keras
    import numpy as np
    import tensorflow as tf

    from rsseg_tf.checkpoint import TrainState, save_checkpoint
    from rsseg_tf.export.tiles import random_tiles
    from rsseg_tf.rasters.windows import Size
    from rsseg_tf.training.segmentation import build_learner

    spec = config.dataset.spec
    learner = build_learner(config, tf.distribute.get_strategy(), pretrained=False)
    for layer in learner.model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5  # the steps that are timed bring the statistics to those of the images
    labels = np.random.default_rng(1).integers(0, spec.num_classes, (BATCH, CROP, CROP), np.int32)
    batch = {"image": tf.constant(random_tiles(spec, Size(CROP, CROP), BATCH)), "label": tf.constant(labels)}
    times = in_turns({"step": lambda: float(learner.take_step(batch, 0.0)["loss"])})
    save_checkpoint(checkpoint, learner.model, None, TrainState(), config)
    return {"parameters": sum(math.prod(weight.shape) for weight in learner.model.trainable_weights), **times}


def _engines(trained: Any, folder: Path) -> dict[str, Any]:
    """Returns the times of one image in each engine, and what the export says of those that cannot hold the pair."""
    from rsseg_tf.errors import ExportError
    from rsseg_tf.export.onnx import write_onnx
    from rsseg_tf.export.savedmodel import write_savedmodel
    from rsseg_tf.export.tflite import write_tflite
    from rsseg_tf.export.tiles import random_tiles
    from rsseg_tf.predictors import open_predictor
    from rsseg_tf.rasters.windows import Size

    size, threads = Size(SIDE, SIDE), os.cpu_count()
    pixels = random_tiles(trained.spec, size, 2)
    write: dict[str, Callable[..., Any]] = {
        "savedmodel": write_savedmodel,
        "onnx": partial(write_onnx, tile=size),
        "tflite float32": partial(write_tflite, quantization="float32", tile=size),
        "tflite int8": partial(write_tflite, quantization="int8", tile=size, calibration=list(pixels[1:])),
    }
    calls, refused = {"Keras": partial(trained.predict, pixels[:1])}, {}
    for name, writer in write.items():
        (place := folder / name.replace(" ", "_")).mkdir()
        try:
            path = place / writer(trained, place).path
        except ExportError as error:
            refused[name] = str(error)
        else:
            calls[name] = partial(open_predictor(path, threads=threads).predict, pixels[:1])
    return {"engines": in_turns(calls), "refused": refused}


def measured(label: str, folder: Path) -> dict[str, Any]:
    """Returns the figures of a pair: those of an earlier run that was stopped, or new ones."""

    def anew() -> dict[str, Any]:
        load, began, before = os.getloadavg()[0], time.perf_counter(), _cpu_of_children()
        figures = measured_apart("pairs", "--measure", label)
        seconds, cpu = time.perf_counter() - began, _cpu_of_children() - before
        return {**figures, "load": load, "seconds": seconds, "cpu_seconds": cpu}

    folder.mkdir(parents=True, exist_ok=True)
    return kept(folder / f"{label}.json", anew)


def _cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def cells(pair: Pair, found: Mapping[str, Any]) -> Iterator[str]:
    """Yields a row of the table; times are wall time, and CPU time in brackets."""
    yield from (pair.segmentor, pair.on)
    yield f"{found['parameters'] / 1e6:.1f}"
    yield f"{found['multiplications'] / 1e9:.1f}"
    yield "{:.2f} ({:.2f})".format(*found["step"])
    for engine in ENGINES:
        if engine in found["refused"]:
            yield "refused"
        else:
            yield "{:.0f} ({:.0f})".format(*(1000 * seconds for seconds in found["engines"][engine]))


def main() -> None:
    """Reads the command line, and prints or writes the table."""
    parser = parser_of(__doc__)
    labels = {pair.label: pair for pair in PAIRS}
    parser.add_argument("--measure", choices=labels, help=argparse.SUPPRESS)
    parser.add_argument("--pairs", nargs="+", choices=labels, default=list(labels), help="some of them alone")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "rsseg_tf_pairs", metavar="DIR",
        help="folder for the figures of a run that is not over",
    )  # fmt: skip
    arguments = parser.parse_args()
    if arguments.measure:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(labels[arguments.measure], Path(folder))))
        return
    figures = Figures("pairs", page=PAGE)
    figures.table("segmentor", "backbone", "M params", "GMACs", "step s", *(f"{engine} ms" for engine in ENGINES))
    rows = {}
    for label in arguments.pairs:
        rows[label] = measured(label, arguments.work)
        figures.row(*cells(labels[label], rows[label]))
    for label, found in rows.items():
        for engine, reason in found["refused"].items():
            figures.add(f"\n{label}, {engine}: {reason}")
    loads = [found["load"] for found in rows.values()]
    minutes, cpu_minutes = (sum(found[name] for found in rows.values()) / 60 for name in ("seconds", "cpu_seconds"))
    figures.add(
        f"\nLoad before a pair: {min(loads):.1f} to {max(loads):.1f}. All pairs took {minutes:.0f} minutes, and "
        f"{cpu_minutes:.0f} of CPU time."
    )
    if arguments.write:
        figures.write()
        for label in rows:
            (arguments.work / f"{label}.json").unlink()


if __name__ == "__main__":
    main()
