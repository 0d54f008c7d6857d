"""SimSiam: each view predicts the other's projection, which takes no gradient; no negatives, no momentum.

Chen and He, Exploring Simple Siamese Representation Learning, https://arxiv.org/abs/2011.10566.
Source: facebookresearch/simsiam, simsiam/builder.py; PASSL, configs/simsiam/simsiam_r50.yaml.
"""

from __future__ import annotations

import re
from typing import Any

import keras
from keras import ops

from rsseg_tf.errors import ConfigError
from rsseg_tf.layers import BatchNorm
from rsseg_tf.ssl.heads import l2_normalise, linear, pool
from rsseg_tf.ssl.method import BackboneBuilder, Batch, Devices, Method, Outcome, deepest
from rsseg_tf.ssl.monitors import alignment, spread

__all__ = ["SimSiam", "negative_cosine", "zero_init_residual"]


def negative_cosine(prediction: Any, target: Any) -> Any:
    """Returns minus the mean cosine of the rows (N, D) of both; `target` takes no gradient."""
    return -ops.mean(ops.sum(l2_normalise(prediction) * l2_normalise(ops.stop_gradient(target)), axis=-1))


def zero_init_residual(backbone: keras.Model) -> None:
    """Sets the scale of the last normalisation of each residual block to 0, so that blocks begin as identities.

    Raises:
        ConfigError: When the backbone has no residual blocks of ResNet.
    """
    last: dict[str, Any] = {}
    for layer in backbone.layers:  # in order of depth
        if found := re.fullmatch(r"(stage\d+_block\d+)_conv\d+_bn", layer.name):
            last[found[1]] = layer
    if not last:
        raise ConfigError(
            f"method.zero_init_residual needs the residual blocks of a ResNet; backbone '{backbone.name}' has none. "
            "Set it to false."
        )
    for layer in last.values():
        layer.gamma.assign(ops.zeros_like(layer.gamma.value))


class SimSiam(Method):
    """Each view predicts the other's projection, which takes no gradient.

    Neither negatives nor a moving encoder are needed: the missing gradient and the predictor prevent the collapse.
    """

    def __init__(
        self,
        build_backbone: BackboneBuilder,
        *,
        dim: int = 2048,
        predictor_hidden: int = 512,
        constant_predictor_lr: bool = True,
        zero_init_residual: bool = True,
    ) -> None:
        """Builds the encoder and the predictor.

        Args:
            build_backbone: Gives a new backbone.
            dim: Channels of projections and predictions.
            predictor_hidden: Channels inside the predictor.
            constant_predictor_lr: Whether the predictor's learning rate stays at its first value.
            zero_init_residual: As in the function of this name.
        """
        super().__init__(name="simsiam")
        self.constant_rate_paths = ("predictor_",) if constant_predictor_lr else ()
        self.backbone = build_backbone()
        if zero_init_residual:
            _zero_init(self.backbone)
        self.encoder = _encoder(self.backbone, dim)
        self.predictor = _predictor(dim, predictor_hidden)

    def objective(self, batch: Batch, *, step: Any, devices: Devices) -> Outcome:
        """Compares each view's prediction with the other's projection; each view is a batch of its own."""
        z1, z2 = (self.encoder(batch["views"][:, i], training=True) for i in (0, 1))
        p1, p2 = (self.predictor(z, training=True) for z in (z1, z2))
        loss = 0.5 * (negative_cosine(p1, z2) + negative_cosine(p2, z1))
        return Outcome(loss, {"spread": spread(z1), "alignment": alignment(z1, z2)})


_zero_init = zero_init_residual  # the option of the constructor has the name too


def _encoder(backbone: keras.Model, dim: int) -> keras.Model:
    x = pool(deepest(backbone))
    for i in (1, 2, 3):
        x = linear(x, dim, use_bias=False, name=f"projector_fc{i}")
        x = BatchNorm(affine=i < 3, name=f"projector_fc{i}_bn")(x)
        if i < 3:
            x = keras.layers.ReLU(name=f"projector_fc{i}_relu")(x)
    return keras.Model(backbone.input, x, name="encoder")


def _predictor(dim: int, hidden: int) -> keras.Model:
    projection = keras.Input((dim,), name="projection")
    x = linear(projection, hidden, use_bias=False, name="predictor_fc1")
    x = keras.layers.ReLU(name="predictor_fc1_relu")(BatchNorm(name="predictor_fc1_bn")(x))
    return keras.Model(projection, linear(x, dim, name="predictor_fc2"), name="predictor")
