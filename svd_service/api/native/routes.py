"""The native dialect's routes to jobs and results: each parses, calls one use case and presents."""

from collections.abc import Callable

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from msgspec import Struct

from svd_service.api.events import stream
from svd_service.api.http import downloads, forms
from svd_service.api.http.context import hub, jobs, owner
from svd_service.api.http.openapi import EVENT_STREAM, FILE, Answer, View, describe
from svd_service.api.http.paths import public_path
from svd_service.api.native.answers import job_view
from svd_service.api.native.schema import (
    ErrorView,
    EventView,
    JobList,
    ListQuery,
    ResultQuery,
)
from svd_service.jobs.job import Still
from svd_service.jobs.parameters import MEDIA_TYPES
from svd_service.parameters import Format
from svd_service.presentation import JobView

blueprint = Blueprint("native", __name__)

_UNKNOWN = {404: "There is no such job, or it belongs to another key."}
_EVENTS = {
    200: Answer(
        "The events, for as long as the caller listens and there is something to come.", EventView, EVENT_STREAM
    )
}


@blueprint.get("/jobs")
@describe(
    "native",
    {200: Answer("A page of jobs.", JobList)},
    error=ErrorView,
    errors={404: "`after` is not a job of the caller.", 422: "A query parameter is invalid."},
    query=ListQuery,
)
def page() -> Response:
    """The caller's jobs, page by page, newest first."""
    query = forms.parse_query(ListQuery)
    found, more = jobs().queries.page(owner=owner(), **query.page())
    following = f"/jobs?after={found[-1].id}&limit={query.limit}&order={query.order}" if more and found else ""
    return jsonify(
        JobList(
            jobs=[job_view(job) for job in found], has_more=more, next=public_path(following) if following else None
        )
    )


@blueprint.delete("/jobs/<task_id>")
@describe(
    "native",
    {
        200: Answer("The job was queued and is cancelled.", JobView),
        202: Answer("The job was started and stops at its next step.", JobView),
        204: Answer("The job had ended; its record and video are deleted."),
    },
    error=ErrorView,
    errors=_UNKNOWN,
)
def delete(task_id: str) -> ResponseReturnValue:
    """Cancel a job, or delete an ended one.

    A queued job is cancelled at once (200), a started one at its next step (202). Of an ended job, record and video are
    deleted for good (204).
    """
    job = jobs().removal.cancel_or_delete(task_id, owner=owner())
    if job is None:
        return "", 204
    return jsonify(job_view(job)), 200 if job.state.ended else 202


@blueprint.post("/jobs/<task_id>/cancel")
@describe(
    "native",
    {
        200: Answer("The job has ended: it was queued and is cancelled, or it had ended before.", JobView),
        202: Answer("The job was started and stops at its next step.", JobView),
    },
    error=ErrorView,
    errors=_UNKNOWN,
)
def cancel(task_id: str) -> ResponseReturnValue:
    """Cancel a job, and never delete it.

    A queued job is cancelled at once (200), a started one at its next step (202). One that has ended stays as it is
    (200). The same request again has no further effect.
    """
    job = jobs().removal.cancel(task_id, owner=owner())
    return jsonify(job_view(job)), 200 if job.state.ended else 202


@blueprint.get("/events")
@describe("native", _EVENTS, error=ErrorView)
def all_events() -> Response:
    """Server-sent events of all the caller's jobs: the state of the newest ones, then every change."""
    return stream.stream_owner(hub(), owner=owner())


@blueprint.get("/jobs/<task_id>/events")
@describe(
    "native",
    {**_EVENTS, 204: Answer("The job has ended, and the client has received that event.")},
    error=ErrorView,
    errors=_UNKNOWN,
    headers={"Last-Event-ID": "Id of the last event received."},
)
def job_events(task_id: str) -> Response:
    """Server-sent events of one job: how it stands, every change, and its end; resumed by `Last-Event-ID`."""
    seen = request.headers.get("Last-Event-ID", "")
    # A version has few digits; thousands of them would be no number that Python reads.
    known = int(seen) if seen.isdecimal() and len(seen) < 20 else -1
    return stream.stream_job(hub(), jobs().queries, task_id, owner=owner(), seen=known)


@blueprint.get("/jobs/<task_id>/preview")
@describe(
    "native",
    {200: Answer("The preview.", FILE, ("image/webp",))},
    error=ErrorView,
    errors={
        404: "There is no such job, it is another key's, or there is nothing to be seen of it: not yet, or any more."
    },
)
def preview(task_id: str) -> Response:
    """A cheap low-resolution view of a video in progress, as WebP. The status has the number of the latest one."""
    response = Response(jobs().results.read_preview(task_id, owner=owner()), mimetype="image/webp")
    response.cache_control.no_store = True
    return response


@blueprint.get("/jobs/<task_id>")
@blueprint.get("/status/<task_id>")
@describe("native", {200: Answer("The job.", JobView)}, error=ErrorView, errors=_UNKNOWN)
def status(task_id: str) -> Response:
    """The status of a job."""
    return jsonify(job_view(jobs().queries.find(task_id, owner=owner())))


def _describe_result(
    what: str, *media_types: str, query: type[Struct] | None = None, unknown: str = _UNKNOWN[404]
) -> Callable[[View], View]:
    """Describe a route that answers with a file of a finished job."""
    etag = {"ETag": "Made of the SHA-256 of the video."}
    return describe(
        "native",
        {
            200: Answer(f"The {what}.", FILE, media_types, etag),
            **downloads.ANSWERS,
        },
        error=ErrorView,
        errors={
            404: unknown,
            409: "The job has no video: it has not ended, failed or was cancelled; see `status`.",
            **downloads.ERRORS,
            **({422: "There is no such format."} if query else {}),
        },
        query=query,
    )


_NOT_MADE = "There is no such job, it belongs to another key, or it was not submitted with this format."


@blueprint.get("/results/<task_id>")
@_describe_result("video", *MEDIA_TYPES.values(), query=ResultQuery, unknown=_NOT_MADE)
def result(task_id: str) -> Response:
    """The video of a finished job. Ranges and conditional requests are answered as they should be."""
    return _sent(task_id, forms.parse_query(ResultQuery).format)


@blueprint.get(f"/results/<task_id>.<any({', '.join(Format)}):format>")
@_describe_result("video", *MEDIA_TYPES.values(), unknown=_NOT_MADE)
def result_file(task_id: str, **path: str) -> Response:
    """The same with the format as the path's ending."""
    return _sent(task_id, Format(path["format"]))


def _sent(task_id: str, kind: Format) -> Response:
    return downloads.send_result(jobs().results.open(task_id, owner=owner(), kind=kind))


@blueprint.get("/results/<task_id>/thumbnail")
@_describe_result("thumbnail", "image/webp")
def thumbnail(task_id: str) -> Response:
    """One frame of a finished job's video, as WebP."""
    return downloads.send_result(jobs().results.open(task_id, owner=owner(), kind=Still.THUMBNAIL))


@blueprint.get("/results/<task_id>/spritesheet")
@_describe_result("sprite sheet", "image/jpeg")
def spritesheet(task_id: str) -> Response:
    """All frames of a finished job's video side by side, as JPEG."""
    return downloads.send_result(jobs().results.open(task_id, owner=owner(), kind=Still.SPRITESHEET))
