"""Weights of keras.applications, and the pixels that they were trained on."""

from __future__ import annotations

import warnings

import keras
import numpy as np

from rsseg_tf.backbones.keras_applications import keras_applications, own_names
from rsseg_tf.config.zoo import KerasApplications
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.tensors import TensorFile

__all__ = ["IMAGENET", "application_normalisation", "application_tensors", "read_application"]

IMAGENET = "imagenet"
"""What `pretrained` names for the weights that keras.applications downloads."""

Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]

_TORCH: Statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SYMMETRIC: Statistics = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_BY_128: Statistics = (128 / 255,) * 3, (128 / 255,) * 3
# Of Caffe: means in the order red, green, blue, no scaling; the networks take blue first, see `read_application`.
_CAFFE: Statistics = (123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3

# Beginning of a name -> statistics; the first that fits counts.
_NORMALISATIONS: dict[str, Statistics] = {
    "ConvNeXt": _TORCH,
    "DenseNet": _TORCH,
    "EfficientNetB": _TORCH,
    "EfficientNetV2B": _TORCH,
    "EfficientNetV2": _BY_128,
    "ResNet50V2": _SYMMETRIC,
    "ResNet101V2": _SYMMETRIC,
    "ResNet152V2": _SYMMETRIC,
    "ResNet": _CAFFE,
    "VGG": _CAFFE,
}


def application_normalisation(model: str) -> Statistics:
    """Returns mean and standard deviation of red, green and blue, for pixels from 0 to 1.

    Source: `preprocess_input` and the layers for preprocessing of keras.applications.
    """
    return next((found for start, found in _NORMALISATIONS.items() if model.startswith(start)), _SYMMETRIC)


def read_application(section: KerasApplications, *, offline: bool) -> TensorFile:
    """Returns the ImageNet weights of a model of keras.applications, which keeps a cache of its own.

    Args:
        section: The backbone.
        offline: Whether the network is forbidden; keras.applications cannot be told so, hence an error.

    Raises:
        WeightsError: When the weights cannot be had.
    """
    what = f"keras.applications.{section.model}"
    if offline:
        raise WeightsError(f"{what} may download its weights. Leave --offline out, once.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = getattr(keras.applications, section.model)(
                **section.options, include_top=False, weights=IMAGENET, input_shape=None
            )
    except Exception as error:  # of the download, of a file, or of options that no released weights are for
        raise WeightsError(f"The weights of {what} cannot be had: {' '.join(str(error).split())}") from error
    backbone = keras_applications(section.model, options=section.options)
    tensors = application_tensors(network, backbone)
    if application_normalisation(section.model) is _CAFFE:
        stem = next(path for path, tensor in tensors.items() if tensor.ndim == 4)
        tensors[stem] = tensors[stem][:, :, ::-1]  # these networks take blue first; we give red first
    return TensorFile(what, "keras-applications", "", tensors, by_path=True)


def application_tensors(network: keras.Model, backbone: keras.Model) -> dict[str, np.ndarray]:
    """Returns the weights of a network by the paths that they have in the same network as a backbone.

    What the backbone has no layer for is left out: what scales pixels, and what comes behind its last feature.
    """
    names = own_names(network)
    own = {layer.name: layer for layer in backbone.layers}
    return {
        variable.path: np.asarray(weight)
        for layer in network.layers
        if names[layer.name] in own
        for weight, variable in zip(layer.weights, own[names[layer.name]].weights, strict=False)
    }
