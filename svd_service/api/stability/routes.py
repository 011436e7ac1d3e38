"""The routes of Stability's image-to-video API: each parses, calls one use case and presents."""

import base64
from typing import BinaryIO, Final, cast

from flask import Blueprint, Response, jsonify, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import NotAcceptable

from svd_service.api.http import downloads, forms
from svd_service.api.http.context import allowance, jobs, owner, webhook
from svd_service.api.http.openapi import FILE, FORM, Answer, describe
from svd_service.api.stability import ids
from svd_service.api.stability.schema import (
    AlphaGenerationForm,
    Generation,
    GenerationForm,
    GenerationQuery,
    GenerationResult,
    PendingGeneration,
    StabilityError,
)
from svd_service.errors import MissingImageError, NotReadyError
from svd_service.jobs.job import State
from svd_service.jobs.parameters import MEDIA_TYPES
from svd_service.jobs.results import OpenResult
from svd_service.jobs.submit import Order

blueprint = Blueprint("stability", __name__)

_REQUEST: Final = {"x-request-id": "That which the request came with, else made up; the `id` of an error."}
_RESULT: Final = {
    **_REQUEST,
    "finish-reason": "`SUCCESS`; `CONTENT_FILTERED` with the 403.",
    "seed": "The one in effect.",
}
_MEDIA_TYPES: Final = tuple(MEDIA_TYPES.values())
_ACCEPTED: Final = {
    200: Answer("The id of the generation.", Generation, headers={**_REQUEST, "x-video-size": "Of the video to come."})
}
_REFUSED: Final = {
    400: "The request has no image, or its size is not supported.",
    413: "The image has too many bytes.",
    415: "The body is no form, or the file is not an image of a supported format.",
    403: "Moderation rejects the image.",
    422: "The image is broken or animated, a parameter is invalid, or the `Idempotency-Key` was used before.",
}
_HEADERS: Final = {"Idempotency-Key": "The same request, sent again with the same key, gets the same generation."}


@blueprint.post("/v2beta/image-to-video")
@describe("stability", _ACCEPTED, error=StabilityError, errors=_REFUSED, body={FORM: GenerationForm}, headers=_HEADERS)
def generate() -> Response:
    """Make a video from the image `image`."""
    return _submitted(GenerationForm)


@blueprint.post("/v2alpha/generation/image-to-video")
@describe(
    "stability", _ACCEPTED, error=StabilityError, errors=_REFUSED, body={FORM: AlphaGenerationForm}, headers=_HEADERS
)
def generate_alpha() -> Response:
    """The same with older defaults."""
    return _submitted(AlphaGenerationForm)


@blueprint.get("/v2beta/image-to-video/result/<generation_id>")
@blueprint.get("/v2alpha/generation/image-to-video/result/<generation_id>")
@describe(
    "stability",
    {
        200: Answer("The video.", FILE, _MEDIA_TYPES, _RESULT, {"application/json": GenerationResult}),
        202: Answer("The generation is in progress.", PendingGeneration, headers=_REQUEST),
        **downloads.NOT_MODIFIED,
    },
    error=StabilityError,
    errors={
        403: "Moderation rejected the video.",
        404: "There is no such generation, it belongs to another key, or it was not submitted with this format.",
        406: "The video does not come in a kind that is accepted.",
        409: "There is no video: the generation failed or was cancelled.",
        **downloads.ERRORS,
        422: "There is no such format.",
    },
    query=GenerationQuery,
)
def result(generation_id: str) -> ResponseReturnValue:
    """The video; 202 while there is none yet.

    `Accept` chooses: `video/*`, the default, is the MP4, and `application/json` the same as Base64. `format` selects
    another file of the same video.
    """
    kind = forms.parse_query(GenerationQuery).format
    as_json = _wants_json(MEDIA_TYPES[kind])
    try:
        opened = jobs().results.open(ids.shortened(generation_id), owner=owner(), kind=kind)
    except NotReadyError as error:
        if State(error.state).ended:
            raise
        return jsonify(PendingGeneration(generation_id)), 202
    # Not by a redirect: who follows one sees the headers of the store instead of these.
    response = _as_json(opened) if as_json else downloads.send_result(opened, may_redirect=False)
    response.headers["finish-reason"] = "SUCCESS"
    response.headers["seed"] = str(opened.job.parameters.seed)
    return response


def _submitted(schema: type[GenerationForm]) -> Response:
    fields = forms.form_fields(accepted=FORM)
    if "image" not in request.files:
        raise MissingImageError("image: send the image as a file in this form field")
    form = forms.convert(schema, fields)
    job = jobs().submit(
        cast(BinaryIO, form.image.stream),
        Order(
            form.request(),
            owner=owner(),
            allowance=allowance(),
            idempotency_key=request.headers.get("Idempotency-Key", ""),
            webhook=webhook(form.parameters()),
        ),
    )
    response = jsonify(Generation(ids.lengthened(job.id)))
    response.headers["x-video-size"] = f"{job.parameters.width}x{job.parameters.height}"
    return response


def _wants_json(media_type: str) -> bool:
    """Whether the caller prefers JSON to the video itself; the video if it accepts both equally."""
    accepted = request.accept_mimetypes
    # A caller that accepts a GIF by its name, and any video, gets the GIF.
    kinds = {media_type} if media_type == "video/mp4" else {media_type, "video/mp4"}
    video = max(accepted.quality(kind) for kind in kinds) if accepted else 1
    json = accepted.quality("application/json") if accepted else 1
    if not video and not json:
        raise NotAcceptable("accept: video/* or application/json")
    return json > video


def _as_json(opened: OpenResult) -> Response:
    with opened.file as file:
        video = base64.b64encode(file.read()).decode()
    return jsonify(GenerationResult(video, opened.job.parameters.seed))
