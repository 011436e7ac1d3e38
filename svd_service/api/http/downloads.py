"""How a file of the artifact store is sent: whole, in part (Range), or not at all when the client has it."""

from typing import BinaryIO, Final, cast

from flask import Response, redirect, request
from werkzeug.wsgi import FileWrapper

from svd_service.api.http import preconditions, ranges
from svd_service.api.http.context import jobs
from svd_service.api.http.openapi import Answer
from svd_service.jobs.job import ResultFile, Still
from svd_service.jobs.marks import TYPES
from svd_service.jobs.parameters import MEDIA_TYPES
from svd_service.jobs.results import OpenResult
from svd_service.parameters import Format

#: Media type and file ending of each file of a result.
KINDS: Final[dict[ResultFile, tuple[str, str]]] = {
    **{kind: (media_type, f".{kind}") for kind, media_type in MEDIA_TYPES.items()},
    Still.THUMBNAIL: (TYPES[Still.THUMBNAIL], ".webp"),
    Still.SPRITESHEET: (TYPES[Still.SPRITESHEET], ".jpg"),
}

#: The answers to a download beside the file itself, and its errors, for the OpenAPI document.
NOT_MODIFIED: Final = {304: Answer("The caller has the current version.")}
ANSWERS: Final = {
    **NOT_MODIFIED,
    307: Answer("The store has it, for a while, at `Location`; only if the service is set to answer so."),
}
ERRORS: Final = {
    410: "The video has expired.",
    412: "A condition of the request is not met.",
    416: "The range begins beyond the end.",
}

#: Media types of all files.
ALL_MEDIA_TYPES: Final = tuple(dict.fromkeys(media_type for media_type, _ in KINDS.values()))


def send_result(opened: OpenResult, *, may_redirect: bool = True) -> Response:
    """A response with a file of a job's result, as `send` makes it, or a redirect to the store."""
    if may_redirect and _can_follow() and (link := jobs().results.link(opened)):
        opened.file.close()
        response = cast(Response, redirect(link, 307, Response))
        response.cache_control.no_store = True  # the link is good for a while only
        return response
    media_type, ending = KINDS[opened.kind]
    # The same video has the same stills, so its digest identifies them.
    mark = f"-{opened.kind}" if isinstance(opened.kind, Still) else ""
    return send(
        opened.file,
        size=opened.size,
        etag=opened.sha256 + mark,
        media_type=media_type,
        name=opened.job.id + ending,
        modified=opened.job.ended_at or opened.job.created_at,
    )


def _can_follow() -> bool:
    """Whether the caller gets anywhere with a link, which is for GET alone.

    A page's script may read another origin's responses only if that origin allows it, which a bucket does not by
    default.
    """
    return request.method == "GET" and request.headers.get("Sec-Fetch-Mode") not in {"cors", "same-origin"}


def send(file: BinaryIO, *, size: int, etag: str, media_type: str, name: str, modified: float) -> Response:
    """A response with `file`, which is closed with it.

    `size` in bytes; `modified` in seconds since the epoch. It is 206 for a range, and 304 if the caller has the file.

    Raises:
        PreconditionFailed: a condition of the request is not met.
        RequestedRangeNotSatisfiable: the range begins beyond the end.
    """
    response = Response(FileWrapper(file), mimetype=media_type, direct_passthrough=True)
    response.call_on_close(file.close)
    response.content_length = size
    response.last_modified = modified  # type: ignore[assignment]
    response.set_etag(etag)
    response.cache_control.private = True
    response.cache_control.no_cache = True
    # A browser can show all of them but an archive.
    disposition = "attachment" if media_type == MEDIA_TYPES[Format.ZIP] else "inline"
    response.headers.set("Content-Disposition", disposition, filename=name)
    try:
        preconditions.apply(response)
        wanted = ranges.effective(request.method, request.headers.get("Range"), size)
        environ = {"REQUEST_METHOD": request.method}
        if wanted and response.status_code == 200 and preconditions.allow_range(response):
            environ["HTTP_RANGE"] = wanted
        response.make_conditional(environ, accept_ranges=True, complete_length=size)
    except Exception:
        file.close()
        raise
    return response
