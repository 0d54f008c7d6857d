"""From list files to batches with `tf.data`.

The stream of training samples is a pure function of the position: sample number `n` is the `n % N`-th in the
permutation of epoch `n // N`, and its random changes are drawn with a seed made of `n`. So two runs with one seed are
equal, a run can go on at any position without reading what came before, and the number of workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rsseg_tf.config.schema import Augment
from rsseg_tf.data.augment import BYTES, augment_sample, normalise, padding_of, value_limits
from rsseg_tf.data.reader import SampleReader

__all__ = ["ALL", "Share", "endless_batches", "sample_order", "shuffled", "train_batches"]

Element = dict[str, tf.Tensor]

Share = tuple[int, int]
"""(index, count): the part of each batch that one of several processes prepares; `count` divides the batch."""
ALL: Share = (0, 1)


def train_batches(
    reader: SampleReader,
    augment: Augment,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    workers: int | None = None,
    share: Share = ALL,
) -> tf.data.Dataset:
    """Returns endless batches for training.

    Args:
        reader: The samples.
        augment: Crop size and random changes.
        batch_size: Samples per batch, over all devices.
        seed: Seed of order and changes.
        start: How many samples were consumed before (a resumed run).
        workers: Samples prepared in parallel; None lets TensorFlow choose.
        share: Which part of each batch to prepare, see `endless_batches`.

    Returns:
        Elements `{"image": (B, H, W, bands) float32 normalised, "label": (B, H, W) int32, "index": (B,) int64}`;
        `index` holds the samples' places in the list.
    """
    return endless_batches(
        _Loader(reader, augment, seed), batch_size=batch_size, start=start, workers=workers, share=share
    )


def endless_batches(
    load: Callable[[tf.Tensor], Element],
    *,
    batch_size: int,
    start: int,
    workers: int | None,
    finish: Callable[[Element], Element] | None = None,
    share: Share = ALL,
) -> tf.data.Dataset:
    """Returns endless batches of samples in the order of their positions.

    Args:
        load: Makes a sample from its position in the stream, int64.
        batch_size: Samples per batch, over all devices.
        start: The first position.
        workers: Samples loaded in parallel; None lets TensorFlow choose.
        finish: Changes a whole batch.
        share: Which part of each batch to give; the parts of all shares in a row are the batch.
    """
    # Threads are enough: file reads wait for the disk, and NumPy code holds Python's lock only briefly.
    parallel = workers or tf.data.AUTOTUNE
    positions = tf.data.Dataset.counter(start)
    index, count = share
    rows = batch_size // count
    if count > 1:
        positions = tf.data.Dataset.counter(0).map(lambda i: start + i // rows * batch_size + index * rows + i % rows)
    dataset = positions.map(load, num_parallel_calls=parallel, deterministic=True)
    dataset = dataset.batch(rows, drop_remainder=True)
    if finish is not None:
        dataset = dataset.map(finish, num_parallel_calls=2, deterministic=True)
    # Without this, several workers would each read a part of the files; here every batch is split among devices.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.prefetch(2).with_options(options)


def sample_order(epoch: int, count: int, seed: int) -> np.ndarray:
    """Returns the permutation of `0..count-1` in which an epoch visits the samples."""
    positions = tf.range(count, dtype=tf.int64)
    return shuffled(positions, tf.constant(epoch, tf.int64), count, seed).numpy()


def shuffled(position: tf.Tensor, epoch: tf.Tensor, count: int, seed: int) -> tf.Tensor:
    """Returns the place in the list of the sample at `position` of an epoch; int64 scalars or arrays.

    The permutation is computed element by element, so that no epoch's order is ever held in memory.
    """
    if count == 1:  # which index_shuffle refuses
        return tf.zeros_like(position)
    key = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(position, key, tf.constant(count - 1, tf.int64))


class _Loader:
    """Maps a position in the endless stream to a training sample."""

    def __init__(self, reader: SampleReader, augment: Augment, seed: int) -> None:
        self.reader, self.augment, self.seed = reader, augment, seed
        self.quantise = reader.dtype == np.uint8
        self.padding = padding_of(augment, reader.spec, reader.dtype)
        self.limits = value_limits(reader.dtype, reader.spec.max_value)

    def __call__(self, position: tf.Tensor) -> dict[str, tf.Tensor]:
        spec, count = self.reader.spec, len(self.reader.samples)
        index = shuffled(position % count, position // count, count, self.seed)
        image, label = tf.numpy_function(
            self.reader, [index], [tf.as_dtype(self.reader.dtype), tf.uint8], stateful=False
        )
        image.set_shape((None, None, spec.bands))
        label.set_shape((None, None))
        image = tf.cast(image, tf.float32)
        if spec.max_value != 255.0:
            image = image * (255.0 / spec.max_value)
        sample_seed = tf.stack([tf.constant(self.seed, tf.int64), position])
        image, label = augment_sample(
            image,
            tf.cast(label, tf.int32),
            tf.cast(sample_seed, tf.int32),
            self.augment,
            ignore_index=spec.ignore_index,
            quantise=self.quantise,
            padding=self.padding,
            limits=self.limits,
        )
        return {"image": normalise(image, spec, max_value=BYTES[1]), "label": label, "index": index}
