"""Server-sent events, over a real Redis; the reader is the test."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from svd_service.api.events import hub as events
from svd_service.api.events import stream as stream_module
from svd_service.api.native import generate, routes
from svd_service.jobs.job import AttemptOutcome, Failure, Phase, Progress

pytestmark = pytest.mark.enable_socket


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "TICK", 0.05)
    monkeypatch.setattr(events, "THROTTLE", 0.02)
    monkeypatch.setattr(stream_module, "HEARTBEAT", 30.0)


class Reader:
    """Reads a stream event by event."""

    def __init__(self, answer: Any) -> None:
        assert (answer.status_code, answer.mimetype) == (200, "text/event-stream")
        self._answer = answer
        self._chunks: Iterator[bytes] = iter(answer.response)

    def chunk(self) -> str:
        return next(self._chunks).decode()

    def event(self) -> dict[str, Any]:
        """The next event: its lines, with `data` as JSON."""
        while True:
            lines = dict(line.split(": ", 1) for line in self.chunk().splitlines() if line)
            if "data" in lines:
                return {**lines, "data": json.loads(lines["data"])}

    def rest(self) -> list[dict[str, Any]]:
        told = []
        while True:
            try:
                told.append(self.event())
            except StopIteration:
                return told

    def close(self) -> None:
        self._answer.close()


@pytest.fixture
def stream(http) -> Iterator[Callable[..., Reader]]:
    readers = []

    def open_stream(path: str, **headers: str) -> Reader:
        readers.append(Reader(http.get(path, headers=headers, buffered=False)))
        return readers[-1]

    yield open_stream
    for reader in readers:
        reader.close()


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_that_a_job_has_ended_is_told_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events, "THROTTLE", 1e9)
    changes = events._Changes()
    changes._sent["job"] = time.monotonic()
    changes.note("job 3 started ann")
    assert changes.due_in() > 1e6
    assert changes.due() == {}
    changes.note("job 4 finished ann")
    assert changes.due_in() == 0
    assert changes.due() == {"job": "ann"}


def test_a_stream_tells_of_a_job_from_how_it_stands_to_its_end(http, stream, jobs, submit, claim):
    job_id = submit()
    reader = stream(f"/jobs/{job_id}/events")
    first = reader.event()
    assert first["data"] == http.get(f"/jobs/{job_id}").json
    held = claim(job_id)
    assert reader.event()["data"]["status"] == "started"
    jobs.ledger.attempts.report(held, Progress(Phase.SAMPLING, 3, 6))
    assert reader.event()["data"]["progress"]["step"] == 3
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.FAILED, Failure("time_limit", "It took too long."))
    rest = reader.rest()
    assert [event["data"]["status"] for event in rest] == ["failed"]
    assert rest[0]["data"] == http.get(f"/jobs/{job_id}").json
    assert first["id"] == "1"
    assert rest[0]["id"] == "4"


def test_an_ended_job_is_told_once_and_a_browser_that_comes_back_is_sent_away(http, stream, submit, finish):
    job_id = submit()
    finish(job_id)
    (only,) = stream(f"/jobs/{job_id}/events").rest()
    assert only["data"]["status"] == "finished"
    assert http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": only["id"]}).status_code == 204
    (again,) = stream(f"/jobs/{job_id}/events", **{"Last-Event-ID": "1"}).rest()
    assert again == only


@pytest.mark.parametrize("seen", ["none", "-1", "9" * 5_000])
def test_who_says_nonsense_of_what_it_has_seen_is_told_all(stream, submit, finish, seen):
    job_id = submit()
    finish(job_id)
    (only,) = stream(f"/jobs/{job_id}/events", **{"Last-Event-ID": seen}).rest()
    assert only["data"]["status"] == "finished"


def test_a_stream_ends_when_its_time_is_over_and_the_reader_resumes(http, stream, jobs, submit, claim, monkeypatch):
    monkeypatch.setattr(http.application.extensions["events"], "_lifetime", 0.3)
    job_id = submit()
    first, *rest = stream(f"/jobs/{job_id}/events").rest()
    assert (first["id"], rest) == ("1", [])
    assert [event["data"]["task_id"] for event in stream("/events").rest()] == [job_id]
    claim(job_id)
    (resumed,) = stream(f"/jobs/{job_id}/events", **{"Last-Event-ID": "1"}).rest()
    assert (resumed["id"], resumed["data"]["status"]) == ("2", "started")


def test_a_stream_resumes_with_what_is_new(stream, jobs, submit, claim):
    job_id = submit()
    reader = stream(f"/jobs/{job_id}/events", **{"Last-Event-ID": "1"})
    assert reader.chunk().startswith("retry:")
    claim(job_id)
    assert reader.event()["id"] == "2"


def test_a_slow_reader_loses_steps_and_never_the_end(app, stream, jobs, submit, claim):
    job_id = submit()
    reader = stream(f"/jobs/{job_id}/events")
    reader.event()
    held = claim(job_id)
    for step in range(50):
        jobs.ledger.attempts.report(held, Progress(Phase.SAMPLING, step, 50))
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.FAILED, Failure("time_limit", "It took too long."))
    (box,) = app.extensions["events"]._mailboxes
    wait_for(lambda: any(event.ended for event in box._news.values()))
    told = reader.rest()
    assert len(told) == 1
    assert told[-1]["data"]["status"] == "failed"


def test_all_jobs_of_an_owner_are_told_of_in_one_stream(stream, jobs, submit, claim):
    old = [submit(), submit()]
    reader = stream("/events")
    assert [reader.event()["data"]["task_id"] for _ in old] == old
    new = submit()
    told = reader.event()
    assert (told["id"], told["data"]["status"]) == (f"{new}:1", "queued")
    claim(old[1])
    told = reader.event()
    assert (told["data"]["task_id"], told["data"]["status"]) == (old[1], "started")


def test_another_owners_jobs_are_not_told_of(http, stream, jobs, submit, monkeypatch):
    mine = submit()
    for module in (routes, generate):
        monkeypatch.setattr(module, "owner", lambda: "other")
    assert http.get(f"/jobs/{mine}/events").status_code == 404
    reader = stream("/events")
    assert reader.chunk().startswith("retry:")
    theirs = submit()
    assert reader.event()["data"]["task_id"] == theirs


def test_that_a_job_was_deleted_is_sent(http, stream, submit, redis_client):
    job_id = submit()
    reader = stream("/events")
    reader.event()
    # What is gone when the listener begins is told by nothing.
    wait_for(lambda: redis_client.pubsub_numsub("svd:events")[0][1])
    for _ in range(2):
        http.delete(f"/jobs/{job_id}")
    told = reader.event()
    while "event" not in told:
        assert told["data"]["status"] == "cancelled"
        told = reader.event()
    assert (told["event"], told["data"]) == ("deleted", {"task_id": job_id})


def test_an_unknown_job_has_no_stream(http):
    assert http.get("/jobs/nothing/events").status_code == 404


def test_a_silent_stream_says_that_it_is_there(stream, submit, monkeypatch):
    monkeypatch.setattr(stream_module, "HEARTBEAT", 0.1)
    first, second = stream(f"/jobs/{submit()}/events"), stream("/events")
    for reader in (first, second):
        reader.event()
        assert reader.chunk().startswith(":")


def test_beyond_the_cap_a_stream_is_refused_until_another_ends(http, app, stream, submit, monkeypatch):
    monkeypatch.setattr(app.extensions["events"], "_capacity", 2)
    path = f"/jobs/{submit()}/events"
    first, _ = stream(path), stream(path)
    refused = http.get(path)
    assert (refused.status_code, refused.json["error"]["code"]) == (503, "too_many_streams")
    assert refused.headers["Retry-After"]
    first.close()
    stream(path).event()


def test_asking_for_the_head_of_a_stream_keeps_nothing_open(http, app, submit):
    assert http.head(f"/jobs/{submit()}/events").status_code == 200
    assert app.extensions["events"]._watching() == []


def test_streams_end_when_the_process_is_to_end(http, app, stream, submit):
    stopping = threading.Event()
    app.extensions["events"].close_when(stopping.is_set)
    reader = stream("/events")
    submit()
    reader.event()
    stopping.set()
    assert reader.rest() == []
    assert http.get("/events").status_code == 503


def test_the_listener_ends_with_the_last_stream_and_begins_with_the_next(app, stream, submit, claim):
    hub = app.extensions["events"]
    for _ in range(2):
        job_id = submit()
        reader = stream(f"/jobs/{job_id}/events")
        reader.event()
        claim(job_id)
        assert reader.event()["data"]["status"] == "started"
        reader.close()
        wait_for(lambda: hub._thread is None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_of_the_listener_ends_the_streams_and_not_the_next_ones(app, stream, submit, claim, monkeypatch):
    job_id = submit()
    with monkeypatch.context() as broken:
        broken.setattr(app.extensions["events"], "_tell", lambda changed: 1 / 0)
        reader = stream(f"/jobs/{job_id}/events")
        assert [event["id"] for event in reader.rest()] == ["1"]
        reader.close()
        # The listener's last words belong to this test, not to the next one.
        for listener in [thread for thread in threading.enumerate() if thread.name == "events"]:
            listener.join(60)
    again = stream(f"/jobs/{job_id}/events")
    again.event()
    claim(job_id)
    assert again.event()["data"]["status"] == "started"


def test_what_was_lost_while_the_subscription_was_broken_is_sent(stream, jobs, submit, claim, redis_client):
    job_id = submit()
    reader = stream(f"/jobs/{job_id}/events")
    reader.event()
    wait_for(lambda: redis_client.pubsub_numsub("svd:events")[0][1])
    # As a partition would: the connection is cut, and the change happens before anybody listens again.
    with redis_client.pipeline(transaction=True) as both:
        both.client_kill_filter(_type="pubsub")
        both.hset(f"svd:job:{job_id}", "cancel", "1")
        both.hincrby(f"svd:job:{job_id}", "version", 1)
        both.execute()
    assert reader.event()["data"]["cancel_requested"] is True
