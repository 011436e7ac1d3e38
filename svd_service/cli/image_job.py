"""One image, or one video to be extended, and its job, as `svd-service generate` processes it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from svd_service.cli.display import describe
from svd_service.client.client import FORMATS, Client
from svd_service.client.errors import (
    AnswerError,
    ExpiredError,
    MissingFormatError,
    NotReadyError,
    RejectedError,
    UnauthorizedError,
    UnknownJobError,
)
from svd_service.client.status import JobStatus
from svd_service.parameters import RequestParameters


@dataclass
class ImageJob:
    """An image or the id of a job to be extended, the file for the video and its format `kind`, and the job's state.

    An error of this image or its job is stored in `error`. Errors that concern every image are raised: an unreachable
    service, a missing key, an invalid parameter.
    """

    source: Path | str
    target: Path
    kind: str = FORMATS[0]
    job: JobStatus | None = None
    error: str | None = None
    done: bool = False

    @property
    def name(self) -> str:
        """Short name of the image or the job."""
        return self.source if isinstance(self.source, str) else self.source.name

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1."""
        return self.job.fraction if self.job else 0.0

    @property
    def words(self) -> str:
        """Description of its state. The reason of an error is only in `error`, so that it is printed once."""
        if self.error is not None:
            return self.job.state if self.job else "rejected"
        return describe(self.job) if self.job else "waiting to be sent"

    def submit(self, client: Client, parameters: RequestParameters, cancel_after: int | None) -> None:
        """Send the image; the job to be extended is one of the parameters."""
        image = None if isinstance(self.source, str) else self.source
        with _errors_of([self]):
            self.job = client.submit(image, cancel_after=cancel_after, **parameters)

    def look(self, client: Client) -> None:
        """Update the status, and download the video if there is one."""
        if self.job is None:
            return
        try:
            self.job = client.status(self.job.id)
            if self.job.state == "finished":
                client.download(self.job.id, self.target, kind=self.kind)
                self.end(None)
            elif self.job.ended:
                self.end(describe(self.job))
        except (UnknownJobError, MissingFormatError, NotReadyError, ExpiredError, OSError) as error:
            self.end(str(error))

    def cancel(self, client: Client) -> None:
        """Cancel a job that has not ended."""
        if self.job is None or self.done:
            return
        self.job = client.cancel(self.job.id)
        self.end("cancelled" if self.job.state != "finished" else "finished, but not downloaded")

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary that `--json` prints."""
        return {
            "image": None if isinstance(self.source, str) else str(self.source),
            "video": str(self.target) if self.done and self.error is None else None,
            "error": self.error,
            "job": self.job.raw if self.job else None,
        }

    def end(self, error: str | None) -> None:
        """Store that it is done, well or with an error."""
        self.error, self.done = error, True


def submit_group(
    client: Client,
    image_jobs: Sequence[ImageJob],
    seeds: list[int] | None,
    parameters: RequestParameters,
    cancel_after: int | None,
) -> None:
    """Send the image that several image jobs have in common, once; each gets a job of the group."""
    with _errors_of(image_jobs):
        group = client.groups.submit(
            image_jobs[0].source, n=len(image_jobs), seeds=seeds, cancel_after=cancel_after, **parameters
        )
        for image_job, job in zip(image_jobs, group.jobs, strict=True):
            image_job.job = job


@contextmanager
def _errors_of(image_jobs: Sequence[ImageJob]) -> Iterator[None]:
    """Store the error of a submission, unless it is the same for every image: then it is raised."""
    try:
        yield
    except UnauthorizedError:
        raise
    except (AnswerError, OSError) as error:
        if isinstance(error, RejectedError) and error.parameter:
            raise
        for image_job in image_jobs:
            image_job.end(str(error))
