"""Python client for the HTTP API: submit an image, follow its job, download the video."""

import contextlib
import functools
import json
import time
import warnings
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack
from urllib.parse import urlsplit

from svd_service.client.errors import (
    AnswerError,
    JobEndedError,
    UnreachableError,
    WaitTimeoutError,
    error_of,
)
from svd_service.client.groups import Groups
from svd_service.client.status import JobStatus
from svd_service.client.transport import (
    FIRST_PAUSE,
    GROWTH,
    JITTER,
    Transport,
    file_of,
    form_of,
    read,
    word,
)
from svd_service.parameters import Format, RequestParameters
from svd_service.retry import pauses

#: Seconds between two polls, at most.
_POLL_EVERY: Final = 1.0

#: File formats of a video: always the first, the others where the parameter `formats` names them.
FORMATS: Final = tuple(map(str, Format))

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def _renamed(old: str, new: str) -> Callable[[Callable[_Parameters, _Result]], Callable[_Parameters, _Result]]:
    """Make a method accept the keyword `old` for its argument `new`, with a warning."""

    def decorate(method: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        @functools.wraps(method)
        def renamed(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            if old in kwargs:
                warnings.warn(f"the argument {old} is deprecated: use {new}", DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return method(*args, **kwargs)

        return renamed

    return decorate


class Client:
    """A client of the service at `base_url`.

    While the service cannot be reached, or answers 502, 503 or 504, requests are retried for `patience` seconds, since
    it may be restarting. After 429 (too many requests) they are retried as well, except for submissions. A submission
    has its own `Idempotency-Key`, so that it creates one job however often it is sent. `groups` makes several videos of
    one image.

    Args:
        base_url: such as `http://127.0.0.1:8000`; `127.0.0.1:8000` is the same.
        api_key: sent as a bearer token, without surrounding whitespace.
        timeout: maximum seconds without data within one request.
        patience: seconds for which a request is retried.

    Raises:
        InvalidKeyError: the key has control or non-ASCII characters.
        UnreachableError: the address, or a proxy or certificates that environment variables name, are invalid.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0, patience: float = 60.0
    ) -> None:
        self._transport = Transport(base_url, api_key, timeout, patience)
        self.base_url = self._transport.base_url
        self.groups = Groups(self._transport)

    @_renamed("picture", "image")  # for one release
    def submit(
        self,
        image: str | PathLike[str] | bytes | None = None,
        *,
        cancel_after: int | None = None,
        idempotency_key: str | None = None,
        **parameters: Unpack[RequestParameters],
    ) -> JobStatus:
        """Send an image (a path, or a file's bytes), or the id of a finished job as `extend`; returns the new job.

        The job fails with the code `deadline_exceeded` unless it has ended `cancel_after` seconds after its submission.
        The same submission with the same `idempotency_key` (1 to 255 characters; by default a new one) returns the same
        job.

        Raises:
            OSError: the file cannot be read.
            RejectedError: the image or a parameter is invalid, or there is neither an image nor `extend`.
            UnknownJobError, NotReadyError, ExpiredError: the job to be extended has no video.
            LimitedError: too many jobs are queued, or requests too frequent; submissions are not retried then.
            UnreachableError, UnavailableError: for longer than the client's patience; the job may have been created.
        """
        form, files = form_of(image, parameters)
        return read(self._transport.submit(form, files, cancel_after, idempotency_key), JobStatus.of)

    def status(self, job_id: str) -> JobStatus:
        """Return the job's status.

        Raises:
            UnknownJobError: there is no such job.
            UnreachableError, UnavailableError: for longer than the client's patience.
        """
        return read(self._transport.get(f"/status/{word(job_id)}"), JobStatus.of)

    def wait(
        self, job_id: str, on_status: Callable[[JobStatus], None] | None = None, timeout: float | None = None
    ) -> JobStatus:
        """Poll the job until it is finished, calling `on_status` each time; returns its last status.

        Raises:
            JobEndedError: it failed or was cancelled.
            WaitTimeoutError: it had not ended after `timeout` seconds.
            UnknownJobError: there is no such job.
            UnreachableError, UnavailableError: for longer than the client's patience, or until the `timeout`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        polling = pauses(FIRST_PAUSE, _POLL_EVERY, factor=GROWTH, jitter=JITTER)
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            job = read(self._transport.get(f"/status/{word(job_id)}", within=left), JobStatus.of)
            if on_status is not None:
                on_status(job)
            if job.state in {"failed", "cancelled"}:
                raise JobEndedError(job)
            if job.ended:
                return job
            pause = next(polling)
            if deadline is not None and time.monotonic() + pause > deadline:
                raise WaitTimeoutError(job)
            time.sleep(pause)

    def watch(self, job_id: str) -> Iterator[JobStatus]:
        """Yield the job's status now and at every change, until it has ended.

        The service pushes it (server-sent events); if that fails, for example behind a proxy, the client polls.

        Raises:
            UnknownJobError: there is no such job, or it was deleted meanwhile.
            UnreachableError, UnavailableError: for longer than the client's patience.
        """
        version = ""
        while True:
            with contextlib.suppress(UnreachableError, AnswerError):
                for event in self._transport.events(f"/jobs/{word(job_id)}/events", version):
                    if event.name != "message":
                        break
                    version, job = event.id, JobStatus.of(json.loads(event.data))
                    yield job
                    if job.ended:
                        return
            job = self.status(job_id)
            yield job
            if job.ended:
                return
            time.sleep(_POLL_EVERY)

    def cancel(self, job_id: str) -> JobStatus:
        """Cancel the job: at once if it is queued, at its next step if it is started; if it has ended, leave it.

        Raises:
            UnknownJobError, UnreachableError, UnavailableError: as `status` does.
        """
        answer = self._transport.cancel(f"/jobs/{word(job_id)}")
        if answer is not None:
            return read(answer, JobStatus.of)
        job = self.status(job_id)
        return job if job.ended else self.delete(job_id) or job

    def delete(self, job_id: str) -> JobStatus | None:
        """Cancel the job, or delete it and its video if it has ended; then it returns `None`.

        Raises:
            UnknownJobError, UnreachableError, UnavailableError: as `status` does.
        """
        answer = self._transport.retry(lambda: self._transport.send("DELETE", f"/jobs/{word(job_id)}"))
        return None if answer.status_code == 204 else read(answer, JobStatus.of)

    def pin(self, job_id: str) -> JobStatus:
        """Keep a finished job's video beyond its retention, until it is unpinned or deleted.

        Raises:
            NotReadyError: the job has no video, or as many videos are pinned as one key may pin.
            ExpiredError: the video has expired.
            UnknownJobError, UnreachableError, UnavailableError: as `status` does.
        """
        return self._pinned("PUT", job_id)

    def unpin(self, job_id: str) -> JobStatus:
        """Apply the usual retention to a pinned video again; it is kept for at least ten more minutes.

        Raises:
            UnknownJobError, UnreachableError, UnavailableError: as `status` does.
        """
        return self._pinned("DELETE", job_id)

    def _pinned(self, method: str, job_id: str) -> JobStatus:
        answer = self._transport.retry(lambda: self._transport.send(method, f"/jobs/{word(job_id)}/pin"))
        return read(answer, JobStatus.of)

    def jobs(self, limit: int | None = None) -> Iterator[JobStatus]:
        """Yield the caller's jobs, newest first, at most `limit` of them.

        Raises:
            UnreachableError, UnavailableError: as `status` does.
        """
        path: str | None = f"/jobs?limit={min(limit or 100, 100)}"
        number = 0
        while path:
            jobs, path = read(self._transport.get(path), _page)
            for job in jobs:
                yield job
                number += 1
                if number == limit:
                    return

    def download(self, job_id: str, path: str | PathLike[str], *, kind: str | None = None) -> Path:
        """Download the job's video to `path`; an existing file is replaced when the download is complete.

        `kind` is `mp4` or one of the job's `formats`; by default the path's extension, if that is
        one of them, else `mp4`.

        Raises:
            MissingFormatError: the job was not submitted with this format.
            NotReadyError: the job has no video (yet).
            ExpiredError: the video has expired.
            OSError: the file cannot be written.
            AnswerError: another server answers, such as a proxy with its login page.
            UnknownJobError, UnreachableError, UnavailableError: as `status` does.
        """
        target = Path(path)
        kind = kind or format_of(target)
        ending = "" if kind == FORMATS[0] else f".{word(kind)}"
        return self._transport.download(f"/results/{word(job_id)}{ending}", target)

    def models(self) -> list[dict[str, Any]]:
        """Return the models that the service offers, the default first: name, description, defaults, bounds, profiles.

        Raises:
            UnreachableError, UnavailableError: as `status` does.
        """
        return read(self._transport.get("/models"), lambda answer: list(answer["models"]))

    def verify(self, file: str | PathLike[str] | bytes) -> dict[str, Any]:
        """Ask the service where a file (a path, or a file's bytes) comes from: its `verdict`, and what that rests on.

        Raises:
            OSError: the file cannot be read.
            RejectedError: it is too large, or its Content Credentials cannot be read within limits.
            UnreachableError, UnavailableError: as `status` does; or the service lacks the C2PA library (501).
        """
        files = {"file": file_of(file)}
        answer = self._transport.retry(lambda: self._transport.send("POST", "/verify", files=files))
        return read(answer, _verification)

    def health(self) -> dict[str, Any]:
        """Return the service's health, even if it is unhealthy. Not retried.

        Raises:
            UnreachableError: the service cannot be reached.
            AnswerError: another server answers.
        """
        answer = self._transport.request("GET", "/health")
        try:
            return read(answer, _health)
        except AnswerError as error:
            raise (error_of(answer) if answer.is_error else error) from None

    def call(self, method: str, path: str, *, parse: Callable[[Any], Any] = lambda found: found, **form: object) -> Any:
        """Send a request to a route that has no method here, such as the operators'.

        Returns what `parse` makes of its JSON, or of `None` if the response is empty; by default just that. If `parse`
        raises ValueError, TypeError, LookupError or AttributeError, another server answers.

        `form` is the query of a GET; fields that are `None` or empty are left out. A POST is not repeated after a lost
        response, since the service may have acted: only if it could not connect, or got 429 or 503 with `Retry-After`.

        Raises:
            ClientError: the service cannot be reached, or answers an error, or another server answers.
        """
        given = {name: str(value) for name, value in form.items() if value is not None and value != ""}
        content: dict[str, Any] = {"params": given} if method == "GET" else {"data": given}
        if method == "POST":
            answer = self._transport.act(path, **content)
        else:
            answer = self._transport.retry(lambda: self._transport.send(method, path, **content))
        return read(answer, parse)

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _page(answer: dict[str, Any]) -> tuple[list[JobStatus], str | None]:
    """Return the jobs of a page of the list, and the path of the next page."""
    jobs = [JobStatus.of(job) for job in answer["jobs"]]
    # Only its query: below a path (SVD_ROOT_PATH) it has the prefix that the base URL has already.
    return jobs, f"/jobs?{urlsplit(answer['next']).query}" if answer["next"] else None


def _health(answer: dict[str, Any]) -> dict[str, Any]:
    return {**answer, "status": answer["status"]}


def _verification(answer: dict[str, Any]) -> dict[str, Any]:
    if (credentials := answer["credentials"]) is not None:
        credentials = {**credentials, "statement": dict(credentials["statement"])}
        credentials["ingredients"] = list(credentials["ingredients"])
    return {**answer, "verdict": str(answer["verdict"]), "message": answer["message"], "credentials": credentials}


def format_of(path: Path) -> str:
    """Return the format of a file's extension; `mp4` if it has none."""
    ending = path.suffix.lower().removeprefix(".")
    return ending if ending in FORMATS else FORMATS[0]
