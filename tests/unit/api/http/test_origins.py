import io

import pytest

from svd_service.api import create_app

FOREIGN = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}


@pytest.fixture
def make_http(redis_url, make_settings):
    def make(**variables):
        return create_app(make_settings(REDIS_URL=redis_url, **variables)).test_client()

    return make


def post(http, photo, **headers):
    return http.post("/generate", data={"image": (io.BytesIO(photo), "x")}, headers=headers)


@pytest.mark.parametrize(
    "headers",
    [
        FOREIGN,
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_a_page_of_another_site_cannot_submit_to_an_open_service(http, photo, headers):
    answer = post(http, photo, **headers)
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "forbidden")
    assert "SVD_CORS_ORIGINS" in answer.json["error"]["message"]


def test_a_page_of_another_site_cannot_read_or_delete_at_an_open_service(http, submit):
    job_id = submit()
    for method, path in [
        ("GET", "/jobs"),
        ("GET", f"/status/{job_id}"),
        ("GET", f"/results/{job_id}"),
        ("DELETE", f"/jobs/{job_id}"),
        ("POST", f"/jobs/{job_id}/cancel"),
        ("GET", "/events"),
        ("GET", "/v1/videos"),
        ("DELETE", f"/v1/videos/{job_id}"),
        ("GET", "/v2beta/image-to-video/result/x"),
        ("OPTIONS", "/generate"),
    ]:
        assert http.open(path, method=method, headers=FOREIGN).status_code == 403, path
    assert http.get(f"/status/{job_id}").status_code == 200
    assert http.get("/v1/videos", headers=FOREIGN).json["error"]["type"] == "permission_error"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost"},
        {"Origin": "https://localhost"},
        {"Sec-Fetch-Site": "none"},
        {"Referer": "http://localhost/"},
    ],
)
def test_the_own_page_and_clients_other_than_browsers_are_accepted(http, photo, headers):
    assert post(http, photo, **headers).status_code == 202


@pytest.mark.parametrize("header", ["Origin", "Referer"])
@pytest.mark.parametrize("url", ["http://[", "http://[::1", "http://a]b/", "http://℀.example/"])
def test_an_origin_that_is_no_url_is_foreign(http, header, url):
    answer = http.get("/jobs", headers={header: url})
    assert (answer.status_code, answer.json["error"]["code"]) == (403, "forbidden")
    assert http.get("/jobs", headers={header: url, "Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_link_on_another_site_may_be_followed(http):
    visit = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert http.get("/models", headers=visit).status_code == 200
    framed = visit | {"Sec-Fetch-Dest": "iframe"}
    assert http.get("/models", headers=framed).status_code == 403


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "x]y"])
def test_an_unknown_host_name_is_rejected(http, host):
    answer = http.get("/jobs", headers={"Host": host})
    assert answer.status_code in {400, 403}
    assert http.delete("/jobs/x", headers={"Host": host}).status_code in {400, 403}
    if host == "evil.example":
        assert "SVD_ALLOWED_HOSTS" in answer.json["error"]["message"]


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST", "app.localhost:1"])
def test_loopback_names_and_addresses_are_accepted(http, host):
    assert http.get("/jobs", headers={"Host": host}).status_code == 200


def test_other_names_are_allowed_by_a_setting(make_http):
    http = make_http(SVD_ALLOWED_HOSTS="svd.example.com, .lan", SVD_BIND="gpu.example:8000", SVD_OPEN="1")
    for host in ("svd.example.com", "gpu.lan:8000", "gpu.example:8000"):
        assert http.get("/jobs", headers={"Host": host}).status_code == 200
    assert http.get("/jobs", headers={"Host": "example.com"}).status_code == 403
    proxied = {"Host": "127.0.0.1:8000", "Origin": "https://svd.example.com"}
    assert http.get("/jobs", headers=proxied).status_code == 200
    assert make_http(SVD_ALLOWED_HOSTS="*").get("/jobs", headers={"Host": "any.example"}).status_code == 200


def test_with_keys_neither_host_nor_origin_matters(http):
    _, secret = http.application.extensions["web"].keyring.create("ann")
    headers = {**FOREIGN, "Host": "svd.example", "Authorization": f"Bearer {secret}"}
    assert http.get("/jobs", headers=headers).status_code == 200
    assert http.get("/jobs", headers=FOREIGN).status_code == 401


def test_redirects_do_not_repeat_the_host_of_the_request(http):
    for path in ("//jobs", "/jobs/", "//evil.example/jobs", "/docs/"):
        answer = http.get(path, headers={"Host": "evil.example"})
        assert "evil.example" not in answer.headers.get("Location", "")
        assert answer.status_code in {403, 404}


def test_pages_of_allowed_origins_use_the_service_and_read_its_answers(make_http, photo):
    http = make_http(SVD_CORS_ORIGINS="https://app.example.com,http://localhost:3000")
    page = {"Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site"}
    answer = post(http, photo, **page)
    assert answer.status_code == 202
    assert answer.headers["Access-Control-Allow-Origin"] == page["Origin"]
    assert {"Location", "Retry-After", "X-Request-ID", "ETag", "Content-Range", "openai-poll-after-ms"} <= set(
        answer.headers["Access-Control-Expose-Headers"].split(", ")
    )
    assert "Origin" in answer.vary
    missing = http.get("/status/x", headers=page)
    assert (missing.status_code, missing.headers["Access-Control-Allow-Origin"]) == (404, page["Origin"])
    assert "Access-Control-Allow-Origin" not in post(http, photo, **FOREIGN).headers


def test_a_preflight_request_is_answered_without_a_key(make_http):
    http = make_http(SVD_CORS_ORIGINS="https://app.example.com")
    http.application.extensions["web"].keyring.create("ann")
    preflight = {
        "Origin": "https://app.example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, x-stainless-os",
    }
    answer = http.options("/v1/videos", headers=preflight)
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (204, preflight["Origin"])
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
    assert "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    foreign = http.options("/v1/videos", headers=preflight | {"Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in foreign.headers
    rejected = http.get("/v1/videos", headers={"Origin": preflight["Origin"]})
    assert (rejected.status_code, rejected.headers["Access-Control-Allow-Origin"]) == (401, preflight["Origin"])


def test_without_the_setting_there_is_no_cors(http):
    answer = http.get("/health", headers={"Origin": "https://app.example.com"})
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_every_answer_forbids_content_sniffing(http, submit):
    submit()
    for path in ("/", "/health", "/metrics", "/docs", "/docs/swagger-ui.css", "/page/main.js", "/jobs", "/nowhere"):
        answer = http.get(path, buffered=True)
        assert answer.headers.getlist("X-Content-Type-Options") == ["nosniff"], path


def test_unknown_methods_share_one_metric_series(http):
    before = None
    for number in range(40):
        assert http.open("/health", method=f"METHOD{number}").status_code == 405
        size = http.get("/metrics").text.count("\n")
        before = before or size
        assert size == before
    assert 'method="OTHER"' in http.get("/metrics").text
    assert "METHOD1" not in http.get("/metrics").text


def test_a_preflight_request_allows_the_methods_of_all_routes(make_http):
    http = make_http(SVD_CORS_ORIGINS="https://app.example.com")
    rules = list(http.application.url_map.iter_rules())
    for rule in rules:
        for method in (rule.methods or set()) - {"OPTIONS"}:
            asking = {"Origin": "https://app.example.com", "Access-Control-Request-Method": method}
            answer = http.options("/jobs/x/pin", headers=asking)
            assert method in answer.headers["Access-Control-Allow-Methods"].split(", "), rule.rule
    assert any("PUT" in (rule.methods or ()) for rule in rules)
