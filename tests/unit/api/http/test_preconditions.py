"""Conditions of requests for files, in every dialect (RFC 9110, section 13)."""

import io

import pytest

from svd_service.api.native import generate
from svd_service.api.stability import ids
from tests.unit.api.samples import VIDEO

PAST = "Thu, 01 Jan 1970 00:00:00 GMT"
FUTURE = "Fri, 01 Jan 2999 00:00:00 GMT"
PART = {"Range": "bytes=10-19"}


@pytest.fixture
def paths(http, submit, finish):
    """A finished job's video in each dialect, and behind a share link."""
    job_id = submit()
    finish(job_id)
    return (
        f"/results/{job_id}",
        f"/results/{job_id}.mp4",
        f"/v1/videos/{job_id}/content",
        f"/v2beta/image-to-video/result/{ids.lengthened(job_id)}",
        http.post(f"/jobs/{job_id}/share").json["url"],
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        (PART, 206),
        ({"If-Match": "{etag}"}, 200),
        ({"If-Match": '"other", {etag}', **PART}, 206),
        ({"If-Match": "*"}, 200),
        ({"If-Match": "*", **PART}, 206),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": '"other"', **PART}, 412),
        ({"If-Match": "W/{etag}", **PART}, 412),
        ({"If-Match": '"other"', "If-None-Match": "{etag}"}, 412),
        ({"If-Match": "{etag}", "If-None-Match": "{etag}"}, 304),
        ({"If-Match": "{etag}", "If-Unmodified-Since": PAST}, 200),
        ({"If-Unmodified-Since": PAST}, 412),
        ({"If-Unmodified-Since": PAST, **PART}, 412),
        ({"If-Unmodified-Since": "{modified}", **PART}, 206),
        ({"If-Unmodified-Since": FUTURE}, 200),
        ({"If-Unmodified-Since": "yesterday"}, 200),
        ({"If-None-Match": "{etag}"}, 304),
        ({"If-None-Match": "{etag}", **PART}, 304),
        ({"If-None-Match": 'W/{etag}, "other"', **PART}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"', **PART}, 206),
        ({"If-None-Match": '"other"', "If-Modified-Since": "{modified}"}, 200),
        ({"If-Modified-Since": "{modified}"}, 304),
        ({"If-Modified-Since": "{modified}", **PART}, 304),
        ({"If-Modified-Since": PAST, **PART}, 206),
        ({"If-Modified-Since": f"{PAST[:-3]}+{'9' * 20}", **PART}, 206),
        ({"If-Range": "{etag}", **PART}, 206),
        ({"If-Range": "{modified}", **PART}, 206),
        ({"If-Range": "W/{etag}", **PART}, 200),
        ({"If-Range": '"other"', **PART}, 200),
        ({"If-Range": FUTURE, **PART}, 200),
        ({"If-Range": PAST, **PART}, 200),
        ({"If-Range": "soon", **PART}, 200),
        ({"If-Range": "{etag}"}, 200),
    ],
)
def test_conditions_are_evaluated_before_the_range(http, paths, headers, status):
    for path in paths:
        current = http.head(path, buffered=True).headers
        conditions = {
            name: value.format(etag=current["ETag"], modified=current["Last-Modified"])
            for name, value in headers.items()
        }
        answer = http.get(path, headers=conditions, buffered=True)
        assert answer.status_code == status, path
        if status == 412:
            assert answer.is_json
        else:
            assert answer.data == {200: VIDEO, 206: VIDEO[10:20], 304: b""}[status]
            assert answer.headers["ETag"] == current["ETag"]
        head = http.head(path, headers=conditions, buffered=True)
        assert (head.status_code, head.data) == (200 if status == 206 else status, b""), path


def test_a_failed_condition_is_an_error_in_each_dialect(http, paths):
    for path, shape in zip(paths, ({"error"}, {"error"}, {"error"}, {"id", "name", "errors"}, {"error"}), strict=True):
        answer = http.get(path, headers={"If-Match": '"other"', **PART}, buffered=True)
        assert answer.json.keys() == shape
        assert "precondition_failed" in answer.text
        assert not {"Content-Disposition", "Content-Range"} & set(answer.headers.keys())


def test_a_condition_does_not_apply_to_the_submission_that_waits_for_the_video(http, photo, finish, monkeypatch):
    monkeypatch.setattr(generate, "wait_for", lambda *ids, **_: finish(ids[2][0]) or True)
    form = {"image": (io.BytesIO(photo), "cat.jpg")}
    answer = http.post("/generate", data=form, headers={"Prefer": "wait=9", "If-None-Match": "*"}, buffered=True)
    assert (answer.status_code, answer.data) == (200, VIDEO)
