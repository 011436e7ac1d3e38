"""The videos of finished jobs as sources of other jobs, which extend them."""

from dataclasses import dataclass

from svd_service.artifacts.base import ArtifactStore, MissingArtifactError
from svd_service.errors import ExpiredError, InvalidParameterError
from svd_service.jobs.extension import Extended
from svd_service.jobs.job import Job, Result
from svd_service.jobs.job_files import copy
from svd_service.jobs.model import Size
from svd_service.jobs.queries import Queries
from svd_service.jobs.results import require_result
from svd_service.parameters import Loop


@dataclass(frozen=True)
class SourceVideo:
    """A finished job with its video."""

    job: Job
    result: Result

    @property
    def model(self) -> str:
        """Name of the model that made the video."""
        return str(self.job.model["name"])

    @property
    def size(self) -> Size:
        """Width and height in pixels that the model generated."""
        return self.job.parameters.width, self.job.parameters.height

    @property
    def sha256(self) -> str:
        """Digest of the MP4."""
        return self.result.sha256

    @property
    def extended(self) -> Extended:
        """The video as the parameters of a job that extends it depend on it."""
        return Extended(self.job.id, self.result.frames, self.job.parameters.to_dict())


class SourceVideos:
    """Finds and copies the videos of an owner's finished jobs."""

    def __init__(self, queries: Queries, artifacts: ArtifactStore) -> None:
        self._queries = queries
        self._artifacts = artifacts

    def find(self, job_id: str, *, owner: str = "") -> SourceVideo:
        """The job `job_id`, to be extended.

        Raises:
            UnknownJobError: there is no such job, or it belongs to another owner.
            NotReadyError: the job has not finished, or ended without a result.
            ExpiredError: the result has expired.
            InvalidParameterError: its video is a loop.
        """
        job = self._queries.find(job_id, owner=owner)
        result = require_result(job)
        if job.parameters.loop is not Loop.NONE:
            raise InvalidParameterError(
                "extend", f"extend: the video of job {job_id} is a loop, so it has no end to continue from"
            )
        return SourceVideo(job, result)

    def copy(self, source: SourceVideo, name: str) -> None:
        """Copy the MP4 to the artifact `name`, so that it exists for as long as the job that needs it waits.

        Raises:
            ExpiredError: it was deleted in the meantime.
        """
        try:
            copy(self._artifacts, source.result.artifact, name)
        except MissingArtifactError:
            raise ExpiredError("the result is gone from the store") from None
