import io
import re

import pytest

from svd_service.api import create_app


@pytest.fixture(params=["setting, removed", "setting, passed on", "header", "header, passed on"])
def below(request, redis_url, make_settings):
    """Sends requests as a proxy does that serves the service under /video."""
    header = request.param.startswith("header")
    variables = {"SVD_TRUSTED_PROXIES": 1} if header else {"SVD_ROOT_PATH": "/video"}
    http = create_app(make_settings(REDIS_URL=redis_url, **variables)).test_client()
    prefix = "/video" if request.param.endswith("passed on") else ""
    headers = {"X-Forwarded-Prefix": "/video"} if header else {}

    def send(method, path, **options):
        return http.open(prefix + path, method=method, headers=headers, **options)

    return send


def test_every_url_in_an_answer_is_below_the_path(below, photo):
    answers = [below("POST", "/generate", data={"image": (io.BytesIO(photo), "x")}) for _ in range(2)]
    job_id = answers[0].json["task_id"]
    assert answers[0].headers["Location"] == f"/video/status/{job_id}"
    assert below("GET", "/jobs?limit=1").json["next"].startswith("/video/jobs?after=")
    assert below("GET", "/openapi.json").json["servers"] == [{"url": "/video"}]
    assert below("GET", f"/status/{job_id}").status_code == 200


def test_the_page_and_the_docs_name_no_url_outside_of_the_path(below):
    for path in ("/", "/docs", "/page/main.js", "/page/api.js", "/docs/start.js"):
        text = below("GET", path, buffered=True).text
        assert not re.findall(r"""["'`]/[a-z$][^"'`]*""", text), path


def test_the_path_without_a_slash_is_redirected_to_the_page(redis_url, make_settings):
    http = create_app(make_settings(REDIS_URL=redis_url, SVD_ROOT_PATH="/video")).test_client()
    answer = http.get("/video", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers["Location"]) == (308, "/video/")
    assert http.get("/videos").status_code == 404


@pytest.mark.parametrize("prefix", ["//evil.example", "https://evil.example", '/"><script>', "/a/../b c", "/" * 50])
def test_a_prefix_that_is_no_path_is_ignored(redis_url, make_settings, photo, prefix):
    http = create_app(make_settings(REDIS_URL=redis_url, SVD_TRUSTED_PROXIES=1)).test_client()
    answer = http.post("/generate", data={"image": (io.BytesIO(photo), "x")}, headers={"X-Forwarded-Prefix": prefix})
    assert answer.headers["Location"].startswith("/status/")


def test_without_a_trusted_proxy_the_forwarded_prefix_is_ignored(http, photo):
    answer = http.post("/generate", data={"image": (io.BytesIO(photo), "x")}, headers={"X-Forwarded-Prefix": "/video"})
    assert answer.headers["Location"].startswith("/status/")


def test_urls_in_results_and_events_are_below_the_path(redis_url, make_settings, photo, tmp_path):
    app = create_app(make_settings(REDIS_URL=redis_url, SVD_ROOT_PATH="/video"))
    http, hub = app.test_client(), app.extensions["events"]
    job_id = http.post("/generate", data={"image": (io.BytesIO(photo), "x")}).get_json()["task_id"]
    from svd_service.jobs.job import Result
    from tests.unit.api.samples import HOLDER

    service = app.extensions["web"].jobs
    held = service.ledger.attempts.claim(job_id, HOLDER)
    result = Result("name", 3, "ab" * 32, 256, 144, 8, {"seed": 1})
    service.ledger.attempts.finish(held, result, device="cpu", seconds={"sampling": 1.0}, steps=6)
    assert http.get(f"/status/{job_id}").get_json()["result"]["url"] == f"/video/results/{job_id}.mp4"
    assert f"/video/results/{job_id}.mp4".encode() in hub.event(service.queries.find(job_id, owner="")).data
