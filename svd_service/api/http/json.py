"""JSON by msgspec: the structs of a dialect's schema are what its routes return."""

from typing import Any, Final

import msgspec
from flask.json.provider import JSONProvider

#: Approximate maximum number of values in a JSON body. Each takes some 100 bytes, so that 27 MB of `[],[],…` would take
#: 900 MB.
MAX_VALUES: Final = 100_000

#: Bytes that precede a value, counted as an upper bound. They also count inside strings; a prompt, the longest, has at
#: most 32,000 characters, so it cannot reach the limit.
_SEPARATORS: Final = (b",", b":", b"[", b"{")


class MsgspecJSON(JSONProvider):
    """Flask's JSON, read and written by msgspec; numbers that JSON does not know (NaN) become null."""

    def dumps(self, obj: Any, **_: Any) -> str:
        """`obj` as JSON text."""
        return msgspec.json.encode(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """The value of the JSON text `s`; raises ValueError if it is invalid or has too many values."""
        text = s.encode() if isinstance(s, str) else s
        if sum(map(text.count, _SEPARATORS)) > MAX_VALUES:
            raise ValueError("JSON of too many values")
        try:
            return msgspec.json.decode(s)  # noqa: TID251 - no type to describe
        except RecursionError:
            raise ValueError("JSON in too many levels") from None
