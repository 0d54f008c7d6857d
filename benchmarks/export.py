"""Exports models at full width in every format, and measures size, latency, memory and agreement with Keras.

    python -m benchmarks.export --output /tmp/exported --runs 10

The weights are not trained: kernels are random, and the statistics of the batch normalisations are those of made-up
images, so that activations have their usual size. Latency and size do not depend on that; agreement does, and trained
models agree better. Each model is timed in a process of its own, on all processors.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measuring import Figures, parser_of
from rsseg_tf.rasters.windows import Size

CONFIGS = {
    "fcn_hrnet_w18": "fcn/fcn_hrnet_w18_isaid_512x512_80k.yml",
    "deeplabv3p_resnet50_vd": "deeplabv3p/deeplabv3p_resnet50_vd_isaid_512x512_80k.yml",
}
SIDE = 512


def checkpoint_of(name: str, folder: Path) -> Path:
    """Writes a checkpoint with random kernels and calibrated statistics."""
    import keras
    import numpy as np

    from rsseg_tf import build_model, load_config
    from rsseg_tf.checkpoint import TrainState, save_checkpoint
    from rsseg_tf.export.tiles import random_tiles

    config = load_config(CONFIGS[name], ["model.backbone.pretrained=null"])
    model = build_model(config)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("kernel", "depthwise_kernel"):
            variable.assign(rng.normal(size=variable.shape) * np.sqrt(2 / np.prod(variable.shape[:3])))
        if variable.name in ("gamma", "scale"):
            variable.assign(np.full(variable.shape, 0.5))  # keeps sums of many branches from growing
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    pixels = random_tiles(config.dataset.spec, Size(128, 128), 16, seed=1) / np.float32(127.5) - 1
    for start in range(0, 16, 2):
        model(pixels[start : start + 2], training=True)
    checkpoint = folder / name / "checkpoint"
    save_checkpoint(checkpoint, model, None, TrainState(), config)
    return checkpoint


def measured(name: str, folder: Path, runs: int) -> list[tuple[str, ...]]:
    """Exports a model for one size and for any, and returns rows of the table."""
    from rsseg_tf.export import ExportOptions, export_model, load_trained, verify
    from rsseg_tf.export.tiles import random_tiles
    from rsseg_tf.export.timing import time_in_process

    checkpoint = checkpoint_of(name, folder)
    trained = load_trained(checkpoint)
    calibration = list(random_tiles(trained.spec, Size(SIDE, SIDE), 8, seed=2))
    threads = os.cpu_count() or 1
    timing = time_in_process(checkpoint, Size(SIDE, SIDE), threads=threads, runs=runs)
    rows = [_row(name, "Keras", "any", 0, timing, None)]
    for tile in (Size(SIDE, SIDE), None):
        exported = export_model(
            trained,
            folder / name / ("any" if tile is None else "fixed"),
            ExportOptions(
                ("savedmodel", "onnx", "tflite") if tile is None else ("onnx", "tflite"),
                ("float32", "dynamic") if tile is None else ("float32", "float16", "dynamic", "int8"),
                tile,
                calibration,
            ),
            notify=print,
        )
        if exported.folder is None:
            raise RuntimeError("nothing was measured that could be refused")
        comparisons = {one.name: one for one in verify(exported.folder)}
        for artifact in exported.manifest.artifacts:
            timing = time_in_process(exported.folder / artifact.path, Size(SIDE, SIDE), threads=threads, runs=runs)
            comparison = comparisons[artifact.name]
            rows.append(
                _row(
                    name,
                    artifact.name,
                    "any" if artifact.tile is None else f"{SIDE}x{SIDE}",
                    comparison.size_bytes,
                    timing,
                    comparison,
                )
            )
            print(" | ".join(rows[-1]), flush=True)
    return rows


def _row(name: str, kind: str, size: str, size_bytes: int, timing: Any, comparison: Any) -> tuple[str, ...]:
    return (
        name,
        kind,
        size,
        f"{size_bytes / 2**20:.1f}" if size_bytes else "",
        f"{timing.p50_ms:.0f}",
        f"{timing.p90_ms:.0f}",
        f"{timing.memory_mib:.0f}",
        f"{comparison.max_logit_difference:.1e}" if comparison else "",
        f"{100 * comparison.agreement:.2f}" if comparison else "",
    )


def main() -> None:
    """Prints a Markdown table."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--output", type=Path, help="where files go; a temporary folder by default")
    parser.add_argument("--runs", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = [
            row
            for name in arguments.models
            for row in measured(name, arguments.output or Path(temporary), arguments.runs)
        ]
    figures = Figures("export")
    figures.table(
        *("model", "format", "input", "MiB", "p50 ms", "p90 ms", "memory MiB", "max abs Δlogit", "same class, %")
    )
    for row in rows:
        figures.row(*row)
    if arguments.write:
        figures.write()


if __name__ == "__main__":
    main()
