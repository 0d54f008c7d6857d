"""How many pixels of a trained model with attention keep their class in an int8 file, over sizes of its input.

    python -m benchmarks.attention path/to/dubai/download --work /tmp/attention

Each model is trained for some steps on the Dubai scenes, and exported twice for each size: with the softmax as one
operation, which is a multiple of 1/256 in 8 bits, and as `rsseg-tf export` does. What was trained once lies in the work
folder and is not trained again.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measuring import Figures, parser_of, rsseg_tf
from rsseg_tf.rasters.windows import Size

TILE = 512
COUNT = 8  # tiles that are compared; as many others calibrate
MODELS: dict[str, dict[str, Any]] = {
    "ocrnet": {
        "model": {"backbone": {"name": "hrnet_w18_small"}, "ocr_channels": 256, "key_channels": 128},
        "loss": {"main": {"name": "cross_entropy"}, "aux": {"name": "cross_entropy", "weight": 0.4}},
        "steps": 400,
    },
    "danet": {
        "model": {"backbone": {"name": "resnet18_vd", "output_stride": 16}},
        "loss": {
            **{head: {"name": "cross_entropy"} for head in ("main", "cam", "pam")},
            "aux": {"name": "cross_entropy", "weight": 0.4},
        },
        "steps": 200,
    },
    "segformer": {
        "model": {"backbone": {"name": "mit_b0"}},
        "loss": {"main": {"name": "cross_entropy"}},
        "steps": 400,
    },
}


def checkpoint_of(name: str, root: Path, work: Path) -> Path:
    """Returns the checkpoint after all steps; trains where there is none."""
    case, folder = MODELS[name], work / name
    checkpoint = folder / "training" / f"iter_{case['steps']}"
    if not checkpoint.exists():
        folder.mkdir(exist_ok=True)
        config = {
            "dataset": {"name": "dubai", "root": str(root)},
            "model": {"name": name, **case["model"]},
            "loss": case["loss"],
            "augment": {
                **{"crop_size": [192, 192], "scale_range": [0.75, 1.25], "flip_vertical": 0.5, "rotate90": 0.5},
                **{"brightness_range": 0.2, "contrast_range": 0.2, "saturation_range": 0.2, "hue_range": 0},
            },
            "optimizer": {"name": "adamw", "weight_decay": 0.01},
            "lr_schedule": {"name": "poly", "learning_rate": 0.002, "warmup_steps": 10},
            "train": {"iters": case["steps"], "batch_size": 4, "save_interval": case["steps"]},
        }
        (folder / "config.yml").write_text(json.dumps(config, indent=2), "utf-8")  # JSON is YAML too
        rsseg_tf("train", "--config", folder / "config.yml", "--save_dir", folder / "training", "--device", "cpu")
    return checkpoint


def same_classes(trained: Any, root: Path, side: int, *, softmax: bool) -> float:
    """Returns the share of pixels, in %, with the class that Keras gives, in an int8 file for images of a size."""
    import numpy as np

    from rsseg_tf.export import ExportOptions, calibration_images, export_model
    from rsseg_tf.export.tiles import read_tiles
    from rsseg_tf.files.lists import read_list
    from rsseg_tf.predictors import open_predictor

    size = Size(side, side)
    samples = read_list(root / "val.txt", root)
    tiles = read_tiles([one.image for one in samples[:: len(samples) // COUNT][:COUNT]], trained.spec, size)
    calibration = calibration_images(root / "train.txt", trained.spec, size, count=COUNT)
    options = ExportOptions(("tflite",), ("int8",), size, calibration)
    with tempfile.TemporaryDirectory() as folder:
        with patch("rsseg_tf.layers.attention.is_in_eight_bits", lambda: False) if softmax else nullcontext():
            exported = export_model(trained, folder, options)
        if exported.folder is None:
            raise RuntimeError("the export was refused")
        predict = open_predictor(exported.folder / exported.manifest.artifacts[0].path).predict
        same = [predict(tile[None]).argmax(-1) == trained.predict(tile[None]).argmax(-1) for tile in tiles]
    return float(100 * np.mean(same))


def main() -> None:
    """Reads the command line and measures."""
    parser = parser_of(__doc__)
    parser.add_argument("source", help="the downloaded Dubai scenes, a folder or a zip file")
    parser.add_argument("--work", type=Path, required=True, help="where tiles and checkpoints go, and are found again")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sides", nargs="+", type=int, default=[256, 512, 768], help="of the input, in pixels")
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    root = work / "tiles"
    if not root.exists():
        rsseg_tf("prepare", "dubai", arguments.source, "-o", root, "--tile-size", str(TILE))

    from rsseg_tf.export import load_trained

    figures = Figures("attention")
    figures.table("model, backbone", "input", "softmax, same class, %", "as exported, same class, %")
    for name in arguments.models:
        trained = load_trained(checkpoint_of(name, root, work))
        for side in arguments.sides:
            shares = [same_classes(trained, root, side, softmax=softmax) for softmax in (True, False)]
            backbone = MODELS[name]["model"]["backbone"]["name"]
            figures.row(f"{name}, {backbone}", f"{side}x{side}", *(f"{share:.1f}" for share in shares))
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
