"""One picture's way through the service, as the command line runs it for each of several."""

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
class Errand:
    """Where a picture comes from, where its video goes and as what `kind` of file, and what became of it so far.

    What is wrong with this picture or its job ends the errand with an `error`. A service that cannot be reached, or
    that asks for another key, is everybody's trouble and raises.
    """

    picture: Path
    target: Path
    kind: str = FORMATS[0]
    job: JobStatus | None = None
    error: str | None = None
    done: bool = False

    @property
    def fraction(self) -> float:
        """Share of the way that is done, 0 to 1."""
        return self.job.fraction if self.job else 0.0

    @property
    def words(self) -> str:
        """Where it stands, for a person."""
        if self.error is not None:
            return self.error
        return describe(self.job) if self.job else "waiting to be sent"

    def submit(self, client: Client, parameters: Parameters) -> None:
        """Send the picture."""
        try:
            self.job = client.submit(self.picture, **parameters)
        except UnauthorizedError:
            raise
        except (AnswerError, OSError) as error:
            self._end(str(error))

    def look(self, client: Client) -> None:
        """See how far the job is, and fetch the video if there is one."""
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
        """Give up: a job that has not ended is cancelled."""
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
