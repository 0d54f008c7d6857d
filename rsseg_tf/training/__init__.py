"""Training: devices, schedules, the loop and its callbacks."""

from rsseg_tf.training.loop import TrainResult
from rsseg_tf.training.pretraining import pretrain
from rsseg_tf.training.segmentation import train
from rsseg_tf.training.step import synchronise_batch_norm
from rsseg_tf.training.strategy import make_deterministic, make_strategy

__all__ = ["TrainResult", "make_deterministic", "make_strategy", "pretrain", "synchronise_batch_norm", "train"]
