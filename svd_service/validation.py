"""Plain values and JSON as typed ones, by msgspec, in any number of threads.

msgspec builds its description of a type when the type is first used, and publishes it before it is complete: a second
thread that uses the type meanwhile ends the process with a segmentation fault (msgspec 0.22). Here it is built first.
"""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_described: set[type] = set()
_describing = threading.Lock()


def convert(
    value: object, kind: type[T], *, strict: bool = True, dec_hook: Callable[[type, Any], Any] | None = None
) -> T:
    """`value` as a `kind`, as `msgspec.convert`.

    Raises:
        msgspec.ValidationError: it is none.
    """
    _describe(kind)
    return msgspec.convert(value, kind, strict=strict, dec_hook=dec_hook)  # noqa: TID251


def decode(content: bytes | str, kind: type[T]) -> T:
    """The JSON `content` as a `kind`, as `msgspec.json.decode`.

    Raises:
        msgspec.DecodeError: it is no JSON, or no `kind`.
        UnicodeDecodeError: it is not UTF-8.
    """
    _describe(kind)
    return msgspec.json.decode(content, type=kind)  # noqa: TID251


def _describe(kind: type) -> None:
    if kind not in _described:
        # One lock for all types, since they share the types of their fields.
        with _describing:
            msgspec.json.Decoder(kind)  # noqa: TID251
            _described.add(kind)
