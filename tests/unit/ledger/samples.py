"""Parameters, holders and results of jobs, shortcuts to submit and finish one, and the ledger's clock."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from svd_service.jobs.job import Claim, Holder, Result, WebhookState
from svd_service.jobs.parameters import Parameters
from svd_service.jobs.submission import Submission
from svd_service.ledger import Ledger
from svd_service.ledger.workers import WorkerStatus
from svd_service.parameters import Fit, Profile
from svd_service.webhooks.outbox import DeliveryClaim, Outbox

PARAMETERS = Parameters(
    seed=1,
    width=256,
    height=144,
    num_frames=8,
    num_inference_steps=4,
    fps=7,
    motion_bucket_id=127,
    noise_aug_strength=0.02,
    min_guidance_scale=1.0,
    max_guidance_scale=3.0,
    decode_chunk_size=4,
    fit=Fit.CROP,
)
MODEL = {"name": "tiny", "revision": None, "trained": False}
HOLDER = Holder("host/0", "cpu", "instance", 1)
OTHER = Holder("host/1", "cpu", "instance", 2)
RESULT = Result("results/a/b.mp4", 1000, "00ff", 256, 144, 8, {"seed": 1})
#: Names of the Celery queues of the model `tiny`: for workers that accept drafts only, and all profiles.
DRAFTS, ALL = "svd.tiny@draft", "svd.tiny"
URL = "https://me:pw@Example.com:8443/hook?token=1"


class Clock:
    """The clock of a ledger, in seconds since the epoch; it starts at the beginning of a minute."""

    def __init__(self) -> None:
        self.now = 1_700_000_040.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def pass_time(ledger: Ledger, clock: Clock, seconds: float) -> None:
    """Advance the clock while a worker of another model is active, since without activity no lease expires."""
    end = clock.now + seconds
    while clock.now < end:
        clock.advance(min(2.0, end - clock.now))
        join(ledger, "elsewhere/0", model="elsewhere")


def rounds(ledger: Ledger, clock: Clock, seconds: int, *workers: str) -> list[str]:
    """Maintenance once a second, beside the heartbeats of `workers`; returns the ids that were enqueued again."""
    overdue: list[str] = []
    for _ in range(seconds):
        clock.advance(1)
        ready(ledger, *workers)
        overdue += ledger.maintenance.reap().overdue
    return overdue


def submit(
    ledger: Ledger,
    job_id: str = "a",
    *,
    profile: Profile = Profile.EXACT,
    model: str = "tiny",
    parameters: Parameters = PARAMETERS,
    **more: Any,
) -> str:
    description: Mapping[str, object] = {**MODEL, "name": model}
    return ledger.jobs.submit(
        Submission(
            job_id,
            parameters=replace(parameters, profile=profile),
            model=description,
            input=f"inputs/{job_id}.png",
            **more,
        )
    )


def finish(ledger: Ledger, claim: Claim | None, result: Result = RESULT) -> None:
    assert claim is not None
    ledger.attempts.finish(claim, result, device="cpu", seconds={"sampling": 2.0, "decoding": 1.0}, steps=4)


def holder(worker: str) -> Holder:
    return Holder(worker, "cpu", "instance", 1)


def join(ledger: Ledger, worker: str, *profiles: str, model: str = "tiny") -> None:
    """A heartbeat of a worker that accepts these profiles; all if none is given."""
    ledger.workers.heartbeat(WorkerStatus(worker, "cpu", "instance", 1, model, False, 0.0, 1.0, profiles=profiles))


def ready(ledger: Ledger, *workers: str) -> None:
    for worker in workers:
        join(ledger, worker)


def cancelled(ledger: Ledger, job_id: str = "a", url: str = URL, **more: Any) -> None:
    """A job whose end has a webhook to deliver."""
    submit(ledger, job_id, webhook=url, **more)
    ledger.jobs.cancel(job_id)


def claimed(outbox: Outbox, job_id: str = "a") -> DeliveryClaim:
    outbox.choose_due()
    delivery = outbox.claim(job_id)
    assert delivery is not None
    return delivery


def webhook_state(ledger: Ledger, job_id: str = "a") -> WebhookState:
    webhook = ledger.jobs.find(job_id).webhook
    assert webhook is not None
    return webhook.state
