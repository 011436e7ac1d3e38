"""One image and its job, as `svd-service generate` handles it for each of its images."""

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
    UnauthorizedError,
    UnknownJobError,
)
from svd_service.client.status import JobStatus
from svd_service.parameters import Parameters


@dataclass
class ImageJob:
    """An image, the file that its video goes to, the `kind` of that file, and the state of its job.

    An invalid image or a failed job ends it with an `error`. If the service cannot be reached, or rejects the API key,
    that concerns all images and raises.
    """

    picture: Path
    target: Path
    kind: str = FORMATS[0]
    job: JobStatus | None = None
    error: str | None = None
    done: bool = False

    @property
    def fraction(self) -> float:
        """Fraction that is done, 0 to 1."""
        return self.job.fraction if self.job else 0.0

    @property
    def words(self) -> str:
        """The state, for a person."""
        if self.error is not None:
            return self.error
        return describe(self.job) if self.job else "waiting to be sent"

    def submit(self, client: Client, parameters: Parameters) -> None:
        """Send the image."""
        try:
            self.job = client.submit(self.picture, **parameters)
        except UnauthorizedError:
            raise
        except (AnswerError, OSError) as error:
            self._end(str(error))

    def look(self, client: Client) -> None:
        """Update the status, and download the video if the job has finished."""
        if self.job is None:
            return
        try:
            self.job = client.status(self.job.id)
            if self.job.state == "finished":
                client.download(self.job.id, self.target, kind=self.kind)
                self._end(None)
            elif self.job.ended:
                self._end(describe(self.job))
        except (UnknownJobError, MissingFormatError, NotReadyError, ExpiredError, OSError) as error:
            self._end(str(error))

    def cancel(self, client: Client) -> None:
        """Cancel the job, unless it has ended."""
        if self.job is None or self.done:
            return
        self.job = client.cancel(self.job.id)
        self._end("cancelled" if self.job.state != "finished" else "was finished, but not fetched")

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "picture": str(self.picture),
            "video": str(self.target) if self.done and self.error is None else None,
            "error": self.error,
            "job": self.job.told if self.job else None,
        }

    def _end(self, error: str | None) -> None:
        self.error, self.done = error, True
