"""Checkpoints of other projects, told apart by the names of their tensors, a file for each project.

A new family is a file here with a `Family`, and its place in `FAMILIES`. The rules of names are those of
`rsseg_tf.weights.names`. Files of the benchmark, and of self-supervised methods, whose ResNets have a prefix before
torchvision's names, are of no family: `rsseg_tf.weights.layouts.match_names` finds their tensors.
"""

from __future__ import annotations

from rsseg_tf.weights.families.convnext import CONVNEXT
from rsseg_tf.weights.families.family import Family, Tensors, Translation
from rsseg_tf.weights.families.mmsegmentation import MMSEGMENTATION
from rsseg_tf.weights.families.segformer import HUGGING_FACE, MMSEGMENTATION_SEGFORMER, PADDLESEG_SEGFORMER
from rsseg_tf.weights.families.smp import SMP
from rsseg_tf.weights.families.timm import TIMM

__all__ = ["FAMILIES", "Family", "Tensors", "Translation", "recognise", "without_wrapper"]

FAMILIES: tuple[Family, ...] = (
    HUGGING_FACE,
    MMSEGMENTATION_SEGFORMER,
    PADDLESEG_SEGFORMER,
    MMSEGMENTATION,
    SMP,
    CONVNEXT,
    TIMM,
)
"""In the order in which they are asked: those with the more particular names first."""

# Attributes in which training scripts and distributed training keep a whole model.
_WRAPPERS = ("module.", "model.", "net.", "network.", "segmentor.", "_orig_mod.")


def without_wrapper(tensors: Tensors) -> Tensors:
    """Returns tensors without a prefix that all of them share because a script kept its model in an attribute."""
    prefix = next((one for one in _WRAPPERS if tensors and all(name.startswith(one) for name in tensors)), None)
    if prefix is None:
        return tensors
    return without_wrapper({name.removeprefix(prefix): array for name, array in tensors.items()})


def recognise(tensors: Tensors) -> Family | None:
    """Returns the family of a file's tensors, or None where it is none of `FAMILIES`.

    Args:
        tensors: By name, see `without_wrapper`.
    """
    return next((family for family in FAMILIES if family.recognises(tensors)), None)
