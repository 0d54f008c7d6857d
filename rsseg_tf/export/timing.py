"""Times models: `time_runs` in this process, `time_in_process` in one of its own, with the memory that it takes.

    python -m rsseg_tf.export.timing PATH --size 512 512 --threads 2 --runs 20

is such a process; it prints JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.errors import ExportError, RssegError
from rsseg_tf.files import StrPath
from rsseg_tf.predict import Predict
from rsseg_tf.rasters.windows import Size

__all__ = ["PeakMemory", "Timing", "time_in_process", "time_runs"]

_WARM_UP = 2  # runs that are not counted


@dataclass(frozen=True)
class Timing:
    """Cost of one model on one size of image.

    Attributes:
        path: The model.
        load_s: Seconds from the path to a model that is ready.
        first_ms: Time of the first image.
        p50_ms: Median time of an image.
        p90_ms: Nine of ten images take no longer.
        p99_ms: 99 of 100 images take no longer; with fewer runs the slowest.
        memory_mib: Highest memory of the process beyond what it had before the model was loaded.
        threads: Threads that one operation may use.
        runs: How many images were timed.
    """

    path: str
    load_s: float
    first_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    memory_mib: float
    threads: int
    runs: int


def time_runs(
    predict: Predict, pixels: NDArray, runs: int, *, seconds: float = math.inf
) -> tuple[NDArray[np.float32], list[float]]:
    """Runs a model on the same pixels several times.

    Args:
        predict: The model.
        pixels: `(B, H, W, bands)`.
        runs: How often, the first included.
        seconds: When to stop early, but not before the second run.

    Returns:
        The last answer, and the milliseconds of each run.
    """
    times: list[float] = []
    while len(times) < runs:
        began = time.perf_counter()
        answer = predict(pixels)
        times.append(1000 * (time.perf_counter() - began))
        if len(times) > 1 and sum(times) > 1000 * seconds:
            break
    return answer, times


def time_in_process(path: StrPath, size: Size, *, threads: int, runs: int, timeout_s: float = 3600) -> Timing:
    """Times a model in a new process.

    Args:
        path: Checkpoint or anything exported.
        size: Size of the image.
        threads: Threads that one operation may use.
        runs: Images to time, after two that are not counted.
        timeout_s: When to give up.

    Raises:
        ExportError: When the process fails or takes too long.
    """
    path = Path(path)
    command = [sys.executable, "-m", __name__, str(path), "--size", *map(str, size)]
    command += ["--threads", str(threads), "--runs", str(runs)]
    # Without a GPU, whose driver takes memory and time of its own.
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    try:
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=True)
        # Libraries may print lines before.
        return Timing(**json.loads(result.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{path} took more than {timeout_s:g} s for {runs} runs; ask for fewer --runs.") from error
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        raise ExportError(f"{path} could not be timed: {lines[-1] if lines else error}") from error


def _run(path: Path, size: Size, threads: int, runs: int) -> Timing:
    """Times a model in this process, whose memory must be that of nothing else."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    from rsseg_tf.export.tiles import random_tiles
    from rsseg_tf.manifest import require_unchanged
    from rsseg_tf.predictors import open_predictor

    # Checksums are compared here, so that they are not part of the time; opening raises the error.
    with contextlib.suppress(ExportError):
        require_unchanged(path)
    memory = PeakMemory()
    began = time.perf_counter()
    predictor = open_predictor(path, threads=threads)
    load_s = time.perf_counter() - began
    dtype = predictor.manifest.artifacts[0].input.dtype if predictor.manifest else "float32"
    pixels = random_tiles(predictor.spec, size, 1, dtype=dtype)
    _, times = time_runs(predictor.predict, pixels, _WARM_UP + runs)
    p50, p90, p99 = np.percentile(times[_WARM_UP:], [50, 90, 99], method="higher").tolist()
    return Timing(str(path), load_s, times[0], p50, p90, p99, memory.mib(), threads, runs)


class PeakMemory:
    """The highest resident memory of this process since the object was made, beyond what it was then.

    The peak that `getrusage` gives is on Linux that of the parent process too, where it was higher.
    """

    _status, _clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def __init__(self) -> None:
        if self._clear.exists():
            self._clear.write_text("5")  # the peak starts again at what is resident now
        self._before = self.total_mib()

    def mib(self) -> float:
        """Returns in MiB by how much the peak lies above what was resident before."""
        return self.total_mib() - self._before

    def total_mib(self) -> float:
        """Returns the peak of the whole process in MiB."""
        if self._status.exists():
            # "VmHWM:   123456 kB", the high-water mark of resident memory
            (line,) = (line for line in self._status.read_text().splitlines() if line.startswith("VmHWM:"))
            return int(line.split()[1]) / 2**10
        unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, others KiB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Times one model and prints JSON.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--size", type=int, nargs=2, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--runs", type=int, required=True)
    options: Any = parser.parse_args(arguments)
    try:
        timing = _run(options.path, Size(*options.size), options.threads, options.runs)
    except RssegError as error:
        raise SystemExit(" ".join(str(error).split())) from error
    print(json.dumps(timing.__dict__))


if __name__ == "__main__":
    _main()
