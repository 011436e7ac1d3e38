"""Queries about jobs and models."""

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from svd_service.errors import InvalidParameterError, UnknownJobError
from svd_service.jobs.job import DEADLINE_EXCEEDED, Job, State
from svd_service.jobs.model import Model
from svd_service.telemetry import logs

if TYPE_CHECKING:
    from svd_service.ledger import Ledger


class Queries:
    """Finds jobs of an owner, and the models that are served; `model` is the service's own.

    Every method raises `UnavailableError` when Redis cannot be reached.
    """

    def __init__(self, ledger: "Ledger", model: Model) -> None:
        self._ledger = ledger
        self._model = model

    def find(self, job_id: str, *, owner: str = "") -> Job:
        """The job at this moment.

        Raises:
            UnknownJobError: there is no job with that id, or it belongs to another owner.
        """
        if is_id(job_id):
            logs.add(job_id=job_id)
            job = self._ledger.jobs.find(job_id)
            if job.owner == owner and not job.deleted:
                (job,) = self._ledger.estimates.estimate([job])
                return as_due(job)
        raise UnknownJobError(f"there is no job {job_id}")

    def page(
        self, *, owner: str = "", after: str | None = None, limit: int = 20, newest_first: bool = True
    ) -> tuple[list[Job], bool]:
        """A page of an owner's jobs by the time of submission, beginning after job `after`; and whether more follow.

        Raises:
            UnknownJobError: `after` is no job of this owner.
        """
        page = self._ledger.jobs.page(owner, after=after, limit=limit, newest_first=newest_first)
        return [as_due(job) for job in self._ledger.estimates.estimate(page.jobs)], page.more

    def models(self) -> list[Model]:
        """The service's own model, then the others that workers hold or held recently, by name."""
        return [self._model, *(model for model in self._ledger.workers.models() if model.name != self._model.name)]

    def find_model(self, name: str | None) -> Model | None:
        """The model of that name, or the service's own for `None`; `None` if there is no such model."""
        return self._model if name in {None, self._model.name} else self._ledger.workers.model(str(name))

    def require_model(self, name: str | None) -> Model:
        """The model of that name, or the service's own for `None`.

        Raises:
            InvalidParameterError: there is no such model.
        """
        model = self.find_model(name)
        if model is None:
            names = ", ".join(each.name for each in self.models())
            raise InvalidParameterError("model", f"model: any of {names}; got {name}")
        return model


def is_id(text: str) -> bool:
    """Whether `text` can be the id of a job or a group."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def as_due(job: Job) -> Job:
    """The job as it is by its times, even if maintenance has not run: a finished one has expired from its expiry time
    on, a queued one has failed from its deadline on.
    """
    if job.state is State.QUEUED and job.deadline_at is not None and job.deadline_at <= job.observed_at:
        return replace(job, state=State.FAILED, failure=DEADLINE_EXCEEDED, position=None, eta_seconds=None)
    if job.state is State.FINISHED and job.expires_at is not None and job.expires_at <= job.observed_at:
        return replace(job, state=State.EXPIRED, result=None)
    return job
