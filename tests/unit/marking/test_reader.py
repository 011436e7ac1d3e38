"""The reader distinguishes files signed here, signed elsewhere, changed and unsigned, and stays offline."""

import contextlib
import io
import json
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import c2pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID

from svd_service.jobs.job import RESULT_FILES, Still
from svd_service.jobs.marks import MARKS, Mark, library_type
from svd_service.marking import c2pa_library, reader
from svd_service.marking import chain as chains
from svd_service.marking.c2pa_library import SETTINGS, context
from svd_service.marking.chain import Chain
from svd_service.marking.findings import Statement, Validity, Verdict, explain, verdict_of
from svd_service.marking.signer import GENERATED, Claims, Signer
from svd_service.parameters import Format
from tests.unit.marking.authorities import CLAIM_SIGNING, DOCUMENT_SIGNING, EMAIL, Authority, time_stamp_authority

CLAIMS = Claims("0f5e1f3a-5b1d-4c8e-9d3c-2f6f0f2a9b11", "a-model", "abc123")
EMBEDDED = [kind for kind in RESULT_FILES if MARKS[kind] is Mark.EMBEDDED]


@pytest.fixture(name="sign")
def _sign(chain, files):
    def sign(kind, by=chain):
        return Signer(by).sign(files[kind], library_type(kind), CLAIMS)

    return sign


def read(content: bytes, *own: Chain):
    return reader.read(io.BytesIO(content), "".join(each.signer.decode() for each in own))


@pytest.mark.parametrize("kind", RESULT_FILES)
def test_files_of_this_installation_are_recognized_by_their_bytes(kind, sign, chain, files):
    if MARKS[kind] is not Mark.EMBEDDED:
        assert read(files[kind], chain) is None
        return
    found = read(sign(kind), chains.make(), chain)
    assert found is not None
    assert (found.verdict, found.problems, found.job_id) == (Verdict.MADE_HERE, (), CLAIMS.job_id)
    assert found.statement.created_at is not None
    assert datetime.fromisoformat(found.statement.created_at) <= datetime.now(UTC)
    assert found.statement == Statement(
        signer=chain.common_name,
        organization="svd-service",
        generator=found.statement.generator,
        digital_source_type=GENERATED,
        created_at=found.statement.created_at,
        model="a-model abc123",
    )
    assert chain.common_name in explain(found)


def test_a_file_of_another_installation_was_made_elsewhere(sign, chain):
    found = read(sign(Format.MP4, chains.make()), chain)
    assert (found.state, found.verdict) == (Validity.VALID, Verdict.MADE_ELSEWHERE)
    assert "not verified" in explain(found)
    assert read(sign(Format.MP4)).verdict is Verdict.MADE_ELSEWHERE  # without any certificate of our own


@pytest.mark.parametrize("purposes", [[CLAIM_SIGNING], [DOCUMENT_SIGNING], [CLAIM_SIGNING, DOCUMENT_SIGNING], [EMAIL]])
def test_certificates_for_any_of_c2pas_purposes_are_accepted(purposes, sign):
    operators = Authority().chain(purposes)
    signed = sign(Format.WEBP, operators)
    assert read(signed, operators).verdict is Verdict.MADE_HERE
    assert read(signed).verdict is Verdict.MADE_ELSEWHERE
    damaged = signed[:-30] + bytes([signed[-30] ^ 1]) + signed[-29:]
    assert read(damaged, operators).verdict is Verdict.INVALID


def test_a_certificate_for_another_purpose_is_not_called_a_change(sign, monkeypatch):
    signed = sign(Format.WEBP, Authority().chain([DOCUMENT_SIGNING]))
    monkeypatch.setattr(c2pa_library, "PURPOSES", ())
    found = read(signed)
    assert (found.verdict, found.problems) == (Verdict.INVALID, ("signingCredential.invalid",))
    expected = "The file is unchanged since it was signed, but the certificate of An operator cannot be used."
    assert explain(found) == expected


def test_a_time_stamp_outlives_the_certificate(files, tmp_path):
    operators = Authority().chain(valid_for=timedelta(seconds=5))
    content, kind = files[Format.WEBP], library_type(Format.WEBP)
    with time_stamp_authority(tmp_path) as authority:
        stamped = Signer(operators, authority.url).sign(content, kind, CLAIMS)
    unstamped = Signer(operators).sign(content, kind, CLAIMS)
    assert {read(each, operators).verdict for each in (stamped, unstamped)} == {Verdict.MADE_HERE}
    while datetime.now(UTC) <= operators._signer.not_valid_after_utc + timedelta(seconds=1):
        time.sleep(0.1)
    found = read(stamped, operators)
    assert found.signed_at is not None
    assert found.verdict is Verdict.MADE_HERE
    assert read(stamped).verdict is Verdict.MADE_ELSEWHERE
    found = read(unstamped, operators)
    assert (found.verdict, found.problems) == (Verdict.INVALID, ("signingCredential.expired",))
    assert "has expired, and no time stamp shows that the file was signed before" in explain(found)
    for signed in (stamped, unstamped):
        found = read(signed[:-30] + bytes([signed[-30] ^ 1]) + signed[-29:], operators)
        assert found.verdict is Verdict.INVALID
        assert "changed or damaged" in explain(found)


def copied(certificate: x509.Certificate, key: Any, issuer: x509.Name) -> x509.CertificateBuilder:
    """A certificate for `key` with all other fields of `certificate`."""
    return x509.CertificateBuilder(
        issuer,
        certificate.subject,
        key.public_key(),
        certificate.serial_number,
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
        list(certificate.extensions),
    )


def pem(builder: x509.CertificateBuilder, key: Any) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_certificate_with_the_same_fields_and_another_key_is_not_ours(sign, chain):
    certificate, forger = x509.load_pem_x509_certificate(chain.signer), chains.make()
    forged = pem(copied(certificate, forger._private_key, certificate.issuer), forger._private_key)
    found = read(sign(Format.WEBP, Chain(forger.key, forged)), chain)
    assert found.statement.signer == chain.common_name
    assert found.verdict is not Verdict.MADE_HERE


@pytest.mark.parametrize("kind", EMBEDDED)
def test_a_changed_byte_of_the_content_is_invalid(kind, sign, files, chain):
    signed = bytearray(sign(kind))
    middle = files[kind][len(files[kind]) // 2 :][:32]
    signed[bytes(signed).index(middle)] ^= 1
    found = read(bytes(signed), chain)
    assert found.verdict is Verdict.INVALID
    assert found.problems != ()


@pytest.mark.parametrize(("label", "offset"), [(b"c2pa.assertions", 200), (b"jumb", 0)])
def test_a_changed_byte_of_the_manifest_is_invalid(label, offset, sign, chain):
    signed = bytearray(sign(Format.MP4))
    signed[signed.index(label) + offset] ^= 1
    assert read(bytes(signed), chain).verdict is Verdict.INVALID


def test_unmarked_files_have_no_credentials(files, chain):
    for content in (*files.values(), b"", b"a text", b"\x89PNG\r\n\x1a\n damaged", b"PK\x03\x04", b"RIFF"):
        assert read(content, chain) is None
    assert verdict_of(None) is Verdict.UNMARKED


def test_texts_of_foreign_manifests_are_shortened_and_printable(files):
    found = read(Signer(chains.make()).sign(files[Format.GIF], "image/gif", Claims("x" * 500, "a\x1b[2Jmodel" * 90)))
    assert len(found.job_id) == 200
    assert len(found.statement.model) <= 200
    assert found.statement.model.isprintable()


def _with_remote_manifest(content, url):
    """A file whose credentials are at `url`."""
    chain, signed = chains.make(), io.BytesIO()
    manifest = json.dumps(CLAIMS.manifest(datetime.now(UTC)))
    information = c2pa.C2paSignerInfo(chain.algorithm, chain.certificates, chain.key, None)
    with context() as options, c2pa.Signer.from_info(information) as signer, c2pa.Builder(manifest, options) as builder:
        builder.set_no_embed()
        builder.set_remote_url(url)
        builder.sign(signer, "image/jpeg", io.BytesIO(content), signed)
    return signed.getvalue()


def _with_ocsp(content, url):
    """A file whose signer's certificate names an OCSP responder at `url`."""
    chain = chains.make()
    certificate = x509.load_pem_x509_certificate(chain.signer)
    responder = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))
    builder = copied(certificate, chain._private_key, certificate.issuer).add_extension(
        x509.AuthorityInformationAccess([responder]), critical=False
    )
    root = chain.certificates.removeprefix(chain.signer)
    return Signer(Chain(chain.key, pem(builder, chain._private_key) + root)).sign(content, "image/jpeg", CLAIMS)


@pytest.mark.parametrize(
    ("make", "setting"), [(_with_remote_manifest, "remote_manifest_fetch"), (_with_ocsp, "ocsp_fetch")]
)
def test_no_request_is_sent(make, setting, files):
    with socket.create_server(("127.0.0.1", 0)) as server:
        content = make(files[Still.SPRITESHEET], f"http://127.0.0.1:{server.getsockname()[1]}/manifest.c2pa")
        server.setblocking(False)
        read(content)
        with pytest.raises(BlockingIOError):
            server.accept()
        # The library sends one if it may, so that the test can fail.
        server.settimeout(30)
        arrived = threading.Event()

        def accept() -> None:
            server.accept()[0].close()
            arrived.set()

        threading.Thread(target=accept, daemon=True).start()
        online = context(verify={**SETTINGS["verify"], setting: True})
        with contextlib.suppress(c2pa.C2paError), online, c2pa.Reader(None, io.BytesIO(content), context=online):
            pass
        assert arrived.wait(30)


def test_a_file_with_a_remote_manifest_is_reported_as_such(files):
    found = read(_with_remote_manifest(files[Still.SPRITESHEET], "http://127.0.0.1:9/manifest.c2pa"))
    assert (found.state, found.verdict) == (Validity.REMOTE, Verdict.UNMARKED)
    assert "not fetched" in explain(found)
