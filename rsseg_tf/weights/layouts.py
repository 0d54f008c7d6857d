"""Brings the names of tensors in a file to those of the benchmark's files.

Torch calls the statistics of a normalisation `running_mean` and `running_var`; files of self-supervised methods put a
prefix before the names of their ResNet. The prefixes are those of MoCo, SimSiam, SwAV, DINO, DenseCL, PixPro and PASSL.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from rsseg_tf.config.named_weights import band_shares

__all__ = ["inflate_bands", "match_names"]

# Encoders that are trained come before those that follow them by a moving average.
_PREFIXES = (
    "",
    "backbone.",
    "module.encoder_q.",
    "module.base_encoder.",
    "module.encoder.",
    "module.backbone.",
    "module.",
    "encoder_q.0.",
    "encoder_q.",
    "base_encoder.",
    "online_network.encoder.",
    "res_model.encoder.",
    "res_model.",
    "encoder.",
    "model.",
)
# The prefix of each try, and what comes in its place: torchvision's segmentors hold the list `features` of a MobileNet
# as their backbone.
_TRIES = (*((prefix, "") for prefix in _PREFIXES), ("backbone.", "features."))
# PASSL keeps some encoders as lists: positions in torch's ResNet instead of names.
_POSITIONS = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_STATISTICS = {"running_mean": "_mean", "running_var": "_variance"}


def match_names(
    tensors: Mapping[str, np.ndarray], wanted: Collection[str]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the tensors under the names that are wanted, and the names of the rest.

    Args:
        tensors: Arrays by their names in a file.
        wanted: The benchmark's names.

    Returns:
        Arrays by wanted names, as many as can be found under one prefix, and the names in the file that were not used.
        Torch's counters `num_batches_tracked` are among the latter.
    """
    best: dict[str, str] = {}
    for prefix, instead in _TRIES:
        found = {_benchmark_name(instead + name[len(prefix) :]): name for name in tensors if name.startswith(prefix)}
        matched = {name: found[name] for name in wanted if name in found}
        if len(matched) > len(best):
            best = matched
    used = set(best.values())
    return {name: tensors[stored] for name, stored in best.items()}, tuple(name for name in tensors if name not in used)


def _benchmark_name(name: str) -> str:
    parts = name.split(".")
    parts[0] = _POSITIONS.get(parts[0], parts[0])
    parts[-1] = _STATISTICS.get(parts[-1], parts[-1])
    return ".".join(parts)


def inflate_bands(kernel: np.ndarray, bands: int) -> np.ndarray:
    """Makes the first convolution of a network that was trained on three bands fit another number of bands.

    An image whose bands are all alike gives what it gave before. With more than three bands the filters repeat in turn,
    and the copies of a filter share its weight; with two, each takes half of the third filter; with one it is the sum
    of the three.

    Args:
        kernel: (out, 3, height, width).
        bands: Number of bands, at least 1.

    Returns:
        (out, bands, height, width).
    """
    return np.einsum("oihw,bi->obhw", kernel, np.array(band_shares(bands))).astype(kernel.dtype)
