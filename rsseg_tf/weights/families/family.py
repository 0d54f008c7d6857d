"""What a family of checkpoints is: how one project names and lays out the tensors of its models.

A family knows nothing about files and models. It sees tensors by name, and the paths of the variables that want them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rsseg_tf.config.named_weights import Normalisation
from rsseg_tf.config.zoo import Row

__all__ = ["Family", "Tensors", "Translation", "efficientnet_size", "resnet_depth", "zero_biases"]

Tensors = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Translation:
    """A file's tensors beside the variables of a part of a model.

    Attributes:
        names: Names of the tensors that the part wants, each with the path of its variable.
        tensors: All tensors of the file by name. Convolutions are (out, in, height, width), depthwise ones
            (channels, 1, height, width); all others have the shape of their variable.
        made: Names in `tensors` that the file has not, such as those of biases that are zero.
        classifiers: Names of tensors whose first axis is the classes; some of them may be missing.
        notes: Lines about what the tensors do not show and should be looked at.
    """

    names: Mapping[str, str]
    tensors: Tensors
    made: Collection[str] = ()
    classifiers: Collection[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Family:
    """The checkpoints of one project.

    Attributes:
        name: What messages call it.
        recognises: Whether tensors of these names are of this family. Names have no wrapper's prefix, see
            `rsseg_tf.weights.families.recognise`.
        describe: What such a file holds, for messages: "PSPNet on ResNet-50-v1c, 6 classes". It may look at shapes.
        translate: From all tensors of a file, the row of a backbone or model in the config, and the paths of its
            variables, to the names that they have in the file. An empty `names` says that the family has no such model.
            It may raise a `WeightsError` whose message is what follows a colon, without a period at its end.
        agrees: From the row of a whole model and the text of the project's config that is in the file, or None, to
            lines about what the tensors do not show and should be looked at, such as strides. Where the text says
            something else than the row it raises a `WeightsError` as `translate` does.
        normalisation: How images are normalised for its weights as a rule; None where there is no rule.
    """

    name: str
    recognises: Callable[[Tensors], bool]
    describe: Callable[[Tensors], str]
    translate: Callable[[Tensors, Row, Sequence[str]], Translation]
    agrees: Callable[[Row, str | None], Sequence[str]] = lambda _row, _text: ()
    normalisation: Normalisation | None = None


# === What several families have in common ===

# Whether a block has three convolutions, and blocks of the third stage -> depth of a ResNet.
_DEPTHS = {(False, 2): 18, (False, 6): 34, (True, 6): 50, (True, 23): 101, (True, 36): 152}


def resnet_depth(tensors: Tensors, prefix: str = "") -> int | None:
    """Returns the depth of a ResNet whose tensors are named as torch's, or None where there is no such ResNet.

    Args:
        tensors: All of a file.
        prefix: What the names of the ResNet's begin with.
    """
    stage = f"{prefix}layer3."
    blocks = {name[len(stage) :].partition(".")[0] for name in tensors if name.startswith(stage)}
    return _DEPTHS.get((f"{prefix}layer1.0.conv3.weight" in tensors, len(blocks)))


# Blocks, channels of the last one, whether they squeeze -> what an EfficientNet is called.
_EFFICIENTNETS = {
    (16, 320, True): "B0", (23, 320, True): "B1", (23, 352, True): "B2", (26, 384, True): "B3",
    (32, 448, True): "B4", (39, 512, True): "B5", (45, 576, True): "B6", (55, 640, True): "B7",
    (16, 320, False): "Lite0", (21, 320, False): "Lite1", (21, 352, False): "Lite2", (24, 384, False): "Lite3",
    (30, 448, False): "Lite4",
}  # fmt: skip


def efficientnet_size(blocks: int, channels: int, *, squeezes: bool) -> str:
    """Returns what an EfficientNet is called in messages, such as "EfficientNet-B0".

    Args:
        blocks: How many it has.
        channels: Of the result of the last one.
        squeezes: Whether its blocks have squeeze-and-excitation.
    """
    size = _EFFICIENTNETS.get((blocks, channels, squeezes))
    return f"a network of EfficientNet's kind with {blocks} blocks" if size is None else f"EfficientNet-{size}"


def zero_biases(tensors: Tensors, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Returns the biases of convolutions before a normalisation, where a file has none.

    Args:
        tensors: All of the file.
        names: Names that a model wants, each with the path of the variable.
    """
    layers = {path.rpartition("/")[0] for path in names.values()}
    made = {}
    for name, path in names.items():
        layer, _, variable = path.rpartition("/")
        kernel = tensors.get(f"{name.removesuffix('bias')}weight")
        if variable == "bias" and f"{layer}_bn" in layers and name not in tensors and kernel is not None:
            made[name] = np.zeros(kernel.shape[:1], np.float32)
    return made
