"""One attempt at a job, from claim to end, without Celery: claim, generate, upload, commit."""

import hashlib
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from PIL import Image, UnidentifiedImageError

from svd_service.artifacts.base import ArtifactStore, ArtifactsUnavailableError, MissingArtifactError
from svd_service.errors import (
    BrokenInputError,
    ContentFilteredError,
    InvalidOutputError,
    ModerationUnavailableError,
    StaleAttemptError,
    UnavailableError,
)
from svd_service.jobs.job import (
    RESULT_FILES,
    AttemptOutcome,
    Claim,
    Failure,
    File,
    Holder,
    Job,
    Phase,
    Progress,
    Result,
    Still,
)
from svd_service.jobs.job_files import file_name, input_names, is_video, result_name
from svd_service.jobs.parameters import Parameters
from svd_service.ledger import Ledger
from svd_service.ledger.attempts import StopReason
from svd_service.marking.signer import SigningError
from svd_service.parameters import Format
from svd_service.retry import Retry
from svd_service.telemetry import logs
from svd_service.worker.device_errors import is_device_lost, is_out_of_memory
from svd_service.worker.interruptions import (
    CancelRequested,
    DeadlineError,
    DeviceLostError,
    ReleaseRequested,
    TimeLimitError,
)
from svd_service.worker.moderating import moderate
from svd_service.worker.previews import Previews
from svd_service.worker.process import WorkerContext, is_gone
from svd_service.worker.shared_memory import Drain
from svd_service.worker.spans import AttemptSpans

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Minimum seconds between two reports: a tiny model's steps are not all worth a round trip.
REPORT_INTERVAL: Final = 0.05

#: Seconds without reports after one that Redis did not take, so that generation does not wait for Redis at every step.
REPORT_PAUSE: Final = 5.0

#: Seconds for which the end of an attempt is retried while Redis is away: longer than a restart with a large file.
SETTLE_PATIENCE: Final = 300.0

#: The same for a job that is released: the worker shuts down, and the lease will expire anyway.
RELEASE_PATIENCE: Final = 3.0

#: Seconds for which operations on the store are retried while it is away, for the image and again for the video; and
#: seconds between two attempts.
STORE_PATIENCE: Final = 300.0
STORE_PAUSE: Final = 1.0


#: Seconds between two checks of whether this process is still held back.
HELD_BACK_CHECK: Final = 1.0


def run_job(job_id: str, context: WorkerContext) -> str:
    """Run one attempt; returns how it ended (for Celery's tools: the ledger has the truth).

    Errors of the job itself are written to the ledger, not raised.

    Raises:
        UnavailableError: Redis was unavailable until the retries ended; the lease expires and the job is retried.
        DeviceLostError: this process can no longer be used; the job is retried in another one.
    """
    claim = _claim(job_id, context)
    # One id left the queue: enqueue the next before this job's minutes begin.
    context.jobs.dispatch()
    if claim is None:
        _wait_while_held_back(context)
        return "nothing to do"
    with logs.context(job_id=job_id):
        logger.info("job %s: attempt %d begins", job_id, claim.attempt)
        try:
            with context.lease.kept(claim):
                outcome = _attempt(claim, context)
        except StaleAttemptError:
            outcome = "stale"
        logger.info("job %s: attempt %d %s", job_id, claim.attempt, outcome)
        return outcome


def _claim(job_id: str, context: WorkerContext) -> Claim | None:
    ledger = context.jobs.ledger
    held = ledger.attempts.current(job_id)
    dead = held.claim.token if held and _is_dead_sibling(held.holder, context.holder) else ""
    return ledger.attempts.claim(job_id, context.holder, dead=dead)


def _wait_while_held_back(context: WorkerContext) -> None:
    """Occupy this process while an operator holds it back, so that Celery gives it no messages.

    Not longer than half the time limit, at which Celery would kill it.
    """
    deadline = time.monotonic() + context.settings.job_timeout / 2
    while not context.drain.begun and time.monotonic() < deadline:
        try:
            if not context.jobs.ledger.controls.is_held_back(context.holder.worker):
                return
        except UnavailableError:
            return
        time.sleep(HELD_BACK_CHECK)


def _is_dead_sibling(holder: Holder, ours: Holder) -> bool:
    """Return whether `holder` was a process of this worker and has ended: its job need not wait for the lease."""
    if holder.instance != ours.instance:
        return False
    return holder.pid == ours.pid or is_gone(holder.pid)


def _attempt(claim: Claim, context: WorkerContext) -> str:
    ledger = context.jobs.ledger
    try:
        job = ledger.jobs.find(claim.job_id)
        logs.add(key_id=job.owner)
        with AttemptSpans(job, (CancelRequested, DeadlineError, ReleaseRequested, StaleAttemptError)) as spans:
            _generate(claim, job, context, spans)
        outcome = "finished"
    except StaleAttemptError:
        raise
    except CancelRequested:
        _patiently(lambda: ledger.attempts.end_attempt(claim, AttemptOutcome.CANCELLED))
        outcome = "cancelled"
    except ReleaseRequested:
        _patiently(lambda: ledger.attempts.end_attempt(claim, AttemptOutcome.RELEASED), RELEASE_PATIENCE)
        # Let another worker start it.
        context.jobs.dispatch()
        return "released"
    except DeadlineError as error:
        failure = Failure(error.code, str(error))
        _patiently(lambda: ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, failure))
        outcome = "failed"
    except UnavailableError as error:
        part = "The moderation hook" if isinstance(error, ModerationUnavailableError) else "Storage"
        return _end_for_retry(
            claim, context, Failure(error.code, f"{part} could not be reached in any attempt: {error}")
        )
    except Exception as error:
        logger.exception("job %s: attempt %d failed", claim.job_id, claim.attempt)
        if is_device_lost(error):
            _report_lost_device(claim, context, error)
            raise DeviceLostError(str(error)) from error
        failure = _failure(error)
        _patiently(lambda: ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, failure))
        outcome = "failed"
        if context.settings.keep_inputs:  # deleted by the sweep
            return outcome
    with suppress(UnavailableError):
        for name in input_names(claim.job_id):
            context.jobs.artifacts.delete(name)
    return outcome


def _end_for_retry(claim: Claim, context: WorkerContext, failure: Failure) -> str:
    _patiently(lambda: context.jobs.ledger.attempts.end_attempt(claim, AttemptOutcome.RETRIED, failure))
    context.jobs.dispatch()
    return "retried"


def _report_lost_device(claim: Claim, context: WorkerContext, error: Exception) -> None:
    """End the attempt. Does not raise, as this process must end in any case; the lease expires."""
    failure = Failure(DeviceLostError.code, f"The device failed in every attempt: {error}".splitlines()[0])
    try:
        _end_for_retry(claim, context, failure)
    except (StaleAttemptError, UnavailableError) as unreported:
        logger.warning("job %s: attempt %d: %s", claim.job_id, claim.attempt, unreported)


def _generate(claim: Claim, job: Job, context: WorkerContext, spans: AttemptSpans) -> None:
    artifacts, ledger = context.jobs.artifacts, context.jobs.ledger
    began = time.monotonic()
    deadline = began + context.settings.job_timeout
    report = Reporter(claim, ledger, context.drain, deadline, on_phase=spans.phase)
    retry = StoreRetry(report, context.drain)
    context.marking.check()
    start = _read_input(job, context, retry)
    source = retry(lambda: context.marking.source_of(job, start, artifacts))
    name = result_name(job.id, claim.token)
    with ExitStack() as staged:
        sign = partial(context.marking.sign_preview, job)
        # What is to be moderated must not be visible before.
        shown = context.settings.previews and not context.jobs.moderation.sees_results
        previews = Previews(claim, ledger, artifacts, sign) if shown else None
        if previews is not None:
            staged.enter_context(previews)
        path, *others = (
            staged.enter_context(artifacts.staged(file_name(name, kind), retry))
            for kind in (Format.MP4, *job.parameters.formats)
        )
        paths = dict(zip(job.parameters.formats, others, strict=True))
        rendering = context.render(start, job.parameters, path, report, further=paths, on_preview=previews)
        report(Progress(Phase.UPLOADING))
        retry.begin(Phase.UPLOADING)
        moderate(rendering, job, context.jobs.moderation, retry)
        unsigned = _file(path).sha256
        context.marking.sign_files([(Format.MP4, path), *paths.items()], job, source)
        video, further = _file(path), {kind: _file(path) for kind, path in paths.items()}
        for still, content in ((Still.THUMBNAIL, rendering.thumbnail), (Still.SPRITESHEET, rendering.spritesheet)):
            signed = context.marking.sign_still(job, content, still)
            retry(partial(artifacts.put, file_name(name, still), signed))
    try:
        provenance = {
            **rendering.provenance,
            "attempt": claim.attempt,
            "worker": asdict(context.holder)["worker"],
            # Each signature differs: this digest is the same for the same frames.
            "content_credentials": {"state": context.marking.state, "unsigned_sha256": unsigned},
        }
        shape = rendering.width, rendering.height, rendering.frames
        result = Result(name, video.bytes, video.sha256, *shape, provenance, further)
        _patiently(
            lambda: ledger.attempts.finish(
                claim,
                result,
                device=context.holder.device,
                seconds=rendering.seconds,
                steps=job.parameters.num_inference_steps * job.parameters.segments,
                reusable=_as_requested(rendering.provenance, job.parameters),
            )
        )
    except StaleAttemptError:
        with suppress(ArtifactsUnavailableError):  # the sweep deletes them later
            for kind in RESULT_FILES:
                artifacts.delete(file_name(name, kind))
        raise


def _read_input(job: Job, context: WorkerContext, retry: "StoreRetry") -> Image.Image | bytes:
    """The image, or the MP4 that the job extends."""
    return retry(lambda: _open_input(job.input, context.jobs.artifacts))


def _open_input(name: str, artifacts: ArtifactStore) -> Image.Image | bytes:
    try:
        with artifacts.open(name) as file:
            if is_video(name):
                return file.read()
            with Image.open(file, formats=["PNG"]) as image:
                return image.convert("RGB")
    except ArtifactsUnavailableError:
        raise
    except (MissingArtifactError, UnidentifiedImageError, OSError, SyntaxError) as error:
        kind = "video" if is_video(name) else "image"
        raise BrokenInputError(f"The stored {kind} is missing or cannot be read.") from error


def _as_requested(provenance: dict[str, Any], parameters: Parameters) -> bool:
    """Return whether the video is what it would be without memory pressure: OOM fallbacks change it slightly."""
    memory = provenance.get("memory", {})
    chunk = memory.get("decode_chunk_size", parameters.decode_chunk_size)
    return bool(chunk == parameters.decode_chunk_size and not memory.get("attempts"))


class StoreRetry:
    """Retries operations while the store or the moderation hook is unavailable, for `STORE_PATIENCE` after the first
    failure of a phase.

    Raises, when called:
        ArtifactsUnavailableError, ModerationUnavailableError: the last failure, when the time is over.
        CancelRequested, ReleaseRequested, StaleAttemptError, TimeLimitError: as `Reporter` does; in every phase.
    """

    def __init__(self, report: "Reporter", drain: Drain) -> None:
        self._report = report
        self._drain = drain
        self.begin(Phase.PREPARING)

    def begin(self, phase: Phase) -> None:
        """Begin a phase, which restarts the time limit."""
        self._phase = phase
        self._deadline: float | None = None

    def __call__(self, operation: Callable[[], T]) -> T:
        """Run `operation` with retries; returns its result."""
        retry = Retry(
            (ArtifactsUnavailableError, ModerationUnavailableError),
            first_pause=STORE_PAUSE,
            longest_pause=STORE_PAUSE,
            before_pause=self._check,
        )
        return retry(operation)

    def _check(self, error: Exception, pause: float) -> None:
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + STORE_PATIENCE
        if now > self._deadline:
            raise error
        self._report(Progress(self._phase))
        # Even a finished video is abandoned: the worker's supervisor does not wait for the store.
        if self._drain.is_over:
            raise ReleaseRequested("The worker is shutting down.")
        logger.warning("retry in %.0f s: %s", pause, error)


class Reporter:
    """Reports an attempt's progress to the ledger, within a phase at most every `REPORT_INTERVAL`, and stops the
    attempt when necessary.

    The generation calls it with a `Progress`, in its thread. `deadline`, that of `SVD_JOB_TIMEOUT`, is in seconds on
    the clock of `time.monotonic`. `on_phase` is called when a phase begins.

    Raises, when called:
        CancelRequested: the job was cancelled.
        ReleaseRequested: the worker shuts down, and its drain timeout is over.
        StaleAttemptError: the claim is no longer the job's.
        DeadlineError: the deadline that the caller set for the job (`Cancel-After`) has passed.
        TimeLimitError: `SVD_JOB_TIMEOUT` has passed.
    """

    def __init__(
        self,
        claim: Claim,
        ledger: Ledger,
        drain: Drain,
        deadline: float,
        on_phase: Callable[[Phase], None] = lambda _: None,
    ) -> None:
        self._claim = claim
        self._ledger = ledger
        self._drain = drain
        self._deadline = deadline
        self._on_phase = on_phase
        self._next = 0.0
        self._phase: Phase | None = None

    def __call__(self, progress: Progress) -> None:
        """Report `progress`."""
        now = time.monotonic()
        if now > self._deadline:
            raise TimeLimitError
        # The upload takes less time than another worker would need to start again.
        if self._drain.is_over and progress.phase is not Phase.UPLOADING:
            raise ReleaseRequested("The worker shuts down.")
        # A phase may take minutes without a step, so its beginning is always reported.
        if now < self._next and progress.phase is self._phase:
            return
        if progress.phase is not self._phase:
            self._phase = progress.phase
            self._on_phase(progress.phase)
        try:
            stop = self._ledger.attempts.report(self._claim, progress)
        except UnavailableError as error:
            # Redis may be back before the job ends; only the end of the attempt must reach it.
            logger.warning("job %s: progress is not reported: %s", self._claim.job_id, error)
            self._next = time.monotonic() + REPORT_PAUSE
            return
        self._next = time.monotonic() + REPORT_INTERVAL
        if stop is StopReason.DEADLINE:
            raise DeadlineError
        if stop is not None:
            raise CancelRequested("The job was cancelled.")


def _patiently(settle: Callable[[], None], patience: float = SETTLE_PATIENCE) -> None:
    def log(error: Exception, pause: float) -> None:
        logger.warning("the end of an attempt is retried in %.1f s: %s", pause, error)

    Retry(UnavailableError, patience, before_pause=log)(settle)


#: Errors whose own message is for the caller.
_EXPLAINED: Final = (TimeLimitError, BrokenInputError, InvalidOutputError, SigningError, ContentFilteredError)


def _failure(error: Exception) -> Failure:
    if isinstance(error, _EXPLAINED):
        return Failure(error.code, str(error))
    if is_out_of_memory(error):
        return Failure("out_of_memory", "The device ran out of memory; ask for fewer frames or a smaller size.")
    return Failure("generation_failed", f"Generation failed: {type(error).__name__}: {error}")


def _file(path: Path) -> File:
    with path.open("rb") as file:
        return File(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
