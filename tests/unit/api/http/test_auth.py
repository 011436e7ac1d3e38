import io
import re
import uuid
from collections.abc import Callable

import pytest

from svd_service.api import create_app
from svd_service.api.stability.ids import lengthened
from tests.unit.api.samples import VIDEO

PUBLIC = {
    *("/", "/page/<path:filename>", "/operator", "/operator/<path:filename>"),
    *("/health", "/metrics", "/openapi.json", "/docs", "/docs/<path:filename>"),
}

#: Needs a signature instead of a key.
SHARED = "/shared/<task_id>.<any(mp4, webm, webp, gif, zip):format>"

#: An existing file of each folder of static files.
FILES = {
    "/page/<path:filename>": "main.js",
    "/operator/<path:filename>": "main.js",
    "/docs/<path:filename>": "start.js",
}

#: Values for the arguments of a route, so that the walk below requests the other key's job. A route with an
#: argument that is missing here has to be listed, or the test fails.
ARGUMENTS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("task_id", "group_id", "job_id", "video_id", "character_id", "id", "model", "filename"), str),
    "generation_id": lengthened,
    "format": lambda _: "mp4",
}

#: Routes that answer for every id that Stable Video Diffusion cannot do this.
CANNOT = {"/v1/videos/<video_id>/remix", "/v1/videos/characters/<character_id>"}

#: Routes without an argument, which the walk requests as they are.
LISTS_AND_SUBMISSIONS = {
    "/usage",  # test_usage.py
    "/verify",  # test_verify.py
    *("/generate", "/groups", "/models", "/jobs", "/events", "/key"),
    *("/v1/models", "/v1/videos", "/v1/videos/edits", "/v1/videos/extensions", "/v1/videos/characters"),
    *("/v2beta/image-to-video", "/v2alpha/generation/image-to-video"),
}


@pytest.fixture
def keyring(app):
    return app.extensions["web"].keyring


@pytest.fixture
def ann(keyring):
    return keyring.create("ann", priority=1)


@pytest.fixture
def bob(keyring):
    return keyring.create("bob")


def bearer(key):
    return {"Authorization": f"Bearer {key[1]}"}


def post(http, photo, key, **fields):
    return http.post("/generate", data={"image": (io.BytesIO(photo), "cat.jpg"), **fields}, headers=bearer(key))


@pytest.fixture
def job_of_ann(http, photo, ann, finish):
    job_id = post(http, photo, ann).json["task_id"]
    finish(job_id)
    return job_id


def test_without_keys_the_authorization_header_is_ignored(http):
    for header in ({}, {"Authorization": "Bearer sk-anything"}, {"Authorization": "Basic eDp5"}):
        assert http.get("/models", headers=header).status_code == 200


def test_with_keys_every_route_but_the_public_ones_requires_one(app, http, ann):
    for rule in app.url_map.iter_rules():
        values = dict.fromkeys(rule.arguments, FILES.get(rule.rule, "x")) | {"format": "gif"}
        path = app.url_map.bind("").build(rule.endpoint, values)
        method = "POST" if "POST" in rule.methods else "GET"
        answer = http.open(path, method=method, buffered=True)
        assert (answer.status_code == 200) == (rule.rule in PUBLIC), rule
        if rule.rule == SHARED:
            assert answer.status_code == 422, rule
        elif rule.rule not in PUBLIC:
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), rule


def test_an_unknown_path_requires_a_key_too(http, ann):
    assert http.get("/nowhere").status_code == 401
    assert http.get("/nowhere", headers=bearer(ann)).status_code == 404
    assert http.delete("/models", headers=bearer(ann)).status_code == 405


@pytest.mark.parametrize("shown", ["Bearer {}", "bearer {}", "BEARER  {}", "{}"])
def test_a_key_is_accepted_with_or_without_bearer(http, ann, shown):
    assert http.get("/models", headers={"Authorization": shown.format(ann[1])}).status_code == 200


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer ", "Basic {}", "Bearer {}x", "Bearer sk-svd-nothing", "{} {}", "\x80"]
)
def test_an_invalid_key_is_401_in_the_dialects_shape(http, ann, shown):
    answer = http.get("/models", headers={"Authorization": shown.replace("{}", ann[1])})
    assert (answer.status_code, answer.json["error"]["code"]) == (401, "unauthorized")
    assert ann[1] not in answer.text


def filled(rule, job_id):
    path = rule.rule
    for name in rule.arguments:
        path = re.sub(rf"<(?:[^<>:]+:)?{name}>", ARGUMENTS[name](job_id), path)
    return path


def test_no_route_shows_a_key_the_job_of_another(app, http, photo, ann, bob, job_of_ann):
    group_of_ann = post(http, photo, ann, seeds="7").json["group_id"]
    walked = set()
    for rule in app.url_map.iter_rules():
        if rule.rule in {*PUBLIC, SHARED} or rule.rule.startswith("/admin/"):  # test_admin.py has the operators' routes
            continue
        unknown = rule.arguments - set(ARGUMENTS)
        assert not unknown, f"{rule}: state in ARGUMENTS which of {unknown} is a job's id"
        if not rule.arguments:
            assert rule.rule in LISTS_AND_SUBMISSIONS, f"{rule}: add a test that it shows bob none of ann's jobs"
            continue
        status = 400 if rule.rule in CANNOT else 404
        for method in rule.methods - {"OPTIONS"}:
            mine = group_of_ann if "group_id" in rule.arguments else job_of_ann
            answer = http.open(filled(rule, mine), method=method, headers=bearer(bob), buffered=True)
            nobodys = http.open(filled(rule, str(uuid.uuid4())), method=method, headers=bearer(bob), buffered=True)
            assert (answer.status_code, nobodys.status_code) == (status, status), f"{method} {rule}"
            assert VIDEO not in answer.data
            walked.add((method, rule.rule))
    assert http.get(f"/groups/{group_of_ann}", headers=bearer(ann)).json["n"] == 1
    assert {("GET", "/status/<task_id>"), ("DELETE", "/v1/videos/<string(minlength=20):video_id>")} <= walked
    assert http.get(f"/results/{job_of_ann}", headers=bearer(ann), buffered=True).data == VIDEO


def test_a_key_lists_only_its_own_jobs_and_cannot_page_after_others(http, ann, bob, job_of_ann):
    assert [job["task_id"] for job in http.get("/jobs", headers=bearer(ann)).json["jobs"]] == [job_of_ann]
    assert http.get("/jobs", headers=bearer(bob)).json["jobs"] == []
    assert http.get(f"/jobs?after={job_of_ann}", headers=bearer(bob)).status_code == 404
    assert http.delete(f"/jobs/{job_of_ann}", headers=bearer(bob)).status_code == 404
    assert http.get(f"/results/{job_of_ann}", headers=bearer(ann), buffered=True).status_code == 200


def test_openais_list_has_only_the_keys_own_jobs(http, ann, bob, job_of_ann):
    assert [video["id"] for video in http.get("/v1/videos", headers=bearer(ann)).json["data"]] == [job_of_ann]
    assert http.get("/v1/videos", headers=bearer(bob)).json["data"] == []
    assert http.get(f"/v1/videos?after={job_of_ann}", headers=bearer(bob)).status_code == 404


def test_each_dialect_rejects_a_missing_key_in_its_own_shape(http, ann):
    answer = http.get("/v1/videos")
    assert (answer.status_code, answer.json["error"]["type"]) == (401, "authentication_error")
    answer = http.post("/v2beta/image-to-video")
    assert (answer.status_code, answer.json["name"]) == (401, "unauthorized")
    assert http.get("/v2beta/nowhere", headers={"Authorization": ann[1]}).json["name"] == "not_found"


def test_event_streams_have_only_the_keys_own_jobs(http, photo, ann, bob, job_of_ann):
    with http.get("/events", headers=bearer(bob)) as stream:
        events = iter(stream.response)
        theirs = post(http, photo, ann).json["task_id"]
        ours = post(http, photo, bob).json["task_id"]
        received = ""
        while ours not in received:
            received += next(events).decode()
    assert theirs not in received
    assert job_of_ann not in received


def test_idempotency_keys_of_different_api_keys_are_independent(http, photo, ann, bob):
    ids = set()
    for key in (ann, bob):
        headers = {**bearer(key), "Idempotency-Key": "same"}
        answer = http.post("/generate", data={"image": (io.BytesIO(photo), "x")}, headers=headers)
        ids.add(answer.json["task_id"])
    assert len(ids) == 2


def test_jobs_submitted_before_the_first_key_belong_to_no_key(http, submit, keyring):
    job_id = submit()
    key = keyring.create("ann")
    keyring._cache.clear()
    assert http.get(f"/status/{job_id}", headers=bearer(key)).status_code == 404


def test_a_key_may_request_its_own_priority_and_no_higher(http, photo, ann, bob):
    assert post(http, photo, ann, priority="1").json["priority"] == 1
    rejected = post(http, photo, bob, priority="1")
    assert (rejected.status_code, rejected.json["error"]["parameter"]) == (422, "priority")
    assert post(http, photo, bob).json["priority"] == 0


def test_without_redis_every_request_that_requires_a_key_is_503(make_settings):
    http = create_app(make_settings(REDIS_URL="redis://127.0.0.1:1/0")).test_client()
    answer = http.get("/models")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert http.get("/openapi.json").status_code == 200


@pytest.fixture
def limited(redis_url, make_settings):
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_RATE_LIMIT=3, SVD_TRUSTED_PROXIES=1))
    return app.test_client()


def get(http, address="192.0.2.1", path="/models", **headers):
    return http.get(path, headers={"X-Forwarded-For": address, **headers})


def test_requests_of_one_address_are_limited(limited):
    assert [get(limited).status_code for _ in range(4)] == [200, 200, 200, 429]
    rejected = get(limited)
    assert rejected.json["error"]["code"] == "rate_limited"
    assert 1 <= int(rejected.headers["Retry-After"]) <= 120
    assert get(limited, "192.0.2.2").status_code == 200
    assert get(limited, path="/health").status_code == 200


def test_all_ipv6_addresses_of_one_64_prefix_share_a_limit(limited):
    answers = [get(limited, f"2001:db8::{number}").status_code for number in range(4)]
    assert answers == [200, 200, 200, 429]
    assert get(limited, "2001:db8:0:1::1").status_code == 200


def test_forwarded_addresses_before_the_trusted_proxys_are_ignored(limited):
    answers = [get(limited, f"203.0.113.{number}, 192.0.2.1").status_code for number in range(4)]
    assert answers[-1] == 429


def test_without_trusted_proxies_forwarded_addresses_are_ignored(redis_url, make_settings):
    http = create_app(make_settings(REDIS_URL=redis_url, SVD_RATE_LIMIT=3)).test_client()
    assert [get(http, f"192.0.2.{number}").status_code for number in range(4)][-1] == 429


def test_requests_of_one_key_and_invalid_keys_are_limited_across_addresses(limited):
    keyring = limited.application.extensions["web"].keyring
    key = keyring.create("ann")
    answers = [get(limited, f"192.0.2.{number}", **bearer(key)).status_code for number in range(4)]
    assert answers == [200, 200, 200, 429]
    guesses = [get(limited, Authorization=f"Bearer sk-svd-{number}").status_code for number in range(4)]
    assert guesses == [401, 401, 401, 429]


def test_a_full_queue_is_429_with_retry_after(redis_url, make_settings, photo):
    http = create_app(make_settings(REDIS_URL=redis_url, SVD_MAX_QUEUED=2)).test_client()

    def post(**headers):
        return http.post("/generate", data={"image": (io.BytesIO(photo), "x")}, headers=headers)

    first = post(**{"Idempotency-Key": "first"})
    assert (first.status_code, post().status_code) == (202, 202)
    for headers in ({}, {"Idempotency-Key": "another"}):
        full = post(**headers)
        assert (full.status_code, full.json["error"]["code"], full.headers["Retry-After"]) == (429, "queue_full", "30")
    assert post(**{"Idempotency-Key": "first"}).json["task_id"] == first.json["task_id"]
    jobs = http.application.extensions["web"].jobs
    assert jobs.ledger.stats.figures().rejected == {"queue_full": 2}
    assert len(list(jobs.artifacts.names())) == 2


def test_the_full_queue_of_one_key_does_not_affect_another(redis_url, make_settings, photo):
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_MAX_QUEUED_PER_KEY=1))
    ann, bob = (app.extensions["web"].keyring.create(name) for name in ("ann", "bob"))
    answers = [post(app.test_client(), photo, key).status_code for key in (ann, ann, bob)]
    assert answers == [202, 429, 202]
