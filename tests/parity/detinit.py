"""Weights, images and labels that follow from names alone, as in the golden files of the original benchmark.

Every value is a uniform number from the raw Philox stream keyed with the CRC-32 of a name, so that the original and
this package can be filled with the same 30 million weights without storing them. Only NumPy is used.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

# Normalisations that end a residual branch or feed a sum get a small gamma: otherwise values grow with depth.
_ENDS_BRANCH = re.compile(
    r"(\.bn3|(bb|branch_layer)_\d+_\d+\.conv2\._batch_norm|bb_layer2_\d+\.conv3\._batch_norm"
    r"|residual_[a-z0-9_]+\._batch_norm"
    r"|branches\.\d\.\d\.bn2|fuse_layers\.\d\.\d(\.\d)?\.1)\.weight$"  # of HRNet in mmsegmentation
)

# Those of MobileNets are smaller too: with ordinary ones values grow to hundreds, and rounding with them.
_OF_MOBILENET = re.compile(r"^(features|backbone)\.\d+\.(block\.\d\.)?1\.weight$")


def unit(key: str, count: int) -> np.ndarray:
    """(count,) float64 in [0, 1)."""
    raw = np.random.Philox(key=zlib.crc32(key.encode())).random_raw(count)
    return (raw >> np.uint64(11)).astype(np.float64) / 2.0**53


def uniform(key: str, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Float32 in [low, high)."""
    return (low + (high - low) * unit(key, int(np.prod(shape)))).reshape(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...], prefix: str = "") -> np.ndarray:
    """Value of the original's parameter or statistic `name`; convolutions are OIHW. Another prefix, other values."""
    if len(shape) == 4:
        bound = np.sqrt(6.0 / np.prod(shape[1:]))
        return uniform(prefix + name, shape, -bound, bound)
    gamma = (0.15, 0.35) if _ENDS_BRANCH.search(name) else (0.6, 1.0) if _OF_MOBILENET.match(name) else (0.8, 1.2)
    low, high = {
        "gamma": (0.3, 0.6),  # of DANet's attention
        "_mean": (-0.1, 0.1),
        "_variance": (0.5, 1.5),
        "bias": (-0.1, 0.1),
        "weight": gamma,
    }[name.rsplit(".", 1)[1]]
    return uniform(prefix + name, shape, low, high)


def image(key: str, count: int, height: int, width: int) -> np.ndarray:
    """(count, height, width, 3) float32 in [-1, 1]: 9x9 smooth blocks and noise."""
    blocks = uniform(f"{key}/coarse", (count, 3, 9, 9), -0.7, 0.7)
    rows, columns = np.arange(height) * 9 // height, np.arange(width) * 9 // width
    noise = uniform(f"{key}/fine", (count, 3, height, width), -0.3, 0.3)
    return (blocks[:, :, rows][:, :, :, columns] + noise).astype(np.float32).transpose(0, 2, 3, 1)


def label(key: str, count: int, height: int, width: int, num_classes: int) -> np.ndarray:
    """(count, height, width) int32: 4x4 blocks of classes 0 to 5; 255 at the right border and on 2 % of the pixels."""
    blocks = np.minimum((unit(f"{key}/ids", count * 16) * 6).astype(np.int32), 5).reshape(count, 4, 4) % num_classes
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    labels = blocks[:, rows][:, :, columns].copy()
    labels[unit(f"{key}/ign", count * height * width).reshape(count, height, width) < 0.02] = 255
    labels[:, :, width - max(1, width // 16) :] = 255
    return labels


def transformer_weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Value of a parameter or statistic of a SegFormer or ConvNeXt, linear layers (out, in) among them."""
    last = name.rsplit(".", 1)[-1]
    if last in ("gamma", "layer_scale", "layer_scale_parameter"):  # 1e-6 before training, which would hide the blocks
        return uniform(name, shape, 0.1, 0.4)
    if len(shape) > 1:
        bound = np.sqrt(4.0 / np.prod(shape[1:]))
        return uniform(name, shape, -bound, bound)
    low, high = {"weight": (0.7, 1.3), "running_var": (0.5, 1.5)}.get(last, (-0.2, 0.2))
    return uniform(name, shape, low, high)
