"""Errors as HTTP responses: one table of statuses, in the shape of the dialect that the request's path belongs to.

The handlers are those of the application. Each dialect contributes only the shape of its errors.
"""

import errno
import logging
import math
from collections.abc import Mapping
from typing import Final

from flask import Flask, current_app, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from svd_service import errors
from svd_service.api.http.context import jobs
from svd_service.api.http.problem import Problem, Shape
from svd_service.api.native.errors import shape as native
from svd_service.artifacts.base import ArtifactsUnavailableError
from svd_service.jobs.job import State

logger = logging.getLogger(__name__)

#: The status of each error; a class that is not named has that of its nearest ancestor.
STATUSES: Final[dict[type[errors.JobError], int]] = {
    errors.RejectedError: 422,
    errors.MissingImageError: 400,
    errors.UnsupportedError: 400,
    errors.ImageSizeError: 400,
    errors.NotAnImageError: 415,
    errors.ImageTooLargeError: 413,
    errors.IdempotencyConflictError: 422,
    errors.UnreadableFileError: 422,
    errors.NotInstalledError: 501,
    errors.UnknownJobError: 404,
    errors.MissingFormatError: 404,
    errors.NoPreviewError: 404,
    errors.NotReadyError: 409,
    errors.ExpiredError: 410,
    errors.PinLimitError: 409,
    errors.UnauthorizedError: 401,
    errors.InvalidLinkError: 403,
    errors.ExpiredLinkError: 410,
    errors.ForbiddenError: 403,
    errors.NotAllowedError: 403,
    errors.MissingScopeError: 403,
    errors.NotRetryableError: 409,
    errors.UnknownKeyError: 404,
    errors.PausedError: 503,
    errors.LimitedError: 429,
    errors.UnavailableError: 503,
}


_UNREACHABLE: Final = "the service cannot reach a part of it right now; nothing is lost, try again"

#: The disk is full, or the quota of this user on it.
_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT}


def status_of(error: errors.JobError) -> int:
    """The HTTP status of `error`."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def headers_of(error: errors.JobError) -> dict[str, str]:
    """The headers that belong to `error` in every dialect: how to show a key, when to retry."""
    if isinstance(error, errors.UnauthorizedError):
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, errors.LimitedError):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, errors.NotReadyError):
        return retry_headers(error)
    if isinstance(error, errors.PausedError):
        return {"Retry-After": "60"}
    return {"Retry-After": "2"} if status_of(error) == 503 else {}


def retry_headers(error: errors.NotReadyError) -> dict[str, str]:
    """The `Retry-After` header, if a retry can succeed."""
    if State(error.state).ended:
        return {}
    return {"Retry-After": retry_after(error.eta_seconds)}


def retry_after(eta_seconds: float | None) -> str:
    """Whole seconds for `Retry-After`; five if there is no estimate."""
    return "5" if eta_seconds is None else str(max(1, math.ceil(eta_seconds)))


def install(app: Flask, shapes: Mapping[str, Shape]) -> None:
    """Let every error of `app` answer in its dialect's shape.

    `shapes` has them by the first part of a path, such as `v1`; all others are native.
    """
    app.extensions["error_shapes"] = dict(shapes)
    app.register_error_handler(errors.JobError, _present)
    app.register_error_handler(errors.RejectedError, _reject)
    for kind in (errors.QueueFullError, errors.QuotaExceededError, errors.NotAllowedError, errors.PausedError):
        app.register_error_handler(kind, _reject)
    app.register_error_handler(RequestEntityTooLarge, _too_large)
    app.register_error_handler(HTTPException, _present_http)
    app.register_error_handler(OSError, _no_room)


def answer(problem: Problem, headers: Mapping[str, str] | None = None) -> ResponseReturnValue:
    """`problem` in the shape of the current request's dialect."""
    first_part = request.path.split("/", 2)[1]
    shape: Shape = current_app.extensions["error_shapes"].get(first_part, native)
    response = shape(problem)
    # A dialect may have a status of its own for an error.
    status = problem.status if response.status_code == 200 else response.status_code
    return response, status, dict(headers or {})


def _present(error: errors.JobError) -> ResponseReturnValue:
    status = status_of(error)
    problem = Problem(
        status,
        error.code,
        # Its cause names hosts and folders: that is for the log.
        _UNREACHABLE if type(error) in {errors.UnavailableError, ArtifactsUnavailableError} else str(error),
        parameter=getattr(error, "parameter", ""),
        job_status="expired" if isinstance(error, errors.ExpiredError) else getattr(error, "state", ""),
    )
    if problem.status == 503:
        logger.warning("%s %s: %s", request.method, request.path, error)
    return answer(problem, headers_of(error))


def _reject(error: errors.JobError) -> ResponseReturnValue:
    # A submission, neither a question nor an operator's act.
    if request.method == "POST" and not request.path.startswith("/admin/"):
        jobs().submit.count_rejected(error)
    return _present(error)


def _no_room(error: OSError) -> ResponseReturnValue:
    """An upload is kept in a temporary file while it is read."""
    if error.errno not in _NO_ROOM:
        raise error
    logger.error("%s %s: %s", request.method, request.path, error)
    return answer(Problem(503, "no_space", "the service has no room for the request right now"), {"Retry-After": "30"})


def _too_large(_: RequestEntityTooLarge) -> ResponseReturnValue:
    return _reject(
        errors.ImageTooLargeError(
            f"the request is larger than the {jobs().settings.max_upload_bytes / 1e6:g} MB that an upload may have"
        )
    )


def _present_http(error: HTTPException) -> ResponseReturnValue:
    response = error.get_response()
    headers = {
        name: value for name, value in response.headers.items() if name not in {"Content-Type", "Content-Length"}
    }
    code = error.name.lower().replace(" ", "_")
    message = f"{request.method} {request.path}: {error.description or error.name}"
    return answer(Problem(response.status_code, code, message), headers)
