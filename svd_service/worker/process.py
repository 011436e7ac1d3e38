"""Startup of a worker process: pin the device, load the model once, report ready, send heartbeats.

Celery's signals call it; they are connected at the end of this file.
"""

import faulthandler
import gc
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from billiard import current_process
from celery.signals import celeryd_init, setup_logging, worker_init, worker_process_init, worker_process_shutdown

from svd_service import bootstrap
from svd_service.bootstrap import UseCases
from svd_service.config import ConfigurationError, Settings, settings
from svd_service.errors import UnavailableError
from svd_service.jobs.job import Holder
from svd_service.jobs.model import Model
from svd_service.jobs.routing import celery_queue, queue_of
from svd_service.ledger.check import require_layout
from svd_service.ledger.workers import WorkerStatus
from svd_service.retry import Retry
from svd_service.telemetry import logs, tracing
from svd_service.worker import malloc, shutdown
from svd_service.worker.lease import Lease
from svd_service.worker.marking import UNMARKED, Marking, open_marking
from svd_service.worker.retention import Retention
from svd_service.worker.shared_memory import DRAIN, LOAD_RESULTS, Drain
from svd_service.worker.startup import Preparation

if TYPE_CHECKING:
    from svd_service.video import Rendering

logger = logging.getLogger(__name__)

#: Created in the parent and inherited by every process that it forks.
INSTANCE: Final = uuid.uuid4().hex

#: Maximum seconds that a process waits after it failed to load the model, before it exits and Celery replaces it.
LOAD_PAUSE: Final = 60.0


@dataclass(frozen=True)
class WorkerContext:
    """State of one worker process: its identity, the loaded model, the use cases, the thread that renews leases, and
    how files are marked.

    `render` is `video.render` with this process' generator: it writes the video to a path, from an image (RGB, of the
    parameters' size) or as the extension of an MP4.
    """

    holder: Holder
    render: "Callable[..., Rendering]"
    jobs: UseCases
    lease: Lease
    settings: Settings
    drain: Drain = DRAIN
    marking: Marking = UNMARKED


class _Process:
    """Holds this process' context, which is `None` until the model is loaded."""

    context: WorkerContext | None = None


def context() -> WorkerContext:
    """Return this process' context.

    Raises:
        RuntimeError: the model is not loaded, so this process must not run jobs.
    """
    if _Process.context is None:
        raise RuntimeError("this process has not loaded the model")
    return _Process.context


def open_context(configuration: Settings, node: str, index: int) -> WorkerContext:
    """Pin the device of process number `index`, load the model onto it and register the process with the ledger.

    Raises:
        ModelLoadError: the model cannot be loaded; the message names the remedy.
    """
    logs.identify(worker=f"{node}/{index}")
    tracing.configure(configuration, "svd-worker")
    device = configuration.worker_devices[index]
    _pin(device)
    # By default SVT-AV1 writes a line to standard error for each file.
    os.environ.setdefault("SVT_LOG", "1")  # noqa: TID251
    _keep_compiled(configuration.data_dir)
    with _uncollected():
        from svd_service.video import render  # noqa: PLC0415
        from svd_service.video.loader import load  # noqa: PLC0415
    service = bootstrap.worker(configuration)
    began = time.monotonic()
    worker = f"{node}/{index}"
    with Preparation(service.ledger.workers, worker) as preparation:
        preparation.doing("loading the model")
        generator = load(service.model, device, configuration, on_download=preparation.download)
        preparation.doing("warming up")
        generator.warm_up()
    load_seconds = time.monotonic() - began
    signers = bootstrap.signers(configuration)
    marking = open_marking(configuration, signers)
    if device == "cpu":
        malloc.keep()
    holder = Holder(worker, generator.device, INSTANCE, os.getpid())
    status = WorkerStatus(
        worker=holder.worker,
        device=holder.device,
        instance=INSTANCE,
        pid=holder.pid,
        model=service.model.name,
        trained=service.model.trained,
        ready_since=time.time(),
        load_seconds=round(load_seconds, 3),
        memory=generator.plan.name,
        profiles=configuration.worker_profiles,
        content_credentials=marking.state,
    )

    def introduce() -> None:  # also again, when Redis has lost its data
        service.ledger.workers.introduce(service.model)
        marking.register(signers)

    _until_redis_answers(introduce)
    lease = Lease(service.ledger, status, configuration.lease, DRAIN, generator.device_memory, introduce)
    lease.start()
    logger.info("ready: %s holds %s on %s (%.1f s)", holder.worker, service.model.name, holder.device, load_seconds)
    return WorkerContext(holder, partial(render, generator), service, lease, configuration, marking=marking)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Exempt what is created from garbage collection, now and later.

    The modules of torch and diffusers stay, and searching them for garbage takes an eighth of the time of their import.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _until_redis_answers(operation: Callable[[], None]) -> None:
    """Retry without limit: if the process exited, the next one would have to load the model again."""

    def log(error: Exception, pause: float) -> None:
        logger.warning(
            "the model is loaded, but Redis does not accept its registration; retry in %.0f s: %s", pause, error
        )

    Retry(UnavailableError, first_pause=1.0, longest_pause=5.0, before_pause=log)(operation)


def _pin(device: str) -> None:
    """Restrict this process and its children to this device; to be called before torch is imported."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device  # noqa: TID251
    # nvidia-smi's order. By default CUDA begins with the card that it considers the fastest.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # noqa: TID251
    if device != "cpu" and "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # noqa: TID251 - the name before torch 2.9
        # Videos of different sizes leave holes in fixed segments, until a video that fitted once runs out of memory.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # noqa: TID251
    if device == "cpu":
        # By default OpenMP's threads spin while they wait for each other, which is slower when other processes are
        # busy: on two busy cores the nano model took 70 to 84 s per video with spinning, and 9 to 41 s with sleeping.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # noqa: TID251


def _keep_compiled(data_dir: Path) -> None:
    """Keep compiled code for the next start, in a hidden folder, separate from the artifacts."""
    folder = data_dir / ".compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))  # noqa: TID251
    # Triton's default is the home folder. In our image that is /tmp, which docker mounts noexec.
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))  # noqa: TID251


def is_gone(pid: int) -> bool:
    """Return whether a process of this machine has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def process_index() -> int:
    """Return this process' index in Celery's pool, from 0; a replacement has its predecessor's index."""
    return int(current_process().index)  # type: ignore[attr-defined]


@worker_init.connect
def _import_libraries(**_: Any) -> None:
    # Importing takes seconds, which a replacement process saves if it inherits the modules. Not with a GPU: a CUDA
    # context that was created in the parent cannot be used after the fork.
    if set(settings().worker_devices) == {"cpu"}:
        _pin("cpu")
        with _uncollected():
            import svd_service.video.loader  # noqa: F401, PLC0415


@worker_process_init.connect
def _initialise(sender: str, **_: Any) -> None:
    # Celery swallows an exception of this hook and lets the process take jobs without a model, but not SystemExit.
    index = process_index()
    # A library's or a driver's fault then leaves the line that it happened in. Celery has replaced sys.stderr.
    faulthandler.enable(sys.__stderr__ or 2, all_threads=False)
    LOAD_RESULTS.begin(index)
    try:
        _Process.context = open_context(settings(), sender, index)
    except Exception as error:
        failures = LOAD_RESULTS.fail(index)
        pause = min(2.0**failures, LOAD_PAUSE)
        # An error that the operator can correct is one sentence, which `svd-service up` shows; others need a traceback.
        expected = type(error).__name__ == "ModelLoadError"
        logger.critical("%s%s", shutdown.LOAD_ERROR, error, exc_info=not expected)
        # Celery starts the next process at once, without limit. The worker exits if all of its processes fail.
        time.sleep(pause)
        raise SystemExit(shutdown.LOAD_FAILED) from None
    shutdown.ignore_signals()
    LOAD_RESULTS.succeed(index)
    Retention(_Process.context.jobs.maintenance).start()


@worker_process_shutdown.connect
def _shut_down(exitcode: int, **_: Any) -> None:
    shutdown.heed_signals(exitcode)
    if _Process.context is not None:
        _Process.context.lease.stop()
    tracing.stop()


@celeryd_init.connect
def _configure_worker(sender: str, instance: Any, conf: Any, **_: Any) -> None:
    # From here on Celery logs, for example the warning about running as root.
    logs.identify(worker=sender)
    logs.configure(settings())
    # Celery's banner and its other output on stdout are not JSON.
    instance.quiet = settings().log_format == "json"
    try:
        tracing.require(settings())
        require_layout(settings())
        model = Model.of(settings())
    except ConfigurationError as error:
        raise SystemExit(f"svd-service worker: {error}") from None
    conf.task_default_queue = celery_queue(settings().namespace, queue_of(model.name, settings().worker_profiles))


@setup_logging.connect
def _set_up_logging(**_: Any) -> None:
    logs.configure(settings())
