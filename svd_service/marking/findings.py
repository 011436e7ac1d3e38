"""What the Content Credentials of a file state, and what follows from them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta


class Validity(StrEnum):
    """Whether the credentials hold."""

    TRUSTED = "trusted"  # unchanged, and signed with a certificate of this installation
    VALID = "valid"  # unchanged; the signer is not known here
    INVALID = "invalid"  # changed or damaged after signing, or the signer's certificate has expired or is not for that
    REMOTE = "remote"  # kept at another host, which is not contacted


class Verdict(StrEnum):
    """Where a file comes from, as far as its Content Credentials prove it."""

    MADE_HERE = "made_here"
    MADE_ELSEWHERE = "made_elsewhere"
    INVALID = "invalid"
    UNMARKED = "unmarked"


@dataclass(frozen=True)
class Statement:
    """What a manifest states. Texts are its author's words, shortened; `None` where it states nothing."""

    signer: str | None = None
    organization: str | None = None
    generator: str | None = None
    digital_source_type: str | None = None
    created_at: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Ingredient:
    """What a file was made from. `manifest` is `None` if that had no Content Credentials of its own."""

    title: str | None
    relationship: str | None
    manifest: Statement | None


@dataclass(frozen=True)
class Credentials:
    """The Content Credentials of a file."""

    state: Annotated[
        Validity,
        Meta(
            description="`trusted`: unchanged since this installation signed it. `valid`: unchanged since somebody "
            "else signed it, whose name is not verified. `invalid`: changed or damaged, or signed with a certificate "
            "that has expired or is not for that. `remote`: at another host, which is not contacted."
        ),
    ]
    statement: Annotated[Statement, Meta(description="What they state; proves nothing if `state` is `invalid`.")]
    signed_at: Annotated[
        str | None, Meta(description="Time stamp of an authority, if there is one; it is not verified which.")
    ] = None
    problems: Annotated[tuple[str, ...], Meta(description="C2PA's codes of what does not hold.")] = ()
    ingredients: tuple[Ingredient, ...] = ()
    manifest_id: Annotated[str | None, Meta(description="C2PA's id of the manifest that this is about.")] = None
    job_id: Annotated[str | None, Meta(description="The job, if svd-service made the file.")] = None

    @property
    def verdict(self) -> Verdict:
        """What follows from them."""
        return _VERDICTS[self.state]


_VERDICTS: Final = {
    Validity.TRUSTED: Verdict.MADE_HERE,
    Validity.VALID: Verdict.MADE_ELSEWHERE,
    Validity.INVALID: Verdict.INVALID,
    Validity.REMOTE: Verdict.UNMARKED,
}

#: How C2PA's codes of what is wrong with the signer's certificate begin.
_CERTIFICATE: Final = "signingCredential."


def verdict_of(credentials: Credentials | None) -> Verdict:
    """The verdict on a file with these credentials, or none."""
    return Verdict.UNMARKED if credentials is None else credentials.verdict


def explain(credentials: Credentials | None) -> str:
    """The verdict as a sentence."""
    if credentials is None:
        return "The file has no Content Credentials. That proves nothing: whoever re-encodes a file removes them."
    signer = credentials.statement.signer or "an unnamed signer"
    if credentials.state is Validity.TRUSTED:
        return f"This installation made the file; it is unchanged since {signer} signed it."
    if credentials.state is Validity.VALID:
        return f"The file is unchanged since it was signed elsewhere; that {signer} signed it is not verified."
    if credentials.state is Validity.REMOTE:
        return "The file refers to Content Credentials at another host, which are not fetched."
    if credentials.problems and all(problem.startswith(_CERTIFICATE) for problem in credentials.problems):
        expired = credentials.problems == (f"{_CERTIFICATE}expired",)
        reason = "has expired, and no time stamp shows that the file was signed before" if expired else "cannot be used"
        return f"The file is unchanged since it was signed, but the certificate of {signer} {reason}."
    return "The file or its Content Credentials were changed or damaged after signing."
