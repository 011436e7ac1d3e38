"""Reads the ledger's data on how long jobs take; `svd_service.jobs.eta` computes the estimates from it."""

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from svd_service.jobs.eta import Estimator
from svd_service.jobs.job import Job
from svd_service.jobs.parameters import Parameters
from svd_service.ledger.connection import reachable
from svd_service.ledger.constants import ENQUEUED
from svd_service.ledger.record import DAMAGE, paired
from svd_service.ledger.scripts import Scripts
from svd_service.ledger.workers import WORKER_TIMEOUT

logger = logging.getLogger(__name__)


class Estimates:
    """Estimates of when queued jobs start and when jobs end."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts
        self._redis = scripts.redis

    def estimate(self, jobs: Sequence[Job]) -> list[Job]:
        """The same jobs; those that have not ended with their remaining seconds, where an estimate is possible."""
        live = [job for job in jobs if not job.state.ended]
        estimators = {}
        for model in {_model_of(job) for job in live}:
            places = [job.position for job in live if _model_of(job) == model and job.position is not None]
            # Most requests are about started jobs, whose estimate needs neither the queue nor the other workers.
            estimators[model] = self._of_queue(model, max(places) - 1) if places else self._of_started(model)
        return [job if job.state.ended else _estimated(job, estimators[_model_of(job)]) for job in jobs]

    def until_start(self, model: str, place: int, profiles: Iterable[str]) -> dict[str, float | None]:
        """Seconds until a job of each profile at `place` (from 0) of the model's queue would start; `None`: unknown."""
        estimator = self._of_queue(model, place)
        return {profile: _until_start(estimator, place, profile) for profile in profiles}

    def until_end(self, owner: str, model: str, parameters: Parameters, ahead: int = 0) -> float | None:
        """Seconds until a job that `owner` submits now, after `ahead` others, would end; `None`: unknown.

        Its place in the queue is estimated, without priorities: owners are served in turns.
        """
        key = self._scripts.key
        with reachable(), self._redis.pipeline(transaction=False) as pipe:
            pipe.zcard(key("waiting", model))
            pipe.zcard(key(ENQUEUED, model))
            pipe.hlen(key("queued_of"))
            pipe.hget(key("queued_of"), owner)
            waiting, enqueued, owners, own = (int(answer or 0) for answer in pipe.execute())
        others = owners - (1 if own else 0)
        place = min(waiting + enqueued, own + (own + 1) * others) + ahead
        try:
            return self._of_queue(model, place).until_end(place, parameters)
        except DAMAGE:
            return None

    def _of_queue(self, model: str, places: int) -> Estimator:
        near, far, throughput = self._scripts.run("estimate", model=model, worker_timeout=WORKER_TIMEOUT, places=places)
        return _estimator(model, {**json.loads(near), "throughput": paired(throughput)}, json.loads(far))

    def _of_started(self, model: str) -> Estimator:
        with reachable():
            throughput = self._redis.hgetall(self._scripts.key("throughput"))
        return _estimator(model, {"throughput": throughput, "runners": [], "queue": []})


def _until_start(estimator: Estimator, place: int, profile: str) -> float | None:
    try:
        return estimator.until_start(place, profile)
    except DAMAGE:
        return None


def _estimated(job: Job, estimator: Estimator) -> Job:
    try:
        return estimator.estimate(job)
    except DAMAGE:
        logger.warning("no estimate for job %s: the throughput model in Redis is damaged", job.id)
        return job


def _estimator(model: str, near: dict[str, Any], far: dict[str, Any] | None = None) -> Estimator:
    """The estimator of a model; one without data where the stored jobs or throughput models are damaged."""
    try:
        return Estimator.of(model, near, far) if far else Estimator.of(model, near)
    except DAMAGE:
        logger.warning("no estimates for model %s: the data in Redis are damaged", model)
        return Estimator({}, [], [])


def _model_of(job: Job) -> str:
    return str(job.model.get("name", ""))
