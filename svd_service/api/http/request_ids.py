"""WSGI middleware: gives each request its id (`X-Request-ID`), its log fields and its trace span.

It also limits methods to known ones, and sets `X-Content-Type-Options: nosniff` on every response.
"""

import re
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from flask import request

from svd_service.telemetry import logs, tracing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: The header that a proxy or a caller may set to name a request; every response has it.
HEADER: Final = "X-Request-ID"

#: Callers' ids that are accepted. Others might forge log lines.
_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")

#: Methods that only read. Clients poll while a job runs: these requests are traced only if they have a `traceparent`.
_READING: Final = {"GET", "HEAD", "OPTIONS"}

#: The methods of HTTP (RFC 9110 and PATCH). All others are called `OTHER`, and allowed nowhere.
METHODS: Final = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

_NOSNIFF: Final = "X-Content-Type-Options"


def request_id() -> str:
    """Return the current request's id, as the response's header has it."""
    return str(request.environ[logs.WSGI_FIELDS]["request_id"])


class RequestIdMiddleware:
    """WSGI middleware around everything else."""

    def __init__(self, app: "WSGIApplication") -> None:
        self._app = app

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Respond as the application does, with the request's id in the response and in the log."""
        name = str(environ.get("HTTP_X_REQUEST_ID", ""))
        request_id = name if _NAME.fullmatch(name) else uuid.uuid4().hex
        if environ["REQUEST_METHOD"] not in METHODS:
            # Metrics and traces have a series for each method: strangers must not be able to make up more of them.
            environ["REQUEST_METHOD"] = "OTHER"
        span = _span_of(environ)

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Callable[[bytes], object]:
            _describe(span, environ, int(status.partition(" ")[0]))
            return start_response(status, [*_with_nosniff(headers), (HEADER, request_id)], *error)

        with logs.context(request_id=request_id) as fields, tracing.present(span):
            environ[logs.WSGI_FIELDS] = fields
            try:
                return self._app(environ, start)
            finally:
                span.end()


def _with_nosniff(headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Forbid browsers to guess another type than the response's: an image or a message could pass for a script."""
    return [*(header for header in headers if header[0] != _NOSNIFF), (_NOSNIFF, "nosniff")]


def _span_of(environ: "WSGIEnvironment") -> tracing.Span:
    """Begin the request's span. It ends when the application returns: what a stream sends later does not count."""
    method = str(environ["REQUEST_METHOD"])
    if not tracing.is_on() or (method in _READING and "HTTP_TRACEPARENT" not in environ):
        return tracing.Span()
    headers = {name: str(environ.get(f"HTTP_{name.upper()}", "")) for name in ("traceparent", "tracestate")}
    parent = {name: value for name, value in headers.items() if value}
    about = {"http.request.method": method, "url.path": str(environ.get("PATH_INFO", ""))}
    return tracing.begin(method, parent, kind="SERVER", attributes=about)


def _describe(span: tracing.Span, environ: "WSGIEnvironment", status: int) -> None:
    """Set the span's name and attributes that are known once the response starts."""
    about: dict[str, str | int] = {"http.response.status_code": status}
    # The application's own request, which knows its route by now.
    rule = getattr(environ.get("werkzeug.request"), "url_rule", None)
    if rule is not None:
        span.rename(f"{environ['REQUEST_METHOD']} {rule.rule}")
        about["http.route"] = rule.rule
    if job_id := environ.get(logs.WSGI_FIELDS, {}).get("job_id"):
        about["svd.job.id"] = job_id
    span.set(about)
    if status >= 500:
        span.end(error=f"status {status}")
