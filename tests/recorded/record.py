"""Records what must not change while the package is edited: `python -m tests.recorded.record [--only AREA …]`.

Everything goes through the command line and files on disk, so that the recording outlives a change of modules:
commands write files, and OpenCV, rasterio, json and the runtimes themselves read them here. `test_recorded.py` computes
each area again and compares. Record anew only for a wanted difference, with its reason in the CHANGELOG.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest import mock

RECORDING = Path(__file__).with_name("recorded.json")
HELP = Path(__file__).with_name("help.txt")
_RULE = "=" * 8
_TEXTS = frozenset({"configs", "help"})  # areas that are the same on any machine
_PREDICTING = frozenset({"eval", "protocols", "predict", "products"})  # areas that open a model again and again
# Before TensorFlow is imported: the CPU alone, and as few of its lines as possible.
_SETTINGS = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", "COLUMNS": "100"}


class Work:
    """A folder for one recording: its models, scenes and results, made when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._results = 0

    def run(self, *arguments: object, code: int = 0) -> str:
        """Runs `rsseg-tf` in this process and returns what it printed, with paths made short."""
        from click.testing import CliRunner

        from rsseg_tf.cli.main import main

        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exit_code != code:
            raise RuntimeError(f"rsseg-tf {' '.join(map(str, arguments))}: {result.exit_code}\n{result.output}")
        return result.output.replace(str(self.folder), "WORK")

    def new_folder(self) -> Path:
        self._results += 1
        return self.folder / "results" / str(self._results)

    @cached_property
    def synthetic(self) -> Path:
        """Prepared synthetic scenes of 160 x 160 pixels."""
        folder = self.folder / "synthetic"
        counts = ("--scenes-train", 2, "--scenes-val", 2, "--tile-size", 160, "--seed", 5)
        self.run("prepare", "synthetic", "-o", folder, *counts)
        return folder

    @cached_property
    def pairs(self) -> Path:
        """A dataset of images of several sizes."""
        from tests.recorded.made import write_pairs

        return write_pairs(self.folder / "pairs", self.synthetic)

    def checkpoint(self, name: str) -> Path:
        """The checkpoint of a model of `made.CONFIGS`."""
        from tests.recorded.made import write_checkpoint

        folder = self.folder / "checkpoints" / name
        return folder if folder.exists() else write_checkpoint(folder, name, self.pairs)


@contextmanager
def _models_stay_open() -> Iterator[None]:
    """A checkpoint that commands open again and again is built and traced once."""
    from rsseg_tf.predictors import checkpoint_predictor

    opened: dict[tuple[str, ...], Any] = {}

    def open_once(folder: Path, config: Any, *, precision: str, strategy: Any) -> Any:
        devices = 0 if strategy is None else strategy.num_replicas_in_sync
        key = (str(folder), config.model_dump_json(include={"model", "dataset"}), precision, str(devices))
        if key not in opened:
            opened[key] = checkpoint_predictor(folder, config, precision=precision, strategy=strategy)
        return opened[key]

    with mock.patch("rsseg_tf.predictors.opening.checkpoint_predictor", open_once):
        yield


def computed(area: str, folder: Path) -> dict[str, Any]:
    """Returns the present results of an area, as they stand in the recording."""
    from tests.recorded.areas import AREAS

    os.environ.update(_SETTINGS)
    folder.joinpath(area).mkdir()
    with _models_stay_open() if area in _PREDICTING else nullcontext():
        entries = AREAS[area](Work(folder / area))
    return dict(json.loads(json.dumps(entries), parse_float=lambda text: round(float(text), 9)))


def read_recording() -> dict[str, Any]:
    """Returns the recording; the texts of `help` come from their own file."""
    recording = dict(json.loads(RECORDING.read_text("utf-8"))) if RECORDING.exists() else {}
    if HELP.exists():
        parts = HELP.read_text("utf-8").split(f"\n{_RULE} ")[1:]
        recording["help"] = {name: text for name, _, text in (part.partition(f" {_RULE}\n") for part in parts)}
    return recording


def write_recording(recording: dict[str, Any]) -> None:
    """Writes the recording, one line an entry."""
    texts = recording.pop("help", {})
    HELP.write_text("".join(f"\n{_RULE} {name} {_RULE}\n{text}" for name, text in texts.items()), "utf-8")
    areas = []
    for area, entries in recording.items():
        lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()]
        areas.append(f"{json.dumps(area)}: {{\n" + ",\n".join(lines) + "\n}")
    RECORDING.write_text("{\n" + ",\n".join(areas) + "\n}\n", "utf-8")


def main(arguments: Sequence[str]) -> None:
    from tests.recorded.areas import AREAS
    from tests.recorded.compare import environment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=AREAS, default=list(AREAS), help="areas; default: all")
    parser.add_argument("--output", type=Path, help="write results here as JSON, and leave the recording as it is")
    options = parser.parse_args(arguments)
    results = {}
    for area in options.only:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="recorded-") as folder:
            results[area] = computed(area, Path(folder).resolve())
        print(f"{area}: {len(results[area])} entries, {time.monotonic() - started:.0f} s", file=sys.stderr)
    if options.output:
        options.output.write_text(json.dumps(results), "utf-8")
        return
    recording = read_recording()
    before = recording.get("environment")
    if before not in (None, environment()) and _TEXTS.issuperset(options.only):
        write_recording(recording | results)
        return
    if before not in (None, environment()) and set(AREAS) != set(options.only):
        raise SystemExit(
            f"The recording was made on another machine; record all areas, or {' and '.join(sorted(_TEXTS))} alone."
        )
    write_recording(recording | {"environment": environment()} | results)


if __name__ == "__main__":
    main(sys.argv[1:])
