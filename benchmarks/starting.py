"""How long does `train` look at a list before the first step, and in how much memory?

    python -m benchmarks.starting [--lines 100000 1000000] [--folder FOLDER]

A few hundred tiles of 64x64 with their labels, and lists that name each of them thousands of times by names of their
own (hard links), so that every line is another file to the file system while all pixels are in its cache. The first
start looks at every sample; the second finds that nothing has changed. Each start is a process of its own, which does
what `rsseg-tf train` does before it loads TensorFlow. Prints a table in Markdown: seconds, and the peak memory of the
process (not of those that it starts) beyond that of a start with a list of a single line.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measuring import Figures, parser_of
from rsseg_tf.rasters.images import write_png

TILES = 300
SIDE = 64
CONFIG = """\
dataset: {name: custom, root: ROOT, train_list: LIST, classes: [ground, road, roof, tree, water, car]}
model: {name: fcn, backbone: {name: resnet18_vd}}
augment: {crop_size: [64, 64]}
"""
START = """
import resource, sys, time
from rsseg_tf.config import load_config
from rsseg_tf.library.samples import checked_samples
if __name__ == "__main__":
    config = load_config(sys.argv[1], [])
    begun = time.perf_counter()
    (samples,) = checked_samples(config, "train")
    print(len(samples), time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def write_tiles(folder: Path) -> None:
    """Writes the tiles that have pixels of their own."""
    for kind in ("img", "ann"):
        (folder / kind).mkdir()
    rng = np.random.default_rng(0)
    for number in range(TILES):
        coarse = rng.integers(0, 6, (SIDE // 16, SIDE // 16), np.uint8)
        ids = np.kron(coarse, np.ones((16, 16), np.uint8))
        image = (ids[..., np.newaxis] * 30 + rng.integers(0, 60, (SIDE, SIDE, 3))).astype(np.uint8)
        write_png(folder / f"img/{number:07d}.png", image)
        write_png(folder / f"ann/{number:07d}.png", ids)


def write_names(folder: Path, lines: int) -> None:
    """Links the tiles under as many names, and lists them."""
    with (folder / f"{lines}.txt").open("w") as file:
        for number in range(lines):
            for kind in ("img", "ann"):
                path = folder / f"{kind}/{number:07d}.png"
                if number >= TILES and not path.exists():
                    os.link(folder / f"{kind}/{number % TILES:07d}.png", path)
            file.write(f"img/{number:07d}.png ann/{number:07d}.png\n")
    (folder / f"{lines}.yml").write_text(CONFIG.replace("ROOT", str(folder)).replace("LIST", f"{lines}.txt"))


def start(folder: Path, lines: int) -> tuple[float, float]:
    """Returns the seconds and the peak MiB of one start."""
    script = folder / "start.py"
    script.write_text(START)
    environment = {**os.environ, "RSSEG_TF_CACHE": str(folder / "cache")}
    command = [sys.executable, str(script), str(folder / f"{lines}.yml")]
    count, seconds, memory = subprocess.run(
        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()
    assert int(count) == lines
    return float(seconds), float(memory)


def main() -> None:
    """Measures and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("--lines", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", help="where the files go; the system's temporary folder if left out")
    arguments = parser.parse_args()
    figures = Figures("starting")
    figures.table("lines", "first start, s", "second start, s", "first, MiB more", "second, MiB more")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        write_tiles(folder)
        write_names(folder, 1)
        _, base = start(folder, 1)
        for lines in arguments.lines:
            write_names(folder, lines)
            time.sleep(3)  # what changed in the last two seconds is not remembered
            first, second = start(folder, lines), start(folder, lines)
            figures.row(
                f"{lines:,}", f"{first[0]:.1f}", f"{second[0]:.1f}", f"{first[1] - base:.0f}", f"{second[1] - base:.0f}"
            )
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
