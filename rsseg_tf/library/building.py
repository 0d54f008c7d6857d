"""Networks and their losses as a config describes them, for programs that train by Keras's `fit`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import keras

from rsseg_tf import build
from rsseg_tf.config import load_config
from rsseg_tf.files import StrPath
from rsseg_tf.library.listening import Notify, listener_of
from rsseg_tf.weights.pretrained import load_pretrained

if TYPE_CHECKING:
    from rsseg_tf.config import Config

__all__ = ["build_model", "compile_options"]


def build_model(
    config: StrPath | Mapping[str, Any] | Config,
    *,
    precision: str = "fp32",
    pretrained: bool = False,
    offline: bool = False,
    notify: Notify | None = None,
) -> keras.Model:
    """Returns the segmentor of a config, with random weights or those that the config names.

    `model.freeze_backbone`, `train.precision` and `train.seed` of the config are for `rsseg_tf.train`. After
    `keras.utils.set_random_seed(config.train.seed)` random weights are those of that run.

    Args:
        config: A file, the name of a shipped config, a mapping of the same keys, or a config. Bands and number of
            classes come from its dataset.
        precision: `fp32`, `fp16` or `bf16`: the type of activations. Weights and outputs stay float32.
        pretrained: Whether to load what the sections `pretrained` of the config name.
        offline: Never use the network; pre-trained weights must be in the cache.
        notify: Called with a line about each source of weights, such as `print`.

    Returns:
        A functional model: `(B, H, W, bands)` float32 normalised pixels to `{"main": (B, H, W, classes) logits, …}`.

    Raises:
        ConfigError: When the config is wrong; when a loss is configured for a head that the model does not have, or the
            other way round; when code of a user's own gives no such model.
        WeightsError: When weights cannot be had or read, or do not fit.
    """
    checked, hears = load_config(config), listener_of(notify)
    model = build.build_model(checked, precision=precision)
    if pretrained:
        for report in load_pretrained(model, checked, offline=offline, progress=hears.download()):
            hears.say(report.summary())
    return model


def compile_options(config: StrPath | Mapping[str, Any] | Config) -> dict[str, Any]:
    """Returns the losses, their weights and the scores of a config as Keras's `compile` takes them.

        model.compile(optimizer="adamw", **compile_options(config))

    The loss that `fit` then reports is the training loop's. The metrics are `miou`, `acc`, `kappa` and `dice` of the
    main head. For other heads that give several tensors, names and structures are those of `rsseg_tf.data.heads_of`.

    Args:
        config: As in `build_model`.

    Returns:
        `loss` and `loss_weights` by head, and `metrics`.

    Raises:
        ConfigError: For a wrong config, or a loss of one's own that is not allowed or not there.
    """
    return build.compile_options(load_config(config))
