"""Test data for schemathesis where random data is never valid: images that all dialects accept, and existing jobs."""

import io
import os
from typing import Any

import schemathesis
from hypothesis import strategies
from PIL import Image

from svd_service.api.stability.ids import lengthened


def image(size: tuple[int, int]) -> bytes:
    """A PNG of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


schemathesis.openapi.format("binary", strategies.sampled_from([image((1024, 576)), image((576, 1024))]))


@schemathesis.hook
def flatmap_path_parameters(context: Any, parameters: dict[str, Any] | None) -> Any:
    """Mostly use a job that exists and has the requested file. DELETE gets random ids, so that the job stays for the
    other operations.
    """
    if parameters is None or context.operation.method.upper() == "DELETE":
        return strategies.just(parameters)
    job = os.environ["STARTED_JOB" if context.operation.path.endswith("/preview") else "FINISHED_JOB"]
    others = {"generation_id": lengthened(job), "group_id": os.environ["FINISHED_GROUP"]}
    known = {name: others.get(name, job) for name in parameters if name.endswith("id")}
    if context.operation.path.endswith(("/pin", "/share")):  # few examples, and one of the two users gets 404 anyway
        return strategies.just({**parameters, **known})
    # One of the two users does not own the job, so half of the remaining requests also get 404.
    return strategies.sampled_from([parameters, *[{**parameters, **known}] * 4])


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """In requests for an extension, replace the video by one that can be extended."""
    is_extension = context.operation.path == "/v1/videos/extensions"
    if is_extension and isinstance(body, dict) and isinstance(body.get("video"), str | dict):
        return {**body, "video": os.environ["FINISHED_JOB"]}
    return body
