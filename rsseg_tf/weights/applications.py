"""Weights of keras.applications, and the pixels that they were trained on."""

from __future__ import annotations

from rsseg_tf.backbones.keras_applications import keras_applications, released_network, tensors_of
from rsseg_tf.config.named_weights import APPLICATION_WEIGHTS, CAFFE, application_normalisation
from rsseg_tf.config.zoo import KerasApplications
from rsseg_tf.errors import WeightsError
from rsseg_tf.weights.tensors import TensorFile

__all__ = ["read_application"]


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
        network = released_network(section.model, section.options, APPLICATION_WEIGHTS)
    except Exception as error:  # of the download, of a file, or of options that no released weights are for
        raise WeightsError(f"The weights of {what} cannot be had: {' '.join(str(error).split())}") from error
    tensors = tensors_of(network, keras_applications(model=section.model, options=section.options))
    if application_normalisation(section.model) is CAFFE:
        stem = next(path for path, tensor in tensors.items() if tensor.ndim == 4)
        tensors[stem] = tensors[stem][:, :, ::-1]  # these networks take blue first; we give red first
    return TensorFile(what, "keras-applications", "", tensors, by_path=True)
