"""Cancelling and deleting jobs."""

from typing import TYPE_CHECKING

from svd_service.artifacts.base import ArtifactStore
from svd_service.jobs.enqueueing import Dispatch
from svd_service.jobs.job import Job, State
from svd_service.jobs.job_files import delete_all, delete_inputs_or_leave
from svd_service.jobs.queries import Queries

if TYPE_CHECKING:
    from svd_service.ledger import Ledger


class Removal:
    """Cancels and deletes jobs of an owner.

    Every method raises `UnknownJobError` if there is no job with that id, or it belongs to another owner.
    """

    def __init__(self, queries: Queries, ledger: "Ledger", artifacts: ArtifactStore, dispatch: Dispatch) -> None:
        self._queries = queries
        self._ledger = ledger
        self._artifacts = artifacts
        self._dispatch = dispatch

    def cancel(self, job_id: str, *, owner: str = "") -> Job:
        """Cancel the job: at once if queued, at its next step if started; no effect if it has ended."""
        self._queries.find(job_id, owner=owner)
        if self._ledger.jobs.cancel(job_id) is State.CANCELLED:
            delete_inputs_or_leave(self._artifacts, job_id)
            self._dispatch()
        return self._queries.find(job_id, owner=owner)

    def cancel_or_delete(self, job_id: str, *, owner: str = "") -> Job | None:
        """Cancel a job that has not ended, as `cancel` does; delete the record and the artifacts of one that has.

        Returns the job, or `None` when it is deleted. Repeated until it returns `None`, it deletes any job.

        Raises:
            ArtifactsUnavailableError: the artifacts cannot be deleted now, so the record is kept, too.
        """
        if not self._queries.find(job_id, owner=owner).state.ended:
            return self.cancel(job_id, owner=owner)
        self._artifacts.ready()
        # The record first: artifacts without a record are swept, but a record without artifacts would offer a video.
        self._ledger.jobs.forget(job_id)
        delete_all(self._artifacts, job_id)
        return None

    def delete(self, job_id: str, *, owner: str = "") -> None:
        """Delete the record and the artifacts of the job, whatever its state; a started one is cancelled as well.

        Raises:
            ArtifactsUnavailableError: the artifacts cannot be deleted now, so the record is kept, too.
        """
        self._queries.find(job_id, owner=owner)
        self._artifacts.ready()
        if self._ledger.jobs.forget(job_id, insist=True):
            delete_all(self._artifacts, job_id)
            self._dispatch()
