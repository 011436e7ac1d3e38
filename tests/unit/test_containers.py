import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from svd_service.config import Settings
from svd_service.ledger.stats import Figures
from svd_service.telemetry.exporter import HostCollector, LedgerCollector
from tests import promql
from tools.harness.local import free_port

CI = os.environ.get("CI", "").lower() in {"1", "true"}
ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "compose.yaml"
WITHOUT_GPU = ROOT / "compose.cpu.yaml"
PREPARE = ROOT / "docker" / "prepare.sh"
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
GRAFANA = ROOT / "docker" / "grafana"
PROMETHEUS = ROOT / "docker" / "prometheus" / "prometheus.yml"

RULE_TESTS = Path(__file__).parent / "prometheus_rules.yml"
#: Settings that compose.yaml does not pass on: Redis' address and TLS files, and those of Flower.
NOT_PASSED_ON = {
    *("REDIS_HOST", "REDIS_PORT", "REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE"),
    *("REDIS_SENTINELS", "REDIS_SENTINEL_AUTH", "SVD_FLOWER_BASIC_AUTH"),
}

#: Variables of the shell for processes that use a proxy.
PROXIES = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

Service = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return dict(yaml.load(COMPOSE.read_text(), Strict))


@pytest.fixture(scope="module")
def all_services(compose: dict[str, Any]) -> dict[str, Service]:
    return dict(compose["services"])


@pytest.fixture(scope="module")
def services(all_services: dict[str, Service]) -> dict[str, Service]:
    """The long-running services, without `prepare`, which exits before they start."""
    return {name: service for name, service in all_services.items() if name != "prepare"}


class Strict(yaml.SafeLoader):
    """Rejects duplicate keys in a mapping, as Compose does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert sorted(keys) == sorted(set(keys)), f"twice: {sorted({key for key in keys if keys.count(key) > 1})}"
        return super().construct_mapping(node, deep)


class Tagged(Strict):
    """Reads Compose's own tags; `!reset` becomes `None`."""


Tagged.add_constructor("!reset", lambda loader, node: None)


@pytest.fixture(scope="module")
def without_gpu() -> dict[str, Service]:
    return dict(yaml.load(WITHOUT_GPU.read_text(), Tagged)["services"])


@pytest.fixture(scope="module")
def dashboard() -> dict[str, Any]:
    return dict(json.loads((GRAFANA / "dashboards" / "svd-service.json").read_text()))


def test_compose_matches_the_schema_of_the_specification() -> None:
    check = [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    assert run(*check) == (0, "ok -- validation done\n")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_reports_no_problem(dockerfile: Path) -> None:
    assert run(program("hadolint"), "--no-color", str(dockerfile)) == (0, "")


def test_there_is_an_image_for_the_api_and_one_for_the_worker(
    services: dict[str, Service], all_services: dict[str, Service]
) -> None:
    # Each is built once: the same image for five services would be exported five times.
    built = [ROOT / service["build"]["dockerfile"] for service in services.values() if "build" in service]
    assert sorted(built) == DOCKERFILES
    images = {service["image"] for service in services.values() if "build" in service}
    assert images == {service["image"] for service in all_services.values() if service["image"].startswith("svd-")}
    assert [path.name for path in DOCKERFILES] == ["api.Dockerfile", "worker.Dockerfile"]


def test_only_the_api_can_be_published_beyond_this_machine(services: dict[str, Service]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "api": ["${SVD_PUBLISH:-127.0.0.1:8000}:8000"],
        "flower": ["127.0.0.1:5555:5555"],
        "grafana": ["127.0.0.1:3000:3000"],
        "prometheus": ["127.0.0.1:9090:9090"],
    }


def test_a_first_start_needs_no_setting() -> None:
    assert re.findall(r"\$\{\w+:?\?", COMPOSE.read_text() + WITHOUT_GPU.read_text()) == []


def test_only_monitoring_is_a_profile(services: dict[str, Service]) -> None:
    profiles = {name: service.get("profiles") for name, service in services.items()}
    assert {name for name, chosen in profiles.items() if chosen == ["monitoring"]} == {
        "exporter",
        "prometheus",
        "grafana",
    }
    assert {name for name, chosen in profiles.items() if chosen is None} == {
        "redis",
        "api",
        "worker",
        "webhooks",
        "flower",
    }


def test_the_override_for_a_cpu_removes_the_gpu_and_sets_the_model(without_gpu: dict[str, Service]) -> None:
    assert "deploy: !reset null" in WITHOUT_GPU.read_text()
    worker = without_gpu["worker"]
    assert worker["deploy"] is None
    assert worker["build"]["args"]["COMPILER"] == ""
    assert worker["image"] != yaml.safe_load(COMPOSE.read_text())["services"]["worker"]["image"]
    assert without_gpu["api"]["environment"] == worker["environment"]
    # An empty model selects the default of a machine without CUDA: the nano model.
    assert worker["environment"] == {"SVD_MODEL": "${SVD_MODEL:-}", "SVD_DEVICES": "${SVD_DEVICES:-cpu}"}


def test_every_service_waits_until_the_volumes_are_prepared(
    services: dict[str, Service], all_services: dict[str, Service]
) -> None:
    prepare = all_services["prepare"]
    assert (prepare["network_mode"], prepare["restart"], prepare["read_only"]) == ("none", "no", True)
    assert prepare["cap_drop"] == ["ALL"]
    writable = {mount.rsplit(":", 1)[0]: mount.rsplit(":", 1)[1] for mount in prepare["volumes"]}
    for name, service in services.items():
        uses = {mount.rsplit("}:", 1)[0] for mount in service.get("volumes", ()) if mount.startswith("${")}
        if uses:
            assert service["depends_on"]["prepare"] == {"condition": "service_completed_successfully"}, name
            assert uses <= {mount.rstrip("}") for mount in writable}, name


@pytest.mark.parametrize(
    ("publish", "key"),
    [
        ("127.0.0.1:8000", False),
        ("[::1]:8000", False),
        ("0.0.0.0:8000", True),
        ("8000", True),
        ("192.168.1.5:80", True),
    ],
)
def test_a_first_key_is_created_if_others_can_reach_the_api(publish: str, key: bool, tmp_path: Path) -> None:
    output = prepared(tmp_path, SVD_PUBLISH=publish)
    assert (tmp_path / "secrets" / "SVD_API_KEYS").exists() is key
    if key:
        (shown,) = re.findall(r"sk-svd-[\w-]+", output)
        digest = hashlib.sha256(shown.encode()).hexdigest()
        kept = Settings.from_mapping({"SVD_API_KEYS": (tmp_path / "secrets" / "SVD_API_KEYS").read_text().strip()})
        assert kept.api_keys == f"first:{digest}:2"
        assert "sk-svd" not in prepared(tmp_path, SVD_PUBLISH=publish)


def test_no_key_is_created_for_a_service_with_keys(tmp_path: Path) -> None:
    assert "key" not in prepared(tmp_path, SVD_PUBLISH="0.0.0.0:8000", SVD_API_KEYS=f"ann:{'0' * 64}")


def test_no_key_is_created_for_a_service_that_is_open_by_its_setting(tmp_path: Path) -> None:
    assert "key" not in prepared(tmp_path, SVD_PUBLISH="0.0.0.0:8000", SVD_OPEN="1")


def test_passwords_are_generated_once_shown_once_and_kept(tmp_path: Path) -> None:
    output = prepared(tmp_path)
    flower = (tmp_path / "secrets" / "SVD_FLOWER_BASIC_AUTH").read_text().strip()
    user, _, password = flower.partition(":")
    assert f"user {user}, password {password}" in output
    assert len(password) >= 20
    assert Settings.from_mapping({"SVD_FLOWER_BASIC_AUTH": flower}).flower_basic_auth == flower
    grafana = (tmp_path / "secrets" / "GRAFANA_ADMIN_PASSWORD").read_text().strip()
    assert f"user admin, password {grafana}" in output
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "secrets").iterdir()} <= {0o400, 0o600}
    assert prepared(tmp_path) == ""
    assert (tmp_path / "secrets" / "SVD_FLOWER_BASIC_AUTH").read_text().strip() == flower


def test_configured_passwords_are_used_and_none_is_generated(tmp_path: Path) -> None:
    assert prepared(tmp_path, SVD_FLOWER_BASIC_AUTH="ann:secret", GRAFANA_ADMIN_PASSWORD="chosen") == ""
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["GRAFANA_ADMIN_PASSWORD"]
    assert (tmp_path / "secrets" / "GRAFANA_ADMIN_PASSWORD").read_text() == "chosen\n"


def test_folders_and_secrets_are_owned_by_their_users(tmp_path: Path) -> None:
    secret = tmp_path / "secrets" / "HF_TOKEN"
    secret.parent.mkdir()
    secret.write_text("hf_token")
    inside = tmp_path / "data" / "results"
    inside.mkdir(parents=True)
    prepared(tmp_path)
    changed = (tmp_path / "chown.log").read_text().splitlines()
    assert f"-R 10001:10001 {tmp_path}/data" in changed
    assert f"10001 {secret}" in changed
    assert f"472 {tmp_path}/secrets/.GRAFANA_ADMIN_PASSWORD" in changed
    assert secret.stat().st_mode & 0o777 == 0o400


def test_a_folder_whose_owner_cannot_be_changed_is_reported(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failed:
        prepared(tmp_path, FAIL="1")
    assert f"prepare: cannot give {tmp_path}/redis to user 10001" in failed.value.stderr


def test_redis_persists_every_job_and_evicts_none(services: dict[str, Service]) -> None:
    arguments = services["redis"]["command"]
    options = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--dir"] == "/data"
    assert "${SVD_REDIS_VOLUME:-redis}:/data" in services["redis"]["volumes"]


def test_only_services_that_need_redis_can_reach_it(compose: dict[str, Any], services: dict[str, Service]) -> None:
    assert compose["networks"]["ledger"]["internal"] is True
    assert services["redis"]["networks"] == ["ledger"]
    on_it = {name for name, service in services.items() if "ledger" in service["networks"]}
    assert on_it == {"redis", "api", "worker", "webhooks", "flower", "exporter"}


def test_no_service_runs_as_root_or_can_become_it(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert str(service["user"]).split(":")[0] not in {"0", "root"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name


def test_no_service_can_write_outside_its_volumes(services: dict[str, Service]) -> None:
    assert [name for name, service in services.items() if not service.get("read_only")] == []


def test_files_of_the_repository_are_mounted_read_only(all_services: dict[str, Service]) -> None:
    volumes = [mount for service in all_services.values() for mount in service.get("volumes", ())]
    mounts = [mount for mount in volumes if mount.startswith(".")]
    assert mounts
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (ROOT / source).exists(), mount
        assert mode == "ro", mount


def test_every_service_has_a_health_check_and_is_restarted(services: dict[str, Service]) -> None:
    for name, service in services.items():
        assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}, name
        assert service["restart"] == "unless-stopped", name


def test_every_volume_and_network_that_is_used_is_declared(
    compose: dict[str, Any], services: dict[str, Service]
) -> None:
    mounts = [mount for service in services.values() for mount in service.get("volumes", ())]
    # Some of them can be a folder: ${SVD_DATA_VOLUME:-data}:/data
    named = {re.sub(r"^\$\{\w+:-(\w+)\}", r"\1", mount).split(":")[0] for mount in mounts}
    assert {name for name in named if not name.startswith(".")} == set(compose["volumes"])
    assert {name for service in services.values() for name in service["networks"]} == set(compose["networks"])


def test_api_and_worker_agree_on_the_model_and_share_the_data(services: dict[str, Service]) -> None:
    api, worker = services["api"], services["worker"]
    for name in ("SVD_MODEL", "SVD_MODEL_REVISION", "SVD_DATA_DIR", "REDIS_URL"):
        assert api["environment"][name] == worker["environment"][name], name
    assert api["environment"]["SVD_MODEL"]
    for service in (api, worker):
        assert "${SVD_DATA_VOLUME:-data}:/data" in service["volumes"]
    assert api["user"] == worker["user"] == "10001:10001"


def test_the_worker_gets_the_gpus_and_time_to_finish_a_job(services: dict[str, Service]) -> None:
    (reserved,) = services["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert reserved == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert services["worker"]["stop_grace_period"] == f"{Settings().drain_timeout + 30:.0f}s"
    assert services["worker"]["init"] is True


def test_the_webhook_worker_reaches_receivers_and_has_time_for_their_answer(services: dict[str, Service]) -> None:
    webhooks = services["webhooks"]
    assert "outside" in webhooks["networks"]
    assert int(webhooks["stop_grace_period"].removesuffix("s")) > Settings().webhook_timeout
    assert webhooks["image"] == services["api"]["image"]


def test_every_setting_can_be_set_in_containers(services: dict[str, Service]) -> None:
    settings = set(Settings.variables().values())
    ours = {name for name in settings if name.startswith(("REDIS_", "SVD_", "VIDEO_"))}
    assert ours - set(services["api"]["environment"]) == NOT_PASSED_ON
    assert ours - set(services["worker"]["environment"]) == NOT_PASSED_ON
    assert ours - set(services["webhooks"]["environment"]) == NOT_PASSED_ON
    others = {name for name in set(services["worker"]["environment"]) - ours if not name.startswith("OTEL_")}
    assert others == {"HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HF_HUB_OFFLINE"} | PROXIES
    assert set(services["api"]["environment"]) >= PROXIES
    assert set(services["webhooks"]["environment"]) >= PROXIES


def test_health_checks_use_no_proxy(services: dict[str, Service]) -> None:
    for name in ("api", "flower", "exporter"):
        command, port = services[name]["healthcheck"]["test"][1:], {"api": 8000, "flower": 5555, "exporter": 9808}[name]
        free = free_port()
        with serving(free) as requests:
            program = [sys.executable, *command[1:-1], command[-1].replace(str(port), str(free))]
            environment = {"http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
            assert subprocess.run(program, env=environment, check=False, timeout=30).returncode == 0, name
            assert len(requests) == 1
        assert subprocess.run(program, env=environment, check=False, capture_output=True).returncode != 0, name


def test_only_gunicorn_has_multiprocess_metrics(services: dict[str, Service]) -> None:
    name = "PROMETHEUS_MULTIPROC_DIR"
    assert [each for each, service in services.items() if name in service.get("environment", ())] == ["api"]
    assert services["api"]["environment"][name].startswith("/dev/shm/")
    assert services["api"]["tmpfs"][0].split(":")[0] == "/tmp"


def test_no_password_has_a_default(services: dict[str, Service]) -> None:
    assert services["flower"]["environment"]["SVD_FLOWER_BASIC_AUTH"] is None
    assert services["flower"]["command"] == ["svd-service", "flower"]
    grafana = services["grafana"]["environment"]
    assert [name for name in grafana if "PASSWORD" in name] == ["GF_SECURITY_ADMIN_PASSWORD__FILE"]
    secrets = "${SVD_SECRETS_VOLUME:-secrets}:/run/secrets:ro"
    readers = {name for name, service in services.items() if secrets in service.get("volumes", ())}
    assert readers == {"api", "worker", "webhooks", "flower", "grafana"}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_an_image_has_few_privileges_and_a_configurable_base(dockerfile: Path) -> None:
    lines = dockerfile.read_text().splitlines()
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM ${BUILD_IMAGE} AS build",
        "FROM ${PYTHON_IMAGE}",
    ]
    assert "ARG PYTHON_IMAGE=python:3.11-slim-bookworm" in lines
    assert "ARG BUILD_IMAGE=${PYTHON_IMAGE}" in lines
    assert "USER 10001:10001" in lines
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert all("--no-cache-dir" in line for line in lines if "pip install" in line)


def test_only_the_worker_has_a_compiler_and_pythons_headers_which_can_be_omitted() -> None:
    worker, api = (last_stage(ROOT / "docker" / f"{name}.Dockerfile") for name in ("worker", "api"))
    (run,) = [instruction for instruction in worker if "apt-get" in instruction]
    assert run.startswith('RUN [ -z "$COMPILER" ] || {')
    assert worker[worker.index(run) - 1] == "ARG COMPILER=yes"
    assert worker.index(run) < worker.index("USER 10001:10001")
    always, without_headers = (words.split() for words in re.findall(r"apt-get install ([^&|;]+)", run))
    # Triton calls gcc, which g++ installs too; inductor's C++ requires the C library's headers as well.
    assert {"g++", "libc6-dev"} <= set(always)
    assert "libpython3-dev" in without_headers
    assert run.index("g++") < run.index("Python.h") < run.index("libpython3-dev")
    for options in (always, without_headers):
        assert {"--yes", "--no-install-recommends"} <= set(options)
    assert run.endswith("&& apt-get clean && rm -rf /var/lib/apt/lists/*; }")
    assert [instruction for instruction in api if "apt-get" in instruction] == []


def test_the_workers_image_omits_the_tests_of_packages() -> None:
    text = (ROOT / "docker" / "worker.Dockerfile").read_text()
    for removed in ("-type d -name tests -prune", "torch/test", "! -name torch_shm_manager -delete"):
        assert removed in text, removed


def test_caches_of_the_worker_are_in_volumes(services: dict[str, Service]) -> None:
    mounted = {Path(mount.removesuffix(":ro").rpartition(":")[2]) for mount in services["worker"]["volumes"]}
    (environment,) = [one for one in last_stage(ROOT / "docker" / "worker.Dockerfile") if one.startswith("ENV ")]
    kept = dict(word.split("=", 1) for word in environment.split()[1:])
    for name in ("HF_HOME", "CUDA_CACHE_PATH", "SVD_DATA_DIR"):
        assert mounted & {Path(kept[name]), *Path(kept[name]).parents}, name


def test_the_images_are_built_from_the_package_only() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        source
        for path in DOCKERFILES
        for line in path.read_text().splitlines()
        if line.startswith("COPY") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert copied == let_in


def test_health_checks_of_the_images_and_of_compose_are_the_same(services: dict[str, Service]) -> None:
    for name in ("api", "worker"):
        image = (ROOT / "docker" / f"{name}.Dockerfile").read_text()
        command = services[name]["healthcheck"]["test"][-1].replace("$$", "$")
        assert f'"{command}"' in image, name


def test_promtool_accepts_the_scrape_configuration(promtool: str) -> None:
    status, output = run(promtool, "check", "config", str(PROMETHEUS))
    assert status == 0, output


def test_prometheus_scrapes_services_that_it_can_reach(services: dict[str, Service]) -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]}
    assert set(jobs) == {"api", "exporter", "flower"}
    for name, job in jobs.items():
        ((target,),) = (entry["targets"] for entry in job["static_configs"])
        assert target.split(":")[0] == name
        assert "metrics" in services[name]["networks"]


def test_grafana_finds_its_data_source_and_its_dashboards(services: dict[str, Service]) -> None:
    (source,) = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((GRAFANA / "dashboards" / "svd-service.yml").read_text())["providers"]
    assert "./docker/grafana:/etc/grafana/provisioning:ro" in services["grafana"]["volumes"]
    assert provider["options"]["path"] == "/etc/grafana/provisioning/dashboards"
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/svd-service.json"


def test_every_panel_has_a_unique_id_and_the_provisioned_data_source(dashboard: dict[str, Any]) -> None:
    (source,) = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yml").read_text())["datasources"]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    used = {part["datasource"]["uid"] for part in [*drawn(dashboard), *targets(dashboard)]}
    assert used == {source["uid"]}


def test_panels_have_titles_and_descriptions_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    assert all(panel["description"] for panel in drawn(dashboard))
    taken = [
        (column, line)
        for panel in dashboard["panels"]
        for column in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert {column for column, _ in taken} == set(range(24))


def test_dashboard_and_rules_name_only_exposed_metrics_of_ours(dashboard: dict[str, Any], settings: Settings) -> None:
    # Other programs' metrics, and every label: tests/integration/service/test_monitoring.py, with all services running.
    named = {selector.metric for query in [*queries(dashboard), *rules()] for selector in promql.selectors(query)[0]}
    ours = {name for name in named if name.startswith("svd_")}
    assert ours - exposed(settings) - promql.recorded().keys() == set()


def test_the_dashboard_shows_every_metric_of_ours(dashboard: dict[str, Any], settings: Settings) -> None:
    shown = {selector.metric for query in queries(dashboard) for selector in promql.selectors(query)[0]}
    assert promql.recorded().keys() - shown == set()
    behind = {selector.metric for query in rules() for selector in promql.selectors(query)[0]}
    assert exposed(settings) - shown - behind == set()


def test_dashboard_and_rules_count_the_ledger_once(dashboard: dict[str, Any]) -> None:
    for query in [*queries(dashboard), *rules()]:
        for selector in promql.selectors(query)[0]:
            if selector.metric.startswith("svd_") and selector.metric not in promql.recorded():
                assert selector.value("job") == "exporter", query


def test_promtool_accepts_the_rules(promtool: str) -> None:
    status, output = run(promtool, "check", "rules", *map(str, promql.RULES))
    assert status == 0, output
    assert sum(int(number) for number in re.findall(r"(\d+) rules found", output)) >= len(promql.rules()) > 0


def test_promtools_rule_tests_pass(promtool: str) -> None:
    status, output = run(promtool, "test", "rules", str(RULE_TESTS))
    assert status == 0, output


def test_the_rule_tests_have_every_alert_firing_and_silent_and_every_recorded_figure() -> None:
    shown: dict[str, set[bool]] = {}
    recorded = set()
    for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        recorded |= {selector["expr"] for selector in test.get("promql_expr_test", ())}
        for case in test.get("alert_rule_test", ()):
            shown.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    alerts = {rule["alert"] for rule in promql.rules() if "alert" in rule}
    assert shown == {alert: {True, False} for alert in alerts}
    assert recorded == promql.recorded().keys()


def test_every_alert_links_to_its_section_of_the_operations_guide() -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    headings = re.findall(r"^#+ (.+)$", guide, re.MULTILINE)
    # As GitHub makes them.
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for alert in (rule for rule in promql.rules() if "alert" in rule):
        file, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert file == "docs/operations.md"
        assert anchor in anchors, alert["alert"]
        assert f"`{alert['alert']}`" in guide
        assert alert["labels"]["severity"] in {"critical", "warning"}


def test_prometheus_reads_the_rules(services: dict[str, Service]) -> None:
    configured = yaml.safe_load(PROMETHEUS.read_text())["rule_files"]
    assert {path for pattern in configured for path in PROMETHEUS.parent.glob(pattern)} == set(promql.RULES)
    assert "./docker/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    assert "${SVD_DATA_VOLUME:-data}:/data:ro" in services["exporter"]["volumes"]  # for the alert about the disk space


def test_promtool_parses_every_query_of_the_dashboard(promtool: str, dashboard: dict[str, Any], tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query:{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(queries(dashboard))
    ]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    status, output = run(promtool, "check", "rules", str(file))
    assert status == 0, output
    assert f"{len(rules)} rules found" in output


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        (pytest.fail if CI else pytest.skip)("no promtool (Debian: prometheus)")
    return found


def last_stage(dockerfile: Path) -> list[str]:
    """The instructions of the last build stage, one per line, without comments."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    instructions = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines)).splitlines()
    begins = max(number for number, line in enumerate(instructions) if line.startswith("FROM "))
    return instructions[begins:]


def program(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if not found:
        (pytest.fail if CI else pytest.skip)(f"no {name} (pip install 'svd-service[test]')")
    return found


def run(*command: str) -> tuple[int, str]:
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60
    )
    return ended.returncode, ended.stdout


def prepared(folder: Path, **variables: str) -> str:
    """Runs docker/prepare.sh on folders in `folder` and returns its output. `chown` only records its arguments."""
    for name in ("redis", "data", "cache", "secrets"):
        (folder / name).mkdir(exist_ok=True)
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    chown = programs / "chown"
    chown.write_text(f'#!/bin/sh\n[ -z "${{FAIL:-}}" ] || exit 1\necho "$@" >>{folder}/chown.log\n')
    chown.chmod(0o755)
    script = folder / "prepare.sh"
    script.write_text(re.sub(r"(?<=[\s\"])/(redis|data|cache|secrets)\b", rf"{folder}/\1", PREPARE.read_text()))
    ended = subprocess.run(
        ["sh", str(script)],
        env={"SVD_PUBLISH": "127.0.0.1:8000", **variables, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout


@contextlib.contextmanager
def serving(port: int) -> Iterator[list[str]]:
    """Serves 200 for every GET on `port`; yields the requested paths."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield paths
        server.shutdown()
        thread.join()


def drawn(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def targets(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for panel in drawn(dashboard):
        yield from panel["targets"]


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in targets(dashboard)]


def rules() -> list[str]:
    return [rule["expr"] for rule in promql.rules()]


def exposed(settings: Settings) -> set[str]:
    """Names of the exposed series, as Prometheus stores them."""
    suffixes = {"counter": ("_total",), "summary": ("_sum", "_count"), "gauge": ("",), "histogram": ("_bucket",)}
    families = [*LedgerCollector(_NoFigures()).describe(), *HostCollector(settings).describe()]
    return {family.name + suffix for family in families for suffix in suffixes[family.type]}


class _NoFigures:
    def figures(self) -> Figures:
        raise AssertionError("describing reads nothing")
