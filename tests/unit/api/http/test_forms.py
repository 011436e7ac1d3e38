"""Which bodies the routes take: forms, JSON objects, and nothing that would be ignored."""

import pytest

from svd_service.api.http import openapi
from tests.unit.api.samples import png

LEAKED = "leaked"


@pytest.fixture
def keyring(app):
    return app.extensions["web"].keyring


@pytest.fixture
def operator(keyring):
    _, secret = keyring.create("olga", scopes=("admin",))
    return {"Authorization": f"Bearer {secret}"}


def routes(app, *, with_json):
    """Path and dialect of each route that takes a form, and JSON too or not."""
    for rule in app.url_map.iter_rules():
        operation = openapi.operation_of(app, rule.endpoint)
        if operation and openapi.FORM in operation.body and (openapi.JSON in operation.body) == with_json:
            yield openapi.path_of(rule).replace("{key_id}", "x").replace("{task_id}", "x"), operation.tag


@pytest.mark.parametrize("as_json", [False, True])
def test_a_replaced_key_is_invalid_at_once_without_grace_in_a_form_and_in_json(http, keyring, operator, as_json):
    key, secret = keyring.create(LEAKED)
    body = {"json" if as_json else "data": {"grace": 0}}
    assert http.post(f"/admin/keys/{key.id}/rotate", headers=operator, **body).status_code == 201
    keyring._cache.clear()
    assert http.get("/jobs", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_json_has_the_validation_of_a_form(http, keyring, operator):
    key, _ = keyring.create(LEAKED)
    path = f"/admin/keys/{key.id}/limits"
    assert http.post(path, json={"jobs_per_day": 5}, headers=operator).json["limits"]["jobs_per_day"] == 5
    assert http.post(path, json={"jobs_per_day": "7"}, headers=operator).json["limits"]["jobs_per_day"] == 7
    for wrong, parameter in (
        ({"typo": 5}, "typo"),
        ({"jobs_per_day": -1}, "jobs_per_day"),
        ({"expires": 3}, "expires"),
    ):
        answer = http.post(path, json=wrong, headers=operator)
        assert (answer.status_code, answer.json["error"]["parameter"]) == (422, parameter)
    for broken in ("[5]", '"5"', "null", "{", " "):
        answer = http.post(path, data=broken, content_type="application/json", headers=operator)
        assert (answer.status_code, answer.json["error"]["code"]) == (400, "bad_request"), broken
    (kept,) = (each for each in keyring.list() if each.id == key.id)
    assert kept.allowance.jobs_per_day == 7


def test_a_link_expires_as_json_says(http, submit, finish):
    job_id = submit()
    finish(job_id)
    path = f"/jobs/{job_id}/share"
    soon, later = (http.post(path, **body).json["expires_at"] for body in ({"json": {"expires_in": 60}}, {}))
    assert soon < later
    assert http.post(path, json={"expires_in": 5}).status_code == 422


def test_a_request_without_a_body_has_the_defaults_whatever_its_content_type(http, submit, finish):
    job_id = submit()
    finish(job_id)
    for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", None):
        assert http.post(f"/jobs/{job_id}/share", content_type=kind).status_code == 201, kind


def test_a_body_of_another_kind_is_415_in_the_dialect_of_each_route(app, http, operator):
    everywhere = [*routes(app, with_json=True), *routes(app, with_json=False)]
    assert len(everywhere) > 15
    for path, dialect in everywhere:
        for kind in ("text/plain", "application/xml", "application/octet-stream", "image/png", None):
            answer = http.post(path, data=b"expires_in=60", content_type=kind, headers=operator)
            assert answer.status_code == 415, (path, kind)
            shape = {"id", "name", "errors"} if dialect == "stability" else {"error"}
            assert answer.json.keys() == shape, path


def test_a_route_with_a_file_takes_no_json(app, http, operator):
    for path, _ in routes(app, with_json=False):
        assert http.post(path, json={"image": "x"}, headers=operator).status_code == 415, path


def test_the_message_for_a_body_of_another_kind_names_what_is_accepted(http):
    answer = http.post("/generate", data=png((256, 144)).getvalue(), content_type="image/png")
    message = answer.json["error"]["message"]
    assert message.endswith("must be multipart/form-data or application/json; got 'image/png'")
