"""Ids as long as Stability's: a job's id, then a check that makes up the length. No two jobs have one in common."""

import hashlib
import re
import uuid
from typing import Final

from svd_service.errors import UnknownJobError

#: Hexadecimal digits of a job's id, and of all.
_DIGITS: Final = 32
_LENGTH: Final = 64
_HEX: Final = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")


def lengthened(job_id: str) -> str:
    """The 64 characters that stand for `job_id`."""
    digits = uuid.UUID(job_id).hex
    return digits + _check(digits)


def shortened(generation_id: str) -> str:
    """The job's id for which `generation_id` stands.

    Raises:
        UnknownJobError: it stands for none.
    """
    digits = generation_id[:_DIGITS]
    if generation_id[_DIGITS:] != _check(digits) or not _HEX.fullmatch(digits):
        raise UnknownJobError(f"there is no generation {generation_id}")
    return str(uuid.UUID(hex=digits))


def _check(digits: str) -> str:
    return hashlib.sha256(digits.encode()).hexdigest()[: _LENGTH - _DIGITS]
