"""One image, or one video to be extended, and its job, as `svd-service generate` processes it."""

import shlex
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
    service, a missing key, an invalid parameter. `is_lost`: the service has no such video (any more).
    """

    source: Path | str
    target: Path
    kind: str = FORMATS[0]
    job: JobStatus | None = None
    error: str | None = None
    done: bool = False
    is_lost: bool = False

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
        except (UnknownJobError, MissingFormatError, NotReadyError, ExpiredError) as error:
            self.is_lost = True
            self.end(str(error))
        except OSError as error:
            self.end(f"{self.target}: {error.strerror or error}")

    def cancel(self, client: Client) -> None:
        """Cancel a job that has not ended."""
        if self.job is None or self.done:
            return
        self.job = client.cancel(self.job.id)
        self.end("cancelled" if self.job.state != "finished" else "finished, but not downloaded")

    @property
    def download_command(self) -> str | None:
        """The command that downloads its video later, without the server; `None` if it is written or there is none."""
        if self.job is None or self.is_lost or (self.done and (self.error is None or self.job.state != "finished")):
            return None
        matches = self.target.suffix.lower() == f".{self.kind}"
        words = [self.job.id, "--wait", "-o", str(self.target), *([] if matches else ["--format", self.kind])]
        return shlex.join(["svd-service", "download", *words])

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


@dataclass
class Submission:
    """One request with an image, or the id of a job to be extended, that `image_jobs` have in common.

    With `is_group`, each of them gets a job of a group; else there is one. The same request may be sent again: it has
    an idempotency key. `begun`: whether it was sent, perhaps without a response.
    """

    image_jobs: Sequence[ImageJob]
    parameters: RequestParameters
    cancel_after: int | None
    is_group: bool
    seeds: list[int] | None
    begun: bool = False
    idempotency_key: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def is_unanswered(self) -> bool:
        """Whether the service may have accepted it without this process knowing the jobs."""
        return self.begun and not any(image_job.job or image_job.done for image_job in self.image_jobs)

    def send(self, client: Client) -> None:
        """Send it. An error of this image is stored; one that concerns every image is raised."""
        self.begun = True
        with _errors_of(self.image_jobs):
            self._send(client)

    def cancel_unanswered(self, client: Client) -> None:
        """Find the jobs that the service may have accepted, by sending the same request again, and cancel them.

        Raises:
            ClientError, OSError: they cannot be found.
        """
        if self.is_unanswered:
            self._send(client)
            for image_job in self.image_jobs:
                image_job.cancel(client)

    def _send(self, client: Client) -> None:
        source = self.image_jobs[0].source
        if self.is_group:
            group = client.groups.submit(
                source,
                n=len(self.image_jobs),
                seeds=self.seeds,
                cancel_after=self.cancel_after,
                idempotency_key=self.idempotency_key,
                **self.parameters,
            )
            for image_job, job in zip(self.image_jobs, group.jobs, strict=True):
                image_job.job = job
        else:
            # The job to be extended is one of the parameters.
            image = None if isinstance(source, str) else source
            self.image_jobs[0].job = client.submit(
                image, cancel_after=self.cancel_after, idempotency_key=self.idempotency_key, **self.parameters
            )


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
