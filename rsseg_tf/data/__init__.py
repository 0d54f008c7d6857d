"""List files to tf.data batches: reading, checking, augmentation."""

from rsseg_tf.data.pipeline import sample_order, train_batches
from rsseg_tf.data.reader import SampleReader, check_samples

__all__ = ["SampleReader", "check_samples", "sample_order", "train_batches"]
