"""What a request prefers (`Prefer`, RFC 7240), and when its job is to be cancelled (`Cancel-After`)."""

import re
from typing import Final

from flask import request
from werkzeug.http import parse_list_header, unquote_header_value

from svd_service.errors import InvalidParameterError

#: The headers, and the registered preferences that the service knows.
PREFER: Final = "Prefer"
APPLIED: Final = "Preference-Applied"
CANCEL_AFTER: Final = "Cancel-After"
_STRICT: Final = ("handling", "strict")

#: Seconds of `Cancel-After`, and its maximum: a week. Units as in Replicate's header of the same name.
_DURATION: Final = re.compile(r"([0-9]{1,7})(s|m|h)?")
_UNITS: Final = {None: 1, "s": 1, "m": 60, "h": 3_600}
_LONGEST: Final = 7 * 86_400


def wait_seconds(maximum: int) -> int:
    """Seconds for which the caller prefers to wait (`Prefer: wait=60`), at most `maximum`; 0: not at all.

    As RFC 7240 requires, a value that cannot be parsed is ignored.
    """
    text = _preferences().get("wait", "")
    return min(int(text), maximum) if text.isdecimal() and text.isascii() and len(text) < 10 else 0


def is_strict() -> bool:
    """Whether the caller prefers an error to a best effort (`Prefer: handling=strict`)."""
    name, value = _STRICT
    return _preferences().get(name, "").lower() == value


def cancel_after() -> float | None:
    """Seconds until the job's deadline: `Cancel-After: 90`, `90s`, `5m` or `1h`; `None`: it has none.

    Raises:
        InvalidParameterError: the header's value is invalid.
    """
    text = request.headers.get(CANCEL_AFTER, "").strip()
    if not text:
        return None
    parsed = _DURATION.fullmatch(text.lower())
    seconds = int(parsed[1]) * _UNITS[parsed[2]] if parsed else 0
    if not 1 <= seconds <= _LONGEST:
        raise InvalidParameterError(
            CANCEL_AFTER,
            f"{CANCEL_AFTER} must be 1 to {_LONGEST} seconds, such as 90, 90s, 5m or 1h; got {text[:60]!r}",
        )
    return float(seconds)


def _preferences() -> dict[str, str]:
    """Names in lower case, and values; the first of several with one name counts."""
    found: dict[str, str] = {}
    for each in parse_list_header(",".join(request.headers.getlist(PREFER))):
        name, _, value = each.partition(";")[0].partition("=")
        found.setdefault(name.strip().lower(), unquote_header_value(value.strip()))
    return found
