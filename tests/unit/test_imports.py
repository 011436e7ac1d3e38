import json
import subprocess
import sys

HEAVY = {"torch", "diffusers", "av", "transformers", "numpy"}


def modules_of(statement: str) -> set[str]:
    program = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def brought_by(statement: str) -> set[str]:
    return {name.partition(".")[0] for name in modules_of(statement)}


def test_the_web_process_brings_no_torch():
    assert not brought_by("import wsgi") & HEAVY


def test_without_tracing_the_web_process_brings_nothing_of_opentelemetry():
    # redis-py looks for it by itself, and brings a part where it is installed.
    brought = modules_of("import wsgi") - modules_of("import redis, redis.backoff, redis.retry")
    assert {name for name in brought if name.startswith("opentelemetry")} == set()
    modules_of("import sys; sys.modules['opentelemetry'] = None; import wsgi")  # nor does it need it


def test_the_parent_of_the_worker_processes_brings_no_torch():
    assert not brought_by("import svd_service.worker.tasks") & {"torch", "diffusers", "transformers"}


def test_the_courier_is_light():
    assert not brought_by("import svd_service.courier") & (HEAVY | {"flask", "PIL", "werkzeug"})


def test_the_client_brings_nothing_of_the_server():
    brought = brought_by("import svd_service.client, svd_service.client.commands")
    assert not brought & (HEAVY | {"flask", "celery", "redis", "PIL", "pydantic"})


def test_obstore_comes_in_with_the_first_use_alone(monkeypatch):
    assert "obstore" not in brought_by("import wsgi")
    # A bucket that is configured is spoken to by processes that were forked, and what speaks to it must not be forked.
    monkeypatch.setenv("SVD_ARTIFACTS", "s3://bucket/prefix")
    assert "obstore" not in brought_by("import wsgi")
    parent = "from svd_service.worker import lifecycle, tasks\nlifecycle.jobs(lifecycle.settings())"
    assert "obstore" not in brought_by(parent)
