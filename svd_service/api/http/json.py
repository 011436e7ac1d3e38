"""JSON by msgspec: the structs of a dialect's schema are what its routes return."""

from typing import Any

import msgspec
from flask.json.provider import JSONProvider


class MsgspecJSON(JSONProvider):
    """Flask's JSON, read and written by msgspec; numbers that JSON does not know (NaN) become null."""

    def dumps(self, obj: Any, **_: Any) -> str:
        """`obj` as JSON text."""
        return msgspec.json.encode(obj).decode()

    def loads(self, s: str | bytes, **_: Any) -> Any:
        """What the JSON text `s` says; raises ValueError where it says nothing."""
        try:
            return msgspec.json.decode(s)
        except RecursionError:
            raise ValueError("JSON in too many levels") from None
