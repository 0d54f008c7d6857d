"""Times FCN-HRNet_W18 beside timm's hrnet_w18 in PyTorch, by multiplications per second, and tells what takes the time.

    python -m benchmarks.hrnet --torch .torch/bin/python

PyTorch's environment needs torch and timm. Two images of 256x256; forward: one pass as in prediction; step: forward,
backward and update. A pass's multiply-accumulates are those of its convolutions, and a step counts as three passes.
Each system runs in a process of its own, with the same number of threads, and they take turns. A run warms up twice;
the figures are medians of CPU seconds (all threads of the process), which other work on the machine changes little.
The last table has the share of each kind of operation in the time of all operations of a step of ours.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figures, measured_apart, parser_of

SHAPE = (2, 256)  # images and their side
CLASSES = 16
REPEATS = 3
# By what the types of operations begin with.
KINDS = {
    "convolutions and their gradients": ("Conv2D", "FusedConv2D", "DepthwiseConv2d"),
    "resizing": ("Resize",),
    "additions": ("Add",),
    "ReLU and its gradient": ("Relu",),
    # Batch normalisation is not one operation: Keras takes moments and scales by simple ones.
    "sums, means, products (batch normalisation, loss)": (
        "Mul", "Sub", "Sum", "Mean", "Rsqrt", "Square", "RealDiv", "Tile", "Neg", "BroadcastTo", "Cast", "Fused",
    ),
    "updates of variables": ("Assign", "ReadVariable", "ResourceApply"),
}  # fmt: skip


def ours(task: str) -> tuple[Callable[[], object], float]:
    """Returns a run of our model, and the multiply-accumulates of a pass."""
    import keras
    import numpy as np
    import tensorflow as tf

    from benchmarks import models
    from tests.parity.cases import CASES

    case = CASES["fcn_hrnet_w18"]
    model = case.segmentor(case.backbone(), num_classes=CLASSES)
    known: dict[int, Any] = {}
    count = 0.0
    for node in (node for nodes in model._nodes_by_depth.values() for node in nodes):
        if isinstance(node.operation, keras.layers.Conv2D):
            height, width = _sides(model, node.output_tensors[0], known)
            count += SHAPE[0] * height * width * math.prod(node.operation.kernel.shape)
    if task == "step":
        models.TASKS["step"] = SHAPE
        return models.ours("fcn_hrnet_w18", "step"), count
    image = tf.constant(np.random.default_rng(0).normal(size=(SHAPE[0], SHAPE[1], SHAPE[1], 3)), tf.float32)
    forward = tf.function(lambda x: model(x, training=False)["main"], autograph=False)
    return lambda: forward(image).numpy(), count


def _sides(model: Any, tensor: Any, known: dict[int, Any]) -> tuple[int, int]:
    """Returns height and width that a tensor of a functional model has for the images measured."""
    import keras

    if not known:
        known.update({id(x): keras.KerasTensor((SHAPE[0], SHAPE[1], SHAPE[1], 3)) for x in model.inputs})
        for _, nodes in sorted(model._nodes_by_depth.items(), reverse=True):
            for node in (node for node in nodes if not node.is_input):
                args, kwargs = node.arguments.fill_in(known)
                results = keras.tree.flatten(node.operation.compute_output_spec(*args, **kwargs))
                known.update(zip(map(id, node.outputs), results, strict=True))
    return tuple(known[id(tensor)].shape[1:3])


def theirs(task: str, *, channels_last: bool) -> tuple[Callable[[], object], float]:
    """Returns a run of timm's model with a head as ours, and the multiply-accumulates of a pass."""
    import timm  # type: ignore[import-not-found]
    import torch
    from torch import nn

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # The features of the four resolutions themselves, not widened as for classifying images.
            self.body = timm.create_model(
                "hrnet_w18", features_only=True, feature_location="", out_indices=(1, 2, 3, 4)
            )
            width = sum(self.body.feature_info.channels())
            self.head = nn.Sequential(
                nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.ReLU(True), nn.Conv2d(width, CLASSES, 1)
            )

        def forward(self, x: Any) -> Any:
            features = self.body(x)
            sized = [nn.functional.interpolate(f, features[0].shape[2:], mode="bilinear") for f in features]
            return nn.functional.interpolate(self.head(torch.cat(sized, 1)), x.shape[2:], mode="bilinear")

    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = Network().to(memory_format=layout)
    image = torch.randn(SHAPE[0], 3, SHAPE[1], SHAPE[1]).contiguous(memory_format=layout)
    macs = []

    def counted(module: Any, _: Any, output: Any) -> None:
        macs.append(output.shape[0] * math.prod(output.shape[2:]) * module.weight.numel())

    hooks = [m.register_forward_hook(counted) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model.eval()(image)
    for hook in hooks:
        hook.remove()

    def forward() -> Any:
        with torch.inference_mode():
            return model(image)

    if task == "forward":
        return forward, sum(macs)
    label = torch.randint(CLASSES, (SHAPE[0], SHAPE[1], SHAPE[1]))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    model.train()

    def step() -> float:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(image), label)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step, sum(macs)


def measure(system: str, task: str) -> None:
    """Prints CPU seconds of each repetition, multiply-accumulates of a pass and our step's operations, as JSON."""
    run, macs = ours(task) if system == "ours" else theirs(task, channels_last=system == "channels_last")
    run()
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.process_time()
        run()
        seconds.append(time.process_time() - began)
    operations = profile(run) if (system, task) == ("ours", "step") else {}
    print(json.dumps({"seconds": seconds, "macs": macs, "operations": operations}))


def profile(run: Callable[[], object]) -> dict[str, tuple[int, float]]:
    """Returns number and seconds of a run's operations by type."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    found: dict[str, tuple[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            run()
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # Operations are named "path:Type"; calls of functions contain the others.
            _, colon, kind = plane.event_metadata[event.metadata_id].name.partition(":")
            if colon and kind.isidentifier() and "Call" not in kind:
                number, seconds = found.get(kind, (0, 0.0))
                found[kind] = (number + 1, seconds + event.duration_ps / 1e12)
    return found


def kind_of(operation: str) -> str:
    """Returns the row of the last table to which a type of operation belongs."""
    name = operation.removeprefix("_").removeprefix("Mkl").removeprefix("Native")
    return next((kind for kind, names in KINDS.items() if name.startswith(names)), "other")


def main() -> None:
    """Reads the command line and prints the tables."""
    parser = parser_of(__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("SYSTEM", "TASK"), help=argparse.SUPPRESS)
    parser.add_argument("--torch", default=".torch/bin/python", metavar="PYTHON", help="of PyTorch's environment")
    parser.add_argument("--rounds", type=int, default=2, help="turns that each system takes")
    parser.add_argument("--threads", type=int, default=2, help="for both")
    arguments = parser.parse_args()
    if arguments.measure:
        measure(*arguments.measure)
        return
    threads = str(arguments.threads)
    # Threads of OpenMP that wait in a loop would count as CPU time, tenfold where other work shares the machine.
    shared = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive", "TF_NUM_INTRAOP_THREADS": threads}
    systems = {"rsseg_tf": ("ours", sys.executable), "PyTorch": ("contiguous", arguments.torch),
               "PyTorch, channels last": ("channels_last", arguments.torch)}  # fmt: skip
    figures = Figures("hrnet")
    figures.table("2 x 256x256", "system", "GMAC", "CPU s", "GMAC per CPU s", "ours / this")
    for task, passes in (("forward", 1), ("step", 3)):
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
        for _ in range(arguments.rounds):
            for name, (system, python) in systems.items():
                call = ("--measure", system, task)
                runs[name].append(measured_apart("hrnet", *call, python=python, environment=shared))
        rates = {}
        for name, done in runs.items():
            seconds = statistics.median(s for run in done for s in run["seconds"])
            macs = passes * done[0]["macs"] / 1e9
            rates[name] = macs / seconds
            ratio = f"{rates['rsseg_tf'] / rates[name]:.2f}"
            figures.row(task, name, f"{macs:.1f}", f"{seconds:.2f}", f"{rates[name]:.1f}", ratio)
    operations = runs["rsseg_tf"][0]["operations"]
    total = sum(seconds for _, seconds in operations.values())
    figures.table("operations of our step", "number", "share of their time, %")
    for kind in (*KINDS, "other"):
        inside = [found for name, found in operations.items() if kind_of(name) == kind]
        figures.row(kind, sum(n for n, _ in inside), f"{100 * sum(s for _, s in inside) / total:.1f}")
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
