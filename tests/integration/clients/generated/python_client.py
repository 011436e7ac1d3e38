"""A program for a client from openapi-python-client; arguments: the service's URL, an image, two output files."""

import sys
import time
from pathlib import Path

from generated.api.native import get_results_task_id, get_status_task_id, post_generate  # type: ignore[import-not-found, unused-ignore]
from generated.api.openai import get_v1_videos_video_id, get_v1_videos_video_id_content, post_v1_videos  # type: ignore[import-not-found, unused-ignore]
from generated.client import Client  # type: ignore[import-not-found, unused-ignore]
from generated.models import GenerateForm, VideoForm  # type: ignore[import-not-found, unused-ignore]
from generated.types import File  # type: ignore[import-not-found, unused-ignore]

url, image, native, openai = sys.argv[1:]
client = Client(base_url=url, raise_on_unexpected_status=True)


def upload() -> File:
    return File(payload=Path(image).open("rb"), file_name="cat.jpg", mime_type="image/jpeg")


job = post_generate.sync(client=client, body=GenerateForm(image=upload(), num_inference_steps=2))
while job.status in ("queued", "started"):
    time.sleep(0.3)
    job = get_status_task_id.sync(job.task_id, client=client)
Path(native).write_bytes(get_results_task_id.sync(job.task_id, client=client).payload.read())

video = post_v1_videos.sync(client=client, body=VideoForm(input_reference=upload(), prompt="x"))
while video.status in ("queued", "in_progress"):
    time.sleep(0.3)
    video = get_v1_videos_video_id.sync(video.id, client=client)
Path(openai).write_bytes(get_v1_videos_video_id_content.sync(video.id, client=client).payload.read())
