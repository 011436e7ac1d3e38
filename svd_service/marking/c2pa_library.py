"""The C2PA library: whether it is installed, and the settings with which it signs and reads."""

import importlib.util
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    import c2pa

#: Label of our own assertion, which names the job.
JOB: Final = "org.svd-service.job"

#: Label of the ingredient that a file was made from.
INGREDIENT: Final = "org.svd-service.source"

#: A word of every manifest, and how many bytes are searched for it at once.
_LABEL: Final = b"c2pa"
_CHUNK: Final = 1_048_576

#: The library must neither contact other hosts nor embed a thumbnail. Verifying after signing would double the time.
SETTINGS: Final[dict[str, Any]] = {
    "verify": {"verify_after_sign": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}

#: The same for a stranger's file: no host at all, no identities that are resolved over the network (CAWG, `did:web`),
#: and no manifest that grows when it is decompressed. Of a time stamp only the signature is verified: without a list of
#: authorities the library would ignore every stamp, and call a file invalid once its certificate has expired.
READING: Final[dict[str, Any]] = {
    **SETTINGS,
    "verify": {**SETTINGS["verify"], "verify_timestamp_trust": False},
    "core": {
        "allowed_network_hosts": [],
        "decode_identity_assertions": False,
        "max_decompressed_manifest_size_in_mb": 8,
    },
}

#: What a signer's certificate may be for (extended key usage): C2PA claims, documents, e-mail, and Microsoft's own for
#: C2PA. Without this list, the library accepts e-mail alone.
PURPOSES: Final = ("1.3.6.1.4.1.62558.2.1", "1.3.6.1.5.5.7.3.36", "1.3.6.1.5.5.7.3.4", "1.3.6.1.4.1.311.76.59.1.9")


def may_have_credentials(file: BinaryIO) -> bool:
    """Whether a seekable `file` may have Content Credentials: it has a word of every manifest. Needs no library."""
    file.seek(0)
    before = b""
    while chunk := file.read(_CHUNK):
        if _LABEL in before + chunk:
            return True
        before = chunk[-len(_LABEL) + 1 :]
    return False


def is_installed() -> bool:
    """Whether the packages of the extra `c2pa` are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("c2pa", "cryptography"))


def context(**further: Any) -> "c2pa.Context":
    """The library's settings for signing, and `further` ones of other sections."""
    return _context({**SETTINGS, **further})


def reading_context(certificates: str = "") -> "c2pa.Context":
    """The library's settings for a stranger's file. It trusts only the signers of `certificates` (PEM)."""
    own = {"trust_kind": "manifest", "trust_anchors": "", "allowed_list": certificates}
    trust = {"trust_config": "\n".join(PURPOSES), **({"anchors": [own]} if certificates else {})}
    return _context({**READING, "trust": trust})


def _context(settings: dict[str, Any]) -> "c2pa.Context":
    import c2pa  # noqa: PLC0415

    return c2pa.Context(c2pa.Settings.from_dict(settings))
