"""`POST /generate` of the native dialect, whose answer may wait for the video."""

from contextlib import suppress
from typing import Final

from flask import Blueprint, Response, after_this_request, jsonify, request
from flask.typing import ResponseReturnValue
from msgspec import UNSET

from svd_service.api.events.waiting import wait_for
from svd_service.api.http import downloads, forms, preferences, reference
from svd_service.api.http.context import allowance, hub, jobs, owner, priority, webhook
from svd_service.api.http.errors import retry_after
from svd_service.api.http.openapi import FORM, JSON, Answer, describe
from svd_service.api.http.options import video_request
from svd_service.api.http.paths import public_path
from svd_service.api.native.answers import job_view
from svd_service.api.native.schema import ErrorView, GenerateBody, GenerateForm
from svd_service.errors import MissingImageError, UnavailableError
from svd_service.jobs.job import Job
from svd_service.jobs.parameters import MEDIA_TYPES
from svd_service.jobs.submit import Order
from svd_service.parameters import Format
from svd_service.presentation import JobView, result_path

blueprint = Blueprint("generate", __name__)

_IMAGE: Final = "image"
_MP4: Final = MEDIA_TYPES[Format.MP4]
_LOCATION: Final = {"Location": "URL of its status."}
_APPLIED: Final = {preferences.APPLIED: "`wait=N`, if the answer waited."}


# The OpenAPI document lacks the second successful answer, 200 with `Prefer: wait`: generated clients would take every
# answer for a file.
@blueprint.post("/generate")
@describe(
    "native",
    {
        202: Answer(
            "The job, queued.",
            JobView,
            headers={"Retry-After": "Estimated seconds until the job ends.", **_LOCATION, **_APPLIED},
        ),
    },
    error=ErrorView,
    errors={
        400: "The request has neither an image nor a job to extend.",
        404: "The job to extend does not exist, or belongs to another key.",
        409: "The job to extend has no video: it has not ended, failed or was cancelled. With `Prefer: wait=N` also: "
        "this job failed or was cancelled; see `Location`.",
        410: "The video to extend has expired.",
        413: "The image has too many bytes or pixels.",
        415: "The file is not an image of a supported format.",
        422: "The image is broken, animated or rejected by moderation, a parameter is invalid, or the "
        "`Idempotency-Key` was used before.",
    },
    body={FORM: GenerateForm, JSON: GenerateBody},
    headers={
        "Idempotency-Key": "The same request, sent again with the same key, gets the same job.",
        preferences.PREFER: "`wait=N`: wait up to N seconds, and answer with the MP4 itself (200). "
        "`handling=strict`: reject a job (429) that would probably end after `Cancel-After`.",
        preferences.CANCEL_AFTER: "Seconds (`90`, `90s`, `5m`, `1h`) after which the job fails unless it has ended.",
    },
)
def generate() -> ResponseReturnValue:
    """Make a video from an image, or extend the video of a finished job.

    With an `Idempotency-Key` header the same request, sent again, gets the same job.
    """
    reference.accept_data_urls()
    form = _form()
    parameters = form.parameters()
    job = jobs().submit(
        None if form.image is UNSET else reference.read(form.image, _IMAGE),
        Order(
            video_request(parameters, model=parameters.get("model")),
            owner=owner(),
            allowance=allowance(),
            idempotency_key=request.headers.get("Idempotency-Key", ""),
            priority=priority(parameters),
            webhook=webhook(parameters),
            cancel_after=preferences.cancel_after(),
            strict=preferences.is_strict(),
        ),
    )
    return _answer(job)


def _form() -> GenerateForm:
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
    seconds = preferences.wait_seconds(jobs().settings.max_wait)
    if seconds and wait_for(hub(), jobs().queries, [job.id], owner=owner(), seconds=seconds):
        _add_header(preferences.APPLIED, f"wait={seconds}")
        with suppress(UnavailableError):
            job = jobs().queries.find(job.id, owner=owner())
        if job.state.ended:
            return _ended(job)
    return jsonify(job_view(job)), 202, {"Retry-After": retry_after(job.eta_seconds)}


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
