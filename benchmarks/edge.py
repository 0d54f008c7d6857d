"""Sizes and times of TFLite files on a CPU, and what a trained model loses in them; writes benchmarks/edge.md.

    python -m benchmarks.edge                                    # sizes and times, with random weights
    python -m benchmarks.edge --model_path output/best_model     # and the mIoU of that model's files, one by one

Every file has a fixed input of one image of 512x512 and gives logits. Needs the extra `tflite`.
"""

from __future__ import annotations

import argparse
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from benchmarks.measuring import cpu_name, fastest
from rsseg_tf import build_model, load_config
from rsseg_tf.checkpoint import load_weights
from rsseg_tf.data import SampleReader
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.files.lists import read_list
from rsseg_tf.layers import converting
from rsseg_tf.metrics import SegmentationScores, confusion_matrix, count_ignored

TARGET = Path(__file__).parent / "edge.md"
SIDE = 512
CALIBRATION = 32  # training images from which the ranges of activations are taken
REPEATS, PATIENCE_S = 30, 3.0
THREADS = (1, 2)
VARIANTS = ("float32", "float16", "dynamic int8", "full int8")
REDUCED = ("model.backbone.reduced_tail=true",)
# The last two are the benchmark's, for comparison.
MODELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("LR-ASPP, MobileNetV3-Small, reduced tail", "lraspp/lraspp_mobilenet_v3_small_isaid_512x512_80k.yml", REDUCED),
    ("LR-ASPP, MobileNetV3-Small", "lraspp/lraspp_mobilenet_v3_small_isaid_512x512_80k.yml", ()),
    ("LR-ASPP, MobileNetV3-Large, reduced tail", "lraspp/lraspp_mobilenet_v3_large_isaid_512x512_80k.yml", REDUCED),
    ("LR-ASPP, MobileNetV3-Large", "lraspp/lraspp_mobilenet_v3_large_isaid_512x512_80k.yml", ()),
    ("FCN, HRNet-W18", "fcn/fcn_hrnet_w18_isaid_512x512_80k.yml", ()),
    ("DeepLabV3+, ResNet-50-D", "deeplabv3p/deeplabv3p_resnet50_vd_isaid_512x512_80k.yml", ()),
)
HEAD = """\
# On devices: sizes and times of TFLite files

Made by `python -m benchmarks.edge{options}` ({date}; LiteRT {litert}, TensorFlow {tensorflow}; {cpu}, {cores} cores,
{system}). A phone's times differ, and so may the order: run the files there. One image of {side}x{side} to logits of
iSAID's 16 classes; the fastest of up to {repeats} runs, in milliseconds, since other work shares the
machine.

- **float32**, **float16**: weights of 32 or 16 bits; both compute in float32.
- **dynamic int8**: weights of 8 bits, activations are quantised on the way where that helps.
- **full int8**: weights and activations of 8 bits.

| model | Params | file | MB | {threads} |
|{rules}
"""
SCORES_HEAD = """
## What quantisation costs

{config}, trained for {steps} steps; all {count} validation images of {dataset}; full int8 is calibrated with
{calibration} training images. "Same" is the share of pixels that get the class that Keras gives them.

| file | mIoU (%) | Acc (%) | same (%) |
|---|---|---|---|
"""

Images = Sequence[np.ndarray]


def convert(model: keras.Model, variant: str, calibration: Images) -> bytes:
    """Returns a TFLite file with the input (1, SIDE, SIDE, bands) and the output `main`."""
    holder = tf.Module()
    holder.weights = [variable.value for variable in model.variables]
    with converting():
        function = tf.function(lambda image: model(image, training=False)["main"]).get_concrete_function(
            tf.TensorSpec((1, SIDE, SIDE, model.input_shape[-1]), tf.float32)
        )

    def representative() -> Iterator[list[np.ndarray]]:
        for image in calibration:
            yield [image[None]]

    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], holder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if variant == "full int8":
        converter.representative_dataset = representative
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # calibration runs in tf.lite.Interpreter, which announces its removal
        return bytes(converter.convert())


def runner(content: bytes, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a callable from an image (SIDE, SIDE, bands) to logits (SIDE, SIDE, classes)."""
    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(image: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], image[None])
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(target["index"])[0])

    return run


def milliseconds(content: bytes, threads: int, image: np.ndarray) -> float:
    """Returns the shortest time of one image."""
    run = runner(content, threads)
    return 1000 * fastest(lambda: run(image), REPEATS, PATIENCE_S)


def cost_rows() -> Iterator[str]:
    """Yields the rows of the first table."""
    image = np.random.default_rng(0).uniform(-1, 1, (SIDE, SIDE, 3)).astype(np.float32)
    for name, config, overrides in MODELS:
        model = build_model(load_config(config, overrides))
        parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) / 1e6
        for variant in VARIANTS:
            content = convert(model, variant, [image])
            times = " | ".join(f"{milliseconds(content, threads, image):.0f}" for threads in THREADS)
            yield f"| {name} | {parameters:.2f} M | {variant} | {len(content) / 1e6:.1f} | {times} |"
        keras.backend.clear_session()


def scores(folder: Path) -> str:
    """Returns the second table, for a checkpoint."""
    config = load_config(folder / "config.yml")
    model, spec, root = build_model(config), config.dataset.spec, Path(config.dataset.root)
    load_weights(model, folder)
    validation, training = (
        read_list(root / name, root) for name in (config.dataset.val_list, config.dataset.train_list)
    )
    reader = SampleReader(training, spec)
    chosen = np.random.default_rng(0).permutation(len(training))[:CALIBRATION]
    calibration = [normalised(reader(int(index))[0], spec) for index in chosen]
    runs = {"Keras": lambda image: np.asarray(model(image[None], training=False)["main"])[0]}
    runs |= {variant: runner(convert(model, variant, calibration), THREADS[-1]) for variant in VARIANTS}
    matrices: dict[str, Any] = dict.fromkeys(runs, 0)
    same, ignored, reader = dict.fromkeys(runs, 0.0), 0, SampleReader(validation, spec)
    for index in range(len(validation)):
        image, label = reader(index)
        ignored += count_ignored(label, spec.ignore_index)
        predictions = {name: run(normalised(image, spec)).argmax(-1) for name, run in runs.items()}
        for name, prediction in predictions.items():
            matrices[name] = matrices[name] + confusion_matrix(label, prediction, spec.num_classes, spec.ignore_index)
            same[name] += float((prediction == predictions["Keras"]).mean()) / len(validation)
    backbone = config.model.backbone
    text = SCORES_HEAD.format(
        config=config.model.name + (f" on {backbone.name}" if backbone else ""),
        steps=config.train.iters,
        count=len(validation),
        dataset=spec.name,
        calibration=len(calibration),
    )
    for name, matrix in matrices.items():
        result = SegmentationScores(matrix, spec.classes, ignored)
        text += f"| {name} | {100 * result.miou:.2f} | {100 * result.acc:.2f} | {100 * same[name]:.2f} |\n"
    return text


def normalised(image: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """(SIDE, SIDE, bands) float32, as the model takes it."""
    if image.shape[:2] != (SIDE, SIDE):
        raise SystemExit(f"the files take images of {SIDE}x{SIDE}; one of {spec.name} has {image.shape[1::-1]}")
    return ((image / spec.max_value - np.array(spec.mean)) / np.array(spec.std)).astype(np.float32)


def main() -> None:
    """Reads the command line, measures and writes the page."""
    parser = argparse.ArgumentParser(description="Sizes and times of TFLite files.")
    parser.add_argument("--model_path", type=Path, metavar="DIR", help="a checkpoint with tiles of 512x512")
    arguments = parser.parse_args()
    text = HEAD.format(
        options=" --model_path DIR" if arguments.model_path else "",
        date=datetime.now(UTC).date(),
        litert=version("ai-edge-litert"),
        tensorflow=tf.__version__,
        cpu=cpu_name(),
        cores=os.cpu_count(),
        system=f"{platform.system()} {platform.machine()}",
        side=SIDE,
        repeats=REPEATS,
        threads=" | ".join(f"{count} thread{'s' * (count > 1)}" for count in THREADS),
        rules="---|" * (4 + len(THREADS)),
    )
    for row in cost_rows():
        print(row, flush=True)
        text += row + "\n"
    if arguments.model_path:
        text += scores(arguments.model_path)
    TARGET.write_text(text, "utf-8")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
