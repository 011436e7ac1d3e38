"""The shape of Stability's errors: `{"id", "name", "errors"}`."""

from http import HTTPStatus
from typing import Final
from uuid import uuid4

from flask import Response, g, jsonify

from svd_service.api.problem import Problem
from svd_service.api.stability.schema import StabilityError

#: Names of Stability's own; all others are called as HTTP calls them.
_NAMES: Final = {
    413: "payload_too_large",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    500: "internal_error",
}


def request_id() -> str:
    """The present request's id, made up when it is first asked for."""
    if "request_id" not in g:
        g.request_id = uuid4().hex
    return str(g.request_id)


def shape(problem: Problem) -> Response:
    """`problem` in Stability's words."""
    name = _NAMES.get(problem.status) or HTTPStatus(problem.status).phrase.lower().replace(" ", "_")
    response = jsonify(StabilityError(request_id(), name, [problem.message]))
    response.headers["x-request-id"] = request_id()
    return response
