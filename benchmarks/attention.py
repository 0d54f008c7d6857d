"""How many pixels of a trained model with attention keep their class in an int8 file, over sizes of its input.

    python -m benchmarks.attention path/to/dubai/download --work /tmp/attention

Each model is trained for some steps on the Dubai scenes, and exported twice for each size: with the softmax as one
operation, which is a multiple of 1/256 in 8 bits, and as `rsseg-tf export` does. Both take turns to be timed. What was
trained once lies in the work folder and is not trained again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.measuring import Figures, parser_of, rsseg_tf
from benchmarks.zoo_export import THREADS, Case, latencies, spread, trained_in, training_config
from rsseg_tf.export import ExportOptions, TrainedModel, calibration_images, export_model, load_trained
from rsseg_tf.export.tiles import read_tiles
from rsseg_tf.files.lists import read_list
from rsseg_tf.predict import Predict
from rsseg_tf.predictors import open_predictor
from rsseg_tf.rasters.windows import Size

TILE = 512
COUNT = 8  # tiles that are compared; as many others calibrate
CASES = {
    "ocrnet": Case(
        {"backbone": {"name": "hrnet_w18_small"}, "ocr_channels": 256, "key_channels": 128},
        {"main": 1.0, "aux": 0.4},
        steps=400,
    ),
    "danet": Case(
        {"backbone": {"name": "resnet18_vd", "output_stride": 16}},
        {"main": 1.0, "cam": 1.0, "pam": 1.0, "aux": 0.4},
        steps=200,
    ),
    "segformer": Case({"backbone": {"name": "mit_b0"}}, steps=400),
}


@contextmanager
def int8_files(trained: TrainedModel, root: Path, size: Size) -> Iterator[dict[str, Predict]]:
    """Gives an int8 file for images of a size with the softmax as one operation, and one as it is exported."""
    options = ExportOptions(
        ("tflite",), ("int8",), size, calibration_images(root / "train.txt", trained.spec, size, count=COUNT)
    )
    files: dict[str, Predict] = {}
    with tempfile.TemporaryDirectory() as folder:
        for form, changed in (
            ("softmax", patch("rsseg_tf.layers.attention.is_in_eight_bits", lambda: False)),
            ("exported", nullcontext()),
        ):
            with changed:
                exported = export_model(trained, Path(folder) / form, options)
            if exported.folder is None:
                raise RuntimeError("the export was refused")
            path = exported.folder / exported.manifest.artifacts[0].path
            files[form] = open_predictor(path, threads=THREADS[-1]).predict
        yield files


def measured(trained: TrainedModel, root: Path, size: Size) -> list[str]:
    """Returns the share of pixels with the class that Keras gives, in %, and the milliseconds of both files."""
    samples = spread(read_list(root / "val.txt", root), COUNT)
    tiles = [tile[np.newaxis] for tile in read_tiles([one.image for one in samples], trained.spec, size)]
    expected = [trained.predict(tile).argmax(-1) for tile in tiles]
    with int8_files(trained, root, size) as files:
        same = [
            np.mean([predict(tile).argmax(-1) == classes for tile, classes in zip(tiles, expected, strict=True)])
            for predict in files.values()
        ]
        times = latencies(files, tiles[0])
    return [*(f"{100 * share:.1f}" for share in same), *(f"{time:.0f}" for time in times.values())]


def main() -> None:
    """Reads the command line and measures."""
    parser = parser_of(__doc__)
    parser.add_argument("source", help="the downloaded Dubai scenes, a folder or a zip file")
    parser.add_argument("--work", type=Path, required=True, help="where tiles and checkpoints go, and are found again")
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sides", nargs="+", type=int, default=[256, 512, 768], help="of the input, in pixels")
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    root = work / "tiles"
    if not root.exists():
        rsseg_tf("prepare", "dubai", arguments.source, "-o", root, "--tile-size", str(TILE))

    figures = Figures("attention")
    figures.table("model, backbone", "input", "softmax, same class, %", "exported, same class, %", "softmax, ms", "ms")
    for name in arguments.models:
        case, dataset = CASES[name], {"name": "dubai", "root": str(root)}
        config = partial(training_config, dataset, {"name": name, **case.model}, case, crop=192, batch=4)
        trained = load_trained(trained_in(work / name, case.steps, config))
        for side in arguments.sides:
            row = measured(trained, root, Size(side, side))
            figures.row(f"{name}, {case.model['backbone']['name']}", f"{side}x{side}", *row)
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
