"""gunicorn's configuration: `gunicorn -c python:svd_service.gunicorn wsgi:application`."""

import faulthandler
import os
import resource
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from gunicorn import glogging

from svd_service.config import ConfigurationError, Settings, settings, variable
from svd_service.server.pacing import ClientLimits
from svd_service.server.worker import BufferingWorker
from svd_service.telemetry import logs

#: A folder that waits for no disk, and that uploads cannot fill: on a full one, prometheus_client ends its process.
_IN_MEMORY: Final = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108

# prometheus_client keeps the counts of several processes in files. When first loaded, it reads the folder's name in the
# environment, which therefore gets the value of `.env`, too; this process' settings are read after that.
_metrics_dir = Settings.load().multiprocess_dir or Path(tempfile.mkdtemp(prefix="svd-metrics-", dir=_IN_MEMORY))
os.environ[variable("multiprocess_dir")] = str(_metrics_dir)  # noqa: TID251

_settings = settings()


def _descriptors() -> int:
    """Raise the limit of open files and sockets as far as the system allows; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


class Worker(BufferingWorker):
    """The worker with the limits of the settings."""

    limits = ClientLimits(
        timeout=_settings.client_timeout,
        min_rate=_settings.client_min_rate,
        # An image as a data URL in JSON takes four characters for three bytes; prompts and the rest fit beside it.
        body=_settings.max_upload_bytes * 4 // 3 + 1_000_000,
        spool=max(1_000_000_000 // _settings.api_processes, 16 * _settings.max_upload_bytes),
    )
    uploads = _settings.api_threads
    waits = _settings.api_streams


worker_class = Worker
bind = _settings.bind
workers = _settings.api_processes
# Each open event stream occupies a thread, so streams have additional threads and never block other requests.
threads = _settings.api_threads + _settings.api_streams
# Beyond that, the connection that has been idle longest is closed. Files and Redis need descriptors, too.
worker_connections = min(4_096, _descriptors() * 3 // 4)
# For a process that hangs. The worker limits slow clients itself.
timeout = 60
graceful_timeout = 20
keepalive = 15
# A process changes the time of a file in each round of its event loop, which takes seconds on a disk that is busy.
worker_tmp_dir = _IN_MEMORY
# By default a client on this machine, such as a proxy that passes on what it gets, could set SCRIPT_NAME and PATH_INFO.
forwarder_headers = ""
control_socket_disable = True
accesslog = "-" if _settings.access_log else None
errorlog = "-"
loglevel = _settings.log_level.lower()

#: Seconds after which a thread that computes lets another run. Python's 0.005 add up: a submission waits for the
#: interpreter some ten times, each time for all the threads that parse large uploads.
_SWITCH_INTERVAL: Final = 0.0005

#: Paths that are polled every few seconds; successful requests for them are not logged.
QUIET: Final = ("/health", "/metrics")


class Logger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's log in the service's log: the same handler, the same format."""

    def setup(self, cfg: Any) -> None:
        """Remove gunicorn's handlers; the service's handler logs instead."""
        super().setup(cfg)
        for log in (self.error_log, self.access_log):
            log.handlers.clear()
            log.propagate = True
        logs.configure(_settings)

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Log one line per response. Without the query, which may contain the caller's data."""
        status = int(str(resp.status or 0).partition(" ")[0])  # 0: the application gave no response
        path = str(environ.get("RAW_URI", "")).partition("?")[0]
        if not self.access_log_enabled or (path in QUIET and status < 400):
            return
        method, seconds = environ.get("REQUEST_METHOD", ""), round(request_time.total_seconds(), 6)
        about = {
            **environ.get(logs.WSGI_FIELDS, {}),
            "method": method,
            "path": path,
            "status": status,
            "bytes": getattr(resp, "sent", None),
            "seconds": seconds,
            "address": environ.get("REMOTE_ADDR", ""),
        }
        self.access_log.info("%s %s %d", method, path, status, extra={logs.ABOUT: about})


logger_class = Logger


def on_starting(server: Any) -> None:
    """Delete the counts of an earlier server."""
    _metrics_dir.mkdir(parents=True, exist_ok=True)
    _delete_counts()


def when_ready(server: Any) -> None:
    """Check what is in Redis, and log who may use a service without keys."""
    # As below: the application is not imported in the parent before it is needed.
    from svd_service import bootstrap  # noqa: PLC0415
    from svd_service.ledger import api_keys, check  # noqa: PLC0415

    try:
        check.require_layout(_settings)
    except ConfigurationError as error:
        raise SystemExit(f"svd-service: {error}") from None
    check.check_at_start(_settings)
    if warning := api_keys.start_warning(bootstrap.keyring(_settings), _settings):
        server.log.warning(warning)


def post_worker_init(worker: Any) -> None:
    """Load Celery and start an image decoder before the first request; end streams when the process ends."""
    # A library's fault then leaves the line that it happened in.
    faulthandler.enable(all_threads=False)
    import svd_service.celery_app  # noqa: F401, PLC0415
    from svd_service.jobs.images import opening  # noqa: PLC0415

    with suppress(OSError):  # the first upload starts it then
        opening.start(_settings)
    sys.setswitchinterval(_SWITCH_INTERVAL)

    worker.wsgi.extensions["events"].close_when(lambda: not worker.alive)


def child_exit(server: Any, worker: Any) -> None:
    """Delete the gauges of a process that has ended, if they are those of live processes; its other counts remain."""
    # Imported here, since at the top of this module it would be too early for the parent.
    from prometheus_client import multiprocess  # noqa: PLC0415

    multiprocess.mark_process_dead(worker.pid, path=str(_metrics_dir))  # type: ignore[no-untyped-call]


def on_exit(server: Any) -> None:
    """Delete the counts and their folder."""
    _delete_counts()
    # It remains if it is a mount point or holds other files.
    with suppress(OSError):
        _metrics_dir.rmdir()


def _delete_counts() -> None:
    for counts in _metrics_dir.glob("*.db"):
        counts.unlink(missing_ok=True)
