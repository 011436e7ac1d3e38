"""Every format is signed so that C2PA's reader accepts it, and keeps its content."""

import errno
import io
import json
import socket
import threading
import time
import zipfile
from dataclasses import replace

import av
import c2pa
import pytest
from PIL import Image

from svd_service.jobs.job import RESULT_FILES, Still
from svd_service.jobs.marks import MARKS, TYPES, Mark, library_type
from svd_service.marking import signer as signers
from svd_service.marking.c2pa_library import context
from svd_service.marking.signer import GENERATED, Claims, Signer, SigningError
from svd_service.parameters import Format
from tests.unit.marking.authorities import time_stamp_authority
from tests.unit.marking.samples import FRAMES, boxes, write

CLAIMS = Claims("0f5e1f3a-5b1d-4c8e-9d3c-2f6f0f2a9b11", "a-model", "abc123")

EMBEDDED = [kind for kind, mark in MARKS.items() if mark is Mark.EMBEDDED]


@pytest.fixture(name="sign")
def _sign(chain, files):
    def sign(kind):
        return Signer(chain).sign(files[kind], library_type(kind), CLAIMS)

    return sign


def read(kind, content, **settings):
    with (
        context(**settings) as options,
        c2pa.Reader(library_type(kind), io.BytesIO(content), context=options) as reader,
    ):
        return reader.get_validation_state(), json.loads(reader.json())


def test_every_file_of_a_result_has_a_mark():
    assert set(MARKS) == set(TYPES) == set(RESULT_FILES)


@pytest.mark.parametrize("kind", RESULT_FILES)
def test_only_a_format_that_c2pa_does_not_know_is_unsigned(kind):
    known = library_type(kind) in c2pa.Builder.get_supported_mime_types()
    assert (MARKS[kind] is Mark.EMBEDDED) == known


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_reader_accepts_the_signature(kind, sign):
    state, found = read(kind, sign(kind))
    assert state == "Valid"
    assert [status["code"] for status in found["validation_status"]] == ["signingCredential.untrusted"]
    manifest = found["manifests"][found["active_manifest"]]
    assertions = {each["label"]: each["data"] for each in manifest["assertions"]}
    (action,) = assertions["c2pa.actions.v2"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"] == GENERATED
    assert action["softwareAgent"] == {"name": "a-model", "version": "abc123"}
    assert assertions["org.svd-service.job"] == {"id": CLAIMS.job_id}
    assert manifest["claim_generator_info"][0]["name"] == "svd-service"


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_reader_that_trusts_the_root_trusts_the_file(kind, sign, chain):
    root = b"-----BEGIN" + chain.certificates.split(b"-----BEGIN")[2]
    assert read(kind, sign(kind), trust={"trust_anchors": root.decode()})[0] == "Trusted"


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_changed_byte_of_the_content_makes_the_file_invalid(kind, sign, files):
    signed = bytearray(sign(kind))
    # A byte that is equal before and after signing belongs to the content, not to the manifest.
    middle = files[kind][len(files[kind]) // 2 :][:32]
    signed[bytes(signed).index(middle)] ^= 1
    assert read(kind, bytes(signed))[0] == "Invalid"


def test_a_signed_mp4_starts_fast_and_plays(sign, files):
    signed = sign(Format.MP4)
    assert boxes(signed) == ["ftyp", "uuid", *boxes(files[Format.MP4])[1:]]
    assert boxes(signed).index("moov") < boxes(signed).index("mdat")
    with av.open(io.BytesIO(signed), "r") as video, av.open(io.BytesIO(files[Format.MP4]), "r") as unsigned:
        pairs = zip(video.decode(video=0), unsigned.decode(video=0), strict=True)
        assert [(one.to_ndarray() == other.to_ndarray()).all() for one, other in pairs] == [True] * FRAMES
        assert video.metadata["title"] == "noise"


@pytest.mark.parametrize("kind", [Format.GIF, Format.WEBP])
def test_a_signed_animation_keeps_its_frames(kind, sign):
    with Image.open(io.BytesIO(sign(kind))) as image:
        assert getattr(image, "n_frames", 1) == FRAMES
        image.seek(FRAMES - 1)
        image.load()


@pytest.mark.parametrize("kind", list(Still))
def test_a_signed_still_can_be_opened(kind, sign, files):
    with Image.open(io.BytesIO(sign(kind))) as image, Image.open(io.BytesIO(files[kind])) as unsigned:
        assert image.tobytes() == unsigned.tobytes()


def test_a_signed_zip_is_whole(sign, files):
    with (
        zipfile.ZipFile(io.BytesIO(sign(Format.ZIP))) as archive,
        zipfile.ZipFile(io.BytesIO(files[Format.ZIP])) as old,
    ):
        assert archive.testzip() is None
        assert [archive.read(name) for name in old.namelist()] == [old.read(name) for name in old.namelist()]


@pytest.mark.parametrize("in_memory", [0, signers.IN_MEMORY])
@pytest.mark.parametrize("kind", [kind for kind in EMBEDDED if isinstance(kind, Format)])
def test_a_file_is_replaced_by_its_signed_version(tmp_path, chain, files, monkeypatch, kind, in_memory):
    monkeypatch.setattr(signers, "IN_MEMORY", in_memory)
    path = write(tmp_path / f"staged.{kind}", files[kind])
    Signer(chain).sign_file(path, library_type(kind), CLAIMS)
    assert read(kind, path.read_bytes())[0] == "Valid"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_file_that_cannot_be_signed_is_unchanged(tmp_path, chain):
    path = write(tmp_path / "staged.mp4", b"no video")
    with pytest.raises(SigningError, match="video/mp4"):
        Signer(chain).sign_file(path, "video/mp4", CLAIMS)
    assert ([each.name for each in tmp_path.iterdir()], path.read_bytes()) == (["staged.mp4"], b"no video")


def test_a_full_disk_raises_the_os_error(tmp_path, chain, files, monkeypatch):
    path = write(tmp_path / "staged.mp4", files[Format.MP4])

    class Full(signers._Target):
        def write(self, data):
            self.failure = OSError(errno.ENOSPC, "No space left on device")
            raise self.failure

    monkeypatch.setattr(signers, "_Target", Full)
    monkeypatch.setattr(signers, "IN_MEMORY", 0)
    with pytest.raises(OSError, match="No space left"):
        Signer(chain).sign_file(path, "video/mp4", CLAIMS)
    assert ([each.name for each in tmp_path.iterdir()], path.read_bytes()) == (["staged.mp4"], files[Format.MP4])


def test_without_the_time_stamp_authority_the_file_is_signed_without_a_time_stamp(chain, files, caplog):
    # Nothing listens on this port.
    signed = Signer(chain, "http://127.0.0.1:9/").sign(files[Format.MP4], "video/mp4", CLAIMS)
    assert read(Format.MP4, signed)[0] == "Valid"
    assert "signed without a time stamp: http://127.0.0.1:9/" in caplog.text


def test_after_a_failure_the_time_stamp_authority_is_not_asked_for_a_while(chain, files, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        signer = Signer(chain, f"http://127.0.0.1:{server.getsockname()[1]}/")

        def asked(seconds: float) -> bool:
            monkeypatch.setattr(time, "monotonic", lambda: seconds)
            signing = threading.Thread(target=signer.sign, args=(files[Format.GIF], "image/gif", CLAIMS))
            signing.start()
            while signing.is_alive():
                try:
                    server.accept()[0].close()
                except BlockingIOError:
                    signing.join(0.01)
                else:
                    signing.join()
                    return True
            return False

        assert [asked(1000), asked(1001), asked(1000 + signers.NO_TIME_STAMPS)] == [True, False, True]


def test_a_source_that_is_rejected_does_not_cost_the_time_stamp(chain, files, tmp_path, caplog):
    with time_stamp_authority(tmp_path) as authority:
        signed = Signer(chain, authority.url).sign(files[Format.GIF], "image/gif", replace(CLAIMS, source=b"damaged"))
    assert len(authority.requests) == 1
    _, found = read(Format.GIF, signed)
    assert found["manifests"][found["active_manifest"]]["signature_info"]["time"]
    assert "signed without the credentials of its source" in caplog.text
