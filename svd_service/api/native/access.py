"""Keys, pins and share links of the native dialect: `/key`, `/jobs/{task_id}/pin` and `/share`, `/shared/…`."""

import time
from datetime import UTC, datetime
from typing import Annotated, Final

from flask import Blueprint, Response, jsonify
from flask.typing import ResponseReturnValue
from msgspec import Meta, Struct

from svd_service.api.http import downloads, forms
from svd_service.api.http.context import jobs, key, keyring, owner, share_links
from svd_service.api.http.openapi import BODY_ERRORS, FILE, PUBLIC, Answer, describe, form_or_json
from svd_service.api.http.paths import public_path
from svd_service.api.native.schema import ErrorView
from svd_service.errors import InvalidLinkError
from svd_service.jobs.allowance import Allowance
from svd_service.jobs.parameters import MEDIA_TYPES
from svd_service.parameters import MAX_PRIORITY, Format
from svd_service.presentation import JobView, moment

blueprint = Blueprint("access", __name__)

_DAY: Final = 86_400


class KeyView(Struct):
    """The caller's key. Without keys on the service, `required` is false and the rest is empty."""

    required: bool
    id: str
    name: str
    owner: Annotated[str, Meta(description="Owner of its jobs, usage and limits: the key itself, or a tenant.")]
    priority: Annotated[int, Meta(description="Highest priority of its jobs.")]
    lists_jobs: Annotated[
        bool, Meta(description="Whether the page lists all jobs of the caller (`SVD_PAGE_LISTS_JOBS`).")
    ]
    expires_at: datetime | None = None
    limits: Annotated[Allowance, Meta(description="Quotas (0: none), models and profiles (empty: all).")] = Allowance()
    scopes: list[str] = []


class ShareForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """How long the link works."""

    expires_in: Annotated[
        int, Meta(ge=60, le=30 * _DAY, description="Seconds. The link never outlives the video itself.")
    ] = 7 * _DAY


class ShareView(Struct):
    """A link that works without a key, for a browser and a `<video>` tag alike."""

    url: str
    expires_at: datetime


class ShareQuery(Struct, kw_only=True):
    """What makes the link valid.

    Other parameters are ignored: networks and mail programs append their own (`fbclid`, `utm_source`) to links.
    """

    expires: Annotated[int, Meta(ge=0, le=2**53, description="Seconds since 1970.")]
    signature: Annotated[str, Meta(max_length=64, description="HMAC-SHA256 in hex.")]
    key: Annotated[str, Meta(max_length=64, description="Id of the key that made the link.")] = ""


@blueprint.get("/key")
@describe("native", {200: Answer("The key is valid, or none is required.", KeyView)}, error=ErrorView)
def check_key() -> Response:
    """Check the caller's key."""
    shown = key()
    if shown is None:
        lists = jobs().settings.page_lists_jobs
        return jsonify(KeyView(required=False, id="", name="", owner="", priority=MAX_PRIORITY, lists_jobs=lists))
    expires_at = moment(shown.expires_at)
    return jsonify(
        KeyView(
            required=True,
            id=shown.id,
            name=shown.name,
            owner=shown.owner,
            priority=shown.priority,
            lists_jobs=True,
            expires_at=expires_at,
            limits=shown.allowance,
            scopes=list(shown.scopes),
        )
    )


@blueprint.post("/jobs/<task_id>/share")
@describe(
    "native",
    {201: Answer("The link.", ShareView)},
    error=ErrorView,
    errors={
        **BODY_ERRORS,
        404: "There is no such job, or it is another key's.",
        409: "The job has no video: it has not ended, or it failed or was cancelled.",
        410: "The video has expired.",
        422: "`expires_in` is out of bounds.",
    },
    body=form_or_json(ShareForm),
)
def share(task_id: str) -> ResponseReturnValue:
    """Make a link to a finished job's video that works without a key.

    It ends by itself, with the video, and with the caller's key, except when that is rotated.
    """
    form = forms.parse(ShareForm)
    job = jobs().queries.find(task_id, owner=owner())
    if job.result is None:
        jobs().results.open(task_id, owner=owner()).file.close()  # raises the reason
    end = int(time.time()) + form.expires_in
    if job.expires_at is not None:
        end = min(end, int(job.expires_at))
    shown = key()
    key_id = shown.id if shown else ""
    maker = f"&key={key_id}" if key_id else ""
    url = f"/shared/{job.id}.mp4?expires={end}{maker}&signature={share_links().sign(job.id, end, key_id)}"
    return jsonify(ShareView(public_path(url), datetime.fromtimestamp(end, UTC))), 201


_PIN = {
    404: "There is no such job, or it is another key's.",
    409: "The job has no video, or as many videos are pinned as one key may pin.",
    410: "The video has expired.",
}


@blueprint.put("/jobs/<task_id>/pin")
@describe("native", {200: Answer("The job, with `pinned` true.", JobView)}, error=ErrorView, errors=_PIN)
def pin(task_id: str) -> Response:
    """Keep a finished job's video until it is unpinned or deleted."""
    return _pinned(task_id, on=True)


@blueprint.delete("/jobs/<task_id>/pin")
@describe("native", {200: Answer("The job, with `pinned` false.", JobView)}, error=ErrorView, errors=_PIN)
def unpin(task_id: str) -> Response:
    """Apply the usual retention to a video again. It is kept for at least ten more minutes."""
    return _pinned(task_id, on=False)


def _pinned(task_id: str, *, on: bool) -> Response:
    job = jobs().results.pin(task_id, on=on, owner=owner())
    return jsonify(JobView.of(job, public_path("")))


@blueprint.get(f"/shared/<task_id>.<any({', '.join(Format)}):format>")
@describe(
    "native",
    {
        200: Answer("The video.", FILE, tuple(MEDIA_TYPES.values())),
        **downloads.ANSWERS,
    },
    error=ErrorView,
    errors={
        403: "The link is not valid, or its key was revoked.",
        404: "The job was deleted, or has no such format.",
        **downloads.ERRORS,
        410: "The link or the video has expired.",
        422: "The link is incomplete.",
        503: "Redis or the artifact store cannot be reached.",
    },
    query=ShareQuery,
    access=PUBLIC,
)
def shared(task_id: str, **path: str) -> Response:
    """The video behind a share link, in one of its formats."""
    query = forms.parse_query(ShareQuery)
    share_links().verify(task_id, query.expires, query.signature, query.key)
    holder = jobs().ledger.jobs.find(task_id).owner
    if not keyring().honors(query.key, holder):
        raise InvalidLinkError("the key behind this link was revoked")
    response = downloads.send_result(jobs().results.open(task_id, owner=holder, kind=Format(path["format"])))
    response.headers["Referrer-Policy"] = "no-referrer"
    return response
