"""How long `rsseg-tf prepare` takes for scenes of Potsdam's size, and how much memory, beside the original's script.

    python -m benchmarks.prepare [--original path/to/contrib/RSSegBenchmark/data/prepare_potsdam.py]

Makes the two archives of a small Potsdam: scenes of 6000x6000 pixels, smooth with grain as photographs are, and masks
of five-sided pieces with boundaries. All runs read the same archives, one after the other, and their tiles are
compared pixel by pixel. Peak memory is that of the largest process (the system's own account). Prints a table in
Markdown.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
from rasterio.io import MemoryFile

from benchmarks.measuring import Figures, parser_of
from rsseg_tf.datasets.isprs import POTSDAM
from rsseg_tf.rasters.images import read_image, read_label

SIDE = 6000
NAMES = ("2_10", "2_11", "2_13", "2_14")


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image and its mask in colours, `(SIDE, SIDE, 3)` uint8 each."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.uniform(40, 200, (SIDE // 50, SIDE // 50, 3)).astype(np.float32), (SIDE, SIDE))
    image = np.clip(smooth + rng.normal(0, 6, (SIDE, SIDE, 1)), 0, 255).astype(np.uint8)
    mask = np.full((SIDE, SIDE, 3), 255, np.uint8)
    for _ in range(2000):
        points = rng.integers(0, SIDE, 2) + rng.integers(-150, 150, (5, 2))
        colour = POTSDAM.palette[rng.integers(POTSDAM.num_classes)]
        cv2.fillPoly(mask, [points.astype(np.int32)], colour)
        cv2.polylines(mask, [points.astype(np.int32)], True, (0, 0, 0), 6)
    return image, mask


def tiff(array: np.ndarray) -> bytes:
    """Encodes an image as an uncompressed TIFF, as the owners do."""
    with MemoryFile() as memory:
        height, width, count = array.shape
        profile = {"height": height, "width": width, "count": count, "dtype": "uint8", "interleave": "pixel"}
        with memory.open(driver="GTiff", **profile) as file:
            file.write(array.transpose(2, 0, 1))
        return bytes(memory.read())


def archives(folder: Path) -> None:
    """Writes the two zip files."""
    folder.mkdir(parents=True)
    with (
        zipfile.ZipFile(folder / "2_Ortho_RGB.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as images,
        zipfile.ZipFile(folder / "5_Labels_all_noBoundary.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as masks,
    ):
        for seed, name in enumerate(NAMES):
            image, mask = scene(seed)
            images.writestr(f"2_Ortho_RGB/top_potsdam_{name}_RGB.tif", tiff(image))
            masks.writestr(f"top_potsdam_{name}_label_noBoundary.tif", tiff(mask))


def run(command: list[str]) -> tuple[float, float]:
    """Runs a command and returns its wall time in seconds and the memory of its largest process in MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def differing(one: Path, other: Path) -> tuple[int, int]:
    """Returns how many tiles two folders hold together, and how many of these differ or are in one of them alone."""
    names = {
        path.relative_to(folder)
        for folder in (one, other)
        for kind in ("img_dir", "ann_dir")
        for path in (folder / kind).rglob("*.png")
    }
    wrong = 0
    for name in names:
        read = read_image if name.parts[0] == "img_dir" else read_label
        there = (one / name).exists() and (other / name).exists()
        wrong += not (there and np.array_equal(read(one / name), read(other / name)))
    return len(names), wrong


def main() -> None:
    """Measures and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("--original", type=Path, help="PaddleSeg's prepare_potsdam.py")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        # Made in a process of its own: a child starts with the peak of its parent in the system's account.
        maker = multiprocessing.get_context("spawn").Process(target=archives, args=(folder / "download",))
        maker.start()
        maker.join()
        commands = {
            f"rsseg-tf prepare, {count} worker{'s' if count > 1 else ''}": (
                folder / f"ours{count}",
                [
                    *(sys.executable, "-m", "rsseg_tf.cli", "prepare", "potsdam", str(folder / "download")),
                    *("-o", str(folder / f"ours{count}"), "--workers", str(count)),
                ],
            )
            for count in options.workers
        }
        if options.original:
            command = [sys.executable, str(options.original), str(folder / "download"), "-o", str(folder / "original")]
            commands["prepare_potsdam.py of the original"] = folder / "original", command
        times = {name: run(command) for name, (_, command) in commands.items()}
        first = next(iter(times.values()))[0]
        figures = Figures("prepare")
        figures.table(
            f"{len(NAMES)} scenes of {SIDE}x{SIDE}", "wall s", "time / that of the first", "peak MiB of a process"
        )
        for name, (seconds, memory) in times.items():
            figures.row(name, f"{seconds:.1f}", f"{seconds / first:.2f}", f"{memory:.0f}")
        outputs = [output for output, _ in commands.values()]
        for name, output in zip(list(commands)[1:], outputs[1:], strict=True):
            count, wrong = differing(outputs[0], output)
            figures.add(f"\n{count} tiles, {wrong} of them differ between the first and '{name}'.")
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
