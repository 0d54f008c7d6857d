"""Which devices a run uses, on this machine and on others."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context
from tensorflow.python.ops import gen_math_ops

from rsseg_tf.errors import ConfigError, reason
from rsseg_tf.training.cluster import Cluster, read_cluster

__all__ = ["make_deterministic", "make_strategy"]

_HEARTBEAT_S = 20.0
"""A worker that gives no sign of life for so long counts as dead."""


def make_strategy(
    device: str = "auto",
    gpus: Sequence[int] | None = None,
    *,
    start_timeout_s: float = 1800.0,
    notify: Callable[[str], object] = lambda line: None,
) -> tf.distribute.Strategy:
    """Returns the distribution strategy for a choice of devices; call it before TensorFlow has run anything.

    Where the environment names several workers (`TF_CONFIG`, or what `srun` sets), it waits until all have started.

    Args:
        device: `auto` takes the GPUs if there are any, else the CPU; `gpu` insists on one; `cpu` hides all GPUs.
        gpus: Numbers of the GPUs to use, as in `nvidia-smi`; None takes all. With several workers, those of each one.
        start_timeout_s: How long to wait for other workers. The process ends with exit code 2 when it is over.
        notify: Called by the first of several workers with a line that names the ones to wait for.

    Returns:
        MultiWorkerMirroredStrategy for several workers, MirroredStrategy for several GPUs, else the default strategy.

    Raises:
        ConfigError: When a GPU is asked for that TensorFlow does not see; when the environment describes workers
            wrongly, or this one's address cannot be used.
    """
    cluster = read_cluster()
    visible = _visible_gpus(device, gpus)
    if cluster is not None:
        if cluster.index == 0:
            notify(f"Worker 0 of {len(cluster.addresses)} waits for {', '.join(cluster.addresses[1:])}.")
        return _join(cluster, len(visible), start_timeout_s)
    return tf.distribute.MirroredStrategy() if len(visible) > 1 else tf.distribute.get_strategy()


def _visible_gpus(device: str, gpus: Sequence[int] | None) -> list[tf.config.PhysicalDevice]:
    """Hides all GPUs but those that were chosen, and returns these."""
    found = tf.config.list_physical_devices("GPU")
    if device == "cpu":
        if gpus:
            raise ConfigError("--gpus goes with --device gpu or auto, not with cpu; leave one of them out.")
        tf.config.set_visible_devices([], "GPU")
        return []
    if not found:
        if device == "gpu" or gpus:
            raise ConfigError(
                "A GPU was asked for, but TensorFlow sees none. Install rsseg-tf[gpu] and check `nvidia-smi`, "
                "or train with --device cpu."
            )
        return []
    chosen = list(range(len(found))) if gpus is None else list(gpus)
    unknown = sorted(set(chosen) - set(range(len(found))))
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"--gpus must name different GPUs out of 0..{len(found) - 1}; got {list(gpus or [])}.")
    visible = [found[i] for i in chosen]
    tf.config.set_visible_devices(visible, "GPU")
    for gpu in visible:  # otherwise TensorFlow takes all memory of a GPU that others may share
        tf.config.experimental.set_memory_growth(gpu, True)
    return visible


# === Several workers ===


def _join(cluster: Cluster, gpus: int, timeout_s: float) -> tf.distribute.Strategy:
    """Returns the strategy of all workers once they have found each other."""
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader="/job:worker/task:0",
        heartbeat_timeout_in_ms=int(1000 * _HEARTBEAT_S),
        coordinated_jobs=[coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=len(cluster.addresses))],
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    others = ", ".join(address for i, address in enumerate(cluster.addresses) if i != cluster.index)
    late = (
        f"Error: Not all workers have started within {timeout_s:g} s; worker {cluster.index} has waited for {others}. "
        "Look at the output of each, and whether the addresses can be reached from here."
    )
    try:
        strategy: tf.distribute.Strategy = _waiting(
            lambda: tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver), timeout_s, late
        )
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Worker {cluster.index} cannot join the others at {others}: {reason(error)}. Its own address is "
            f"{cluster.addresses[cluster.index]}: the port must be free, and the name that of this machine."
        ) from error
    return strategy


def _waiting(make: Callable[[], object], timeout_s: float, late: str) -> Any:
    """Returns what `make` returns, called in a thread; signals and the timeout end the process meanwhile.

    TensorFlow waits without an end and listens to no signal. Nothing has been trained then, so that nothing is lost.
    """
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append((make(), None))
        except Exception as error:
            outcome.append((None, error))

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.getsignal(number) for number in numbers}
    deadline = time.monotonic() + timeout_s
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            for number in numbers:
                signal.signal(number, end)  # again and again, for TensorFlow sets a handler of its own at some time
            thread.join(0.1)
            if time.monotonic() > deadline:
                print(late, file=sys.stderr, flush=True)
                os._exit(2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    made, error = outcome[0]
    if error is not None:
        raise error
    return made


# === Determinism ===


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
