"""Creates that the `openai` package repeats by itself, after a 5xx, a time-out or a lost connection.

It sends no `Idempotency-Key`, but it counts: 0 when a request is sent for the first time.
"""

import hashlib
import re
from collections.abc import Mapping
from io import BufferedIOBase
from typing import Final, cast

import msgspec
from flask import request

from svd_service.api.http.context import owner, reservations
from svd_service.api.http.forms import UploadedFile

#: How often this request was sent before.
HEADER: Final = "X-Stainless-Retry-Count"


def reserved_id(fields: Mapping[str, object]) -> str | None:
    """The id reserved for the job of the current request, which has `fields`; `None` if its client does not count its
    attempts or has sent an idempotency key.
    """
    sent_before = request.headers.get(HEADER, "")
    if not re.fullmatch("[0-9]{1,4}", sent_before) or "Idempotency-Key" in request.headers:
        return None
    return reservations().reserve(_digest(fields), int(sent_before), owner=owner())


def _digest(fields: Mapping[str, object]) -> str:
    """A digest that is the same for the same fields and the same image, whatever the form's encoding."""
    digest = hashlib.sha256()
    for name, value in sorted(fields.items()):
        if isinstance(value, UploadedFile):
            content = hashlib.file_digest(cast(BufferedIOBase, value.stream), "sha256").hexdigest()
            value.stream.seek(0)
        else:
            content = hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()
        digest.update(f"{name!r} {content}\n".encode())
    return digest.hexdigest()
