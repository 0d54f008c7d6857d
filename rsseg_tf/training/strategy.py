"""Which devices a run uses."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops

from rsseg_tf.errors import ConfigError

__all__ = ["make_deterministic", "make_strategy"]


def make_strategy(device: str = "auto", gpus: Sequence[int] | None = None) -> tf.distribute.Strategy:
    """Returns the distribution strategy for a choice of devices; call it before TensorFlow has run anything.

    Args:
        device: `auto` takes the GPUs if there are any, else the CPU; `gpu` insists on one; `cpu` hides all GPUs.
        gpus: Numbers of the GPUs to use, as in `nvidia-smi`; None takes all.

    Returns:
        MirroredStrategy for several GPUs, else the default strategy.

    Raises:
        ConfigError: When a GPU is asked for that TensorFlow does not see.
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


_DETERMINISTIC_THREADS = 8


def make_deterministic() -> bool:
    """Makes equal runs equal to the bit, from here on in this process, and on any number of cores.

    Sums are split among the threads of an operation, so another number of threads gives other last digits. Operations
    get a fixed number of threads here, however many cores there are; that is possible until TensorFlow has run
    something.

    TensorFlow's own switch leaves one operation on CPUs: `AddN`, which adds up the gradients of a tensor with several
    uses. `AddN` takes over the buffer of an input that no other operation needs any more, and begins the sum with that
    input. Which input that is depends on timing, and three floats added in another order give another sum. This
    function replaces `AddN` by additions in a fixed order.

    Returns:
        Whether the number of threads is the fixed one. Otherwise runs are equal where TensorFlow has equally many
        threads, by default one for each core.
    """
    tf.config.experimental.enable_op_determinism()
    # The graph optimizer would turn a chain of additions into `AddN` again.
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": False})
    gen_math_ops.add_n = _add_in_order
    try:
        tf.config.threading.set_intra_op_parallelism_threads(_DETERMINISTIC_THREADS)
    except RuntimeError:  # TensorFlow has run something, and its threads are there
        return False
    return True


_add_n = gen_math_ops.add_n


def _add_in_order(inputs: Sequence[tf.Tensor], name: str | None = None) -> tf.Tensor:
    """Adds up tensors of one shape, one after the other."""
    if len(inputs) < 3 or inputs[0].dtype == tf.variant:  # two floats give one sum in either order
        return _add_n(inputs, name=name)
    total = inputs[0]
    for summand in inputs[1:]:
        total = gen_math_ops.add_v2(total, summand)
    return total
