"""Groups: several videos of one image, submitted, followed and cancelled together."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, Self, Unpack

from svd_service.client.status import ENDED, JobStatus
from svd_service.client.transport import Transport, form_of, read, word
from svd_service.parameters import RequestParameters

#: Seconds between two polls.
_POLL_EVERY: Final = 1.0


@dataclass(frozen=True)
class GroupStatus:
    """A group at one moment.

    Attributes:
        id: the group's id.
        state: `queued`, `started`, or the worst of the states in which its jobs ended.
        jobs: the jobs, without deleted ones.
        fraction: share of the work that is done, 0 to 1.
        eta_seconds: estimated seconds until the last job ends, if the service has an estimate.
        raw: the service's complete response, including fields that are newer than this client.
    """

    id: str
    state: str
    jobs: list[JobStatus]
    fraction: float
    eta_seconds: float | None
    raw: dict[str, Any]

    @property
    def ended(self) -> bool:
        """Whether all jobs have ended."""
        return self.state in ENDED

    @classmethod
    def of(cls, raw: dict[str, Any]) -> Self:
        """Parse the service's response to a submission or a status request."""
        jobs = [JobStatus.of(job) for job in raw["jobs"]]
        return cls(raw["group_id"], raw["status"], jobs, raw.get("progress", 0.0), raw.get("eta_seconds"), raw)


class Groups:
    """The groups of a client's service. Every method raises `UnreachableError` or `UnavailableError` if the service
    cannot be reached for longer than the client's patience.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def submit(
        self,
        image: str | PathLike[str] | bytes,
        *,
        n: int | None = None,
        seeds: Sequence[int] | None = None,
        cancel_after: int | None = None,
        idempotency_key: str | None = None,
        **parameters: Unpack[RequestParameters],
    ) -> GroupStatus:
        """Send an image (a path, or a file's bytes); returns a group of `n` jobs, or of one for each of the `seeds`.

        Jobs that have not ended `cancel_after` seconds after the submission fail with the code `deadline_exceeded`.
        The same submission with the same `idempotency_key` returns the same group.

        Raises:
            ValueError: neither `n` above 1 nor `seeds` is given.
            OSError: the file cannot be read.
            RejectedError: the image or a parameter is invalid.
            LimitedError: the queue has no room for all jobs, or requests too frequent; no job was accepted.
        """
        if seeds is None and (n or 1) < 2:
            raise ValueError("a group needs n of at least 2, or seeds")
        form, files = form_of(image, parameters)
        if n is not None:
            form["n"] = str(n)
        if seeds is not None:
            form["seeds"] = ",".join(map(str, seeds))
        return read(self._transport.submit(form, files, cancel_after, idempotency_key), GroupStatus.of)

    def status(self, group_id: str) -> GroupStatus:
        """Return the group's status.

        Raises:
            UnknownJobError: there is no such group.
        """
        return read(self._transport.get(f"/groups/{word(group_id)}"), GroupStatus.of)

    def watch(self, group_id: str) -> Iterator[GroupStatus]:
        """Yield the group's status now and every second in which it changes, until all jobs have ended.

        Raises:
            UnknownJobError: there is no such group, or it was deleted meanwhile.
        """
        shown: dict[str, Any] = {}
        while True:
            group = self.status(group_id)
            if group.raw != shown:
                yield group
                shown = group.raw
            if group.ended:
                return
            time.sleep(_POLL_EVERY)

    def cancel(self, group_id: str) -> GroupStatus:
        """Cancel the jobs that have not ended.

        Raises:
            UnknownJobError: there is no such group.
        """
        answer = self._transport.cancel(f"/groups/{word(group_id)}")
        if answer is not None:
            return read(answer, GroupStatus.of)
        group = self.status(group_id)
        return group if group.ended else self.delete(group_id) or group

    def delete(self, group_id: str) -> GroupStatus | None:
        """Cancel the jobs, or delete them and their videos if all have ended; then it returns `None`.

        Raises:
            UnknownJobError: there is no such group.
        """
        answer = self._transport.retry(lambda: self._transport.send("DELETE", f"/groups/{word(group_id)}"))
        return None if answer.status_code == 204 else read(answer, GroupStatus.of)

    def contact_sheet(self, group_id: str, path: str | PathLike[str]) -> Path:
        """Download a JPEG with the finished videos side by side to `path`; an existing file is replaced at the end.

        Raises:
            NotReadyError: no job has finished.
            OSError: the file cannot be written.
        """
        return self._transport.download(f"/groups/{word(group_id)}/contact-sheet", Path(path))
