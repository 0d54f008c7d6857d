"""Training: devices, schedules, the one loop and what hangs on it."""

from rsseg_tf.training.loop import TrainResult, train
from rsseg_tf.training.pretraining import pretrain
from rsseg_tf.training.strategy import make_deterministic, make_strategy

__all__ = ["TrainResult", "make_deterministic", "make_strategy", "pretrain", "train"]
