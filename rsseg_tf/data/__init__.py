"""List files to tf.data batches: reading, checking, augmentation."""

from rsseg_tf.data.pipeline import sample_order, train_batches
from rsseg_tf.data.reader import ImageReader, SampleReader, check_images, check_samples
from rsseg_tf.data.views import view_batches

__all__ = [
    "ImageReader",
    "SampleReader",
    "check_images",
    "check_samples",
    "sample_order",
    "train_batches",
    "view_batches",
]
