"""Does `sampling` give the share of crops that it is asked for? Counted in the labels of many crops.

    python -m benchmarks.sampling path/to/dubai

DATA is the prepared Dubai dataset. Crops of three sizes are drawn with the benchmark's augmentation, by chance and with
a wish; images are not read. The last row wishes for less than chance gives, which changes nothing. Prints a table in
Markdown.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.measuring import Figures, parser_of
from rsseg_tf.config.schema import Augment, Sampling
from rsseg_tf.data import SampleReader
from rsseg_tf.data.augment import Augmentation
from rsseg_tf.data.pipeline import sample_order
from rsseg_tf.data.sampling import Crops, look_for_classes
from rsseg_tf.datasets.dubai import DUBAI
from rsseg_tf.files.lists import read_list

WISHES: tuple[tuple[int, tuple[str, ...] | Literal["rare"], float], ...] = (
    (512, ("water",), 0.7),
    (512, ("water",), 0.9),
    (256, ("building",), 0.75),
    (128, ("building",), 0.5),
    (128, ("water", "building"), 0.8),
    (128, "rare", 0.9),
    (256, "rare", 0.5),
)


def share(
    reader: SampleReader, labels: list[np.ndarray], side: int, sampling: Sampling, count: int
) -> tuple[float, float]:
    """Returns the share of crops that hold a wanted class, and the CPU seconds of the look at all labels."""
    crops = Crops(Augmentation(Augment(crop_size=(side, side)), DUBAI, reader.dtype), sampling)
    seed, began = 1, time.process_time()
    sampler = look_for_classes(reader, crops, seed)
    seconds = time.process_time() - began
    assert sampler is not None
    held = 0
    for epoch in range(-(-count // len(labels))):
        for place, index in enumerate(sample_order(epoch, len(labels), seed)):
            position = epoch * len(labels) + place
            chosen, target = sampler.choose(seed, position, int(index))
            held += bool(np.isin(crops.draw(labels[chosen], seed, position, target)[1], sampler.classes).any())
    return held / (len(labels) * -(-count // len(labels))), seconds


def main() -> None:
    """Counts and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path, help="the prepared dataset")
    parser.add_argument("--crops", type=int, default=4000, help="for each row, at least")
    options = parser.parse_args()
    reader = SampleReader(read_list(options.data / "train.txt", options.data), DUBAI)
    labels = [reader.label(index) for index in range(len(reader.samples))]
    figures = Figures("sampling")
    figures.table("classes", "crop", "by chance, %", "wish, %", "got, %", "difference", "look at all labels, CPU s")
    for side, classes, wish in WISHES:
        natural, _ = share(reader, labels, side, Sampling(classes=classes, share=0.0), options.crops)
        got, seconds = share(reader, labels, side, Sampling(classes=classes, share=wish), options.crops)
        name = classes if isinstance(classes, str) else ", ".join(classes)
        cells = (f"{100 * value:.1f}" for value in (natural, wish, got))
        figures.row(name, f"{side}x{side}", *cells, f"{100 * (got - wish):+.1f}", f"{seconds:.1f}")
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
