"""The models whose outputs the original's are compared with: ours, and the maps of the original's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np

from rsseg_tf import backbones, losses, segmentors, weights

__all__ = ["CASES", "Case", "count", "pixel_contrast_in_order"]

Loss = Callable[[Any, Any], Any]


class Case(NamedTuple):
    """How to build a model, and what its config trains it with.

    Attributes:
        backbone: builds the backbone.
        backbone_names: from paths of variables to the tensor names of the backbone.
        segmentor: from a backbone and `num_classes=` to a model.
        names: from paths of variables and the backbone's names to those of the model.
        losses: head, loss and weight, in the order in which the original lists them.
    """

    backbone: Callable[[], keras.Model]
    backbone_names: Callable[[list[str]], dict[str, str]]
    segmentor: Callable[..., keras.Model]
    names: Callable[..., dict[str, str]]
    losses: tuple[tuple[str, Loss, float], ...]

    def tensor_names(self, model: keras.Model) -> dict[str, str]:
        """PaddleSeg's names of the tensors of a model, each with the path of the variable."""
        paths = [variable.path for variable in model.weights]
        return self.names(paths, self.backbone_names(paths))


def pixel_contrast_in_order(outputs: Any, labels: Any, **options: Any) -> Any:
    """The pixel contrast of the first pixels of each kind, as a run whose permutations are the identity computes it."""
    from rsseg_tf.losses import pixel_contrast as module_or_function  # the package shows the function

    module: Any = __import__(module_or_function.__module__, fromlist=["_shuffled"])
    shuffled = module._shuffled
    module._shuffled = lambda batch, pixels, seed: keras.ops.tile(
        keras.ops.arange(pixels, dtype="int32")[None, :], (batch, 1)
    )
    try:
        return losses.pixel_contrast(outputs, labels, ignore_index=255, **options)
    finally:
        module._shuffled = shuffled


_CE = partial(losses.cross_entropy, ignore_index=255)
_LOVASZ = partial(losses.lovasz_softmax, ignore_index=255)
_MAIN = (("main", _CE, 1.0),)
_WITH_AUX = (*_MAIN, ("aux", _CE, 0.4))
_DANET = (*_MAIN, ("cam", _CE, 1.0), ("pam", _CE, 1.0), ("aux", _CE, 0.4))
_OCRNET = tuple(
    (head, loss, weight * part)
    for head, weight in (("main", 1.0), ("aux", 0.4))
    for loss, part in ((_CE, 0.8), (_LOVASZ, 0.2))
)
_R50 = (backbones.resnet50, weights.resnet_names)
_VD = (partial(backbones.resnet50_vd, output_stride=8), weights.resnet_vd_names)
_VD_GRID = (partial(backbones.resnet50_vd, output_stride=8, multi_grid=(1, 2, 4)), weights.resnet_vd_names)
_W18 = (backbones.hrnet_w18, weights.hrnet_names)
_W48 = (backbones.hrnet_w48, weights.hrnet_names)
_CONTRAST = partial(segmentors.hrnet_contrast, projection_channels=720)

CASES: dict[str, Case] = {
    "fcn_hrnet_w18": Case(*_W18, segmentors.fcn, weights.fcn_names, _MAIN),
    "fcn_resnet50": Case(*_R50, segmentors.fcn, weights.fcn_names, _MAIN),
    "fcn_resnet50_vd": Case(*_VD_GRID, segmentors.fcn, weights.fcn_names, _MAIN),
    "deeplabv3p_resnet50": Case(*_R50, segmentors.deeplabv3plus, weights.deeplabv3plus_names, _MAIN),
    "deeplabv3p_resnet50_vd": Case(*_VD_GRID, segmentors.deeplabv3plus, weights.deeplabv3plus_names, _MAIN),
    "pspnet_resnet50": Case(*_R50, segmentors.pspnet, weights.pspnet_names, _WITH_AUX),
    "pspnet_resnet50_vd": Case(*_VD, segmentors.pspnet, weights.pspnet_names, _WITH_AUX),
    "upernet_resnet50": Case(*_R50, segmentors.upernet, weights.upernet_names, _WITH_AUX),
    "upernet_resnet50_vd_vaihingen": Case(*_VD, segmentors.upernet, weights.upernet_names, _WITH_AUX),
    "danet_resnet50": Case(*_R50, segmentors.danet, weights.danet_names, _DANET),
    "danet_resnet50_vd": Case(*_VD, segmentors.danet, weights.danet_names, _DANET),
    "ocrnet_resnet50": Case(*_R50, partial(segmentors.ocrnet, features=("c2",)), weights.ocrnet_names, _OCRNET),
    "hrnet_w48_contrast": Case(
        *_W48, _CONTRAST, weights.hrnet_contrast_names, (*_MAIN, ("contrast", pixel_contrast_in_order, 0.1))
    ),
}


def count(variables: list[Any]) -> int:
    """Number of values in variables."""
    return sum(int(np.prod(variable.shape)) for variable in variables)
