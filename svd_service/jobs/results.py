"""The files of a job: those of its result, and its preview while it runs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from svd_service.artifacts.base import ArtifactStore, MissingArtifactError
from svd_service.config import Settings
from svd_service.errors import ExpiredError, FilteredResultError, MissingFormatError, NoPreviewError, NotReadyError
from svd_service.jobs.job import Job, Result, ResultFile, State
from svd_service.jobs.job_files import file_name
from svd_service.jobs.queries import Queries
from svd_service.parameters import Format

if TYPE_CHECKING:
    from svd_service.ledger.jobs import Jobs


@dataclass
class OpenResult:
    """A file of a finished job's result, open for reading: `size` bytes. The caller closes `file`.

    `sha256` is the digest of the file if it is the video in some format, and of the MP4 otherwise.
    """

    job: Job
    result: Result
    kind: ResultFile
    size: int
    sha256: str
    file: BinaryIO


class Results:
    """Opens and keeps the files of an owner's jobs."""

    def __init__(self, queries: Queries, jobs: "Jobs", artifacts: ArtifactStore, settings: Settings) -> None:
        self._jobs = jobs
        self._queries = queries
        self._artifacts = artifacts
        self._settings = settings

    def open(self, job_id: str, *, owner: str = "", kind: ResultFile = Format.MP4) -> OpenResult:
        """A finished job's video in one of its formats, or its thumbnail or sprite sheet.

        Raises:
            UnknownJobError: there is no such job, or it belongs to another owner.
            MissingFormatError: the job was not submitted with this format.
            NotReadyError: the job has not finished, or ended without a result (`FilteredResultError`: the moderation
                hook rejected it).
            ExpiredError: the result has expired.
        """
        job = self._queries.find(job_id, owner=owner)
        if isinstance(kind, Format) and job.state is not State.EXPIRED:
            _require_format(job, kind)
        result = require_result(job)
        name = file_name(result.artifact, kind)
        known = result.files.get(kind) if isinstance(kind, Format) else None
        try:
            size = known.bytes if known else self._artifacts.size(name)
            sha256 = known.sha256 if known else result.sha256
            return OpenResult(job, result, kind, size, sha256, self._artifacts.open(name))
        except MissingArtifactError:
            raise ExpiredError("the result is gone from the store") from None

    def pin(self, job_id: str, *, on: bool, owner: str = "") -> Job:
        """Keep a finished job's video beyond its retention, or with `on` false no longer.

        Raises:
            UnknownJobError: there is no such job, or it belongs to another owner.
            NotReadyError: the job has not finished, or ended without a result.
            ExpiredError: the result has expired.
            PinLimitError: the owner has pinned as many jobs as allowed.
        """
        self.open(job_id, owner=owner).file.close()
        if not self._jobs.pin(job_id, on=on):
            raise ExpiredError("the result has expired and was deleted")
        return self._queries.find(job_id, owner=owner)

    def read_preview(self, job_id: str, *, owner: str = "") -> bytes:
        """The latest preview of a started job, as WebP.

        Raises:
            UnknownJobError: there is no such job, or it belongs to another owner.
            NoPreviewError: there is none yet, or the job has ended.
        """
        job = self._queries.find(job_id, owner=owner)
        if job.preview is None:
            raise NoPreviewError(job.state)
        try:
            with self._artifacts.open(job.preview.artifact) as file:
                return file.read()
        except MissingArtifactError:  # the attempt has just ended
            raise NoPreviewError(job.state) from None

    def link(self, opened: OpenResult) -> str | None:
        """A presigned URL of the store for the same file, valid for a while; `None` if downloads are not redirected."""
        if not self._settings.s3_redirect:
            return None
        return self._artifacts.link(file_name(opened.result.artifact, opened.kind), self._settings.s3_redirect_ttl)


def require_result(job: Job) -> Result:
    """The result of `job`.

    Raises:
        NotReadyError: the job has not finished, or ended without a result.
        ExpiredError: the result has expired.
    """
    if job.state is State.EXPIRED:
        raise ExpiredError("the result has expired and was deleted")
    if job.result is None:
        raise _not_ready(job)
    return job.result


def _require_format(job: Job, kind: Format) -> None:
    made = (Format.MP4, *job.parameters.formats)
    if kind not in made:
        raise MissingFormatError(
            f"the video comes as {', '.join(made)}; for {kind}, set the field formats when you submit the job"
        )


def _not_ready(job: Job) -> NotReadyError:
    filtered = job.failure is not None and job.failure.code == FilteredResultError.code
    kind = FilteredResultError if filtered else NotReadyError
    return kind(job.state, _why_not_ready(job), job.eta_seconds)


def _why_not_ready(job: Job) -> str:
    if job.failure is not None:
        return f"the job failed: {job.failure.message}"
    return f"the job has no result: it is {job.state}"
