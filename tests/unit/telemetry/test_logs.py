import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from svd_service.config import Settings
from svd_service.telemetry import logs

logger = logging.getLogger("svd_service.tests")


@pytest.fixture(autouse=True)
def _own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Restores the logging configuration after each test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(logs, "_process", {})
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    # pytest replaces its own stream before the test is called.
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    return cast(io.StringIO, sys.stderr)


@pytest.fixture
def lines(make_settings: Callable[..., Settings], stderr: io.StringIO) -> Callable[[], list[dict]]:
    """The logged lines, as parsed JSON."""
    logs.configure(make_settings(SVD_LOG_FORMAT="json"))
    return lambda: [json.loads(line) for line in stderr.getvalue().splitlines()]


@pytest.fixture
def plain(make_settings: Callable[..., Settings], stderr: io.StringIO) -> Callable[[], list[str]]:
    """The logged lines in the plain format."""
    logs.configure(make_settings())
    return lambda: stderr.getvalue().splitlines()


def test_an_event_is_one_object_on_one_line(lines: Callable[[], list[dict]]) -> None:
    logger.info("two lines,\nof %s", "one event")
    (line,) = lines()
    assert line.keys() == {"time", "level", "logger", "pid", "message"}
    assert (line["level"], line["logger"]) == ("INFO", "svd_service.tests")
    assert line["message"] == "two lines,\nof one event"


def test_an_exception_is_part_of_its_line(lines: Callable[[], list[dict]]) -> None:
    try:
        raise ValueError("no such thing")
    except ValueError:
        logger.exception("it failed")
    (line,) = lines()
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ValueError: no such thing")


def test_lines_carry_their_context_while_it_is_active(lines: Callable[[], list[dict]]) -> None:
    logs.identify(worker="host/0")
    with logs.context(request_id="r", key_id=""):
        with logs.context(job_id="j"):
            logs.add(key_id="k")
            logger.info("inner")
        logger.info("outer")
    logs.add(job_id="unrelated")
    logger.info("outside")
    assert [{name: line[name] for name in line if name.endswith("_id") or name == "worker"} for line in lines()] == [
        {"worker": "host/0", "request_id": "r", "job_id": "j", "key_id": "k"},
        {"worker": "host/0", "request_id": "r"},
        {"worker": "host/0"},
    ]


def test_another_thread_has_its_own_context(lines: Callable[[], list[dict]]) -> None:
    with logs.context(job_id="j"):
        thread = threading.Thread(target=lambda: logger.info("beside"))
        thread.start()
        thread.join()
    (line,) = lines()
    assert "job_id" not in line


def test_celerys_lines_about_a_task_have_its_job_id(lines: Callable[[], list[dict]]) -> None:
    logging.getLogger("celery.app.trace").info("Task %(id)s succeeded", {"id": "j"}, extra={"data": {"id": "j"}})
    (line,) = lines()
    assert (line["message"], line["job_id"]) == ("Task j succeeded", "j")


def test_a_python_warning_is_logged(lines: Callable[[], list[dict]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
    (line,) = lines()
    assert line["logger"] == "py.warnings"
    assert "mind the gap" in line["message"]


def test_an_uncaught_exception_is_the_last_line_of_a_process() -> None:
    program = """
import threading
from svd_service.telemetry import logs
from svd_service.config import Settings
logs.configure(Settings.from_mapping({"SVD_LOG_FORMAT": "json"}))
def fail(): raise KeyError("in a thread")
thread = threading.Thread(target=fail, name="one")
thread.start()
thread.join()
raise ValueError("in the end")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    thread, process = (json.loads(line) for line in done.stderr.splitlines())
    assert (thread["level"], thread["message"]) == ("CRITICAL", "uncaught exception in thread one")
    assert thread["exception"].endswith("KeyError: 'in a thread'")
    assert (process["level"], process["message"]) == ("CRITICAL", "uncaught exception")
    assert process["exception"].endswith("ValueError: in the end")


def test_a_plain_line_ends_with_its_context(plain: Callable[[], list[str]]) -> None:
    with logs.context(job_id="j", key_id="k"):
        logger.warning("look")
    (line,) = plain()
    assert " WARNING svd_service.tests[" in line
    assert line.endswith("]: look (job_id=j key_id=k)")


def test_newlines_in_a_message_cannot_forge_a_plain_line(plain: Callable[[], list[str]]) -> None:
    logger.warning("not found: %s", "/\n2026-01-01 INFO svd_service[1]: all is well\r")
    (line,) = plain()
    assert line.endswith(r"not found: /\n2026-01-01 INFO svd_service[1]: all is well\r")


def test_the_access_log_has_the_path_and_the_status_and_not_the_query(
    lines: Callable[[], list[dict]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # gunicorn reads its settings when the module is imported, and the module reads this variable.
    from datetime import timedelta

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nonexistent")
    from svd_service import gunicorn

    log = gunicorn.Logger.__new__(gunicorn.Logger)
    log._access_log_enabled = True
    log.access_log = logging.getLogger("gunicorn.access")
    monkeypatch.setattr(log.access_log, "propagate", True)
    answer = SimpleNamespace(status="404 NOT FOUND", sent=12)
    environ = {
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/status/x%0Ay?api_key=sk-svd-secret",
        "REMOTE_ADDR": "192.0.2.1",
        logs.WSGI_FIELDS: {"request_id": "r", "key_id": "k"},
    }
    log.access(answer, None, environ, timedelta(seconds=1.5))
    for path, status in (("/health", "200 OK"), ("/metrics", "200 OK"), ("/health", "503 SERVICE UNAVAILABLE")):
        log.access(SimpleNamespace(status=status), None, {"REQUEST_METHOD": "GET", "RAW_URI": path}, timedelta(0))
    line, unhealthy = lines()
    assert line["message"] == "GET /status/x%0Ay 404"
    about = ("request_id", "key_id", "status", "bytes", "seconds", "address")
    assert [line[name] for name in about] == ["r", "k", 404, 12, 1.5, "192.0.2.1"]
    assert unhealthy["message"] == "GET /health 503"
