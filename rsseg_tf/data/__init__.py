"""From list files to `tf.data` batches: reading, augmentation, views."""

from rsseg_tf.data.pipeline import sample_order, train_batches
from rsseg_tf.data.reader import ImageReader, SampleReader
from rsseg_tf.data.views import view_batches

__all__ = [
    "ImageReader",
    "SampleReader",
    "sample_order",
    "train_batches",
    "view_batches",
]
