from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from svd_service.config import Settings
from svd_service.jobs.job import AttemptOutcome, File, Phase, Progress, Result
from svd_service.jobs.submission import CachedVideo
from svd_service.jobs.usage import Usage, total
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.constants import REPORTED, Constants
from svd_service.ledger.scripts import Scripts
from svd_service.parameters import Format
from tests.unit.ledger.samples import HOLDER, RESULT, finish, submit

pytestmark = pytest.mark.enable_socket

TWO_FILES = Result("results/a/b.mp4", 1000, "00ff", 256, 144, 8, further={Format.GIF: File(500, "11")})


@pytest.fixture
def ledger(redis_client: Any, make_settings: Callable[..., Settings]) -> Ledger:
    return open_ledger(redis_client, make_settings(SVD_MAX_ATTEMPTS=2))


def today() -> date:
    return datetime.now(UTC).date()


def usage_of(ledger: Ledger, owner: str = "ann") -> Usage:
    return total(ledger.usage.of(owner, today() - timedelta(1), today()))


def begin_seconds_ago(redis_client: Any, seconds: float, job_id: str = "a", attempt: int = 1) -> None:
    name = f"began:{attempt}"
    began = float(redis_client.hget(f"svd:job:{job_id}", name))
    redis_client.hset(f"svd:job:{job_id}", name, f"{began - seconds:.6f}")


def test_a_finished_job_counts_its_measured_phases_frames_and_files(ledger):
    submit(ledger, owner="ann")
    finish(ledger, ledger.attempts.claim("a", HOLDER), TWO_FILES)
    assert usage_of(ledger) == Usage(submitted=1, finished=1, device_seconds=3.0, frames=8, bytes=1500)
    assert ledger.jobs.find("a").attempts[0].device_seconds == 3.0
    (record,) = ledger.usage.of("ann", today() - timedelta(1), today())
    assert (record.day, record.model) == (today(), "tiny")
    assert usage_of(ledger, "bob") == Usage()


def test_failed_attempts_are_counted_apart_and_cancelled_ones_are_charged(ledger, redis_client):
    submit(ledger, owner="ann")
    claim = ledger.attempts.claim("a", HOLDER)
    begin_seconds_ago(redis_client, 7)
    ledger.attempts.end_attempt(claim, AttemptOutcome.RETRIED)
    claim = ledger.attempts.claim("a", HOLDER)
    begin_seconds_ago(redis_client, 5, attempt=2)
    ledger.jobs.cancel("a")
    ledger.attempts.end_attempt(claim, AttemptOutcome.CANCELLED)
    found = usage_of(ledger)
    assert (found.submitted, found.cancelled, found.failed) == (1, 1, 0)
    assert found.failed_device_seconds == pytest.approx(7, abs=1)
    assert found.device_seconds == pytest.approx(5, abs=1)
    times = [attempt.device_seconds for attempt in ledger.jobs.find("a").attempts]
    assert times == [found.failed_device_seconds, found.device_seconds]


def test_a_lost_attempt_counts_until_its_last_report(ledger, redis_client):
    submit(ledger, owner="ann")
    claim = ledger.attempts.claim("a", HOLDER)
    ledger.attempts.report(claim, Progress(Phase.SAMPLING, 1, 4))
    begin_seconds_ago(redis_client, 20)
    reported_at = float(redis_client.hget("svd:job:a", REPORTED))
    redis_client.hset("svd:job:a", REPORTED, f"{reported_at - 12:.6f}")
    ledger.attempts.end_attempt(claim, AttemptOutcome.LOST)
    assert usage_of(ledger).failed_device_seconds == pytest.approx(8, abs=1)


def test_a_copy_of_an_earlier_video_uses_no_device_and_makes_nothing(ledger):
    submit(ledger, owner="ann", content="same")
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    submit(ledger, "b", owner="ann", content="same", looked_up=True, cached=CachedVideo("a", RESULT))
    found = usage_of(ledger)
    assert (found.submitted, found.finished, found.cached) == (2, 2, 1)
    assert (found.device_seconds, found.frames, found.bytes) == (3.0, 8, 1000)


def test_usage_outlives_the_job_and_is_kept_for_400_days(ledger, redis_client):
    submit(ledger, owner="ann")
    ledger.jobs.forget("a", insist=True)
    assert usage_of(ledger) == Usage(submitted=1, cancelled=1)
    (key,) = redis_client.keys("svd:usage:ann:*")
    assert redis_client.ttl(key) == pytest.approx(400 * 86_400, abs=60)


def test_days_are_read_from_the_first_to_the_last(ledger, redis_client):
    for day in (date(2025, 1, 1), date(2025, 6, 1), date(2025, 12, 31)):
        redis_client.hset(f"svd:usage:ann:{(day - date(1970, 1, 1)).days}", "tiny|finished", 1)
    read = ledger.usage.of("ann", date(2025, 1, 2), date(2025, 12, 31))
    assert [record.day for record in read] == [date(2025, 6, 1), date(2025, 12, 31)]


def test_totals_name_a_bounded_number_of_owners(redis_client, make_settings):
    settings = make_settings()
    ledger = open_ledger(
        redis_client, settings, Scripts(redis_client, settings.namespace, constants=Constants(max_usage_owners=2))
    )
    for number, owner in enumerate(("ann", "bob", "carl", "dora", "ann")):
        submit(ledger, str(number), owner=owner)
    assert {owner: usage.submitted for owner, usage in ledger.usage.totals().items()} == {
        "ann": 2,
        "bob": 1,
        "other": 2,
    }


def test_damaged_usage_starts_again_from_zero(ledger, redis_client):
    submit(ledger, owner="ann")
    (key,) = redis_client.keys("svd:usage:ann:*")
    redis_client.hset(key, "tiny|submitted", "many")
    assert usage_of(ledger) == Usage()
    submit(ledger, "b", owner="ann")
    submit(ledger, "c", owner="ann")
    assert usage_of(ledger).submitted == 1
