"""Self-supervised methods: losses, heads and memories that train a backbone on images without labels."""

from __future__ import annotations

from rsseg_tf.ssl.densecl import DenseCL
from rsseg_tf.ssl.method import Method, OneDevice, Outcome
from rsseg_tf.ssl.moco_byol import MoCoBYOL
from rsseg_tf.ssl.moco_v2 import MoCoV2
from rsseg_tf.ssl.pixpro import PixPro
from rsseg_tf.ssl.simsiam import SimSiam
from rsseg_tf.ssl.swav import SwAV

__all__ = ["DenseCL", "Method", "MoCoBYOL", "MoCoV2", "OneDevice", "Outcome", "PixPro", "SimSiam", "SwAV"]
