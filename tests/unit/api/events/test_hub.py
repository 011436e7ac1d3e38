"""Server-sent events over a real Redis, read by the test."""

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
        received = []
        while True:
            try:
                received.append(self.event())
            except StopIteration:
                return received

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
        assert time.monotonic() < deadline, "the condition was not met within 60 s"
        time.sleep(0.01)


def test_the_end_of_a_job_is_notified_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(events, "THROTTLE", 1e9)
    changes = events._Changes()
    changes._sent["job"] = time.monotonic()
    changes.note("job 3 started ann")
    assert changes.due_in() > 1e6
    assert changes.due() == {}
    changes.note("job 4 finished ann")
    assert changes.due_in() == 0
    assert changes.due() == {"job": "ann"}


def test_a_stream_sends_a_jobs_current_state_and_every_change_until_its_end(http, stream, jobs, submit, claim):
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


def test_an_ended_job_is_sent_once_and_a_reconnect_gets_204(http, stream, submit, finish):
    job_id = submit()
    finish(job_id)
    (only,) = stream(f"/jobs/{job_id}/events").rest()
    assert only["data"]["status"] == "finished"
    assert http.get(f"/jobs/{job_id}/events", headers={"Last-Event-ID": only["id"]}).status_code == 204
    (again,) = stream(f"/jobs/{job_id}/events", **{"Last-Event-ID": "1"}).rest()
    assert again == only


@pytest.mark.parametrize("seen", ["none", "-1", "9" * 5_000])
def test_an_invalid_last_event_id_gets_all_events(stream, submit, finish, seen):
    job_id = submit()
    finish(job_id)
    (only,) = stream(f"/jobs/{job_id}/events", **{"Last-Event-ID": seen}).rest()
    assert only["data"]["status"] == "finished"


def test_a_stream_ends_at_its_time_limit_and_the_reader_resumes(http, stream, jobs, submit, claim, monkeypatch):
    monkeypatch.setattr(http.application.extensions["events"], "_lifetime", 0.3)
    job_id = submit()
    first, *rest = stream(f"/jobs/{job_id}/events").rest()
    assert (first["id"], rest) == ("1", [])
    assert [event["data"]["task_id"] for event in stream("/events").rest()] == [job_id]
    claim(job_id)
    (resumed,) = stream(f"/jobs/{job_id}/events", **{"Last-Event-ID": "1"}).rest()
    assert (resumed["id"], resumed["data"]["status"]) == ("2", "started")


def test_a_resumed_stream_sends_only_new_events(stream, jobs, submit, claim):
    job_id = submit()
    reader = stream(f"/jobs/{job_id}/events", **{"Last-Event-ID": "1"})
    assert reader.chunk().startswith("retry:")
    claim(job_id)
    assert reader.event()["id"] == "2"


def test_a_slow_reader_misses_progress_but_never_the_end(app, stream, jobs, submit, claim):
    job_id = submit()
    reader = stream(f"/jobs/{job_id}/events")
    reader.event()
    held = claim(job_id)
    for step in range(50):
        jobs.ledger.attempts.report(held, Progress(Phase.SAMPLING, step, 50))
    jobs.ledger.attempts.end_attempt(held, AttemptOutcome.FAILED, Failure("time_limit", "It took too long."))
    (box,) = app.extensions["events"]._mailboxes
    wait_for(lambda: any(event.ended for event in box._news.values()))
    received = reader.rest()
    assert len(received) == 1
    assert received[-1]["data"]["status"] == "failed"


def test_one_stream_sends_the_events_of_all_jobs_of_an_owner(stream, jobs, submit, claim):
    old = [submit(), submit()]
    reader = stream("/events")
    assert [reader.event()["data"]["task_id"] for _ in old] == old
    new = submit()
    received = reader.event()
    assert (received["id"], received["data"]["status"]) == (f"{new}:1", "queued")
    claim(old[1])
    received = reader.event()
    assert (received["data"]["task_id"], received["data"]["status"]) == (old[1], "started")


def test_a_stream_sends_no_events_of_another_owners_jobs(http, stream, jobs, submit, monkeypatch):
    mine = submit()
    for module in (routes, generate):
        monkeypatch.setattr(module, "owner", lambda: "other")
    assert http.get(f"/jobs/{mine}/events").status_code == 404
    reader = stream("/events")
    assert reader.chunk().startswith("retry:")
    theirs = submit()
    assert reader.event()["data"]["task_id"] == theirs


def test_the_deletion_of_a_job_is_sent(http, stream, submit, redis_client):
    job_id = submit()
    reader = stream("/events")
    reader.event()
    # A deletion before the listener has subscribed produces no event.
    wait_for(lambda: redis_client.pubsub_numsub("svd:events")[0][1])
    for _ in range(2):
        http.delete(f"/jobs/{job_id}")
    received = reader.event()
    while "event" not in received:
        assert received["data"]["status"] == "cancelled"
        received = reader.event()
    assert (received["event"], received["data"]) == ("deleted", {"task_id": job_id})


def test_an_unknown_job_has_no_stream(http):
    assert http.get("/jobs/nothing/events").status_code == 404


def test_a_stream_without_events_sends_heartbeats(stream, submit, monkeypatch):
    monkeypatch.setattr(stream_module, "HEARTBEAT", 0.1)
    first, second = stream(f"/jobs/{submit()}/events"), stream("/events")
    for reader in (first, second):
        reader.event()
        assert reader.chunk().startswith(":")


def test_a_stream_above_the_limit_is_rejected_until_another_ends(http, app, stream, submit, monkeypatch):
    monkeypatch.setattr(app.extensions["events"], "_capacity", 2)
    path = f"/jobs/{submit()}/events"
    first, _ = stream(path), stream(path)
    rejected = http.get(path)
    assert (rejected.status_code, rejected.json["error"]["code"]) == (503, "too_many_streams")
    assert rejected.headers["Retry-After"]
    first.close()
    stream(path).event()


def test_a_head_request_for_a_stream_leaves_no_stream_open(http, app, submit):
    assert http.head(f"/jobs/{submit()}/events").status_code == 200
    assert app.extensions["events"]._watching() == []


def test_streams_end_when_the_process_shuts_down(http, app, stream, submit):
    stopping = threading.Event()
    app.extensions["events"].close_when(stopping.is_set)
    reader = stream("/events")
    submit()
    reader.event()
    stopping.set()
    assert reader.rest() == []
    assert http.get("/events").status_code == 503


def test_the_listener_stops_with_the_last_stream_and_starts_with_the_next(app, stream, submit, claim):
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
def test_an_exception_in_the_listener_ends_the_open_streams_only(app, stream, submit, claim, monkeypatch):
    job_id = submit()
    with monkeypatch.context() as broken:
        broken.setattr(app.extensions["events"], "_tell", lambda changed: 1 / 0)
        reader = stream(f"/jobs/{job_id}/events")
        assert [event["id"] for event in reader.rest()] == ["1"]
        reader.close()
        # The listener's last log records belong to this test, not to the next one.
        for listener in [thread for thread in threading.enumerate() if thread.name == "events"]:
            listener.join(60)
    again = stream(f"/jobs/{job_id}/events")
    again.event()
    claim(job_id)
    assert again.event()["data"]["status"] == "started"


def test_events_missed_while_the_subscription_was_broken_are_sent(stream, jobs, submit, claim, redis_client):
    job_id = submit()
    reader = stream(f"/jobs/{job_id}/events")
    reader.event()
    wait_for(lambda: redis_client.pubsub_numsub("svd:events")[0][1])
    # As in a network partition: the connection is cut, and the change happens before the next subscription.
    with redis_client.pipeline(transaction=True) as both:
        both.client_kill_filter(_type="pubsub")
        both.hset(f"svd:job:{job_id}", "cancel", "1")
        both.hincrby(f"svd:job:{job_id}", "version", 1)
        both.execute()
    assert reader.event()["data"]["cancel_requested"] is True


def test_a_listener_that_cannot_be_started_is_started_for_the_next_stream(app, monkeypatch):
    hub = app.extensions["events"]
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", no_more_threads)
        for _ in range(3):
            with pytest.raises(events.TooManyStreamsError, match="can't start new thread"):
                hub.open(owner="o")
    assert hub._watching() == []
    box = hub.open(owner="o")
    assert hub._thread.is_alive()
    hub.shut(box)


def no_more_threads(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
