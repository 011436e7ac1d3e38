"""How every process of ours logs: one line per event, plain or as JSON, with what each event is about.

Whoever begins something opens a `context` for it: a request, an attempt. What is logged meanwhile, by whichever module
or library, carries its fields: `request_id`, `job_id`, `key_id`. `worker` is a process' own, for all of its lines.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final

from svd_service.config import Settings

#: Attribute of a record that names fields of this one event.
ABOUT: Final = "about"

#: Where a request's fields are in its WSGI environment: its context is over before the access log has its say.
WSGI_FIELDS: Final = "svd_service.log_fields"

_context: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)

#: Fields of every line of this process, and of those that it forks.
_process: Final[dict[str, str]] = {}


@contextmanager
def context(**fields: str) -> Iterator[dict[str, str]]:
    """What this thread logs within the block is about `fields`, and about those of the contexts around it.

    Gives the fields, to which `add` may add; empty ones are left out.
    """
    opened = {**(_context.get() or {}), **_told(fields)}
    token = _context.set(opened)
    try:
        yield opened
    finally:
        _context.reset(token)


def add(**fields: str) -> None:
    """What else the present context is about, as far as it is known by now. Where there is none, nothing happens."""
    present = _context.get()
    if present is not None:
        present.update(_told(fields))


def identify(worker: str) -> None:
    """Every line of this process is about `worker` from now on."""
    _process["worker"] = worker


def configure(settings: Settings) -> None:
    """Send this process' log, Python's warnings included, to standard error, in the form that the settings name.

    In JSON, what ends a thread or the process is a line as well.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else PlainFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    if settings.log_format == "json":
        sys.excepthook = _log_end_of_process
        threading.excepthook = _log_end_of_thread


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (ISO 8601, UTC), level, logger, process id, message, what the event is about, and
    the exception if any.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        event = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
            **_about(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class PlainFormatter(logging.Formatter):
    """For people: a line as ever, with what it is about at its end. Only an exception takes more lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The record without its exception. A line break in it could pass for another event."""
        line = super().formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")
        about = " ".join(f"{name}={value}" for name, value in _about(record).items())
        return f"{line} ({about})" if about else line


def _about(record: logging.LogRecord) -> dict[str, Any]:
    about = {**_process, **(_context.get() or {}), **getattr(record, ABOUT, {})}
    # Celery's own lines carry the task, whose id is the job's.
    task = getattr(record, "data", None)
    if isinstance(task, Mapping) and "id" in task:
        about["job_id"] = task["id"]
    return about


def _told(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _log_end_of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error, trace))


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = ended.thread.name if ended.thread else "?"
        told = (ended.exc_type, ended.exc_value, ended.exc_traceback)
        logging.getLogger(__name__).critical("uncaught exception in thread %s", name, exc_info=told)
