"""Would shards of many tiles in one file feed `train` faster than the tiles that `prepare` writes?

    python -m benchmarks.shards

The same 512x512 tiles as PNG files (what `prepare` writes), as a TFRecord file of the encoded PNGs, and as a TFRecord
file of raw pixels; each read alone, and followed by the benchmark's whole augmentation. TFRecord is read in order with
interleaved decoding, which is the best case for it: a shuffle buffer and an exact resume would come on top. All files
are in the system's cache. Prints a table in Markdown, as samples per second.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.measuring import Figures, parser_of, rate
from benchmarks.prepare import scene
from rsseg_tf.config.schema import Augment
from rsseg_tf.data import SampleReader
from rsseg_tf.data.augment import Augmentation, draw_changes, uniform_numbers
from rsseg_tf.datasets.isprs import POTSDAM
from rsseg_tf.datasets.label_codings import rgb_to_ids
from rsseg_tf.files.lists import read_list
from rsseg_tf.rasters.images import write_png
from rsseg_tf.rasters.windows import windows

Parse = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


def tiles(folder: Path) -> int:
    """Writes the tiles of one scene of 6000x6000 and their list; returns how many bytes they take."""
    image, mask = scene(0)
    ids = rgb_to_ids(mask, POTSDAM.palette, ignored=[(0, 0, 0)])
    lines = []
    for y0, x0, y1, x1 in windows(ids.shape[0], ids.shape[1], 512):
        write_png(folder / f"{y0}_{x0}.png", image[y0:y1, x0:x1])
        write_png(folder / f"{y0}_{x0}_label.png", ids[y0:y1, x0:x1], POTSDAM.palette)
        lines.append(f"{y0}_{x0}.png {y0}_{x0}_label.png\n")
    (folder / "train.txt").write_text("".join(lines), "utf-8")
    return sum(path.stat().st_size for path in folder.glob("*.png"))


def write_shard(path: Path, reader: SampleReader, *, raw: bool) -> int:
    """Writes one TFRecord file and returns its bytes."""
    with tf.io.TFRecordWriter(str(path)) as file:
        for index, sample in enumerate(reader.samples):
            if raw:
                parts = [array.tobytes() for array in reader(index)]
            else:
                # a plain grey PNG: TensorFlow would look up the colours of an indexed one
                label = tf.io.encode_png(reader(index)[1][..., np.newaxis]).numpy()
                parts = [sample.image.read_bytes(), label]
            features = {
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[part]))
                for name, part in zip(("image", "label"), parts, strict=True)
            }
            file.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    return path.stat().st_size


def parse_with(decode: Callable[[tf.Tensor, int], tf.Tensor]) -> Parse:
    """Returns a parser of records."""
    wanted = {name: tf.io.FixedLenFeature((), tf.string) for name in ("image", "label")}

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = tf.io.parse_single_example(record, wanted)
        return decode(found["image"], 3), decode(found["label"], 1)[..., 0]

    return parse


def reading_rate(dataset: tf.data.Dataset, seconds: float) -> float:
    """Returns elements per second."""
    elements = iter(dataset.prefetch(4))
    return rate(lambda: next(elements), seconds, warm_up=40)


def main() -> None:
    """Measures and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="for each row and column")
    options = parser.parse_args()
    augment = Augment()

    changes = Augmentation(augment, POTSDAM, np.dtype(np.uint8))

    def change(number: int, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        draw = draw_changes(augment, next(uniform_numbers(0, number)))
        return changes.image(image, draw), changes.label(label, draw)

    def augmented(number: tf.Tensor, pair: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.numpy_function(change, [number, *pair], [tf.uint8, tf.uint8], stateful=False)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sizes = {"PNG files": tiles(folder)}
        reader = SampleReader(read_list(folder / "train.txt", folder), POTSDAM)

        def read(index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.numpy_function(reader, [index % len(reader.samples)], [tf.uint8, tf.uint8], stateful=False)

        def shard(name: str, *, raw: bool) -> tf.data.Dataset:
            path = folder / f"{raw}.tfrecord"
            sizes[name] = write_shard(path, reader, raw=raw)
            decode = parse_with(
                (lambda data, bands: tf.reshape(tf.io.decode_raw(data, tf.uint8), (512, 512, bands)))
                if raw
                else (lambda data, bands: tf.io.decode_png(data, bands))
            )
            return tf.data.TFRecordDataset(str(path)).repeat().map(decode, num_parallel_calls=tf.data.AUTOTUNE)

        ways = {
            "PNG files": tf.data.Dataset.counter().map(read, num_parallel_calls=tf.data.AUTOTUNE),
            "TFRecord of PNG": shard("TFRecord of PNG", raw=False),
            "TFRecord of raw pixels": shard("TFRecord of raw pixels", raw=True),
        }
        figures = Figures("shards")
        figures.table(
            f"{len(reader.samples)} tiles of 512x512", "MB", "read, tiles/s", "read and augmented", "ratio to PNG files"
        )
        base = 0.0
        for name, dataset in ways.items():
            plain = reading_rate(dataset, options.seconds)
            whole = reading_rate(
                dataset.enumerate().map(augmented, num_parallel_calls=tf.data.AUTOTUNE), options.seconds
            )
            base = base or whole
            figures.row(name, f"{sizes[name] / 1e6:.0f}", f"{plain:.0f}", f"{whole:.1f}", f"{whole / base:.2f}")
    if options.write:
        figures.write()


if __name__ == "__main__":
    main()
