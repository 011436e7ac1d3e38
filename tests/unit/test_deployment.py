"""docker/kubernetes and docker/systemd, as far as they can be tested without a cluster and without systemd as PID 1."""

import configparser
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import redis
import yaml

from svd_service.api import create_app
from svd_service.config import Settings
from svd_service.ledger import open_ledger
from svd_service.ledger.stats import Figures
from svd_service.ledger.workers import WorkerStatus
from svd_service.telemetry.exporter import LedgerCollector

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "docker" / "kubernetes"
SYSTEMD = ROOT / "docker" / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))

#: Kubernetes' version that docs/deployment.md names; its schemas come with kubernetes-validate.
VERSION = "1.37"

#: Variables that other programs read: the hub's client, CUDA.
OF_OTHERS = {"HF_TOKEN", "HF_HOME", "CUDA_CACHE_PATH"}

#: Kinds that are not part of Kubernetes.
BEYOND = {"ScaledObject", "Kustomization"}

Document = dict[str, Any]


def documents(folder: Path = KUBERNETES) -> Iterator[Document]:
    for path in sorted(folder.rglob("*.yaml")):
        if path.name not in {"kustomization.yaml", "names.yaml"}:
            yield from yaml.safe_load_all(path.read_text())


DOCUMENTS = list(documents())


def named(document: Document) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def of_kind(*kinds: str) -> list[Document]:
    return [document for document in DOCUMENTS if document["kind"] in kinds]


WORKLOADS = {document["metadata"]["name"]: document for document in of_kind("Deployment", "StatefulSet")}


def pod(name: str) -> Document:
    return dict(WORKLOADS[name]["spec"]["template"]["spec"])


def container(name: str) -> Document:
    (only,) = pod(name)["containers"]
    return dict(only)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d["kind"] not in BEYOND], ids=named)
def test_a_manifest_matches_its_kubernetes_schema(document: Document) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schemas_detect_a_mistake() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(WORKLOADS["api"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["readOnly"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSION, strict=True)


def test_kustomizations_list_exactly_the_existing_manifests() -> None:
    used = set()
    for path in KUBERNETES.rglob("kustomization.yaml"):
        written = yaml.safe_load(path.read_text())
        for resource in [*written["resources"], *written.get("configurations", ())]:
            found = (path.parent / resource).resolve()
            assert found.exists(), f"{path}: {resource}"
            used.add(found / "kustomization.yaml" if found.is_dir() else found)
    assert set(KUBERNETES.rglob("*.yaml")) - used == {KUBERNETES / "kustomization.yaml"}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    """All manifests as kustomize builds them, with the secrets of the examples."""
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("no kubectl")
    folder = tmp_path_factory.mktemp("kubernetes") / "all"
    shutil.copytree(KUBERNETES, folder)
    shutil.copy(folder / "secrets.example.env", folder / "secrets.env")
    shutil.copy(folder / "redis" / "users.example.acl", folder / "redis" / "users.acl")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_kustomize_builds_a_deployment_and_its_scaling_for_each_type_of_gpu(built: list[Document]) -> None:
    for document in built:
        if document["kind"] not in BEYOND:
            kubernetes_validate.validate(document, VERSION, strict=True)
    deployments = {each["metadata"]["name"]: each for each in built if each["kind"] == "Deployment"}
    types = {path.parent.name for path in KUBERNETES.glob("workers/*/kustomization.yaml")}
    assert set(deployments) == {"api", "webhooks", "exporter", "flower", *(f"worker-{each}" for each in types)}
    scaled = [each["spec"]["scaleTargetRef"]["name"] for each in built if each["kind"] == "ScaledObject"]
    assert sorted(scaled) == sorted(["api", *(f"worker-{each}" for each in types)])
    chosen = [
        tuple(deployments[f"worker-{each}"]["spec"]["template"]["spec"]["nodeSelector"].items()) for each in types
    ]
    assert len(set(chosen)) == len(types)
    for each in built:
        # Each of them selects its own pods only.
        if each["metadata"]["name"].startswith("worker-") and "selector" in each["spec"]:
            assert each["spec"]["selector"]["matchLabels"]["svd-service/gpu"] in types


def test_referenced_secrets_are_those_of_the_examples(built: list[Document]) -> None:
    secrets = {each["metadata"]["name"]: each.get("data", {}) for each in built if each["kind"] == "Secret"}
    for workload in (each for each in built if each["kind"] in {"Deployment", "StatefulSet"}):
        spec = workload["spec"]["template"]["spec"]
        for variable in spec["containers"][0].get("env", ()):
            if "valueFrom" in variable:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["key"] in secrets[reference["name"]], variable["name"]
        for volume in spec["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets


def test_every_variable_that_is_set_is_read() -> None:
    known = set(Settings.variables().values()) | OF_OTHERS
    (settings,) = of_kind("ConfigMap")
    given = set(settings["data"])
    given |= {variable["name"] for name in WORKLOADS for variable in container(name).get("env", ())}
    for example in (KUBERNETES / "secrets.example.env", SYSTEMD / "svd-service.example.env"):
        given |= set(re.findall(r"^(\w+)=", example.read_text(), re.MULTILINE))
    for path in SERVICES:
        given |= set(re.findall(r"^Environment=(\w+)=", path.read_text(), re.MULTILINE))
    assert given - known == set()


def test_the_settings_are_valid() -> None:
    (settings,) = of_kind("ConfigMap")
    assert Settings.from_mapping(settings["data"]).log_format == "json"
    for example in (KUBERNETES / "secrets.example.env", SYSTEMD / "svd-service.example.env"):
        Settings.from_mapping(dict(re.findall(r"^(\w+)=(.*)$", example.read_text(), re.MULTILINE)))


def test_ports_and_folders_are_those_of_the_images() -> None:
    api, worker = ((ROOT / "docker" / f"{name}.Dockerfile").read_text() for name in ("api", "worker"))
    (flower,) = re.findall(r"SVD_FLOWER_BIND=0\.0\.0\.0:(\d+)", api)
    for name, variable in (("api", "SVD_BIND"), ("exporter", "SVD_EXPORTER_BIND")):
        (port,) = re.findall(rf"{variable}=0\.0\.0\.0:(\d+)", api)
        assert [each["containerPort"] for each in container(name)["ports"]] == [int(port)]
        scraped = WORKLOADS[name]["spec"]["template"]["metadata"]["annotations"]
        assert scraped == {"prometheus.io/scrape": "true", "prometheus.io/port": port}
    (port,) = container("flower")["ports"]
    assert port["containerPort"] == int(flower)
    for name, dockerfile in (("api", api), ("worker", worker)):
        mounted = {mount["mountPath"] for mount in container(name)["volumeMounts"]} - {"/tmp"}
        (made,) = re.findall(r"install -d -o svd -g svd (.*)$", dockerfile, re.MULTILINE)
        assert mounted == set(made.split())
    for policy in of_kind("NetworkPolicy"):
        name = policy["metadata"]["name"]
        if name in WORKLOADS:
            allowed = {each["port"] for rule in policy["spec"]["ingress"] for each in rule["ports"]}
            assert allowed == {each["containerPort"] for each in container(name)["ports"]}


def test_a_services_target_port_exists() -> None:
    for service in of_kind("Service"):
        name = service["spec"]["selector"]["app.kubernetes.io/name"]
        ports = {each["name"] for each in container(name)["ports"]}
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports


def test_probes_of_the_api_need_neither_a_key_nor_redis(settings: Settings) -> None:
    client = create_app(settings).test_client()  # without Redis
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        request = container("api")[probe]["httpGet"]
        with client.get(request["path"]) as answer:
            assert answer.status_code == 200


def test_no_container_runs_as_root_or_writes_to_its_root_file_system() -> None:
    for name in WORKLOADS:
        spec, only = pod(name), container(name)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        if only["image"].startswith("svd-service-"):
            assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] == 10001
        assert {mount["name"] for mount in only["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]} | {
            "redis"
        }


@pytest.mark.parametrize("name", WORKLOADS)
def test_no_pod_has_the_variables_of_service_links(name: str) -> None:
    # They are URLs, which Flower rejects as FLOWER_PORT, and Settings as REDIS_PORT.
    assert pod(name)["enableServiceLinks"] is False


def test_the_termination_grace_period_covers_draining() -> None:
    (settings,) = of_kind("ConfigMap")
    drain = Settings.from_mapping(settings["data"]).drain_timeout
    assert pod("worker")["terminationGracePeriodSeconds"] == drain + 30
    # preStop and gunicorn's own timeout.
    pause = container("api")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod("api")["terminationGracePeriodSeconds"] >= pause + 20
    unit = read(SYSTEMD / "svd-worker.service")
    assert float(unit["Service"]["TimeoutStopSec"]) == Settings().drain_timeout + 30


def test_an_update_stops_a_worker_before_the_next_one_loads_its_model_on_that_gpu() -> None:
    # Beside the old one it would choose a smaller memory plan, and keep it.
    assert WORKLOADS["worker"]["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_only_pods_that_need_redis_can_reach_it() -> None:
    clients = {
        name
        for name in WORKLOADS
        if any(variable["name"] == "REDIS_URL" for variable in container(name).get("env", ()))
    }
    labelled = {
        name
        for name, workload in WORKLOADS.items()
        if workload["spec"]["template"]["metadata"]["labels"].get("svd-service/ledger") == "true"
    }
    assert clients == labelled == {"api", "webhooks", "exporter", "flower", "worker"}
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy")}
    assert policies["nobody"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (rule,) = policies["redis"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"svd-service/ledger": "true"}}}]


def test_every_policy_and_budget_selects_existing_pods() -> None:
    names = {
        workload["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"] for workload in WORKLOADS.values()
    }
    for document in of_kind("NetworkPolicy", "PodDisruptionBudget"):
        spec = document["spec"]
        labels = spec.get("podSelector", spec.get("selector", {})).get("matchLabels", {})
        assert labels.get("app.kubernetes.io/name", "api") in names


def test_redis_persists_every_job_and_has_the_documented_user() -> None:
    arguments = container("redis")["args"]
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert (options["--appendonly"], options["--maxmemory-policy"]) == ("yes", "noeviction")
    mounts = {mount["mountPath"] for mount in container("redis")["volumeMounts"]}
    assert {options["--dir"], str(Path(options["--aclfile"]).parent)} <= mounts
    users = (KUBERNETES / "redis" / "users.example.acl").read_text()
    assert f"```\n{users}```" in (ROOT / "docs" / "operations.md").read_text()
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert container("redis")["image"] == compose["services"]["redis"]["image"]


def test_the_documented_redis_user_may_run_every_script() -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "svd_service").glob("*/lua/**/*.lua"))
    users = (KUBERNETES / "redis" / "users.example.acl").read_text()
    called = {name.lower() for name in re.findall(r"redis\.p?call\(\s*'(\w+)'", scripts)}
    assert called
    assert called - set(re.findall(r"\+(\S+)", users)) == set()


def test_scaling_queries_existing_metrics() -> None:
    nothing = LedgerCollector(_NoFigures()).describe()
    exposed = {family.name for family in nothing} | {"flask_http_request_duration_seconds_bucket"}
    for scaled in of_kind("ScaledObject"):
        spec = scaled["spec"]
        assert spec["scaleTargetRef"]["name"] in WORKLOADS
        assert 0 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
        (trigger,) = spec["triggers"]
        assert trigger["type"] == "prometheus"
        # KEDA accepts strings only.
        assert {name: type(value) for name, value in trigger["metadata"].items()} == dict.fromkeys(
            ("serverAddress", "query", "threshold"), str
        )
        metrics = set(re.findall(r"\b(?:svd|flask)_\w+", trigger["metadata"]["query"]))
        assert metrics
        assert metrics <= exposed


@pytest.mark.enable_socket
def test_a_worker_is_ready_when_the_ledger_has_its_heartbeat(
    redis_url: str, redis_client: "redis.Redis", settings: Settings
) -> None:
    command = container("worker")["readinessProbe"]["exec"]["command"]
    environment = {"PATH": os.environ["PATH"], "REDIS_URL": redis_url, "PYTHONPATH": str(ROOT)}

    def probe() -> int:
        return subprocess.run([sys.executable, *command[1:]], env=environment, check=False).returncode

    assert command[0] == "python"
    status = WorkerStatus(
        worker="celery@another/0",
        device="cpu",
        instance="1",
        pid=1,
        model="m",
        trained=True,
        ready_since=0,
        load_seconds=0,
    )
    ledger = open_ledger(redis_client, settings)
    ledger.workers.heartbeat(status)
    assert probe() == 1
    ledger.workers.heartbeat(WorkerStatus(**{**vars(status), "worker": f"celery@{os.uname().nodename}/0"}))
    assert probe() == 0


# systemd


def read(path: Path) -> configparser.ConfigParser:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(path.read_text())
    return unit


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_unit_stops_its_parent_process_first_and_has_few_privileges(path: Path) -> None:
    service = read(path)["Service"]
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "always"
    assert service["User"] == "svd"
    for hardening in ("NoNewPrivileges", "ProtectHome", "PrivateTmp", "RestrictSUIDSGID", "ProtectKernelModules"):
        assert service[hardening] == "yes", hardening
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["EnvironmentFile"] == "/etc/svd-service.env"
    program = Path(service["ExecStart"].split()[0])
    assert (Path(sys.executable).parent / program.name).exists()


def test_the_units_start_the_services_of_compose() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    commands = {path.stem: read(path)["Service"]["ExecStart"].split()[1:] for path in SERVICES}
    assert commands["svd-exporter"] == compose["services"]["exporter"]["command"][1:]
    webhooks = [word.replace("%%", "%") for word in commands["svd-webhooks"]]
    assert webhooks == compose["services"]["webhooks"]["command"][1:] == container("webhooks")["command"][1:]
    assert commands["svd-flower"] == compose["services"]["flower"]["command"][1:] == container("flower")["command"][1:]
    for name in ("api", "worker"):
        image = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
        (command,) = re.findall(r"^CMD \[(.*)\]$", image, re.MULTILINE)
        assert commands[f"svd-{name}"] == re.findall(r'"([^"]*)"', command)[1:]


def test_the_documented_installation_signs_videos_and_names_the_other_extras_of_the_images() -> None:
    guide = (ROOT / "docs" / "deployment.md").read_text().partition("\n## systemd\n")[2].partition("\n## ")[0]
    (installed,) = re.findall(r"pip install '\.\[([\w,]+)\]'", guide)
    assert set(installed.split(",")) == {"worker", "monitoring", "c2pa"}
    images = "".join((ROOT / "docker" / f"{name}.Dockerfile").read_text() for name in ("api", "worker"))
    optional = set(re.findall(r"-r (\w+)\.txt", images)) - {"api", *installed.split(",")}
    assert optional
    assert {extra for extra in optional if f"`{extra}`" not in guide} == set()


def test_systemd_verifies_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if not analyze:
        pytest.skip("no systemd-analyze")
    for path in SYSTEMD.iterdir():
        here = path.read_text().replace("/opt/svd-service/bin", str(Path(sys.executable).parent))
        (tmp_path / path.name).write_text(here)
    wrong = (tmp_path / "svd-api.service").read_text().replace("KillMode=mixed", "KillMode=gently")
    (tmp_path / "svd-wrong.service").write_text(wrong)
    units = [str(path) for path in sorted(tmp_path.iterdir()) if path.suffix in {".service", ".target"}]
    done = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    # It may report problems of the system's own units, too.
    (problem,) = (line for line in done.stderr.splitlines() if "svd-" in line)
    assert "svd-wrong.service" in problem


class _NoFigures:
    def figures(self) -> Figures:
        raise AssertionError("describing reads nothing")
