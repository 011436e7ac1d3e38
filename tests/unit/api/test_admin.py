"""The operators' routes, and who may use them."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from svd_service.api.http import openapi
from svd_service.jobs.job import AttemptOutcome, Failure
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.key import ADMIN
from svd_service.ledger.workers import WorkerStatus
from tests.unit.api.samples import HOLDER, png

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def keyring(app: Flask) -> Keyring:
    found = app.extensions["web"].keyring
    assert isinstance(found, Keyring)
    return found


@pytest.fixture
def send_request(http: FlaskClient, keyring: Keyring) -> Callable[..., TestResponse]:
    """Sends a request with an operator's key."""
    _, secret = keyring.create("olga", scopes=(ADMIN,))

    def send(method: str, path: str, **form: object) -> TestResponse:
        content: dict[str, Any] = {"query_string" if method == "GET" else "data": form} if form else {}
        return http.open(path, method=method, headers={"Authorization": f"Bearer {secret}"}, **content)

    return send


@pytest.fixture
def post(http: FlaskClient, keyring: Keyring, send_request: Callable[..., TestResponse]) -> Callable[..., TestResponse]:
    """Submits a job with the key of a person who is no operator."""
    _, secret = keyring.create("ann")

    def send(path: str = "/generate", **fields: object) -> TestResponse:
        return http.post(
            path, data={"image": (png((64, 64)), "red.png"), **fields}, headers={"Authorization": f"Bearer {secret}"}
        )

    return send


@pytest.fixture
def submit_for_ann(post: Callable[..., TestResponse]) -> Callable[[], str]:
    return lambda: str(post().get_json()["task_id"])


def admin_rules(app: Flask) -> list[tuple[str, str]]:
    return [
        (method, re.sub("<[^>]+>", "00000000-0000-4000-8000-000000000000", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/admin/") and not openapi.is_public(app, rule.endpoint)
        for method in sorted((rule.methods or set()) - {"OPTIONS"})
    ]


def test_every_operator_route_requires_an_operators_key(app, http, keyring):
    rules = admin_rules(app)
    assert len(rules) > 20
    for method, path in rules:  # the service has no keys and is open
        assert http.open(path, method=method).status_code == 403, path
    _, plain = keyring.create("ann")
    keyring._cache.clear()
    for method, path in rules:
        assert http.open(path, method=method).status_code == 401, path
        answer = http.open(path, method=method, headers={"Authorization": f"Bearer {plain}"})
        assert answer.status_code == 403, path
        assert method == "HEAD" or answer.json["error"]["code"] == "missing_scope"


def test_every_route_below_admin_requires_the_scope_and_no_other_does(app):
    for rule in app.url_map.iter_rules():
        operation = openapi.operation_of(app, rule.endpoint)
        if operation is not None and not operation.public:
            assert (operation.access is openapi.ADMIN) == rule.rule.startswith("/admin/"), rule.rule


def test_operators_see_the_jobs_of_all_keys_by_key_state_and_model(send_request, submit_for_ann, jobs):
    ids = [submit_for_ann() for _ in range(3)]
    send_request("POST", f"/admin/jobs/{ids[0]}/cancel")
    listed = send_request("GET", "/admin/jobs").json
    assert [each["job"]["task_id"] for each in listed["jobs"]] == ids[::-1]
    owner = listed["jobs"][0]["key"]
    assert owner == jobs.ledger.jobs.find(ids[0]).owner != ""

    def found(**query: object) -> list[str]:
        return [each["job"]["task_id"] for each in send_request("GET", "/admin/jobs", **query).json["jobs"]]

    assert found(state="cancelled") == [ids[0]]
    assert found(key=owner, state="queued") == [ids[2], ids[1]]
    assert found(key="-") == found(model="other") == []
    first = send_request("GET", "/admin/jobs", limit=2).json
    assert [each["job"]["task_id"] for each in first["jobs"]] == [ids[2], ids[1]]
    assert [each["job"]["task_id"] for each in send_request("GET", first["next"]).json["jobs"]] == [ids[0]]
    assert send_request("GET", f"/admin/jobs/{ids[1]}").json["key"] == owner
    assert send_request("GET", "/admin/jobs", after="nothing").status_code == 404


def test_a_deleted_job_is_in_no_list(send_request, submit_for_ann, redis_client):
    job_id = submit_for_ann()
    assert send_request("DELETE", f"/admin/jobs/{job_id}").status_code == 204
    assert send_request("GET", "/admin/jobs").json["jobs"] == []
    assert redis_client.zcard("svd:jobs") == 0


def test_a_failed_job_is_retried_while_its_image_is_kept(send_request, submit_for_ann, jobs, claim):
    job_id = submit_for_ann()
    assert send_request("POST", f"/admin/jobs/{job_id}/retry").status_code == 409
    jobs.ledger.attempts.end_attempt(claim(job_id), AttemptOutcome.FAILED, Failure("out_of_memory", "no memory"))
    before = jobs.ledger.jobs.find(job_id)
    answer = send_request("POST", f"/admin/jobs/{job_id}/retry")
    assert answer.status_code == 201
    new = jobs.ledger.jobs.find(answer.json["job"]["task_id"])
    assert (new.owner, new.parameters, new.state) == (before.owner, before.parameters, "queued")
    with jobs.artifacts.open(new.input) as copy, jobs.artifacts.open(before.input) as image:
        assert copy.read() == image.read()
    jobs.artifacts.delete(before.input)
    rejected = send_request("POST", f"/admin/jobs/{job_id}/retry")
    assert rejected.status_code == 409
    assert "SVD_KEEP_INPUTS" in rejected.json["error"]["message"]


def test_ended_jobs_of_a_state_are_purged_and_no_others(send_request, submit_for_ann, jobs):
    kept, first, second = (submit_for_ann() for _ in range(3))
    for job_id in (first, second):
        send_request("POST", f"/admin/jobs/{job_id}/cancel")
    assert send_request("POST", "/admin/purge", state="cancelled", older_than=3600).json == {
        "deleted": 0,
        "more": False,
    }
    assert send_request("POST", "/admin/purge", state="cancelled").json == {"deleted": 2, "more": False}
    assert [each["job"]["task_id"] for each in send_request("GET", "/admin/jobs").json["jobs"]] == [kept]
    assert send_request("POST", "/admin/purge", state="queued").status_code == 422


def test_a_paused_intake_rejects_submissions_in_each_dialect_with_the_reason(send_request, post, http, submit_for_ann):
    submit_for_ann()
    answer = send_request("POST", "/admin/pause", what="intake", reason="driver update")
    assert [(each["what"], each["model"]) for each in answer.json["paused"]] == [("intake", "")]
    for path in ("/generate", "/v2beta/image-to-video"):
        image = {"image": (png((1024, 576)), "red.png")}
        rejected = post(path, **image)
        assert rejected.status_code == 503
        assert "driver update" in rejected.text
        assert rejected.headers["Retry-After"] == "60"
    health = http.get("/health").json
    assert health["status"] == "degraded"
    assert "intake_paused" in health["reasons"]
    assert "driver update" in health["message"]
    assert send_request("POST", "/admin/resume", what="intake").json == {"paused": []}
    assert post().status_code == 202


def test_the_intake_of_a_single_model_can_be_paused(send_request, post):
    send_request("POST", "/admin/pause", what="intake", model="other")
    assert post().status_code == 202
    send_request("POST", "/admin/pause", what="intake", model="nano")
    assert post().status_code == 503


def test_a_paused_dispatch_starts_nothing_and_keeps_the_order(send_request, submit_for_ann, jobs):
    ids = [submit_for_ann() for _ in range(3)]  # the first is enqueued with Celery
    send_request("POST", "/admin/pause", what="dispatch")
    assert jobs.ledger.attempts.claim(ids[0], HOLDER) is None
    assert jobs.ledger.maintenance.dispatch() == {}
    assert [jobs.ledger.jobs.find(job_id).position for job_id in ids] == [1, 2, 3]
    assert jobs.ledger.maintenance.reap().overdue == {}
    send_request("POST", "/admin/resume", what="dispatch")
    assert jobs.ledger.attempts.claim(ids[0], HOLDER) is not None


def test_a_drained_worker_gets_no_jobs_until_it_is_released(send_request, submit_for_ann, jobs, http):
    def beat() -> None:
        jobs.ledger.workers.heartbeat(WorkerStatus(HOLDER.worker, "cpu", "instance", 1, "nano", True, 0.0, 1.0))

    beat()
    job_id = submit_for_ann()
    for act, name in (("drain", "host/0"), ("quarantine", "host")):
        shown = send_request("POST", f"/admin/{act}", worker=name, reason="fan").json["workers"]
        assert [(each["worker"], each["state"], each["reason"]) for each in shown] == [("host/0", act, "fan")]
        beat()
        assert http.get("/health").json["workers_ready"] == 0
        assert jobs.ledger.attempts.claim(job_id, HOLDER) is None
        assert jobs.ledger.jobs.find(job_id).state == "queued"
        released = send_request("POST", "/admin/release", worker=name).json["workers"]
        assert [each["state"] for each in released] == ["ready"]
    beat()
    assert jobs.ledger.attempts.claim(job_id, HOLDER) is not None
    (shown,) = send_request("GET", "/admin/workers").json["workers"]
    assert shown["job"] == job_id


def test_operator_actions_are_recorded_with_their_author_in_a_bounded_list(
    send_request, jobs, redis_client, monkeypatch, caplog
):
    send_request("POST", "/admin/pause", what="dispatch", reason="update")
    send_request("POST", "/admin/drain", worker="host/7")
    acts = send_request("GET", "/admin/audit").json["acts"]
    assert [(act["what"], act["target"], act["reason"]) for act in acts] == [
        ("drain", "host/7", ""),
        ("pause dispatch", "all models", "update"),
    ]
    assert all("(olga)" in act["by"] for act in acts)
    assert "(olga): pause dispatch all models (update)" in caplog.text
    monkeypatch.setattr("svd_service.ledger.controls.MAX_ACTS", 3)
    for number in range(5):
        jobs.ledger.controls.record("olga", "cancel", str(number))
    assert redis_client.llen("svd:audit") == 3


def test_operators_create_limit_rotate_and_revoke_keys_and_a_secret_is_shown_once(send_request, http, keyring, caplog):
    made = send_request(
        "POST", "/admin/keys", name="ann", owner="team", jobs_per_day=3, models="a, b", expires="2099-12-31", priority=1
    )
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    ann, secret = made.json["key"], made.json["secret"]
    assert made.json["webhook_secret"].startswith("whsec_")
    assert (ann["owner"], ann["limits"]["jobs_per_day"], ann["limits"]["models"]) == ("team", 3, ["a", "b"])
    assert ann["expires_at"].startswith("2100-01-01T00:00")
    headers = {"Authorization": f"Bearer {secret}"}
    assert http.get("/key", headers=headers).json["priority"] == 1
    assert http.get("/admin/keys", headers=headers).status_code == 403

    path = f"/admin/keys/{ann['id']}"
    limited = send_request("POST", f"{path}/limits", concurrent_jobs=2, models="all", expires="never").json
    assert (limited["limits"]["jobs_per_day"], limited["limits"]["concurrent_jobs"]) == (3, 2)
    assert (limited["limits"]["models"], limited["expires_at"]) == ([], None)
    rotated = send_request("POST", f"{path}/rotate", grace=3600).json
    assert rotated["key"]["owner"] == "team"
    assert rotated["secret"] != secret
    listed = send_request("GET", "/admin/keys")
    assert secret not in listed.text
    by_id = {key["id"]: key for key in listed.json["keys"]}
    assert by_id[ann["id"]]["successor"] == rotated["key"]["id"]
    assert send_request("POST", f"{path}/revoke").json["revoked_at"]
    keyring._cache.clear()
    assert http.get("/key", headers=headers).status_code == 401
    assert http.get("/key", headers={"Authorization": f"Bearer {rotated['secret']}"}).status_code == 200

    acts = send_request("GET", "/admin/audit").json["acts"][::-1]
    assert [act["what"] for act in acts] == ["create key", "limit key", "rotate key", "revoke key"]
    assert all("(olga)" in act["by"] and "(ann)" in act["target"] for act in acts)
    assert secret not in caplog.text
    assert rotated["secret"] not in caplog.text


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("/admin/keys", {}, 422),
        ("/admin/keys", {"name": "x", "owner": "a b"}, 422),
        ("/admin/keys", {"name": "x", "jobs_per_day": -1}, 422),
        ("/admin/keys", {"name": "x", "expires": "soon"}, 422),
        ("/admin/keys", {"name": "x", "expires": "2020-01-01"}, 422),
        ("/admin/keys", {"name": "x", "webhook_url": "ftp://example.com"}, 422),
        ("/admin/keys", {"name": "x", "color": "red"}, 422),
        ("/admin/keys/nothing/rotate", {}, 404),
        ("/admin/keys/nothing/rotate", {"grace": 1e9}, 422),
        ("/admin/keys/nothing/revoke", {}, 404),
        ("/admin/keys/nothing/limits", {"jobs_per_day": 1}, 404),
    ],
)
def test_an_invalid_request_about_keys_is_rejected_with_a_reason_and_changes_nothing(
    send_request, jobs, keyring, path, form, status
):
    before = keyring.list()
    assert send_request("POST", path, **form).status_code == status
    assert keyring.list() == before
    assert jobs.ledger.stats.figures().rejected == {}  # those of submissions
    assert send_request("GET", "/admin/audit").json["acts"] == []


def test_operators_see_the_usage_of_all_owners_or_of_one(send_request, submit_for_ann, keyring):
    submit_for_ann()
    ann = next(key for key in keyring.list() if key.name == "ann")
    keyring.create("server", owner=ann.id)
    rows = {row["group"]: row["submitted"] for row in send_request("GET", "/admin/usage").json["usage"]}
    assert rows.pop("-") == 0
    assert sorted(rows.values()) == [0, 1]
    assert rows[ann.id] == 1
    (model,) = send_request("GET", "/admin/usage", key=ann.id, group="model").json["usage"]
    assert (model["group"], model["submitted"]) == ("nano", 1)
    assert send_request("GET", "/admin/usage", key="-").json["usage"] == []
    assert send_request("GET", "/admin/usage", key="nothing").status_code == 404


def test_the_overview_has_queues_keys_failures_and_the_last_day(send_request, submit_for_ann, jobs, claim):
    failed, _ = submit_for_ann(), submit_for_ann()
    jobs.ledger.attempts.end_attempt(claim(failed), AttemptOutcome.FAILED, Failure("out_of_memory", "no memory"))
    jobs.ledger.maintenance.reap()
    shown = send_request("GET", "/admin/overview").json
    assert (shown["states"]["queued"], shown["states"]["failed"]) == (1, 1)
    assert [(each["model"], each["length"]) for each in shown["queues"] if each["length"]] == [("nano", 1)]
    assert list(shown["queued_by_key"].values()) == [1]
    assert shown["failures"] == {"out_of_memory": 1}
    assert len(shown["history"]) == 144
    assert sum(sum(period["failed"].values()) for period in shown["history"]) == 1
    assert any(period["queue_age"] is not None for period in shown["history"])
