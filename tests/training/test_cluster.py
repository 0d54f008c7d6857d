"""Which workers a run has, by its environment, and the files of the documentation that make the environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from rsseg_tf.cli.train import command
from rsseg_tf.config import load_config
from rsseg_tf.errors import ConfigError
from rsseg_tf.library.devices import choose_device, choose_devices
from rsseg_tf.training import strategy
from rsseg_tf.training.cluster import Cluster, read_cluster
from tests.fixtures.workers import free_ports

DOCS = Path(__file__).resolve().parents[2] / "docs"
TWO = ["a:2222", "b:2222"]
# Of srun with three tasks on two nodes, for the last of them.
SLURM = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "gpu[07,11]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
}


def tf_config(cluster: Any, kind: object = "worker", index: object = 1) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})}


def test_tf_config_says_which_worker_this_is() -> None:
    assert read_cluster(tf_config({"worker": TWO})) == Cluster(("a:2222", "b:2222"), 1)
    assert read_cluster(tf_config({"worker": TWO}, index="0")) == Cluster(("a:2222", "b:2222"), 0)
    with_chief = {"worker": TWO, "chief": ["c:1"]}
    assert read_cluster(tf_config(with_chief)) == Cluster(("c:1", "a:2222", "b:2222"), 2)
    assert read_cluster(tf_config(with_chief, "chief", 0)) == Cluster(("c:1", "a:2222", "b:2222"), 0)


@pytest.mark.parametrize(
    "environment",
    [{}, {"TF_CONFIG": " "}, {"TF_CONFIG": "{}"}, tf_config({"worker": ["a:1"]}, index=0), tf_config({}),
     SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}],
)  # fmt: skip
def test_one_worker_trains_alone(environment: dict[str, str]) -> None:
    assert read_cluster(environment) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "{"}, "it is no JSON"),
        ({"TF_CONFIG": "[]"}, "no mapping 'cluster'"),
        (tf_config({"worker": TWO, "ps": ["c:1"]}), "its cluster has ps; all processes train alike"),
        (tf_config({"worker": "a:1"}), r"cluster.worker must be a list of host:port; got \"a:1\""),
        (tf_config({"worker": ["a", "b:1"]}), "must be a list of host:port"),
        (tf_config({"worker": ["a:1", "a:1"]}), "two workers have one address"),
        (tf_config({"chief": TWO}), "has 2 chiefs"),
        (tf_config({"worker": TWO}, index=2), r"must be worker 0..1; got type 'worker', index 2"),
        (tf_config({"worker": TWO}, kind="evaluator", index=0), "got type 'evaluator', index 0"),
        ({"TF_CONFIG": json.dumps({"cluster": {"worker": TWO}})}, "got type None, index None"),
    ],
)
def test_a_wrong_tf_config_is_one_line(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_cluster(environment)
    assert str(caught.value).startswith("TF_CONFIG cannot be used: ") and "\n" not in str(caught.value)


def test_the_command_refuses_a_wrong_tf_config_with_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from click.testing import CliRunner

    from rsseg_tf.cli.main import main
    from tests.fixtures.configs import tiny_config

    tiny_config(tmp_path)
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["a"]}}')
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "2")
    result = CliRunner().invoke(main, ["train", "--config", str(tmp_path / "tiny.yml"), "--save_dir", str(tmp_path)])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: TF_CONFIG cannot be used: cluster.worker must be a list of host:port")


def test_slurms_tasks_are_workers() -> None:
    cluster = read_cluster(SLURM)
    assert cluster is not None and cluster.index == 2
    hosts, ports = zip(*(address.split(":") for address in cluster.addresses), strict=True)
    assert hosts == ("gpu07", "gpu07", "gpu11")
    assert int(ports[1]) == int(ports[0]) + 1 and ports[2] == ports[0] and 20000 <= int(ports[0]) < 32000
    first = read_cluster(SLURM | {"SLURM_PROCID": "0", "SLURM_NODEID": "0"})
    assert first is not None and (first.addresses, first.index) == (cluster.addresses, 0)
    another = read_cluster(SLURM | {"SLURM_JOB_ID": "4712"})
    assert another is not None and not set(another.addresses) & set(cluster.addresses)
    assert read_cluster(SLURM | tf_config({"worker": TWO})) == Cluster(("a:2222", "b:2222"), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SLURM_LOCALID": "1"}, r"Start them with srun --distribution=block"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2"}, "in another order than node by node"),
        ({"SLURM_JOB_ID": "x"}, "cannot be used: .*invalid literal"),
        ({"SLURM_STEP_NODELIST": None}, "SLURM_STEP_NODELIST is missing"),
    ],
)
def test_tasks_that_cannot_be_placed_are_refused(change: dict[str, str | None], message: str) -> None:
    environment = {name: value for name, value in (SLURM | change).items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        read_cluster(environment)


def test_workers_wait_for_each_other() -> None:
    """In threads of one process: both go on once both are there."""
    addresses = tuple(f"127.0.0.1:{port}" for port in free_ports(2))
    met: list[int] = []

    def meet(index: int) -> None:
        strategy._meet(Cluster(addresses, index), 30.0)
        met.append(index)

    first = threading.Thread(target=meet, args=(0,), daemon=True)
    first.start()
    first.join(0.5)
    assert met == []
    with socket.create_server(("127.0.0.1", int(addresses[1].rpartition(":")[2]))):  # the second one, in TensorFlow
        first.join(30)
        assert met == [0]
        with pytest.raises(ConfigError, match=r"Port \d+ of worker 1 .* cannot be used: Address already in use"):
            meet(1)


def test_commands_that_share_no_work_wait_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CONFIG", tf_config({"worker": TWO})["TF_CONFIG"])
    monkeypatch.setattr(strategy, "_join", lambda *_: pytest.fail("it waits for other workers"))
    choose_device("auto", ())
    with pytest.raises(pytest.fail.Exception):  # train does
        strategy.make_strategy()
    with pytest.raises(pytest.fail.Exception):  # eval does
        choose_devices("auto", (), "checkpoint")


def test_a_worker_that_does_not_start_is_named() -> None:
    one, other = (f"127.0.0.1:{port}" for port in free_ports(2))
    with pytest.raises(ConfigError, match=f"Worker 0 has waited 0.3 s for {other}. Look at the output"):
        strategy._meet(Cluster((one, other), 0), 0.3)


# === The files of docs/ ===

# In place of the commands: notes what it is called with, and writes the checkpoint that the environment names.
STUB = """#!/bin/bash
name=$(basename "$0")
printf '%s\\0' "$name" "${TF_CONFIG:-}" "$@" > "$CALLS/$(ls "$CALLS" | wc -l)"
if [ "$name" = srun ]; then while [[ $1 == --* ]]; do shift; done; exec "$@"; fi
if [ "$name" = rsseg-tf ]; then mkdir -p "$RUN/$WRITES"; fi
"""


def run_script(folder: Path, script: list[str], **environment: str) -> tuple[int, list[list[str]]]:
    """Runs a script of the documentation; returns its exit code and its calls: name, TF_CONFIG, arguments."""
    calls = folder / "calls"
    shutil.rmtree(calls, ignore_errors=True)
    calls.mkdir()
    for name in ("rsseg-tf", "srun", "scontrol"):
        (folder / name).write_text(STUB)
        (folder / name).chmod(0o755)
    path = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "RUN": str(folder / "run"), "CALLS": str(calls)}
    done = subprocess.run(script, env=os.environ | environment | path, capture_output=True, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return done.returncode, [file.read_text().split("\0")[:-1] for file in sorted(calls.iterdir())]


def parsed(call: list[str]) -> dict[str, Any]:
    """Returns the options of a call of `rsseg-tf train`, as the command understands them."""
    assert call[2] == "train"
    context = command.make_context("train", list(call[3:]), token_normalize_func=lambda token: token.replace("_", "-"))
    assert isinstance(context, click.Context)
    return dict(context.params)


@pytest.fixture
def job() -> dict[str, Any]:
    parts = {part["kind"]: part for part in yaml.safe_load_all((DOCS / "kubernetes_training.yml").read_text("utf-8"))}
    service, job = parts["Service"], parts["Job"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    name = job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": name}
    assert pod["subdomain"] == service["metadata"]["name"]
    assert (job["apiVersion"], job["spec"]["completionMode"]) == ("batch/v1", "Indexed")
    assert job["spec"]["completions"] == job["spec"]["parallelism"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert [port["containerPort"] for port in container["ports"]] == [port["port"] for port in service["spec"]["ports"]]
    return job


def test_the_job_makes_a_tf_config_and_goes_on_where_it_was(job: dict[str, Any], tmp_path: Path) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    script = [*container["command"], *container["args"]]
    environment = {one["name"]: one["value"] for one in container["env"]} | {"JOB_COMPLETION_INDEX": "1"}
    code, (call,) = run_script(tmp_path, script, **environment, WRITES="iter_9000")
    assert code == 1, "it has not come to the last step"
    workers = int(environment["WORKERS"])
    port = container["ports"][0]["containerPort"]
    names = tuple(
        f"{job['metadata']['name']}-{i}.{job['spec']['template']['spec']['subdomain']}:{port}" for i in range(workers)
    )
    assert workers == job["spec"]["completions"] and read_cluster({"TF_CONFIG": call[1]}) == Cluster(names, 1)
    options = parsed(call)
    load_config(options["config_path"], options["overrides"])
    assert options["do_eval"] and options["resume_model"] is None and str(options["iters"]) == environment["ITERS"]

    (tmp_path / "run" / "iter_10000").mkdir()
    code, (call,) = run_script(tmp_path, script, **environment, WRITES=f"iter_{environment['ITERS']}")
    assert code == 0 and parsed(call)["resume_model"] == tmp_path / "run" / "iter_10000", "the newest by its number"
    assert run_script(tmp_path, script, **environment, WRITES="x") == (0, []), "nothing is left to do"


def test_the_sbatch_script_goes_on_while_it_gets_on(tmp_path: Path) -> None:
    path = DOCS / "slurm_training.sbatch"
    text = path.read_text("utf-8")
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert text.startswith("#!/bin/bash\n")
    settings = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(.*)$", text, re.M))
    assert settings["ntasks-per-node"] == "1" and settings["signal"].startswith("TERM@") and "requeue" in settings
    # Slurm reads no setting below the first command.
    assert text.rindex("#SBATCH") < re.search(r"^[^#\n]", text, re.M).start()  # type: ignore[union-attr]

    script, environment = ["bash", str(path)], {"SLURM_JOB_ID": "7"}
    code, calls = run_script(tmp_path, script, **environment, WRITES="iter_9000")
    assert code == 0 and [call[0] for call in calls] == ["srun", "rsseg-tf", "scontrol"]
    assert calls[-1][2:] == ["requeue", "7"]
    options = parsed(calls[1])
    load_config(options["config_path"], options["overrides"])
    assert options["resume_model"] is None
    code, calls = run_script(tmp_path, script, **environment, WRITES="iter_9000")
    assert code == 1 and parsed(calls[1])["resume_model"] == tmp_path / "run" / "iter_9000"
    assert [call[0] for call in calls] == ["srun", "rsseg-tf"], "it stands still, so it is not started again"
    code, calls = run_script(tmp_path, script, **environment, WRITES="iter_80000")
    assert code == 0 and len(calls) == 2


def test_the_operators_job_trains() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "several_machines.md").read_text("utf-8"), re.S)
    replicas = yaml.safe_load(block)["spec"]["tfReplicaSpecs"]
    assert list(replicas) == ["Worker"]
    (container,) = replicas["Worker"]["template"]["spec"]["containers"]
    assert container["name"] == "tensorflow", "the operator sets TF_CONFIG in the container of this name alone"
    program, *rest = container["command"]
    assert program == "rsseg-tf" and parsed([program, "", *rest])["do_eval"]
