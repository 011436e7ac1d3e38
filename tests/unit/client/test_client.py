"""The Python client, against a stand-in on a real socket."""

import contextlib
import json
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import svd_service.client
from svd_service.client import (
    AnswerError,
    Client,
    ExpiredError,
    InvalidKeyError,
    JobEndedError,
    JobStatus,
    LimitedError,
    NotReadyError,
    RejectedError,
    UnauthorizedError,
    UnavailableError,
    UnknownJobError,
    UnreachableError,
    WaitTimeoutError,
)
from svd_service.client.events import Event, read_events
from tools.harness.local import free_port
from tools.harness.stand_in import JOB, Answer, StandIn, error_answer, job_answer, stream


@pytest.fixture
def client(service: StandIn) -> Iterator[Client]:
    with Client(service.url, timeout=60, patience=60) as made:
        yield made


def test_an_image_is_sent_with_the_given_parameters(client: Client, service: StandIn, tmp_path: Path) -> None:
    service.answer("POST /generate", job_answer("queued", position=3))
    (tmp_path / "cat.jpg").write_bytes(b"a cat")
    job = client.submit(tmp_path / "cat.jpg", seed=0, noise_aug_strength=0.5, fit="pad", width=None)
    body = service.requests[-1].body
    assert (job.id, job.state, job.position) == (JOB, "queued", 3)
    assert b'name="image"; filename="cat.jpg"' in body
    assert b"a cat" in body
    for name, value in {"seed": "0", "noise_aug_strength": "0.5", "fit": "pad"}.items():
        assert f'name="{name}"\r\n\r\n{value}\r\n'.encode() in body
    assert b"width" not in body


def test_a_server_address_without_a_scheme_is_accepted(service: StandIn) -> None:
    service.answer(f"GET /status/{JOB}", job_answer("queued"))
    with Client(service.url.removeprefix("http://")) as client:
        assert client.status(JOB).state == "queued"


def test_a_key_is_sent_without_surrounding_whitespace(service: StandIn) -> None:
    service.answer(f"GET /status/{JOB}", job_answer("queued"))
    for key, sent in (("sk-svd-1\n", "Bearer sk-svd-1"), (" \n", None), ("", None), (None, None)):
        with Client(service.url, key) as client:
            client.status(JOB)
        assert service.requests[-1].headers["Authorization"] == sent


@pytest.mark.parametrize("key", ["sk-svd-schlüssel", "sk-svd-1\nX-Other: 2", "sk-svd-\x00"])
def test_a_key_that_cannot_be_sent_is_rejected_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        Client("127.0.0.1:1", key)
    assert "sk-svd" not in str(caught.value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' file names are Unicode")
def test_a_file_name_in_another_encoding_is_sent_with_a_replacement(
    client: Client, service: StandIn, tmp_path: Path
) -> None:
    service.answer("POST /generate", job_answer("queued"))
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    path.write_bytes(b"a cat")
    client.submit(path, model=os.fsdecode(b"\xe9"))
    body = service.requests[-1].body
    assert b'filename="caf?.png"' in body
    assert b'name="model"\r\n\r\n?\r\n' in body
    with pytest.raises(UnknownJobError):
        client.status(os.fsdecode(b"\xe9"))


def test_an_image_may_be_bytes(client: Client, service: StandIn) -> None:
    service.answer("POST /generate", job_answer("queued"))
    client.submit(b"a dog")
    assert b"a dog" in service.requests[-1].body
    assert "Cancel-After" not in service.requests[-1].headers


def test_a_submission_sends_its_deadline(client: Client, service: StandIn) -> None:
    service.answer("POST /generate", job_answer("queued"))
    client.submit(b"a dog", cancel_after=90, seed=3)
    assert service.requests[-1].headers["Cancel-After"] == "90"
    assert b"cancel_after" not in service.requests[-1].body


def test_the_old_name_of_the_image_works_with_a_warning(client: Client, service: StandIn) -> None:
    service.answer("POST /generate", job_answer("queued"))
    with pytest.warns(DeprecationWarning, match="use image"):
        client.submit(picture=b"a dog")  # type: ignore[call-arg]
    assert b"a dog" in service.requests[-1].body


def test_a_job_is_extended_without_an_image(client: Client, service: StandIn) -> None:
    service.answer("POST /generate", job_answer("queued"))
    assert client.submit(extend=JOB, seconds=4).id == JOB
    assert service.requests[-1].body == f"extend={JOB}&seconds=4".encode()


def test_the_key_is_sent_as_a_bearer_token(service: StandIn) -> None:
    service.answer(f"GET /status/{JOB}", job_answer("queued"))
    with Client(service.url, api_key="secret") as client:
        client.status(JOB)
    assert service.requests[-1].headers["Authorization"] == "Bearer secret"


def test_a_rejection_has_the_message_of_the_service(client: Client, service: StandIn) -> None:
    service.answer("POST /generate", error_answer(422, "invalid_parameter", "fps must be …", parameter="fps"))
    with pytest.raises(RejectedError, match="fps must be …") as caught:
        client.submit(b"a cat", fps=1)
    assert (caught.value.status_code, caught.value.code, caught.value.parameter) == (422, "invalid_parameter", "fps")


@pytest.mark.parametrize(
    ("http_status", "kind"),
    [
        (401, UnauthorizedError),
        (404, UnknownJobError),
        (409, NotReadyError),
        (410, ExpiredError),
        (500, UnavailableError),
    ],
)
def test_each_error_status_has_its_exception(
    client: Client, service: StandIn, http_status: int, kind: type[AnswerError], tmp_path: Path
) -> None:
    service.answer(f"GET /results/{JOB}", error_answer(http_status, "some_code", "some words", state="started"))
    with pytest.raises(kind, match="some words") as caught:
        client.download(JOB, tmp_path / "out.mp4")
    assert caught.value.job_state == "started"
    assert list(tmp_path.iterdir()) == []


def test_an_error_page_of_another_server_is_reported_by_its_status(client: Client, service: StandIn) -> None:
    service.answer(f"GET /status/{JOB}", Answer(b"<html>no such page</html>", 404))
    with pytest.raises(UnknownJobError, match="404 Not Found"):
        client.status(JOB)


def test_an_id_cannot_change_the_path(client: Client, service: StandIn) -> None:
    with pytest.raises(UnknownJobError):
        client.status("../health?x")
    assert service.requests[-1].path == "/status/..%2Fhealth%3Fx"


def test_waiting_reports_each_status_and_returns_the_ended_job(client: Client, service: StandIn) -> None:
    sampling = {"phase": "sampling", "step": 3, "steps": 25, "fraction": 0.13}
    service.answer(
        f"GET /status/{JOB}",
        job_answer("queued", position=1),
        job_answer("started", progress=sampling),
        job_answer("finished"),
    )
    seen: list[JobStatus] = []
    assert client.wait(JOB, seen.append).state == "finished"
    assert [job.state for job in seen] == ["queued", "started", "finished"]
    assert [job.fraction for job in seen] == [0, 0.13, 1]


def test_waiting_for_a_job_that_fails_raises_with_its_reason(client: Client, service: StandIn) -> None:
    service.answer(
        f"GET /status/{JOB}", job_answer("failed", error={"code": "crashed", "message": "3 attempts crashed"})
    )
    with pytest.raises(JobEndedError, match="failed: 3 attempts crashed") as caught:
        client.wait(JOB)
    assert caught.value.job.state == "failed"


def test_waiting_ends_at_the_callers_timeout(client: Client, service: StandIn) -> None:
    service.answer(f"GET /status/{JOB}", job_answer("queued"))
    with pytest.raises(WaitTimeoutError, match="still queued"):
        client.wait(JOB, timeout=0.5)


def test_waiting_for_a_service_that_is_away_ends_at_the_callers_timeout(client: Client, service: StandIn) -> None:
    service.answer(f"GET /status/{JOB}", job_answer("queued"), error_answer(503, "unavailable", "Redis is away"))
    began = time.monotonic()
    with pytest.raises(UnavailableError):
        client.wait(JOB, timeout=1)
    assert time.monotonic() - began < 30  # not after the minute of the client's patience


@contextlib.contextmanager
def service_starting_after(port: int, seconds: float, request: str, answer: Answer) -> Iterator[None]:
    """A service that starts after `seconds`."""
    servers: list[StandIn] = []
    timer = threading.Timer(seconds, lambda: servers.append(StandIn(port, {request: answer})))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        servers[0].stop()


def test_reads_are_retried_until_the_service_is_back() -> None:
    port = free_port()
    with (
        service_starting_after(port, 0.5, f"GET /status/{JOB}", job_answer("finished")),
        Client(f"http://127.0.0.1:{port}", patience=60) as client,
    ):
        assert client.status(JOB).state == "finished"


def test_reads_are_retried_after_a_broken_connection(client: Client, service: StandIn) -> None:
    broken = Answer(b"{}", cut=-1)
    service.answer(f"GET /status/{JOB}", broken, broken, job_answer("started"))
    assert client.status(JOB).state == "started"


def test_retries_end_with_the_clients_patience(service: StandIn) -> None:
    service.answer(f"GET /status/{JOB}", error_answer(503, "unavailable", "Redis is away"))
    with Client(service.url, patience=0.5) as client, pytest.raises(UnavailableError, match="Redis is away"):
        client.status(JOB)
    assert service.count(f"GET /status/{JOB}") > 1


def test_a_submission_is_retried_after_a_refused_connection() -> None:
    port = free_port()
    with (
        service_starting_after(port, 0.5, "POST /generate", job_answer("queued")),
        Client(f"http://127.0.0.1:{port}", patience=60) as client,
    ):
        assert client.submit(b"a cat").state == "queued"


def test_reads_are_retried_after_a_503(client: Client, service: StandIn) -> None:
    service.answer(f"GET /status/{JOB}", error_answer(503, "unavailable", "not yet"), job_answer("started"))
    assert client.status(JOB).state == "started"


@pytest.mark.parametrize("answer", [Answer(b"", cut=-1), error_answer(503, "unavailable", "the queue is away")])
def test_a_submission_that_may_have_arrived_is_retried_with_the_same_idempotency_key(
    client: Client, service: StandIn, answer: Answer
) -> None:
    service.answer("POST /generate", answer, job_answer("queued"))
    assert client.submit(b"a cat").id == JOB
    first, second = (request.headers["Idempotency-Key"] for request in service.requests)
    assert first == second
    service.answer("POST /generate", job_answer("queued"))
    client.submit(b"a cat")
    assert service.requests[-1].headers["Idempotency-Key"] != first
    client.submit(b"a cat", idempotency_key="mine")
    assert service.requests[-1].headers["Idempotency-Key"] == "mine"


def test_a_submission_is_not_retried_if_the_queue_is_full(client: Client, service: StandIn) -> None:
    service.answer("POST /generate", error_answer(429, "queue_full", "no more jobs"))
    with pytest.raises(LimitedError):
        client.submit(b"a cat")
    assert service.count("POST /generate") == 1


def test_a_download_is_complete_or_leaves_no_file(client: Client, service: StandIn, tmp_path: Path) -> None:
    service.answer(f"GET /results/{JOB}", Answer(b"half a video", cut=4))
    (tmp_path / "out.mp4").write_bytes(b"an older video")
    with Client(service.url, patience=0) as hasty, pytest.raises(UnreachableError):
        hasty.download(JOB, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"an older video"
    assert len(list(tmp_path.iterdir())) == 1

    service.answer(f"GET /results/{JOB}", Answer(b"the video", cut=4), Answer(b"the video"))
    client.download(JOB, tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"the video"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/json", "application/problem+json"])
def test_a_login_page_is_not_saved_as_a_video(client: Client, service: StandIn, tmp_path: Path, kind: str) -> None:
    service.answer(f"GET /results/{JOB}", Answer(b"", 302, {"Location": "/login"}))
    service.answer("GET /login", Answer(b"<html>Log in</html>", headers={"Content-Type": kind}))
    with pytest.raises(AnswerError, match="is not svd-service"):
        client.download(JOB, tmp_path / "out.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [".", "", "/"])
def test_a_folder_is_no_file_to_download_to(client: Client, service: StandIn, name: str) -> None:
    with pytest.raises(IsADirectoryError):
        client.download(JOB, name)
    assert service.requests == []


def test_health_is_returned_also_with_status_503(client: Client, service: StandIn) -> None:
    service.answer("GET /health", Answer(b'{"status": "unavailable", "redis": false}', 503))
    assert client.health()["redis"] is False


def test_another_server_at_the_address_is_an_error(client: Client, service: StandIn) -> None:
    service.answer("GET /health", Answer(b"<html>welcome</html>"))
    with pytest.raises(AnswerError, match="not svd-service"):
        client.health()


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("https://example.com/video{}", "redirects to https://example.com/video: use that address"),
        ("https://sso.example.com/login?next=x", "is not svd-service: it redirects to https://sso.example.com/login$"),
    ],
)
def test_the_address_of_a_redirect_is_named(client: Client, service: StandIn, location: str, words: str) -> None:
    for method, path in (("GET", "/health"), ("GET", "/jobs?limit=100"), ("POST", "/generate")):
        service.answer(f"{method} {path}", Answer(b"<html>moved</html>", 301, {"Location": location.format(path)}))
    for call in (client.health, lambda: list(client.jobs()), lambda: client.submit(b"a cat")):
        with pytest.raises(AnswerError, match=words) as caught:
            call()
        assert caught.value.status_code == 301


@pytest.mark.parametrize(
    "address",
    [
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://[v1]",
        "http://a..b",
        f"http://{'a' * 64}.b",
    ],
)
def test_an_invalid_address_is_rejected_at_once(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=re.escape(address.rstrip("/"))), Client(address, patience=60) as client:
        client.status(JOB)
    assert time.monotonic() - began < 30  # it is not retried


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ALL_PROXY", "socks://me:secret@127.0.0.1:1080/", "ALL_PROXY.*Unknown scheme"),
        ("HTTPS_PROXY", "http://127.0.0.1:x", "HTTPS_PROXY.*Invalid port"),
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE.*No such file"),
        ("SSL_CERT_FILE", __file__, "SSL_CERT_FILE.*no certificate"),
    ],
)
def test_an_invalid_proxy_or_certificate_of_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UnreachableError, match=f"https://example.com: .*{words}") as caught:
        Client("https://example.com")
    assert "secret" not in str(caught.value)


def test_a_proxy_that_needs_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(UnreachableError, match=r"ALL_PROXY.*socksio"):
        Client("https://example.com")


def test_no_proxy_is_used_for_loopback_addresses(service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    service.answer(f"GET /status/{JOB}", job_answer("queued"))
    with Client(service.url, patience=0) as client:
        assert client.status(JOB).state == "queued"


def test_watching_yields_each_change_until_the_end(client: Client, service: StandIn) -> None:
    service.answer(
        f"GET /jobs/{JOB}/events",
        stream({"status": "queued", "position": 1}, {"status": "started", "eta_seconds": 4.5}, {"status": "finished"}),
    )
    seen = list(client.watch(JOB))
    assert [(job.state, job.eta_seconds) for job in seen] == [("queued", None), ("started", 4.5), ("finished", None)]
    assert service.count(f"GET /status/{JOB}") == 0


def test_watching_resumes_after_the_last_event_of_a_broken_stream(client: Client, service: StandIn) -> None:
    service.answer(f"GET /jobs/{JOB}/events", stream({"status": "queued"}), stream({"status": "finished"}))
    service.answer(f"GET /status/{JOB}", job_answer("started"))
    assert [job.state for job in client.watch(JOB)] == ["queued", "started", "finished"]
    requests = [request for request in service.requests if request.path.endswith("/events")]
    assert [request.headers["Last-Event-ID"] for request in requests] == [None, "1"]


@pytest.mark.parametrize(
    "answer", [error_answer(503, "too_many_streams", "try again"), error_answer(404, "not_found", "what?")]
)
def test_watching_polls_the_status_without_an_event_stream(client: Client, service: StandIn, answer: Answer) -> None:
    service.answer(f"GET /jobs/{JOB}/events", answer)
    service.answer(f"GET /status/{JOB}", job_answer("started"), job_answer("finished"))
    assert [job.state for job in client.watch(JOB)] == ["started", "finished"]


def test_watching_an_unknown_job_raises(client: Client) -> None:
    with pytest.raises(UnknownJobError):
        list(client.watch(JOB))


def test_cancelling_is_repeated_without_deleting_the_job(client: Client, service: StandIn) -> None:
    service.answer(f"POST /jobs/{JOB}/cancel", Answer(b"", cut=-1), job_answer("finished"))
    assert client.cancel(JOB).state == "finished"
    assert {request.method for request in service.requests} == {"POST"}


def test_cancelling_an_unknown_job_raises(client: Client, service: StandIn) -> None:
    service.answer(f"POST /jobs/{JOB}/cancel", error_answer(404, "unknown_job", "there is no job"))
    with pytest.raises(UnknownJobError):
        client.cancel(JOB)
    assert len(service.requests) == 1


@pytest.mark.parametrize("status", [404, 405])
def test_an_older_services_job_is_cancelled_unless_it_has_ended(client: Client, service: StandIn, status: int) -> None:
    service.answer(f"POST /jobs/{JOB}/cancel", error_answer(status, "not_found", "no such route"))
    service.answer(f"GET /status/{JOB}", job_answer("finished"))
    assert client.cancel(JOB).state == "finished"
    assert service.count(f"DELETE /jobs/{JOB}") == 0
    service.answer(f"GET /status/{JOB}", job_answer("queued"))
    service.answer(f"DELETE /jobs/{JOB}", job_answer("cancelled"))
    assert client.cancel(JOB).state == "cancelled"


def test_an_act_whose_answer_is_lost_is_not_repeated(client: Client, service: StandIn) -> None:
    done = Answer(b'{"deleted": 1}')
    for lost in (Answer(b"", cut=-1), Answer(b"a proxy", 502), Answer(b"a proxy", 503), Answer(b"a proxy", 429)):
        service.requests.clear()
        service.answer("POST /admin/purge", lost, done)
        with pytest.raises((UnreachableError, AnswerError)):
            client.call("POST", "/admin/purge")
        assert len(service.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_an_act_is_repeated_if_the_service_says_when(client: Client, service: StandIn, status: int) -> None:
    busy = Answer(b'{"error": {"code": "busy", "message": "later"}}', status, {"Retry-After": "2"})
    service.answer("POST /admin/purge", busy, Answer(b'{"deleted": 1}'))
    assert client.call("POST", "/admin/purge") == {"deleted": 1}


def test_an_act_is_repeated_after_a_refused_connection() -> None:
    port = free_port()
    with (
        service_starting_after(port, 0.5, "POST /admin/purge", Answer(b'{"deleted": 1}')),
        Client(f"http://127.0.0.1:{port}", patience=60) as client,
    ):
        assert client.call("POST", "/admin/purge") == {"deleted": 1}


def test_deleting_an_ended_job_returns_none(client: Client, service: StandIn) -> None:
    service.answer(f"DELETE /jobs/{JOB}", Answer(b"", 204))
    assert client.delete(JOB) is None


def page(number: int, following: str | None) -> Answer:
    jobs = [{"task_id": f"{JOB}-{index}", "status": "queued"} for index in range(number)]
    return Answer(json.dumps({"jobs": jobs, "has_more": following is not None, "next": following}).encode())


def test_jobs_are_fetched_page_by_page_up_to_the_limit(client: Client, service: StandIn) -> None:
    service.answer("GET /jobs?limit=100", page(100, "/jobs?after=x"))
    service.answer("GET /jobs?limit=3", page(3, "/jobs?after=y"))
    service.answer("GET /jobs?after=x", page(2, None))
    assert len(list(client.jobs())) == 102
    assert len(list(client.jobs(3))) == 3


def test_jobs_of_a_service_below_a_path_are_fetched_page_by_page(service: StandIn) -> None:
    service.answer("GET /video/jobs?limit=100", page(100, "/video/jobs?after=x&limit=100"))
    service.answer("GET /video/jobs?after=x&limit=100", page(2, None))
    with Client(f"{service.url}/video") as client:
        assert len(list(client.jobs())) == 102


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", b"[]", b"{}", b"null", b'"text"', b'{"jobs": 1, "models": 1}', b"\xff"]
)
def test_the_answer_of_another_server_is_an_error(client: Client, service: StandIn, body: bytes) -> None:
    paths = (f"GET /status/{JOB}", "GET /jobs?limit=100", "GET /models", "GET /health", "POST /generate")
    for path in (*paths, f"POST /jobs/{JOB}/cancel", f"DELETE /jobs/{JOB}", f"PUT /jobs/{JOB}/pin", "GET /groups/x"):
        service.answer(path, Answer(body))
    calls: list[Callable[[], object]] = [
        lambda: client.status(JOB),
        lambda: list(client.jobs()),
        client.models,
        client.health,
        lambda: client.submit(b"a cat"),
        lambda: client.groups.submit(b"a cat", n=2),
        lambda: client.groups.status("x"),
        lambda: client.cancel(JOB),
        lambda: client.delete(JOB),
        lambda: client.pin(JOB),
    ]
    for call in calls:
        with pytest.raises(AnswerError, match="is not svd-service") as caught:
            call()
        assert caught.value.status_code == 200


def test_a_video_with_the_longest_possible_name_is_downloaded(client: Client, service: StandIn, tmp_path: Path) -> None:
    service.answer(f"GET /results/{JOB}", Answer(b"a video"))
    target = tmp_path / ("c" * 251 + ".mp4")
    assert client.download(JOB, target).read_bytes() == b"a video"
    assert list(tmp_path.iterdir()) == [target]


def test_errors_pass_between_processes() -> None:
    job = JobStatus.of({"task_id": JOB, "status": "failed", "error": {"code": "crashed", "message": "3 attempts"}})
    rejected = RejectedError("fps must be …", 422, "invalid_parameter", "fps")
    rejected.add_note("of cat.jpg")
    errors = [
        rejected,
        LimitedError("later", 429, "queue_full", retry_after=7),
        NotReadyError("not yet", 409, "not_ready", job_state="started"),
        JobEndedError(job),
        WaitTimeoutError(job),
        UnreachableError("connection refused"),
    ]
    for error in errors:
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_events_are_parsed_as_the_standard_requires() -> None:
    lines = [
        "retry: 1",
        ": comment",
        "",
        "id: 7",
        "data: one",
        "data:two",
        "",
        "event: deleted",
        "data: x",
        "",
        "data: cut",
    ]
    assert list(read_events(lines)) == [Event("message", "one\ntwo", "7"), Event("deleted", "x", "7")]


def test_the_old_name_of_the_raw_status_warns():
    status = JobStatus.of({"task_id": "a", "status": "queued"})
    with pytest.warns(DeprecationWarning, match="JobStatus.raw"):
        assert status.told == status.raw


def test_the_old_name_of_rejected_error_warns():
    with pytest.warns(DeprecationWarning, match="use RejectedError"):
        assert svd_service.client.RefusedError is RejectedError


def test_a_file_is_verified(client: Client, service: StandIn, tmp_path: Path) -> None:
    service.answer(
        "POST /verify", Answer(b'{"verdict": "unmarked", "message": "none", "credentials": null, "job": null}')
    )
    (tmp_path / "out.mp4").write_bytes(b"a video")
    assert client.verify(tmp_path / "out.mp4")["verdict"] == "unmarked"
    assert b'name="file"; filename="out.mp4"' in service.requests[-1].body
    assert client.verify(b"a video")["verdict"] == "unmarked"
