"""Compares every model with the original's outputs and writes benchmarks/parity.md.

    python -m benchmarks.parity FOLDER [TARGET.md]

FOLDER holds `<model>.json` and `<model>.npz` as tests/parity/README.md describes, for all models or some. The weights
follow from the names of the original's tensors, so that nothing has to be downloaded.
"""

from __future__ import annotations

import gc
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from rsseg_tf.weights import assign_weights
from tests.parity import detinit
from tests.parity.cases import CASES, count

TARGET = Path(__file__).parent / "parity.md"
HEAD = """\
# Parity with PaddleSeg

Made by `python -m benchmarks.parity FOLDER` ({date}; TensorFlow {tensorflow}, Keras {keras}, NumPy {numpy},
{machine}; the original: PaddleSeg develop with Paddle {paddle}). Both sides have the same made-up weights and images
and compute in float32. The difference is the largest one of any logit, divided by the standard deviation of the logits;
the loss is that of the first training step, all heads and coefficients included.

| model | parameters (rsseg_tf = PaddleSeg) | {sizes} | argmax equal | loss, relative |
|{rules}
"""


def compare(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """Returns a row of the table and the facts of the original's run."""
    case = CASES[name]
    expected = json.loads((folder / f"{name}.json").read_text("utf-8"))
    model = case.segmentor(case.backbone(), num_classes=expected["num_classes"])
    prefix = expected.get("prefix", "")
    tensors = {key: detinit.weight(key, tuple(shape), prefix) for key, shape, _ in expected["state"]}
    assign_weights(model, tensors, case.tensor_names(model))
    same = count(model.trainable_weights) == expected["trainable"]
    parameters = (
        f"{expected['trainable']:,}" if same else f"{count(model.trainable_weights):,} ≠ {expected['trainable']:,}"
    )

    differences, equal, pixels = [], 0, 0
    with np.load(folder / f"{name}.npz") as arrays:
        for key in expected["eval"]:
            height, width = map(int, key.removeprefix("eval_").split("x"))
            logits = np.asarray(model(detinit.image(key, 1, height, width), training=False)["main"])
            step = 1 if f"{key}_out0" in arrays else 2  # large outputs are stored at every other pixel
            theirs = arrays[f"{key}_out0" if step == 1 else f"{key}_out0_s2"].transpose(0, 2, 3, 1)
            differences.append(np.abs(logits[:, ::step, ::step] - theirs).max() / theirs.std())
            same_class = logits.argmax(-1) == arrays[f"{key}_argmax"]
            equal, pixels = equal + int(same_class.sum()), pixels + same_class.size

    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout | keras.layers.SpatialDropout2D):
            layer.rate = 0.0
    label = detinit.label("train", 2, 128, 128, expected["num_classes"])
    outputs = model(detinit.image("train", 2, 128, 128), training=True)
    loss = sum(float(weight * loss(outputs[head], label)) for head, loss, weight in case.losses)
    theirs = expected["train"]["steps"][0]["loss"]
    row = f"| {name} | {parameters} | {' | '.join(f'{d:.1e}' for d in differences)} | {equal / pixels:.4%} | "
    return row + f"{abs(loss - theirs) / theirs:.1e} |", expected


def main(folder: Path, target: Path = TARGET) -> None:
    """Compares the models that the folder has and writes the page."""
    rows = []
    for name in (name for name in CASES if (folder / f"{name}.json").is_file()):
        row, expected = compare(name, folder)
        print(row, flush=True)
        rows.append(row)
        keras.backend.clear_session()
        gc.collect()
    head = HEAD.format(
        date=datetime.now(UTC).date(),
        tensorflow=tf.__version__,
        keras=keras.__version__,
        numpy=np.__version__,
        machine=f"{platform.system()} {platform.machine()}",
        paddle=expected["paddle"],
        sizes=" | ".join(f"difference {key.removeprefix('eval_')}" for key in expected["eval"]),
        rules="---|" * (4 + len(expected["eval"])),
    )
    target.write_text(head + "\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
