"""Reads the Content Credentials of a stranger's file. Contacts no host; its caller bounds time and memory."""

import json
from collections.abc import Mapping
from typing import Any, BinaryIO, Final

from svd_service.marking.c2pa_library import JOB, may_have_credentials, reading_context
from svd_service.marking.findings import Credentials, Ingredient, Statement, Validity

#: The library recognizes formats by their first bytes, but ZIP, by which several begin.
_ZIP: Final = b"PK\x03\x04"

#: Maximum characters of a text, and entries of a list.
_TEXT: Final = 200
_ENTRIES: Final = 20

#: A certificate that is not on a list of trusted ones: `state` has that.
_UNTRUSTED: Final = "signingCredential.untrusted"

#: How the library begins the message of an error that has no class of its own.
_REMOTE: Final = "Remote:"

_STATES: Final = {"Trusted": Validity.TRUSTED, "Valid": Validity.VALID}


def load() -> None:
    """Load the library, which takes 0.2 s."""
    import c2pa  # noqa: F401, PLC0415


def read(file: BinaryIO, certificates: str = "") -> Credentials | None:
    """The Content Credentials of a seekable `file`, or `None`.

    `certificates` (PEM) are those of this installation.
    """
    import c2pa  # noqa: PLC0415

    try:
        with (
            reading_context(certificates) as context,
            c2pa.Reader(_format_of(file), file, context=context) as reader,
        ):
            return _credentials(json.loads(reader.json()))
    except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
        return None
    except c2pa.C2paError as error:
        if str(error).startswith(_REMOTE):
            return Credentials(Validity.REMOTE, Statement())
        return (
            Credentials(Validity.INVALID, Statement(), problems=("unreadable",)) if may_have_credentials(file) else None
        )


def _format_of(file: BinaryIO) -> str | None:
    file.seek(0)
    head = file.read(len(_ZIP))
    file.seek(0)
    return "zip" if head == _ZIP else None


def _credentials(store: Mapping[str, Any]) -> Credentials:
    manifests = store.get("manifests") or {}
    active = manifests.get(str(store.get("active_manifest"))) or {}
    codes = [_text(status.get("code")) or "" for status in store.get("validation_status") or ()]
    return Credentials(
        state=_STATES.get(str(store.get("validation_state")), Validity.INVALID),
        statement=_statement(active),
        signed_at=_text((active.get("signature_info") or {}).get("time")),
        problems=tuple(code for code in dict.fromkeys(codes) if code != _UNTRUSTED)[:_ENTRIES],
        ingredients=tuple(_ingredient(each, manifests) for each in (active.get("ingredients") or ())[:_ENTRIES]),
        manifest_id=_text(store.get("active_manifest")),
        job_id=_text(_assertion(active, JOB).get("id")),
    )


def _ingredient(ingredient: Mapping[str, Any], manifests: Mapping[str, Any]) -> Ingredient:
    manifest = manifests.get(str(ingredient.get("active_manifest")))
    return Ingredient(
        _text(ingredient.get("title")),
        _text(ingredient.get("relationship")),
        None if manifest is None else _statement(manifest),
    )


def _statement(manifest: Mapping[str, Any]) -> Statement:
    signature = manifest.get("signature_info") or {}
    action = _creation(manifest)
    agent = action.get("softwareAgent")
    return Statement(
        signer=_text(signature.get("common_name") or signature.get("issuer")),
        organization=_text(signature.get("issuer")),
        generator=_generator(manifest),
        digital_source_type=_text(action.get("digitalSourceType")),
        created_at=_text(action.get("when")),
        model=_named(agent) if isinstance(agent, dict) else _text(agent),
    )


def _creation(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """The first action: how the file came to be."""
    for label in ("c2pa.actions.v2", "c2pa.actions"):
        actions = _assertion(manifest, label).get("actions")
        if isinstance(actions, list) and actions and isinstance(actions[0], dict):
            return actions[0]
    return {}


def _assertion(manifest: Mapping[str, Any], label: str) -> Mapping[str, Any]:
    for assertion in manifest.get("assertions") or ():
        if assertion.get("label") == label and isinstance(assertion.get("data"), dict):
            found: dict[str, Any] = assertion["data"]
            return found
    return {}


def _generator(manifest: Mapping[str, Any]) -> str | None:
    first = next(iter(manifest.get("claim_generator_info") or ()), None)
    return _named(first) if isinstance(first, dict) else _text(manifest.get("claim_generator"))


def _named(program: Mapping[str, Any]) -> str | None:
    """Name and version of a program."""
    return _text(" ".join(str(program[key]) for key in ("name", "version") if program.get(key)))


def _text(value: object) -> str | None:
    """A stranger's text, shortened and without control characters; `None` if it is empty or no text."""
    if not isinstance(value, str):
        return None
    return "".join(letter for letter in value[:_TEXT] if letter.isprintable()) or None
