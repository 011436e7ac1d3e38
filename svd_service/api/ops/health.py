"""What operators and their tools request: health, metrics, the model."""

import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import msgspec
from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_flask_exporter import PrometheusMetrics
from prometheus_flask_exporter.multiprocess import MultiprocessPrometheusMetrics

from svd_service.api.http import auth
from svd_service.api.http.context import jobs, keyring
from svd_service.api.http.openapi import PUBLIC, Answer, describe
from svd_service.api.native.schema import ErrorView, HealthView, ModelsView, PreparingView, WorkerView
from svd_service.artifacts.base import ArtifactStore, ArtifactsUnavailableError
from svd_service.bootstrap import UseCases, fresh_ledger
from svd_service.errors import UnavailableError
from svd_service.ledger.api_keys import LOST
from svd_service.ledger.controls import Note, Pausable, node_of
from svd_service.presentation import ModelView
from svd_service.retry import Retry
from svd_service.telemetry.disk import disk_trouble
from svd_service.telemetry.exporter import registry_of

#: The two formats that Prometheus requests.
METRICS_TYPES: Final = ("text/plain", "application/openmetrics-text")

#: Upper bounds of the histogram of HTTP requests in seconds: from a status to a long upload or a wait for the video.
HTTP_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

#: Seconds between two questions to the store of artifacts: a request to a bucket may cost something.
STORE_LOOK: Final = 5.0


def install(app: Flask) -> None:
    """Add the routes and the HTTP metrics to `app`."""
    service = app.extensions["web"].jobs
    metrics = _http_metrics(app, service)
    store = StoreWatch(service.artifacts)
    ledger_metrics = registry_of(service.settings, service.ledger.stats)

    @app.get("/health")
    @describe(
        "service",
        {
            200: Answer("Redis can be reached; `reasons` lists other faults.", HealthView),
            503: Answer("Redis cannot be reached.", HealthView),
        },
        access=PUBLIC,
    )
    def health() -> ResponseReturnValue:
        """Whether the API can reach Redis and the store, and which workers are ready."""
        return _health(service, store)

    @app.get("/models")
    @describe(
        "native", {200: Answer("The models, that of requests which name none first.", ModelsView)}, error=ErrorView
    )
    def models() -> ResponseReturnValue:
        """The models that are served: their defaults, their bounds, and their profiles."""
        limits = {"seconds": service.settings.max_seconds, "output_pixels": service.settings.max_output_pixels}
        return {"models": [model.shown() for model in jobs().queries.models()], "limits": limits}

    @app.get("/metrics")
    @describe("service", {200: Answer("The metrics.", str, METRICS_TYPES)}, access=PUBLIC)
    def prometheus() -> Response:
        """HTTP metrics of all gunicorn processes, then those of the ledger, for Prometheus."""
        accept = request.headers.get("Accept", "")
        http, content_type = metrics.generate_metrics(accept)
        encode, _ = choose_encoder(accept)
        ledger = encode(ledger_metrics if auth.is_operator() else _WithoutWorkers(ledger_metrics)).decode()
        # OpenMetrics ends with a mark that may stand only once.
        return Response(http.removesuffix("# EOF\n") + ledger, content_type=content_type)


def _http_metrics(app: Flask, service: UseCases) -> PrometheusMetrics:
    multiprocess = service.settings.multiprocess_dir is not None
    kind = GunicornMetrics if multiprocess else PrometheusMetrics
    options: dict[str, Any] = {} if multiprocess else {"registry": CollectorRegistry()}
    return kind(app, path=None, group_by="url_rule", buckets=HTTP_BOUNDS, excluded_paths="/metrics", **options)


class _WithoutWorkers:
    """Metrics for the public: without those of single workers, whose names contain their host's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if not any("worker" in sample.labels for sample in family.samples):
                yield family


class GunicornMetrics(MultiprocessPrometheusMetrics):  # type: ignore[misc]
    """Counts across gunicorn's processes; served by our own route, not by a server of its own."""

    #: A process that starts creates its files empty, and gives them their size a moment later.
    _retry = Retry(on=struct.error, patience=2.0, first_pause=0.01)

    def should_start_http_server(self) -> bool:
        """No."""
        return False

    def generate_metrics(self, accept_header: str | None = None, names: list[str] | None = None) -> tuple[str, str]:
        """The metrics of all processes as text, and its content type."""
        generated: tuple[str, str] = self._retry(partial(super().generate_metrics, accept_header, names))
        return generated


class StoreWatch:
    """Whether the store of artifacts answers. Checked at most every `STORE_LOOK` seconds, by one caller at a time."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._next = 0.0
        self._trouble: str | None = None

    def trouble(self) -> str | None:
        """What is wrong with it, as far as is known; `None`: nothing."""
        if time.monotonic() >= self._next and self._lock.acquire(blocking=False):
            try:
                self._store.ready()
                self._trouble = None
            except ArtifactsUnavailableError as error:
                self._trouble = str(error)
            finally:
                self._next = time.monotonic() + STORE_LOOK
                self._lock.release()
        return self._trouble


@dataclass(frozen=True)
class Reason:
    """Why the service is not ok: a stable `code`, a `message` for everybody, and a `detail` for operators."""

    code: str
    message: str
    detail: str = ""


def _health(service: UseCases, store: StoreWatch) -> ResponseReturnValue:
    shows_details = auth.is_operator()
    try:
        with fresh_ledger(service.settings) as ledger:
            workers, preparing = ledger.workers.ready(), ledger.workers.preparing()
            unsaved = ledger.stats.persistence_trouble()
            pauses, held_back = ledger.controls.pauses(), ledger.controls.held_back()
        keys_lost = keyring().has_lost_its_keys()
    except UnavailableError as error:
        away = [Reason("redis_unavailable", "Redis cannot be reached", str(error))]
        view = HealthView("unavailable", redis=False, workers_ready=0, workers=[])
        return jsonify(_explained(view, away, details=shows_details)), 503
    trouble, model = store.trouble(), ModelView(**service.model.summary())
    reasons = _workers_reasons(model.name, {worker.model for worker in workers}, preparing=bool(preparing))
    reasons += [_pause_reason(what, of_model, note) for what, of_model, note in pauses]
    at_work = [w for w in workers if w.worker not in held_back and node_of(w.worker) not in held_back]
    if full := disk_trouble(service.settings.data_dir):
        reasons.insert(0, Reason("disk_almost_full", "the disk of the data folder is almost full", full))
    if unsaved:
        reasons.insert(0, Reason("redis_cannot_save", "Redis cannot write to its disk", unsaved))
    if keys_lost:
        reasons.insert(0, Reason("keys_lost", LOST))
    if trouble:
        reasons.insert(0, Reason("store_unavailable", "the artifact store cannot be reached", trouble))
    view = HealthView(
        "degraded" if reasons else "ok",
        redis=True,
        workers_ready=len(at_work),
        workers=[
            WorkerView(
                w.worker, w.device, w.model, w.trained, w.ready_since, w.memory, list(w.profiles), w.content_credentials
            )
            for w in at_work
        ],
        workers_preparing=[PreparingView(**vars(each)) for each in preparing],
        model=model,
        artifacts=trouble is None,
        content_credentials="; ".join(sorted({w.content_credentials for w in workers} - {""})) or None,
    )
    return jsonify(_explained(view, reasons, details=shows_details))


def _pause_reason(what: Pausable, model: str, note: Note) -> Reason:
    of_model = f" of {model}" if model else ""
    message = {
        Pausable.INTAKE: f"new jobs{of_model} are not accepted",
        Pausable.DISPATCH: f"queued jobs{of_model} do not start",
    }[what]
    because = f" ({note.reason})" if note.reason else ""
    return Reason(f"{what}_paused", f"{message}: an operator has paused the service{because}")


def _explained(view: HealthView, reasons: Sequence[Reason], *, details: bool) -> HealthView:
    """`view` with its reasons; without `details`, also without names of hosts and devices."""
    messages = [reason.detail or reason.message if details else reason.message for reason in reasons]
    return msgspec.structs.replace(
        view,
        workers=view.workers if details else [],
        workers_preparing=view.workers_preparing if details else [],
        reasons=[reason.code for reason in reasons],
        message="; ".join(messages) or None,
    )


def _workers_reasons(model: str, held: set[str], *, preparing: bool) -> list[Reason]:
    """What is wrong with the workers that are ready, given the models that they hold and the API's own `model`."""
    if model in held:
        return []
    if held:
        detail = f"no worker holds {model}, but {', '.join(sorted(held))}: is SVD_MODEL right for API and workers?"
        return [Reason("model_not_served", "no ready worker holds the service's model", detail)]
    if preparing:
        return [Reason("model_loading", "the workers are still loading their model")]
    return [Reason("no_worker_ready", "no worker is ready: jobs wait until one is")]
