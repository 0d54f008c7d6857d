"""A MobileNetV3 of a few thousand weights with every kind of block: unexpanded, squeezed, with and without shortcut."""

from __future__ import annotations

from typing import Any

import keras

from rsseg_tf.backbones import InvertedResidual, mobilenet_v3

BLOCKS = (
    InvertedResidual(3, 4, 4, False, "relu", 1),
    InvertedResidual(3, 8, 4, False, "relu", 2),
    InvertedResidual(5, 8, 8, True, "relu", 2),
    InvertedResidual(5, 12, 8, True, "hard_silu", 1),
    InvertedResidual(3, 12, 8, False, "hard_silu", 2),
    InvertedResidual(5, 16, 8, True, "hard_silu", 2),
    InvertedResidual(5, 16, 8, True, "hard_silu", 1),
)


def narrow_mobilenet_v3(**options: Any) -> keras.Model:
    return mobilenet_v3(BLOCKS, stem_channels=4, **options)
