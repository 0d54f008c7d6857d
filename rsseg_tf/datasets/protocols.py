"""Evaluation protocols: which pixels are counted, how often, and which classes the means are over.

Two protocols give different scores for one model, so every report names its protocol. Configs choose it with
`eval.protocol`, `rsseg-tf eval` with `--protocol`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from rsseg_tf.errors import OldKeyWarning

__all__ = ["PROTOCOLS", "Protocol", "ProtocolName", "present_name"]

ProtocolName = Literal["benchmark", "stitched", "isprs5"]


@dataclass(frozen=True)
class Protocol:
    """A way to count predictions.

    Attributes:
        name: As in configs and on the command line.
        description: What is counted, in sentences for reports.
        stitched: Whether tiles are stitched into their scenes, each pixel of which counts once; otherwise every pixel
            of every image counts.
        left_out: Classes that the means over classes leave out. Their pixels stay in the confusion matrix.
        datasets: Names of the datasets that the protocol is defined for; empty for all.
        labels: Kind of labels that the protocol needs (`labels` in `dataset.json`); None for any.
    """

    name: ProtocolName
    description: str
    stitched: bool = False
    left_out: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    labels: str | None = None


# isprs5 is how papers on Potsdam and Vaihingen count, for instance those of GeoSeg
# (https://github.com/WangLibo1995/GeoSeg): potsdam_test.py predicts tiles that share no pixel, tools/metric.py counts
# six classes and no boundaries, and the means are over the first five.
PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                "benchmark",
                "As the benchmark: every pixel of every image is counted, those in several overlapping images several "
                "times. The means are over all classes.",
            ),
            Protocol(
                "stitched",
                "Images are put back into the scenes that they were cut from: where they overlap, their logits are "
                "averaged, and each pixel of a scene is counted once. The means are over all classes.",
                stitched=True,
            ),
            Protocol(
                "isprs5",
                "As papers on ISPRS Potsdam and Vaihingen: eroded labels; images are put back into their scenes as in "
                "stitched, and each pixel is counted once. The means are over five classes, without clutter. Pixels of "
                "clutter stay in the confusion matrix: clutter predicted as building counts against building, and so "
                "does building predicted as clutter. The overall accuracy OA is micro.acc, of the pixels of all six "
                "classes; the mean F1 is macro.f1.",
                stitched=True,
                left_out=("clutter",),
                datasets=("potsdam", "vaihingen"),
                labels="eroded",
            ),
        )
    }
)
"""Protocols by name."""


def present_name(name: str) -> str:
    """Returns today's name of a protocol or cutting.

    Args:
        name: As in a config, a checkpoint or on the command line. Earlier versions called `benchmark` `seed`, which is
            also the word for the start of random numbers; a note names the new spelling. Other names are returned as
            they are.
    """
    if name != "seed":
        return name
    text = "'seed' is called 'benchmark' now; write that in configs and commands."
    warnings.warn(text, OldKeyWarning, stacklevel=1)
    return "benchmark"
