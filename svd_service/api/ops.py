"""What operators and their tools ask for: health, metrics, the model."""

from typing import Any, Final

from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import MultiprocessPrometheusMetrics

from svd_service.api.context import jobs
from svd_service.api.native.schema import ErrorView, HealthView, ModelsView, ModelView, WorkerView
from svd_service.api.openapi import Answer, describe
from svd_service.exporter import LedgerCollector
from svd_service.jobs.errors import UnavailableError
from svd_service.jobs.ledger import Ledger, connect
from svd_service.jobs.service import JobService

#: The two formats that Prometheus asks for.
METRICS_TYPES: Final = ("text/plain", "application/openmetrics-text")


def install(app: Flask) -> None:
    """Add the routes and the HTTP metrics to `app`."""
    service: JobService = app.extensions["jobs"]
    metrics = _http_metrics(app, service)
    ledger_metrics = CollectorRegistry()
    ledger_metrics.register(LedgerCollector(service.ledger))

    @app.get("/health")
    @describe(
        "service",
        {200: Answer("Redis answers.", HealthView), 503: Answer("Redis does not.", HealthView)},
        public=True,
    )
    def health() -> ResponseReturnValue:
        """Whether the API can reach Redis, and which workers are ready."""
        return _health(service)

    @app.get("/models")
    @describe("native", {200: Answer("The model.", ModelsView)}, error=ErrorView)
    def models() -> ResponseReturnValue:
        """The model that is served: its defaults and bounds."""
        return {"models": [jobs().model.to_dict()]}

    @app.get("/metrics")
    @describe("service", {200: Answer("The metrics.", str, METRICS_TYPES)}, public=True)
    def prometheus() -> Response:
        """HTTP metrics of all gunicorn processes, then those of the ledger, for Prometheus."""
        accept = request.headers.get("Accept", "")
        http, content_type = metrics.generate_metrics(accept)
        encode, _ = choose_encoder(accept)
        ledger = encode(ledger_metrics).decode()
        # OpenMetrics ends with a mark that may stand only once.
        return Response(http.removesuffix("# EOF\n") + ledger, content_type=content_type)


def _http_metrics(app: Flask, service: JobService) -> PrometheusMetrics:
    multiprocess = service.settings.multiprocess_dir is not None
    kind = _GunicornMetrics if multiprocess else PrometheusMetrics
    options: dict[str, Any] = {} if multiprocess else {"registry": CollectorRegistry()}
    return kind(app, path=None, group_by="url_rule", excluded_paths="/metrics", **options)


class _GunicornMetrics(MultiprocessPrometheusMetrics):  # type: ignore[misc]
    """Counts across gunicorn's processes; served by our own route, not by a server of its own."""

    def should_start_http_server(self) -> bool:
        return False


def _health(service: JobService) -> ResponseReturnValue:
    # A connection of its own: one of the pool may look well while Redis is not, or the other way round.
    client = connect(service.settings)
    try:
        workers = Ledger(client, service.settings).workers()
    except UnavailableError as error:
        return jsonify(HealthView("unavailable", redis=False, workers_ready=0, workers=[], message=str(error))), 503
    finally:
        client.close()
    ready = [WorkerView(w.worker, w.device, w.model, w.trained, w.ready_since) for w in workers]
    model = ModelView(**service.model.summary())
    return jsonify(HealthView("ok", redis=True, workers_ready=len(ready), workers=ready, model=model))
