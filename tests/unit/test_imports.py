import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEAVY = {"torch", "diffusers", "av", "transformers", "numpy"}


def modules_of(statement: str) -> set[str]:
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def imported_by(statement: str) -> set[str]:
    return {name.partition(".")[0] for name in modules_of(statement)}


def test_the_web_process_does_not_import_torch():
    assert not imported_by("import wsgi") & HEAVY


def test_without_tracing_the_web_process_does_not_import_opentelemetry():
    # redis-py imports a part of it by itself where it is installed.
    brought = modules_of("import wsgi") - modules_of("import redis, redis.backoff, redis.retry")
    assert {name for name in brought if name.startswith("opentelemetry")} == set()
    modules_of("import sys; sys.modules['opentelemetry'] = None; import wsgi")  # works without it


def test_the_parent_of_the_worker_processes_does_not_import_torch():
    assert not imported_by("import svd_service.worker.tasks") & {"torch", "diffusers", "transformers"}


def test_the_webhook_worker_imports_no_heavy_package():
    assert not imported_by("import svd_service.webhooks.app") & (HEAVY | {"flask", "PIL", "werkzeug"})


def test_the_client_imports_no_package_of_the_server():
    brought = imported_by("import svd_service.client, svd_service.cli.generate")
    assert not brought & (HEAVY | {"flask", "celery", "redis", "PIL", "pydantic"})


def test_obstore_is_imported_on_first_use_only(monkeypatch):
    assert "obstore" not in imported_by("import wsgi")
    # Forked processes use the configured bucket, and obstore must not be loaded before a fork.
    monkeypatch.setenv("SVD_ARTIFACTS", "s3://bucket/prefix")
    assert "obstore" not in imported_by("import wsgi")
    modules = "from svd_service import bootstrap, config\nfrom svd_service.worker import tasks\n"
    parent = modules + "bootstrap.worker(config.settings())"
    assert "obstore" not in imported_by(parent)


@pytest.mark.parametrize(
    ("extra", "statement"),
    [
        ("api", "import wsgi, svd_service.celery_app, svd_service.jobs.images.opening, kombu.transport.redis"),
        (
            "api",
            "import svd_service.telemetry.exporter, svd_service.cli.keys, celery.bin.celery, celery.backends.redis",
        ),
        ("monitoring", "import flower.command, kombu.transport.redis, celery.backends.redis"),
    ],
)
def test_an_image_imports_only_packages_of_its_extra(extra: str, statement: str):
    there = installed_with(extra) | {"svd-service", "setuptools"}
    absent = [
        name
        for name, owners in metadata.packages_distributions().items()
        if there.isdisjoint(map(canonicalize_name, owners))
    ]
    imported_by(WITHOUT.format(absent=absent, statement=statement))


#: A finder, before all others, that hides packages.
WITHOUT = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name}}", name=name)

for name in set(sys.modules) & set({absent}):
    del sys.modules[name]
sys.meta_path.insert(0, Absent())
{statement}
"""


def installed_with(extra: str) -> set[str]:
    """Every distribution that `svd-service[extra]` brings, as pyproject.toml and the packages themselves declare it."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {"": project["dependencies"], **project["optional-dependencies"]}
    found: set[tuple[str, str]] = set()
    waiting = [("svd-service", ""), ("svd-service", extra)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in found:
            continue
        found.add((name, wanted))
        lines = declared[wanted] if name == "svd-service" else metadata.requires(name) or []
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": wanted}):
                canonical = canonicalize_name(requirement.name)
                waiting += [(canonical, each) for each in ("", *requirement.extras)]
    return {name for name, _ in found}
