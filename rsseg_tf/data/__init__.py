"""From list files to `tf.data` batches: reading, augmentation, views; and datasets of (x, y) for Keras's `fit`."""

from rsseg_tf.data.fit import heads_of, training_dataset, validation_dataset
from rsseg_tf.data.pipeline import sample_order, train_batches
from rsseg_tf.data.reader import ImageReader, SampleReader
from rsseg_tf.data.views import view_batches

__all__ = [
    "ImageReader",
    "SampleReader",
    "heads_of",
    "sample_order",
    "train_batches",
    "training_dataset",
    "validation_dataset",
    "view_batches",
]
