"""What operators do with the jobs of all owners: list, cancel, retry, delete, purge."""

import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from svd_service.artifacts.base import ArtifactStore, MissingArtifactError
from svd_service.errors import NotRetryableError, UnknownJobError
from svd_service.jobs.enqueueing import Dispatch
from svd_service.jobs.job import Job, State
from svd_service.jobs.job_files import (
    copy,
    credentials_name,
    delete_inputs_or_leave,
    input_name,
    input_video_name,
    is_video,
)
from svd_service.jobs.removal import Removal
from svd_service.jobs.submission import Submission

if TYPE_CHECKING:
    from svd_service.ledger import Ledger

#: Number of records read at once, and the maximum that one page examines.
BATCH: Final = 100
MAX_EXAMINED: Final = 2_000

#: Maximum number of jobs that one purge deletes.
MAX_PURGED: Final = 200


@dataclass(frozen=True)
class Filter:
    """Which jobs: those of an owner, in a state, of a model, and accepted before a time (seconds since the epoch)."""

    owner: str | None = None
    state: State | None = None
    model: str = ""
    before: float | None = None

    def includes(self, job: Job) -> bool:
        """Whether a job is one of them."""
        return (
            (self.owner is None or job.owner == self.owner)
            and (self.state is None or job.state is self.state)
            and (not self.model or job.model.get("name") == self.model)
            and (self.before is None or job.created_at < self.before)
        )


@dataclass(frozen=True)
class AdminPage:
    """Jobs, newest first. `after` is where the next page begins: behind this job; `None`: this page is the last."""

    jobs: list[Job]
    after: str | None


class Administration:
    """The jobs of all owners.

    Every method raises `UnavailableError` when Redis or the store cannot be reached, and those of one job
    `UnknownJobError` if there is none with that id.
    """

    def __init__(self, ledger: "Ledger", artifacts: ArtifactStore, removal: Removal, dispatch: Dispatch) -> None:
        self._ledger = ledger
        self._artifacts = artifacts
        self._removal = removal
        self._dispatch = dispatch

    def find(self, job_id: str) -> Job:
        """The job, whoever owns it."""
        (job,) = self._ledger.estimates.estimate([self._ledger.jobs.find(job_id)])
        return job

    def page(self, wanted: Filter, *, after: str | None = None, limit: int = 50) -> AdminPage:
        """At most `limit` jobs, newest first, only those older than job `after`.

        At most `MAX_EXAMINED` jobs are examined, so a page may be short although others follow.
        """
        found: list[Job] = []
        last = None
        for examined, job in enumerate(self._older_than(after, wanted.owner)):
            if len(found) == limit or examined == MAX_EXAMINED:
                return AdminPage(self._ledger.estimates.estimate(found), last)
            last = job.id
            if wanted.includes(job):
                found.append(job)
        return AdminPage(self._ledger.estimates.estimate(found), None)

    def cancel(self, job_id: str) -> Job:
        """Cancel the job: at once if queued, at its next step if started; no effect if it has ended."""
        job = self.find(job_id)
        if self._ledger.jobs.cancel(job_id) is State.CANCELLED and job.state is State.QUEUED:
            delete_inputs_or_leave(self._artifacts, job_id)
            self._dispatch()
        return self.find(job_id)

    def delete(self, job_id: str) -> None:
        """Delete the job and its artifacts, whatever its state."""
        self._removal.delete(job_id, owner=self.find(job_id).owner)

    def retry(self, job_id: str) -> Job:
        """Submit a failed job again as a new job of its owner, with the same image and parameters; returns the new one.

        Raises:
            NotRetryableError: it has not failed, or its image is no longer stored.
        """
        job = self.find(job_id)
        if job.state is not State.FAILED:
            raise NotRetryableError(f"the job is {job.state}; only failed jobs can be retried")
        new = str(uuid.uuid4())
        input = input_video_name(new) if is_video(job.input) else input_name(new)
        try:
            copy(self._artifacts, job.input, input)
        except MissingArtifactError:
            raise NotRetryableError(
                "the job's image is no longer stored; SVD_KEEP_INPUTS keeps those of failed jobs"
            ) from None
        with suppress(MissingArtifactError):  # most images have none
            copy(self._artifacts, credentials_name(job_id), credentials_name(new))
        self._ledger.jobs.submit(
            Submission(
                new,
                parameters=job.parameters,
                model=job.model,
                input=input,
                owner=job.owner,
                notes=job.notes,
                priority=job.priority,
                webhook=job.webhook.url if job.webhook else "",
            )
        )
        self._dispatch()
        return self.find(new)

    def purge(self, wanted: Filter) -> tuple[int, bool]:
        """Delete ended jobs, at most `MAX_PURGED`; returns how many, and whether others may be left."""
        page = self.page(wanted, limit=MAX_PURGED)
        deleted = 0
        for job in page.jobs:
            if job.state.ended:
                with suppress(UnknownJobError):  # deleted meanwhile
                    self.delete(job.id)
                    deleted += 1
        return deleted, page.after is not None

    def _older_than(self, after: str | None, owner: str | None) -> Iterator[Job]:
        """The jobs older than job `after` (`None`: all), newest first; only those of `owner` unless it is `None`."""
        start = 0
        if after is not None:
            place = self._ledger.jobs.place(owner, after)
            if place is None:
                raise UnknownJobError(f"there is no job {after}")
            start = place + 1
        while batch := self._ledger.jobs.latest(owner, start=start, number=BATCH):
            yield from (job for job in batch if job is not None and not job.deleted)
            start += BATCH
