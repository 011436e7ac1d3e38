"""The use cases of a job, one method each: what every dialect and every worker calls."""

import hashlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, BinaryIO, Final

from svd_service import __version__
from svd_service.artifacts.base import ArtifactStore, ArtifactsUnavailableError, MissingArtifactError
from svd_service.config import Settings
from svd_service.errors import (
    ExpiredError,
    InvalidParameterError,
    MissingFormatError,
    NoPreviewError,
    NotReadyError,
    QueueFullError,
    RefusedError,
    UnavailableError,
    UnknownJobError,
)
from svd_service.jobs.job import Job, Result, State, Variant
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters, Request
from svd_service.jobs.submission import CachedVideo, Submission
from svd_service.parameters import Format
from svd_service.telemetry import logs, tracing

if TYPE_CHECKING:
    from svd_service.ledger import Ledger
    from svd_service.ledger.jobs import Wanted

logger = logging.getLogger(__name__)

#: The folders of the store that hold fitted pictures, and videos with their variants.
INPUTS: Final = "inputs"
RESULTS: Final = "results"

#: A file of the store is copied in pieces of so many bytes.
COPY_BYTES: Final = 1_048_576

#: Seconds for which an artifact may lie without a job that wants it: longer than any submission takes.
ORPHAN_AGE: Final = 3_600.0


@dataclass
class OpenResult:
    """A finished job's video or another variant of it, open for reading: `size` bytes. The caller closes `file`.

    `sha256` is that of the file where it is the video in some format, else that of the video.
    """

    job: Job
    result: Result
    variant: Variant
    size: int
    sha256: str
    file: BinaryIO


class JobService:
    """Submit, find, cancel, delete jobs and open their results; dispatch, reap and sweep for those who keep house.

    `publish` gives a job's id to a queue of Celery's. It may fail or raise `UnavailableError`: the job is in the ledger
    by then, and the house-keeping publishes it again.
    """

    def __init__(
        self,
        ledger: "Ledger",
        artifacts: ArtifactStore,
        model: Model,
        settings: Settings,
        publish: Callable[[str, str], None],
    ) -> None:
        self.ledger = ledger
        self.artifacts = artifacts
        self.model = model
        self.settings = settings
        self._publish = publish

    def submit(
        self,
        upload: BinaryIO,
        request: Request,
        *,
        owner: str = "",
        notes: Mapping[str, str] | None = None,
        idempotency_key: str = "",
        priority: int = 0,
        webhook: str = "",
        job_id: str | None = None,
    ) -> Job:
        """Accept a picture and a request; the job is in the ledger, and queued, when this returns.

        `notes` are remembered with the job, and have no part in the video. `webhook` is where its end is told, a URL
        that may be (webhooks.py).
        `job_id` is reserved for this request (reservations.py): if there is that job already, it is the answer.

        Raises:
            RefusedError: the picture or a parameter is at fault, or there is no such model.
            IdempotencyConflictError: `idempotency_key` was used before, for another request.
            QueueFullError: too many jobs wait, or too many of this owner.
            UnavailableError: the ledger or the artifacts cannot be reached. The job may exist all the same; asking
                again with the same `idempotency_key` is safe.
        """
        if job_id is not None:
            with suppress(UnknownJobError):
                return self.find(job_id, owner=owner)
        model = self._model_of(request)
        may_be_cached = self.settings.content_cache and "seed" in request.values
        if not idempotency_key and not may_be_cached:
            # Before the picture costs anything. With the key it may be a repetition, which needs no room, as a copy.
            self.ledger.jobs.require_room(owner, model.name, request.profile)
        # Pillow comes in with the first picture: the web process is to start fast, and workers need none of this.
        from svd_service.jobs.images.opening import encode_png, open_image  # noqa: PLC0415

        with open_image(upload, self.settings) as picture:
            parameters = request.resolve(model, picture.size)
            content = encode_png(picture.fitted(parameters.width, parameters.height, parameters.fit))
        # While Redis is away nothing is to be stored that would be left behind.
        self.ledger.jobs.ping()
        shared = job_id is not None  # with the same request sent again, which may be under way just now
        job_id = job_id or str(uuid.uuid4())
        name = input_name(job_id)
        digest = self._content_of(content, parameters, model) if self.settings.content_cache else ""
        same, copy = self._copied(job_id, digest, owner, model) if may_be_cached else (None, None)
        self.artifacts.put(name, content)
        accepted = ""
        try:
            accepted = self.ledger.jobs.submit(
                Submission(
                    job_id,
                    parameters=parameters,
                    model=model.summary(),
                    input=name,
                    owner=owner,
                    notes=notes,
                    trace=tracing.carrier(),
                    idempotency_key=idempotency_key,
                    fingerprint=_fingerprint(content, request) if idempotency_key else "",
                    priority=priority,
                    content=digest,
                    looked_up=same is not None,
                    cached=CachedVideo(same, copy) if same and copy else None,
                    webhook=webhook,
                )
            )
        except UnavailableError:
            # The job may be there all the same, and want its picture. If it is not, the sweep for orphans gets it.
            accepted = job_id
            logs.add(job_id=job_id)
            raise
        finally:
            if accepted != job_id:
                if not shared:
                    self._leave_to_the_sweep_at_worst(name)
                self._drop_copy(copy)
        logs.add(job_id=accepted)
        logger.info("job %s: %s", accepted, "accepted" if accepted == job_id else "asked for again")
        if copy is not None:
            job = self.find(accepted, owner=owner)
            if job.cached_from:
                self._leave_to_the_sweep_at_worst(name)
                return job
            self._drop_copy(copy)  # the earlier job was gone just then
        self.dispatch()
        return self.find(accepted, owner=owner)

    def models(self) -> list[Model]:
        """The service's own model, then the others that workers hold or held lately, by name."""
        return [self.model, *(model for model in self.ledger.workers.models() if model.name != self.model.name)]

    def find_model(self, name: str | None) -> Model | None:
        """The model of that name; that of requests which name none; `None` if there is none such."""
        return self.model if name in {None, self.model.name} else self.ledger.workers.model(str(name))

    def _model_of(self, request: Request) -> Model:
        model = self.find_model(request.model)
        if model is None:
            names = ", ".join(each.name for each in self.models())
            raise InvalidParameterError("model", f"model: any of {names}; got {request.model}")
        return model

    def _content_of(self, picture: bytes, parameters: Parameters, model: Model) -> str:
        """A digest of all that a video depends on, as far as it is known before a device is chosen."""
        made_of = {
            "picture": hashlib.sha256(picture).hexdigest(),
            "parameters": parameters.to_dict(),
            "model": {"source": model.source, **model.summary()},
            "optimizations": self.settings.optimizations,
            "version": __version__,
        }
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    def _copied(self, job_id: str, content: str, owner: str, model: Model) -> tuple[str, Result | None]:
        """An earlier job that made the same video, and a copy of its files as the result of job `job_id`; or `""`."""
        same = self.ledger.jobs.find_same(owner, content, model.name)
        if not same:
            return "", None
        copy = None
        try:
            result = self.find(same, owner=owner).result
            if result is None:
                return "", None
            copy = replace(result, artifact=result_name(job_id, uuid.uuid4().hex))
            for variant in result.variants:
                with (
                    self.artifacts.open(variant_name(result.artifact, variant)) as source,
                    self.artifacts.staged(variant_name(copy.artifact, variant)) as path,
                    path.open("wb") as target,
                ):
                    shutil.copyfileobj(source, target, COPY_BYTES)
        except (MissingArtifactError, UnknownJobError):  # it was deleted, or its time was over, meanwhile
            self._drop_copy(copy)
            return "", None
        except BaseException:
            self._drop_copy(copy)
            raise
        return same, copy

    def _drop_copy(self, copy: Result | None) -> None:
        if copy is not None:
            for variant in copy.variants:
                self._leave_to_the_sweep_at_worst(variant_name(copy.artifact, variant))

    def count_refused(self, error: RefusedError | QueueFullError) -> None:
        """Note for the exporter that a submission was refused."""
        with suppress(UnavailableError):
            self.ledger.stats.count_refused(error.code)

    def find(self, job_id: str, *, owner: str = "") -> Job:
        """The job at this moment.

        Raises:
            UnknownJobError: there is none of that id, or it is another owner's.
        """
        if _is_job_id(job_id):
            logs.add(job_id=job_id)
            job = self.ledger.jobs.find(job_id)
            if job.owner == owner and not job.deleted:
                (job,) = self.ledger.estimates.estimate([job])
                return _in_time(job)
        raise UnknownJobError(f"there is no job {job_id}")

    def page(
        self, *, owner: str = "", after: str | None = None, limit: int = 20, newest_first: bool = True
    ) -> tuple[list[Job], bool]:
        """A page of an owner's jobs by the time of submission, beginning behind job `after`; and whether there is more.

        Raises:
            UnknownJobError: `after` is no job of this owner.
        """
        page = self.ledger.jobs.page(owner, after=after, limit=limit, newest_first=newest_first)
        return [_in_time(job) for job in self.ledger.estimates.estimate(page.jobs)], page.more

    def open_result(self, job_id: str, *, owner: str = "", variant: Variant = Variant.VIDEO) -> OpenResult:
        """A finished job's video in one of its formats, or its thumbnail or sprite sheet.

        Raises:
            UnknownJobError: there is no such job, or it is another owner's.
            MissingFormatError: the job was not asked for this format.
            NotReadyError: the job has not finished, or ended without a result.
            ExpiredError: the result is past its time.
        """
        job = self.find(job_id, owner=owner)
        if job.state is State.EXPIRED:
            raise ExpiredError("the result is past its time and was deleted")
        _require_format(job, variant)
        if job.result is None:
            raise NotReadyError(job.state, _why_not_ready(job), job.eta_seconds)
        name = variant_name(job.result.artifact, variant)
        known = job.result.files.get(variant.kind) if variant.kind else None
        try:
            size = known.bytes if known else self.artifacts.size(name)
            sha256 = known.sha256 if known else job.result.sha256
            return OpenResult(job, job.result, variant, size, sha256, self.artifacts.open(name))
        except MissingArtifactError:
            raise ExpiredError("the result is gone from the store") from None

    def read_preview(self, job_id: str, *, owner: str = "") -> bytes:
        """The latest preview of a started job, as WebP.

        Raises:
            UnknownJobError: there is no such job, or it is another owner's.
            NoPreviewError: there is none yet, or the job has ended.
        """
        job = self.find(job_id, owner=owner)
        if job.preview is None:
            raise NoPreviewError(job.state)
        try:
            with self.artifacts.open(job.preview.artifact) as file:
                return file.read()
        except MissingArtifactError:  # the attempt has just ended
            raise NoPreviewError(job.state) from None

    def link(self, opened: OpenResult) -> str | None:
        """A URL of the store's own at which the same can be read for a while, where results are to be had so."""
        if not self.settings.s3_redirect:
            return None
        return self.artifacts.link(variant_name(opened.result.artifact, opened.variant), self.settings.s3_redirect_ttl)

    def cancel(self, job_id: str, *, owner: str = "") -> Job:
        """Cancel the job: at once if it is queued, at its next step if it is started, not at all if it has ended.

        Raises:
            UnknownJobError: there is none of that id, or it is another owner's.
        """
        job = self.find(job_id, owner=owner)
        if self.ledger.jobs.cancel(job_id) is State.CANCELLED:
            self._leave_to_the_sweep_at_worst(job.input)
            self.dispatch()
        return self.find(job_id, owner=owner)

    def delete(self, job_id: str, *, owner: str = "") -> Job | None:
        """Cancel a job that has not ended, as `cancel` does; of one that has, delete record and artifacts for good.

        Returns the job, or `None` when it is no more. Whoever repeats this until it says so has a job that is gone.

        Raises:
            UnknownJobError: there is none of that id, or it is another owner's.
            ArtifactsUnavailableError: the artifacts cannot be deleted now, and so the record is left, too.
        """
        if not self.find(job_id, owner=owner).state.ended:
            return self.cancel(job_id, owner=owner)
        self.artifacts.ready()
        # The record first: artifacts without one are swept up, while a record without them would promise a video.
        self.ledger.jobs.forget(job_id)
        self._delete_artifacts(job_id)
        return None

    def discard(self, job_id: str, *, owner: str = "") -> None:
        """Delete the job with all that it has; nobody sees it again. One that is started is cancelled as well.

        Raises:
            UnknownJobError: there is none of that id, or it is another owner's.
            ArtifactsUnavailableError: the artifacts cannot be deleted now, and so the record is left, too.
        """
        self.find(job_id, owner=owner)
        self.artifacts.ready()
        if self.ledger.jobs.forget(job_id, insist=True):
            self._delete_artifacts(job_id)
            self.dispatch()

    def dispatch(self) -> None:
        """Give Celery as many ids as there are workers. Never raises: what fails here is repeated by house-keeping."""
        try:
            for job_id, queue in self.ledger.maintenance.dispatch().items():
                self._publish(job_id, queue)
        except UnavailableError as error:
            logger.warning("publishing is put off: %s", error)

    def reap(self) -> list[str]:
        """Take back the jobs of lost workers and publish again what got lost; returns the ids taken back."""
        reaped = self.ledger.maintenance.reap()
        for job_id, queue in reaped.overdue.items():
            self._publish(job_id, queue)
        self.dispatch()
        return reaped.lost

    def expire(self) -> int:
        """Apply retention to the results and records that are due; returns how many."""
        due = self.ledger.maintenance.expire()
        for job_id in due:
            self._delete_artifacts(job_id)
        return len(due)

    def sweep_orphans(self) -> int:
        """Delete the artifacts that no job wants (left by a crash between two steps); returns how many."""
        swept = self.artifacts.sweep_staging(max(ORPHAN_AGE, self.settings.job_timeout))
        # What else lies in the same folder or bucket is not ours to judge.
        names = chain.from_iterable(self.artifacts.names(folder) for folder in (INPUTS, RESULTS))
        for batch in _batches(names, 200):
            old = [name for name, modified in batch if modified < time.time() - ORPHAN_AGE]
            wanted = self.ledger.jobs.wanted({_job_of(name) for name in old})
            for name in old:
                if not _is_wanted(name, wanted[_job_of(name)]):
                    self.artifacts.delete(name)
                    swept += 1
        return swept

    def _leave_to_the_sweep_at_worst(self, name: str) -> None:
        """Delete what no job wants any more; of a store that is away nobody need hear for that."""
        try:
            self.artifacts.delete(name)
        except ArtifactsUnavailableError as error:
            logger.warning("%s is left to the sweep: %s", name, error)

    def _delete_artifacts(self, job_id: str) -> None:
        self.artifacts.delete(input_name(job_id))
        for name, _ in list(self.artifacts.names(f"{RESULTS}/{job_id}")):
            self.artifacts.delete(name)


def input_name(job_id: str) -> str:
    """The artifact that holds a job's fitted picture."""
    return f"{INPUTS}/{job_id}.png"


def result_name(job_id: str, token: str) -> str:
    """The artifact that holds the video of one attempt; no two attempts ever write to one name."""
    return f"{RESULTS}/{job_id}/{token}.mp4"


def preview_name(job_id: str, token: str) -> str:
    """The artifact that holds the preview of one attempt, for as long as it goes on."""
    return f"{RESULTS}/{job_id}/{token}.preview.webp"


def variant_name(video: str, variant: Variant) -> str:
    """The artifact that holds a variant of the artifact `video`."""
    endings = {Variant.VIDEO: ".mp4", Variant.THUMBNAIL: ".thumbnail.webp", Variant.SPRITESHEET: ".spritesheet.jpg"}
    return video.removesuffix(".mp4") + (endings.get(variant) or f".{variant}")


def _job_of(name: str) -> str:
    return name.split("/")[1].removesuffix(".png")


def _is_wanted(name: str, wanted: "Wanted") -> bool:
    # A video's variants are wanted as long as the video is.
    video = variant_name(name.partition(".")[0], Variant.VIDEO)
    return name == wanted.input or video in {
        wanted.result,
        result_name(_job_of(name), wanted.token) if wanted.token else None,
    }


def _batches(names: Iterator[tuple[str, float]], size: int) -> Iterator[list[tuple[str, float]]]:
    batch: list[tuple[str, float]] = []
    for name in names:
        batch.append(name)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def _is_job_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _in_time(job: Job) -> Job:
    """A result is past its time when its time is over, not when somebody came to sweep it up."""
    if job.state is State.FINISHED and job.expires_at is not None and job.expires_at <= job.observed_at:
        return replace(job, state=State.EXPIRED, result=None)
    return job


def _require_format(job: Job, variant: Variant) -> None:
    kind, made = variant.kind, (Format.MP4, *job.parameters.formats)
    if kind is not None and kind not in made:
        raise MissingFormatError(
            f"the video comes as {', '.join(made)}; for {kind}, say so in the field formats when you submit the job"
        )


def _why_not_ready(job: Job) -> str:
    if job.failure is not None:
        return f"the job failed: {job.failure.message}"
    return f"the job has no result: it is {job.state}"


def _fingerprint(content: bytes, request: Request) -> str:
    parameters = json.dumps({**request.values, "model": request.model}, sort_keys=True).encode()
    return hashlib.sha256(content + parameters).hexdigest()
