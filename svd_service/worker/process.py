"""From a forked process to a worker that is ready: pin the device, load the model once, say so, keep saying so."""

import logging
import os
import time
import uuid
from collections.abc import Callable
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
from svd_service.worker.retention import Retention
from svd_service.worker.shared_memory import DRAIN, LOADS, Drain
from svd_service.worker.startup import Preparation

if TYPE_CHECKING:
    from svd_service.video import Rendering

logger = logging.getLogger(__name__)

#: Made once in the parent and inherited by every process that it forks.
INSTANCE: Final = uuid.uuid4().hex

#: Most seconds that a process waits after it could not load the model, before another takes its place.
LOAD_PAUSE: Final = 60.0


@dataclass(frozen=True)
class Slot:
    """All that one worker process has: its place, the loaded model, the jobs, and the thread that keeps it alive.

    `render` writes the video of a picture (RGB, of the size that the parameters name) to a path: see `video.render`.
    """

    holder: Holder
    render: "Callable[..., Rendering]"
    jobs: UseCases
    lease: Lease
    settings: Settings
    drain: Drain = DRAIN


class _Process:
    """Holds this process' slot; empty until the model is loaded."""

    slot: Slot | None = None


def slot() -> Slot:
    """This process' slot.

    Raises:
        RuntimeError: the model is not loaded, so this is no process that may take jobs.
    """
    if _Process.slot is None:
        raise RuntimeError("this process has not loaded the model")
    return _Process.slot


def open_slot(configuration: Settings, node: str, index: int) -> Slot:
    """Pin the device of process number `index`, load the model onto it and tell the ledger that it is there.

    Raises:
        ModelLoadError: the model cannot be loaded; the message says what to do.
    """
    logs.identify(worker=f"{node}/{index}")
    tracing.configure(configuration, "svd-worker")
    device = configuration.worker_devices[index]
    _pin(device)
    # SVT-AV1 would tell standard error of each file that it begins.
    os.environ.setdefault("SVT_LOG", "1")  # noqa: TID251
    _keep_compiled(configuration.data_dir)
    from svd_service.video import render  # noqa: PLC0415
    from svd_service.video.loader import load  # noqa: PLC0415

    service = bootstrap.worker(configuration)
    began = time.monotonic()
    worker = f"{node}/{index}"
    with Preparation(service.ledger.workers, worker) as preparation:
        preparation.doing("loading the model")
        generator = load(service.model, device, configuration)
        preparation.doing("warming up")
        generator.warm_up()
    load_seconds = time.monotonic() - began
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
    )
    _until_redis_answers(lambda: service.ledger.workers.introduce(service.model))
    lease = Lease(service.ledger, status, configuration.lease, DRAIN, generator.device_memory)
    lease.start()
    logger.info("ready: %s holds %s on %s (%.1f s)", holder.worker, service.model.name, holder.device, load_seconds)
    return Slot(holder, partial(render, generator), service, lease, configuration)


def _until_redis_answers(operation: Callable[[], None]) -> None:
    """Retry for as long as it takes: a process that ended instead would have to load the model again."""

    def log(error: Exception, pause: float) -> None:
        logger.warning(
            "the model is loaded, but Redis does not take its description; next attempt in %.0f s: %s", pause, error
        )

    Retry(UnavailableError, first_pause=1.0, longest_pause=5.0, before_pause=log)(operation)


def _pin(device: str) -> None:
    """From now on this process and its children see no device but this; to be called before torch comes in."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if device == "cpu" else device  # noqa: TID251
    # The order in which nvidia-smi counts. By itself CUDA begins with the card that it takes for the fastest.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # noqa: TID251
    if device == "cpu":
        # By default OpenMP's threads spin while they wait for each other. Beside other busy processes that costs more
        # than it gains: on two busy cores the nano model took 70 to 84 s a video spinning, and 9 to 41 s sleeping.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # noqa: TID251


def _keep_compiled(data_dir: Path) -> None:
    """What is compiled once, the next start finds: in a hidden folder, which no artifact is in."""
    folder = data_dir / ".compiled"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))  # noqa: TID251
    # Triton's own place is the home folder. In our image that is /tmp, from which docker lets no library be loaded.
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))  # noqa: TID251


def is_gone(pid: int) -> bool:
    """Whether a process of this machine is no more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def process_index() -> int:
    """This process' place in Celery's pool, from 0; a process that replaces another has that one's."""
    return int(current_process().index)  # type: ignore[attr-defined]


@worker_init.connect
def _import_libraries(**_: Any) -> None:
    # They take seconds, which a process that replaces another is spared if it inherits them. Not where there is a GPU:
    # a CUDA context that began in the parent is of no use after the fork.
    if set(settings().worker_devices) == {"cpu"}:
        _pin("cpu")
        import svd_service.video.loader  # noqa: F401, PLC0415


@worker_process_init.connect
def _initialise(sender: str, **_: Any) -> None:
    # Celery swallows an exception of this hook and lets the process take jobs without a model; SystemExit it honours.
    index = process_index()
    LOADS.begin(index)
    try:
        _Process.slot = open_slot(settings(), sender, index)
    except Exception as error:
        failures = LOADS.fail(index)
        pause = min(2.0**failures, LOAD_PAUSE)
        # What the operator can correct is one sentence, which `svd-service up` shows; the rest needs its traceback.
        expected = type(error).__name__ == "ModelLoadError"
        logger.critical("%s%s", shutdown.LOAD_ERROR, error, exc_info=not expected)
        # Celery starts the next one at once, and would do so for ever. The worker ends if all of its processes fail.
        time.sleep(pause)
        raise SystemExit(shutdown.LOAD_FAILED) from None
    shutdown.ignore_signals()
    LOADS.succeed(index)
    Retention(_Process.slot.jobs.maintenance).start()


@worker_process_shutdown.connect
def _shut_down(exitcode: int, **_: Any) -> None:
    shutdown.heed_signals(exitcode)
    if _Process.slot is not None:
        _Process.slot.lease.stop()
    tracing.stop()


@celeryd_init.connect
def _introduce(sender: str, instance: Any, conf: Any, **_: Any) -> None:
    # From here on Celery has something to say, such as that it should not be root.
    logs.identify(worker=sender)
    logs.configure(settings())
    # Its banner, and what of it goes to standard output without being asked, are no JSON.
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
