from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from svd_service.config import Settings
from svd_service.errors import QuotaExceededError
from svd_service.jobs.job import AttemptOutcome
from svd_service.jobs.submission import CachedVideo
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.scripts import Scripts
from tests.unit.ledger.samples import HOLDER, RESULT, finish, submit

pytestmark = pytest.mark.enable_socket

HOUR = 3_600


@pytest.fixture
def ledger(redis_client: Any, make_settings: Callable[..., Settings]) -> Ledger:
    return open_ledger(redis_client, make_settings())


def use(redis_client: Any, day: date, seconds: float, owner: str = "ann") -> None:
    number = (day - date(1970, 1, 1)).days
    redis_client.hincrby(f"svd:usage:{owner}:{number}", "tiny|device_ms", round(1000 * seconds))


def seconds_until(moment: datetime) -> float:
    return (moment - datetime.now(UTC)).total_seconds()


def start_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def next_month(day: date) -> date:
    return (day.replace(day=1) + timedelta(32)).replace(day=1)


def test_the_fourth_of_three_jobs_a_day_must_wait_for_the_next_day(ledger):
    quotas = {"jobs_per_day": 3}
    for job_id in "abc":
        submit(ledger, job_id, owner="ann", quotas=quotas)
    submit(ledger, "bob", owner="bob", quotas=quotas)
    for act in (
        lambda: submit(ledger, "d", owner="ann", quotas=quotas),
        lambda: ledger.jobs.require_quota("ann", quotas),
    ):
        with pytest.raises(QuotaExceededError, match="3 jobs a day, used up until") as raised:
            act()
        tomorrow = start_of(datetime.now(UTC).date() + timedelta(1))
        assert raised.value.retry_after == pytest.approx(seconds_until(tomorrow), abs=5)
    assert submit(ledger, "a", owner="ann", quotas=quotas) == "a"  # a repeated submission is no new job


def test_device_time_of_a_day_and_of_a_month_is_limited(ledger, redis_client):
    today = datetime.now(UTC).date()
    use(redis_client, today.replace(day=1), 50)
    use(redis_client, today.replace(day=1) - timedelta(1), 1_000)  # last month
    ledger.jobs.require_quota("ann", {"device_ms_per_month": 51_000})
    with pytest.raises(QuotaExceededError, match="50 seconds of device time a month") as raised:
        ledger.jobs.require_quota("ann", {"device_ms_per_month": 50_000})
    assert raised.value.retry_after == pytest.approx(seconds_until(start_of(next_month(today))), abs=5)
    use(redis_client, today, 30)
    with pytest.raises(QuotaExceededError, match="30 seconds of device time a day"):
        submit(ledger, owner="ann", quotas={"device_ms_per_day": 30_000})


def test_failed_attempts_are_not_charged(ledger):
    submit(ledger, owner="ann")
    ledger.attempts.end_attempt(ledger.attempts.claim("a", HOLDER), AttemptOutcome.RETRIED)
    ledger.jobs.require_quota("ann", {"device_ms_per_day": 1})


def test_queued_and_started_jobs_count_as_concurrent_until_they_end(ledger):
    quotas = {"concurrent_jobs": 2}
    submit(ledger, "a", owner="ann", quotas=quotas)
    claim = ledger.attempts.claim("a", HOLDER)
    submit(ledger, "b", owner="ann", quotas=quotas)
    with pytest.raises(QuotaExceededError, match="2 jobs at a time: retry when one of them has ended"):
        submit(ledger, "c", owner="ann", quotas=quotas)
    finish(ledger, claim)
    submit(ledger, "c", owner="ann", quotas=quotas)


def test_a_copy_of_an_earlier_video_needs_no_device_time_but_is_a_job(ledger, redis_client):
    submit(ledger, "a", owner="ann", content="same")
    finish(ledger, ledger.attempts.claim("a", HOLDER))
    copy: dict[str, Any] = {"owner": "ann", "content": "same", "looked_up": True, "cached": CachedVideo("a", RESULT)}
    submit(ledger, "b", quotas={"device_ms_per_day": 1, "concurrent_jobs": 1}, **copy)
    with pytest.raises(QuotaExceededError):
        submit(ledger, "c", quotas={"jobs_per_day": 2}, **copy)


def test_days_of_the_month_are_those_of_the_calendar(redis_client, tmp_path):
    """Every day of 1970 to 2101, leap years and centuries included."""
    loop = "local found = {}\nfor day = 0, 48000 do found[day + 1] = day_of_month(day) end\nreturn found\n"
    (tmp_path / "days.lua").write_text(f"-- include: quota\n{loop}")
    found = Scripts(redis_client, "svd", tmp_path).run("days")
    assert found == [(date(1970, 1, 1) + timedelta(day)).day for day in range(48_001)]
