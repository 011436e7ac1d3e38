"""Logging of every process: one line per event, plain or JSON, with fields.

A request or an attempt opens a `context`; everything logged meanwhile, in any module or library, carries its fields:
`request_id`, `job_id`, `key_id`. `worker` is a field of all lines of a process.
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

#: Attribute of a log record with fields of this one event.
ABOUT: Final = "about"

#: Key of a request's fields in its WSGI environment: its context ends before the access log is written.
WSGI_FIELDS: Final = "svd_service.log_fields"

_context: ContextVar[dict[str, str] | None] = ContextVar("log_context", default=None)

#: Fields of every line of this process, and of those that it forks.
_process: Final[dict[str, str]] = {}


@contextmanager
def context(**fields: str) -> Iterator[dict[str, str]]:
    """Add `fields` to everything that this thread logs within the block, beside those of enclosing contexts.

    Yields the fields, which `add` extends; empty ones are omitted.
    """
    opened = {**(_context.get() or {}), **_present(fields)}
    token = _context.set(opened)
    try:
        yield opened
    finally:
        _context.reset(token)


def add(**fields: str) -> None:
    """Add fields to the current context, if there is one."""
    present = _context.get()
    if present is not None:
        present.update(_present(fields))


def identify(worker: str) -> None:
    """Add the field `worker` to every line of this process from now on."""
    _process["worker"] = worker


def configure(settings: Settings) -> None:
    """Send this process' log, including Python's warnings, to standard error in the configured format.

    With JSON, an uncaught exception is one line as well.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else PlainFormatter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    if settings.log_format == "json":
        sys.excepthook = _log_end_of_process
        threading.excepthook = _log_end_of_thread


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (ISO 8601, UTC), level, logger, process id, message, fields, and the exception if
    there is one.
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
    """For people: a conventional line with the fields at its end. Only an exception takes more lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The record without its exception. Line breaks are escaped, so that they cannot fake another event."""
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


def _present(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}


def _log_end_of_process(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(__name__).critical("uncaught exception", exc_info=(kind, error, trace))


def _log_end_of_thread(ended: threading.ExceptHookArgs) -> None:
    if ended.exc_value is not None and not isinstance(ended.exc_value, SystemExit):
        name = ended.thread.name if ended.thread else "?"
        exception = (ended.exc_type, ended.exc_value, ended.exc_traceback)
        logging.getLogger(__name__).critical("uncaught exception in thread %s", name, exc_info=exception)
