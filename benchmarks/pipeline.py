"""What the input pipeline costs, beside PaddleSeg's own transforms on the same tiles, and beside a training step.

    make parity-env
    python -m benchmarks.pipeline --tiles path/to/dubai
    python -m benchmarks.pipeline --tiles path/to/dubai --original .parity/bin/python --paddleseg .parity/PaddleSeg

TILES is a prepared dataset of PNG tiles, of which the first of `train.txt` are read (without it, synthetic ones are
made). Augmentation is the benchmark's: scale 0.5 to 2, crop of 512x512, flip, four changes of colour. Both systems take
turns in processes of their own. CPU time is that of the whole process, so that it holds on a busy machine too; samples
per second on one core, on two, and by two processes with a core each need an idle one. Ours makes batches and int32
labels; PaddleSeg's normalises on the CPU, which ours does inside the training step. Without `--original` its columns
are left out. Prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measuring import Figures, parser_of, seconds_of

CONFIGS = (
    "fcn/fcn_hrnet_w18_dubai_512x512_80k.yml",
    "deeplabv3plus/deeplabv3plus_resnet18_vd_synthetic_256x256_quick.yml",
)
SIDE = 512
BATCH = 4
READY = 32  # more samples than lie ready when a turn begins; they were made while others had theirs
ROOT = Path(__file__).resolve().parents[1]
ALL_CORES = "all"  # otherwise places in the list of cores that may be used, such as "0,1"
Advance = Callable[[int], object]
"""Makes a number of samples."""


# === The two systems, each in its own process ===


def ours(folder: Path, tiles: int, memory: bool) -> Advance:
    """Returns what makes samples by `rsseg_tf.data.train_batches`."""
    from rsseg_tf.config.schema import Augment
    from rsseg_tf.data import SampleReader, train_batches
    from rsseg_tf.datasets.dubai import DUBAI
    from rsseg_tf.files.lists import read_list

    samples = read_list(folder / "train.txt", folder)[:tiles]
    reader = SampleReader(samples, DUBAI, cache_mb=4096 if memory else 0)
    cores = len(os.sched_getaffinity(0))
    batches = iter(train_batches(reader, Augment(), batch_size=BATCH, seed=0, workers=cores))

    def advance(count: int) -> None:
        for _ in range(count // BATCH):
            next(batches)

    return advance


def original(folder: Path, tiles: int, memory: bool) -> Advance:
    """Returns what makes samples by PaddleSeg's transforms."""
    import cv2
    import numpy as np
    from paddleseg import transforms as t  # type: ignore[import-not-found]
    from PIL import Image

    chain = t.Compose(
        [
            t.ResizeStepScaling(0.5, 2.0, 0.25),
            t.RandomPaddingCrop([SIDE, SIDE]),
            t.RandomHorizontalFlip(),
            t.RandomDistort(brightness_range=0.4, contrast_range=0.4, saturation_range=0.4),
            t.Normalize(),
        ]
    )
    lines = (folder / "train.txt").read_text("utf-8").splitlines()[:tiles]
    paths = [[str(folder / part) for part in line.split()] for line in lines]
    decoded = [(cv2.imread(a), np.asarray(Image.open(b))) for a, b in paths] if memory else []
    position = 0

    def advance(count: int) -> None:
        nonlocal position
        for _ in range(count):
            i = position % len(paths)
            image, label = (decoded[i][0].astype("float32"), decoded[i][1].copy()) if memory else paths[i]
            chain({"img": image, "label": label, "gt_fields": ["label"]})
            position += 1

    return advance


def serve(system: str, source: str, cores: str, folder: Path, tiles: int) -> None:
    """Measures on demand: reads numbers of samples, prints CPU and wall seconds for each as JSON."""
    if cores != ALL_CORES:
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, [allowed[int(place)] for place in cores.split(",")])
    advance = (ours if system == "ours" else original)(folder, tiles, source == "memory")
    advance(2 * tiles)  # fills memory, and starts threads
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        advance(READY)
        cpu, wall = time.process_time(), time.perf_counter()
        advance(count)
        print(json.dumps([(time.process_time() - cpu) / count, (time.perf_counter() - wall) / count]), flush=True)


# === Taking turns ===


class Server:
    """A process that measures on demand."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.figures: list[tuple[float, float]] = []  # CPU and wall seconds of a sample

    def ask(self, count: int) -> None:
        """Lets it begin to make samples."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        """Waits until they are made."""
        assert self.process.stdout is not None
        cpu, wall = json.loads(self.process.stdout.readline())
        self.figures.append((cpu, wall))

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds of a sample, the median."""
        return 1e3 * median(cpu for cpu, _ in self.figures)

    @property
    def rate(self) -> float:
        """Samples per second, the best of all turns: what the machine gives when nothing else runs."""
        return 1 / min(wall for _, wall in self.figures)


@contextmanager
def server(options: argparse.Namespace, system: str, source: str, cores: str) -> Iterator[Server]:
    """Starts a process, and ends it with the block."""
    python = sys.executable if system == "ours" else str(options.original)
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    if system != "ours":
        variables["PYTHONPATH"] = str(options.paddleseg.resolve())
    command = [python, "-m", "benchmarks.pipeline", "--serve", system, source, cores]
    command += ["--tiles", str(options.tiles), "--count", str(options.count)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if options.verbose else subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:  # libraries print while they are imported
            if line == "ready\n":
                break
        else:
            raise SystemExit(f"{' '.join(command)} failed; see its own messages with --verbose")
        yield Server(process)
    finally:
        process.kill()
        process.wait()


Kind = tuple[str, str, str]
"""(system, source, cores) of a process."""


def measured(options: argparse.Namespace, turns: list[list[Kind]]) -> list[list[Server]]:
    """Measures turn by turn; the processes of one turn run at the same time."""
    with ExitStack() as stack:
        servers = [[stack.enter_context(server(options, *kind)) for kind in turn] for turn in turns]
        for _ in range(options.rounds):
            for turn in servers:
                for one in turn:
                    one.ask(options.samples)
                for one in turn:
                    one.wait()
    return servers


def costs(options: argparse.Namespace, figures: Figures) -> None:
    """Writes the table of CPU time."""
    both = options.original is not None
    kinds = [(system, source) for source in ("files", "memory") for system in ("ours", "theirs")[: 1 + both]]
    turns = measured(options, [[(*kind, ALL_CORES)] for kind in kinds])
    found = {kind: turn[0] for kind, turn in zip(kinds, turns, strict=True)}
    figures.table("CPU ms per sample", "rsseg_tf", "PaddleSeg", "ratio", "of PaddleSeg from files")
    for source in ("files", "memory"):
        cells = [f"{found['ours', source].cpu_ms:.1f}"]
        if both:
            mine, others = found["ours", source].cpu_ms, found["theirs", source].cpu_ms
            cells += [f"{others:.1f}", f"{mine / others:.2f}", f"{mine / found['theirs', 'files'].cpu_ms:.2f}"]
        title = "from PNG files" if source == "files" else "from decoded samples in memory"
        figures.row(title, *cells, *[""] * (4 - len(cells)))


def rates(options: argparse.Namespace, figures: Figures) -> dict[str, float]:
    """Writes the table of samples per second on one core and two; returns those on two.

    Two processes with a core each share neither Python's lock nor an order: they show what the machine gives at most.
    """
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("two cores are needed, and this process may use one; start it without taskset")
    figures.table("samples/s", "one core", "two cores", "ratio", "two processes", "ratio")
    found = {}
    for source in ("files", "memory"):
        turns = [("0",), ("0,1",), ("0", "1")]
        servers = measured(options, [[("ours", source, cores) for cores in turn] for turn in turns])
        one, two, apart = (sum(process.rate for process in turn) for turn in servers)
        found[source] = two
        cells = [f"{one:.0f}", f"{two:.0f}", f"{two / one:.2f}", f"{apart:.0f}", f"{apart / one:.2f}"]
        figures.row(f"from {source}", *cells)
    return found


# === Beside a training step ===


def model_rate(name: str, steps: int) -> float:
    """Returns samples per second of a training step on data that are in memory already; the median step."""
    import tensorflow as tf

    from rsseg_tf.assets import find_config
    from rsseg_tf.build import build_losses, build_model
    from rsseg_tf.config import load_config
    from rsseg_tf.training.optimizers import build_optimizer
    from rsseg_tf.training.step import TrainStep

    config = load_config(find_config(name), [f"augment.crop_size=[{SIDE}, {SIDE}]", f"train.batch_size={BATCH}"])
    spec = config.dataset.spec
    model = build_model(config)
    optimizer = build_optimizer(config.optimizer)
    optimizer.build(model.trainable_variables)
    step = TrainStep(model, optimizer, build_losses(config), tf.distribute.get_strategy(), spec)
    shape = (BATCH, SIDE, SIDE)
    pixels = tf.cast(tf.random.uniform((*shape, spec.bands), 0, 256, tf.int32), tf.uint8)
    batch = {"image": pixels, "label": tf.zeros(shape, tf.int32)}
    times = [seconds_of(lambda: float(step(batch, 0.01)["loss"])) for _ in range(steps + 2)]
    return BATCH / median(times[2:])


def synthetic_tiles(folder: Path, count: int) -> None:
    """Writes synthetic tiles as PNG, the format of prepared datasets."""
    from rsseg_tf.files.lists import read_list
    from rsseg_tf.prepare.synthetic import generate_synthetic
    from rsseg_tf.rasters.images import read_image, write_png

    generate_synthetic(folder / "scenes", scenes_train=count, scenes_val=1)
    lines = []
    for i, sample in enumerate(read_list(folder / "scenes" / "train.txt", folder / "scenes")):
        assert sample.label is not None
        write_png(folder / f"{i}.png", read_image(sample.image))
        write_png(folder / f"{i}_label.png", read_image(sample.label)[..., 0] % 5)
        lines.append(f"{i}.png {i}_label.png")
    (folder / "train.txt").write_text("\n".join(lines) + "\n", "utf-8")


def main() -> None:
    """Measures and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("--tiles", type=Path, help="folder with train.txt; default: synthetic tiles")
    parser.add_argument("--count", type=int, default=48, help="tiles to read")
    parser.add_argument("--original", type=Path, help="interpreter of PaddleSeg's environment")
    parser.add_argument("--paddleseg", type=Path, default=Path(".parity/PaddleSeg"), help="its source")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each system")
    parser.add_argument("--samples", type=int, default=384, help="in each turn")
    parser.add_argument("--steps", type=int, default=4, help="of each model; 0: leave models out")
    parser.add_argument("--verbose", action="store_true", help="show what the processes print")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        system, source, cores = options.serve
        serve(system, source, cores, options.tiles, options.count)
        return
    with tempfile.TemporaryDirectory() as temporary:
        if options.tiles is None:
            options.tiles = Path(temporary)
            synthetic_tiles(options.tiles, options.count)
        options.tiles = options.tiles.resolve()
        figures = Figures("pipeline")
        costs(options, figures)
        delivered = rates(options, figures)
    if options.steps:
        figures.table("model, 512x512, batch 4", "samples/s", "pipeline from files", "ratio", "from memory", "ratio")
        for name in CONFIGS:
            model = model_rate(name, options.steps)
            cells: list[Any] = [f"{model:.2f}"]
            for rate in delivered.values():
                cells += [f"{rate:.0f}", f"{rate / model:.0f}"]
            figures.row(Path(name).stem.partition("_dubai")[0].partition("_synthetic")[0], *cells)
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
