"""`POST /verify`: answers for files made here, elsewhere, changed or unmarked, and the limits of their cost."""

import io
import signal
from pathlib import Path

import pytest

from svd_service.jobs import verification
from svd_service.jobs.images.pool import DecoderEndedError, DecoderProcess
from svd_service.jobs.job import Still
from svd_service.ledger.signers import Signers
from svd_service.marking import chain as chains
from svd_service.marking.signer import GENERATED, Claims, Signer
from svd_service.parameters import Format


@pytest.fixture(name="signers")
def _signers(redis_client, jobs, chain):
    signers = Signers(redis_client, jobs.settings)
    signers.add(chain.fingerprint, chain.signer.decode())
    return signers


@pytest.fixture(name="verify")
def _verify(http, signers):
    def verify(content, headers=None):
        # As bytes: the test client leaves its temporary file of a large form open.
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        form = head + content + b"\r\n--x--\r\n"
        return http.post("/verify", data=form, headers=headers, content_type="multipart/form-data; boundary=x")

    return verify


def made_by(chain, content, job_id="0f5e1f3a-5b1d-4c8e-9d3c-2f6f0f2a9b11"):
    return Signer(chain).sign(content, "video/mp4", Claims(job_id, "a-model", "abc123"))


def test_a_file_of_a_known_job_was_made_here(verify, chain, files, submit, finish):
    job_id = submit()
    finish(job_id)
    answer = verify(made_by(chain, files[Format.MP4], job_id))
    assert answer.status_code == 200
    found = answer.json
    assert (found["verdict"], found["credentials"]["state"]) == ("made_here", "trusted")
    assert chain.common_name in found["message"]
    statement = found["credentials"]["statement"]
    assert (statement["model"], statement["digital_source_type"]) == ("a-model abc123", GENERATED)
    assert found["job"]["task_id"] == job_id
    assert found["job"]["status"] == "finished"
    assert found["job"]["created_at"] <= found["job"]["ended_at"]


def test_a_file_of_a_deleted_job_was_still_made_here(verify, chain, files):
    found = verify(made_by(chain, files[Format.MP4])).json
    assert (found["verdict"], found["job"]) == ("made_here", None)
    assert found["credentials"]["job_id"] == "0f5e1f3a-5b1d-4c8e-9d3c-2f6f0f2a9b11"


def test_a_key_does_not_see_the_job_of_another(app, verify, chain, files, submit):
    job_id = submit()  # submitted before the first key: belongs to no key
    _, secret = app.extensions["web"].keyring.create("ann")
    found = verify(made_by(chain, files[Format.MP4], job_id), {"Authorization": f"Bearer {secret}"}).json
    assert (found["verdict"], found["job"]) == ("made_here", None)


def test_a_file_of_another_installation_names_no_job_of_ours(verify, files, submit):
    job_id = submit()
    found = verify(made_by(chains.make(), files[Format.MP4], job_id)).json
    assert (found["verdict"], found["job"]) == ("made_elsewhere", None)
    assert found["credentials"]["state"] == "valid"


def test_a_changed_file_is_invalid(verify, chain, files, submit):
    signed = bytearray(made_by(chain, files[Format.MP4], submit()))
    signed[-100] ^= 1
    found = verify(bytes(signed)).json
    assert (found["verdict"], found["credentials"]["state"], found["job"]) == ("invalid", "invalid", None)
    assert found["credentials"]["problems"] != []


def test_a_file_without_credentials_is_unmarked(verify, files, photo):
    for content in (files[Format.WEBM], files[Still.THUMBNAIL], photo, b"a text"):
        answer = verify(content)
        assert (answer.status_code, answer.json["verdict"], answer.json["credentials"]) == (200, "unmarked", None)


def test_the_file_is_not_kept(verify, files, data_dir: Path):
    verify(files[Format.MP4])
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("fields", [{}, {"file": "a text"}, {"image": "x"}])
def test_a_request_without_a_file_is_a_client_error(http, fields):
    answer = http.post("/verify", data=fields)
    assert (answer.status_code, answer.json["error"]["parameter"]) == (422, next(iter(fields), "file"))


def test_a_file_has_the_size_limit_of_uploads(make_settings, redis_url, files):
    from svd_service.api import create_app

    http = create_app(make_settings(REDIS_URL=redis_url, SVD_MAX_UPLOAD_BYTES=1000)).test_client()
    answer = http.post("/verify", data={"file": (io.BytesIO(files[Format.MP4]), "a.mp4")})
    assert answer.status_code == 413
    assert answer.get_json()["error"] == {"code": "image_too_large", "message": "the file has more than 1,000 bytes"}


def test_reading_a_file_has_a_time_limit_and_the_next_one_is_read(verify, chain, files):
    # Blocks of one byte, which the library reads one by one: 4 s of CPU time, where 2 s are allowed.
    gif = files[Format.GIF]
    bomb = gif[:-1] + b"!\xff\x0bNETSCAPE2.0" + b"\x01\x00" * 3_000_000 + b"\x00;"
    answer = verify(bomb)
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "unreadable_file")
    assert verify(made_by(chain, files[Format.MP4])).json["verdict"] == "made_here"


@pytest.mark.parametrize(
    ("status", "code"), [(-signal.SIGPROF, 422), (-signal.SIGSEGV, 422), (1, 422), (-signal.SIGKILL, 503)]
)
def test_the_death_of_the_reading_process_is_an_error_response(verify, monkeypatch, status, code):
    def ended(self, **request):
        raise DecoderEndedError(status)

    monkeypatch.setattr(DecoderProcess, "request", ended)
    assert verify(b"a file").status_code == code


def test_without_the_library_the_error_names_the_extra(verify, monkeypatch):
    monkeypatch.setattr(verification, "is_installed", lambda: False)
    answer = verify(b"a file")
    assert (answer.status_code, answer.json["error"]["code"]) == (501, "not_installed")
    assert "c2pa" in answer.json["error"]["message"]
