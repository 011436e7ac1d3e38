"""Optional traces: OpenTelemetry's spans of a job, from its request to its committed video.

Only this module imports OpenTelemetry, and only with `SVD_TRACING`. Until `configure` is called, and always where
tracing is off, everything here does nothing. Exporters and sampling are configured by OpenTelemetry's own variables
(`OTEL_…`).
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from svd_service.config import ConfigurationError, Settings, variable
from svd_service.telemetry import logs

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

#: Context that connects the spans of one trace across processes: W3C's `traceparent`, and `tracestate` if there is one.
Carrier = Mapping[str, str]

#: Seconds for the last spans of a process to reach the collector.
LAST_SECONDS: Final = 2.0


class _Process:
    """This process' tracer provider; `None` without tracing."""

    provider: "TracerProvider | None" = None


def configure(settings: Settings, service: str, processor: "SpanProcessor | None" = None) -> None:
    """Start tracing in this process, if the settings enable it, with the service name `service`.

    Only the first call counts. A process that forks calls it after the fork. Spans go to `processor`, by default in
    batches to OTLP over HTTP.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    require(settings)
    if not settings.tracing or _Process.provider is not None:
        return
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    # The environment's service name has precedence.
    resource = Resource.create({"service.name": service}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(processor or _batches())
    _Process.provider = provider


def require(settings: Settings) -> None:
    """Check that tracing is possible if it is enabled.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    if not settings.tracing:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: PLC0415
        import opentelemetry.sdk.trace  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{variable('tracing')}=true needs the package {error.name}: pip install 'svd-service[otel]'"
        ) from None


def is_on() -> bool:
    """Whether this process traces."""
    return _Process.provider is not None


def stop() -> None:
    """Send the remaining spans, for at most `LAST_SECONDS`, and stop tracing."""
    provider, _Process.provider = _Process.provider, None
    if provider is not None:
        # In a thread, since the exporter's own timeout for an unreachable collector is longer.
        sending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(LAST_SECONDS)


class Span:
    """A started span; without tracing it does nothing."""

    def __init__(self, span: Any = None) -> None:
        self._span = span
        self._ended = span is None

    def set(self, attributes: Mapping[str, str | int | float]) -> None:
        """Set attributes."""
        if not self._ended:
            self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        """Change the span's name."""
        if not self._ended:
            self._span.update_name(name)

    def end(self, *, at: float | None = None, error: str = "") -> None:
        """End the span, now or at `at` (seconds since the epoch), as failed if there is an `error`. Idempotent."""
        if self._ended:
            return
        if error:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415

            self._span.set_status(StatusCode.ERROR, error)
        self._ended = True
        self._span.end(_nanoseconds(at))

    def carrier(self) -> dict[str, str]:
        """The context that makes another span its child, in any process; empty without tracing."""
        if self._span is None:
            return {}
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        return _injected(set_span_in_context(self._span))

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits; empty without tracing."""
        context = None if self._span is None else self._span.get_span_context()
        return f"{context.trace_id:032x}" if context is not None and context.is_valid else ""


def begin(
    name: str,
    parent: Carrier,
    *,
    at: float | None = None,
    kind: str = "INTERNAL",
    attributes: Mapping[str, str | int | float] | None = None,
) -> Span:
    """A span that starts now or at `at` (seconds since the epoch): a child of `parent`, if that is not empty.

    `kind` is OpenTelemetry's: INTERNAL, SERVER, ….
    """
    if _Process.provider is None:
        return Span()
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace import SpanKind  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    tracer = _Process.provider.get_tracer("svd_service")
    context = TraceContextTextMapPropagator().extract(parent, context=Context())
    return Span(tracer.start_span(name, context, SpanKind[kind], attributes, start_time=_nanoseconds(at)))


@contextmanager
def present(span: Span) -> Iterator[None]:
    """Make `span` current within the block: `carrier` returns it, and log lines have its trace id. Does not end it."""
    if span.trace_id == "":
        yield
        return
    from opentelemetry.trace import use_span  # noqa: PLC0415

    logs.add(trace_id=span.trace_id)
    with use_span(span._span, record_exception=False, set_status_on_exception=False):  # noqa: SLF001 - our own
        yield


def carrier() -> dict[str, str]:
    """The context that makes another span a child of the current one; empty if there is none."""
    return _injected(None) if is_on() else {}


def _injected(context: "Context | None") -> dict[str, str]:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    context_of: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(context_of, context)
    return context_of


def _batches() -> "SpanProcessor":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    return BatchSpanProcessor(OTLPSpanExporter())


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)
