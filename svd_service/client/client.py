"""Python client for the HTTP API: submit an image, follow its job, download the video."""

import contextlib
import functools
import ipaddress
import json
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack
from urllib.parse import quote, urlsplit

import httpx2

from svd_service import __version__
from svd_service.client.errors import (
    AnswerError,
    JobEndedError,
    UnreachableError,
    WaitTimeoutError,
    error_of,
)
from svd_service.client.events import Event, read_events
from svd_service.client.status import JobStatus
from svd_service.parameters import Format, Parameters
from svd_service.retry import Retry, pauses

#: Statuses of a service that is restarting, or of a proxy in front of it.
_AWAY: Final = frozenset({502, 503, 504})
#: Pauses between retries: seconds of the first, growth and random spread. The same for polling, up to `_POLL_EVERY`.
_FIRST_PAUSE, _GROWTH, _JITTER = 0.2, 1.5, 0.1
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
    has its own `Idempotency-Key`, so that it creates one job however often it is sent.

    Args:
        base_url: such as `http://127.0.0.1:8000`; `127.0.0.1:8000` is the same.
        api_key: sent as a bearer token.
        timeout: maximum seconds without data within one request.
        patience: seconds for which a request is retried.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, *, timeout: float = 30.0, patience: float = 60.0
    ) -> None:
        self.base_url = (base_url if "://" in base_url else f"http://{base_url}").rstrip("/")
        self._patience = patience
        headers = {"User-Agent": f"svd-service/{__version__}"}
        if api_key:
            headers["Authorization"] = f"Bearer {api_key}"
        # A proxy from the environment cannot be used to reach this machine.
        self._http = httpx2.Client(headers=headers, timeout=timeout, trust_env=not _is_loopback(self.base_url))

    @_renamed("picture", "image")  # for one release
    def submit(self, image: str | PathLike[str] | bytes | None = None, **parameters: Unpack[Parameters]) -> JobStatus:
        """Send an image (a path, or a file's bytes), or the id of a finished job as `extend`; returns the new job.

        Raises:
            OSError: the file cannot be read.
            RefusedError: the image or a parameter is invalid, or there is neither an image nor `extend`.
            UnknownJobError, NotReadyError, ExpiredError: the job to be extended has no video.
            LimitedError: too many jobs are queued, or requests too frequent; submissions are not retried then.
            UnreachableError, UnavailableError: for longer than the client's patience; the job may have been created.
        """
        files = {} if image is None else {"image": _file(image)}
        form = {key: _text(value) for key, value in parameters.items() if value is not None}
        once = {"Idempotency-Key": str(uuid.uuid4())}
        # Not after 429: while the queue is full, the image must not be uploaded repeatedly.
        answer = self._retry(lambda: self._send("POST", "/generate", data=form, files=files, headers=once), _AWAY)
        return JobStatus.of(answer.json())

    def status(self, job_id: str) -> JobStatus:
        """Return the job's status.

        Raises:
            UnknownJobError: there is no such job.
            UnreachableError, UnavailableError: for longer than the client's patience.
        """
        return JobStatus.of(self._get(f"/status/{_word(job_id)}").json())

    def wait(
        self, job_id: str, on_status: Callable[[JobStatus], None] | None = None, timeout: float | None = None
    ) -> JobStatus:
        """Poll the job until it is finished, calling `on_status` each time; returns its last status.

        Raises:
            JobEndedError: it failed or was cancelled.
            WaitTimeoutError: it had not ended after `timeout` seconds.
            UnknownJobError, UnreachableError, UnavailableError: as `status` does.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        polling = pauses(_FIRST_PAUSE, _POLL_EVERY, factor=_GROWTH, jitter=_JITTER)
        while True:
            job = self.status(job_id)
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
                for event in self._events(f"/jobs/{_word(job_id)}/events", version):
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
        job = self.status(job_id)
        return job if job.ended else self.delete(job_id) or job

    def delete(self, job_id: str) -> JobStatus | None:
        """Cancel the job, or delete it and its video if it has ended; then it returns `None`.

        Raises:
            UnknownJobError, UnreachableError, UnavailableError: as `status` does.
        """
        answer = self._retry(lambda: self._send("DELETE", f"/jobs/{_word(job_id)}"))
        return None if answer.status_code == 204 else JobStatus.of(answer.json())

    def jobs(self, limit: int | None = None) -> Iterator[JobStatus]:
        """Yield the caller's jobs, newest first, at most `limit` of them.

        Raises:
            UnreachableError, UnavailableError: as `status` does.
        """
        path: str | None = f"/jobs?limit={min(limit or 100, 100)}"
        number = 0
        while path:
            page = self._get(path).json()
            for job in page["jobs"]:
                yield JobStatus.of(job)
                number += 1
                if number == limit:
                    return
            path = page["next"]

    def download(self, job_id: str, path: str | PathLike[str], *, kind: str | None = None) -> Path:
        """Download the job's video to `path`; an existing file is replaced when the download is complete.

        `kind` is `mp4` or one of the job's `formats`; by default the path's extension, if that is
        one of them, else `mp4`.

        Raises:
            MissingFormatError: the job was not submitted with this format.
            NotReadyError: the job has no video (yet).
            ExpiredError: the video has expired.
            OSError: the file cannot be written.
            UnknownJobError, UnreachableError, UnavailableError: as `status` does.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        kind = kind or format_of(target)
        ending = "" if kind == FORMATS[0] else f".{_word(kind)}"
        try:
            self._retry(lambda: self._stream_to(part, f"/results/{_word(job_id)}{ending}"))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def models(self) -> list[dict[str, Any]]:
        """Return the models that the service offers, the default first: name, description, defaults, bounds, profiles.

        Raises:
            UnreachableError, UnavailableError: as `status` does.
        """
        found: list[dict[str, Any]] = self._get("/models").json()["models"]
        return found

    def verify(self, file: str | PathLike[str] | bytes) -> dict[str, Any]:
        """Ask the service where a file (a path, or a file's bytes) comes from: its `verdict`, and what that rests on.

        Raises:
            OSError: the file cannot be read.
            RefusedError: it is too large, or its Content Credentials cannot be read within limits.
            UnreachableError, UnavailableError: as `status` does; or the service lacks the C2PA library (501).
        """
        found: dict[str, Any] = self._retry(lambda: self._send("POST", "/verify", files={"file": _file(file)})).json()
        return found

    def health(self) -> dict[str, Any]:
        """Return the service's health, even if it is unhealthy. Not retried.

        Raises:
            UnreachableError: the service cannot be reached.
            AnswerError: another server answers.
        """
        answer = self._request("GET", "/health")
        with contextlib.suppress(ValueError):
            health = answer.json()
            if isinstance(health, dict) and "status" in health:
                return health
        raise error_of(answer) if answer.is_error else AnswerError("this is not svd-service", answer.status_code)

    def call(self, method: str, path: str, **form: object) -> Any:
        """Send a request to a route that has no method here, such as the operators'; returns its JSON, or `None`.

        `form` is the query of a GET; fields that are `None` or empty are left out.

        Raises:
            ClientError: the service cannot be reached, or answers an error.
        """
        given = {name: str(value) for name, value in form.items() if value is not None and value != ""}
        content: dict[str, Any] = {"params": given} if method == "GET" else {"data": given}
        answer = self._retry(lambda: self._send(method, path, **content))
        return answer.json() if answer.content else None

    def close(self) -> None:
        """Close the connections; the client cannot be used afterwards."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str) -> httpx2.Response:
        return self._retry(lambda: self._send("GET", path))

    def _send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        answer = self._request(method, path, **content)
        if not answer.is_success:
            raise error_of(answer)
        return answer

    def _request(self, method: str, path: str, **content: Any) -> httpx2.Response:
        with self._named_errors():
            return self._http.request(method, self.base_url + path, **content)

    def _events(self, path: str, last_id: str) -> Iterator[Event]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        with self._named_errors(), self._http.stream("GET", self.base_url + path, headers=headers) as answer:
            if not answer.is_success:
                answer.read()
                raise error_of(answer)
            yield from read_events(answer.iter_lines())

    def _stream_to(self, part: Path, path: str) -> httpx2.Response:
        # The service may redirect to its store. The API key is not sent there.
        reading = self._http.stream("GET", self.base_url + path, follow_redirects=True)
        with self._named_errors(), reading as answer:
            if not answer.is_success:
                answer.read()
                raise error_of(answer)
            with part.open("wb") as file:
                for block in answer.iter_bytes():
                    file.write(block)
        return answer

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.RequestError, httpx2.InvalidURL) as error:
            raise UnreachableError(f"{self.base_url}: {str(error) or type(error).__name__}") from error

    def _retry(
        self, request: Callable[[], httpx2.Response], statuses: frozenset[int] = _AWAY | {429}
    ) -> httpx2.Response:
        """Return the response to `request`, retried while the service is unreachable or answers one of `statuses`."""
        retry = Retry(
            (UnreachableError, AnswerError),
            self._patience,
            first_pause=_FIRST_PAUSE,
            factor=_GROWTH,
            jitter=_JITTER,
            is_worthwhile=lambda error: _may_pass(error, statuses),
        )
        return retry(request)


def _may_pass(error: Exception, statuses: frozenset[int]) -> bool:
    if isinstance(error, AnswerError):
        return error.status_code in statuses
    hopeless = (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects)
    return not isinstance(error.__cause__, hopeless)


def format_of(path: Path) -> str:
    """Return the format of a file's extension; `mp4` if it has none."""
    ending = path.suffix.lower().removeprefix(".")
    return ending if ending in FORMATS else FORMATS[0]


def _file(image: str | PathLike[str] | bytes) -> tuple[str, bytes]:
    """Return the name and the content of an image."""
    return ("image", image) if isinstance(image, bytes) else (Path(image).name, Path(image).read_bytes())


def _text(value: object) -> str:
    """Return a parameter as a form field."""
    return ",".join(value) if isinstance(value, (list, tuple)) else str(value)


def _word(job_id: str) -> str:
    return quote(job_id, safe="")


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
