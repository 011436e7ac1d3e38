"""What schemathesis sends where chance would get nowhere: pictures that all dialects take, and a finished job."""

import io
import os
from typing import Any

import schemathesis
from hypothesis import strategies
from PIL import Image

from svd_service.api.stability.ids import lengthened


def picture(size: tuple[int, int]) -> bytes:
    """A PNG of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


schemathesis.openapi.format("binary", strategies.sampled_from([picture((1024, 576)), picture((576, 1024))]))


@schemathesis.hook
def flatmap_path_parameters(context: Any, parameters: dict[str, Any] | None) -> Any:
    """Mostly a job that there is and has what is asked for; nobody deletes it, so that the others find it."""
    if parameters is None or context.operation.method.upper() == "DELETE":
        return strategies.just(parameters)
    job = os.environ["STARTED_JOB" if context.operation.path.endswith("/preview") else "FINISHED_JOB"]
    others = {"generation_id": lengthened(job), "group_id": os.environ["FINISHED_GROUP"]}
    known = {name: others.get(name, job) for name in parameters if name.endswith("id")}
    if context.operation.path.endswith(("/pin", "/share")):  # few examples: one identity of two is answered 404 anyway
        return strategies.just({**parameters, **known})
    # One of the two who ask does not own it, so that half of the rest is answered 404 as well.
    return strategies.sampled_from([parameters, *[{**parameters, **known}] * 4])


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """A video that can be extended, where there is an id of one."""
    is_extension = context.operation.path == "/v1/videos/extensions"
    if is_extension and isinstance(body, dict) and isinstance(body.get("video"), str | dict):
        return {**body, "video": os.environ["FINISHED_JOB"]}
    return body
