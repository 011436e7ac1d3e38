"""The conditions that a request makes on the version of a file (RFC 9110, section 13).

werkzeug's `make_conditional` looks at a range first, so that other conditions have no effect beside one, and sends the
whole file with a 412.
"""

from contextlib import suppress
from datetime import datetime

from flask import Response, request
from werkzeug.exceptions import PreconditionFailed
from werkzeug.http import parse_date, parse_etags, unquote_etag


def apply(response: Response) -> None:
    """Make a response that has an `ETag` 304 if the caller has this version, in the order of section 13.2.2.

    Requests of other methods than GET and HEAD are not about the file that they get.

    Raises:
        PreconditionFailed: the caller wants another version, or none at all.
    """
    if request.method not in {"GET", "HEAD"}:
        return
    etag, modified = str(response.get_etag()[0]), response.last_modified
    if wanted := request.headers.get("If-Match"):
        if not parse_etags(wanted.strip()).contains(etag):
            raise PreconditionFailed("this is not a version that If-Match names")
    elif _is_later(modified, "If-Unmodified-Since"):
        raise PreconditionFailed("this version is later than If-Unmodified-Since")
    if known := request.headers.get("If-None-Match"):
        current = parse_etags(known.strip()).contains_weak(etag)
    else:
        current = _is_later(modified, "If-Modified-Since") is False
    if current:
        response.status_code = 304


def allow_range(response: Response) -> bool:
    """Whether the request's range is one of this version; without `If-Range` it is one of any.

    Only a strong ETag and the exact `Last-Modified` identify a version (section 13.1.5).
    """
    condition = request.headers.get("If-Range", "").strip()
    if not condition:
        return True
    if condition.startswith(('"', "W/")):
        return unquote_etag(condition) == response.get_etag()
    return response.last_modified is not None and _date(condition) == response.last_modified


def _is_later(modified: datetime | None, header: str) -> bool | None:
    """Whether `modified` is later than the date in `header`; `None` without a valid date."""
    date = _date(request.headers.get(header, ""))
    return None if date is None or modified is None else modified > date


def _date(text: str) -> datetime | None:
    with suppress(OverflowError):  # a time zone of many digits
        return parse_date(text)
    return None
