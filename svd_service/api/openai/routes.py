"""The routes of OpenAI's Videos API, and of its list of models: each parses, calls one use case and presents."""

from contextlib import suppress
from typing import Any, Final, NoReturn

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotFound

from svd_service.api.http import downloads, forms, reference
from svd_service.api.http.context import allowance, jobs, owner, priority, reservations, webhook
from svd_service.api.http.openapi import FILE, FORM, JSON, Answer, describe, unlisted
from svd_service.api.openai import repetition
from svd_service.api.openai.objects import ModelCard, ModelList, OpenAIError
from svd_service.api.openai.schema import (
    ContentQuery,
    DeletedVideo,
    ExtensionForm,
    VideoBody,
    VideoForm,
    VideoList,
    VideosQuery,
    VideoView,
)
from svd_service.errors import UnavailableError, UnsupportedError
from svd_service.jobs.job import Job
from svd_service.jobs.model import Model
from svd_service.jobs.submit import Order

blueprint = Blueprint("openai", __name__, url_prefix="/v1")

#: Milliseconds after which a client should poll again if there is no estimate, and minimum and maximum if there is one.
#: A client keeps the value of the first response until the job has ended.
POLL_AFTER: Final = 1_000
POLL_BOUNDS: Final = (500, 10_000)

#: The field with the image, and another name of it, which some clients use.
IMAGE: Final = "input_reference"
ALIAS: Final = "image_reference"

#: Fields that may be objects, and their parts.
_OBJECTS: Final = {IMAGE: ("image_url", "file_id"), ALIAS: ("image_url", "file_id"), "video": ("id",)}

_REPETITION: Final = {
    "Idempotency-Key": "The same request, sent again with the same key, gets the same job.",
    repetition.HEADER: "How often this request was sent before: if it was, it gets the job that was made then.",
}
#: The id of a job in a path. `/videos/extensions` has none.
_VIDEO: Final = "<string(minlength=20):video_id>"

_UNKNOWN: Final = {404: "There is no such job, or it belongs to another key."}
_JOB: Final = {
    200: Answer(
        "The job.",
        VideoView,
        headers={"openai-poll-after-ms": "Unless it has ended: when to poll again, in milliseconds."},
    )
}


@blueprint.post("/videos")
@describe(
    "openai",
    _JOB,
    error=OpenAIError,
    errors={
        400: "The request has no image, its body is invalid, or moderation rejects the image.",
        413: "The image has too many bytes or pixels.",
        415: "The body is neither a form nor JSON, or the file is not an image of a supported format.",
        422: "The image is broken or animated, a parameter is invalid, or the `Idempotency-Key` was used before.",
    },
    body={FORM: VideoForm, JSON: VideoBody},
    headers=_REPETITION,
)
def create() -> ResponseReturnValue:
    """Make a video from the image `input_reference`."""
    reference.accept_data_urls()
    fields = _fields()
    form = forms.convert(VideoBody if request.is_json else VideoForm, fields)
    job_id = repetition.reserved_id(fields)  # before an image is fetched, so that no retry overtakes the first attempt
    parameters = form.parameters()
    job = jobs().submit(
        reference.read(form.input_reference, IMAGE),
        Order(
            form.request_to(_model(form), strict=jobs().settings.openai_strict),
            owner=owner(),
            allowance=allowance(),
            notes=form.notes(),
            idempotency_key=request.headers.get("Idempotency-Key", ""),
            priority=priority(parameters),
            webhook=webhook(parameters),
            job_id=job_id,
        ),
    )
    return _presented(job)


@blueprint.post("/videos/extensions")
@describe(
    "openai",
    _JOB,
    error=OpenAIError,
    errors={
        400: "The video is a file, or the body is invalid.",
        404: "The job to extend does not exist, or belongs to another key.",
        409: "The job to extend has no video: it has not ended, failed or was cancelled.",
        410: "The video to extend has expired.",
        415: "The body is neither a form nor JSON.",
        422: "A parameter is invalid, or the `Idempotency-Key` was used before.",
    },
    body={FORM: ExtensionForm, JSON: ExtensionForm},
    headers=_REPETITION,
)
def extend() -> ResponseReturnValue:
    """Continue the video of a completed job from its last frame, as a new job; the new video has both."""
    fields = _fields()
    form = forms.convert(ExtensionForm, fields)
    job_id = repetition.reserved_id(fields)
    source = _asked_for(form.video_id())
    model = jobs().queries.find_model(form.model) if form.model else None
    parameters = form.parameters()
    job = jobs().submit(
        None,
        Order(
            form.request(source, model),
            owner=owner(),
            notes=form.notes(source),
            idempotency_key=request.headers.get("Idempotency-Key", ""),
            priority=priority(parameters),
            webhook=webhook(parameters),
            job_id=job_id,
        ),
    )
    return _presented(job)


@blueprint.get("/videos")
@describe(
    "openai",
    {200: Answer("A page of jobs.", VideoList)},
    error=OpenAIError,
    errors={404: "`after` is not a job of the caller.", 422: "A query parameter is invalid."},
    query=VideosQuery,
)
def list_videos() -> Response:
    """The caller's jobs, page by page."""
    query = forms.parse_query(VideosQuery)
    found, more = jobs().queries.page(
        owner=owner(), after=query.after, limit=query.limit, newest_first=query.order == "desc"
    )
    return jsonify(VideoList.of(found, more=more))


@blueprint.get(f"/videos/{_VIDEO}")
@describe("openai", _JOB, error=OpenAIError, errors=_UNKNOWN)
def retrieve(video_id: str) -> Response:
    """The status of a job."""
    return _presented(_asked_for(video_id))


@blueprint.delete(f"/videos/{_VIDEO}")
@describe("openai", {200: Answer("It is deleted.", DeletedVideo)}, error=OpenAIError, errors=_UNKNOWN)
def delete(video_id: str) -> Response:
    """Delete a job and its video; one that has not ended is cancelled."""
    jobs().removal.delete(_asked_for(video_id).id, owner=owner())
    return jsonify(DeletedVideo(id=video_id))


@blueprint.get("/videos/<video_id>/content")
@describe(
    "openai",
    {
        200: Answer("The file.", FILE, downloads.ALL_MEDIA_TYPES),
        **downloads.ANSWERS,
    },
    error=OpenAIError,
    errors={
        400: "Moderation rejected the video.",
        404: "There is no such job, it belongs to another key, or it was not submitted with this format.",
        409: "There is no video: the job has not ended, or ended without one.",
        **downloads.ERRORS,
        422: "There is no such variant.",
    },
    query=ContentQuery,
)
def content(video_id: str) -> Response:
    """The video in one of the job's `formats`, its thumbnail or its sprite sheet.

    The header `Accept` is ignored.
    """
    kind = forms.parse_query(ContentQuery).variant.kind
    job = _asked_for(video_id)
    return downloads.send_result(jobs().results.open(job.id, owner=owner(), kind=kind))


@blueprint.get("/models")
@describe("openai", {200: Answer("The models.", ModelList)}, error=OpenAIError)
def list_models() -> Response:
    """The models that are served, the default first, then the names of OpenAI's that stand for it."""
    return jsonify(ModelList(data=[ModelCard(id=name) for name in _model_names()]))


@blueprint.get("/models/<path:model>")
@describe("openai", {200: Answer("The model.", ModelCard)}, error=OpenAIError, errors={404: "There is no such model."})
def retrieve_model(model: str) -> Response:
    """One of the models that are served, or a name that stands for the default."""
    if model not in _model_names():
        raise NotFound(f"there is no model {model}")
    return jsonify(ModelCard(id=model))


@blueprint.route("/videos/edits", methods=["GET", "POST", "DELETE"])  # the others, too: these are no jobs' ids
@blueprint.route("/videos/characters", methods=["GET", "POST", "DELETE"])
@blueprint.get("/videos/characters/<character_id>")
@blueprint.post("/videos/<video_id>/remix")
@unlisted
@describe("openai", {}, error=OpenAIError, errors={400: "Stable Video Diffusion cannot do this."})
def unsupported(**_: str) -> NoReturn:
    """Operations that Stable Video Diffusion does not support."""
    raise UnsupportedError(
        "Stable Video Diffusion makes a video of one image, and can extend it; it cannot edit or remix videos, "
        "nor keep characters"
    )


def _asked_for(video_id: str) -> Job:
    job = jobs().queries.find(video_id, owner=owner())
    with suppress(UnavailableError):  # a Redis that takes no writes still answers questions
        reservations().acknowledge(job.id)
    return job


def _presented(job: Job) -> Response:
    response = jsonify(VideoView.of(job))
    if not job.state.ended:
        response.headers["openai-poll-after-ms"] = str(_poll_after(job))
    return response


def _poll_after(job: Job) -> int:
    """A tenth of the time left, so that the video is had at most that much later than it could be."""
    if job.eta_seconds is None:
        return POLL_AFTER
    return round(min(max(job.eta_seconds * 100, POLL_BOUNDS[0]), POLL_BOUNDS[1]))


def _model(form: VideoForm) -> Model:
    """The model of that name, if there is one; any other name, such as OpenAI's own, stands for the service's model."""
    return jobs().queries.find_model(form.model or None) or jobs().model


def _model_names() -> list[str]:
    """Names that `create` takes: of the models that are served, and the aliases of the settings."""
    aliases = (name.strip() for name in jobs().settings.openai_models.split(","))
    return list(dict.fromkeys([*(model.name for model in jobs().queries.models()), *filter(None, aliases)]))


def _fields() -> dict[str, Any]:
    """The fields of a form or of a JSON object, under their names in `VideoForm`."""
    fields: dict[str, Any] = forms.json_fields() if request.is_json else _form_fields()
    fields |= {name: forms.decoded_object(fields[name]) for name in _OBJECTS if name in fields}
    if (value := fields.pop(ALIAS, None)) is not None:
        fields.setdefault(IMAGE, value)
    return fields


def _form_fields() -> dict[str, Any]:
    """Those of a form, which may write `{image_url: …}` as `input_reference[image_url]`."""
    fields: dict[str, Any] = forms.form_fields()
    for name, parts in _OBJECTS.items():
        for part in parts:
            if (value := fields.pop(f"{name}[{part}]", None)) is not None:
                fields.setdefault(name, {part: value})
    # SGLang's benchmark client sends it as text. The form's own fields win.
    extras = forms.decoded_object(fields.get("extra_body"))
    if isinstance(extras, dict):
        del fields["extra_body"]
        fields = extras | fields
    return fields
