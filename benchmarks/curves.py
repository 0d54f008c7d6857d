"""Does training go as it went before a change? Loss curves of two checkouts on the same tiles, seed by seed.

    git worktree add /tmp/before REVISION
    python -m benchmarks.curves path/to/dubai --before /tmp/before

DATA is the prepared Dubai dataset. Both train DeepLabV3+ with a ResNet18_vd from random weights on crops of 128x128,
with the benchmark's augmentation and SGD, in processes that take turns. A seed sets initial weights and order of
samples. The draws of augmentation may differ between the two, so that curves are compared as means with the spread of
the seeds.
Prints a table in Markdown: the mean loss of each 50 steps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.measuring import Figures, parser_of

WINDOW = 50
OVERRIDES = (
    "augment={crop_size: [128, 128]}",
    "lr_schedule={name: poly, learning_rate: 0.02, warmup_steps: 10}",
    "train.batch_size=4",
    "train.save_interval=100000",
    "train.log_iters=1",
)
CONFIG = "deeplabv3plus/deeplabv3plus_resnet18_vd_synthetic_256x256_quick.yml"


def losses(data: Path, steps: int, seed: int) -> list[float]:
    """Trains with the `rsseg_tf` that is imported, and returns the loss of each step."""
    import keras

    from rsseg_tf.assets import find_config
    from rsseg_tf.config import load_config
    from rsseg_tf.files.lists import read_list
    from rsseg_tf.training import train

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            found.append(float((logs or {})["loss"]))

    found: list[float] = []
    dataset = f"dataset={{name: dubai, root: {data}}}"
    config = load_config(find_config(CONFIG), [dataset, *OVERRIDES, f"train.iters={steps}", f"train.seed={seed}"])
    with tempfile.TemporaryDirectory() as folder:
        train(config, Path(folder) / "run", read_list(data / "train.txt", data), callbacks=[Record()])
    return found


def run(checkout: Path, data: Path, steps: int, seed: int) -> list[float]:
    """Trains with the `rsseg_tf` of a checkout; returns the mean loss of each window."""
    variables = {**os.environ, "PYTHONPATH": str(checkout), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, str(Path(__file__).resolve()), str(data), "--steps", str(steps), "--one", str(seed)]
    done = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the run in {checkout} failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return [mean(found[start : start + WINDOW]) for start in range(0, steps, WINDOW)]


def main() -> None:
    """Trains and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path, help="the prepared dataset")
    parser.add_argument("--before", type=Path, help="checkout of the code before the change")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--one", type=int, help="train once with this seed, and print the losses as JSON")
    options = parser.parse_args()
    data = options.data.resolve()
    if options.one is not None:
        print(json.dumps(losses(data, options.steps, options.one)))
        return
    if options.before is None:
        parser.error("--before is needed")
    sides = {"before": options.before.resolve(), "after": Path(__file__).resolve().parents[1]}
    curves: dict[str, list[list[float]]] = {side: [] for side in sides}
    for seed in range(options.seeds):
        for side, checkout in sides.items():
            curves[side].append(run(checkout, data, options.steps, seed))
            print(f"{side}, seed {seed}: {' '.join(f'{loss:.3f}' for loss in curves[side][-1])}", file=sys.stderr)
    figures = Figures("curves")
    figures.table("steps", "before", "after", "difference", "its standard error")
    for row, start in enumerate(range(0, options.steps, WINDOW)):
        before, after = ([curve[row] for curve in curves[side]] for side in ("before", "after"))
        cells = [f"{mean(side):.3f} ± {stdev(side):.3f}" for side in (before, after)]
        # Pairs of one seed have the same weights at the start and the same order of samples.
        gaps = [b - a for a, b in zip(before, after, strict=True)]
        error = stdev(gaps) / len(gaps) ** 0.5
        figures.row(f"{start + 1} to {start + WINDOW}", *cells, f"{mean(gaps):+.3f}", f"{error:.3f}")
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
