"""The argument `weights` of the builders of backbones and segmentors that a config can name.

    backbones.resnet50_vd(weights="resnet_vd_50_ssld_v2_imagenet")
    segmentors.fcn(backbones.hrnet_w48(), num_classes=7, weights="fcn_hrnet_w48.pdparams")

It takes what `pretrained` of a config takes: a name of docs/licences.md, a file, a URL, or a checkpoint of ours. What
knows these sources, `rsseg_tf.weights`, is loaded when one is given.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import weakref
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, ParamSpec

import keras

__all__ = ["Built", "built_by", "is_model", "takes_weights"]

P = ParamSpec("P")

_ARGUMENTS = "rsseg_tf.weights.arguments"  # imported when somebody gives weights


@dataclass(frozen=True)
class Built:
    """How a model was built.

    Attributes:
        name: Of the builder, as in a config.
        arguments: Of the builder by their names, but for `weights`.
    """

    name: str
    arguments: dict[str, Any]


_BUILT: MutableMapping[keras.Model, Built] = weakref.WeakKeyDictionary()


def built_by(model: keras.Model) -> Built | None:
    """Returns how one of our named builders built a model; None for other models."""
    return _BUILT.get(model)


def is_model(value: object) -> bool:
    """Tells whether a value is a Keras model, for rooms without Keras."""
    return isinstance(value, keras.Model)


def takes_weights(build: Callable[P, keras.Model]) -> Callable[P, keras.Model]:
    """Makes a builder load what its argument `weights` names, after it has built the model.

    The argument stands in the builder's signature for people; the builder itself does nothing with it.

    Args:
        build: A builder that a config names, with a keyword argument `weights`.
    """
    signature = inspect.signature(build)

    @functools.wraps(build)
    def built(*args: P.args, **kwargs: P.kwargs) -> keras.Model:
        given = signature.bind(*args, **kwargs)
        source = given.arguments.pop("weights", None)
        if source is not None:
            arguments = importlib.import_module(_ARGUMENTS)
            given.arguments.update(arguments.completed(build.__name__, given.arguments, source))
        model = build(*given.args, **given.kwargs)
        given.apply_defaults()
        _BUILT[model] = Built(build.__name__, {k: v for k, v in given.arguments.items() if k != "weights"})
        if source is not None:
            arguments.load_argument(model, source)
        return model

    return built
