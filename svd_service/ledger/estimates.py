"""What the ledger knows of the time that jobs take; `svd_service.jobs.eta` computes the estimates from it."""

import json
from collections.abc import Sequence

from svd_service.jobs.eta import Outlook
from svd_service.jobs.job import Job
from svd_service.ledger.client import reachable
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import WORKER_TIMEOUT


class Estimates:
    """Estimates of when queued jobs start and when jobs end."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._redis = scripts.redis

    def estimate(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs; those that have not ended with their remaining seconds, where an estimate is possible."""
        live = [job for job in jobs if not job.state.ended]
        outlooks = {}
        for model in {_model_of(job) for job in live}:
            places = [job.position for job in live if _model_of(job) == model and job.position is not None]
            # Most requests are about started jobs, whose estimate needs neither the queue nor the other workers.
            outlooks[model] = self.of_queue(model, max(places) - 1) if places else self._of_started(model)
        return [job if job.state.ended else outlooks[_model_of(job)].foretell(job) for job in jobs]

    def of_queue(self, model: str, places: int) -> Outlook:
        """The estimates for the first `places` places of the model's queue."""
        near, far = self._scripts.run("outlook", WORKER_TIMEOUT, places, model)
        return Outlook.of(model, json.loads(near), json.loads(far))

    def _of_started(self, model: str) -> Outlook:
        with reachable():
            paces = self._redis.hgetall(self._scripts.key("paces"))
        return Outlook.of(model, {"paces": paces, "runners": [], "queue": []})


def _model_of(job: Job) -> str:
    return str(job.model.get("name", ""))
