"""Certificates as authorities issue them, and a time-stamp authority (RFC 3161) on this machine."""

import datetime as dt
import http.server
import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from svd_service.marking.chain import Chain
from tools.harness.local import CI

CLAIM_SIGNING = ObjectIdentifier("1.3.6.1.4.1.62558.2.1")
DOCUMENT_SIGNING = ObjectIdentifier("1.3.6.1.5.5.7.3.36")
EMAIL = ExtendedKeyUsageOID.EMAIL_PROTECTION
DAY = dt.timedelta(days=1)


def key_pem(key: Any, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return bytes(key.private_bytes(Encoding.PEM, form, NoEncryption()))


class Authority:
    """A certificate authority of its own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An authority")])
        self.root = self._certificate(self._name, self._key, DAY, (), authority=True)

    def certificate(
        self, key: Any, purposes: Sequence[ObjectIdentifier] = (EMAIL,), valid_for: dt.timedelta = DAY
    ) -> bytes:
        """A signer's certificate, as PEM."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "An operator")])
        return self._certificate(name, key, valid_for, purposes)

    def chain(self, purposes: Sequence[ObjectIdentifier] = (EMAIL,), valid_for: dt.timedelta = DAY) -> Chain:
        """An operator's chain with a new key."""
        key = ec.generate_private_key(ec.SECP256R1())
        return Chain(key_pem(key), self.certificate(key, purposes, valid_for) + self.root, is_own=False)

    def _certificate(
        self,
        name: x509.Name,
        key: Any,
        valid_for: dt.timedelta,
        purposes: Sequence[ObjectIdentifier],
        authority: bool = False,
    ) -> bytes:
        now = dt.datetime.now(dt.UTC)
        usage = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        ) | {"encipher_only": False, "decipher_only": False, "crl_sign": False}
        builder = (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + valid_for)
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **usage), critical=True
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if purposes:
            stamps = ExtendedKeyUsageOID.TIME_STAMPING in purposes
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=stamps)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)


CONFIGURATION = """
[tsa]
serial = serial
signer_cert = certificate.pem
certs = root.pem
signer_key = key.pem
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256, sha384, sha512
ess_cert_id_alg = sha256
"""


class TimeStampAuthority:
    """`url`, and how many `requests` it had."""

    def __init__(self, url: str, requests: list[bytes]) -> None:
        self.url, self.requests = url, requests


@contextmanager
def time_stamp_authority(folder: Path) -> Iterator[TimeStampAuthority]:
    """Confirm times with the program openssl."""
    openssl = shutil.which("openssl") or (pytest.fail if CI else pytest.skip)("no openssl")
    authority, key = Authority(), ec.generate_private_key(ec.SECP256R1())
    files = {
        "key.pem": key_pem(key),
        "certificate.pem": authority.certificate(key, [ExtendedKeyUsageOID.TIME_STAMPING]),
        "root.pem": authority.root,
        "serial": b"01",
        "tsa.cnf": CONFIGURATION.encode(),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    requests: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(self.rfile.read(int(self.headers["Content-Length"])))
            (folder / "query").write_bytes(requests[-1])
            command = [openssl, "ts", "-reply", "-config", "tsa.cnf", "-section", "tsa", "-queryfile", "query"]
            answer = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True, timeout=60).stdout
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield TimeStampAuthority(f"http://127.0.0.1:{server.server_port}/", requests)
        finally:
            server.shutdown()
            thread.join()
