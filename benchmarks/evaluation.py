"""What surrounds the model: processor time of each tile, and bytes that leave the device, by logits and by labels.

    python -m benchmarks.evaluation
    python -m benchmarks.evaluation --tiles 32 --write

The tiles have 896 x 896 pixels and 16 classes, as those of iSAID; they are PNG files, whose reading is measured by
itself and taken off. The model is trivial: one 1 x 1 convolution, whose own time is measured by itself and taken off as
well. By logits the evaluation asks the model as it asks a TFLite or ONNX file. The same is measured of labels with
confidence, as `predict --confidence` wants them, without reading and writing. All sides take turns; medians are shown.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from benchmarks.measuring import Figures, parser_of

if TYPE_CHECKING:
    from rsseg_tf.predict.options import Doubt, View
    from rsseg_tf.predictors.device import DevicePredictor

SIDE, CLASSES = 896, 16


def write_tiles(folder: Path, count: int) -> list:
    """Writes tiles of smooth patches, which take little time to decode, and their labels."""
    from rsseg_tf.files.lists import Sample

    rng = np.random.default_rng(0)
    samples = []
    for index in range(count):
        sample = Sample(folder / f"{index}.png", folder / f"{index}_label.png")
        image, label = rng.integers(0, 255, (14, 14, 3), np.uint8), rng.integers(0, CLASSES, (14, 14), np.uint8)
        cv2.imwrite(str(sample.image), np.kron(image, np.ones((64, 64, 1), np.uint8)))
        cv2.imwrite(str(sample.label), np.kron(label, np.ones((64, 64), np.uint8)))
        samples.append(sample)
    return samples


def process_ms(call: Callable[[], object], tiles: int) -> tuple[float, float]:
    """Returns processor time of a call in ms for each tile, and its wall time in seconds."""
    began, wall = time.process_time(), time.perf_counter()
    call()
    return 1e3 * (time.process_time() - began) / tiles, time.perf_counter() - wall


def left(predictor: DevicePredictor, pixels: np.ndarray, views: Sequence[View], doubt: Doubt) -> tuple:
    """Returns what leaves the device: planes, places of unsure pixels, and their logits."""
    import tensorflow as tf

    from rsseg_tf.predictors.device import _Kind

    given = tf.constant(False), tf.constant(doubt.below, tf.float32), tf.constant(doubt.value, tf.uint8)
    (answer,) = predictor._run(pixels, _Kind(tuple(views), confidence=True), *given)
    return answer


def measure(tiles: int, repeats: int, folder: Path) -> Figures:
    """Evaluates by both ways in turns, and adds a row for each."""
    import keras
    import tensorflow as tf

    from rsseg_tf.data import SampleReader
    from rsseg_tf.datasets import custom_spec
    from rsseg_tf.evaluate.evaluation import evaluate
    from rsseg_tf.predict import InferenceOptions, OutputOptions
    from rsseg_tf.predict.decoding import decode
    from rsseg_tf.predictors import keras_predictor

    spec = custom_spec("tiles", [str(index) for index in range(CLASSES)])
    samples = write_tiles(folder, tiles)
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, {"main": keras.layers.Conv2D(CLASSES, 1)(inputs)})
    predictor, options = keras_predictor(model, spec), InferenceOptions()
    reader = SampleReader(samples, spec)
    pixels = tf.constant(reader(0)[0][np.newaxis], tf.uint8)
    forward = tf.function(predictor._logits)
    counts: dict[str, np.ndarray] = {}

    def ask(batch: np.ndarray) -> np.ndarray:
        return predictor(batch)  # a function has no labels

    # Noise, so that the confidence of each pixel is another one.
    noise = np.random.default_rng(1).integers(0, 255, (1, SIDE, SIDE, 3), np.uint8)
    output, asked = OutputOptions(confidence=True), (noise, options.views, OutputOptions().doubt())
    everything = np.ones((SIDE, SIDE), bool)

    def weighed() -> np.ndarray:
        found = decode(predictor(asked[0])[0], everything, spec, output)
        return np.concatenate([found["labels"], found["confidence"]])

    ways: dict[str, Callable[[], object]] = {
        "reading": lambda: [reader(index) for index in range(tiles)],
        "model": lambda: [forward(pixels) for _ in range(tiles)],
        "logits": lambda: counts.update(logits=evaluate(ask, samples, spec, options).confusion),
        "labels": lambda: counts.update(labels=evaluate(predictor, samples, spec, options).confusion),
        "logits with confidence": lambda: [weighed() for _ in range(tiles)],
        "labels with confidence": lambda: [predictor.labels_and_confidence(*asked) for _ in range(tiles)],
        "search": lambda: [answer.argmax(axis=-1) for _ in range(tiles)],
    }
    answer = predictor(pixels.numpy())
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # traced and warm
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append(process_ms(way, tiles))
    if not np.array_equal(counts["logits"], counts["labels"]):
        raise SystemExit("the confusion matrices differ")
    planes, unsure, rows = left(predictor, *asked)
    own = predictor.labels_and_confidence(*asked)
    if own is None or not np.array_equal(own[0], weighed()):
        raise SystemExit("labels or confidence differ")
    cpu = {name: statistics.median(ms for ms, _ in found) for name, found in times.items()}
    wall = {name: statistics.median(seconds for _, seconds in found) for name, found in times.items()}
    beside = {name: cpu[name] - cpu["reading"] - cpu["model"] for name in ("logits", "labels")}
    beside |= {f"{name} with confidence": cpu[f"{name} with confidence"] - cpu["model"] for name in beside}
    size = {"logits": SIDE * SIDE * CLASSES * 4, "labels": SIDE * SIDE}
    size |= {
        "logits with confidence": size["logits"],
        "labels with confidence": planes.nbytes + unsure.nbytes + rows.nbytes,
    }
    figures = Figures("evaluation")
    figures.table("answer", "CPU ms beside the model", "ratio", "MB off the device", "ratio", "tiles/s, trivial model")
    for name in ("logits", "labels", "logits with confidence", "labels with confidence"):
        least = "labels with confidence" if "confidence" in name else "labels"
        figures.row(
            name,
            f"{beside[name]:.1f}",
            f"{beside[name] / beside[least]:.1f}",
            f"{size[name] / 1e6:.1f}",
            f"{size[name] / size[least]:.0f}",
            f"{tiles / wall[name]:.0f}",
        )
    figures.add("")
    figures.add(
        f"Of each tile, reading takes {cpu['reading']:.1f} ms and the trivial model {cpu['model']:.1f} ms, which are "
        f"taken off; NumPy's own search for the largest class alone takes {cpu['search']:.1f} ms. Both ways count the "
        f"same, and have the same confidence, for which logits of {100 * len(unsure) / SIDE**2:.2f} % of the pixels "
        "leave the device."
    )
    return figures


def main() -> None:
    """Reads the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("--tiles", type=int, default=16, help="tiles of an evaluation")
    parser.add_argument("--repeats", type=int, default=5, help="evaluations of each way")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.tiles, arguments.repeats, Path(folder))
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
