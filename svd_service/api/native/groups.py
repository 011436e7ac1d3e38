"""The native dialect's routes to groups: several videos of one image."""

from typing import Final

from flask import Blueprint, Response, current_app, jsonify, request
from flask.typing import ResponseReturnValue

from svd_service.api.events import stream
from svd_service.api.events.hub import Event
from svd_service.api.http import downloads, preconditions
from svd_service.api.http.context import hub, jobs, owner
from svd_service.api.http.openapi import EVENT_STREAM, FILE, Answer, describe
from svd_service.api.http.paths import public_path
from svd_service.api.native.answers import group_view
from svd_service.api.native.schema import ErrorView, EventView
from svd_service.jobs.group import Group
from svd_service.presentation import GroupView

blueprint = Blueprint("groups", __name__)

_UNKNOWN: Final = {404: "There is no such group, it belongs to another key, or its jobs were deleted."}


@blueprint.get("/groups/<group_id>")
@describe("native", {200: Answer("The group.", GroupView)}, error=ErrorView, errors=_UNKNOWN)
def group_status(group_id: str) -> Response:
    """The status of a group, and of each of its jobs."""
    return jsonify(group_view(_found(group_id)))


@blueprint.delete("/groups/<group_id>")
@describe(
    "native",
    {
        200: Answer("All jobs have ended; those that were queued are cancelled.", GroupView),
        202: Answer("Started jobs stop at their next step; queued ones are cancelled.", GroupView),
        204: Answer("All jobs had ended; their records and videos are deleted."),
    },
    error=ErrorView,
    errors=_UNKNOWN,
)
def delete_group(group_id: str) -> ResponseReturnValue:
    """Cancel the jobs of a group, or delete a group whose jobs have ended."""
    group = jobs().groups.cancel_or_delete(group_id, owner=owner())
    if group is None:
        return "", 204
    return jsonify(group_view(group)), 200 if group.state.ended else 202


@blueprint.post("/groups/<group_id>/cancel")
@describe(
    "native",
    {
        200: Answer("All jobs have ended; those that were queued are cancelled.", GroupView),
        202: Answer("Started jobs stop at their next step; queued ones are cancelled.", GroupView),
    },
    error=ErrorView,
    errors=_UNKNOWN,
)
def cancel_group(group_id: str) -> ResponseReturnValue:
    """Cancel the jobs of a group that have not ended. Nothing is deleted."""
    group = jobs().groups.cancel(group_id, owner=owner())
    return jsonify(group_view(group)), 200 if group.state.ended else 202


@blueprint.get("/groups/<group_id>/events")
@describe(
    "native",
    {
        200: Answer("The events, until all jobs have ended. `data` is the group.", EventView, EVENT_STREAM),
        204: Answer("All jobs have ended, and the client has received that event."),
    },
    error=ErrorView,
    errors=_UNKNOWN,
    headers={"Last-Event-ID": "Id of the last event received."},
)
def group_events(group_id: str) -> Response:
    """Server-sent events of a group: its status, every change of a job, and its end."""
    group = _found(group_id)
    if group.state.ended and request.headers.get("Last-Event-ID") == str(group.version):
        return Response(status=204)  # else a browser's EventSource reconnects for ever
    # The generator runs without the request's context.
    holder, groups, root, write = owner(), jobs().groups, public_path(""), current_app.json.dumps

    def look() -> Event:
        now = groups.find(group_id, owner=holder)
        return Event(group_id, now.version, now.state.ended, write(GroupView.of(now, root)).encode())

    return stream.stream_group(hub(), [job.id for job in group.jobs], look, owner=holder)


@blueprint.get("/groups/<group_id>/contact-sheet")
@describe(
    "native",
    {200: Answer("The image.", FILE, ("image/jpeg",)), **downloads.NOT_MODIFIED},
    error=ErrorView,
    errors={
        **_UNKNOWN,
        409: "No job of the group has a video (yet).",
        412: "A condition of the request is not met.",
    },
)
def contact_sheet(group_id: str) -> Response:
    """The thumbnails of a group's finished videos side by side, with their seeds, as JPEG."""
    response = Response(jobs().groups.contact_sheet(group_id, owner=owner()), mimetype="image/jpeg")
    response.cache_control.private = response.cache_control.no_cache = True
    response.add_etag()
    preconditions.apply(response)
    return response


def _found(group_id: str) -> Group:
    return jobs().groups.find(group_id, owner=owner())
