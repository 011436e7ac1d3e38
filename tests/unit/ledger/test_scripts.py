from pathlib import Path

import pytest

from svd_service.errors import (
    UnavailableError,
    UnknownJobError,
    WriteRefusedError,
)
from svd_service.jobs.job import AttemptOutcome, Failure, Phase, Progress, State
from svd_service.ledger import open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.scripts import LUA
from svd_service.webhooks.outbox import LUA as OUTBOX_LUA
from tests.unit.ledger.samples import (
    HOLDER,
    finish,
    ready,
    submit,
)

pytestmark = pytest.mark.enable_socket


def test_every_change_is_notified_with_a_rising_version(ledger, redis_client):
    with redis_client.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe("svd:events")
        listener.get_message(timeout=1)
        submit(ledger, owner="key-1")
        claim = ledger.attempts.claim("a", HOLDER)
        ledger.attempts.report(claim, Progress(Phase.SAMPLING, 1, 4))
        ledger.attempts.report(claim)
        finish(ledger, claim)
        received = []
        while message := listener.get_message(timeout=0.5):
            received.append(message["data"])
    states = ["queued", "started", "started", "finished"]
    assert received == [f"a {version} {state} key-1" for version, state in enumerate(states, 1)]


def test_without_redis_every_method_raises_unavailable(make_settings):
    away = make_settings(REDIS_URL="redis://127.0.0.1:1/0")
    ledger = open_ledger(connect(away), away)
    for call in (
        lambda: submit(ledger),
        lambda: ledger.jobs.find("a"),
        ledger.stats.figures,
        ledger.maintenance.dispatch,
        ledger.jobs.ping,
    ):
        with pytest.raises(UnavailableError):
            call()


@pytest.fixture
def full_memory(redis_client):
    """Fills Redis, so that it rejects writes that need memory."""

    def fill() -> None:
        redis_client.config_set("maxmemory", "1mb")

    yield fill
    redis_client.config_set("maxmemory", "0")


@pytest.mark.parametrize("looked_up", [False, True])
def test_with_full_memory_no_job_is_accepted(ledger, full_memory, looked_up):
    submit(ledger)
    full_memory()
    with pytest.raises(UnavailableError):
        submit(ledger, "b", looked_up=looked_up)
    with pytest.raises(UnknownJobError):
        ledger.jobs.find("b")


def test_with_full_memory_jobs_end_and_only_submissions_are_rejected(ledger, redis_client, full_memory):
    ready(ledger, "w/0")
    claims = {}
    for outcome in AttemptOutcome:
        submit(ledger, outcome, owner="me", webhook="https://example.com/")
        claims[outcome] = ledger.attempts.claim(outcome, HOLDER)
    for job_id in ("queued", "cancelled-now", "forgotten"):
        submit(ledger, job_id, owner="me")
    full_memory()
    with pytest.raises(WriteRefusedError):
        submit(ledger, "rejected")
    ready(ledger, "w/0")
    for outcome, claim in claims.items():
        ledger.attempts.report(claim, Progress(Phase.SAMPLING, 1, 4))
        if outcome is AttemptOutcome.FINISHED:
            finish(ledger, claim)
        else:
            ledger.attempts.end_attempt(claim, outcome, Failure("x", "y"))
    assert ledger.jobs.cancel("cancelled-now") is State.CANCELLED
    assert ledger.jobs.forget("forgotten", insist=True)
    ledger.maintenance.reap()
    assert ledger.maintenance.dispatch() != {}
    assert ledger.attempts.claim("queued", HOLDER)
    ledger.estimates.estimate([ledger.jobs.find("queued")])
    ledger.rate_limit.count("me", 10)
    assert ledger.stats.figures().created == len(AttemptOutcome) + 3
    ledger.workers.leave("w/0")


ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    "script",
    [path for folder in (LUA, OUTBOX_LUA) for path in sorted(folder.glob("*.lua"))],
    ids=lambda path: path.stem,
)
def test_each_script_has_a_test_file_of_its_own(script: Path) -> None:
    room = script.parent.relative_to(ROOT / "svd_service")
    assert (ROOT / "tests" / "unit" / room / f"test_{script.stem}.py").is_file()
