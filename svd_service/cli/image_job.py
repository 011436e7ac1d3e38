"""One image, or one video to be extended, and its job, as `svd-service generate` processes it."""

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
    RefusedError,
    UnauthorizedError,
    UnknownJobError,
)
from svd_service.client.status import JobStatus
from svd_service.parameters import Parameters


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

    def submit(self, client: Client, parameters: Parameters) -> None:
        """Send the image; the job to be extended is one of the parameters."""
        image = None if isinstance(self.source, str) else self.source
        try:
            self.job = client.submit(image, **parameters)
        except UnauthorizedError:
            raise
        except RefusedError as error:
            if error.parameter:  # the same for every image
                raise
            self._end(str(error))
        except (AnswerError, OSError) as error:
            self._end(str(error))

    def look(self, client: Client) -> None:
        """Update the status, and download the video if there is one."""
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
        """Cancel a job that has not ended."""
        if self.job is None or self.done:
            return
        self.job = client.cancel(self.job.id)
        self._end("cancelled" if self.job.state != "finished" else "finished, but not downloaded")

    def to_dict(self) -> dict[str, Any]:
        """Return the dictionary that `--json` prints."""
        return {
            "image": None if isinstance(self.source, str) else str(self.source),
            "video": str(self.target) if self.done and self.error is None else None,
            "error": self.error,
            "job": self.job.raw if self.job else None,
        }

    def _end(self, error: str | None) -> None:
        self.error, self.done = error, True
