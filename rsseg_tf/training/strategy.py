"""Which devices a run uses, on this machine and on others."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.eager import context
from tensorflow.python.ops import gen_math_ops

from rsseg_tf.errors import ConfigError, reason
from rsseg_tf.extras import install_command
from rsseg_tf.training.cluster import Cluster, read_cluster

__all__ = ["make_deterministic", "make_strategy", "own_devices"]

_HEARTBEAT_S = 20.0
"""A worker that gives no sign of life for so long counts as dead."""


def make_strategy(
    device: str = "auto",
    gpus: Sequence[int] | None = None,
    *,
    alone: bool = False,
    start_timeout_s: float = 1800.0,
    notify: Callable[[str], object] = lambda line: None,
) -> tf.distribute.Strategy:
    """Returns the distribution strategy for a choice of devices; call it before TensorFlow has run anything.

    Where the environment names several workers (`TF_CONFIG`, or what `srun` sets), it waits until all have started.

    Args:
        device: `auto` takes the GPUs if there are any, else the CPU; `gpu` insists on one; `cpu` hides all GPUs.
        gpus: Numbers of the GPUs to use, as in `nvidia-smi`; None takes all. With several workers, those of each one.
        alone: Whether to leave other workers out of it, as commands must that share no work.
        start_timeout_s: How long to wait for other workers.
        notify: Called by the first of several workers with a line that names the ones to wait for.

    Returns:
        MultiWorkerMirroredStrategy for several workers, MirroredStrategy for several GPUs, else the default strategy.

    Raises:
        ConfigError: When a GPU is asked for that TensorFlow does not see; when the environment describes workers
            wrongly, when this one's port cannot be used, or when others do not start.
    """
    cluster = None if alone else read_cluster()
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
        _show([])
        return []
    if not found:
        if device == "gpu" or gpus:
            raise ConfigError(
                f"A GPU was asked for, but TensorFlow sees none. Run {install_command('gpu')} and check `nvidia-smi`, "
                "or train with --device cpu.",
                code="no-gpu",
            )
        return []
    chosen = list(range(len(found))) if gpus is None else list(gpus)
    unknown = sorted(set(chosen) - set(range(len(found))))
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        raise ConfigError(f"--gpus must name different GPUs out of 0..{len(found) - 1}; got {list(gpus or [])}.")
    visible = [found[i] for i in chosen]
    _show(visible)
    for gpu in visible:  # otherwise TensorFlow takes all memory of a GPU that others may share
        with contextlib.suppress(RuntimeError):  # a program has run TensorFlow before, which has its memory
            tf.config.experimental.set_memory_growth(gpu, True)
    return visible


def _show(gpus: list[tf.config.PhysicalDevice]) -> None:
    """Hides all GPUs but these.

    Raises:
        ConfigError: When TensorFlow has run something on others, in a program or a notebook.
    """
    try:
        tf.config.set_visible_devices(gpus, "GPU")
    except RuntimeError as error:
        raise ConfigError(
            "The devices of a process are chosen before TensorFlow runs anything in it, and here it has run on others. "
            "Leave the choice out (device, gpus), or begin with it in a new process."
        ) from error


# === Several workers ===


def own_devices(strategy: tf.distribute.Strategy) -> tf.distribute.Strategy | None:
    """Returns the devices of this process alone, for a model of which each worker has one of its own.

    Args:
        strategy: From `make_strategy`.

    Returns:
        The same strategy where there are no other workers; else a MirroredStrategy of this worker's GPUs, or None where
        it has one device.
    """
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return strategy
    devices = strategy.extended.worker_devices
    return tf.distribute.MirroredStrategy(devices) if len(devices) > 1 else None


def _join(cluster: Cluster, gpus: int, timeout_s: float) -> tf.distribute.Strategy:
    """Returns the strategy of all workers once they have found each other."""
    _meet(cluster, timeout_s)
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
    try:
        strategy: tf.distribute.Strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"Worker {cluster.index} ({cluster.addresses[cluster.index]}) cannot join the others: {reason(error)}. "
            "Start all of them again."
        ) from error
    if threading.current_thread() is threading.main_thread():
        # TensorFlow has set a handler of its own, which ignores the signal.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
    return strategy


def _meet(cluster: Cluster, timeout_s: float) -> None:
    """Returns when all other workers have started.

    TensorFlow would wait for them too, but without an end, and deaf to signals and Ctrl-C.

    Raises:
        ConfigError: When this worker's port cannot be used, or another one does not start in time.
    """
    port = int(cluster.addresses[cluster.index].rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    try:
        family = socket.AF_INET6 if both else socket.AF_INET
        listener = socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"Port {port} of worker {cluster.index} ({cluster.addresses[cluster.index]}) cannot be used: "
            f"{reason(error)}. End the process that has it, or give the worker another one in TF_CONFIG."
        ) from error
    missing = [address for i, address in enumerate(cluster.addresses) if i != cluster.index]
    deadline = time.monotonic() + timeout_s
    with listener:  # one who has met all others listens on the same port again soon, in TensorFlow
        while missing := [address for address in missing if not _listens(address)]:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"Worker {cluster.index} has waited {timeout_s:g} s for {', '.join(missing)}. Look at the output "
                    "of each worker, and whether these addresses can be reached from this machine."
                )
            time.sleep(0.2)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2.0).close()
    except OSError:
        return False
    return True


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
