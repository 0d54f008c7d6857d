"""Times models side by side with the original on the same CPU and threads: forward pass and training step.

    python -m benchmarks.models --original .parity/bin/python --paddleseg .parity/PaddleSeg

Each system runs in a process of its own, and they take turns. A run warms up once and then measures; the table gives
the median over all runs, the ratio original / ours (above 1: ours is faster), and the peak memory of the processes. A
second table has the memory of our steps beside the original's, and `train.remat` beside the same without; a third has
the peak of a step's process by the time at which it was reached.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figures, measured_apart, parser_of, seconds_of

MODELS = ("fcn_hrnet_w18", "deeplabv3p_resnet50_vd", "upernet_resnet50")
# Images and their side. The last is what a GPU of the recipe is given.
TASKS = {"forward": (1, 512), "step": (2, 256), "recipe's step": (4, 512)}
REPEATS = {"forward": 3, "step": 2, "recipe's step": 2}


def ours(name: str, task: str, *, remat: bool = False) -> Any:
    """Returns a callable that runs our model once, compiled as `eval` and `train` compile it."""
    import numpy as np
    import tensorflow as tf

    from rsseg_tf.datasets import custom_spec
    from rsseg_tf.predictors import keras_predictor
    from rsseg_tf.training.optimizers import MomentumSGD
    from rsseg_tf.training.remat import rematerialise
    from rsseg_tf.training.step import TrainStep
    from tests.parity.cases import CASES

    case = CASES[name]
    model = case.segmentor(case.backbone(), num_classes=16)
    count, side = TASKS[task]
    if task == "forward":
        image = np.random.default_rng(0).uniform(0, 255, (count, side, side, 3)).astype(np.float32)
        predict = keras_predictor(model, custom_spec("pixels", [str(i) for i in range(16)]))
        return lambda: predict(image)
    if remat:
        rematerialise(model)
    image = np.random.default_rng(0).normal(size=(count, side, side, 3)).astype(np.float32)
    label = tf.constant(np.random.default_rng(1).integers(0, 16, (count, side, side)), tf.int32)
    optimizer = MomentumSGD(0.01, momentum=0.9, l2=5e-4)
    optimizer.build(model.trainable_variables)

    def with_mean(loss: Any) -> Any:
        return lambda output, labels, *, mean, seed: loss(output, labels)

    losses = {head: (with_mean(loss), weight) for head, loss, weight in case.losses}
    # Images are normal numbers already, as the original's are.
    plain = custom_spec("numbers", [str(i) for i in range(16)], max_value=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    take_step = TrainStep(model, optimizer, losses, tf.distribute.get_strategy(), plain)
    batch = {"image": tf.constant(image), "label": label}
    return lambda: float(take_step(batch, 0.01)["loss"])


def original(name: str, task: str) -> Any:
    """Returns a callable that runs the original's model once."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "parity" / "original"))
    import numpy as np
    import paddle
    from generate import build  # type: ignore[import-not-found]

    builder = build(name)
    model, losses = builder.model, builder.loss
    count, side = TASKS[task]
    image = paddle.to_tensor(np.random.default_rng(0).normal(size=(count, 3, side, side)).astype("float32"))
    if task == "forward":
        model.eval()

        def run() -> Any:
            with paddle.no_grad():
                return model(image)[0].numpy()

        return run
    label = paddle.to_tensor(np.random.default_rng(1).integers(0, 16, (count, side, side)))
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, parameters=model.parameters(), weight_decay=5e-4)
    model.train()

    def step() -> float:
        outputs = model(image)
        total = sum(w * loss(o, label) for o, loss, w in zip(outputs, losses["types"], losses["coef"], strict=True))
        total.backward()
        optimizer.step()
        model.clear_gradients()
        return float(total)

    return step


def measure(system: str, name: str, task: str) -> None:
    """Prints seconds of each repetition and peaks of memory in MiB (built, after a run, in all), as JSON."""
    builders: dict[str, Callable[[str, str], Any]] = {
        "ours": ours, "remat": functools.partial(ours, remat=True), "original": original,
    }  # fmt: skip
    run = builders[system](name, task)
    built = _peak()
    run()
    first = _peak()
    seconds = [seconds_of(run) for _ in range(REPEATS[task])]
    print(json.dumps({"seconds": seconds, "built": built, "first": first, "memory": _peak()}))


def _peak() -> float:
    """Returns the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Reads the command line and prints the table."""
    parser = parser_of(__doc__)
    parser.add_argument("--measure", nargs=3, metavar=("SYSTEM", "MODEL", "TASK"), help=argparse.SUPPRESS)
    parser.add_argument("--original", metavar="PYTHON", help="of the original's environment")
    parser.add_argument("--paddleseg", metavar="DIR", help="a checkout of PaddleSeg")
    parser.add_argument("--rounds", type=int, default=2, help="turns that each system takes")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="for both")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    threads = str(arguments.threads)
    shared = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads}
    pythons = {"ours": sys.executable, "remat": sys.executable, "original": arguments.original}
    environment = {"ours": shared, "remat": shared, "original": {**shared, "PADDLESEG": arguments.paddleseg}}
    figures = Figures("models")
    figures.table("model", "task", "rsseg_tf s", "PaddleSeg s", "PaddleSeg / rsseg_tf", "rsseg_tf MiB", "PaddleSeg MiB")
    steps, peaks = [], []
    for name in MODELS:
        for task in TASKS:
            systems = ("ours", "original") if task == "forward" else ("ours", "remat", "original")
            runs: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
            for _ in range(arguments.rounds):
                for system, done in runs.items():
                    call = ("--measure", system, name, task)
                    done.append(
                        measured_apart("models", *call, python=pythons[system], environment=environment[system])
                    )
            seconds = {s: statistics.median(t for run in done for t in run["seconds"]) for s, done in runs.items()}
            memory = {s: max(run["memory"] for run in done) for s, done in runs.items()}
            figures.row(
                *(name, task, f"{seconds['ours']:.2f}", f"{seconds['original']:.2f}"),
                f"{seconds['original'] / seconds['ours']:.2f}",
                *(f"{memory['ours']:.0f}", f"{memory['original']:.0f}"),
            )
            if task != "forward":
                steps.append((name, task, seconds, memory))
                peaks += [
                    (name, task, system, max(done, key=lambda run: run["memory"])) for system, done in runs.items()
                ]
    figures.table(
        "model", "task", "memory / PaddleSeg", "with remat", "remat's memory / without", "remat's time / without"
    )
    for name, task, seconds, memory in steps:
        figures.row(
            *(name, task, f"{memory['ours'] / memory['original']:.2f}", f"{memory['remat'] / memory['original']:.2f}"),
            *(f"{memory['remat'] / memory['ours']:.2f}", f"{seconds['remat'] / seconds['ours']:.2f}"),
        )
    figures.table("model", "task", "system", "MiB with the model built", "after the first step", "in all")
    for name, task, system, run in peaks:
        figures.row(name, task, system, *(f"{run[key]:.0f}" for key in ("built", "first", "memory")))
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
