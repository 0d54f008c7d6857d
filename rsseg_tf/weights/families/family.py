"""What a family of checkpoints is: how one project names and lays out the tensors of its models.

A family knows nothing about files and models. It sees tensors by name, and the paths of the variables that want them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rsseg_tf.config.named_weights import Normalisation
from rsseg_tf.config.zoo import Row

__all__ = ["Family", "Tensors", "Translation"]

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
    """

    names: Mapping[str, str]
    tensors: Tensors
    made: Collection[str] = ()
    classifiers: Collection[str] = ()


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
