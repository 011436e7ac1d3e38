"""The artifacts of a job: their names, and their deletion."""

import logging
import shutil
from typing import Final

from svd_service.artifacts.base import ArtifactStore, ArtifactsUnavailableError
from svd_service.jobs.job import ResultFile, Still
from svd_service.parameters import Format

logger = logging.getLogger(__name__)

#: The folders of the store that hold fitted images, and videos with their other files.
INPUTS: Final = "inputs"
RESULTS: Final = "results"

#: Chunk size in bytes for copying a file.
COPY_BYTES: Final = 1_048_576


def input_name(job_id: str) -> str:
    """The artifact that holds a job's fitted image."""
    return f"{INPUTS}/{job_id}.png"


def input_video_name(job_id: str) -> str:
    """The artifact that holds, instead of an image, the video that a job extends."""
    return f"{INPUTS}/{job_id}.{Format.MP4}"


def credentials_name(job_id: str) -> str:
    """The artifact that holds the Content Credentials of a job's image, if it came with some."""
    return f"{INPUTS}/{job_id}.c2pa"


def is_video(input: str) -> bool:
    """Whether a job's input is a video, which the job extends."""
    return input.endswith(f".{Format.MP4}")


def input_names(job_id: str) -> tuple[str, ...]:
    """The artifacts of a job's input: an image and perhaps its credentials, or a video."""
    return input_name(job_id), input_video_name(job_id), credentials_name(job_id)


def copy(artifacts: ArtifactStore, source: str, target: str) -> None:
    """Copy the artifact `source` to `target`.

    Raises:
        MissingArtifactError: there is no `source`.
        ArtifactsUnavailableError: the store is unavailable.
    """
    with artifacts.open(source) as file, artifacts.staged(target) as path, path.open("wb") as copied:
        shutil.copyfileobj(file, copied, COPY_BYTES)


def result_name(job_id: str, token: str) -> str:
    """The artifact that holds the MP4 of one attempt; no two attempts write to the same name."""
    return f"{RESULTS}/{job_id}/{token}.{Format.MP4}"


def preview_name(job_id: str, token: str) -> str:
    """The artifact that holds the preview of one attempt, while it runs."""
    return f"{RESULTS}/{job_id}/{token}.preview.webp"


def file_name(video: str, kind: ResultFile) -> str:
    """The artifact that holds another file of the result whose MP4 is `video`."""
    endings = {Still.THUMBNAIL: "thumbnail.webp", Still.SPRITESHEET: "spritesheet.jpg"}
    ending = endings[kind] if isinstance(kind, Still) else kind
    return f"{video.removesuffix('.mp4')}.{ending}"


def job_of(name: str) -> str:
    """The id of the job that an artifact belongs to."""
    return name.split("/")[1].partition(".")[0]


def delete_or_leave(artifacts: ArtifactStore, name: str) -> None:
    """Delete an artifact that no job needs; if the store is unavailable, leave it to the sweep for orphans."""
    try:
        artifacts.delete(name)
    except ArtifactsUnavailableError as error:
        logger.warning("cannot delete %s; left to the sweep for orphans: %s", name, error)


def delete_inputs_or_leave(artifacts: ArtifactStore, job_id: str) -> None:
    """Delete the input of a job that does not need it; otherwise as `delete_or_leave`."""
    for name in input_names(job_id):
        delete_or_leave(artifacts, name)


def delete_all(artifacts: ArtifactStore, job_id: str) -> None:
    """Delete every artifact of a job.

    Raises:
        ArtifactsUnavailableError: the store is unavailable.
    """
    for name in input_names(job_id):
        artifacts.delete(name)
    for name, _ in list(artifacts.names(f"{RESULTS}/{job_id}")):
        artifacts.delete(name)
