"""Which part of a file a `Range` header asks for (RFC 9110, section 14)."""

import re
from typing import Final

#: `first-last`, `first-` or `-suffix`.
_SPEC: Final = re.compile(r"(\d{1,18})-(\d{1,18})?|-(\d{1,18})")

_BYTES: Final = "bytes="


def effective(method: str, header: str | None, size: int) -> str:
    """The one range of a file of `size` bytes to send, as a `Range` header; `""` for all of it.

    An invalid header is ignored, as are several ranges (14.2), and those of other methods than GET. One
    beyond the end stays as it is: it is answered with 416.
    """
    if method != "GET" or not header or not header.lower().startswith(_BYTES):
        return ""
    match = _SPEC.fullmatch(header[len(_BYTES) :].strip())
    if match is None:
        return ""
    first, last, suffix = match.groups()
    if suffix is not None:
        # A suffix that is longer than the file is all of it, of length 0 nothing, which cannot be sent.
        return f"bytes={max(0, size - int(suffix))}-" if int(suffix) else f"bytes={size}-"
    if last is not None and int(last) < int(first):
        return ""
    return f"bytes={int(first)}-{'' if last is None else int(last)}"
