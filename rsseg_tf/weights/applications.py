"""Weights of keras.applications, and the pixels that they were trained on."""

from __future__ import annotations

import warnings

import keras
import numpy as np

from rsseg_tf.backbones.keras_applications import keras_applications, own_names
from rsseg_tf.config.named_weights import APPLICATION_WEIGHTS, CAFFE, application_normalisation
from rsseg_tf.config.zoo import KerasApplications
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.tensors import TensorFile

__all__ = ["application_tensors", "read_application"]


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
                **section.options, include_top=False, weights=APPLICATION_WEIGHTS, input_shape=None
            )
    except Exception as error:  # of the download, of a file, or of options that no released weights are for
        raise WeightsError(f"The weights of {what} cannot be had: {' '.join(str(error).split())}") from error
    backbone = keras_applications(section.model, options=section.options)
    tensors = application_tensors(network, backbone)
    if application_normalisation(section.model) is CAFFE:
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
