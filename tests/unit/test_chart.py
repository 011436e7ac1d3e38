"""docker/helm: values, their schema, and the manifests that Helm renders from docker/kubernetes."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from svd_service import __version__
from tools.harness.local import ROOT

CHART = ROOT / "docker" / "helm"
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
KUBERNETES = "1.37"


def errors(values: dict[str, Any]) -> list[str]:
    return [each.message for each in jsonschema.Draft7Validator(SCHEMA).iter_errors(values)]


def changed(path: str, value: object) -> dict[str, Any]:
    """The default values with another value at a path such as `a.b.0.c`."""
    values = copy.deepcopy(VALUES)
    *parents, name = path.split(".")
    place: Any = values
    for parent in parents:
        place = place[int(parent) if parent.isdecimal() else parent]
    place[name] = value
    return values


def test_the_chart_has_the_version_of_the_service() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_the_default_values_match_the_schema_which_describes_every_value() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    assert errors(VALUES) == []

    def describes(schema: dict[str, Any], values: object) -> None:
        assert schema["description"], schema
        if isinstance(values, dict) and "properties" in schema:
            assert set(values) <= set(schema["properties"])
            for name, value in values.items():
                describes(schema["properties"][name], value)

    describes({"description": "all", **SCHEMA}, VALUES)
    describes(SCHEMA["properties"]["workers"]["items"], VALUES["workers"][0])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("images.api.repository", "registry.example.com/api:latest"),
        ("images.worker.tag", "a tag"),
        ("settings.svd_model", "x"),
        ("settings.SVD_MAX_QUEUED", 10),
        ("secret", ""),
        ("workers", []),
        ("workers.0.name", "Large"),
        ("workers.0.minimum", -1),
        ("workers.0.gpus", 2),
        ("api.minimum", 0),
        ("autoscaling.prometheus", "prometheus:9090"),
        ("storage.data.size", "100 GB"),
        ("replicas", 3),
    ],
)
def test_a_wrong_value_is_rejected(path: str, value: object) -> None:
    assert len(errors(changed(path, value))) == 1


def test_templates_use_exactly_the_values() -> None:
    used = set(re.findall(r"\.Values\.([\w.]+)|\$values\.([\w.]+)", "".join(TEMPLATES.values())))
    paths = {one or other for one, other in used}
    for path in paths:
        place: Any = VALUES
        for name in path.split("."):
            place = place[name]
    assert {path.partition(".")[0] for path in paths} == VALUES.keys()
    assert set(re.findall(r"\$worker\.(\w+)", TEMPLATES["workers.yaml"])) == VALUES["workers"][0].keys()


def test_texts_that_templates_replace_are_in_the_manifests() -> None:
    manifests = "".join(path.read_text() for path in (ROOT / "docker" / "kubernetes").rglob("*.yaml"))
    replaced = re.findall(r'\| replace ("(?:[^"\\]|\\.)*")', TEMPLATES["_manifests.tpl"])
    assert len(replaced) == 8
    for text in map(json.loads, replaced):
        assert text in manifests, text


def test_the_chart_has_the_manifests_that_kustomize_uses() -> None:
    base = yaml.safe_load((CHART / "manifests" / "base" / "kustomization.yaml").read_text())
    (names,) = re.findall(r"\$paths := list (.*) }}", TEMPLATES["service.yaml"])
    assert sorted(f"{name}.yaml" for name in json.loads(f"[{names.replace(' ', ',')}]")) == sorted(base["resources"])
    for link in (CHART / "manifests").iterdir():
        assert link.resolve() == ROOT / "docker" / "kubernetes" / link.name


@pytest.fixture(scope="module")
def helm() -> str:
    program = shutil.which("helm")
    if not program:
        pytest.skip("no helm")
    return program


def rendered(helm: str, folder: Path, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The manifests that Helm renders from the values, by kind and name."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    command = [helm, "template", "svd", str(CHART), "--namespace", "videos", "--values", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    documents = [each for each in yaml.safe_load_all(done.stdout) if each]
    for document in documents:
        if document["kind"] != "ScaledObject":
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}


def test_helm_lint_reports_no_problem(helm: str) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_helm_renders_a_deployment_for_each_type_of_gpu(helm: str, tmp_path: Path) -> None:
    workers = [
        {"name": "l40s", "product": "NVIDIA-L40S", "minimum": 1, "maximum": 2, "settings": {"SVD_PROFILES": "draft"}},
        {"name": "any", "minimum": 0, "maximum": 3, "seconds": 600},
    ]
    made = rendered(helm, tmp_path, changed("workers", workers))
    pod = made["Deployment/worker-l40s"]["spec"]["template"]
    assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-L40S"}
    assert {"name": "SVD_PROFILES", "value": "draft"} in pod["spec"]["containers"][0]["env"]
    assert pod["metadata"]["labels"]["svd-service/gpu"] == "l40s"
    scaled = made["ScaledObject/worker-any"]["spec"]
    assert (scaled["scaleTargetRef"]["name"], scaled["minReplicaCount"]) == ("worker-any", 0)
    assert scaled["triggers"][0]["metadata"]["threshold"] == "600"
    assert 'namespace="videos"' in scaled["triggers"][0]["metadata"]["query"]


def test_helm_omits_disabled_parts(helm: str, tmp_path: Path) -> None:
    values = copy.deepcopy(VALUES)
    for name in ("autoscaling", "redis", "networkPolicies"):
        values[name]["enabled"] = False
    values["storage"]["data"]["class"] = "nfs"
    made = rendered(helm, tmp_path, values)
    assert {"ScaledObject", "NetworkPolicy", "StatefulSet"}.isdisjoint(name.partition("/")[0] for name in made)
    assert made["Deployment/api"]["spec"]["replicas"] == 2
    assert made["Deployment/worker-gpu"]["spec"]["replicas"] == 1
    assert made["PersistentVolumeClaim/data"]["spec"]["storageClassName"] == "nfs"
