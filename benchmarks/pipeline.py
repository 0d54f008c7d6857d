"""How many samples per second the input pipeline delivers, beside how many a training step consumes.

    python -m benchmarks.pipeline

Both on this CPU, one after the other in one process, at 512x512 and batch 4 with the benchmark's augmentation. The
pipeline is measured reading PNG tiles from disk (nothing cached) and from its memory (all cached). Prints a table in
Markdown; the ratio says how far the pipeline is from holding up the model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import tensorflow as tf

from benchmarks.measuring import Figures, parser_of, rate, seconds_of
from rsseg_tf.assets import find_config
from rsseg_tf.build import build_losses, build_model
from rsseg_tf.config import Config, load_config
from rsseg_tf.data import SampleReader, train_batches
from rsseg_tf.files.lists import read_list
from rsseg_tf.prepare.synthetic import generate_synthetic
from rsseg_tf.rasters.images import read_image
from rsseg_tf.training.optimizers import build_optimizer
from rsseg_tf.training.step import TrainStep

CONFIGS = (
    "fcn/fcn_hrnet_w18_dubai_512x512_80k.yml",
    "deeplabv3plus/deeplabv3plus_resnet18_vd_synthetic_256x256_quick.yml",
)


def tiles(folder: Path, count: int) -> None:
    """Writes synthetic tiles as PNG, the format of prepared datasets."""
    generate_synthetic(folder / "scenes", scenes_train=count, scenes_val=1)
    lines = []
    for i, sample in enumerate(read_list(folder / "scenes" / "train.txt", folder / "scenes")):
        cv2.imwrite(str(folder / f"{i}.png"), read_image(sample.image)[..., ::-1])
        if sample.label is not None:
            cv2.imwrite(str(folder / f"{i}_label.png"), read_image(sample.label)[..., 0] % 5)
        lines.append(f"{i}.png {i}_label.png")
    (folder / "train.txt").write_text("\n".join(lines) + "\n", "utf-8")


def pipeline_rate(config: Config, folder: Path, cache_mb: int, seconds: float) -> float:
    """Returns samples per second, after a pass that fills caches and starts threads."""
    samples = read_list(folder / "train.txt", folder)
    reader = SampleReader(samples, config.dataset.spec, cache_mb=cache_mb)
    batch_size = config.train.batch_size
    batches = iter(train_batches(reader, config.augment, batch_size=batch_size, seed=0))
    return batch_size * rate(lambda: next(batches), seconds, warm_up=len(samples) // batch_size + 2)


def model_rate(config: Config, steps: int) -> float:
    """Returns samples per second of a training step on data that are in memory already; the median step."""
    model = build_model(config)
    optimizer = build_optimizer(config.optimizer)
    optimizer.build(model.trainable_variables)
    step = TrainStep(model, optimizer, build_losses(config), tf.distribute.get_strategy(), config.dataset.spec)
    width, height = config.augment.crop_size
    shape = (config.train.batch_size, height, width)
    batch = {"image": tf.random.uniform((*shape, 3), 0, 255), "label": tf.zeros(shape, tf.int32)}
    times = [seconds_of(lambda: float(step(batch, 0.01)["loss"])) for _ in range(steps + 2)]
    return config.train.batch_size / float(np.median(times[2:]))


def main() -> None:
    """Measures and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("--tiles", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15.0, help="for each pipeline")
    parser.add_argument("--steps", type=int, default=4, help="of each model")
    options = parser.parse_args()
    figures = Figures("pipeline")
    figures.table("model, 512x512, batch 4", "samples/s", "pipeline from disk", "ratio", "from memory", "ratio")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiles(folder, options.tiles)
        for name in CONFIGS:
            overrides = ["augment.crop_size=[512, 512]", "augment.scale_range=[0.5, 2.0]", "train.batch_size=4"]
            config = load_config(find_config(name), [*overrides, f"dataset={{name: dubai, root: {folder}}}"])
            disk = pipeline_rate(config, folder, 0, options.seconds)
            memory = pipeline_rate(config, folder, 1024, options.seconds)
            model = model_rate(config, options.steps)
            title = Path(name).stem.partition("_dubai")[0].partition("_synthetic")[0]
            rates = (f"{cell:.1f}" for cell in (disk, memory))
            ratios = (f"{cell / model:.0f}" for cell in (disk, memory))
            figures.row(title, f"{model:.2f}", *(cell for pair in zip(rates, ratios, strict=True) for cell in pair))
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
