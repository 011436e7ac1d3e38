import io

import pytest

from svd_service.api import create_app
from svd_service.jobs.job import Result
from svd_service.jobs.job_files import result_name
from tests.samples import IMAGES
from tests.unit.api.samples import HOLDER, VIDEO

SIZE = len(VIDEO)


@pytest.fixture(params=["local", "s3"])
def video(request, redis_url, make_settings):
    """Path of a finished job's video, and a client, with each of the stores."""
    variables = request.getfixturevalue("s3_variables") if request.param == "s3" else {}
    app = create_app(make_settings(REDIS_URL=redis_url, **variables))
    service, http = app.extensions["web"].jobs, app.test_client()
    photo = (IMAGES / "chelsea.jpg").read_bytes()
    job_id = http.post("/generate", data={"image": (io.BytesIO(photo), "x")}).get_json()["task_id"]
    held = service.ledger.attempts.claim(job_id, HOLDER)
    name = result_name(job_id, held.token)
    service.artifacts.put(name, VIDEO)
    result = Result(name, SIZE, "ab" * 32, 256, 144, 8, {"seed": 1})
    service.ledger.attempts.finish(held, result, device="cpu", seconds={"sampling": 1.0}, steps=6)
    return http, (f"/results/{job_id}", f"/results/{job_id}.mp4", f"/v1/videos/{job_id}/content")


@pytest.mark.parametrize(
    ("header", "status", "first", "last"),
    [
        ("bytes=0-3", 206, 0, 3),
        ("bytes=2-", 206, 2, SIZE - 1),
        ("bytes=-3", 206, SIZE - 3, SIZE - 1),
        (f"bytes=-{SIZE * 10}", 206, 0, SIZE - 1),
        (f"bytes=0-{SIZE * 10}", 206, 0, SIZE - 1),
        ("Bytes=0-3", 206, 0, 3),
        (f"bytes={SIZE}-", 416, 0, 0),
        ("bytes=-0", 416, 0, 0),
        ("bytes=0-1,3-4", 200, 0, SIZE - 1),
        ("items=0-3", 200, 0, SIZE - 1),
        ("bytes=3-1", 200, 0, SIZE - 1),
        ("bytes=x-y", 200, 0, SIZE - 1),
        ("bytes=", 200, 0, SIZE - 1),
        ("bytes", 200, 0, SIZE - 1),
        ("bytes=" + "9" * 400 + "-", 200, 0, SIZE - 1),
    ],
)
def test_ranges_are_those_of_rfc_9110(video, header, status, first, last):
    http, paths = video
    for path in paths:
        answer = http.get(path, headers={"Range": header}, buffered=True)
        assert answer.status_code == status, path
        if status == 416:
            assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
            continue
        assert answer.data == VIDEO[first : last + 1]
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert int(answer.headers["Content-Length"]) == last + 1 - first
        assert answer.headers.get("Content-Range") == (f"bytes {first}-{last}/{SIZE}" if status == 206 else None)


def test_a_range_applies_to_get_only_and_to_the_version_of_its_if_range(video):
    http, (path, *_) = video
    assert http.head(path, headers={"Range": "bytes=0-3"}, buffered=True).status_code == 200
    etag = http.head(path, buffered=True).headers["ETag"]
    assert http.get(path, headers={"Range": "bytes=0-3", "If-Range": etag}, buffered=True).status_code == 206
    assert http.get(path, headers={"Range": "bytes=0-3", "If-Range": '"other"'}, buffered=True).data == VIDEO
