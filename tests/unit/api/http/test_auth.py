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

#: A file that there is, of each folder of files.
FILES = {
    "/page/<path:filename>": "main.js",
    "/operator/<path:filename>": "main.js",
    "/docs/<path:filename>": "start.js",
}

#: What the arguments of a route are filled with, so that the walk below asks for the other key's job. A route with an
#: argument that is not here has to be listed, or the test fails.
ARGUMENTS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("task_id", "group_id", "job_id", "video_id", "character_id", "id", "model", "filename"), str),
    "generation_id": lengthened,
    "format": lambda _: "mp4",
}

#: Routes that say of every id that Stable Video Diffusion cannot do this.
CANNOT = {"/v1/videos/<video_id>/remix", "/v1/videos/characters/<character_id>"}

#: Routes without an argument, and how the walk asks them.
LISTS_AND_SUBMISSIONS = {
    "/usage",  # test_usage.py
    "/verify",  # test_verification.py
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


def test_without_keys_every_header_is_as_good_as_none(http):
    for header in ({}, {"Authorization": "Bearer sk-anything"}, {"Authorization": "Basic eDp5"}):
        assert http.get("/models", headers=header).status_code == 200


def test_with_keys_every_route_but_the_public_ones_asks_for_one(app, http, ann):
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


def test_what_does_not_exist_asks_for_a_key_too(http, ann):
    assert http.get("/nowhere").status_code == 401
    assert http.get("/nowhere", headers=bearer(ann)).status_code == 404
    assert http.delete("/models", headers=bearer(ann)).status_code == 405


@pytest.mark.parametrize("shown", ["Bearer {}", "bearer {}", "BEARER  {}", "{}"])
def test_a_key_is_shown_as_a_bearer_token_or_alone(http, ann, shown):
    assert http.get("/models", headers={"Authorization": shown.format(ann[1])}).status_code == 200


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer ", "Basic {}", "Bearer {}x", "Bearer sk-svd-nothing", "{} {}", "\x80"]
)
def test_anything_else_is_401_in_the_dialects_shape(http, ann, shown):
    answer = http.get("/models", headers={"Authorization": shown.replace("{}", ann[1])})
    assert (answer.status_code, answer.json["error"]["code"]) == (401, "unauthorized")
    assert ann[1] not in answer.text


def filled(rule, job_id):
    path = rule.rule
    for name in rule.arguments:
        path = re.sub(rf"<(?:[^<>:]+:)?{name}>", ARGUMENTS[name](job_id), path)
    return path


def test_no_route_shows_one_key_a_job_of_another(app, http, photo, ann, bob, job_of_ann):
    group_of_ann = post(http, photo, ann, seeds="7").json["group_id"]
    walked = set()
    for rule in app.url_map.iter_rules():
        if rule.rule in {*PUBLIC, SHARED} or rule.rule.startswith("/admin/"):  # test_admin.py has the operators' routes
            continue
        unknown = rule.arguments - set(ARGUMENTS)
        assert not unknown, f"{rule}: say in ARGUMENTS which of {unknown} is a job's id"
        if not rule.arguments:
            assert rule.rule in LISTS_AND_SUBMISSIONS, f"{rule}: show below that it tells bob nothing of ann's"
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


def test_a_list_is_of_ones_own_jobs_and_begins_behind_ones_own(http, ann, bob, job_of_ann):
    assert [job["task_id"] for job in http.get("/jobs", headers=bearer(ann)).json["jobs"]] == [job_of_ann]
    assert http.get("/jobs", headers=bearer(bob)).json["jobs"] == []
    assert http.get(f"/jobs?after={job_of_ann}", headers=bearer(bob)).status_code == 404
    assert http.delete(f"/jobs/{job_of_ann}", headers=bearer(bob)).status_code == 404
    assert http.get(f"/results/{job_of_ann}", headers=bearer(ann), buffered=True).status_code == 200


def test_openais_list_is_of_ones_own_jobs(http, ann, bob, job_of_ann):
    assert [video["id"] for video in http.get("/v1/videos", headers=bearer(ann)).json["data"]] == [job_of_ann]
    assert http.get("/v1/videos", headers=bearer(bob)).json["data"] == []
    assert http.get(f"/v1/videos?after={job_of_ann}", headers=bearer(bob)).status_code == 404


def test_each_dialect_turns_away_in_its_own_shape(http, ann):
    answer = http.get("/v1/videos")
    assert (answer.status_code, answer.json["error"]["type"]) == (401, "authentication_error")
    answer = http.post("/v2beta/image-to-video")
    assert (answer.status_code, answer.json["name"]) == (401, "unauthorized")
    assert http.get("/v2beta/nowhere", headers={"Authorization": ann[1]}).json["name"] == "not_found"


def test_events_are_of_ones_own_jobs(http, photo, ann, bob, job_of_ann):
    with http.get("/events", headers=bearer(bob)) as stream:
        events = iter(stream.response)
        theirs = post(http, photo, ann).json["task_id"]
        ours = post(http, photo, bob).json["task_id"]
        heard = ""
        while ours not in heard:
            heard += next(events).decode()
    assert theirs not in heard
    assert job_of_ann not in heard


def test_one_keys_idempotency_key_is_not_anothers(http, photo, ann, bob):
    ids = set()
    for key in (ann, bob):
        headers = {**bearer(key), "Idempotency-Key": "same"}
        answer = http.post("/generate", data={"image": (io.BytesIO(photo), "x")}, headers=headers)
        ids.add(answer.json["task_id"])
    assert len(ids) == 2


def test_jobs_of_the_time_without_keys_are_nobodys(http, submit, keyring):
    job_id = submit()
    key = keyring.create("ann")
    keyring._cache.clear()
    assert http.get(f"/status/{job_id}", headers=bearer(key)).status_code == 404


def test_a_key_may_ask_for_its_own_priority_and_no_more(http, photo, ann, bob):
    assert post(http, photo, ann, priority="1").json["priority"] == 1
    refused = post(http, photo, bob, priority="1")
    assert (refused.status_code, refused.json["error"]["parameter"]) == (422, "priority")
    assert post(http, photo, bob).json["priority"] == 0


def test_while_redis_is_away_nobody_is_let_in(make_settings):
    http = create_app(make_settings(REDIS_URL="redis://127.0.0.1:1/0")).test_client()
    answer = http.get("/models")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert http.get("/openapi.json").status_code == 200


@pytest.fixture
def limited(redis_url, make_settings):
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_RATE_LIMIT=3, SVD_TRUSTED_PROXIES=1))
    return app.test_client()


def ask(http, address="192.0.2.1", path="/models", **headers):
    return http.get(path, headers={"X-Forwarded-For": address, **headers})


def test_an_address_has_its_rate(limited):
    assert [ask(limited).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = ask(limited)
    assert refused.json["error"]["code"] == "rate_limited"
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    assert ask(limited, "192.0.2.2").status_code == 200
    assert ask(limited, path="/health").status_code == 200


def test_a_host_with_ipv6_cannot_get_round_it_by_the_addresses_it_has(limited):
    answers = [ask(limited, f"2001:db8::{number}").status_code for number in range(4)]
    assert answers == [200, 200, 200, 429]
    assert ask(limited, "2001:db8:0:1::1").status_code == 200


def test_what_a_client_says_before_the_trusted_proxy_does_not_count(limited):
    answers = [ask(limited, f"203.0.113.{number}, 192.0.2.1").status_code for number in range(4)]
    assert answers[-1] == 429


def test_without_trusted_proxies_nobody_is_believed(redis_url, make_settings):
    http = create_app(make_settings(REDIS_URL=redis_url, SVD_RATE_LIMIT=3)).test_client()
    assert [ask(http, f"192.0.2.{number}").status_code for number in range(4)][-1] == 429


def test_a_key_has_its_rate_wherever_it_comes_from_and_guessing_has_one(limited):
    keyring = limited.application.extensions["web"].keyring
    key = keyring.create("ann")
    answers = [ask(limited, f"192.0.2.{number}", **bearer(key)).status_code for number in range(4)]
    assert answers == [200, 200, 200, 429]
    guesses = [ask(limited, Authorization=f"Bearer sk-svd-{number}").status_code for number in range(4)]
    assert guesses == [401, 401, 401, 429]


def test_a_full_queue_is_429_and_says_when_to_come_again(redis_url, make_settings, photo):
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


def test_one_keys_full_queue_is_not_anothers(redis_url, make_settings, photo):
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_MAX_QUEUED_PER_KEY=1))
    ann, bob = (app.extensions["web"].keyring.create(name) for name in ("ann", "bob"))
    answers = [post(app.test_client(), photo, key).status_code for key in (ann, ann, bob)]
    assert answers == [202, 429, 202]
