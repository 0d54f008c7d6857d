"""The files that deploy TensorFlow Serving: as shipped, and filled in."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from rsseg_tf.assets import asset_dir
from rsseg_tf.errors import ConfigError, ExportError
from rsseg_tf.serving.deployment import FILES, write_deployment
from tests.fixtures.models import manifest

SHIPPED = asset_dir("serving")

# The messages behind two configurations, which the package tensorflow-serving-api lacks: names and numbers of fields as
# in session_bundle_config.proto and monitoring_config.proto of TensorFlow Serving.
INT64, STRING, BOOL = (f".google.protobuf.{name}Value" for name in ("Int64", "String", "Bool"))
BATCHING = {
    "max_batch_size": (1, INT64),
    "batch_timeout_micros": (2, INT64),
    "max_enqueued_batches": (3, INT64),
    "num_batch_threads": (4, INT64),
    "thread_pool_name": (5, STRING),
    "allowed_batch_sizes": (6, "repeated int64"),
    "pad_variable_length_inputs": (7, "bool"),
    "enable_large_batch_splitting": (8, BOOL),
    "max_execution_batch_size": (9, INT64),
}
PROMETHEUS = {"enable": (1, "bool"), "path": (2, "string")}
MONITORING = {"prometheus_config": (1, ".check.Prometheus")}
# Of main.cc of TensorFlow Serving.
FLAGS = {
    *("model_config_file", "model_config_file_poll_wait_seconds", "allow_version_labels_for_unavailable_models"),
    *("enable_batching", "batching_parameters_file", "monitoring_config_file", "file_system_poll_wait_seconds"),
    *("rest_api_timeout_in_ms", "enable_grpc_healthcheck_service"),
}


def message_class(name: str) -> Any:
    """Makes a message class from the tables above."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="check.proto", package="check", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    for message, fields in (("Batching", BATCHING), ("Prometheus", PROMETHEUS), ("Monitoring", MONITORING)):
        made = file.message_type.add(name=message)
        for key, (number, kind) in fields.items():
            one = made.field.add(name=key, number=number)
            one.label = field.LABEL_REPEATED if kind.startswith("repeated ") else field.LABEL_OPTIONAL
            kind = kind.removeprefix("repeated ")
            if kind.startswith("."):
                one.type, one.type_name = field.TYPE_MESSAGE, kind
            else:
                one.type = {"int64": field.TYPE_INT64, "bool": field.TYPE_BOOL, "string": field.TYPE_STRING}[kind]
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"check.{name}"))


@pytest.fixture
def export_dir(tmp_path: Path) -> Path:
    """What `write_deployment` looks at: versions, and the manifest of the newest."""
    for number in (1, 12):
        folder = tmp_path / "an $export's" / "dubai" / str(number)
        folder.mkdir(parents=True)
        text = manifest().model_copy(update={"crop_size": (256, 384)}).to_json()
        (folder / "manifest.json").write_text(text, "utf-8")
    return tmp_path / "an $export's" / "dubai"


@pytest.fixture(params=["shipped", "filled in"])
def deployment(request: pytest.FixtureRequest, tmp_path: Path, export_dir: Path) -> Path:
    if request.param == "shipped":
        return SHIPPED
    write_deployment(tmp_path / "deploy", export_dir, overwrite=False)
    return tmp_path / "deploy"


def model_of(deployment: Path) -> str:
    return "example_model" if deployment == SHIPPED else "dubai"


def documents(path: Path) -> dict[str, Any]:
    found = list(yaml.safe_load_all(path.read_text("utf-8")))
    return {one["kind"]: one for one in found}


def test_the_models_are_what_tensorflow_serving_reads(deployment: Path) -> None:
    pb2 = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2", reason="the extra `serving`")
    config = text_format.Parse((deployment / "models.config").read_text("utf-8"), pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    name = model_of(deployment)
    assert (model.name, model.base_path) == (name, f"/models/{name}")
    assert model.model_platform == "tensorflow" and model.model_version_policy.latest.num_versions == 2
    assert dict(model.version_labels) == {"stable": 1 if deployment == SHIPPED else 12}


def test_batching_and_monitoring_have_the_fields_of_tensorflow_serving(deployment: Path) -> None:
    batching = text_format.Parse((deployment / "batching.config").read_text("utf-8"), message_class("Batching")())
    # As many pixels: 8 of 512 x 512 are 21 of 256 x 384.
    assert batching.max_batch_size.value == (8 if deployment == SHIPPED else 21)
    assert batching.num_batch_threads.value >= 1 and batching.max_enqueued_batches.value >= 1
    monitoring = text_format.Parse((deployment / "monitoring.config").read_text("utf-8"), message_class("Monitoring")())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"
    with pytest.raises(text_format.ParseError):
        text_format.Parse("max_batch: 8", message_class("Batching")())


def test_compose_mounts_the_model_and_names_existing_flags(deployment: Path, export_dir: Path) -> None:
    (service,) = yaml.safe_load((deployment / "compose.yml").read_text("utf-8"))["services"].values()
    name = model_of(deployment)
    mounts = {one["target"]: one for one in service["volumes"]}
    assert all(one["read_only"] for one in mounts.values())
    source = str(export_dir).replace("$", "$$") if deployment != SHIPPED else "./models/example_model"
    assert mounts[f"/models/{name}"]["source"] == source
    assert re.fullmatch(r"\$\{TF_SERVING_IMAGE:-tensorflow/serving:\d+\.\d+\.\d+\}", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert {flag.removeprefix("--").partition("=")[0] for flag in service["command"]} == FLAGS
    check = service["healthcheck"]["test"]
    assert check[:3] == ["CMD", "bash", "-c"] and f"GET /v1/models/{name} HTTP" in check[3]
    subprocess.run(["bash", "-n", "-c", check[3]], check=True)
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}


def test_nothing_in_compose_needs_root(deployment: Path) -> None:
    (service,) = yaml.safe_load((deployment / "compose.yml").read_text("utf-8"))["services"].values()
    user = re.fullmatch(r"\$\{TF_SERVING_USER:-(\d+):(\d+)\}", service["user"])
    assert user is not None and 0 not in map(int, user.groups())
    assert service["read_only"] is True and service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode"} & service.keys()
    for port in service["ports"]:
        assert all(int(number) >= 1024 for number in port.split(":")[1:]), port
    assert not [one for one in service["volumes"] if "docker.sock" in one["source"]]
    # The same holds on Kubernetes.
    pod = documents(deployment / "kubernetes.yml")["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == int(user[1])
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]


COMPOSE = next(
    (
        command
        for command in (["docker", "compose"], ["docker-compose"])
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0
    ),
    None,
)


@pytest.mark.skipif(COMPOSE is None, reason="neither docker compose nor docker-compose is installed")
@pytest.mark.parametrize("user", [None, "1000:1001"])
def test_compose_itself_reads_its_file(deployment: Path, tmp_path: Path, user: str | None) -> None:
    assert COMPOSE is not None
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | ({"TF_SERVING_USER": user} if user else {})
    command = [*COMPOSE, "-f", str(deployment / "compose.yml"), "config"]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    (service,) = yaml.safe_load(told.stdout)["services"].values()
    assert service["user"] == (user or "10001:10001") and service["read_only"] is True
    assert service["image"].startswith("tensorflow/serving:")
    (model,) = (one for one in service["volumes"] if one["target"].startswith("/models/"))
    assert model["read_only"] is True and Path(model["source"]).name == model_of(deployment)


def test_the_health_check_tells_a_server_that_answers(server: Any, deployment: Path) -> None:
    (service,) = yaml.safe_load((deployment / "compose.yml").read_text("utf-8"))["services"].values()
    script = service["healthcheck"]["test"][3].replace("/8501", f"/{server.rest_port}")
    name = model_of(deployment)
    right = subprocess.run(["bash", "-c", script.replace(f"models/{name}", "models/tiny")], timeout=60)
    wrong = subprocess.run(["bash", "-c", script], timeout=60)
    assert right.returncode == 0 and wrong.returncode != 0


def test_the_parts_of_the_kubernetes_manifest_fit_together(deployment: Path) -> None:
    parts = documents(deployment / "kubernetes.yml")
    versions = {kind: part["apiVersion"] for kind, part in parts.items()}
    assert versions == {
        "PersistentVolumeClaim": "v1",
        "Deployment": "apps/v1",
        "Service": "v1",
        "HorizontalPodAutoscaler": "autoscaling/v2",
        "PodDisruptionBudget": "policy/v1",
    }
    deployed = parts["Deployment"]
    labels = deployed["spec"]["template"]["metadata"]["labels"]
    selectors = [deployed["spec"]["selector"]["matchLabels"], parts["Service"]["spec"]["selector"]]
    selectors.append(parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"])
    assert all(selector.items() <= labels.items() for selector in selectors)
    target = parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployed["metadata"]["name"])
    assert "replicas" not in deployed["spec"], "the autoscaler sets them"

    pod = deployed["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    claims = [one["persistentVolumeClaim"]["claimName"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
    assert claims == [parts["PersistentVolumeClaim"]["metadata"]["name"]]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in parts["Service"]["spec"]["ports"]} == ports
    for probe in ("startupProbe", "readinessProbe"):
        request = container[probe]["httpGet"]
        assert request["port"] in ports and request["path"] == f"/v1/models/{model_of(deployment)}"
    assert container["livenessProbe"]["grpc"]["port"] == 8500
    assert {"cpu", "memory"} == container["resources"]["requests"].keys() == container["resources"]["limits"].keys()
    assert {flag.removeprefix("--").partition("=")[0] for flag in container["args"]} == FLAGS


def test_the_loader_writes_to_the_volume_of_the_models(deployment: Path, export_dir: Path) -> None:
    text = (deployment / "model_loader.yml").read_text("utf-8")
    pod = yaml.safe_load(text)
    claims = [one["persistentVolumeClaim"]["claimName"] for one in pod["spec"]["volumes"]]
    assert claims == [documents(deployment / "kubernetes.yml")["PersistentVolumeClaim"]["metadata"]["name"]]
    copy, move = (shlex.split(line.lstrip("# ")) for line in text.splitlines() if " cp " in line or " mv " in line)
    place = f"/models/{model_of(deployment)}"
    number = "1" if deployment == SHIPPED else "12"
    source = "./models/example_model/1" if deployment == SHIPPED else str(export_dir / "12")
    assert copy[2:] == [source, f"model-loader:{place}/.{number}"]
    assert move[-3:] == ["mv", f"{place}/.{number}", f"{place}/{number}"]


def test_the_kustomization_names_files_that_exist_and_makes_what_is_mounted(deployment: Path) -> None:
    kustomization = yaml.safe_load((deployment / "kustomization.yml").read_text("utf-8"))
    (config,) = kustomization["configMapGenerator"]
    assert all((deployment / name).is_file() for name in [*kustomization["resources"], *config["files"]])
    pod = documents(deployment / "kubernetes.yml")["Deployment"]["spec"]["template"]["spec"]
    names = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    assert names == [config["name"]]
    used = [flag.partition("=/config/")[2] for flag in pod["containers"][0]["args"] if "=/config/" in flag]
    assert set(used) == set(config["files"])


def test_nothing_of_the_example_is_left(tmp_path: Path, export_dir: Path) -> None:
    written = write_deployment(tmp_path / "deploy", export_dir, "river-2", overwrite=False)
    shipped = sorted(path.name for path in SHIPPED.iterdir() if path.is_file())
    assert sorted(path.name for path in written) == sorted(FILES) == shipped
    for path in written:
        text = path.read_text("utf-8")
        assert "example_model" not in text
        if path.suffix == ".py":
            ast.parse(text)
    assert "river-2" in (tmp_path / "deploy" / "smoke_test.py").read_text("utf-8")


def test_files_are_not_replaced_unasked_and_errors_say_what_to_do(tmp_path: Path, export_dir: Path) -> None:
    write_deployment(tmp_path / "deploy", export_dir, overwrite=False)
    with pytest.raises(ConfigError, match="exists; choose another folder, or replace it with --overwrite"):
        write_deployment(tmp_path / "deploy", export_dir, overwrite=False)
    write_deployment(tmp_path / "deploy", export_dir, overwrite=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExportError, match="has no version of a model"):
        write_deployment(tmp_path / "deploy2", tmp_path / "empty", overwrite=False)
    (tmp_path / "empty" / "1").mkdir()
    with pytest.raises(ExportError, match=r"manifest\.json"):
        write_deployment(tmp_path / "deploy2", tmp_path / "empty", overwrite=False)
    with pytest.raises(ConfigError, match="A model's name"):
        write_deployment(tmp_path / "deploy2", export_dir, "a/b", overwrite=False)
    assert not (tmp_path / "deploy2").exists()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_of_the_smoke_test_work(server: Any, tmp_path: Path) -> None:
    script = [sys.executable, "-I", str(SHIPPED / "smoke_test.py"), "--rest-port", str(server.rest_port), "--no-grpc"]
    told = subprocess.run(
        [*script, "--model-name", "tiny", "--bodies", str(tmp_path)], capture_output=True, text=True, timeout=120
    ).stdout
    commands = [line.strip() for line in told.splitlines() if line.startswith("  curl ")]
    assert len([line for line in commands if f"-d @{tmp_path}" in line]) == 2 and len(commands) >= 8
    for line in commands:
        command = line.replace("curl ", "curl --silent --noproxy '*' --write-out '%{http_code}' --output /dev/null ")
        asked = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        wrong = "nonsense" in line or "none" in line or "[[[[1, 2]]]]" in line
        assert asked.stdout == ("404" if "no_such_model" in line else "400" if wrong else "200"), line


def test_the_smoke_test_succeeds_on_a_server_that_is_right_and_fails_on_others(server: Any) -> None:
    script = [sys.executable, "-I", str(SHIPPED / "smoke_test.py"), "--rest-port", str(server.rest_port), "--no-grpc"]
    right = subprocess.run([*script, "--model-name", "tiny"], capture_output=True, text=True, timeout=120)
    assert right.returncode == 0 and "All 6 steps succeeded." in right.stdout, right.stdout + right.stderr
    changed = (SHIPPED / "smoke_test.py").read_text("utf-8").replace("LONGEST_START_S = 120", "LONGEST_START_S = 1")
    wrong = subprocess.run(
        [sys.executable, "-I", "-c", changed, *script[3:], "--model-name", "none"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert wrong.returncode == 1 and "FAILED: The model becomes available. Failure: not available" in wrong.stderr
