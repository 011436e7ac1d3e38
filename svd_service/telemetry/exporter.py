"""The ledger's statistics and the host's disk as Prometheus metrics, with a small server, `svd-service exporter`.

The counts are in Redis, so they are right whichever process did the work and whichever was restarted since. The API's
`/metrics` shows them too, through the same collector; a query that sums over both must choose one of them.
Imports neither Flask nor Celery.
"""

import logging
import shutil
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, Protocol
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Metric, start_wsgi_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.registry import Collector

from svd_service import bootstrap
from svd_service.config import ConfigurationError, Settings
from svd_service.config import settings as settings_of_this_process
from svd_service.errors import (
    NotAllowedError,
    PausedError,
    QueueFullError,
    QuotaExceededError,
    RejectedError,
    UnavailableError,
)
from svd_service.jobs.job import State
from svd_service.jobs.usage import Usage
from svd_service.ledger.stats import Figures
from svd_service.ledger.workers import WorkerStatus
from svd_service.telemetry import logs
from svd_service.telemetry.families import counter, from_zero, gauge, histogram, optional_gauge

logger = logging.getLogger(__name__)

#: Stages and verdicts of moderation.
_VERDICTS: Final = tuple((stage, verdict) for stage in ("image", "video") for verdict in ("allow", "reject", "error"))


#: Label values that are shown from the start, at 0: a counter that appears with its first event hides that event from
#: `rate` and `increase`.
END_STATES: Final = (State.FINISHED, State.FAILED, State.CANCELLED)
WEBHOOK_OUTCOMES: Final = ("delivered", "given_up")
WEBHOOK_ATTEMPTS: Final = ("delivered", "failed", "lost")
OUTCOMES: Final = ("started", "finished", "failed", "cancelled", "retried", "released", "lost")
CAUSES: Final = (("lost", "worker_lost"),)
REASONS: Final = (
    *(kind.code for kind in RejectedError.__subclasses__()),
    *(QueueFullError.code, QuotaExceededError.code, NotAllowedError.code, PausedError.code),
)

DAMAGED: Final = ("job", "set", "delivery", "repaired")
LOOKUPS: Final = ("hit", "miss")


class FiguresSource(Protocol):
    """Source of the figures: the ledger's `Stats`, or a substitute."""

    def figures(self) -> Figures:
        """Return the current figures; raises `UnavailableError` when they cannot be read."""
        ...


class LedgerCollector(Collector):
    """The ledger's figures as metric families, read at every scrape.

    When the ledger cannot be reached, `svd_ledger_up` is 0 and every other family is empty: unknown is not zero.
    """

    def __init__(self, source: FiguresSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yield the families, always in the same order, each sorted by its labels."""
        try:
            figures = self._source.figures()
        except UnavailableError as error:
            logger.warning("no figures: %s", error)
            yield _up(0)
            return
        yield _up(1)
        yield from _jobs(figures)
        yield from _queue(figures)
        yield from _durations(figures)
        yield from _webhooks(figures)
        yield from _usage(figures.usage)
        yield from _workers(figures.workers)
        yield from _redis(figures.redis_memory)

    def describe(self) -> Iterator[Metric]:
        """Yield every possible family, so that a registry gets their names without reading the ledger."""
        nothing = Figures({}, 0, {}, {}, {}, {}, {}, {}, {})
        yield _up(1)
        for families in (
            _jobs(nothing),
            _queue(nothing),
            _durations(nothing),
            _webhooks(nothing),
            _usage({}),
            _workers([]),
            _redis(None),
        ):
            yield from families


class HostCollector(Collector):
    """Metrics without the ledger: the disk under the data folder, and the alert threshold of the queue's age.

    A data folder that does not exist (yet) has no figures.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def collect(self) -> Iterator[Metric]:
        """Yield the families, read at every scrape."""
        usage = None
        with suppress(OSError):
            usage = shutil.disk_usage(self._settings.data_dir)
        yield GaugeMetricFamily(
            "svd_queue_bound_seconds",
            "Age of the oldest queued job above which there is an alert.",
            self._settings.longest_wait,
        )
        yield optional_gauge(
            "svd_data_free_bytes", "Free bytes of the disk under the data folder.", usage and usage.free
        )
        yield optional_gauge("svd_data_size_bytes", "Bytes of the disk under the data folder.", usage and usage.total)

    def describe(self) -> Iterator[Metric]:
        """Yield the same families."""
        return self.collect()


def registry(*collectors: Collector) -> CollectorRegistry:
    """Return a registry with only these collectors; the library's default one would add figures of this process."""
    made = CollectorRegistry()
    for collector in collectors:
        made.register(collector)
    return made


def registry_of(settings: Settings, source: FiguresSource) -> CollectorRegistry:
    """Return a registry of all metrics, with the ledger `source`."""
    return registry(LedgerCollector(source), HostCollector(settings))


@contextmanager
def serving(settings: Settings) -> Iterator[WSGIServer]:
    """Serve metrics on `settings.exporter_bind` (`host:port`) while the block runs.

    Port 0 chooses a free one; without a host, the server is on all of IPv4's interfaces.

    Raises:
        ConfigurationError: the address is invalid, or cannot be bound.
    """
    host, port = _address(settings.exporter_bind)
    try:
        server, thread = start_wsgi_server(port, host, registry_of(settings, bootstrap.ledger(settings).stats))
    except OSError as error:
        raise ConfigurationError(f"SVD_EXPORTER_BIND={settings.exporter_bind}: {error}") from None
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def serve(settings: Settings) -> None:
    """Serve metrics until SIGTERM or Ctrl-C.

    Raises:
        ConfigurationError: the address is invalid, or cannot be bound.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    # Explicitly, since a container's first process ignores signals that it does not handle.
    signal.signal(signal.SIGTERM, stop)
    with serving(settings) as server:
        logger.info("metrics on http://%s:%s/metrics", *server.server_address[:2])
        try:
            while True:
                signal.pause()
        except KeyboardInterrupt:
            pass


def main() -> None:
    """Serve with this process' settings; an invalid setting ends it with a message."""
    try:
        settings = settings_of_this_process()
        logs.configure(settings)
        serve(settings)
    except ConfigurationError as error:
        raise SystemExit(f"svd-service exporter: {error}") from None


def _address(bind: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{bind}")
        if parts.port is not None:
            return parts.hostname or "0.0.0.0", parts.port  # noqa: S104 - as gunicorn and Flower understand `:port`
    except ValueError:
        pass
    raise ConfigurationError(f"SVD_EXPORTER_BIND={bind!r}: expected host:port")


def _up(value: int) -> Metric:
    return GaugeMetricFamily("svd_ledger_up", "Whether the job ledger in Redis could be read (1) or not (0).", value)


def _jobs(figures: Figures) -> Iterator[Metric]:
    yield gauge("svd_jobs", "Jobs in the ledger, by state.", "state", from_zero(State, figures.jobs))
    yield CounterMetricFamily("svd_jobs_created", "Jobs accepted.", value=figures.created)
    yield counter(
        "svd_jobs_refused",
        "Submissions rejected, by reason; nothing was stored.",
        "reason",
        from_zero(REASONS, figures.rejected),
    )
    yield counter("svd_jobs_ended", "Jobs ended, by final state.", "state", from_zero(END_STATES, figures.ended))
    yield counter("svd_jobs_failed", "Jobs failed, by reason.", "reason", figures.failed)
    yield counter(
        "svd_cache_lookups",
        "Lookups of an earlier identical job for a submission, by outcome.",
        "outcome",
        from_zero(LOOKUPS, figures.cache),
    )
    yield counter(
        "svd_attempts",
        "Job attempts, by outcome; `started` counts all.",
        "outcome",
        from_zero(OUTCOMES, figures.attempts),
    )
    yield counter(
        "svd_ledger_damaged",
        "Damaged jobs, deliveries and sets in Redis, dropped or repaired, by kind.",
        "kind",
        from_zero(DAMAGED, figures.damaged),
    )
    yield CounterMetricFamily(
        "svd_jobs_put_back",
        "Jobs moved to the end of the queue because workers repeatedly did not claim their messages.",
        value=figures.refused_by_celery,
    )
    causes = CounterMetricFamily(
        "svd_attempts_in_vain",
        "Attempts without a result, by outcome and cause.",
        labels=("outcome", "cause"),
    )
    for labels, count in sorted((dict.fromkeys(CAUSES, 0) | figures.causes).items()):
        causes.add_metric(labels, count)
    yield causes
    verdicts = CounterMetricFamily(
        "svd_moderation_verdicts",
        "Verdicts of the moderation hook on images and videos; error: it gave none.",
        labels=("stage", "verdict"),
    )
    for labels, count in sorted((dict.fromkeys(_VERDICTS, 0) | figures.moderation).items()):
        verdicts.add_metric(labels, count)
    yield verdicts
    yield CounterMetricFamily(
        "svd_messages_dropped",
        "Messages in Celery's queues that this service did not send; dropped.",
        value=figures.messages_dropped,
    )


def _queue(figures: Figures) -> Iterator[Metric]:
    length, oldest, wait = (
        GaugeMetricFamily(name, documentation, labels=("model", "profile"))
        for name, documentation in (
            ("svd_queue_length", "Queued jobs."),
            ("svd_queue_oldest_seconds", "Age of the oldest queued job; 0 if there is none."),
            (
                "svd_queue_predicted_wait_seconds",
                "Estimated wait of a job at the end of the queue; absent without an estimate.",
            ),
        )
    )
    for labels, queue in sorted(figures.queues.items()):
        length.add_metric(labels, queue.length)
        oldest.add_metric(labels, queue.oldest)
        if queue.predicted_wait is not None:
            wait.add_metric(labels, queue.predicted_wait)
    yield from (length, oldest, wait)


def _durations(figures: Figures) -> Iterator[Metric]:
    phases = SummaryMetricFamily(
        "svd_phase_seconds", "Duration of a phase of a finished attempt.", labels=("device", "phase")
    )
    for labels, (count, seconds) in sorted(figures.phases.items()):
        phases.add_metric(labels, count, seconds)
    yield phases
    yield histogram(
        "svd_step_seconds",
        "Duration of a denoising step; those of one attempt count with their mean.",
        ("device",),
        {(device,): steps for device, steps in figures.steps.items()},
    )
    yield histogram(
        "svd_job_wait_seconds",
        "Time from the submission of a job to its first attempt.",
        ("model", "profile"),
        figures.waits,
    )
    yield histogram(
        "svd_job_duration_seconds",
        "Time from the submission of a job to its end; without copies of earlier videos.",
        ("model", "profile", "state"),
        figures.durations,
    )


def _webhooks(figures: Figures) -> Iterator[Metric]:
    yield GaugeMetricFamily("svd_webhooks_pending", "Webhooks not yet delivered.", figures.webhooks_pending)
    yield GaugeMetricFamily(
        "svd_webhook_overdue_seconds",
        "Delay of the next webhook delivery attempt; 0 if none is late.",
        figures.webhook_overdue,
    )
    yield counter(
        "svd_webhooks",
        "Webhooks delivered or given up, by outcome.",
        "outcome",
        from_zero(WEBHOOK_OUTCOMES, figures.webhooks),
    )
    yield counter(
        "svd_webhook_attempts",
        "Webhook delivery attempts, by outcome.",
        "outcome",
        from_zero(WEBHOOK_ATTEMPTS, figures.webhook_tries),
    )


def _usage(usage: Mapping[str, Usage]) -> Iterator[Metric]:
    jobs, seconds, frames, bytes_ = (
        CounterMetricFamily(name, documentation, labels=labels)
        for name, documentation, labels in (
            ("svd_usage_jobs", "Jobs of a key, by end; `submitted` counts all.", ("key", "state")),
            ("svd_usage_device_seconds", "Device time of a key's attempts: `charged` or `failed`.", ("key", "kind")),
            ("svd_usage_frames", "Frames of a key's videos.", ("key",)),
            ("svd_usage_bytes", "Bytes of a key's videos.", ("key",)),
        )
    )
    for key, amounts in sorted(usage.items()):
        for state in ("submitted", "cached", *END_STATES):
            jobs.add_metric((key, state), getattr(amounts, state))
        seconds.add_metric((key, "charged"), amounts.device_seconds)
        seconds.add_metric((key, "failed"), amounts.failed_device_seconds)
        frames.add_metric((key,), amounts.frames)
        bytes_.add_metric((key,), amounts.bytes)
    yield from (jobs, seconds, frames, bytes_)


def _workers(workers: Iterable[WorkerStatus]) -> Iterator[Metric]:
    by_name = sorted(workers, key=lambda status: status.worker)
    yield GaugeMetricFamily("svd_workers_ready", "Worker processes that are ready.", len(by_name))
    ready = GaugeMetricFamily(
        "svd_worker_ready", "1 for each worker process that is ready.", labels=("worker", "device", "model")
    )
    load = GaugeMetricFamily("svd_worker_load_seconds", "Duration of loading the model.", labels=("worker", "device"))
    for status in by_name:
        ready.add_metric((status.worker, status.device, status.model), 1)
        load.add_metric((status.worker, status.device), status.load_seconds)
    yield ready
    yield load
    yield _memory("svd_device_memory_size_bytes", "Total memory of the worker's device.", by_name, "size")
    yield _memory("svd_device_memory_used_bytes", "Memory of the device in use by any process.", by_name, "used")
    yield _memory(
        "svd_device_memory_reserved_bytes", "Memory that the worker reserves for tensors.", by_name, "reserved"
    )


def _memory(name: str, documentation: str, workers: Iterable[WorkerStatus], part: str) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=("worker", "device"))
    for status in workers:
        if status.device_memory is not None:
            family.add_metric((status.worker, status.device), getattr(status.device_memory, part))
    return family


def _redis(memory: tuple[int, int] | None) -> Iterator[Metric]:
    used, maximum = memory or (None, None)
    yield optional_gauge("svd_redis_memory_used_bytes", "Memory used by Redis.", used)
    yield optional_gauge("svd_redis_memory_max_bytes", "Memory limit of Redis; 0 if there is none.", maximum)
