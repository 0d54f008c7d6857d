"""From list files to batches with `tf.data`.

The stream of training samples is a pure function of the position: sample number `n` is the `n % N`-th in the
permutation of epoch `n // N`, and its random changes are drawn with a seed made of `n`. So two runs with one seed are
equal, a run can go on at any position without reading what came before, and the number of workers changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from rsseg_tf.config.schema import Augment, Sampling
from rsseg_tf.data.augment import Augmentation
from rsseg_tf.data.calls import call_python
from rsseg_tf.data.own_changes import Change, OwnChange, own_change, own_seed
from rsseg_tf.data.reader import SampleReader
from rsseg_tf.data.sampling import Crops, CropSampler, look_for_classes
from rsseg_tf.errors import DataError

__all__ = ["ALL", "Share", "endless_batches", "first_sample", "sample_order", "shuffled", "train_batches"]

Element = dict[str, tf.Tensor]
_ANYWHERE = Sampling()
# Samples under way for each thread. Samples differ in cost and are handed out in order: with one for each, threads that
# are done wait for the slowest. Two threads lose nothing by that; sixteen would be a third slower, by a simulation with
# measured costs (benchmarks/README.md).
_UNDER_WAY = 3
_ALIGNMENT = 64  # bytes, of TensorFlow's tensors

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
    sampling: Sampling = _ANYWHERE,
    augmentation: Change | None = None,
    notify: Callable[[str], object] = lambda line: None,
    share: Share = ALL,
) -> tf.data.Dataset:
    """Returns endless batches for training.

    Args:
        reader: The samples.
        augment: Crop size and random changes.
        batch_size: Samples per batch, over all devices.
        seed: Seed of order and changes.
        start: How many samples were consumed before (a resumed run).
        workers: Threads that prepare samples; None lets TensorFlow choose.
        sampling: Which crops are drawn. With classes, all labels are read before the first batch.
        augmentation: A change of one's own, which comes last; see `rsseg_tf.data.own_changes`. A config names it by
            `augment.custom`.
        notify: Called with a line about the classes that were found.
        share: Which part of each batch to prepare, see `endless_batches`.

    Returns:
        Elements `{"image": (B, H, W, bands), "label": (B, H, W) int32, "index": (B,) int64}`. Images are in the unit of
        the files and of the type of `Augmentation.dtype`, uint8 for 8-bit images with colour changes; `normalise` makes
        of them what a model takes. `index` holds the samples' places in the list.

    Raises:
        ConfigError: When `augment.custom` is not allowed or not there, or is given beside `augmentation`.
    """
    change = own_change(augment, augmentation, reader.spec)
    crops = Crops(Augmentation(augment, reader.spec, reader.dtype), sampling)
    sampler = look_for_classes(reader, crops, seed, workers=workers, notify=notify)
    load = _Loader(reader, crops, sampler, seed, change)
    return endless_batches(load, batch_size=batch_size, start=start, workers=workers, share=share)


def first_sample(
    reader: SampleReader, augment: Augment, seed: int, start: int, change: OwnChange | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and label of the first sample of `train_batches`, where crops lie anywhere.

    Args:
        reader: The samples.
        augment: Crop size and random changes.
        seed: Seed of order and changes.
        start: How many samples were consumed before.
        change: A change of a user's own.

    Raises:
        DataError: When it cannot be read, or the change fails on it.
    """
    count = len(reader.samples)
    crops = Crops(Augmentation(augment, reader.spec, reader.dtype), _ANYWHERE)
    position = tf.constant(start, tf.int64)
    index = int(shuffled(position % count, position // count, count, seed))
    image, label, _ = _Loader(reader, crops, None, seed, change).make(start, index)
    return image, label


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
        workers: Threads that load samples and finish batches; up to three times as many samples are under way or
            wait for those before them. None lets TensorFlow choose.
        finish: Changes a whole batch.
        share: Which part of each batch to give; the parts of all shares in a row are the batch.
    """
    # Threads are enough: file reads wait for the disk, and NumPy code holds Python's lock only briefly.
    parallel = workers * _UNDER_WAY if workers else tf.data.AUTOTUNE
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
    if workers:
        options.threading.private_threadpool_size = workers
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

    def __init__(
        self, reader: SampleReader, crops: Crops, sampler: CropSampler | None, seed: int, change: OwnChange | None
    ) -> None:
        self.reader, self.crops, self.sampler, self.seed, self.change = reader, crops, sampler, seed, change

    def __call__(self, position: tf.Tensor) -> Element:
        changes, spec, count = self.crops.changes, self.reader.spec, len(self.reader.samples)
        index = shuffled(position % count, position // count, count, self.seed)
        types = [tf.as_dtype(changes.dtype), tf.uint8, tf.int64]
        image, label, index = call_python(self.make, [position, index], types)
        image.set_shape((*changes.augment.crop, spec.bands))
        label.set_shape(changes.augment.crop)
        index.set_shape(())
        return {"image": image, "label": tf.cast(label, tf.int32), "index": index}

    def make(self, position: int, index: int) -> tuple[np.ndarray, np.ndarray, np.int64]:
        """Returns image, label and index of a position: one call of Python, whose lock is free for most of it."""
        target = None
        if self.sampler is not None:
            index, target = self.sampler.choose(self.seed, position, index)
        image, label = self.reader(index)
        draw, ids = self.crops.draw(label, self.seed, position, target)
        image = self.crops.changes.image(image, draw)
        if self.change is not None:
            try:
                image, ids = self.change(image, ids, own_seed(self.seed, position), self.reader.samples[index])
            except DataError as error:
                # As for a sample that cannot be read: `tf.data` raises an error of its own in its place.
                self.reader.failure = self.reader.failure or error
                raise
        return _aligned(image), _aligned(ids), np.int64(index)


def _aligned(array: np.ndarray) -> np.ndarray:
    """Returns an array whose memory TensorFlow takes over; any other it copies itself, while it holds Python's lock."""
    if array.ctypes.data % _ALIGNMENT == 0 and array.flags.c_contiguous:
        return array
    memory = np.empty(array.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    result = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result
