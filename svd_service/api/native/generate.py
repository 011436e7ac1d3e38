"""`POST /generate` and `POST /groups` of the native dialect, whose answers may wait for the videos."""

from contextlib import suppress
from typing import Final

from flask import Blueprint, Response, after_this_request, jsonify, request
from flask.typing import ResponseReturnValue
from msgspec import UNSET

from svd_service.api.events.waiting import wait_for
from svd_service.api.http import auth, downloads, forms, preferences, reference
from svd_service.api.http.context import allowance, hub, jobs, owner, priority, webhook
from svd_service.api.http.errors import retry_after
from svd_service.api.http.openapi import FORM, JSON, Answer, describe
from svd_service.api.http.parameter_forms import video_request
from svd_service.api.http.paths import public_path
from svd_service.api.native.answers import group_view, job_view
from svd_service.api.native.schema import ErrorView, GenerateBody, GenerateForm
from svd_service.errors import InvalidParameterError, MissingImageError, UnavailableError
from svd_service.jobs.group import Group
from svd_service.jobs.groups import Seeds
from svd_service.jobs.job import Job
from svd_service.jobs.parameters import MEDIA_TYPES
from svd_service.jobs.submit import Order
from svd_service.parameters import Format
from svd_service.presentation import GroupView, JobView, result_path

blueprint = Blueprint("generate", __name__)

_IMAGE: Final = "image"
_MP4: Final = MEDIA_TYPES[Format.MP4]
_WAITED: Final = {
    "Retry-After": "Estimated seconds until the end.",
    "Location": "URL of the status.",
    preferences.APPLIED: "`wait=N`, if the answer waited.",
}
_ERRORS: Final = {
    400: "The request has no image.",
    413: "The image has too many bytes or pixels.",
    415: "The body is neither a form nor JSON, or the file is not an image of a supported format.",
    422: "The image is broken, animated or rejected by moderation, a parameter is invalid, or the `Idempotency-Key` "
    "was used before.",
}
_HEADERS: Final = {
    "Idempotency-Key": "The same request, sent again with the same key, gets the same job or group.",
    preferences.CANCEL_AFTER: "Seconds (`90`, `90s`, `5m`, `1h`) after which a job fails unless it has ended.",
}
_STRICT: Final = "`handling=strict`: reject (429) what would probably end after `Cancel-After`."


# The OpenAPI document lacks the second successful answer of both routes, 200 with `Prefer: wait`: generated clients
# would take every answer for a file, or for a union of types.


@blueprint.post("/generate")
@describe(
    "native",
    {202: Answer("The job, queued. With `n` or `seeds` a group, as at `POST /groups`.", JobView, headers=_WAITED)},
    error=ErrorView,
    errors={
        **_ERRORS,
        400: "The request has neither an image nor a job to extend.",
        404: "The job to extend does not exist, or belongs to another key.",
        409: "The job to extend has no video: it has not ended, failed or was cancelled. With `Prefer: wait=N` also: "
        "this job failed or was cancelled; see `Location`.",
        410: "The video to extend has expired.",
    },
    body={FORM: GenerateForm, JSON: GenerateBody},
    headers={
        **_HEADERS,
        preferences.PREFER: f"`wait=N`: wait up to N seconds, and answer with the MP4 itself (200). {_STRICT}",
    },
)
def generate() -> ResponseReturnValue:
    """Make a video from an image, or extend the video of a finished job.

    With `n` or `seeds` several videos are made of it: the answer is a group of jobs. It counts as so many requests.
    With an `Idempotency-Key` header the same request, sent again, gets the same job.
    """
    form = _form()
    seeds = form.group()
    if seeds is not None:
        return _make_group(form, seeds)
    image = None if form.image is UNSET else reference.read(form.image, _IMAGE)
    return _answer(jobs().submit(image, _order(form)))


@blueprint.post("/groups")
@describe(
    "native",
    {202: Answer("The group of jobs, queued.", GroupView, headers=_WAITED)},
    error=ErrorView,
    errors=_ERRORS,
    body={FORM: GenerateForm, JSON: GenerateBody},
    headers={
        **_HEADERS,
        preferences.PREFER: f"`wait=N`: wait up to N seconds, and answer 200 if all jobs have ended. {_STRICT}",
    },
)
def make_group() -> ResponseReturnValue:
    """Make several videos from an image, `n` of them or one for each of the `seeds`.

    The same as `/generate` with these fields, but the answer is always a group.
    """
    form = _form()
    return _make_group(form, form.group() or Seeds.of(1, None, form.parameters().get("seed")))


def _make_group(form: GenerateForm, seeds: Seeds) -> ResponseReturnValue:
    if form.image is UNSET:
        raise InvalidParameterError("extend", "extend makes one video: send it without n and seeds")
    auth.count_further(seeds.number - 1)
    return _answer_group(jobs().groups.submit(reference.read(form.image, _IMAGE), _order(form), seeds))


def _order(form: GenerateForm) -> Order:
    parameters = form.parameters()
    return Order(
        video_request(parameters, model=parameters.get("model")),
        owner=owner(),
        allowance=allowance(),
        idempotency_key=request.headers.get("Idempotency-Key", ""),
        priority=priority(parameters),
        webhook=webhook(parameters),
        cancel_after=preferences.cancel_after(),
        strict=preferences.is_strict(),
    )


def _form() -> GenerateForm:
    reference.accept_data_urls()
    fields = forms.json_fields() if request.is_json else forms.form_fields()
    # A file without a name counts as false.
    if fields.get(_IMAGE) in (None, "") and not fields.get("extend"):
        raise MissingImageError(
            f"send the image as a file or a data URL in the field {_IMAGE!r}, or a finished job's id as 'extend'"
        )
    return forms.convert(GenerateBody if request.is_json else GenerateForm, fields)


def _answer(job: Job) -> ResponseReturnValue:
    """The accepted job (202); with `Prefer: wait`, the video if the job finishes in time."""
    _add_header("Location", public_path(f"/status/{job.id}"))
    if _has_waited([job.id]):
        with suppress(UnavailableError):
            job = jobs().queries.find(job.id, owner=owner())
        if job.state.ended:
            return _ended(job)
    return jsonify(job_view(job)), 202, {"Retry-After": retry_after(job.eta_seconds)}


def _answer_group(group: Group) -> ResponseReturnValue:
    """The accepted group (202); with `Prefer: wait`, 200 if all its jobs end in time."""
    _add_header("Location", public_path(f"/groups/{group.id}"))
    if _has_waited([job.id for job in group.jobs]):
        with suppress(UnavailableError):
            group = jobs().groups.find(group.id, owner=owner())
        if group.state.ended:
            return jsonify(group_view(group)), 200
    return jsonify(group_view(group)), 202, {"Retry-After": retry_after(group.eta_seconds)}


def _has_waited(job_ids: list[str]) -> bool:
    """Wait for the end of the jobs as the caller prefers, and note it in the answer; False if there is no waiting."""
    seconds = preferences.wait_seconds(jobs().settings.max_wait)
    if not seconds or not wait_for(hub(), jobs().queries, job_ids, owner=owner(), seconds=seconds):
        return False
    _add_header(preferences.APPLIED, f"wait={seconds}")
    return True


def _ended(job: Job) -> Response:
    accepted = request.accept_mimetypes
    if accepted and not accepted[_MP4] and accepted[JSON]:
        return jsonify(job_view(job))
    response = downloads.send_result(jobs().results.open(job.id, owner=owner()))
    _add_header("Content-Location", public_path(result_path(job.id, Format.MP4)))
    return response


def _add_header(name: str, value: str) -> None:
    """Add a header to the response, also if it is an error."""

    @after_this_request
    def add(response: Response) -> Response:
        response.headers[name] = value
        return response
