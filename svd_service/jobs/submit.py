"""Submitting a job: prepare the image, reuse an earlier video or reserve a place, accept, enqueue."""

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from svd_service.artifacts.base import ArtifactStore
from svd_service.config import Settings
from svd_service.errors import (
    InvalidParameterError,
    JobError,
    MissingImageError,
    UnavailableError,
    UnknownJobError,
    WriteRefusedError,
)
from svd_service.jobs.allowance import Allowance
from svd_service.jobs.clip import VideoLimits
from svd_service.jobs.content_cache import ContentCache
from svd_service.jobs.enqueueing import Dispatch
from svd_service.jobs.job import Job
from svd_service.jobs.job_files import credentials_name, delete_inputs_or_leave, input_name, input_video_name
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.jobs.queries import Queries
from svd_service.jobs.source_videos import SourceVideos
from svd_service.jobs.submission import CachedVideo, Submission
from svd_service.marking.c2pa_library import is_installed
from svd_service.parameters import TABLE
from svd_service.telemetry import logs, tracing

if TYPE_CHECKING:
    from svd_service.ledger import Ledger
    from svd_service.marking.ingredients import SourceCredentials

logger = logging.getLogger(__name__)


#: Raises `ContentFilteredError` or `ModerationUnavailableError` unless the image (PNG) of a job and owner is allowed.
Moderate = Callable[[bytes, str, str], None]


@dataclass(frozen=True)
class Order:
    """The video that a caller requests, and how its job is handled.

    A `VideoRequest` (parameters) becomes an `Order` (with owner and handling), a `Draft` (prepared), and a `Submission`
    (for the ledger).

    `notes` are returned with the job and do not influence the video. `webhook` is the URL that is notified when the job
    ends; the caller has checked it. `allowance` is that of the owner's key. The job fails `cancel_after` seconds after
    its acceptance unless it has ended; if `strict`, it is rejected when it would probably not end before. `job_id` is
    an id reserved for this request: if that job exists, it is the answer.
    """

    request: VideoRequest
    owner: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str = ""
    priority: int = 0
    webhook: str = ""
    allowance: Allowance = field(default_factory=Allowance)
    job_id: str | None = None
    cancel_after: float | None = None
    strict: bool = False


@dataclass(frozen=True)
class Draft:
    """A job before acceptance: `store_input` stores its image, or the video to be extended, as `input`.

    `image` is the fitted one as PNG, if there is one. `content` is the key of the content cache, `fingerprint` that of
    the request.
    """

    job_id: str
    order: Order
    model: Model
    parameters: Parameters
    input: str
    store_input: Callable[[], None]
    content: str
    fingerprint: str
    image: bytes | None = None


class Submit:
    """Accepts an order, with or without an image; the job is in the ledger, and queued, when the call returns."""

    def __init__(
        self,
        ledger: "Ledger",
        artifacts: ArtifactStore,
        queries: Queries,
        cache: ContentCache,
        dispatch: Dispatch,
        settings: Settings,
        moderate: Moderate = lambda *_: None,
    ) -> None:
        self._moderate = moderate
        self._sources = SourceVideos(queries, artifacts)
        self._ledger = ledger
        self._artifacts = artifacts
        self._queries = queries
        self._cache = cache
        self._dispatch = dispatch
        self._settings = settings

    def __call__(self, upload: BinaryIO | None, order: Order) -> Job:
        """The job of the order: a video of the image `upload`, or one that extends another job's.

        Raises:
            RejectedError: the image or a parameter is invalid, there is neither an image nor a job to be extended, or
                there is no such model.
            UnknownJobError, NotReadyError, ExpiredError: the job to be extended has no video.
            IdempotencyConflictError: the idempotency key was used before, for another request.
            ContentFilteredError: the moderation hook rejects the image.
            NotAllowedError: the owner's key must not use this model or profile.
            QueueFullError: too many jobs are queued, or too many of this owner.
            QuotaExceededError: a quota of the owner's key is used up.
            PausedError: an operator has paused the intake.
            LateError: the order is strict, and its job would probably not end before its deadline.
            UnavailableError: the ledger or the store cannot be reached. The job may exist nevertheless; submitting
                again with the same idempotency key is safe.
        """
        if (existing := self._existing(order)) is not None:
            return existing
        if order.request.extend:  # what is extended was moderated itself, and the new video will be
            draft = self._prepare_extension(upload, order)
        else:
            (draft,) = self.prepare(upload, [order])
        cached = self._reuse(draft)
        accepted = self._accept(draft, cached)
        if cached is not None and self._is_done(accepted, draft, cached):
            return self._queries.find(accepted, owner=order.owner)
        self._dispatch()
        return self._queries.find(accepted, owner=order.owner)

    def count_rejected(self, error: JobError) -> None:
        """Count a rejected submission for the exporter, if Redis can be reached."""
        with suppress(UnavailableError):
            self._ledger.stats.count_rejected(error.code)

    def _existing(self, order: Order) -> Job | None:
        if order.job_id is not None:
            with suppress(UnknownJobError):
                return self._queries.find(order.job_id, owner=order.owner)
        if order.request.extend and order.idempotency_key:
            # By now the extended video may have expired or been deleted.
            repeated = self._ledger.jobs.find_repeated(order.owner, order.idempotency_key, fingerprint(order.request))
            return self._queries.find(repeated, owner=order.owner) if repeated else None
        return None

    def prepare(self, upload: BinaryIO | None, orders: Sequence[Order]) -> list[Draft]:
        """Resolve the parameters, and fit and moderate the image, of orders that differ only in the seed.

        Raises:
            RejectedError, NotAllowedError, QueueFullError, QuotaExceededError, PausedError, ContentFilteredError: as a
                submission does.
        """
        if upload is None:
            raise MissingImageError("an image is missing")
        model = self._model(orders[0].request.model, orders)
        # Pillow is loaded with the first image: the web process must start fast, and workers need none of this.
        from svd_service.jobs.images.opening import encode_png, open_image  # noqa: PLC0415

        with open_image(upload, self._settings) as opened:
            resolved = [order.request.resolve(model, opened.size, self._limits) for order in orders]
            image = encode_png(opened.fitted(resolved[0].width, resolved[0].height, resolved[0].fit))
            credentials = opened.credentials() if self._settings.c2pa == "on" and is_installed() else None
        drafts = [
            self._draft(order, model, parameters, image, credentials)
            for order, parameters in zip(orders, resolved, strict=True)
        ]
        self._moderate(image, drafts[0].job_id, orders[0].owner)
        return drafts

    def _draft(
        self, order: Order, model: Model, parameters: Parameters, image: bytes, credentials: "SourceCredentials | None"
    ) -> Draft:
        job_id = order.job_id or str(uuid.uuid4())

        def store() -> None:
            if credentials is not None:
                self._artifacts.put(credentials_name(job_id), credentials.archive)
            self._artifacts.put(input_name(job_id), image)

        return Draft(
            job_id,
            order,
            model,
            parameters,
            input_name(job_id),
            store,
            self._cache.digest(image, parameters, model, credentials.manifest_id if credentials else ""),
            fingerprint(order.request, image),
            image,
        )

    def _prepare_extension(self, upload: BinaryIO | None, order: Order) -> Draft:
        """Resolve the parameters from those of the job to be extended."""
        request = order.request
        if upload is not None:
            raise InvalidParameterError("extend", "extend: the video continues from that job's; send no image")
        source = self._sources.find(str(request.extend), owner=order.owner)
        model = self._model(request.model or source.model, [order])
        parameters = request.resolve(model, source.size, self._limits, source.extended)
        job_id = order.job_id or str(uuid.uuid4())
        name = input_video_name(job_id)
        return Draft(
            job_id,
            order,
            model,
            parameters,
            name,
            lambda: self._sources.copy(source, name),
            self._cache.digest(source.sha256.encode(), parameters, model),
            fingerprint(request),
        )

    def _model(self, name: str | None, orders: Sequence[Order]) -> Model:
        """The requested model, if jobs that are neither repeated nor cached have room in its queue and quotas."""
        model, first = self._queries.require_model(name), orders[0]
        first.allowance.require(model.name, first.request.profile)
        if not first.idempotency_key and (len(orders) > 1 or not self._cache.may_have(first.request)):
            # Before the image costs anything.
            self._ledger.queue_limit.require_room(first.owner, model.name, first.request.profile, len(orders))
            self._ledger.jobs.require_quota(first.owner, first.allowance.quotas, len(orders))
        return model

    @property
    def _limits(self) -> VideoLimits:
        return VideoLimits(self._settings.max_seconds, self._settings.max_output_pixels)

    def _reuse(self, draft: Draft) -> CachedVideo | None:
        """A copy of the video of an earlier job with the same content, if there is one."""
        # Without Redis nothing must be stored, since nothing would refer to it.
        self._ledger.jobs.ping()
        if not self._cache.may_have(draft.order.request):
            return None
        return self._cache.copy(draft.content, draft.model.name, job_id=draft.job_id, owner=draft.order.owner)

    def _accept(self, draft: Draft, cached: CachedVideo | None) -> str:
        """Store the input and write the job to the ledger; returns its id, or that of the job it repeats."""
        logs.add(job_id=draft.job_id)
        with cleaned_up_unless_accepted(lambda: self._clean_up(draft, cached)):
            draft.store_input()
            accepted = self._ledger.jobs.submit(self.submission(draft, cached))
        logs.add(job_id=accepted)
        if accepted == draft.job_id:
            logger.info("job %s: accepted", accepted)
        else:
            logger.info("job %s: submitted again", accepted)
            self._clean_up(draft, cached)
        return accepted

    def submission(self, draft: Draft, cached: CachedVideo | None = None, *, ahead: int = 0) -> Submission:
        """What the ledger needs to accept the draft, after `ahead` others of the same request."""
        order = draft.order
        return Submission(
            draft.job_id,
            parameters=draft.parameters,
            model=draft.model.summary(),
            input=draft.input,
            owner=order.owner,
            notes=order.notes,
            trace=tracing.carrier(),
            idempotency_key=order.idempotency_key,
            fingerprint=draft.fingerprint if order.idempotency_key else "",
            priority=order.priority,
            content=draft.content,
            looked_up=self._cache.may_have(order.request),
            cached=cached,
            webhook=order.webhook,
            cancel_after=order.cancel_after,
            late=cached is None and self._is_late(draft, ahead),
            quotas=order.allowance.quotas,
        )

    def _is_late(self, draft: Draft, ahead: int) -> bool:
        order = draft.order
        if not order.strict or order.cancel_after is None:
            return False
        seconds = self._ledger.estimates.until_end(order.owner, draft.model.name, draft.parameters, ahead)
        return seconds is not None and seconds > order.cancel_after

    def _is_done(self, accepted: str, draft: Draft, cached: CachedVideo) -> bool:
        """Whether the copy is the job's result; deletes what is not needed: the image, or else the copy."""
        if self._queries.find(accepted, owner=draft.order.owner).cached_from:
            delete_inputs_or_leave(self._artifacts, draft.job_id)
            return True
        self._cache.drop(cached)  # the earlier job was deleted in the meantime
        return False

    def _clean_up(self, draft: Draft, cached: CachedVideo | None) -> None:
        # Under a reserved id, a retry of the same request may be in progress with the same image.
        if draft.order.job_id is None:
            delete_inputs_or_leave(self._artifacts, draft.job_id)
        if cached is not None:
            self._cache.drop(cached)


@contextmanager
def cleaned_up_unless_accepted(clean_up: Callable[[], None]) -> Iterator[None]:
    """Call `clean_up` if storing inputs or writing their jobs to the ledger fails.

    When Redis does not answer, the jobs may have been accepted and need their inputs, so nothing is deleted; if they
    were not, the sweep for orphans deletes them.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, WriteRefusedError) or not isinstance(error, UnavailableError):
            clean_up()
        raise


def fingerprint(request: VideoRequest, image: bytes = b"", **more: object) -> str:
    """A digest of what a caller requests, for the comparison of requests with one idempotency key."""
    defaults = {name: row.spec.default for name, row in TABLE.items() if row.spec.default is not None}
    values = {name: value for name, value in request.values.items() if value != defaults.get(name)}
    parameters = json.dumps({**values, "model": request.model, **more}, sort_keys=True).encode()
    return hashlib.sha256(image + parameters).hexdigest()
