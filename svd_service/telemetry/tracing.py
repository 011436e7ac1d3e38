"""Traces, where the operator wants them: OpenTelemetry's spans of a job, from its request to its published video.

Only this file knows OpenTelemetry, and brings it in only where `SVD_TRACING` says so. Until `configure` was called, and
for good where it is off, everything here does nothing. Where spans go and how many is OpenTelemetry's own business, and
set by its own variables (`OTEL_…`), which its SDK reads.
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

#: What connects the spans of one trace across processes: W3C's `traceparent`, and `tracestate` where there is one.
Carrier = Mapping[str, str]

#: Seconds that the last spans of a process get to reach the collector.
LAST_SECONDS: Final = 2.0


class _Process:
    """This process' provider of tracers; empty where nothing is traced."""

    provider: "TracerProvider | None" = None


def configure(settings: Settings, service: str, processor: "SpanProcessor | None" = None) -> None:
    """Trace in this process from now on, if the settings say so, under the service's name `service`.

    The first call counts. A process that forks calls it after that. Spans go to `processor`, by default in batches to
    OTLP over HTTP.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """
    require(settings)
    if not settings.tracing or _Process.provider is not None:
        return
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    # What the environment says of the service wins over what we call it.
    resource = Resource.create({"service.name": service}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(processor or _batches())
    _Process.provider = provider


def require(settings: Settings) -> None:
    """Make sure that what is to be traced can be.

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
    """Send what is left, as far as a collector takes it within `LAST_SECONDS`, and trace no more."""
    provider, _Process.provider = _Process.provider, None
    if provider is not None:
        # In a thread, since the exporter's patience with a collector that is away is longer than ours.
        sending = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
        sending.start()
        sending.join(LAST_SECONDS)


class Span:
    """A span that has begun; one that does nothing where nothing is traced."""

    def __init__(self, span: Any = None) -> None:
        self._span = span
        self._ended = span is None

    def tell(self, attributes: Mapping[str, str | int | float]) -> None:
        """What is known of it by now."""
        if not self._ended:
            self._span.set_attributes(attributes)

    def rename(self, name: str) -> None:
        """What it is called from now on."""
        if not self._ended:
            self._span.update_name(name)

    def end(self, *, at: float | None = None, error: str = "") -> None:
        """It is over, now or since `at` (seconds since the epoch), and failed if there is an `error`. Repeatable."""
        if self._ended:
            return
        if error:
            from opentelemetry.trace import StatusCode  # noqa: PLC0415

            self._span.set_status(StatusCode.ERROR, error)
        self._ended = True
        self._span.end(_nanoseconds(at))

    def carrier(self) -> dict[str, str]:
        """By what another span becomes its child, in this process or another; empty where nothing is traced."""
        if self._span is None:
            return {}
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        return _injected(set_span_in_context(self._span))

    @property
    def trace_id(self) -> str:
        """The trace's id, 32 hexadecimal digits; empty where nothing is traced."""
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
    """A span that begins now or began `at` (seconds since the epoch): a child of `parent`, if that names one.

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
    """Within the block `span` is what `carrier` names, and what is logged is about its trace. Does not end it."""
    if span.trace_id == "":
        yield
        return
    from opentelemetry.trace import use_span  # noqa: PLC0415

    logs.add(trace_id=span.trace_id)
    with use_span(span._span, record_exception=False, set_status_on_exception=False):  # noqa: SLF001 - our own
        yield


def carrier() -> dict[str, str]:
    """By what another span becomes a child of the present one; empty where there is none."""
    return _injected(None) if is_on() else {}


def _injected(context: "Context | None") -> dict[str, str]:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    told: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(told, context)
    return told


def _batches() -> "SpanProcessor":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    return BatchSpanProcessor(OTLPSpanExporter())


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)
