"""The errors of the client, as one tree.

ClientError
├── InvalidKeyError        the API key cannot be sent
├── UnreachableError       cannot connect to that address
├── AnswerError            the service answered, with an error; or another server answered
│   ├── RejectedError      the submission is invalid (400, 413, 415, 422 …); `parameter` may name the reason
│   ├── UnauthorizedError  no API key, or an invalid one (401)
│   ├── LimitedError       too many requests, or too many queued jobs (429)
│   ├── UnknownJobError    no such job (404)
│   ├── MissingFormatError the job was not submitted with this format (404)
│   ├── NotReadyError      the job has no result (409)
│   ├── ExpiredError       the result has expired (410)
│   └── UnavailableError   the service is unavailable (5xx); retry later
├── JobEndedError          the job ended without a video
└── WaitTimeoutError       the job did not end within the timeout; it continues
"""

import re
from typing import Any, Self, TypeAlias

import httpx2

from svd_service.client.status import JobStatus

#: What pickle makes an error from: its class, the constructor's arguments, and attributes such as its notes.
_Reduced: TypeAlias = tuple[type[Exception], tuple[object, ...], dict[str, object]]


class ClientError(Exception):
    """Root of the tree."""


class InvalidKeyError(ClientError):
    """The API key cannot be sent. The message does not show it."""


class UnreachableError(ClientError):
    """Cannot connect to that address; or it, a proxy or certificates that environment variables name, are invalid."""


class AnswerError(ClientError):
    """The service answered with an error, whose message this is; or another server answered in another form.

    Attributes:
        status_code: HTTP status.
        code: the service's stable, machine-readable code, or "" if a proxy answered instead.
        parameter: name of the invalid parameter, if any.
        job_state: state of the job, if the error is about one (409 and 410).
        retry_after: seconds after which the service expects a retry to succeed, if it names them.
    """

    def __init__(
        self,
        message: str,
        status_code: int,
        code: str = "",
        parameter: str | None = None,
        job_state: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.code = code
        self.parameter = parameter
        self.job_state = job_state
        self.retry_after = retry_after

    def __reduce__(self) -> _Reduced:
        given = (str(self), self.status_code, self.code, self.parameter, self.job_state, self.retry_after)
        return type(self), given, self.__dict__

    @classmethod
    def of(cls, answer: httpx2.Response) -> Self:
        """Return the error in `answer`; its body must have been read."""
        body = _error_of(answer)
        message = str(body.get("message") or f"{answer.status_code} {answer.reason_phrase}".strip())
        return cls(
            message,
            status_code=answer.status_code,
            code=str(body.get("code", "")),
            parameter=body.get("parameter"),
            job_state=body.get("status"),
            retry_after=_seconds(answer.headers.get("Retry-After", "")),
        )


class RejectedError(AnswerError):
    """The submission is invalid."""


class UnauthorizedError(AnswerError):
    """The request has no API key, or an invalid one."""


class LimitedError(AnswerError):
    """Too many requests, or too many queued jobs, until the client's retries ended."""


class UnknownJobError(AnswerError):
    """There is no such job."""


class MissingFormatError(AnswerError):
    """The job was not submitted with this format; the message names those that exist."""


class NotReadyError(AnswerError):
    """The job has no result (yet); see `job_state`."""


class ExpiredError(AnswerError):
    """The result has expired."""


class UnavailableError(AnswerError):
    """The service is unavailable."""


class JobEndedError(ClientError):
    """The job ended without a video: it failed or was cancelled. `job` is its last status."""

    def __init__(self, job: JobStatus) -> None:
        super().__init__(f"{job.state}: {job.error_message}" if job.error_message else job.state)
        self.job = job

    def __reduce__(self) -> _Reduced:
        return type(self), (self.job,), self.__dict__


class WaitTimeoutError(ClientError):
    """The job did not end within the timeout. `job` is its last status; it continues."""

    def __init__(self, job: JobStatus) -> None:
        super().__init__(f"job {job.id} is still {job.state}")
        self.job = job

    def __reduce__(self) -> _Reduced:
        return type(self), (self.job,), self.__dict__


_BY_STATUS: dict[int, type[AnswerError]] = {
    401: UnauthorizedError,
    404: UnknownJobError,
    409: NotReadyError,
    410: ExpiredError,
    429: LimitedError,
}
_BY_CODE: dict[str, type[AnswerError]] = {"format_not_made": MissingFormatError}


def error_of(answer: httpx2.Response) -> AnswerError:
    """Return the error for an unsuccessful response."""
    code = str(_error_of(answer).get("code", ""))
    kind = _BY_CODE.get(code) or _BY_STATUS.get(answer.status_code)
    if kind is None:
        kind = UnavailableError if answer.status_code >= 500 else RejectedError
    return kind.of(answer)


def _seconds(retry_after: str) -> int | None:
    """Seconds of a `Retry-After`; `None` without one, or if it is a date."""
    return int(retry_after) if re.fullmatch("[0-9]{1,9}", retry_after) else None


def _error_of(answer: httpx2.Response) -> dict[str, Any]:
    """`error` of the service's error shape, with the job's state; empty if the body has another shape."""
    try:
        body = answer.json()
    except ValueError:
        return {}
    if not isinstance(body, dict) or not isinstance(body.get("error"), dict):
        return {}
    return {**body["error"], "status": body.get("status")}
