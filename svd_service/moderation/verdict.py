"""The request to a hook, and its verdict."""

import base64
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Literal

import msgspec
from msgspec import Struct

from svd_service import validation

#: Maximum characters of a reason that a caller is shown.
_REASON: Final = 300

_NO_REASON: Final = "the content is not allowed here"


class Stage(StrEnum):
    """What a hook looks at."""

    IMAGE = "image"  # the fitted image of a submission
    VIDEO = "video"  # the first, the middle and the last frame of a result


class HookError(Exception):
    """The hook gave no verdict; the message has the reason."""


class HookImage(Struct, frozen=True):
    """An image in Base64."""

    media_type: str
    data: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "HookImage":
        """The image `content`."""
        return cls(media_type, base64.b64encode(content).decode())


class HookRequest(Struct, frozen=True):
    """The body of a request to a hook. `owner` is the id of the caller's API key, empty without keys."""

    type: str
    job_id: str
    owner: str
    images: Sequence[HookImage]


class HookResponse(Struct, frozen=True):
    """The answer of a hook; other fields are ignored."""

    verdict: Literal["allow", "reject"]
    reason: str | None = None


def parse(answer: bytes) -> str | None:
    """The reason of a rejection; `None` if the content is allowed.

    Raises:
        HookError: this is no verdict.
    """
    try:
        found = validation.decode(answer, HookResponse)
    # The latter two: text in another encoding, and lists in lists in lists.
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HookError(f"invalid answer: {error}") from None
    if found.verdict == "allow":
        return None
    printable = "".join(character for character in found.reason or "" if character.isprintable()).strip()
    return printable[:_REASON] or _NO_REASON
