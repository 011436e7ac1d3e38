"""A program for the `openai` package in which only the base URL is changed; run with the package on the path.

usage: openai_program.py URL IMAGE          Prints the results as one JSON object.
"""

import base64
import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import openai  # type: ignore[import-not-found, unused-ignore]

warnings.simplefilter("ignore", DeprecationWarning)

FAST = {"num_inference_steps": 2, "width": 64, "height": 64, "max_guidance_scale": 1}


def error_of(call: Callable[[], Any]) -> list[Any]:
    """Class, status, code and parameter of the error that `call` raises."""
    try:
        call()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.code, error.param]
    raise AssertionError("no error")


def run(url: str, path: str) -> dict[str, Any]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="sk-any", max_retries=0)
    videos, image = client.videos, open(path, "rb").read()  # noqa: PTH123, SIM115
    data_url = f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"

    with open(path, "rb") as file:  # noqa: PTH123
        of_file = videos.create(
            model="sora-2", prompt="a cat", input_reference=file, seconds="1", size="64x64",
            extra_body={"seed": 5, "num_inference_steps": 2, "max_guidance_scale": 1.0},
        )  # fmt: skip
    of_bytes = videos.create(prompt="a cat", input_reference=image, extra_body={**FAST, "seed": 5})
    of_named = videos.create(prompt="x", input_reference=("cat.png", image, "image/png"), extra_body=FAST)
    of_data_url = videos.create(prompt="a cat", extra_body={**FAST, "input_reference": data_url})
    of_object = videos.create(prompt="a cat", extra_body={**FAST, "input_reference": {"image_url": data_url}})

    slow = {**FAST, "num_inference_steps": 100, "num_frames": 25}
    waiting = videos.create(prompt="x", input_reference=image, extra_body=slow)
    not_ready = error_of(lambda: videos.download_content(waiting.id))
    deleted_waiting = videos.delete(waiting.id).to_dict()

    done = videos.create_and_poll(prompt="a dog", input_reference=image, extra_body={**FAST, "seed": 7})
    contents = {variant: videos.download_content(done.id, variant=variant) for variant in VARIANTS}
    listed = [video.id for video in videos.list(limit=2)]
    ascending = [video.id for video in videos.list(limit=2, order="asc")]
    unknown = "00000000-0000-4000-8000-000000000000"
    errors = {
        "missing_image": error_of(lambda: videos.create(prompt="x")),
        "remix": error_of(lambda: videos.remix(done.id, prompt="x")),
        "unknown": error_of(lambda: videos.retrieve(unknown)),
        "unknown_content": error_of(lambda: videos.download_content(unknown)),
        "unknown_delete": error_of(lambda: videos.delete(unknown)),
        "not_ready": not_ready,
        "deleted": error_of(lambda: videos.retrieve(waiting.id)),
        "size": error_of(lambda: videos.create(prompt="x", input_reference=image, size="99999x720")),
        "seed": error_of(lambda: videos.create(prompt="x", input_reference=image, extra_body={"seed": -1})),
        "not_an_image": error_of(lambda: videos.create(prompt="x", input_reference=b"not an image")),
    }
    # Older versions of the package cannot extend; newer ones accept an id as `video` only in their types.
    by_id = {"video": openai.NOT_GIVEN, "extra_body": {"video": {"id": done.id}}}
    extended = videos.extend(prompt="on", seconds="4", **by_id) if hasattr(videos, "extend") else None
    deleted = videos.delete(done.id)
    errors["deleted_done"] = error_of(lambda: videos.retrieve(done.id))
    created = (of_file, of_bytes, of_named, of_data_url, of_object)
    return {
        "version": openai.__version__,
        "created": [video.to_dict() for video in created],
        "retrieved": videos.retrieve(of_file.id).to_dict(),
        "done": done.to_dict(),
        "contents": {
            name: [content.response.headers["content-type"], base64.b64encode(content.read()).decode()]
            for name, content in contents.items()
        },
        "listed": listed,
        "ascending": ascending,
        "errors": errors,
        "deleted": [deleted.to_dict(), deleted_waiting],
        "models": [model.id for model in client.models.list()],
        "extended": extended and [extended.to_dict(), videos.poll(extended.id).to_dict()],
        "left": [video.id for video in videos.list()],
    }


VARIANTS = ("video", "thumbnail", "spritesheet")

if __name__ == "__main__":
    json.dump(run(*sys.argv[1:]), sys.stdout)
