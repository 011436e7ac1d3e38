"""The private key and the certificates that sign: an operator's own, or a self-signed chain of this installation."""

import datetime as dt
import functools
import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from svd_service.config import ConfigurationError, Settings

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

#: Validity of a self-signed chain. Without time stamps, a signature ends with its certificate.
_YEARS: Final = 20

#: The certificate is valid from a day before it is made, since the clocks of several hosts differ.
_EARLIER: Final = dt.timedelta(days=1)

_ORGANIZATION: Final = "svd-service"
_BEGIN_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"

#: The file of a self-signed chain, below the data folder. Hidden: it is no artifact.
_FILE: Final = Path(".c2pa") / "chain.pem"


@dataclass(frozen=True)
class Chain:
    """A private key (PEM, PKCS #8) and its certificates (PEM, the signer's first).

    `is_own` is true for a self-signed chain of this installation, whose signer is unknown elsewhere.
    """

    key: bytes
    certificates: bytes
    is_own: bool = True

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """The inverse of `pem`, for a self-signed chain."""
        key, begin, certificates = pem.partition(_BEGIN_CERTIFICATE)
        return cls(key, begin + certificates)

    @classmethod
    def of_operator(cls, key: bytes, certificates: bytes) -> Self:
        """An operator's chain of the files' contents (PEM).

        Both are written anew, because the C2PA library reads neither keys in the older formats (`openssl ecparam
        -genkey`, `openssl genrsa -traditional`) nor a byte order mark.

        Raises:
            ValueError: one cannot be read.
            TypeError: the key has a password.
        """
        from cryptography import x509  # noqa: PLC0415
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        found = x509.load_pem_x509_certificates(certificates)
        return cls(_key_pem(load_pem_private_key(key, password=None)), b"".join(map(_pem, found)), is_own=False)

    @property
    def pem(self) -> bytes:
        """Key and certificates in one file."""
        return self.key + self.certificates

    @property
    def signer(self) -> bytes:
        """The signer's certificate alone, as PEM."""
        return _pem(self._signer)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the signer's certificate, in hex."""
        return hashlib.sha256(self.signer).hexdigest()

    @property
    def common_name(self) -> str:
        """The signer's name."""
        from cryptography.x509.oid import NameOID  # noqa: PLC0415

        names = self._signer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[0].value) if names else self._signer.subject.rfc4514_string()

    @property
    def algorithm(self) -> str:
        """C2PA's name of the signature algorithm that fits the key.

        Raises:
            ValueError: C2PA has none for it.
        """
        return _algorithm_of(self._private_key)

    @functools.cached_property
    def _signer(self) -> "x509.Certificate":
        from cryptography import x509  # noqa: PLC0415

        return x509.load_pem_x509_certificates(self.certificates)[0]

    @functools.cached_property
    def _private_key(self) -> Any:
        from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

        return load_pem_private_key(self.key, password=None)

    def check(self) -> None:
        """Check that the certificate is that of the key and is valid now, and that C2PA has an algorithm for the key.

        Raises:
            ValueError: it is not.
        """
        _ = self.algorithm
        if self._signer.public_key() != self._private_key.public_key():
            raise ValueError("the certificate is not that of the key")
        first, last = self._signer.not_valid_before_utc, self._signer.not_valid_after_utc
        if not first <= dt.datetime.now(dt.UTC) < last:
            raise ValueError(f"the certificate is valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}")


def configured(settings: Settings) -> Chain | None:
    """The operator's chain, or `None` if the settings name none.

    Raises:
        ConfigurationError: it cannot be used.
    """
    if settings.c2pa_cert_file is None or settings.c2pa_key_file is None:
        return None
    try:
        chain = Chain.of_operator(settings.c2pa_key_file.read_bytes(), settings.c2pa_cert_file.read_bytes())
        chain.check()
    except (OSError, ValueError, TypeError) as error:  # a TypeError: the key has a password
        raise unusable(settings, error) from None
    return chain


def unusable(settings: Settings, reason: Exception) -> ConfigurationError:
    """The error to raise because the operator's chain cannot be used."""
    return ConfigurationError(f"SVD_C2PA_CERT_FILE={str(settings.c2pa_cert_file)!r}: {reason}")


def of_host(settings: Settings) -> Chain | None:
    """The chain with which this host signs, as far as its settings and files tell."""
    return configured(settings) or stored(settings.data_dir)


def stored(data_dir: Path) -> Chain | None:
    """This host's copy of the installation's own chain; `None` if there is none, or it is damaged."""
    try:
        chain = Chain.from_pem((data_dir / _FILE).read_bytes())
        chain.check()
    except (OSError, ValueError, IndexError):
        return None
    return chain


def store(data_dir: Path, chain: Chain) -> None:
    """Keep a copy of the installation's own chain, readable by this user alone; replaces another one at once.

    Raises:
        OSError: the file cannot be written.
    """
    path = data_dir / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{uuid.uuid4().hex}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(chain.pem)
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def make() -> Chain:
    """A new self-signed chain: a root, and a certificate of it that may sign (C2PA's profile, EC P-256)."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    name = uuid.uuid4().hex[:8]  # two installations differ
    root = _root(root_key, f"{_ORGANIZATION} {name} root")
    signer = _leaf(key, f"{_ORGANIZATION} {name}", root, root_key)
    return Chain(_key_pem(key), _pem(signer) + _pem(root))


def _root(key: "ec.EllipticCurvePrivateKey", name: str) -> "x509.Certificate":
    from cryptography import x509  # noqa: PLC0415

    subject = _subject(name)
    return _signed(
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()),
        key,
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (_usage(key_cert_sign=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    )


def _leaf(
    key: "ec.EllipticCurvePrivateKey", name: str, root: "x509.Certificate", root_key: "ec.EllipticCurvePrivateKey"
) -> "x509.Certificate":
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import ExtendedKeyUsageOID  # noqa: PLC0415

    return _signed(
        x509.CertificateBuilder().subject_name(_subject(name)).issuer_name(root.subject).public_key(key.public_key()),
        root_key,
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False),
    )


def _signed(
    builder: "x509.CertificateBuilder", key: "ec.EllipticCurvePrivateKey", *extensions: tuple[Any, bool]
) -> "x509.Certificate":
    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415

    now = dt.datetime.now(dt.UTC)
    builder = (
        builder.serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + dt.timedelta(days=365 * _YEARS))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256())


def _subject(name: str) -> "x509.Name":
    from cryptography import x509  # noqa: PLC0415
    from cryptography.x509.oid import NameOID  # noqa: PLC0415

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> "x509.KeyUsage":
    from cryptography import x509  # noqa: PLC0415

    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _algorithm_of(key: Any) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: PLC0415

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in curves:
        return curves[key.curve.name]
    raise ValueError("C2PA signs with EC P-256, P-384 or P-521, RSA or Ed25519; the key is of another kind")


def _pem(certificate: "x509.Certificate") -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat  # noqa: PLC0415

    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
