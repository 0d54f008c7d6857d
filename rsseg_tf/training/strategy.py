"""Which devices a run uses."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from rsseg_tf.errors import ConfigError

__all__ = ["make_deterministic", "make_strategy"]


def make_strategy(device: str = "auto", gpus: Sequence[int] | None = None) -> tf.distribute.Strategy:
    """Returns the distribution strategy for a choice of devices; call it before TensorFlow has run anything.

    Args:
        device: `auto` takes the GPUs if there are any, else the CPU; `gpu` insists on one; `cpu` hides all GPUs.
        gpus: which of the GPUs, by number as in `nvidia-smi`; None takes all.

    Returns:
        MirroredStrategy for several GPUs, else the default strategy.

    Raises:
        ConfigError: when a GPU is asked for that TensorFlow does not see.
    """
    found = tf.config.list_physical_devices("GPU")
    if device == "cpu":
        if gpus:
            raise ConfigError("--gpus goes with --device gpu or auto, not with cpu; leave one of them out.")
        tf.config.set_visible_devices([], "GPU")
        return tf.distribute.get_strategy()
    if not found:
        if device == "gpu" or gpus:
            raise ConfigError(
                "A GPU was asked for, but TensorFlow sees none. Install rsseg-tf[gpu] and check `nvidia-smi`, "
                "or train with --device cpu."
            )
        return tf.distribute.get_strategy()
    chosen = list(range(len(found))) if gpus is None else list(gpus)
    unknown = sorted(set(chosen) - set(range(len(found))))
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"--gpus must name different GPUs out of 0..{len(found) - 1}; got {list(gpus or [])}.")
    visible = [found[i] for i in chosen]
    tf.config.set_visible_devices(visible, "GPU")
    for gpu in visible:  # otherwise TensorFlow takes all memory of a GPU that others may share
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf.distribute.MirroredStrategy() if len(visible) > 1 else tf.distribute.get_strategy()


def make_deterministic() -> None:
    """Makes equal runs of this process equal to the bit; call it before TensorFlow has run anything.

    By default TensorFlow adds up what several threads give in the order in which they are ready. Its own switch leaves
    one such place on CPUs: operations that run side by side. So they run one after the other, each on all cores.

    Raises:
        ConfigError: when TensorFlow has begun to run operations side by side.
    """
    if tf.config.threading.get_inter_op_parallelism_threads() != 1:
        try:
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise ConfigError(
                "train.deterministic is set, but TensorFlow has begun to work in this process, with operations side by "
                "side. Call rsseg_tf.training.make_deterministic() before anything else."
            ) from error
    tf.config.experimental.enable_op_determinism()
