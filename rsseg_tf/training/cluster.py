"""Which processes train together, as the environment of each of them says.

Kubernetes' training operators set `TF_CONFIG`; under Slurm, `srun` sets `SLURM_…` variables for each of its tasks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tensorflow.python.distribute.cluster_resolver.slurm_cluster_resolver import expand_hostlist, expand_tasks_per_node

from rsseg_tf.errors import ConfigError, reason

__all__ = ["Cluster", "read_cluster"]

_JOBS = ("chief", "worker")
# Below the ports that systems give to clients (32768 and up), with room for 16 tasks per machine.
_FIRST_PORT, _JOBS_WITH_PORTS, _PORTS_OF_A_JOB = 20000, 750, 16


@dataclass(frozen=True)
class Cluster:
    """The workers of a run, and which of them this process is.

    Attributes:
        addresses: `host:port` of each worker; the first one is the chief.
        index: The place of this process among them.
    """

    addresses: tuple[str, ...]
    index: int


def read_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """Returns the workers that the environment describes; None where this process trains alone.

    `TF_CONFIG` counts where it is set; else the variables of Slurm do, if `srun` started more than one task.

    Raises:
        ConfigError: When the description is wrong.
    """
    if environment.get("TF_CONFIG", "").strip():
        cluster = _from_tf_config(environment["TF_CONFIG"])
    elif environment.get("SLURM_STEP_NUM_TASKS", "1") != "1" and "SLURM_PROCID" in environment:
        cluster = _from_slurm(environment)
    else:
        return None
    return cluster if cluster is not None and len(cluster.addresses) > 1 else None


# === TF_CONFIG ===


def _from_tf_config(text: str) -> Cluster | None:
    try:
        config = json.loads(text)
    except ValueError as error:
        raise _wrong(f"it is no JSON ({error})") from error
    cluster = config.get("cluster", {}) if isinstance(config, dict) else None
    if not isinstance(cluster, dict):
        raise _wrong("it has no mapping 'cluster'")
    if not cluster:
        return None
    if unknown := sorted(set(cluster) - set(_JOBS)):
        raise _wrong(f"its cluster has {', '.join(unknown)}; all processes train alike, as chief or worker")
    jobs = {name: _addresses(name, cluster[name]) for name in _JOBS if name in cluster}
    if len(jobs.get("chief", ())) > 1:
        raise _wrong(f"its cluster has {len(jobs['chief'])} chiefs; at most one is allowed")
    together = [address for addresses in jobs.values() for address in addresses]
    if len(set(together)) != len(together):
        raise _wrong(f"two workers have one address ({', '.join(together)})")
    task = config.get("task")
    kind, index = (task.get("type"), task.get("index")) if isinstance(task, dict) else (None, None)
    if isinstance(index, str) and index.isdecimal():
        index = int(index)
    if kind not in jobs or not isinstance(index, int) or not 0 <= index < len(jobs[kind]):
        allowed = " or ".join(f"{name} 0..{len(addresses) - 1}" for name, addresses in jobs.items())
        raise _wrong(f"its task must be {allowed}; got type {kind!r}, index {index!r}")
    return Cluster(tuple(together), index + (len(jobs.get("chief", ())) if kind == "worker" else 0))


def _addresses(job: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and value and all(isinstance(one, str) and _is_address(one) for one in value):
        return tuple(value)
    raise _wrong(f"cluster.{job} must be a list of host:port; got {json.dumps(value)}")


def _is_address(text: str) -> bool:
    host, colon, port = text.rpartition(":")
    return bool(host and colon) and port.isdecimal() and 0 < int(port) < 65536


def _wrong(what: str) -> ConfigError:
    return ConfigError(
        f"TF_CONFIG cannot be used: {what}. It must read "
        '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": N}}; unset it to train alone.'
    )


# === Slurm ===


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    """Returns the tasks of this job step, all of one node in a row, as `srun` numbers them by default."""
    try:
        count, rank = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_PROCID"])
        job, node, local = (int(environment[f"SLURM_{name}"]) for name in ("JOB_ID", "NODEID", "LOCALID"))
        nodes = expand_hostlist(environment["SLURM_STEP_NODELIST"])
        tasks = expand_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"])
    except (KeyError, ValueError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else reason(error)
        raise ConfigError(
            f"srun started several tasks, but its variables cannot be used: {what}. Start one task with --ntasks=1, or "
            "set TF_CONFIG."
        ) from error
    places = [(i, place) for i, number in enumerate(tasks) for place in range(number)]
    if len(nodes) != len(tasks) or len(places) != count or places[rank : rank + 1] != [(node, local)]:
        raise ConfigError(
            f"srun numbers its {count} tasks in another order than node by node (task {rank} is number {local} on node "
            f"{node} of {', '.join(nodes)}). Start them with srun --distribution=block."
        )
    # A port of the job's own: several jobs may share a node.
    first = _FIRST_PORT + job % _JOBS_WITH_PORTS * _PORTS_OF_A_JOB
    return Cluster(tuple(f"{nodes[i]}:{first + place}" for i, place in places), rank)
