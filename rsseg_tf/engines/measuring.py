"""How fast a candidate is on this machine, and how much it differs from the Keras model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsseg_tf.config import Config
from rsseg_tf.datasets import DatasetSpec
from rsseg_tf.engines.candidates import Candidate
from rsseg_tf.errors import ExportError, NotFiniteError
from rsseg_tf.export.publish import ACCURACY_FILE
from rsseg_tf.export.reference import Reference, read_reference
from rsseg_tf.export.tiles import random_tiles
from rsseg_tf.files import read_json
from rsseg_tf.predict import Predict, require_finite
from rsseg_tf.predictors import Predictor, open_predictor

__all__ = ["Measured", "measure"]

_RUNS = 3
_SHARE_S = 1.5  # of each candidate, after which it is not run again
_HOPELESS = 2.0  # times the fastest: one run is enough
_TILES, _LARGEST_SIDE = 2, 256  # to compare on


@dataclass(frozen=True)
class Measured:
    """What is known of a candidate.

    Attributes:
        ms: time of an image, the fastest of a few runs; 0 where it cannot run.
        lost: points in 0..100: of mIoU where the export measured it, else the share of pixels with another
            class than the Keras model gives.
        of_miou: whether `lost` is of mIoU.
        obstacle: why it cannot run, or is not worth a try, in a clause; empty otherwise.
    """

    ms: float = 0.0
    lost: float = 0.0
    of_miou: bool = False
    obstacle: str = ""


def measure(
    place: Path, candidates: Sequence[Candidate], config: Config | None, size: tuple[int, int], threads: int
) -> dict[str, Measured]:
    """Runs all candidates, one after the other, so that one at a time is in memory.

    Args:
        place: the checkpoint or version that they belong to.
        candidates: the first of a checkpoint's is what the others are compared with.
        config: of a checkpoint.
        size: (height, width) of the image that is timed.
        threads: that each may use.

    Returns:
        What was found, by the names of the candidates.

    Raises:
        WeightsError: when a checkpoint does not fit its config.
        ExportError: when an export has no answers to compare with.
    """
    reference = None if candidates[0].engine == "keras" else read_reference(place)
    drops = _miou_drops(place)
    found: dict[str, Measured] = {}
    for candidate in candidates:
        if candidate.obstacle:
            found[candidate.name] = Measured(obstacle=candidate.obstacle)
            continue
        try:
            predictor = open_predictor(candidate.path, config=config, precision=candidate.precision, threads=threads)
        except ExportError as error:
            found[candidate.name] = Measured(obstacle=f"cannot be opened ({error})")
            continue
        if reference is None:
            reference = _answers(predictor, config)
        quantization = candidate.artifact.quantization if candidate.artifact else "float32"
        try:
            lost = _differing(predictor.predict, reference.suited_to(quantization))
        except (ExportError, NotFiniteError) as error:
            found[candidate.name] = Measured(obstacle=f"gives no answer ({error})")
            continue
        measured_drop = candidate.precision == "fp32" and candidate.name in drops
        if measured_drop:
            lost = drops[candidate.name]
        pixels = random_tiles(predictor.spec, size, 1, dtype=str(reference.pixels.dtype))
        fastest = min((one.ms for one in found.values() if one.ms), default=float("inf"))
        found[candidate.name] = Measured(_fastest_ms(predictor.predict, pixels, fastest), lost, measured_drop)
    return found


def _answers(predictor: Predictor, config: Config | None) -> Reference:
    """Runs a checkpoint on made-up tiles."""
    width, height = (512, 512) if config is None else config.augment.crop_size
    size = min(height, _LARGEST_SIDE), min(width, _LARGEST_SIDE)
    pixels = random_tiles(predictor.spec, size, _TILES, dtype=_pixel_type(predictor.spec))
    return Reference(pixels, np.concatenate([predictor.predict(one[np.newaxis]) for one in pixels]), len(pixels))


def _pixel_type(spec: DatasetSpec) -> str:
    return "uint8" if spec.max_value == 255 else "float32"


def _differing(predict: Predict, reference: Reference) -> float:
    """Returns the share of pixels with another class, in points; all where the answer has another shape."""
    tiles = [tile[np.newaxis] for tile in reference.pixels]
    logits = np.concatenate([require_finite(predict(tile), tile) for tile in tiles])
    if logits.shape != reference.logits.shape:
        return 100.0
    return 100 * float((logits.argmax(-1) != reference.logits.argmax(-1)).mean())


def _fastest_ms(predict: Predict, pixels: NDArray, fastest: float) -> float:
    """Times a few runs; the fastest of them is the one that other programs disturbed least."""
    predict(pixels)  # the first run of a size is slower
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < 1000 * _SHARE_S and not (times and min(times) > _HOPELESS * fastest):
        began = time.perf_counter()
        predict(pixels)
        times.append(1000 * (time.perf_counter() - began))
    return min(times)


def _miou_drops(place: Path) -> Mapping[str, float]:
    """Returns the points of mIoU that artifacts lost at the export, by name; none where it did not measure them."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            report: Any = read_json(place / ACCURACY_FILE)
            return {str(name): float(drop) for name, drop in report["miou_drop"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExportError(f"{place / ACCURACY_FILE} is damaged: {error}. Export the model again.") from error
    return {}
